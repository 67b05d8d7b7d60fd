"""What each virtual user says and when: seeded, so that two runs speak the same samples.

A plan lists utterances of scripted words with pauses between them; audio is made from it packet
by packet, because hundreds of minutes of samples would not fit in memory. Pure.
Invariants: W1 a stream's samples depend on its workload, seed and number alone; W2 every word of
a plan lies wholly inside the stream's duration.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from streaming.engines import Samples
from streaming.scripted_audio import (
    CARRIER_SAMPLES,
    WORD_SAMPLES,
    encode_silence,
    encode_word,
    word_text,
)
from streaming.timeline import SAMPLE_RATE_HZ, samples_from_ms

MARGIN_SAMPLES = SAMPLE_RATE_HZ // 2
"""Quiet before the first and after the last utterance."""


@dataclass(frozen=True, slots=True)
class Workload:
    """How the virtual users talk; ranges include both ends."""

    name: str
    words_per_utterance: tuple[int, int]
    pause_ms: tuple[int, int]
    speakers: int
    packet_ms: int


CANONICAL = Workload(
    "canonical", words_per_utterance=(3, 12), pause_ms=(800, 2_500), speakers=2, packet_ms=100
)
"""A meeting: utterances of 1 to 4 s, pauses that end them, packets as a browser sends them."""

MONOLOGUE = Workload(
    "monologue", words_per_utterance=(80, 120), pause_ms=(800, 1_200), speakers=1, packet_ms=100
)
"""Speech that outlasts every window: each utterance is cut several times."""

WORKLOADS = {workload.name: workload for workload in (CANONICAL, MONOLOGUE)}


@dataclass(frozen=True, slots=True)
class PlannedWord:
    """One word and where it lies, in samples of its stream."""

    text: str
    number: int
    speaker: int
    start: int
    utterance_end: int
    """Where the last word of its utterance ends."""

    @property
    def end(self) -> int:
        return self.start + CARRIER_SAMPLES


@dataclass(frozen=True, slots=True)
class StreamPlan:
    """Everything one virtual user says."""

    stream: int
    words: tuple[PlannedWord, ...]
    samples: int
    packet_samples: int

    @property
    def packets(self) -> int:
        return -(-self.samples // self.packet_samples)

    def packet_of(self, end: int) -> int:
        """The packet that carries the last sample before ``end``."""
        return (end - 1) // self.packet_samples

    @property
    def speech_seconds(self) -> float:
        """From the start of each utterance's first word to the end of its last."""
        first_of = {word.utterance_end: word.start for word in reversed(self.words)}
        return sum(end - start for end, start in first_of.items()) / SAMPLE_RATE_HZ


def plan_stream(workload: Workload, stream: int, *, seconds: float, seed: int) -> StreamPlan:
    """What virtual user ``stream`` says in ``seconds``."""
    chance = random.Random(f"{workload.name} {seed} {stream}")
    samples = round(seconds * SAMPLE_RATE_HZ)
    words: list[PlannedWord] = []
    # Users do not all begin to talk at once.
    start = MARGIN_SAMPLES + samples_from_ms(chance.randint(0, workload.pause_ms[0]))
    while True:
        count = chance.randint(*workload.words_per_utterance)
        room = (samples - MARGIN_SAMPLES - start) // WORD_SAMPLES
        if min(count, room) < 1:
            return StreamPlan(stream, tuple(words), samples, samples_from_ms(workload.packet_ms))
        speaker = chance.randrange(workload.speakers)
        words += _utterance(stream, len(words), min(count, room), start, speaker)
        pause_samples = samples_from_ms(chance.randint(*workload.pause_ms))
        start += min(count, room) * WORD_SAMPLES + pause_samples


def _utterance(
    stream: int, first: int, count: int, start: int, speaker: int
) -> Iterator[PlannedWord]:
    end = start + (count - 1) * WORD_SAMPLES + CARRIER_SAMPLES
    for i in range(count):
        number = first + i
        at = start + i * WORD_SAMPLES
        yield PlannedWord(word_text(stream, number), number, speaker, at, end)


def packets_of(plan: StreamPlan) -> Iterator[bytes]:
    """The stream as PCM16 packets, made one at a time."""
    pieces = _pieces(plan)
    held: Samples = encode_silence(0)
    for _ in range(plan.packets):
        while len(held) < plan.packet_samples and (piece := next(pieces, None)) is not None:
            held = np.concatenate([held, piece])
        yield held[: plan.packet_samples].tobytes()
        held = held[plan.packet_samples :]


def _pieces(plan: StreamPlan) -> Iterator[Samples]:
    at = 0
    for word in plan.words:
        yield encode_silence(word.start - at)
        yield encode_word(plan.stream, word.number, word.speaker)
        at = word.start + WORD_SAMPLES
    yield encode_silence(plan.samples - at)
