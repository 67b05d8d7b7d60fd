"""Likeness of short stretches to known voices → where one speaker ends and the next begins.

Owns: which speaker each frame of an utterance is like, and what a change of speaker costs. Knows
nothing of words, evidence, or how voices came to be known.

Chunks long enough to tell voices apart reach over a change of speaker, and their votes place it no
better than they are apart. Shorter stretches are less certain one by one, but what they are like
changes where the speaker does: the cheapest path through all of them (Viterbi) finds the place.
Invariants: L1 turns lie inside the speech, in order, none over another; L2 nobody is placed where
no chunk heard them: a path only chooses among those that chunks name around it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from streaming.timeline import SAMPLE_RATE_HZ, Span
from streaming.turns import Turn, edges

PLACE_FRAME_SAMPLES = 1_600
"""0.1 s: half of a short pause between two people."""
CHUNK_WEIGHT = 0.5
"""Of what a whole chunk is like, beside the shorter stretch."""
CHANGE_COST = 0.06
"""Of a change of speaker, in cosine times seconds."""

Scores = NDArray[np.float64]
"""Shape (frames, speakers)."""


@dataclass(frozen=True, slots=True)
class Likeness:
    """How much stretches of one length are like each speaker."""

    middles: NDArray[np.int64]
    """Sample in the middle of each stretch, ascending, shape (stretches,)."""
    cosines: Scores
    """Shape (stretches, speakers)."""


@dataclass(frozen=True, slots=True)
class NamedChunk:
    """A chunk and the column of the speaker whom it is taken for."""

    span: Span
    column: int


def place_turns(
    speech: Span,
    chunks: Sequence[NamedChunk],
    likenesses: tuple[Likeness, Likeness],
    names: Sequence[str],
) -> list[Turn]:
    """The turns inside one stretch of speech. Frames that no chunk names stay without one.

    ``likenesses``: of short stretches, and of whole chunks.
    """
    frames = -(-speech.samples // PLACE_FRAME_SAMPLES)
    allowed = _allowed(speech, chunks, frames, len(names))
    middles = speech.start + (np.arange(frames) + 0.5) * PLACE_FRAME_SAMPLES
    shorts, wholes = (_at(middles, likeness) for likeness in likenesses)
    scores = shorts + CHUNK_WEIGHT * wholes
    scores *= PLACE_FRAME_SAMPLES / SAMPLE_RATE_HZ
    scores[~allowed] = -np.inf
    columns = np.where(allowed.any(axis=1), allowed.argmax(axis=1), -1)
    for first, last in _doubtful(allowed):
        columns[first:last] = cheapest_path(scores[first:last], CHANGE_COST)
    return [
        Turn(Span(start, end).clamped(speech), names[column])
        for start, end, column in _runs(columns, speech.start)
    ]


def _doubtful(allowed: NDArray[np.bool_]) -> Iterator[tuple[int, int]]:
    """Stretches of frames with a choice, and the frame without one on either side: what a path
    does on one side of such a frame is nothing to the other, and most of an hour is such frames."""
    choices = allowed.sum(axis=1)
    for first, last in edges(choices > 1):
        start = first - (first > 0 and choices[first - 1] == 1)
        yield int(start), int(last + (last < len(choices) and choices[last] == 1))


def cheapest_path(scores: Scores, change_cost: float) -> NDArray[np.int64]:
    """Column of each frame such that scores less changes add up to the most.

    Minus infinity rules a column out; each frame has another. Ties go to no change, then to the
    lower column.
    """
    totals, stays = scores[0].copy(), []
    for row in scores[1:]:
        best = int(totals.argmax())
        changed = totals[best] - change_cost
        stays.append((totals >= changed, best))
        totals = np.maximum(totals, changed) + row
    path = [int(totals.argmax())]
    for is_stay, best in reversed(stays):
        path.append(path[-1] if is_stay[path[-1]] else best)
    return np.array(path[::-1])


def _at(middles: NDArray[np.floating], likeness: Likeness) -> Scores:
    """Between the middles of two stretches, in proportion; beyond the last, as the last."""
    columns = [np.interp(middles, likeness.middles, row) for row in likeness.cosines.T]
    return np.stack(columns, axis=1)


def _allowed(
    speech: Span, chunks: Sequence[NamedChunk], frames: int, speakers: int
) -> NDArray[np.bool_]:
    allowed = np.zeros((frames, speakers), np.bool_)
    for chunk in chunks:
        first = (chunk.span.start - speech.start) // PLACE_FRAME_SAMPLES
        last = -(-(chunk.span.end - speech.start) // PLACE_FRAME_SAMPLES)
        allowed[max(0, first) : max(0, last), chunk.column] = True
    return allowed


def _runs(columns: NDArray[np.int64], origin: int) -> Iterator[tuple[int, int, int]]:
    bounds = [0, *(np.flatnonzero(np.diff(columns)) + 1).tolist(), len(columns)]
    for first, last in pairwise(bounds):
        if last > first and columns[first] >= 0:
            start, end = (origin + frame * PLACE_FRAME_SAMPLES for frame in (first, last))
            yield start, end, int(columns[first])
