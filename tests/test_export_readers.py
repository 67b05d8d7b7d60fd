"""Each export, read by the tools that people use, gives back who said what and when."""

import html
import io
from dataclasses import replace
from itertools import groupby
from typing import Any

import pysubs2
import pytest
import webvtt
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pyannote.database.util import load_rttm

from streaming.events import CaptionWord
from streaming.exports import FORMATS, Passage, Transcript, turns_of_words
from streaming.exports.cue_text import LINE_COLUMNS_MAX
from tests.transcripts import (
    HOSTILE,
    SESSION_ID,
    golden_session,
    no_spaces,
    spoken,
    transcript,
    word,
)

try:
    import meeteval
except ImportError:  # it is built from source, where there is a g++
    meeteval = None

needs_meeteval = pytest.mark.skipif(
    meeteval is None, reason="needs meeteval: pip install 'captiond[eval]', with Debian's g++"
)
MS = 16

Said = list[tuple[str | None, str]]
"""Speaker and text."""


def export(name: str, made: Transcript) -> str:
    return FORMATS[name].export(made, SESSION_ID)


def said_in(made: Transcript) -> dict[str | None, str]:
    """What each speaker says in all, without spaces."""
    return by_speaker([(passage.speaker, passage.text) for passage in made.passages()])


def by_speaker(said: Said) -> dict[str | None, str]:
    together: dict[str | None, str] = {}
    for speaker, text in said:
        together[speaker] = together.get(speaker, "") + no_spaces(text)
    return together


def ms(seconds: Any) -> int:
    return round(float(seconds) * 1000)


def assert_near(found: list[tuple[int, int]], expected: list[tuple[int, int]]) -> None:
    """To a millisecond at each end."""
    assert len(found) == len(expected)
    for a, b in zip(sorted(found), sorted(expected), strict=True):
        assert abs(a[0] - b[0]) <= 1, (a, b)
        assert abs(a[1] - b[1]) <= 1, (a, b)


def span_ms(passage: Passage | CaptionWord) -> tuple[int, int]:
    return passage.span.start // MS, passage.span.end // MS


# SRT by pysubs2, VTT by webvtt-py


def read_srt(text: str) -> Said:
    found: Said = []
    for cue in pysubs2.SSAFile.from_string(text, format_="srt"):
        assert 0 < cue.end - cue.start <= 7_000
        lines = cue.plaintext.split("\n")
        assert 1 <= len(lines) <= 2
        assert all(line and len(line) <= LINE_COLUMNS_MAX for line in lines)
        speaker, colon, rest = " ".join(lines).partition(": ")
        found.append((speaker, rest) if colon else (None, speaker))
    return found


def read_vtt(text: str) -> Said:
    found: Said = []
    for cue in webvtt.from_string(text).captions:
        length_ms = cue.end_time.in_milliseconds() - cue.start_time.in_milliseconds()
        assert 0 < length_ms <= 7_000
        lines = [html.unescape(line) for line in cue.text.split("\n")]
        assert 1 <= len(lines) <= 2
        assert all(line and len(line) <= LINE_COLUMNS_MAX for line in lines)
        found.append((cue.voice and html.unescape(cue.voice), " ".join(lines)))
    return found


def inert(text: str) -> str:
    return text.translate(str.maketrans("<>{}\\", "‹›❴❵⧵"))


def test_srt_gives_back_what_each_speaker_said() -> None:
    made = golden_session()
    plain = {speaker: inert(text) for speaker, text in said_in(made).items()}
    assert by_speaker(read_srt(export("srt", made))) == by_speaker(list(plain.items()))


def test_vtt_gives_back_what_each_speaker_said_and_what_is_missing() -> None:
    made = golden_session()
    text = export("vtt", made)
    assert by_speaker(read_vtt(text)) == said_in(made)
    (note,) = webvtt.from_string(text).footer_comments
    assert note == "no captions from 32.000 s to 34.500 s: overload"


