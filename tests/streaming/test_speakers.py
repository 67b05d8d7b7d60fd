"""A lane's speakers: chunks that no packet timing changes, turns that follow the answers."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streaming.clustering import ITEMS_MAX
from streaming.engines import Clusters, DiarizerProfile, Observation
from streaming.speakers import (
    SECONDS_PER_SPEAKER_MIN,
    UTTERANCES_MAX,
    SpeakerTracker,
    numbered,
    sound_observations,
)
from streaming.timeline import Span
from streaming.turns import Turn

SECOND = 16_000
PROFILE = DiarizerProfile(
    chunk_samples=2 * SECOND, hop_samples=SECOND, chunk_samples_min=SECOND // 2
)
VOICES = np.eye(4, dtype=np.float32)


def seconds(start: float, end: float) -> Span:
    return Span(int(start * SECOND), int(end * SECOND))


def voice(speaker: int) -> Observation:
    return Observation(np.ones((1, 1), np.float32), VOICES[speaker][None])


def say(tracker: SpeakerTracker, start: float, end: float, speaker: int) -> list[Span]:
    """A whole utterance, observed at once."""
    tracker.receive_speech(seconds(start, end), is_open=False)
    chunks = tracker.take_chunks()
    tracker.receive_observations(chunks, [voice(speaker)] * len(chunks))
    return chunks


def group(tracker: SpeakerTracker, *, is_last: bool = False) -> bool:
    """Answer as a perfect engine would."""
    question = tracker.question(is_last=is_last)
    if question is None:
        return False
    voices = question.embeddings.argmax(axis=1)
    tracker.receive_clusters(Clusters(np.unique(voices, return_inverse=True)[1].astype(np.int64)))
    return True


def test_names_are_numbered() -> None:
    assert [numbered(1), numbered(12)] == ["S1", "S12"]


def test_chunks_lie_on_a_grid_and_the_last_is_aligned_to_the_end() -> None:
    tracker = SpeakerTracker(PROFILE)
    tracker.receive_speech(seconds(1, 5.5), is_open=False)
    assert tracker.take_chunks() == [
        seconds(1, 3), seconds(2, 4), seconds(3, 5), seconds(3.5, 5.5)
    ]  # fmt: skip
    assert tracker.take_chunks() == []


def test_an_end_on_the_grid_needs_no_further_chunk() -> None:
    tracker = SpeakerTracker(PROFILE)
    tracker.receive_speech(seconds(0, 3), is_open=False)
    assert tracker.take_chunks() == [seconds(0, 2), seconds(1, 3)]


@pytest.mark.parametrize(("length", "count"), [(0.49, 0), (0.5, 1), (1.9, 1)])
def test_a_short_utterance_is_one_chunk_once_closed(length: float, count: int) -> None:
    tracker = SpeakerTracker(PROFILE)
    tracker.receive_speech(seconds(3, 3 + length), is_open=True)
    assert tracker.take_chunks() == []
    tracker.receive_speech(seconds(3, 3 + length), is_open=False)
    assert tracker.take_chunks() == [seconds(3, 3 + length)] * count


@given(
    st.lists(st.tuples(st.integers(0, 100_000), st.integers(1, 20_000)), max_size=4),
    st.data(),
)
def test_the_timing_of_reports_changes_no_chunk(
    shape: list[tuple[int, int]], data: st.DataObject
) -> None:
    whole, pieces = SpeakerTracker(PROFILE), SpeakerTracker(PROFILE)
    at, expected, taken = 0, [], []
    for samples, pause in shape:
        utterance = Span(at, at + samples)
        ends = data.draw(st.lists(st.integers(0, samples), max_size=6).map(sorted))
        for end in ends:
            pieces.receive_speech(Span(at, at + end), is_open=True)
            needed = pieces.earliest_needed
            taken_now = pieces.take_chunks()
            assert needed is not None
            assert all(chunk.start >= needed for chunk in taken_now)
            taken += taken_now
        needed = pieces.earliest_needed if ends else at
        pieces.receive_speech(utterance, is_open=False)
        taken_now = pieces.take_chunks()
        assert needed is not None
        assert all(chunk.start >= needed for chunk in taken_now)
        taken += taken_now
        whole.receive_speech(utterance, is_open=False)
        expected += whole.take_chunks()
        assert pieces.earliest_needed is None
        at += samples + pause
    assert taken == expected


def test_a_later_utterance_closes_an_open_one_and_old_news_changes_nothing() -> None:
    tracker = SpeakerTracker(PROFILE)
    tracker.receive_speech(seconds(0, 1), is_open=True)
    tracker.receive_speech(seconds(2, 3), is_open=True)
    assert tracker.take_chunks() == [seconds(0, 1)]
    tracker.receive_speech(seconds(0, 9), is_open=False)
    assert tracker.take_chunks() == []
    assert tracker.earliest_needed == 2 * SECOND


def test_an_utterance_that_shrinks_when_closed_keeps_what_was_taken() -> None:
    tracker = SpeakerTracker(PROFILE)
    tracker.receive_speech(seconds(0, 3), is_open=True)
    assert tracker.take_chunks() == [seconds(0, 2), seconds(1, 3)]
    tracker.receive_speech(seconds(0, 2.5), is_open=False)
    assert tracker.take_chunks() == []


def test_turns_follow_the_answers() -> None:
    tracker = SpeakerTracker(PROFILE)
    say(tracker, 0, 6, 0)
    say(tracker, 7, 13, 1)
    say(tracker, 14, 18, 0)
    assert list(tracker.turns()) == []
    assert tracker.speaker_count == 0
    assert group(tracker)
    assert list(tracker.turns()) == [
        Turn(seconds(0, 6), "S1"), Turn(seconds(7, 13), "S2"), Turn(seconds(14, 18), "S1")
    ]  # fmt: skip
    assert tracker.speaker_count == 2


def test_speech_after_an_answer_is_provisionally_named() -> None:
    tracker = SpeakerTracker(PROFILE, name_of=lambda number: f"person {number}")
    say(tracker, 0, 6, 0)
    group(tracker)
    say(tracker, 7, 9, 0)
    say(tracker, 10, 12, 1)
    assert list(tracker.turns()) == [
        Turn(seconds(0, 6), "person 1"), Turn(seconds(7, 9), "person 1")
    ]  # fmt: skip


def test_a_change_inside_an_utterance() -> None:
    tracker = SpeakerTracker(PROFILE)
    tracker.receive_speech(seconds(0, 12), is_open=False)
    chunks = tracker.take_chunks()
    tracker.receive_observations(chunks, [voice(int(c.middle > 6 * SECOND)) for c in chunks])
    group(tracker)
    assert list(tracker.turns()) == [Turn(seconds(0, 6.5), "S1"), Turn(seconds(6.5, 12), "S2")]


def test_overlapped_speakers_of_a_chunk_both_get_turns() -> None:
    tracker = SpeakerTracker(PROFILE)
    tracker.receive_speech(seconds(0, 2), is_open=False)
    both = Observation(np.array([[1, 1, 0]], np.float32), VOICES[:3])
    tracker.receive_observations(tracker.take_chunks(), [both])
    group(tracker, is_last=True)
    assert list(tracker.turns()) == [Turn(seconds(0, 2), "S1"), Turn(seconds(0, 2), "S2")]
    assert tracker.embeddings_dropped == 0


def test_seconds_of_evidence_add_up_to_speech() -> None:
    tracker = SpeakerTracker(PROFILE)
    tracker.receive_speech(seconds(0, 5.5), is_open=False)
    chunks = tracker.take_chunks()
    tracker.receive_observations(chunks, [voice(0)] * len(chunks))
    question = tracker.question()
    assert question is not None
    assert question.weights_seconds.tolist() == [2, 1, 1, 1, 0.5]


def test_observations_may_come_in_any_order() -> None:
    ordered, mixed = SpeakerTracker(PROFILE), SpeakerTracker(PROFILE)
    for tracker, step in ((ordered, 1), (mixed, -1)):
        tracker.receive_speech(seconds(0, 12), is_open=False)
        chunks = tracker.take_chunks()[::step]
        for chunk in chunks:
            found = [voice(int(chunk.middle > 6 * SECOND))]
            tracker.receive_observations([chunk], found)
        group(tracker, is_last=True)
    bounds = [[turn.span for turn in tracker.turns()] for tracker in (ordered, mixed)]
    assert bounds[0] == bounds[1]


def test_unusable_embeddings_are_dropped_and_counted() -> None:
    tracker = SpeakerTracker(PROFILE)
    tracker.receive_speech(seconds(0, 2), is_open=False)
    broken = Observation(np.ones((1, 1), np.float32), np.full((1, 4), np.nan, np.float32))
    tracker.receive_observations(tracker.take_chunks(), [broken])
    assert tracker.embeddings_dropped == 1
    assert tracker.question(is_last=True) is None
    assert list(tracker.turns()) == []


def test_an_observation_of_unknown_speech_is_dropped_and_counted() -> None:
    tracker = SpeakerTracker(PROFILE)
    tracker.receive_observations([seconds(0, 2)], [voice(0)])
    assert tracker.embeddings_dropped == 1


def test_an_answer_that_does_not_fit_is_dropped_and_counted() -> None:
    tracker = SpeakerTracker(PROFILE)
    say(tracker, 0, 6, 0)
    tracker.question()
    tracker.receive_clusters(Clusters(np.zeros(1, np.int64)))
    assert tracker.answers_dropped == 1
    assert list(tracker.turns()) == []
    assert not tracker.is_asked


def test_a_failed_question_is_not_repeated_until_there_is_new_evidence() -> None:
    tracker = SpeakerTracker(PROFILE)
    say(tracker, 0, 6, 0)
    tracker.question()
    assert tracker.is_asked
    tracker.abandon_question()
    assert tracker.question() is None
    say(tracker, 7, 9, 0)
    assert tracker.question() is not None


def hints_after(seconds_said: float, *, is_last: bool) -> tuple[int | None, int | None]:
    tracker = SpeakerTracker(PROFILE, speakers_min=2, speakers_max=3)
    say(tracker, 0, seconds_said, 0)
    question = tracker.question(is_last=is_last)
    assert question is not None
    return question.speakers_min, question.speakers_max


def test_hints_travel_with_the_question() -> None:
    assert hints_after(6.0, is_last=True) == (2, 3)


def test_a_least_number_of_speakers_is_asked_for_when_so_many_can_have_spoken() -> None:
    assert hints_after(2 * SECONDS_PER_SPEAKER_MIN - 1, is_last=False) == (None, 3)
    assert hints_after(2 * SECONDS_PER_SPEAKER_MIN + 1, is_last=False) == (2, 3)


def test_turns_that_change_nothing_are_the_same_object() -> None:
    tracker = SpeakerTracker(PROFILE)
    say(tracker, 0, 6, 0)
    assert tracker.turns() is tracker.turns()
    group(tracker)
    before = list(tracker.turns())
    say(tracker, 7, 9, 0)
    assert list(tracker.turns()) == [*before, Turn(seconds(7, 9), "S1")]


def talk(tracker: SpeakerTracker, utterances: Sequence[int], length: float) -> None:
    for i in utterances:
        say(tracker, i * (length + 1), i * (length + 1) + length, i % 2)
        if i % 4 == 1:
            group(tracker)


def test_hours_of_talk_are_settled_but_keep_their_turns() -> None:
    tracker = SpeakerTracker(PROFILE)
    utterances = 2 * ITEMS_MAX // 100
    talk(tracker, range(utterances), 101.0)
    turns = tracker.turns()
    assert tracker.settled_until > 0
    assert tracker.embeddings_dropped == 0
    assert [turn.speaker for turn in turns if turn.span.seconds > 50] == ["S1", "S2"] * (
        utterances // 2
    )
    assert sum(turn.span.samples for turn in turns) == utterances * 101 * SECOND
    assert tracker.speaker_count == 2


def test_one_endless_utterance_is_bounded_too() -> None:
    tracker = SpeakerTracker(PROFILE)
    total = ITEMS_MAX + 500
    for end in range(100, total, 100):
        tracker.receive_speech(seconds(0, end), is_open=True)
        chunks = tracker.take_chunks()
        tracker.receive_observations(chunks, [voice(0)] * len(chunks))
        group(tracker)
    assert tracker.settled_until > 0
    assert {turn.speaker for turn in tracker.turns()} == {"S1"}
    # An answer for a chunk whose speech is settled comes too late.
    tracker.receive_observations([seconds(1, 3)], [voice(0)])
    assert tracker.embeddings_dropped == 1


def test_utterances_too_short_to_observe_do_not_pile_up() -> None:
    tracker = SpeakerTracker(PROFILE)
    say(tracker, 0, 6, 0)
    group(tracker)
    for i in range(10, UTTERANCES_MAX + 20):
        tracker.receive_speech(seconds(i, i + 0.1), is_open=False)
    assert tracker.settled_until > 0
    assert list(tracker.turns()) == [Turn(seconds(0, 6), "S1")]
    # Speech that was settled before anybody took its chunks is not asked for any more.
    assert tracker.earliest_needed is not None
    assert tracker.earliest_needed >= tracker.settled_until


OPENING_PROFILE = DiarizerProfile(
    chunk_samples=2 * SECOND,
    hop_samples=SECOND,
    chunk_samples_min=SECOND // 2,
    opening_samples=SECOND,
)


def heard(chunk: Span, change: int, *, opening: int = SECOND) -> Observation:
    """Of somebody up to a sample, and of somebody else from there on."""
    rows = [
        VOICES[int(part.middle > change)][None]
        for part in (chunk, Span(chunk.start, chunk.start + opening))
    ]
    return Observation(np.ones((1, 1), np.float32), *rows)


def test_an_utterances_last_opening_is_looked_at_on_its_own() -> None:
    tracker = SpeakerTracker(OPENING_PROFILE)
    tracker.receive_speech(seconds(1, 5.5), is_open=False)
    chunks = tracker.take_chunks()
    assert chunks[-2:] == [seconds(3.5, 5.5), seconds(4.5, 5.5)]
    tracker.receive_observations(chunks, [heard(chunk, 9 * SECOND) for chunk in chunks])
    question = tracker.question()
    assert question is not None
    # It is no evidence of its own: all of it was in a chunk before.
    assert question.weights_seconds.tolist() == [2, 1, 1, 0.5]

    tracker = SpeakerTracker(OPENING_PROFILE)
    tracker.receive_speech(seconds(0, 0.9), is_open=False)
    assert tracker.take_chunks() == [seconds(0, 0.9)]


def test_openings_place_a_change_more_finely_than_chunks() -> None:
    change = 6 * SECOND
    tracker = SpeakerTracker(OPENING_PROFILE)
    tracker.receive_speech(seconds(0, 12), is_open=False)
    chunks = tracker.take_chunks()
    tracker.receive_observations(chunks, [heard(chunk, change) for chunk in chunks])
    group(tracker)
    first, second = tracker.turns()
    assert (first.speaker, second.speaker) == ("S1", "S2")
    assert first.span.end == second.span.start
    assert abs(first.span.end - change) <= SECOND // 5


def test_openings_name_nobody_before_the_first_answer() -> None:
    tracker = SpeakerTracker(OPENING_PROFILE)
    tracker.receive_speech(seconds(0, 4), is_open=False)
    chunks = tracker.take_chunks()
    tracker.receive_observations(chunks, [heard(chunk, 0) for chunk in chunks])
    assert list(tracker.turns()) == []


def test_an_answer_is_sound_only_with_openings_like_its_embeddings() -> None:
    chunk, sound = seconds(0, 2), heard(seconds(0, 2), SECOND)
    assert sound_observations([chunk], [sound]) == [sound]
    for openings in (np.ones((2, 4), np.float32), np.full((1, 4), np.nan, np.float32)):
        assert sound_observations([chunk], [replace(sound, openings=openings)]) is None
    many = Observation(np.ones((1, 17), np.float32), np.ones((17, 4), np.float32))
    assert sound_observations([chunk], [many]) is None
