"""Which answers of a speech recognizer are not to be believed.

Owns the rules that tell a hallucination from speech: each relates what was written to what the
audio can hold, so that honest repetition ("one one one two two two") passes although it compresses
as well as any loop. Decides nothing else: whether to decode again, hotter or without a prompt, is
the engine's business. Spans are samples from the start of the window.

Invariants: G1 a guard never fires on words at an honest pace inside speech from a decoder that
ended by itself and is sure; G2 every rule is a pure function of its arguments.
"""

import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from streaming.agreement import normalized
from streaming.engines import ACTIVITY_FRAME_SAMPLES, Samples, Word
from streaming.timeline import SAMPLE_RATE_HZ, SAMPLES_PER_MS, Span

COMPRESSION_RATIO_MAX = 2.4
"""Bytes over bytes after zlib; the bound of openai/whisper. Here it is a suspicion, no proof."""
SUSPICIOUS_REPEATS = 3
"""A phrase this often, back to back, is looked at."""
PHRASE_WORDS_MAX = 24
"""A longer sentence said twice is left to the compression ratio."""
WORDS_PER_SECOND_MAX = 8.0
"""Digits and syllables as fast as a trained speaker says them; debaters reach 6 words."""
CHARACTERS_PER_SECOND_MAX = 35.0
"""The same for text without spaces; fast English and German stay under 25."""
WORD_SAMPLES_MIN = 60 * SAMPLES_PER_MS
"""Half of a loop's words get less: the alignment finds no sound for them."""
SPEECH_SLACK_SAMPLES = 300 * SAMPLES_PER_MS
"""What voice activity may have missed at the edges of a phrase."""

UNWORDED_SAMPLES_MAX = 2 * SAMPLE_RATE_HZ
UNWORDED_SHARE_MAX = 0.5
"""Both together: two seconds of speech, and more than half of it, without a word."""
WORD_REACH_SAMPLES = 200 * SAMPLES_PER_MS
"""Spans of words are cut closer than those of voice activity."""

NO_SPEECH_PROBABILITY_MIN, LOG_PROBABILITY_MAX = 0.6, -1.0
"""Both must hold for a window to count as silent; the defaults of openai/whisper."""

ECHO_CONFIDENCE_MAX = 0.4
"""Mean over the words; said keywords measure 0.8 and more."""
ECHO_WORD_SAMPLES_MIN = 80 * SAMPLES_PER_MS
"""Speech that each word of a prompt must find in the audio to have been said."""

LOUD_RANGE_DB = 30.0
"""Speech stays within it of its loudest frame; a quiet room lies below."""
FLOOR_SHARE, FLOOR_RANGE_DB = 0.1, 6.0
"""Speech rises above the quietest tenth of its window; a steady noise does not."""
AUDIBLE_RMS = 32.0
"""-60 dB of full scale in int16: below it nothing was recorded but the converter."""


class Guard(StrEnum):
    """What kept words from being taken as they were decoded; ``Hypothesis.guards`` names them."""

    REPETITION = "repetition"
    PROMPT_ECHO = "prompt_echo"
    COVERAGE = "coverage"
    NO_SPEECH = "no_speech"


