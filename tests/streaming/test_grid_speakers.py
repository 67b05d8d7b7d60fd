"""Speakers of a diarizer that looks at all audio: bounded, stable, and the same in the end."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import streaming.grid_speakers as room
from streaming.engines import (
    ClusterQuestion,
    Clusters,
    DiarizerProfile,
    FrameGrid,
    Observation,
)
from streaming.grid_speakers import PROVISIONAL_SAMPLES, GridTracker
from streaming.timeline import SAMPLE_RATE_HZ, Span
from streaming.turns import Turn

SECOND = SAMPLE_RATE_HZ
FRAMES = 100
GRID = FrameGrid(10.0, 1.0, 0.1, 0.1, 0.0)
PROFILE = DiarizerProfile(10 * SECOND, SECOND, 6 * SECOND // 10, grid=GRID)
FRAME = SECOND // 10

Truth = Sequence[tuple[int, int, int]]
"""Speaker, and the seconds from and to which they speak."""
TALK: Truth = ((0, 1, 6), (1, 6, 14), (0, 15, 21), (2, 20, 29), (1, 30, 33))


def observe(truth: Truth, chunk: Span) -> Observation:
    """What a perfect diarizer hears, in an order of local speakers that differs by chunk."""
    activity = np.zeros((FRAMES, 3), np.float32)
    for speaker, start, end in truth:
        first, last = (t * SECOND - chunk.start for t in (start, end))
        activity[max(0, first // FRAME) : max(0, last // FRAME), speaker] = 1
    activity[-(-chunk.samples // FRAME) :] = 0
    speaking = np.flatnonzero(activity.any(axis=0))
    speaking = np.roll(speaking, chunk.start // SECOND)
    return Observation(activity[:, speaking], np.eye(3, dtype=np.float32)[speaking])


def group(question: ClusterQuestion) -> Clusters:
    return Clusters(np.unique(question.embeddings.argmax(axis=1), return_inverse=True)[1])


def tracker() -> GridTracker:
    return GridTracker(PROFILE, GRID)


def hear(
    lane: GridTracker, truth: Truth, end: int, *, start: int = 0, is_last: bool = False
) -> list[Span]:
    """All that audio up to a sample leads to; returns the chunks."""
    lane.receive_audio(Span(start, end), is_last=is_last)
    chunks = lane.take_chunks()
    lane.receive_observations(chunks, [observe(truth, chunk) for chunk in chunks])
    question = lane.question(is_last=is_last)
    if question is not None:
        lane.receive_clusters(group(question))
    return chunks


def in_seconds(turns: Sequence[Turn]) -> set[tuple[str, int, int]]:
    return {(t.speaker, round(t.span.start / SECOND), round(t.span.end / SECOND)) for t in turns}


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 9 * SECOND), min_size=1, max_size=30))
def test_turns_in_the_end_are_the_truth_however_the_audio_came(steps: list[int]) -> None:
    lane, at = tracker(), 0
    for step in steps:
        at = min(at + step, 35 * SECOND)
        hear(lane, TALK, at)
        lane.turns()
    hear(lane, TALK, 35 * SECOND + 100, is_last=True)
    named = {turn.speaker: turn.span.start for turn in reversed(lane.turns())}
    order = sorted(named, key=lambda name: named[name])
    truth = {(order[speaker], start, end) for speaker, start, end in TALK}
    assert in_seconds(lane.turns()) == truth
    assert lane.speaker_count == 3
    assert (lane.embeddings_dropped, lane.answers_dropped) == (0, 0)


def test_chunks_lie_on_the_grid_and_the_last_reaches_the_end() -> None:
    lane = tracker()
    assert hear(lane, TALK, 12 * SECOND) == [Span(n * SECOND, (n + 10) * SECOND) for n in range(3)]
    assert (lane.earliest_needed, lane.unseen_from) == (3 * SECOND, 12 * SECOND)
    assert lane.restart_of(Span(SECOND, 11 * SECOND)) == 10 * SECOND
    assert hear(lane, TALK, 12 * SECOND + 5) == []
    assert hear(lane, TALK, 12 * SECOND + 5, is_last=True) == [Span(3 * SECOND, 12 * SECOND + 5)]
    assert (lane.earliest_needed, lane.unseen_from) == (None, None)
    assert hear(lane, TALK, 12 * SECOND + 5, is_last=True) == []


def test_a_chunk_that_reaches_the_end_is_the_last() -> None:
    lane = tracker()
    assert len(hear(lane, TALK, 10 * SECOND, is_last=True)) == 1
    short = tracker()
    assert hear(short, TALK, 3 * SECOND, is_last=True) == [Span(0, 3 * SECOND)]
    assert hear(tracker(), TALK, SECOND // 2, is_last=True) == []


def test_a_first_label_comes_within_four_seconds_and_its_evidence_goes() -> None:
    lane = tracker()
    assert hear(lane, TALK, PROVISIONAL_SAMPLES - 1) == []
    assert hear(lane, TALK, PROVISIONAL_SAMPLES) == [Span(0, PROVISIONAL_SAMPLES)]
    assert in_seconds(lane.turns()) == {("S1", 1, 2)}
    assert lane.unseen_from == 0
    assert hear(lane, TALK, PROVISIONAL_SAMPLES + 1) == []
    assert hear(lane, TALK, 2 * PROVISIONAL_SAMPLES) == [Span(0, 2 * PROVISIONAL_SAMPLES)]
    hear(lane, TALK, 10 * SECOND)
    question = lane.question(is_last=True)
    assert question is not None
    assert len(question.embeddings) == 2
    assert in_seconds(lane.turns()) == {("S1", 1, 6), ("S2", 6, 10)}


def test_a_provisional_chunk_that_comes_too_late_is_dropped() -> None:
    lane = tracker()
    lane.receive_audio(Span(0, PROVISIONAL_SAMPLES), is_last=False)
    late = lane.take_chunks()
    hear(lane, TALK, 11 * SECOND)
    before = lane.turns()
    lane.receive_observations(late, [observe(TALK, chunk) for chunk in late])
    assert lane.turns() == before
    assert lane.embeddings_dropped == 1


def test_audio_that_ends_with_a_provisional_chunk_is_looked_at_once() -> None:
    lane, late = tracker(), tracker()
    hear(lane, TALK, PROVISIONAL_SAMPLES)
    assert hear(lane, TALK, PROVISIONAL_SAMPLES, is_last=True) == []
    late.receive_audio(Span(0, PROVISIONAL_SAMPLES), is_last=False)
    chunks = late.take_chunks()
    late.receive_audio(Span(0, PROVISIONAL_SAMPLES), is_last=True)
    assert late.take_chunks() == []
    late.receive_observations(chunks, [observe(TALK, chunk) for chunk in chunks])
    question = late.question(is_last=True)
    assert question is not None
    late.receive_clusters(group(question))
    for each in (lane, late):
        assert in_seconds(each.turns()) == {("S1", 1, 2)}
        assert each.unseen_from is None


def test_chunks_that_come_back_in_another_order_change_nothing() -> None:
    lane, other = tracker(), tracker()
    hear(lane, TALK, 20 * SECOND, is_last=True)
    other.receive_audio(Span(0, 20 * SECOND), is_last=True)
    for chunk in reversed(other.take_chunks()):
        other.receive_observations([chunk], [observe(TALK, chunk)])
    question = other.question(is_last=True)
    assert question is not None
    other.receive_clusters(group(question))
    assert in_seconds(other.turns()) == in_seconds(lane.turns())


def test_the_question_says_who_shares_a_chunk_and_who_speaks_alone() -> None:
    lane = tracker()
    lane.receive_audio(Span(0, 10 * SECOND), is_last=False)
    (chunk,) = lane.take_chunks()
    truth = ((0, 0, 6), (1, 4, 10))
    lane.receive_observations([chunk], [observe(truth, chunk)])
    question = lane.question()
    assert question is not None
    assert question.starts is not None
    assert question.alone is not None
    assert question.starts.tolist() == [0, 0]
    assert question.alone.tolist() == pytest.approx([0.4, 0.4])
    assert question.weights_seconds.tolist() == pytest.approx([6, 6])


def test_a_local_speaker_may_be_nobody() -> None:
    lane = tracker()
    lane.receive_audio(Span(0, 10 * SECOND), is_last=True)
    (chunk,) = lane.take_chunks()
    lane.receive_observations([chunk], [observe(((0, 0, 6), (1, 7, 9)), chunk)])
    assert lane.question(is_last=True) is not None
    lane.receive_clusters(Clusters(np.array([0, -1])))
    assert in_seconds(lane.turns()) == {("S1", 0, 6), ("S1", 7, 9)}
    assert lane.speaker_count == 1


def test_nobody_at_all_is_an_answer_too() -> None:
    lane = tracker()
    lane.receive_audio(Span(0, 10 * SECOND), is_last=True)
    (chunk,) = lane.take_chunks()
    lane.receive_observations([chunk], [observe(TALK, chunk)])
    assert lane.question(is_last=True) is not None
    lane.receive_clusters(Clusters(np.array([-1, -1])))
    assert (lane.turns(), lane.speaker_count) == ((), 0)


def test_an_answer_that_does_not_fit_is_dropped_and_a_question_can_be_abandoned() -> None:
    lane = tracker()
    lane.receive_audio(Span(0, 10 * SECOND), is_last=False)
    chunks = lane.take_chunks()
    lane.receive_observations(chunks, [observe(TALK, chunk) for chunk in chunks])
    assert lane.question() is not None
    assert lane.is_asked
    lane.receive_clusters(Clusters(np.zeros(7, np.int64)))
    assert lane.answers_dropped == 1
    assert lane.question(is_last=True) is not None
    lane.abandon_question()
    assert not lane.is_asked


def test_unusable_embeddings_and_silent_local_speakers_are_no_evidence() -> None:
    lane = tracker()
    lane.receive_audio(Span(0, 10 * SECOND), is_last=False)
    chunks = lane.take_chunks()
    activity = np.ones((FRAMES, 2), np.float32)
    activity[:, 1] = 0
    rows = np.array([[np.nan, 0, 0], [0, 1, 0]], np.float32)
    lane.receive_observations(chunks, [Observation(activity, rows)])
    assert lane.question(is_last=True) is None
    assert lane.embeddings_dropped == 1
    assert lane.turns() == ()


def test_the_lane_goes_on_elsewhere_with_the_same_voices_on_the_same_grid() -> None:
    lane = tracker()
    hear(lane, TALK, 20 * SECOND)
    state = lane.state(0, 10_000)
    other = tracker()
    other.resume(state)
    other.receive_speech(Span(0, 1), is_open=False)
    start = 12 * SECOND + 50
    assert hear(other, TALK, 25 * SECOND, start=start) == [
        Span(n * SECOND, (n + 10) * SECOND) for n in (13, 14, 15)
    ]
    names = {turn.speaker for turn in other.turns() if turn.span.start < 14 * SECOND}
    assert names == {"S2"}


def test_hours_are_held_in_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest turns stay as they are; what is newer is still clustered."""
    monkeypatch.setattr(room, "CHUNKS_MAX", 60)
    monkeypatch.setattr(room, "CHUNKS_SETTLED", 10)
    truth = [(n % 2, 5 * n, 5 * n + 4) for n in range(80)]
    lane = tracker()
    for second in range(1, 401):
        hear(lane, truth, second * SECOND)
        lane.turns()
    hear(lane, truth, 400 * SECOND, is_last=True)
    assert lane.settled_until > 200 * SECOND
    assert len(lane._chunks) <= 60 + 10
    assert in_seconds(lane.turns()) == {(f"S{s + 1}", a, b) for s, a, b in truth}
    old = Span(0, 10 * SECOND)
    lane.receive_observations([old], [observe(truth, old)])
    assert lane.embeddings_dropped == 2