@pytest.mark.parametrize("name", ["srt", "vtt"])
def test_cues_begin_with_their_first_word(name: str) -> None:
    made = golden_session()
    starts = {word.span.start // MS for passage in made.passages() for word in passage.words}
    cues = pysubs2.SSAFile.from_string(export(name, made), format_=name)
    assert {cue.start for cue in cues} <= starts
    assert {passage.span.start // MS for passage in made.passages()} <= {cue.start for cue in cues}


# RTTM by pyannote.database and meeteval


def turns_ms(made: Transcript) -> dict[str, list[tuple[int, int]]]:
    """By the names in the file, from the passages' words, lane by lane."""
    found: dict[str, list[tuple[int, int]]] = {}
    passages = sorted(made.passages(), key=lambda passage: passage.lane)
    for _, group in groupby(passages, key=lambda passage: passage.lane):
        for turn in turns_of_words(each for passage in group for each in passage.words):
            span = (turn.span.start // MS, turn.span.end // MS)
            found.setdefault(turn.speaker.replace(" ", "_"), []).append(span)
    return found


def test_rttm_gives_back_turns_to_pyannote() -> None:
    made = golden_session()
    annotation = load_rttm(io.StringIO(export("rttm", made)))[SESSION_ID]
    expected = turns_ms(made)
    assert set(annotation.labels()) == set(expected) == {"S1", "S2", "Anna_Lee"}
    for speaker, turns in expected.items():
        timeline = annotation.label_timeline(speaker, copy=False)
        assert_near([(ms(segment.start), ms(segment.end)) for segment in timeline], turns)


@needs_meeteval
def test_rttm_gives_back_turns_to_meeteval() -> None:
    made = golden_session()
    lines = meeteval.io.RTTM.parse(export("rttm", made)).lines
    assert {line.filename for line in lines} == {SESSION_ID}
    for speaker, turns in turns_ms(made).items():
        own = [line for line in lines if line.speaker_id == speaker]
        assert_near(
            [(ms(line.begin_time), ms(line.begin_time + line.duration)) for line in own], turns
        )


# STM, CTM and SegLST by meeteval


@needs_meeteval
@pytest.mark.parametrize("name", ["stm", "seglst"])
def test_passages_come_back_from_meeteval(name: str) -> None:
    made = golden_session()
    parse = {"stm": meeteval.io.STM.parse, "seglst": meeteval.io.SegLST.parse}[name]
    segments = list(parse(export(name, made)).to_seglst())
    assert {segment["session_id"] for segment in segments} == {SESSION_ID}
    spans = [(ms(each["start_time"]), ms(each["end_time"])) for each in segments]
    assert_near(spans, [span_ms(passage) for passage in made.passages()])
    found = by_speaker([(each["speaker"].replace("_", " "), each["words"]) for each in segments])
    expected = [(speaker or "unknown", text) for speaker, text in said_in(made).items()]
    if name == "stm":
        expected = [(speaker, inert(text)) for speaker, text in expected]
    assert found == dict(expected)


@needs_meeteval
def test_words_come_back_from_meeteval() -> None:
    made = golden_session()
    lines = meeteval.io.CTM.parse(export("ctm", made)).lines
    words = [(passage.lane, word) for passage in made.passages() for word in passage.words]
    words.sort(key=lambda found: (found[0], found[1].span))
    assert [line.word for line in lines] == [inert(word.text) for _, word in words]
    assert [int(line.channel) for line in lines] == [lane + 1 for lane, _ in words]
    assert [line.confidence and float(line.confidence) for line in lines] == [
        word.confidence for _, word in words
    ]
    spans = [(ms(line.begin_time), ms(line.begin_time + line.duration)) for line in lines]
    for found, (_, each) in zip(spans, words, strict=True):
        assert_near([found], [span_ms(each)])


@needs_meeteval
def test_meeteval_finds_no_error_between_our_formats() -> None:
    made = transcript(spoken("Shall I start?", 0), spoken("Please do.", 900, speaker="Anna Lee"))
    stm = meeteval.io.STM.parse(export("stm", made))
    found = meeteval.wer.cpwer(stm, meeteval.io.SegLST.parse(export("seglst", made)))[SESSION_ID]
    assert (found.errors, found.length) == (0, 5)
    assert set(found.assignment) == {("Anna_Lee", "Anna Lee"), ("S1", "S1")}


# Hostile text

TEXT = (
    st.sampled_from(HOSTILE) | st.text(max_size=12) | st.text("-->{}<>&;:0,.1 \n\t\"'", max_size=20)
)
WORDS = st.builds(
    lambda text, start, length, speaker, glued: word(text, start, start + length, speaker, glued),
    TEXT,
    st.integers(0, 30_000),
    st.integers(0, 2_000),
    st.none() | TEXT,
    st.booleans(),
)
CAPTIONS = st.lists(st.lists(WORDS, min_size=1, max_size=4), min_size=1, max_size=3)
FEW = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@FEW
@given(CAPTIONS)
def test_hostile_srt_can_be_read(said: list[list[CaptionWord]]) -> None:
    made = transcript(*said)
    text = export("srt", made)
    cues = pysubs2.SSAFile.from_string(text, format_="srt")
    assert len(cues) == text.count(" --> ")
    assert all(0 < cue.end - cue.start <= 7_000 for cue in cues)
    assert all(
        line and len(line) <= LINE_COLUMNS_MAX for cue in cues for line in cue.plaintext.split("\n")
    )


@FEW
@given(
    st.lists(
        st.lists(st.builds(replace, WORDS, speaker=st.none()), min_size=1, max_size=4), max_size=3
    )
)
def test_hostile_srt_gives_back_look_alikes(said: list[list[CaptionWord]]) -> None:
    made = transcript(*said)
    cues = pysubs2.SSAFile.from_string(export("srt", made), format_="srt")
    shown = no_spaces("".join(cue.plaintext for cue in cues)).replace("∶", ":")
    passages = inert(no_spaces("".join(passage.text for passage in made.passages())))
    assert sorted(shown) == sorted(passages.replace("∶", ":"))


@FEW
@example([[word("yes", 0, 100, "--", False)]])
@given(CAPTIONS)
def test_hostile_vtt_gives_back_what_was_said(said: list[list[CaptionWord]]) -> None:
    made = transcript(*said)
    found = read_vtt(export("vtt", made))
    for speaker in {passage.speaker for passage in made.passages()}:
        shown = "".join(text for name, text in found if name == speaker)
        passages = "".join(p.text for p in made.passages() if p.speaker == speaker)
        assert sorted(no_spaces(shown)) == sorted(no_spaces(passages))


@needs_meeteval
@FEW
@given(CAPTIONS)
def test_hostile_names_and_words_come_back_to_scoring_tools(
    said: list[list[CaptionWord]],
) -> None:
    made = transcript(*said)
    passages, speakers = made.passages(), set(made.speakers)
    stm = meeteval.io.STM.parse(export("stm", made)).lines
    assert len(stm) == len(passages)
    assert len({line.speaker_id for line in stm}) == len({p.speaker for p in passages})
    words = [word for passage in passages for word in passage.words]
    ctm = meeteval.io.CTM.parse(export("ctm", made)).lines
    assert sorted(line.word for line in ctm) == sorted(inert_word(word.text) for word in words)
    assert len(meeteval.io.SegLST.parse(export("seglst", made))) == len(passages)
    if speakers:
        rttm = export("rttm", made)
        assert len({line.speaker_id for line in meeteval.io.RTTM.parse(rttm).lines}) == len(
            speakers
        )
        annotation = load_rttm(io.StringIO(rttm))[SESSION_ID]
        assert len(annotation.labels()) == len(speakers)


def inert_word(text: str) -> str:
    return text.translate(str.maketrans("<>{}", "‹›❴❵"))
