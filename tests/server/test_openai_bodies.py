import math
from dataclasses import replace
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.protocols import openai_bodies as bodies
from server.protocols.openai_form import RESPONSE_FORMATS, ResponseFormat, Wishes
from server.recordings import Heard
from streaming.engines import DecodingFigures
from streaming.events import CaptionWord, Gap, GapReason, main_speaker, text_of
from streaming.exports.transcript import Caption, Transcript
from streaming.timeline import SAMPLE_RATE_HZ, Span
from streaming.wire import Start

SECOND = SAMPLE_RATE_HZ


def word(
    text: str, number: int, speaker: str | None, confidence: float | None = 0.5
) -> CaptionWord:
    span = Span(number * SECOND, number * SECOND + SECOND // 2)
    return CaptionWord(text, span, confidence, speaker)


def caption(*words: CaptionWord) -> Caption:
    span = Span(words[0].span.start, words[-1].span.end)
    text, speaker = text_of(words), main_speaker(words)
    return Caption("c1", 0, span, text, "en", None, speaker, words)


def heard(*captions: Caption, gaps: tuple[Gap, ...] = ()) -> Heard:
    return Heard("id", Transcript(captions, gaps, 12.5), "en", None, 12.5, 0)


def fields(told: Heard, response_format: ResponseFormat, **options: Any) -> Any:
    wishes = Wishes(Start(), response_format, **options)
    return orjson.loads(bodies.answer(told, wishes).body)


NOTHING = replace(heard(), language=None)
"""Of a recording in which nobody speaks."""


@pytest.mark.parametrize("name", RESPONSE_FORMATS)
def test_silence_has_a_body_in_every_format(name: ResponseFormat) -> None:
    found = bodies.answer(NOTHING, Wishes(Start(), name))
    assert (found.body == b"") is (name == "srt")
    if name.endswith("json"):
        assert orjson.loads(found.body)["text"] == ""


def test_a_language_that_nobody_knows_is_undetermined() -> None:
    assert fields(NOTHING, "verbose_json")["language"] == "und"
    assert "languages" not in fields(NOTHING, "json")


def test_the_mean_log_probability_is_that_of_the_words() -> None:
    words = [word("one", 0, None, 0.5), word("two", 1, None, 0.25), word("three", 2, None, None)]
    assert bodies.average_logprob(words) == round((math.log(0.5) + math.log(0.25)) / 2, 4)


def test_without_confidences_there_is_none() -> None:
    assert bodies.average_logprob([word("one", 0, None, None)]) is None
    assert bodies.average_logprob([]) is None


@given(st.lists(st.one_of(st.none(), st.floats(0, 1)), max_size=9))
def test_no_confidence_breaks_it(confidences: list[float | None]) -> None:
    words = [word("w", number, None, value) for number, value in enumerate(confidences)]
    found = bodies.average_logprob(words)
    assert found is None or -10 < found <= 0


def test_segments_are_runs_of_words_by_one_speaker() -> None:
    told = heard(
        caption(word("who", 0, "S2"), word("there", 1, "S2"), word("me", 2, "S1")),
        caption(word("ah", 4, None)),
    )
    segments = fields(bodies.lettered(told), "diarized_json")["segments"]
    assert [(one["text"], one["speaker"]) for one in segments] == [
        ("who there", "A"),
        ("me", "B"),
        ("ah", "unknown"),
    ]


def test_names_stay_and_numbers_become_letters() -> None:
    told = heard(caption(word("a", 0, "S1"), word("b", 1, "Sam"), word("c", 2, "S12")))
    assert bodies.lettered(told).transcript.speakers == ("A", "Sam", "B")


def test_there_are_letters_for_everybody() -> None:
    told = heard(*(caption(word("w", n, f"S{n + 1}")) for n in range(60)))
    speakers = bodies.lettered(told).transcript.speakers
    assert speakers[:2] == ("A", "B")
    assert speakers[25:28] == ("Z", "AA", "AB")
    assert len(set(speakers)) == 60


def test_words_in_segments_have_their_probability() -> None:
    told = heard(caption(word("hello", 3, "S1", 0.75)))
    found = fields(told, "verbose_json", granularities=("word", "segment"))
    assert found["segments"][0]["words"] == [
        {"word": "hello", "start": 3.0, "end": 3.5, "probability": 0.75}
    ]
    assert found["segments"][0]["seek"] == 300


def test_what_the_recognizer_tells_of_a_window_is_told() -> None:
    told = replace(
        heard(caption(word("hello", 3, "S1", 0.75))),
        figures={"c1": DecodingFigures(-0.25, 0.125, 0.2)},
    )
    (segment,) = fields(told, "verbose_json")["segments"]
    assert segment["avg_logprob"] == -0.25
    assert (segment["no_speech_prob"], segment["temperature"]) == (0.125, 0.2)


def test_subtitles_name_the_speakers() -> None:
    told = heard(caption(word("hello", 3, "S1")))
    assert b"S1: hello" in bodies.answer(told, Wishes(Start(), "srt")).body
    assert b"<v S1>hello</v>" in bodies.answer(told, Wishes(Start(), "vtt")).body


def gap(number: int) -> Gap:
    return Gap(number, 0, Span(number * SECOND, number * SECOND + 400), GapReason.ENGINE_FAILED)


def test_what_is_missing_fits_into_a_header() -> None:
    assert bodies.missing([gap(1)]) == "1.000-1.025 engine_failed"
    many = bodies.missing([gap(number) for number in range(5_000)])
    assert many.endswith("and 4980 more")
    assert len(many) < 1_000


def test_a_delta_begins_with_a_space_unless_it_is_the_first() -> None:
    frames = [bodies.delta("one two", is_first=True), bodies.delta("three", is_first=False)]
    told = [orjson.loads(frame.removeprefix(b"data: ").strip())["delta"] for frame in frames]
    assert "".join(told) == "one two three"
