"""Groups of segments → voices: the nearest two are joined until all are voices of their own.

Two measures say whether two groups are two voices. *Separation*: the mean distance between them
over that inside them, less a little for want of evidence. *Distinctness*: how far their chunks lie
apart along the line between the two (difference of means over standard deviation), each chunk
judged by its group without its own segment. What sounds alike because of what is said does not
carry over to other segments; a voice does.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform

Units = NDArray[np.float64]
"""Shape (items, dimensions), rows of length 1, in order of time."""
Items = NDArray[np.int64]


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
    distinctness_min: float = 5.0
    """Of two voices: their distinctness, and ``separation_weight`` times what their separation is
    above 1. Neither says enough alone: one reader's groups reach the separation of two people on
    a telephone, or their distinctness, but seldom both."""
    separation_weight: float = 10.0
    separation_min: float = 1.2
    """Mean distance between two voices over that inside them, where a group has one segment and
    so there is no saying how distinct it is."""
    separation_seconds: float = 1.25
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


class Merging:
    """Groups of segments, merged until all are voices of their own."""

    def __init__(
        self,
        units: Units,
        starts: NDArray[np.int64],
        weights_seconds: NDArray[np.float32],
        segments: list[Items],
        grouping: Grouping,
    ) -> None:
        self._grouping = grouping
        items = np.concatenate(segments)
        offsets = np.cumsum([0, *(len(s) for s in segments[:-1])])
        rows = units[items].astype(np.float32)
        cosines = rows @ rows.T
        apart = np.abs(starts[items][:, None] - starts[items][None]) >= grouping.overlap_samples
        # Sums over pairs of segments: of distances, and of the pairs themselves.
        self._totals = _block_sums((1 - cosines) * apart, offsets)
        self._pairs = _block_sums(apart.astype(np.float32), offsets)
        self._seconds = np.add.reduceat(weights_seconds[items].astype(np.float64), offsets)
        self._members = list(segments)
        self._held_out = HeldOut(cosines, offsets)

    def merge(self, groups_min: int, groups_max: int) -> list[Items]:
        """Items of each voice."""
        if len(self._members) > SEEDS_MAX:
            self._join_to_seeds()
        while len(self._members) > groups_min:
            separations = self._separations()
            best = self._one_voice(separations)
            if best is None and len(self._members) <= groups_max:
                best = self._small_pair(separations)
                if best is None:
                    break
            self._join(*sorted(best or _lowest(separations)))
        return self._members

    def _one_voice(self, separations: NDArray[np.float64]) -> tuple[int, int] | None:
        """The nearest two groups that are not two voices."""
        for at in np.argsort(separations, axis=None).tolist():
            first, second = divmod(at, len(separations))
            if first > second:
                continue  # every pair is there twice
            beyond = self._grouping.separation_weight * (separations[first, second] - 1)
            if beyond >= self._grouping.distinctness_min:
                return None
            if beyond <= 0 or not self._are_two(first, second, beyond):
                return first, second
        return None

    def _are_two(self, first: int, second: int, beyond: float) -> bool:
        distinctness = self._held_out.distinctness(first, second)
        if distinctness is None:
            return beyond >= self._grouping.separation_weight * (self._grouping.separation_min - 1)
        return beyond + distinctness >= self._grouping.distinctness_min

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
        self._held_out.join(first, second)

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
        self._held_out.regroup(order, offsets)
        members = [self._members[i] for i in order]
        ends = [*offsets[1:].tolist(), len(members)]
        self._members = [
            np.concatenate(members[a:b]) for a, b in zip(offsets.tolist(), ends, strict=True)
        ]


class HeldOut:
    """What chunks are like, their own segments left out: sums of cosines, no distances."""

    def __init__(self, cosines: NDArray[np.float32], offsets: Items) -> None:
        self._of = np.repeat(np.arange(len(offsets)), np.diff(offsets, append=len(cosines)))
        """Segment of each chunk."""
        self._chunks = np.add.reduceat(cosines, offsets, axis=1, dtype=np.float64)
        """Of each chunk with all of each group."""
        self._own = self._chunks[np.arange(len(self._of)), self._of]
        """Of each chunk with its own segment."""
        self._segments = np.add.reduceat(self._chunks, offsets, axis=0)
        """Of each segment with each group, and below with itself."""
        self._selves = np.diag(self._segments).copy()
        self.parts = [[segment] for segment in range(len(offsets))]
        """Segments of each group."""

    def join(self, first: int, second: int) -> None:
        for sums in (self._chunks, self._segments):
            sums[:, first] += sums[:, second]
        self._chunks, self._segments = (
            np.delete(sums, second, 1) for sums in (self._chunks, self._segments)
        )
        self.parts[first] += self.parts.pop(second)

    def regroup(self, order: Items, offsets: Items) -> None:
        """Groups in another order, those from one offset to the next as one."""
        self._chunks, self._segments = (
            np.add.reduceat(sums[:, order], offsets, axis=1)
            for sums in (self._chunks, self._segments)
        )
        ends = [*offsets[1:].tolist(), len(order)]
        self.parts = [
            [part for group in order[first:end] for part in self.parts[group]]
            for first, end in zip(offsets.tolist(), ends, strict=True)
        ]

    def distinctness(self, first: int, second: int) -> float | None:
        """None where a group would have nothing left."""
        if min(len(self.parts[first]), len(self.parts[second])) < 2:
            return None
        leads = [self._leads(first, second), self._leads(second, first)]
        spread = np.sqrt(sum(lead.var() for lead in leads) / 2)
        return float(sum(lead.mean() for lead in leads) / max(spread, 1e-6))

    def _leads(self, group: int, other: int) -> NDArray[np.float64]:
        """How much nearer each chunk of a group is to the rest of it than to the other group, in
        units of how far these are apart."""
        parts = np.array(sorted(self.parts[group]))
        toward_own, toward_other = self._segments[parts, group], self._segments[parts, other]
        other_length = np.sqrt(self._segments[self.parts[other], other].sum())
        rest_lengths = np.sqrt(
            np.maximum(toward_own.sum() - 2 * toward_own + self._selves[parts], 1e-9)
        )
        between = (toward_other.sum() - toward_other) / (rest_lengths * other_length)
        chunks = np.flatnonzero(np.isin(self._of, parts))
        at = np.searchsorted(parts, self._of[chunks])
        near = (self._chunks[chunks, group] - self._own[chunks]) / rest_lengths[at]
        far = self._chunks[chunks, other] / other_length
        return np.asarray((near - far) / np.maximum(1 - between[at], 1e-6), np.float64)


def _lowest(square: NDArray[np.float64]) -> tuple[int, int]:
    row, column = divmod(int(square.argmin()), len(square))
    return row, column


def _block_sums(square: NDArray[np.floating], offsets: Items) -> NDArray[np.float64]:
    """Sums of the blocks that start at the offsets, in both directions."""
    rows = np.add.reduceat(square, offsets, axis=0, dtype=np.float64)
    return np.asarray(np.add.reduceat(rows, offsets, axis=1), np.float64)
