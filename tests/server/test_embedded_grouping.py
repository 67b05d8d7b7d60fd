"""Chunks become segments, segments become voices; numbers alone."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from server.engines.embedded_grouping import (
    SEEDS_MAX,
    Grouping,
    cut_segments,
    group_voices,
    unit_rows,
)

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
