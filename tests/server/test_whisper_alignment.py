"""Attention becomes times along the cheapest monotonic path."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from server.engines.whisper_alignment import median_filter, token_starts, warp


def cheapest_cost(cost: NDArray[np.float32]) -> float:
    total = np.full((cost.shape[0] + 1, cost.shape[1] + 1), np.inf)
    total[0, 0] = 0
    for row in range(cost.shape[0]):
        for column in range(cost.shape[1]):
            total[row + 1, column + 1] = cost[row, column] + min(
                total[row, column], total[row, column + 1], total[row + 1, column]
            )
    return float(total[-1, -1])


@given(st.integers(1, 6), st.integers(1, 9), st.integers(0, 2**32 - 1))
def test_the_path_is_the_cheapest_one(rows: int, columns: int, seed: int) -> None:
    cost = np.random.default_rng(seed).random((rows, columns)).astype(np.float32)
    starts = warp(cost)
    assert starts[0] == 0
    assert (np.diff(starts) >= 0).all()
    ends = [*starts[1:], columns - 1]
    reachable = []
    for row in range(rows):
        # A row's stay ends where the next one starts, or one column before it.
        last = int(ends[row])
        stays = {last, max(int(starts[row]), last - 1)} if row < rows - 1 else {last}
        reachable.append([cost[row, starts[row] : stay + 1].sum() for stay in stays])
    best = sum(min(options) for options in reachable)
    assert best == pytest.approx(cheapest_cost(cost), rel=1e-4, abs=1e-4)


def test_attention_on_the_diagonal_gives_its_times() -> None:
    attention = np.full((2, 3, 60), 0.001, np.float32)
    for token, start in enumerate([0, 20, 40]):
        attention[:, token, start : start + 20] = 0.05
    np.testing.assert_allclose(token_starts(attention), [0, 20, 40], atol=1)


@given(st.integers(4, 30), st.integers(0, 2**32 - 1))
def test_the_filter_is_the_median_of_seven(columns: int, seed: int) -> None:
    weights = np.random.default_rng(seed).random((2, 2, columns)).astype(np.float32)
    padded = np.pad(weights, ((0, 0), (0, 0), (3, 3)), mode="reflect")
    for column in range(columns):
        expected = np.median(padded[..., column : column + 7], axis=-1)
        np.testing.assert_array_equal(median_filter(weights)[..., column], expected)


def test_a_window_shorter_than_the_filter_is_left_alone() -> None:
    weights = np.ones((1, 2, 3), np.float32)
    assert median_filter(weights) is weights
