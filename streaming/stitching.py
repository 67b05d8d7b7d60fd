"""Overlapping chunks of frame activity on a grid → who is active in each frame → turns.

Owns the vote of chunks on frames. Knows no samples, no embeddings, no words.
Step by step the same as pyannote.audio 4 does it for a whole recording (``speaker_count``,
``reconstruct``, ``Inference.aggregate``, ``to_diarization``, ``Binarize``; MIT), quirks included,
so that turns equal the offline pipeline's where clusters do.
Invariants: T1 a frame depends on nothing but the chunks that cover it; T2 what was stitched before
and no newer chunk covers is not looked at again.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streaming.engines import FrameGrid
from streaming.timeline import SAMPLE_RATE_HZ, Span

Active = NDArray[np.bool_]
"""Shape (frames, columns): one column per global speaker."""


@dataclass(frozen=True, slots=True)
class GridChunk:
    """A chunk of the grid and the global speaker of each of its local ones."""

    number: int
    """Its place on the grid, from 0."""
    activity: NDArray[np.float32]
    """Zeros and ones, shape (frames, local speakers)."""
    columns: tuple[int, ...]
    """Column of each local speaker; -1 where nobody's."""


def first_frame(grid: FrameGrid, chunk: int) -> int:
    """The frame in which a chunk begins; the chunk may also be one past the last."""
    half = 0.5 * grid.frame_seconds
    return int(np.rint((chunk * grid.hop_seconds + half - half) / grid.frame_hop_seconds))


def frames_of(grid: FrameGrid, chunks: int) -> int:
    """Frames of so many chunks."""
    half = 0.5 * grid.frame_seconds
    end = grid.chunk_seconds + (chunks - 1) * grid.hop_seconds + half
    return int(np.rint((end - half) / grid.frame_hop_seconds)) + 1


def stitch(
    chunks: Sequence[GridChunk],
    grid: FrameGrid,
    frames: Span,
    columns: int,
    speakers_max: int | None,
) -> Active:
    """Who is active in the given frames, by the vote of all chunks that cover them.

    A frame goes to as many speakers as its chunks heard at once, on average: those with the most
    votes. ``speakers_max``: no more than this at once.
    """
    votes = np.zeros((frames.samples, columns), np.float32)
    heard, weight = np.zeros(frames.samples, np.float32), np.zeros(frames.samples, np.float32)
    for chunk in chunks:
        start = first_frame(grid, chunk.number) - frames.start
        rows = slice(max(0, -start), max(0, frames.samples - start))
        activity = chunk.activity[rows]
        at = slice(max(0, start), max(0, start) + len(activity))
        heard[at] += activity.sum(axis=1)
        weight[at] += 1
        for column in set(chunk.columns) - {-1}:
            own = [local for local, c in enumerate(chunk.columns) if c == column]
            votes[at, column] += activity[:, own].max(axis=1)
    count = np.rint(heard / np.maximum(weight, 1e-12))
    if speakers_max is not None:
        count = np.minimum(count, speakers_max)
    # Not a stable sort: ties then fall as they do in pyannote, which sorts the same numbers.
    order = np.argsort(-votes, axis=-1)
    rank = np.argsort(order, axis=1, kind="stable")
    return np.asarray(rank < count[:, None], np.bool_)


def runs_of(active: NDArray[np.bool_], grid: FrameGrid, first: int) -> list[Span]:
    """Stretches of one speaker in samples; ``first`` is the number of the first frame.

    From the middle of the first active frame to the middle of the first one after.
    """
    padded = np.concatenate(([0], active.astype(np.int8), [0]))
    edges = np.flatnonzero(np.diff(padded))
    # One that goes on to the end ends in the middle of the last frame.
    times = _middles(np.minimum(edges, len(active) - 1) + first, grid).reshape(-1, 2)
    return joined([Span(start, end) for start, end in times.tolist() if end > start], grid)


def joined(spans: Iterable[Span], grid: FrameGrid) -> list[Span]:
    """Without pauses that are too short; spans of one speaker in order."""
    pause_samples = grid.pause_seconds_max * SAMPLE_RATE_HZ
    kept: list[Span] = []
    for span in spans:
        gap = span.start - kept[-1].end if kept else None
        if gap is not None and (gap <= 0 or gap < pause_samples):
            kept[-1] = Span(kept[-1].start, span.end)
        else:
            kept.append(span)
    return kept


def _middles(frames: NDArray[np.int64], grid: FrameGrid) -> NDArray[np.int64]:
    starts = frames * grid.frame_hop_seconds
    middles = 0.5 * (starts + (starts + grid.frame_seconds))
    return np.asarray(np.rint(middles * SAMPLE_RATE_HZ), np.int64)


def middle_sample(grid: FrameGrid, frame: int) -> int:
    """Where turns that begin or end with a frame do so."""
    return int(_middles(np.array([frame]), grid)[0])