def named(names: Iterable[str]) -> set[Guard]:
    """The guards among ``names``; an engine's other words are not ours to count."""
    return {guard for guard in Guard if guard in set(names)}


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known of one decoded window beside its words."""

    speech: tuple[Span, ...]
    """Where the window holds speech, in order and apart; ``loud_spans`` where nobody else knows."""
    has_ended: bool = True
    """False where the decoder was stopped at its token limit."""
    no_speech_probability: float = 0.0
    mean_log_probability: float = 0.0
    """Of all text tokens and the end."""
    prompt: str | None = None
    keywords: tuple[str, ...] = ()


def fired(words: Sequence[Word], evidence: Evidence) -> tuple[Guard, ...]:
    """Every guard that the answer sets off; none for an answer that may be believed."""
    if is_silent(evidence):
        return (Guard.NO_SPEECH,) if words else ()
    # What the model takes for no speech is not covered on purpose: music, a crowd, a machine.
    is_heard_as_speech = evidence.no_speech_probability <= NO_SPEECH_PROBABILITY_MIN
    found = {
        Guard.REPETITION: is_loop(words, evidence.speech, has_ended=evidence.has_ended),
        Guard.PROMPT_ECHO: echoes_prompt(words, evidence),
        Guard.COVERAGE: is_heard_as_speech and leaves_speech_out(words, evidence.speech),
    }
    return tuple(guard for guard, is_fired in found.items() if is_fired)


def is_silent(evidence: Evidence) -> bool:
    """Whether the model itself takes the window for silence, and its words for a guess."""
    return (
        evidence.no_speech_probability > NO_SPEECH_PROBABILITY_MIN
        and evidence.mean_log_probability < LOG_PROBABILITY_MAX
    )


def is_loop(words: Sequence[Word], speech: Sequence[Span], *, has_ended: bool = True) -> bool:
    """Whether text that repeats itself is more than was said.

    What compresses well or repeats a phrase is suspicious. It is a loop only where the decoder ran
    into its limit, or the repeated words come faster than anybody speaks, in no time at all, or
    where nobody speaks.
    """
    passages = suspicious_passages(words)
    is_beyond_speech = any(not could_be_said(passage, speech) for passage in passages)
    return is_beyond_speech or (bool(passages) and not has_ended)


def suspicious_passages(words: Sequence[Word]) -> list[Sequence[Word]]:
    """The longest phrase said ``SUSPICIOUS_REPEATS`` times back to back, with all its repeats, and
    all words where their text compresses too well; either may be missing."""
    passages: list[Sequence[Word]] = []
    start, end = _longest_repetition([normalized(word.text) for word in words])
    if end > start:
        passages.append(words[start:end])
    if compression_ratio(_joined(words)) > COMPRESSION_RATIO_MAX:
        passages.append(words)
    return passages


def _longest_repetition(texts: Sequence[str]) -> tuple[int, int]:
    """First and end index of the longest repetition; an empty range where there is none.

    Cost: O(words * PHRASE_WORDS_MAX).
    """
    best = (0, 0)
    for period in range(1, min(PHRASE_WORDS_MAX, len(texts) // SUSPICIOUS_REPEATS) + 1):
        start = 0
        for index in range(period, len(texts) + 1):
            if index < len(texts) and texts[index] == texts[index - period]:
                continue
            length = index - start
            if length >= SUSPICIOUS_REPEATS * period and length > best[1] - best[0]:
                best = (start, index)
            start = index - period + 1
    return best


def compression_ratio(text: str) -> float:
    """Bytes of ``text`` over its bytes after zlib; 0 for no text."""
    raw = text.encode("utf-8", "replace")
    return len(raw) / len(zlib.compress(raw)) if raw else 0.0


def _joined(words: Sequence[Word]) -> str:
    return "".join(word.text if word.is_glued else f" {word.text}" for word in words).strip()


def could_be_said(words: Sequence[Word], speech: Sequence[Span]) -> bool:
    """Whether somebody could have said ``words`` in their spans and in the speech under them."""
    # Their own spans first: the alignment squeezes most of a loop into the end of one sound.
    if np.median([word.span.samples for word in words]) < WORD_SAMPLES_MIN:
        return False
    reach = Span(words[0].span.start, max(word.span.end for word in words))
    held = sum(reach.overlap_samples(span) for span in speech)
    heard_s = (held + SPEECH_SLACK_SAMPLES) / SAMPLE_RATE_HZ
    characters = sum(len(word.text) for word in words)
    spaced = sum(not word.is_glued for word in words)
    is_slow = spaced <= WORDS_PER_SECOND_MAX * heard_s
    return is_slow and characters <= CHARACTERS_PER_SECOND_MAX * heard_s


def leaves_speech_out(words: Sequence[Word], speech: Sequence[Span]) -> bool:
    """Coverage: whether most of the speech got no word."""
    total = sum(span.samples for span in speech)
    unworded = total - sum(
        span.overlap_samples(worded) for worded in _worded_spans(words) for span in speech
    )
    return unworded > UNWORDED_SAMPLES_MAX and unworded > UNWORDED_SHARE_MAX * total


def _worded_spans(words: Sequence[Word]) -> list[Span]:
    """The union of the words' spans, each with its reach."""
    merged: list[Span] = []
    for word in sorted(words, key=lambda word: word.span.start):
        start = max(0, word.span.start - WORD_REACH_SAMPLES)
        end = word.span.end + WORD_REACH_SAMPLES
        if merged and start <= merged[-1].end:
            merged[-1] = Span(merged[-1].start, max(merged[-1].end, end))
        else:
            merged.append(Span(start, end))
    return merged


def echoes_prompt(words: Sequence[Word], evidence: Evidence) -> bool:
    """Whether the words only repeat the prompt or the keywords, and the audio does not hold them.

    Decoding again without prompt and keywords tells for certain: what was said comes back.
    """
    texts = _plain(_joined(words))
    return bool(texts) and _is_prompted(texts, evidence) and not _is_heard(words, evidence)


def _is_prompted(texts: Sequence[str], evidence: Evidence) -> bool:
    """Whether ``texts`` are words of the keywords, or stand side by side in the prompt."""
    keywords = _plain(" ".join(evidence.keywords))
    prompt = _plain(evidence.prompt or "")
    places = range(len(prompt) - len(texts) + 1)
    return set(texts) <= set(keywords) or any(prompt[i : i + len(texts)] == texts for i in places)


def _plain(text: str) -> list[str]:
    """Words without case and punctuation."""
    return [normalized(piece) for piece in text.split()]


def _is_heard(words: Sequence[Word], evidence: Evidence) -> bool:
    if evidence.no_speech_probability > NO_SPEECH_PROBABILITY_MIN:
        return False
    known = [word.confidence for word in words if word.confidence is not None]
    if known and sum(known) / len(known) < ECHO_CONFIDENCE_MAX:
        return False
    speech_samples = sum(span.samples for span in evidence.speech)
    return speech_samples >= ECHO_WORD_SAMPLES_MIN * len(words)


def loud_spans(samples: Samples) -> tuple[Span, ...]:
    """Where the window is about as loud as it gets, and louder than its own background: speech, for
    a window that voice activity let through. Frames of ``ACTIVITY_FRAME_SAMPLES``; the last one may
    be shorter."""
    starts = np.arange(0, len(samples), ACTIVITY_FRAME_SAMPLES)
    if not len(starts):
        return ()
    powers = np.add.reduceat(samples.astype(np.float64) ** 2, starts)
    lengths = np.diff(np.append(starts, len(samples)))
    loudness = np.sqrt(powers / lengths)
    floor = float(np.quantile(loudness, FLOOR_SHARE)) * 10 ** (FLOOR_RANGE_DB / 20)
    bound = max(AUDIBLE_RMS, floor, float(loudness.max()) / 10 ** (LOUD_RANGE_DB / 20))
    edges = np.flatnonzero(np.diff(loudness >= bound, prepend=False, append=False))
    ends = np.append(starts, len(samples))
    return tuple(Span(int(ends[a]), int(ends[b])) for a, b in edges.reshape(-1, 2))
