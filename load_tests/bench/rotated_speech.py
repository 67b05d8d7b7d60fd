"""Streams that say the same utterances, each beginning with another one.

So one stream alone and fifty at a time have the same words to get wrong, and a difference in their
word error rates is the load's doing: each utterance comes with its own noise, and begins on the
grid of voice activity, since a weak checkpoint hears other words where either moves. Held-out
synthetic voices, but accents and forms of sentences that the reference checkpoint of
whisper-tiny's shape was trained on: what it never learned says nothing about a server. No strings
of digits. Two people never speak at once.
"""

import re
from dataclasses import dataclass
from functools import cache
from random import Random
from typing import TYPE_CHECKING

import numpy as np

from load_tests.bench.speech import (
    NOISE_RMS,
    PAUSE_IN_TURN_S,
    PAUSE_S,
    SENTENCES,
    Recording,
    SaidWord,
    pcm,
)
from streaming.engines import ACTIVITY_FRAME_SAMPLES, Samples
from streaming.timeline import SAMPLE_RATE_HZ, Span, samples_from_seconds

if TYPE_CHECKING:
    from tools.conversation_talkers import SyntheticTalker

ACCENTS = ("en-us", "en-gb-scotland", "en-us-nyc")
VARIANTS = ("m7", "f5")
UNKNOWN_FORMS = re.compile(
    r"The code for|My number is|When can we|[Tt]he (meeting|team|plan)\b| today\b"
)
"""What ``tools.demo_whisper.sentences`` says beyond that, and digits."""
REST_S = 1.5
"""Quiet behind the last utterance, so that its end is heard as the others' are."""


class NoVoices(Exception):
    """What the speech is made with is not here; the message says what to install."""


@dataclass(frozen=True, slots=True)
class Utterance:
    """A pause, then one person's sentences; spans are in samples from the pause's beginning."""

    samples: Samples
    words: tuple[SaidWord, ...]

    @property
    def speech_samples(self) -> int:
        return self.words[-1].span.end - self.words[0].span.start


@cache
def utterances_of(seconds: float, seed: int) -> tuple[Utterance, ...]:
    """So many that they last ``seconds``, pauses included. Raises: NoVoices."""
    try:
        from tools.conversation_talkers import SyntheticTalker
        from tools.demo_whisper.synthesis import SynthesisError, Synthesizer, Voice
    except ImportError:  # an installed package has no tools
        raise NoVoices("speech is made by tools/, which only the source tree has") from None
    rng, made, at = Random(seed), list[Utterance](), 0.0
    try:
        synthesizer = Synthesizer()
        talkers = [
            SyntheticTalker(
                f"{variant}_{accent}",
                Voice(accent, variant, rng.randint(140, 190), rng.randint(30, 70), 50),
                synthesizer,
            )
            for accent in ACCENTS
            for variant in VARIANTS
        ]
        while at < seconds - REST_S:
            made.append(_utterance(rng, talkers[len(made) % len(talkers)]))
            at += len(made[-1].samples) / SAMPLE_RATE_HZ
    except (SynthesisError, OSError) as error:
        raise NoVoices(f"espeak-ng speaks here, and it cannot: {error}") from None
    return tuple(made)


def rotated(seconds: float, streams: int, seed: int) -> tuple[Recording, ...]:
    """One recording a stream. Raises: NoVoices."""
    pieces = utterances_of(seconds, seed)
    return tuple(_recording(pieces, number, streams) for number in range(streams))


def speech_seconds(seconds: float, seed: int) -> float:
    """Of each stream: from each utterance's first word to its last."""
    return sum(piece.speech_samples for piece in utterances_of(seconds, seed)) / SAMPLE_RATE_HZ


def _utterance(rng: Random, talker: "SyntheticTalker") -> Utterance:
    parts: list[Samples] = []
    words: list[SaidWord] = []
    at = 0
    for number in range(rng.randint(*SENTENCES)):
        pause = np.zeros(
            round(rng.uniform(*(PAUSE_IN_TURN_S if number else PAUSE_S)) * SAMPLE_RATE_HZ)
        )
        said = talker.speak(rng)
        while UNKNOWN_FORMS.search(" ".join(word.text for word in said.words)):
            said = talker.speak(rng)
        at += len(pause)
        words += [
            SaidWord(
                word.text,
                Span(samples_from_seconds(word.start_s), samples_from_seconds(word.end_s)).shifted(
                    at
                ),
            )
            for word in said.words
        ]
        at += len(said.samples)
        parts += [pcm(pause), pcm(said.samples)]
    parts.append(np.zeros(-sum(map(len, parts)) % ACTIVITY_FRAME_SAMPLES, np.int16))
    samples = np.concatenate(parts)
    return Utterance(_noisy(samples, seed=len(samples)), tuple(words))


def _noisy(samples: Samples, *, seed: int) -> Samples:
    noise = np.random.default_rng(seed).normal(0, NOISE_RMS * 32_768, len(samples))
    return np.clip(samples + np.round(noise), -32_768, 32_767).astype(np.int16)


def _recording(pieces: tuple[Utterance, ...], number: int, streams: int) -> Recording:
    first = number * len(pieces) // streams
    at, words = 0, list[SaidWord]()
    turned = pieces[first:] + pieces[:first]
    for piece in turned:
        words += [SaidWord(word.text, word.span.shifted(at)) for word in piece.words]
        at += len(piece.samples)
    rest = _noisy(np.zeros(round(REST_S * SAMPLE_RATE_HZ), np.int16), seed=0)
    samples = np.concatenate([*(piece.samples for piece in turned), rest])
    return Recording(f"stream-{number}", samples, tuple(words))
