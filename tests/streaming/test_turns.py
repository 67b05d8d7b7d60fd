"""Turns follow the votes of the chunks, stay inside speech, and forget stray votes."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from streaming.timeline import Span, samples_from_seconds
from streaming.turns import (
    FLIP_SAMPLES_MAX,
    TURN_FRAME_SAMPLES,
    LabelledChunk,
    Turn,
    merge_turns,
    turns_in_speech,
)


def seconds_span(start: float, end: float) -> Span:
    return Span(samples_from_seconds(start), samples_from_seconds(end))


def chunk(start: float, end: float, speaker: str | None) -> LabelledChunk:
    return LabelledChunk(seconds_span(start, end), np.ones((1, 1), np.float32), (speaker,))


def chunks_of(letters: str, size: float = 1.6, hop: float = 0.8) -> list[LabelledChunk]:
    return [chunk(i * hop, i * hop + size, letter) for i, letter in enumerate(letters)]


def turn(start: float, end: float, speaker: str) -> Turn:
    return Turn(seconds_span(start, end), speaker)


def test_one_speaker_fills_the_speech() -> None:
    speech = Span(160, 48_010)
    assert turns_in_speech(speech, chunks_of("AAA")) == [Turn(speech, "A")]


def test_the_change_lies_where_the_chunks_votes_balance() -> None:
    turns = turns_in_speech(seconds_span(0, 4), chunks_of("AABB"))
    # The last A is centred on 1.6 s, the first B on 2.4 s.
    assert turns == [turn(0, 2, "A"), turn(2, 4, "B")]


def test_speech_that_no_chunk_or_no_name_covers_has_no_turn() -> None:
    speech = seconds_span(0, 10)
    assert turns_in_speech(speech, [chunk(2, 4, "A"), chunk(6, 8, None)]) == [turn(2, 4, "A")]
    assert turns_in_speech(speech, [chunk(6, 8, None)]) == []
    assert turns_in_speech(speech, []) == []
    assert turns_in_speech(Span(5, 5), [chunk(0, 4, "A")]) == []


def test_a_chunk_may_stick_out_of_speech() -> None:
    assert turns_in_speech(seconds_span(1, 2), [chunk(0, 4, "A")]) == [turn(1, 2, "A")]


def test_overlapped_speech_belongs_to_both() -> None:
    activity = np.zeros((10, 2), np.float32)
    activity[:6, 0] = 1
    activity[4:, 1] = 1
    both = LabelledChunk(seconds_span(0, 10), activity, ("A", "B"))
    assert turns_in_speech(seconds_span(0, 10), [both]) == [turn(0, 6, "A"), turn(4, 10, "B")]


def test_silence_inside_a_chunk_is_nobodys() -> None:
    activity = np.array([[1], [0], [1]], np.float32)
    quiet = LabelledChunk(seconds_span(0, 3), activity, ("A",))
    assert turns_in_speech(seconds_span(0, 3), [quiet]) == [turn(0, 1, "A"), turn(2, 3, "A")]


def test_a_flip_within_a_run_is_smoothed_and_a_long_one_is_not() -> None:
    def turns_with(length: float) -> list[Turn]:
        stray = chunk(2, 2 + length, "B")
        around = [chunk(0, 2, "A"), chunk(2 + length, 5, "A")]
        return turns_in_speech(seconds_span(0, 5), [around[0], stray, around[1]])

    assert turns_with(FLIP_SAMPLES_MAX / 16_000) == [turn(0, 5, "A")]
    assert turns_with(1.0) == [turn(0, 2, "A"), turn(2, 3, "B"), turn(3, 5, "A")]


def test_a_pause_between_two_turns_of_one_speaker_is_no_flip() -> None:
    speech = seconds_span(0, 4)
    turns = turns_in_speech(speech, [chunk(0, 2, "A"), chunk(2.2, 4, "A")])
    assert turns == [turn(0, 2, "A"), turn(2.2, 4, "A")]


def test_a_blink_of_overlap_is_dropped() -> None:
    activity = np.zeros((20, 2), np.float32)
    activity[:, 0] = 1
    activity[5, 1] = 1
    blink = LabelledChunk(seconds_span(0, 2), activity, ("A", "B"))
    assert turns_in_speech(seconds_span(0, 2), [blink]) == [turn(0, 2, "A")]


labelled_chunks = st.lists(
    st.builds(
        lambda start, samples, name: LabelledChunk(
            Span(start, start + samples), np.ones((1, 1), np.float32), (name,)
        ),
        st.integers(0, 100_000),
        st.integers(1, 40_000),
        st.sampled_from(["A", "B", "C", None]),
    ),
    max_size=12,
)


@given(labelled_chunks, st.integers(0, 50_000), st.integers(0, 100_000))
def test_turns_lie_in_speech_sorted_and_apart(
    chunks: list[LabelledChunk], start: int, samples: int
) -> None:
    speech = Span(start, start + samples)
    turns = turns_in_speech(speech, chunks)
    assert turns == sorted(turns)
    for one in turns:
        assert one.span.samples > 0
        assert one.span.overlap_samples(speech) == one.span.samples
        same = [other for other in turns if other.speaker == one.speaker and other is not one]
        assert not any(other.span.overlap_samples(one.span) for other in same)


@given(labelled_chunks, st.integers(1, 1_000))
def test_turns_move_with_the_audio(chunks: list[LabelledChunk], frames: int) -> None:
    shift = frames * TURN_FRAME_SAMPLES
    moved = [LabelledChunk(c.span.shifted(shift), c.activity, c.speakers) for c in chunks]
    there = turns_in_speech(Span(shift, 120_000 + shift), moved)
    here = turns_in_speech(Span(0, 120_000), chunks)
    assert there == [Turn(t.span.shifted(shift), t.speaker) for t in here]


def test_turns_of_one_speaker_merge_across_pauses_and_not_across_others() -> None:
    turns = [turn(5, 6, "A"), turn(0, 1, "A"), turn(1.5, 2, "A"), turn(3, 4, "B")]
    assert merge_turns(turns) == [turn(0, 2, "A"), turn(3, 4, "B"), turn(5, 6, "A")]
    assert merge_turns(turns, gap_samples_max=4_000) == sorted(turns)
    assert merge_turns([turn(0, 4, "A"), turn(1, 2, "A")]) == [turn(0, 4, "A")]
    assert merge_turns([]) == []
