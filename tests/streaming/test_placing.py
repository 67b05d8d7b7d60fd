"""A change of speaker lies where likeness changes, and only among those whom chunks name."""

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from streaming.placing import (
    CHANGE_COST,
    PLACE_FRAME_SAMPLES,
    Likeness,
    NamedChunk,
    cheapest_path,
    place_turns,
)
from streaming.timeline import Span, samples_from_seconds
from streaming.turns import Turn

A, B, C = 0, 1, 2
NAMES = ("A", "B", "C")


def seconds_span(start: float, end: float) -> Span:
    return Span(samples_from_seconds(start), samples_from_seconds(end))


def turn(start: float, end: float, speaker: str) -> Turn:
    return Turn(seconds_span(start, end), speaker)


def likeness(at_s: list[float], whom: list[int], margin: float = 0.3) -> Likeness:
    """Stretches that are like one speaker each."""
    cosines = np.full((len(whom), len(NAMES)), 0.5)
    cosines[np.arange(len(whom)), whom] += margin
    return Likeness(np.array([samples_from_seconds(t) for t in at_s]), cosines)


NOTHING = Likeness(np.array([0]), np.full((1, len(NAMES)), 0.5))


def test_the_change_lies_between_the_stretches_that_differ() -> None:
    chunks = [NamedChunk(seconds_span(0, 2), A), NamedChunk(seconds_span(1, 3), B)]
    shorts = likeness([0.4, 0.8, 1.2, 1.6, 2.0, 2.4], [A, A, A, A, B, B])
    turns = place_turns(seconds_span(0, 3), chunks, (shorts, NOTHING), NAMES)
    assert turns == [turn(0, 1.8, "A"), turn(1.8, 3, "B")]


def test_nobody_is_placed_where_no_chunk_names_them() -> None:
    chunks = [NamedChunk(seconds_span(0, 2), A), NamedChunk(seconds_span(1, 3), B)]
    shorts = likeness([0.4, 0.8, 1.2, 1.6, 2.0, 2.4], [C] * 6)
    turns = place_turns(seconds_span(0, 3), chunks, (shorts, NOTHING), NAMES)
    assert {t.speaker for t in turns} == {"A", "B"}


def test_what_no_chunk_names_has_no_turn() -> None:
    chunks = [NamedChunk(seconds_span(1, 2), A), NamedChunk(seconds_span(3, 9), B)]
    turns = place_turns(seconds_span(0.5, 4), chunks, (NOTHING, NOTHING), NAMES)
    assert turns == [turn(1, 2, "A"), turn(3, 4, "B")]
    assert place_turns(seconds_span(0, 4), [], (NOTHING, NOTHING), NAMES) == []


def test_whole_chunks_decide_where_the_short_stretches_do_not() -> None:
    chunks = [NamedChunk(seconds_span(0, 4), A), NamedChunk(seconds_span(0, 4), B)]
    wholes = likeness([0.8, 1.6, 2.4, 3.2], [B, B, A, A])
    turns = place_turns(seconds_span(0, 4), chunks, (NOTHING, wholes), NAMES)
    assert turns == [turn(0, 2, "B"), turn(2, 4, "A")]


def test_a_stray_stretch_is_no_turn() -> None:
    chunks = [NamedChunk(seconds_span(0, 3), A), NamedChunk(seconds_span(0, 3), B)]
    shorts = likeness([0.4, 0.8, 1.2, 1.6, 2.0, 2.4], [A, A, B, A, A, A], margin=0.1)
    turns = place_turns(seconds_span(0, 3), chunks, (shorts, NOTHING), NAMES)
    assert turns == [turn(0, 3, "A")]


@given(
    st.integers(1, 5 * PLACE_FRAME_SAMPLES),
    st.lists(st.tuples(st.integers(0, 90), st.integers(1, 30), st.integers(0, 2)), max_size=8),
    st.integers(0, 99),
)
def test_turns_are_in_order_inside_the_speech_and_apart(
    rest: int, spans: list[tuple[int, int, int]], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    speech = Span(9_999, 9_999 + 40 * PLACE_FRAME_SAMPLES + rest)
    chunks = [NamedChunk(Span(start * 999, (start + n) * 999), who) for start, n, who in spans]
    random = Likeness(np.arange(5) * 9_000, rng.uniform(0, 1, (5, 3)))
    turns = place_turns(speech, chunks, (random, random), NAMES)
    assert all(t.span.samples > 0 and t.span.clamped(speech) == t.span for t in turns)
    assert all(a.span.end <= b.span.start for a, b in itertools.pairwise(turns))
    named = [(NAMES[chunk.column], chunk.span) for chunk in chunks]
    for t in turns:
        own = [span for name, span in named if name == t.speaker]
        assert any(span.distance_samples(t.span) <= PLACE_FRAME_SAMPLES for span in own)


@given(st.integers(1, 7), st.integers(1, 3), st.integers(0, 999))
def test_no_other_path_adds_up_to_more(frames: int, columns: int, seed: int) -> None:
    scores = np.random.default_rng(seed).normal(0, CHANGE_COST, (frames, columns))

    def total(path: tuple[int, ...]) -> float:
        changes = sum(a != b for a, b in itertools.pairwise(path))
        return float(scores[np.arange(frames), list(path)].sum()) - changes * CHANGE_COST

    found = cheapest_path(scores, CHANGE_COST)
    best = max(itertools.product(range(columns), repeat=frames), key=total)
    assert total(tuple(found.tolist())) >= total(best) - 1e-12
