"""Scripted words survive any cut, and nothing else is ever taken for one."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from streaming.engines import ACTIVITY_FRAME_SAMPLES
from streaming.scripted_audio import (
    CARRIER_SAMPLES,
    NUMBER_MAX,
    SPEAKER_MAX,
    STREAM_MAX,
    WORD_SAMPLES,
    ScriptedWord,
    decode_words,
    encode_silence,
    encode_word,
    loud_frames,
    word_text,
)
from streaming.timeline import Span

streams = st.integers(0, STREAM_MAX)
numbers = st.integers(0, NUMBER_MAX)
speakers = st.integers(0, SPEAKER_MAX)


@given(streams, numbers, speakers, st.integers(0, 2_000), st.integers(0, 2_000))
def test_a_word_is_found_at_any_offset(
    stream: int, number: int, speaker: int, before: int, after: int
) -> None:
    audio = np.concatenate(
        [encode_silence(before), encode_word(stream, number, speaker), encode_silence(after)]
    )
    span = Span(before, before + CARRIER_SAMPLES)
    assert decode_words(audio) == [ScriptedWord(stream, number, speaker, span)]


@given(st.lists(st.tuples(streams, numbers, speakers), max_size=6), st.data())
def test_a_cut_window_holds_exactly_the_words_inside_it(
    script: list[tuple[int, int, int]], data: st.DataObject
) -> None:
    audio = np.concatenate([encode_silence(0), *(encode_word(*word) for word in script)])
    start = data.draw(st.integers(0, len(audio)))
    end = data.draw(st.integers(start, len(audio)))
    starts = range(0, len(audio), WORD_SAMPLES)
    inside = [
        word
        for at, word in zip(starts, script, strict=True)
        if start <= at and at + CARRIER_SAMPLES <= end
    ]
    found = [(word.stream, word.number, word.speaker) for word in decode_words(audio[start:end])]
    assert found == inside


@given(st.integers(0, CARRIER_SAMPLES - 1))
@example(0)
@example(5)
@example(CARRIER_SAMPLES - 1)
def test_one_changed_sample_and_the_word_is_gone(at: int) -> None:
    audio = encode_word(7, 3, 1)
    audio[at] += 1
    assert decode_words(audio) == []


def test_the_text_names_number_and_stream() -> None:
    assert decode_words(encode_word(12, 5))[0].text == word_text(12, 5) == "w5.12"


@pytest.mark.parametrize(
    ("stream", "number", "speaker", "field"),
    [(-1, 0, 0, "stream"), (0, NUMBER_MAX + 1, 0, "number"), (0, 0, SPEAKER_MAX + 1, "speaker")],
)
def test_what_does_not_fit_is_refused(stream: int, number: int, speaker: int, field: str) -> None:
    with pytest.raises(ValueError, match=field):
        encode_word(stream, number, speaker)


def test_exactly_the_frames_with_a_part_of_a_word_are_loud() -> None:
    audio = np.concatenate([encode_silence(WORD_SAMPLES - 1), encode_word(1, 1)])
    expected = [
        start < WORD_SAMPLES - 1 + CARRIER_SAMPLES
        and start + ACTIVITY_FRAME_SAMPLES > WORD_SAMPLES - 1
        for start in range(0, len(audio) - ACTIVITY_FRAME_SAMPLES + 1, ACTIVITY_FRAME_SAMPLES)
    ]
    assert loud_frames(audio, ACTIVITY_FRAME_SAMPLES).tolist() == expected
    assert loud_frames(np.full(512, -32768, np.int16), 512).tolist() == [True]
