"""Frame activity of labelled chunks → speaker turns.

Owns: the vote of overlapping chunks on each frame, smoothing, the ``Turn`` type. Knows nothing of
words, embeddings, or how a chunk came by its speakers.
Invariants: U1 a turn lies inside the speech it was made from; U2 turns of one speaker never
overlap each other (those of different speakers may); U3 turns are sorted by start.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from streaming.timeline import Span

TURN_FRAME_SAMPLES = 320
"""20 ms: finer than any boundary that a speaker model can place, and about the frame of pyannote's
segmentation models (17 ms)."""
FLIP_SAMPLES_MAX = 6_400
"""0.4 s: a change of speaker and back within it is a stray vote of one chunk, not a turn."""
CHUNK_EDGE_WEIGHT = 0.1
"""An embedding tells most about the middle of its chunk; at the edges, where a neighbour's middle
is, its vote counts a tenth."""


@dataclass(frozen=True, slots=True, order=True)
class Turn:
    """A stretch in which one speaker speaks."""

    span: Span
    speaker: str


@dataclass(frozen=True, slots=True)
class LabelledChunk:
    """What one chunk says about who spoke when."""

    span: Span
    activity: NDArray[np.float32]
    """Shape (frames, local speakers), the frames divide the chunk evenly."""
    speakers: tuple[str | None, ...]
    """Global speaker of each local one; None where it is not known."""


def turns_in_speech(speech: Span, chunks: Sequence[LabelledChunk]) -> list[Turn]:
    """The turns inside one stretch of speech.

    Each frame goes to as many speakers as the chunks covering it heard at once, on average; they
    are those with the highest summed votes, ties to whom the earlier chunk names. Frames that no
    labelled chunk covers stay without a turn.
    """
    names = list(dict.fromkeys(n for chunk in chunks for n in chunk.speakers if n is not None))
    frames = -(-speech.samples // TURN_FRAME_SAMPLES)
    if not names or not frames:
        return []
    votes, counts = _votes(speech, chunks, {name: i for i, name in enumerate(names)}, frames)
    active = _strongest(votes, counts)
    return sorted(
        Turn(span.clamped(speech), name)
        for i, name in enumerate(names)
        for span in _runs(active[:, i], speech.start)
    )


def merge_turns(turns: Iterable[Turn], gap_samples_max: int | None = None) -> list[Turn]:
    """Join consecutive turns of one speaker, across pauses up to the given length (None: any)."""
    merged: list[Turn] = []
    for turn in sorted(turns):
        last = merged[-1] if merged else None
        if last is None or last.speaker != turn.speaker or _is_far(last, turn, gap_samples_max):
            merged.append(turn)
        else:
            end = max(last.span.end, turn.span.end)
            merged[-1] = Turn(Span(last.span.start, end), last.speaker)
    return merged


def _is_far(last: Turn, turn: Turn, gap_samples_max: int | None) -> bool:
    return gap_samples_max is not None and last.span.distance_samples(turn.span) > gap_samples_max


def _votes(
    speech: Span, chunks: Sequence[LabelledChunk], columns: dict[str, int], frames: int
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Votes, shape (frames, speakers), and speakers at once, shape (frames,)."""
    votes = np.zeros((frames, len(columns)))
    heard, weight = np.zeros(frames), np.zeros(frames)
    middles = speech.start + (np.arange(frames) + 0.5) * TURN_FRAME_SAMPLES
    # The last frame may stick out of the speech.
    middles = np.minimum(middles, speech.end - 1)
    for chunk in chunks:
        first, last = np.searchsorted(middles, (chunk.span.start, chunk.span.end))
        position = (middles[first:last] - chunk.span.start) / max(chunk.span.samples, 1)
        taper = CHUNK_EDGE_WEIGHT + (1 - CHUNK_EDGE_WEIGHT) * (1 - np.abs(2 * position - 1))
        rows = (position * len(chunk.activity)).astype(np.int64)
        weighted = chunk.activity[rows] * taper[:, None]
        heard[first:last] += weighted.sum(axis=1)
        weight[first:last] += taper
        for local, name in enumerate(chunk.speakers):
            if name is not None:
                votes[first:last, columns[name]] += weighted[:, local]
    return votes, np.rint(heard / np.maximum(weight, 1e-9)).astype(np.int64)


def _strongest(votes: NDArray[np.float64], counts: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Who is active in which frame, shape (frames, speakers)."""
    order = np.argsort(-votes, axis=1, kind="stable")
    first = np.where((counts > 0) & (votes.max(axis=1) > 0), order[:, 0], -1)
    primary = _without_flips(first)[:, None] == np.arange(votes.shape[1])
    rank = np.argsort(order, axis=1, kind="stable")
    others = (rank < counts[:, None]) & (votes > 0) & ~primary
    for column in others.T:
        _drop_short_runs(column)
    return np.asarray(primary | others, np.bool_)


def _without_flips(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Labels with each short run between two runs of one other speaker given to that speaker."""
    smooth = labels.copy()
    edges = [0, *(np.flatnonzero(np.diff(labels)) + 1).tolist(), len(labels)]
    for start, end in pairwise(edges[1:-1]):
        around = smooth[start - 1]
        is_flip = around == labels[end] and around >= 0 and labels[start] >= 0
        if is_flip and (end - start) * TURN_FRAME_SAMPLES <= FLIP_SAMPLES_MAX:
            smooth[start:end] = around
    return smooth


def _drop_short_runs(active: NDArray[np.bool_]) -> None:
    for start, end in edges(active):
        if (end - start) * TURN_FRAME_SAMPLES <= FLIP_SAMPLES_MAX:
            active[start:end] = False


def _runs(active: NDArray[np.bool_], origin: int) -> list[Span]:
    return [
        Span(origin + start * TURN_FRAME_SAMPLES, origin + end * TURN_FRAME_SAMPLES)
        for start, end in edges(active)
    ]


def edges(active: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """First frame of each stretch of active ones, and the frame after its last."""
    padded = np.concatenate(([0], active.astype(np.int8), [0]))
    changes = np.flatnonzero(np.diff(padded)).tolist()
    return list(zip(changes[::2], changes[1::2], strict=True))
