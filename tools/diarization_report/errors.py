"""DER without collar, overlap scored, by frames of 10 ms: fast enough for thousands of trials.

Within 0.001 of pyannote.metrics, which scores exact times, on each recording of the report.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from streaming.timeline import SAMPLE_RATE_HZ
from streaming.turns import Turn

FRAME_SAMPLES = SAMPLE_RATE_HZ // 100


@dataclass(frozen=True, slots=True)
class Errors:
    """Seconds of speech, and what was wrong with them; adds up over recordings."""

    speech_s: float
    missed_s: float
    false_alarm_s: float
    confused_s: float

    def __add__(self, other: "Errors") -> "Errors":
        return Errors(
            self.speech_s + other.speech_s,
            self.missed_s + other.missed_s,
            self.false_alarm_s + other.false_alarm_s,
            self.confused_s + other.confused_s,
        )

    @property
    def der(self) -> float:
        return (self.missed_s + self.false_alarm_s + self.confused_s) / self.speech_s

    @property
    def confusion(self) -> float:
        return self.confused_s / self.speech_s


NO_ERRORS = Errors(0, 0, 0, 0)


def errors(reference: Sequence[Turn], hypothesis: Sequence[Turn]) -> Errors:
    """Under the one-to-one mapping of speakers that confuses least."""
    frames = max((t.span.end for t in (*reference, *hypothesis)), default=0) // FRAME_SAMPLES + 1
    truth, said = _activity(reference, frames), _activity(hypothesis, frames)
    shared = truth.astype(np.float32) @ said.astype(np.float32).T
    rows, columns = linear_sum_assignment(shared, maximize=True)
    spoken, told = truth.sum(axis=0), said.sum(axis=0)
    right = float(shared[rows, columns].sum())
    per_frame_s = FRAME_SAMPLES / SAMPLE_RATE_HZ
    return Errors(
        speech_s=float(spoken.sum()) * per_frame_s,
        missed_s=float(np.maximum(spoken - told, 0).sum()) * per_frame_s,
        false_alarm_s=float(np.maximum(told - spoken, 0).sum()) * per_frame_s,
        confused_s=(float(np.minimum(spoken, told).sum()) - right) * per_frame_s,
    )


def _activity(turns: Sequence[Turn], frames: int) -> NDArray[np.int64]:
    """Shape (speakers, frames)."""
    names = sorted({turn.speaker for turn in turns})
    active = np.zeros((len(names), frames), np.int64)
    for turn in turns:
        first, last = (round(t / FRAME_SAMPLES) for t in (turn.span.start, turn.span.end))
        active[names.index(turn.speaker), first:last] = 1
    return active
