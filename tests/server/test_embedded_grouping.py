"""Chunks become segments, segments become voices; numbers alone."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from server.engines.embedded_grouping import cut_segments, group_voices, unit_rows
from server.engines.embedded_merging import SEEDS_MAX, Grouping, HeldOut

HOP = 12_800


def voices(counts: list[int], spread: float, apart: float) -> NDArray[np.float64]:
    """Random unit vectors around ``len(counts)`` directions, in blocks."""
    rng = np.random.default_rng(7)
    common = np.ones(64) / 8
    rows = []
    for voice, count in enumerate(counts):
        centre = common.copy()
        centre[voice::8] += apart
        rows.append(centre + rng.normal(0, spread, (count, 64)))
    return unit_rows(np.concatenate(rows))


def grouped(
    units: NDArray[np.float64], *, groups_min: int = 1, groups_max: int | None = None
) -> NDArray[np.int64]:
    weights = np.full(len(units), 0.8, np.float32)
    starts = np.arange(len(units)) * HOP
    return group_voices(units, starts, weights, groups_min=groups_min, groups_max=groups_max)


def partition(labels: NDArray[np.int64]) -> set[tuple[int, ...]]:
    return {tuple(np.flatnonzero(labels == label).tolist()) for label in np.unique(labels)}


def test_voices_are_kept_apart_and_one_voice_together() -> None:
    assert grouped(voices([40], 0.06, 0.4)).max() == 0
    assert partition(grouped(voices([20, 20, 20], 0.06, 0.4))) == {
        tuple(range(start, start + 20)) for start in (0, 20, 40)
    }


@pytest.mark.parametrize("spread", [0.03, 0.06])
def test_what_counts_is_distance_over_spread(spread: float) -> None:
    """A quiet channel and a rich one: both have two voices."""
    assert grouped(voices([30, 30], spread, 5 * spread)).max() == 1


def test_hints_bound_the_number_of_voices() -> None:
    assert grouped(voices([20, 20, 20], 0.06, 0.4), groups_max=2).max() == 1
    assert grouped(voices([40], 0.06, 0.4), groups_min=2).max() == 1


def test_a_group_without_enough_speech_is_no_speaker() -> None:
    assert grouped(voices([40, 2], 0.06, 0.4)).max() == 0
    assert grouped(voices([40, 10], 0.06, 0.4)).max() == 1


def test_more_segments_than_seeds_give_the_same_voices() -> None:
    units = voices([300, 300], 0.06, 0.4)
    assert len(cut_segments(units, np.arange(600) * HOP, Grouping())) > SEEDS_MAX
    assert partition(grouped(units)) == {tuple(range(300)), tuple(range(300, 600))}


def test_segments_never_reach_across_a_pause() -> None:
    units = voices([4], 0.0, 0.4)
    starts = np.array([0, HOP, 10 * HOP, 11 * HOP])
    assert [s.tolist() for s in cut_segments(units, starts, Grouping())] == [[0, 1], [2, 3]]


def test_single_chunks_far_apart_are_grouped_too() -> None:
    units = voices([2, 2], 0.0, 0.4)
    weights = np.full(4, 8, np.float32)
    labels = group_voices(units, np.arange(4) * 10 * HOP, weights)
    assert partition(labels) == {(0, 1), (2, 3)}


def held_out(groups: list[list[NDArray[np.float64]]]) -> float:
    """The definition, chunk by chunk, for two groups of segments."""
    leads: list[list[float]] = [[], []]
    for own in (0, 1):
        other = unit_rows(np.concatenate(groups[1 - own]).sum(axis=0)[None])[0]
        for i, segment in enumerate(groups[own]):
            left = np.concatenate([s for j, s in enumerate(groups[own]) if j != i])
            rest = unit_rows(left.sum(axis=0)[None])[0]
            leads[own] += [float(x @ (rest - other) / (1 - rest @ other)) for x in segment]
    spread = np.sqrt((np.var(leads[0]) + np.var(leads[1])) / 2)
    return float((np.mean(leads[0]) + np.mean(leads[1])) / spread)


@given(st.lists(st.integers(1, 5), min_size=4, max_size=9), st.integers(2, 7), st.integers(0, 99))
def test_distinctness_is_that_of_groups_without_the_segment_that_is_judged(
    lengths: list[int], cut: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    cut = min(cut, len(lengths) - 2)
    segments = [unit_rows(rng.uniform(size=(count, 8))) for count in lengths]
    offsets = np.cumsum([0, *lengths[:-1]])
    rows = np.concatenate(segments)
    joined = HeldOut((rows @ rows.T).astype(np.float32), offsets)
    for group, last in ((0, cut), (1, len(lengths))):
        while sum(len(s) for s in joined.parts[: group + 1]) < last:
            joined.join(group, group + 1)
    expected = held_out([segments[:cut], segments[cut:]])
    found = joined.distinctness(0, 1)
    assert found == pytest.approx(expected, rel=1e-3, abs=1e-3)

    together = HeldOut((rows @ rows.T).astype(np.float32), offsets)
    order = np.concatenate([np.arange(cut, len(lengths)), np.arange(cut)])
    together.regroup(order, np.array([0, len(lengths) - cut]))
    assert together.distinctness(1, 0) == pytest.approx(expected, rel=1e-3, abs=1e-3)


def test_nothing_is_left_of_a_group_of_one_segment() -> None:
    assert HeldOut(np.eye(3, dtype=np.float32), np.arange(3)).distinctness(0, 1) is None


def test_what_does_not_carry_over_to_other_segments_makes_no_voice() -> None:
    """Each segment has sounds of its own, which lie further apart than the two voices do."""
    rng = np.random.default_rng(3)

    def said(voice: int, segments: int) -> NDArray[np.float64]:
        centre = np.ones(64) / 8
        centre[voice::8] += 0.25
        sounds = np.repeat(rng.normal(0, 0.1, (segments, 64)), 5, axis=0)
        return unit_rows(centre + sounds + rng.normal(0, 0.03, (segments * 5, 64)))

    def counted(*parts: NDArray[np.float64]) -> int:
        units = np.concatenate(parts)
        # A pause after every five chunks: segments are what was said at once.
        starts = (np.arange(len(units)) + np.arange(len(units)) // 5 * 4) * HOP
        weights = np.full(len(units), 0.8, np.float32)
        return int(group_voices(units, starts, weights).max()) + 1

    assert counted(said(0, 12)) == 1
    assert counted(said(0, 8), said(1, 8)) == 2


@settings(max_examples=30)
@given(st.integers(2, 30), st.integers(1, 4), st.integers(0, 99), st.booleans())
def test_any_evidence_is_answered_without_gaps(
    items: int, groups_max: int, seed: int, is_one_chunk: bool
) -> None:
    rng = np.random.default_rng(seed)
    units = unit_rows(rng.normal(size=(items, 8)))
    starts = np.zeros(items, np.int64) if is_one_chunk else np.sort(rng.integers(0, 10**6, items))
    weights = rng.uniform(0, 1, items).astype(np.float32)
    labels = group_voices(units, starts, weights, groups_max=groups_max)
    assert set(labels.tolist()) == set(range(int(labels.max()) + 1))
    assert labels.max() < groups_max
