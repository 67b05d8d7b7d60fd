"""RTTM, STM, CTM and SegLST by hand: lines, turns, names, channels."""

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streaming.events import CaptionWord, Gap, GapReason
from streaming.exports import (
    Transcript,
    to_ctm,
    to_rttm,
    to_seglst,
    to_stm,
    turns_of_words,
)
from streaming.exports.space_fields import UNKNOWN, distinct_names, file_field, name_field
from streaming.timeline import Span
from streaming.turns import Turn
from tests.transcripts import HOSTILE, bare_caption, caption, of, spoken, transcript, word


def turn(start_ms: int, end_ms: int, speaker: str) -> Turn:
    return Turn(Span(start_ms * 16, end_ms * 16), speaker)


# Turns


def test_turns_bridge_short_pauses_of_one_speaker() -> None:
    words = [word("a", 0, 100), word("b", 600, 700), word("c", 1_201, 1_300)]
    assert turns_of_words(words) == [turn(0, 700, "S1"), turn(1_201, 1_300, "S1")]


def test_turns_of_different_speakers_may_overlap_and_nobody_has_none() -> None:
    words = [word("a", 0, 900, "A"), word("b", 400, 500, "B"), word("c", 500, 600, None)]
    assert turns_of_words([*words, word("d", 950, 1_000, "A")]) == [
        turn(0, 1_000, "A"),
        turn(400, 500, "B"),
    ]


# RTTM


def test_rttm_has_a_line_per_turn_by_start() -> None:
    made = of([caption(spoken("b b", 1_000, 300, "B")), caption(spoken("a", 0, 500, "A"), "c2", 1)])
    assert to_rttm(made, "meeting") == (
        "SPEAKER meeting 2 0.000 0.450 <NA> <NA> A <NA> <NA>\n"
        "SPEAKER meeting 1 1.000 0.550 <NA> <NA> B <NA> <NA>\n"
    )


def test_rttm_says_nothing_of_gaps_and_of_words_without_a_speaker() -> None:
    gap = Gap(1, 0, Span(0, 16_000), GapReason.OVERLOAD)
    assert to_rttm(of([gap, caption([word("hm", 0, 100, None)])])) == ""


def test_a_turn_lasts_a_millisecond_at_least() -> None:
    assert " 1.000 0.001 " in to_rttm(transcript([word("hm", 1_000, 1_000)]))


# STM


def test_stm_has_a_line_per_passage_by_channel() -> None:
    said = [*spoken("Shall I?", 0, 300, "A"), *spoken("Do.", 600, 300, None)]
    made = of([caption(spoken("Me first", 0, 300, "C D"), "c1", 1), caption(said, "c2", 0)])
    assert to_stm(made, "meeting") == (
        "meeting 1 A 0.000 0.550 Shall I?\n"
        "meeting 1 unknown 0.600 0.850 Do.\n"
        "meeting 2 C_D 0.000 0.550 Me first\n"
    )


def test_stm_text_is_no_markup() -> None:
    assert to_stm(transcript(spoken("<O,F0> { a / b }"))).endswith(" ‹O,F0› ❴ a / b ❵\n")


# CTM


def test_ctm_has_a_line_per_word_by_channel_and_start() -> None:
    unsure = CaptionWord("Hm.", Span(8_000, 8_000), None, None)
    made = of([caption(spoken("You too", 0, 300), "c1", 1), caption([unsure], "c2", 0)])
    assert to_ctm(made, "meeting").splitlines() == [
        "meeting 1 0.500 0.000 Hm.",
        "meeting 2 0.000 0.250 You 0.500",
        "meeting 2 0.300 0.250 too 0.500",
    ]


def test_ctm_shares_a_caption_without_words_out() -> None:
    assert to_ctm(of([bare_caption("Yes I will.", 0, 900)])) == (
        "session 1 0.000 0.300 Yes\nsession 1 0.300 0.100 I\nsession 1 0.400 0.500 will.\n"
    )


# SegLST


def test_seglst_is_a_list_of_passages() -> None:
    made = of([caption(spoken("Yes, I do.", 0, 300, "Anna Lee"), "c7", 2)])
    assert orjson.loads(to_seglst(made, "meeting")) == [
        {
            "session_id": "meeting",
            "speaker": "Anna Lee",
            "start_time": 0.0,
            "end_time": 0.85,
            "words": "Yes, I do.",
            "channel": 3,
            "caption_id": "c7",
            "language": "en",
        }
    ]


# Names


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("Anna Lee", "Anna_Lee"),
        ('"Bo" Li', "”Bo”_Li"),
        ("<NA>", "‹NA›"),
        ("NULL", "NULL_"),
        ("None", "None_"),
        ("007", "007"),
    ],
)
def test_names_are_one_field(name: str, field: str) -> None:
    assert name_field(name) == field


@pytest.mark.parametrize(
    ("file_id", "field"),
    [(";;c", ",,c"), ("", "session"), ("\ufeff", "session"), ("a b\nc", "a_b_c"), ("na", "na_")],
)
def test_a_file_id_is_one_field_and_no_comment(file_id: str, field: str) -> None:
    assert file_field(file_id) == field


def test_speakers_who_would_be_alike_are_numbered_and_alike_in_all_files() -> None:
    names = ["A B", "A_B", "A_B_2", UNKNOWN, None]
    made = transcript(*([word("x", i * 900, i * 900 + 100, n)] for i, n in enumerate(names)))
    fields = ["A_B", "A_B_2", "A_B_2_2", "unknown_2", "unknown"]
    assert [line.split()[2] for line in to_stm(made).splitlines()] == fields
    assert [line.split()[7] for line in to_rttm(made).splitlines()] == fields[:4]
    said = [segment["speaker"] for segment in orjson.loads(to_seglst(made))]
    assert said == ["A B", "A_B", "A_B_2", "unknown_2", "unknown"]


@given(st.lists(st.text(max_size=4) | st.sampled_from([*HOSTILE, UNKNOWN]), unique=True))
def test_distinct_speakers_have_distinct_fields(names: list[str]) -> None:
    fields = distinct_names(names, name_field)
    assert len(set(fields.values())) == len(names) + 1


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from(HOSTILE), min_size=1, max_size=4), st.sampled_from(HOSTILE))
def test_hostile_text_stays_inside_its_field(texts: list[str], name: str) -> None:
    said = [word(text, i * 100, i * 100 + 90, name) for i, text in enumerate(texts)]
    made: Transcript = transcript(said)
    assert all(len(line.split()) == 10 for line in to_rttm(made, name).splitlines())
    assert all(len(line.split()) == 6 for line in to_ctm(made, name).splitlines())
    assert all(len(line.split()) >= 6 for line in to_stm(made, name).splitlines())
