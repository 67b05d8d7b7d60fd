"""What an hour of one session costs by the minute, and what three hours hold in memory.

The audio is one long conversation of readers, again and again. Processor time is that of this
process, models included, so that other programs on the machine change little.
"""

import time
import tracemalloc
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from server.engines.embedded_diarizer import EmbeddedDiarizer
from streaming.diarizing import tracker_for
from streaming.engines import Observation, Samples, SpeakerChunk
from streaming.timeline import SAMPLE_RATE_HZ, Span
from tools.diarization_report.hearing import Speech
from tools.diarization_report.trial import Observe

MINUTE_SAMPLES = 60 * SAMPLE_RATE_HZ


@dataclass(frozen=True, slots=True)
class Growth:
    """Processor seconds per minute of audio, and the highest memory of a long session."""

    minute_s: tuple[float, ...]

    def mean_s(self, first: int, last: int) -> float:
        """Of the minutes from the first to the last, counted from 1."""
        return float(np.mean(self.minute_s[first - 1 : last]))


def growth(samples: Samples, speech: Speech, diarizer: EmbeddedDiarizer, minutes: int) -> Growth:
    """As a session runs: ask for chunks each second, cluster when there is enough new evidence."""
    session = _Session(samples, speech)
    costs = []
    for _ in range(minutes):
        begin = time.process_time()
        session.run(MINUTE_SAMPLES, diarizer.observe, diarizer)
        costs.append(time.process_time() - begin)
    return Growth(tuple(costs))


def memory_bytes(samples: Samples, speech: Speech, minutes: Sequence[int]) -> list[int]:
    """What a session's tracker holds after so many minutes; random voices instead of models."""
    session = _Session(samples, speech)
    rng = np.random.default_rng(0)
    voices = rng.normal(size=(8, 256)).astype(np.float32)

    def observe(chunks: Sequence[SpeakerChunk]) -> list[Observation]:
        rows = [voices[rng.integers(8)] + rng.normal(0, 0.3, 256) for _ in chunks]
        rows = [row[None].astype(np.float32) for row in rows]
        return [Observation(np.ones((1, 1), np.float32), row, row) for row in rows]

    held, done = [], 0
    tracemalloc.start()
    for minute in minutes:
        session.run((minute - done) * MINUTE_SAMPLES, observe, EmbeddedDiarizer)
        done = minute
        held.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    return held


class _Session:
    """Endless talk from one recording."""

    def __init__(self, samples: Samples, speech: Speech) -> None:
        self._samples, self._speech = samples, speech
        self._tracker = tracker_for(EmbeddedDiarizer.profile)
        self._at = 0

    def run(
        self, samples: int, observe: Observe, engine: type[EmbeddedDiarizer] | EmbeddedDiarizer
    ) -> None:
        end = self._at + samples
        while self._at < end:
            self._at += SAMPLE_RATE_HZ
            self._tell()
            chunks = self._tracker.take_chunks()
            self._tracker.receive_observations(chunks, observe([self._read(c) for c in chunks]))
            question = self._tracker.question()
            if question is not None:
                self._tracker.receive_clusters(engine.grouped(question))
            self._tracker.turns()

    def _tell(self) -> None:
        """Of utterances that began in the last round or two and have begun by now."""
        length = len(self._samples)
        for offset in range(max(0, self._at // length - 1) * length, self._at, length):
            for parts in self._speech:
                start, stop = parts[0].start + offset, parts[-1].end + offset
                if start < self._at and stop > self._at - 2 * SAMPLE_RATE_HZ:
                    span = Span(start, min(stop, self._at))
                    self._tracker.receive_speech(span, is_open=stop > self._at)

    def _read(self, chunk: Span) -> SpeakerChunk:
        places = np.arange(chunk.start, chunk.end) % len(self._samples)
        return SpeakerChunk(self._samples[places])
