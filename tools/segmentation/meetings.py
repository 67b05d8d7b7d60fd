"""Excerpts of real meetings and who speaks when in them, by RTTM.

Owns the split of meetings. Invariant: no speaker of a training excerpt is in a held-out one.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from tools.demo_whisper.synthesis import SAMPLE_RATE_HZ, Samples
from tools.segmentation.people import slower

TRAIN_EXCERPTS = ("trn01", "trn03", "trn05", "trn06", "trn09")
HELD_OUT_EXCERPTS = ("dev00", "trn04", "trn07", "trn08")
FACTORS = (0.9, 1.0, 1.1)
BED_S_MIN = 0.6
"""Shorter pauses hold the room's echo of a voice rather than the room."""
BED_MARGIN_S = 0.15


@dataclass(frozen=True, slots=True)
class Turn:
    """One person's span, in samples."""

    speaker: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Excerpt:
    """A recording with its turns."""

    name: str
    samples: Samples
    turns: tuple[Turn, ...]


def read_excerpt(folder: Path, name: str, factor: float = 1.0) -> Excerpt:
    """``folder`` holds NAME.flac at 16 kHz and NAME.rttm; played ``factor`` times slower."""
    samples, rate_hz = soundfile.read(folder / f"{name}.flac", dtype="float32")
    assert rate_hz == SAMPLE_RATE_HZ, f"{name} is at {rate_hz} Hz"
    turns = read_rttm(folder / f"{name}.rttm", SAMPLE_RATE_HZ * factor)
    return Excerpt(name, np.asarray(slower(samples, factor), np.float32), turns)


def read_rttm(file: Path, rate_hz: float = SAMPLE_RATE_HZ) -> tuple[Turn, ...]:
    """Turns in samples of ``rate_hz``."""
    turns = []
    for line in file.read_text(encoding="utf-8").splitlines():
        fields = line.split()
        if fields and fields[0] == "SPEAKER":
            start_s, length_s = float(fields[3]), float(fields[4])
            start, end = round(start_s * rate_hz), round((start_s + length_s) * rate_hz)
            turns.append(Turn(fields[7], start, end))
    return tuple(turns)


def bed(excerpt: Excerpt) -> Samples:
    """All of it in which nobody has a turn, one piece after the other; maybe nothing."""
    spoken = np.zeros(len(excerpt.samples), np.bool_)
    margin = int(BED_MARGIN_S * SAMPLE_RATE_HZ)
    for turn in excerpt.turns:
        spoken[max(0, turn.start - margin) : turn.end + margin] = True
    edges = np.flatnonzero(np.diff(np.concatenate([[True], spoken, [True]]).astype(np.int8)))
    pieces = [
        excerpt.samples[start:end]
        for start, end in zip(edges[::2], edges[1::2], strict=True)
        if end - start >= BED_S_MIN * SAMPLE_RATE_HZ
    ]
    return np.concatenate(pieces) if pieces else excerpt.samples[:0]


def train_excerpts(folder: Path) -> list[Excerpt]:
    """Each at several speeds; none where ``folder`` has none."""
    return [
        read_excerpt(folder, name, factor)
        for name in TRAIN_EXCERPTS
        if (folder / f"{name}.flac").exists()
        for factor in FACTORS
    ]
