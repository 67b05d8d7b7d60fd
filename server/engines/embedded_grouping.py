"""Embeddings of one voice at a time → speakers, for evidence of any channel. Numbers alone.

    chunks in order of time → every other → segments (neighbours that sound alike) → groups → chunks

Segments first, because neighbours in time are mostly one voice, whatever they sound like. Groups
that are found by likeness alone differ by what was said as much as by who said it: the best split
of a single reader's chunks looks as separate as two people on a telephone; that of a reader's
segments does not.

Telephone, far microphones and read speech differ in the distances inside a voice and between
voices (GE2E means: 0.21 and 0.33 on a telephone, 0.26 and 0.55 in read speech), less in their
quotient; what groups are two voices is ``embedded_merging``'s to say.
The parameters were chosen by ``tools.diarization_report --sweep``; see docs/diarization.md.
"""

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from server.engines.embedded_merging import Grouping, Merging, Units

Labels = NDArray[np.int64]

ROUNDS = 2
"""Of giving each chunk to its nearest group, after which hardly any moves."""


def group_voices(
    units: Units,
    starts: NDArray[np.int64],
    weights_seconds: NDArray[np.float32],
    *,
    groups_min: int = 1,
    groups_max: int | None = None,
    grouping: Grouping | None = None,
) -> Labels:
    """Speaker of each chunk, numbered from 0 without gaps.

    ``starts``: first sample of each chunk, shape (items,), ascending within a stretch of speech.
    """
    grouping = grouping or Grouping()
    shaping = _spaced(starts, grouping)
    rows = units[shaping]
    seconds = np.add.reduceat(weights_seconds, shaping)
    segments = cut_segments(rows, starts[shaping], grouping)
    solid = [s for s in segments if len(s) >= grouping.segment_items_min] or segments
    members = Merging(rows, starts[shaping], seconds, solid, grouping).merge(
        groups_min, groups_max or len(rows)
    )
    centres = _centres(rows, members)
    for _ in range(ROUNDS):
        labels = np.argmax(rows @ centres.T, axis=1)
        centres = _centres(rows, [np.flatnonzero(labels == group) for group in np.unique(labels)])
    labels = np.argmax(units @ centres.T, axis=1)
    return np.asarray(np.unique(labels, return_inverse=True)[1], np.int64)


def _spaced(starts: NDArray[np.int64], grouping: Grouping) -> NDArray[np.int64]:
    """Items a step apart, and the last of each stretch of speech."""
    gaps = np.diff(starts, append=starts[-1])
    is_last = (gaps <= 0) | (gaps >= grouping.overlap_samples)
    chosen: list[int] = []
    for item, start in enumerate(starts.tolist()):
        since = start - starts[chosen[-1]] if chosen else -1
        if is_last[item] or not 0 <= since < grouping.step_samples:
            chosen.append(item)
    return np.array(chosen)


def cut_segments(
    units: Units, starts: NDArray[np.int64], grouping: Grouping
) -> list[NDArray[np.int64]]:
    """Runs of chunks of one voice: items of each, in order."""
    gaps = np.diff(starts)
    is_apart = (gaps <= 0) | (gaps >= grouping.overlap_samples)
    edges = [0, *(np.flatnonzero(is_apart) + 1).tolist(), len(units)]
    return [
        segment
        for first, last in pairwise(edges)
        for segment in _segments_of_run(units, first, last, grouping)
    ]


def _segments_of_run(
    units: Units, first: int, last: int, grouping: Grouping
) -> list[NDArray[np.int64]]:
    """The nearest two neighbours are joined until all are too far from each other, or too long."""
    ends = list(range(first + 1, last + 1))
    sums = [units[i] for i in range(first, last)]
    lengths = [1] * len(sums)

    def gap(at: int) -> float:
        if lengths[at] + lengths[at + 1] > grouping.segment_items_max:
            return np.inf
        norms = np.linalg.norm(sums[at]) * np.linalg.norm(sums[at + 1])
        return 1 - float(sums[at] @ sums[at + 1]) / max(1e-12, float(norms))

    gaps = [gap(at) for at in range(len(sums) - 1)]
    while gaps and min(gaps) <= grouping.segment_distance:
        at = gaps.index(min(gaps))
        sums[at : at + 2] = [sums[at] + sums[at + 1]]
        lengths[at : at + 2] = [lengths[at] + lengths[at + 1]]
        del ends[at], gaps[at]
        for near in (at - 1, at):
            if 0 <= near < len(gaps):
                gaps[near] = gap(near)
    return [np.arange(a, b) for a, b in pairwise([first, *ends])]


def _centres(units: Units, members: list[NDArray[np.int64]]) -> Units:
    return unit_rows(np.stack([units[items].sum(axis=0) for items in members]))


def unit_rows(rows: NDArray[np.float64]) -> Units:
    """Rows of length 1; zeros stay."""
    norms: NDArray[np.float64] = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.maximum(norms, 1e-12)
