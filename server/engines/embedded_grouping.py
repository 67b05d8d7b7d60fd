"""Embeddings of one voice at a time → speakers, for evidence of any channel. Numbers alone.

    chunks in order of time → every other → segments (neighbours that sound alike) → groups → chunks

Segments first, because neighbours in time are mostly one voice, whatever they sound like. Groups
that are found by likeness alone differ by what was said as much as by who said it: the best split
of a single reader's chunks looks as separate as two people on a telephone; that of a reader's
segments does not.

Two groups are one voice when the mean distance between them is not much more than that inside
them. Telephone, far microphones and read speech differ in both (GE2E means: 0.21 inside and 0.33
between speakers on a telephone, 0.26 and 0.55 in read speech), less in their quotient. How much
more it must be depends on how much was heard: a few seconds of one voice may be far off.
The parameters were chosen by ``tools.diarization_report --sweep``; see docs/diarization.md.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform

Units = NDArray[np.float64]
"""Shape (items, dimensions), rows of length 1, in order of time."""
Labels = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Grouping:
    """What counts as one voice."""

    step_samples: int = 12_800
    """Chunks that follow each other more closely place turns, but shape no group: they are no
    evidence of their own, and cost four times as much to compare."""

    segment_distance: float = 0.2
    """Cosine distance of the means of two neighbours up to which they are one segment."""
    segment_items_max: int = 6
    """So that a segment in which the voice changed does little harm."""
    segment_items_min: int = 2
    """Shorter ones are mostly changes of voice: they shape no group."""
    separation_min: float = 1.18
    """Mean distance between two voices over that inside them."""
    separation_seconds: float = 1.0
    """Over the seconds of the smaller group: how much more it must be."""
    spread: float = 0.25
    spread_pairs: float = 40
    """What is assumed of the distance inside a group until it has many pairs: that of a voice."""
    speaker_seconds: float = 2.0
    speaker_share: float = 0.1
    """A group with less speech than both is no speaker of its own."""
    overlap_samples: int = 25_600
    """Chunks that start within it share audio: their likeness tells nothing."""


SEEDS_MAX = 64
"""Segments beyond it are first joined by average linkage, which keeps an hour's clustering as fast
as a minute's; far more than there are speakers, so that these stay pure."""
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
    members = _Merging(rows, starts[shaping], seconds, solid, grouping).merge(
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


class _Merging:
    """Groups of segments, merged until all are voices of their own."""

    def __init__(
        self,
        units: Units,
        starts: NDArray[np.int64],
        weights_seconds: NDArray[np.float32],
        segments: list[NDArray[np.int64]],
        grouping: Grouping,
    ) -> None:
        self._grouping = grouping
        items = np.concatenate(segments)
        offsets = np.cumsum([0, *(len(s) for s in segments[:-1])])
        rows = units[items].astype(np.float32)
        apart = np.abs(starts[items][:, None] - starts[items][None]) >= grouping.overlap_samples
        # Sums over pairs of segments: of distances, and of the pairs themselves.
        self._totals = _block_sums((1 - rows @ rows.T) * apart, offsets)
        self._pairs = _block_sums(apart.astype(np.float32), offsets)
        self._seconds = np.add.reduceat(weights_seconds[items].astype(np.float64), offsets)
        self._members = list(segments)

    def merge(self, groups_min: int, groups_max: int) -> list[NDArray[np.int64]]:
        """Items of each voice."""
        if len(self._members) > SEEDS_MAX:
            self._join_to_seeds()
        while len(self._members) > groups_min:
            separations = self._separations()
            best = _lowest(separations)
            is_separate = separations[best] >= self._grouping.separation_min
            if is_separate and len(self._members) <= groups_max:
                small = self._small_pair(separations)
                if small is None:
                    break
                best = small
            self._join(min(best), max(best))
        return self._members

    def _separations(self) -> NDArray[np.float64]:
        """How separate two groups are, less what is needed for want of evidence."""
        grouping = self._grouping
        assumed = grouping.spread * grouping.spread_pairs
        inside = (np.diag(self._totals) + assumed) / (np.diag(self._pairs) + grouping.spread_pairs)
        between = self._totals / np.maximum(self._pairs, 1)
        separations = between * 2 / (inside[:, None] + inside[None])
        smaller = np.minimum(self._seconds[:, None], self._seconds[None])
        separations -= grouping.separation_seconds / np.maximum(smaller, 1e-3)
        # Groups that never sound apart from each other: whatever they are, they are not two.
        separations[self._pairs == 0] = 0
        np.fill_diagonal(separations, np.inf)
        return np.asarray(separations, np.float64)

    def _small_pair(self, separations: NDArray[np.float64]) -> tuple[int, int] | None:
        """A group that is too small for a speaker, and the one it is nearest to."""
        grouping = self._grouping
        enough = min(grouping.speaker_seconds, grouping.speaker_share * self._seconds.sum())
        small = self._seconds < enough
        if not small.any():
            return None
        return _lowest(np.where(small[:, None] | small[None], separations, np.inf))

    def _join(self, first: int, second: int) -> None:
        for sums in (self._totals, self._pairs):
            sums[first] += sums[second]
            sums[:, first] += sums[:, second]
        self._totals, self._pairs = (
            np.delete(np.delete(sums, second, 0), second, 1) for sums in (self._totals, self._pairs)
        )
        self._seconds[first] += self._seconds[second]
        self._seconds = np.delete(self._seconds, second)
        self._members[first] = np.concatenate([self._members[first], self._members.pop(second)])

    def _join_to_seeds(self) -> None:
        distances = self._totals / np.maximum(self._pairs, 1)
        np.fill_diagonal(distances, 0)
        tree = linkage(squareform(distances, checks=False), method="average")
        groups = fcluster(tree, SEEDS_MAX, criterion="maxclust") - 1
        order = np.argsort(groups, kind="stable")
        offsets = np.flatnonzero(np.diff(groups[order], prepend=-1))
        self._totals = _block_sums(self._totals[np.ix_(order, order)], offsets)
        self._pairs = _block_sums(self._pairs[np.ix_(order, order)], offsets)
        self._seconds = np.add.reduceat(self._seconds[order], offsets)
        members = [self._members[i] for i in order]
        ends = [*offsets[1:].tolist(), len(members)]
        self._members = [
            np.concatenate(members[a:b]) for a, b in zip(offsets.tolist(), ends, strict=True)
        ]


def _lowest(square: NDArray[np.float64]) -> tuple[int, int]:
    row, column = divmod(int(square.argmin()), len(square))
    return row, column


def _block_sums(square: NDArray[np.floating], offsets: NDArray[np.int64]) -> NDArray[np.float64]:
    """Sums of the blocks that start at the offsets, in both directions."""
    rows = np.add.reduceat(square, offsets, axis=0, dtype=np.float64)
    return np.asarray(np.add.reduceat(rows, offsets, axis=1), np.float64)


def _centres(units: Units, members: list[NDArray[np.int64]]) -> Units:
    return unit_rows(np.stack([units[items].sum(axis=0) for items in members]))


def unit_rows(rows: NDArray[np.float64]) -> Units:
    """Rows of length 1; zeros stay."""
    norms: NDArray[np.float64] = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.maximum(norms, 1e-12)
