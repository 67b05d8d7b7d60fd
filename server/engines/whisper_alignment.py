"""When each token was spoken: cross-attention of the alignment heads, and time warping.

Owns the way from the queries that the decoding loop kept to the position at which each token
starts. The scores are those of the heads that know times only, over the window's own positions;
torch's fused attention returns none, and asking transformers for them slows the whole model down.
Source: openai/whisper ``whisper/timing.py``, ``find_alignment``.
"""

import numpy as np
import torch
from numpy.typing import NDArray

from server.engines.whisper_decoder import Cache

_REACH = 3
_MEDIAN_OF_SEVEN = (
    *((0, 5), (0, 3), (1, 6), (2, 4), (0, 1), (3, 5), (2, 6)),
    *((2, 3), (3, 6), (4, 5), (1, 4), (1, 3), (3, 4)),
)
"""Exchanges that leave the median in the middle (N. Devillard, "Fast median search", 1998); ten
times as fast as sorting seven numbers at each place."""


def attention_of(cache: Cache, row: int, first: int, positions: int) -> NDArray[np.float32]:
    """Attention of the tokens from ``first`` on, shape (heads, tokens, positions)."""
    found = []
    for layer, queries in cache.queries.items():
        heads = list(cache.aligned[layer])
        keys = cache.cross[layer][0][row, heads, :positions].float()
        asked = queries[row, :, first : cache.lengths[row]].float()
        found.append((asked @ keys.transpose(1, 2)).softmax(dim=-1))
    if not found:
        return np.zeros((0, cache.lengths[row] - first, positions), np.float32)
    weights: NDArray[np.float32] = torch.cat(found).cpu().numpy()
    return weights


def token_starts(attention: NDArray[np.float32]) -> NDArray[np.int64]:
    """The position at which each row's token starts.

    ``attention``: shape (heads, tokens, positions), softmaxed over the positions of the window.
    Returns shape (tokens,), never decreasing.
    """
    weights = np.nan_to_num(attention, nan=0.0, posinf=0.0, neginf=0.0)
    deviation = weights.std(axis=1, keepdims=True)
    weights = (weights - weights.mean(axis=1, keepdims=True)) / np.maximum(deviation, 1e-9)
    return warp(-median_filter(weights).mean(axis=0))


def median_filter(weights: NDArray[np.float32]) -> NDArray[np.float32]:
    """Median of seven neighbours along the last axis, mirrored at both ends."""
    if weights.shape[-1] <= _REACH:
        return weights
    padded = np.pad(weights, ((0, 0), (0, 0), (_REACH, _REACH)), mode="reflect")
    width = weights.shape[-1]
    values = [padded[..., shift : shift + width] for shift in range(2 * _REACH + 1)]
    for low, high in _MEDIAN_OF_SEVEN:
        one, other = values[low], values[high]
        values[low], values[high] = np.minimum(one, other), np.maximum(one, other)
    return values[_REACH]


def warp(cost: NDArray[np.float32]) -> NDArray[np.int64]:
    """First column of each row on the cheapest monotonic path; shape (rows,).

    One row at a time: with S the running sum of a row's costs, staying in the row from column j
    to column k costs S[k] - S[j - 1], so the best place to have entered it is a running minimum.
    """
    rows, columns = cost.shape
    entered = np.zeros((rows, columns), np.int64)
    from_diagonal = np.zeros((rows, columns), np.bool_)
    totals = np.cumsum(cost[0], dtype=np.float64)
    for row in range(1, rows):
        before = np.concatenate([[np.inf], totals[:-1]])
        from_diagonal[row] = before <= totals
        sums = np.concatenate([[0.0], np.cumsum(cost[row], dtype=np.float64)])
        entry = np.minimum(before, totals) - sums[:-1]
        lowest = np.minimum.accumulate(entry)
        entered[row] = np.maximum.accumulate(np.where(entry == lowest, np.arange(columns), 0))
        totals = lowest + sums[1:]
    return _first_columns(entered, from_diagonal)


def _first_columns(
    entered: NDArray[np.int64], from_diagonal: NDArray[np.bool_]
) -> NDArray[np.int64]:
    rows, columns = entered.shape
    starts = np.zeros(rows, np.int64)
    column = columns - 1
    for row in range(rows - 1, 0, -1):
        starts[row] = entered[row, column]
        column = starts[row] - int(from_diagonal[row, starts[row]])
    return starts
