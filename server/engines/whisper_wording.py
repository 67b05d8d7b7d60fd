"""From a finished transcript to words, and to what the guards think of them.

Owns which attention rows tell when a token was spoken, what the guards are told, and which of
several attempts at a window is taken. Knows nothing of batches and passes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from server.engines.whisper_alignment import token_starts
from server.engines.whisper_greedy import Transcript
from server.engines.whisper_tokens import SpecialTokens
from server.engines.whisper_words import place_words, split_words
from streaming.engines import DecodingFigures, SpeechWindow, Word
from streaming.guards import Evidence, Guard, fired, loud_spans


@dataclass(frozen=True, slots=True)
class Decoded:
    """One window, decoded and put into words."""

    window: SpeechWindow
    transcript: Transcript
    language: str | None
    language_probability: float | None
    words: tuple[Word, ...]
    guards: tuple[Guard, ...]
    temperature: float = 0.0

    @property
    def mean_log_probability(self) -> float:
        found = self.transcript.log_probabilities
        return float(np.mean(found)) if found else 0.0

    @property
    def figures(self) -> DecodingFigures:
        """As openai/whisper counts them."""
        found = [*self.transcript.log_probabilities]
        if self.transcript.end_log_probability is not None:
            found.append(self.transcript.end_log_probability)
        mean = float(np.mean(found)) if found else 0.0
        no_speech = self.transcript.no_speech_probability
        return DecodingFigures(mean, no_speech, self.temperature)


class Wording:
    """How one checkpoint's transcripts become words."""

    def __init__(
        self, tokenizer: Any, ids: SpecialTokens, *, row_shift: int, is_guarded: bool
    ) -> None:
        """``row_shift`` is 1 where the alignment heads look at the token that was just fed, and 0
        where they look at the one that is being predicted."""
        self._tokenizer = tokenizer
        self._ids = ids
        self._row_shift = row_shift
        self._is_guarded = is_guarded

    def worded(
        self,
        window: SpeechWindow,
        transcript: Transcript,
        language: str | None,
        language_probability: float | None,
        *,
        prompted: bool = True,
    ) -> Decoded:
        """Words with the verdict of the guards; not ``prompted`` was decoded without its prompt."""
        words = self._words(window, transcript, language)
        text = [
            log_probability
            for token, log_probability in zip(
                transcript.tokens, transcript.log_probabilities, strict=True
            )
            if self._ids.is_text(token)
        ]
        if transcript.end_log_probability is not None:
            text.append(transcript.end_log_probability)
        evidence = Evidence(
            speech=loud_spans(window.samples),
            has_ended=not transcript.is_cut,
            no_speech_probability=transcript.no_speech_probability,
            mean_log_probability=float(np.mean(text)) if text else 0.0,
            prompt=window.prompt if prompted else None,
            keywords=window.keywords if prompted else (),
        )
        guards = fired(words, evidence) if self._is_guarded else ()
        return Decoded(window, transcript, language, language_probability, words, guards)

    def _words(
        self, window: SpeechWindow, transcript: Transcript, language: str | None
    ) -> tuple[Word, ...]:
        text = [n for n, token in enumerate(transcript.tokens) if self._ids.is_text(token)]
        if not text:
            return ()
        tokens = [transcript.tokens[index] for index in text]
        scores = np.array([transcript.log_probabilities[index] for index in text], np.float32)
        pieces = split_words(tokens, self._decode_text, language)
        bounds = self._bounds(transcript)[text]
        return place_words(pieces, bounds, scores, len(window.samples), language)

    def _bounds(self, transcript: Transcript) -> NDArray[np.int64]:
        """Where each token starts and ends, shape (tokens, 2), in positions."""
        attention = transcript.attention[:, self._row_shift :]
        starts = token_starts(attention) if attention.size else np.zeros(0, np.int64)
        end = transcript.attention.shape[2]
        if transcript.tokens[-1] >= self._ids.first_timestamp:
            end = min(end, transcript.tokens[-1] - self._ids.first_timestamp)
        # A token that was not fed has no row of its own: it is the last, and the window's end.
        missing = len(transcript.tokens) + 1 - len(starts)
        filled = np.concatenate([starts, np.full(max(0, missing), end)])
        edges = np.maximum.accumulate(filled[: len(transcript.tokens) + 1])
        return np.stack([edges[:-1], edges[1:]], axis=1)

    def _decode_text(self, tokens: Sequence[int]) -> str:
        text: str = self._tokenizer.decode(tokens, clean_up_tokenization_spaces=False)
        return text


def wants_retry(tried: list[Decoded], *, is_first: bool) -> bool:
    """First without the prompt that was echoed; then hotter, until a guard is content."""
    if is_first:
        return Guard.PROMPT_ECHO in tried[0].guards
    return bool({Guard.REPETITION, Guard.COVERAGE}.intersection(tried[-1].guards))


def best_of(tried: list[Decoded]) -> Decoded:
    """The believable one, or the likeliest of those that are not; named are the guards that made
    it more than plain greedy decoding."""
    if len(tried) == 1:
        return tried[0]
    # An echo is the likeliest answer to its own prompt.
    found = tried[1:] if Guard.PROMPT_ECHO in tried[0].guards else tried
    believed = [one for one in found if not one.guards]
    best = believed[-1] if believed else max(found, key=lambda one: one.mean_log_probability)
    return replace(best, guards=tried[0].guards)
