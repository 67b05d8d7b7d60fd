"""TXT, JSON, SRT and VTT: exact on a small transcript, inert on a hostile one; the golden files.

After a change that is meant: ``python -m tests.golden.exports`` writes the golden files anew.
"""

import re

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streaming.events import CaptionWord, Done, Final, Gap, GapReason, Quantiles
from streaming.exports import FORMATS, Transcript, to_json, to_srt, to_txt, to_vtt
from streaming.timeline import Span
from tests.transcripts import GOLDEN, HOSTILE, SESSION_ID, golden_session

MS = 16
NOTHING = Quantiles(None, None)
TEXT = st.text(st.characters(), max_size=15) | st.sampled_from(HOSTILE)


def transcript_of(*said: tuple[str, str | None], gap: Gap | None = None) -> Transcript:
    """One caption per word, a second long each; from the second hour on."""
    events: list[Final | Gap | Done] = [gap] if gap else []
    for index, (text, speaker) in enumerate(said):
        start = (3_600_000 + 1_000 * index) * MS
        word = CaptionWord(text, Span(start, start + 900 * MS), 0.5, speaker, index == 1)
        caption_id = f"c{index}"
        events.append(
            Final(
                index,
                caption_id,
                0,
                Span(start, start + 1_000 * MS),
                text,
                "en",
                0.5,
                speaker,
                (word,),
            )
        )
    return Transcript.from_events([*events, Done(99, 7.5, 0, 0, 0, None, 0, 0, NOTHING, NOTHING)])


SMALL = transcript_of(
    ("Hello.", "S1"),
    ("Yes & no.", None),
    gap=Gap(1, 0, Span(500 * MS, 1_500 * MS), GapReason.OVERLOAD),
)


def test_txt() -> None:
    assert to_txt(SMALL) == (
        "[no captions from 0.500 s to 1.500 s: overload]\nS1: Hello.\nYes & no.\n"
    )


def test_srt() -> None:
    assert to_srt(SMALL) == (
        "1\n01:00:00,000 --> 01:00:01,000\nS1: Hello.\n\n"
        "2\n01:00:01,000 --> 01:00:02,000\nYes & no.\n\n"
    )


def test_vtt() -> None:
    assert to_vtt(SMALL) == (
        "WEBVTT\n\n"
        "NOTE no captions from 0.500 s to 1.500 s: overload\n\n"
        "01:00:00.000 --> 01:00:01.000\n<v S1>Hello.</v>\n\n"
        "01:00:01.000 --> 01:00:02.000\nYes &amp; no.\n"
    )


def test_json() -> None:
    document = orjson.loads(to_json(SMALL))
    assert document["audio_seconds"] == 7.5
    assert document["speakers"] == ["S1"]
    assert document["gaps"] == [{"lane": 0, "start": 0.5, "end": 1.5, "reason": "overload"}]
    first, second = document["captions"]
    assert first == {
        "caption_id": "c0",
        "lane": 0,
        "start": 3600.0,
        "end": 3601.0,
        "text": "Hello.",
        "language": "en",
        "confidence": 0.5,
        "speaker": "S1",
        "words": [
            {"word": "Hello.", "start": 3600.0, "end": 3600.9, "confidence": 0.5, "speaker": "S1"}
        ],
    }
    assert second["speaker"] is None
    assert second["words"][0]["glued"] is True


@pytest.mark.parametrize("name", FORMATS)
def test_an_empty_transcript_is_a_valid_file(name: str) -> None:
    empty = FORMATS[name].export(Transcript.from_events([]))
    if name == "json":
        assert orjson.loads(empty)["captions"] == []
    else:
        assert empty == {"vtt": "WEBVTT\n", "seglst": "[]\n"}.get(name, "")
    assert "/" in FORMATS[name].media_type


@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=50, deadline=None)
@given(text=TEXT, speaker=TEXT)
def test_every_format_can_be_written_in_utf_8(name: str, text: str, speaker: str) -> None:
    assert FORMATS[name].export(transcript_of((text, speaker), ("end", "S1"))).encode()


@pytest.mark.parametrize("name", FORMATS)
def test_the_hand_made_session(name: str) -> None:
    expected = (GOLDEN / f"session.{name}").read_text(encoding="utf-8")
    assert FORMATS[name].export(golden_session(), SESSION_ID) == expected


@settings(max_examples=50, deadline=None)
@given(text=TEXT, speaker=TEXT)
def test_hostile_text_stays_inside_its_vtt_cue(text: str, speaker: str) -> None:
    header, *blocks, _ = re.split("\n\n|\n$", to_vtt(transcript_of((text, speaker), ("end", None))))
    assert header == "WEBVTT"
    for block in blocks:
        timing, payload = block.split("\n", 1)
        assert timing.count("-->") == 1
        assert "-->" not in payload
        assert payload.count("\n") <= 1
        assert re.fullmatch(r"(?s)<v [^<>\n]+>[^<>]+</v>|[^<>]+", payload)


@settings(max_examples=50, deadline=None)
@given(text=TEXT, speaker=TEXT)
def test_hostile_text_stays_inside_its_srt_cue(text: str, speaker: str) -> None:
    *blocks, rest = to_srt(transcript_of((text, speaker), ("end", None))).split("\n\n")
    assert rest == ""
    for number, block in enumerate(blocks, 1):
        first, timing, *lines = block.split("\n")
        assert first == str(number)
        assert timing.count("-->") == 1
        assert 1 <= len(lines) <= 2
        assert not re.search(r"[<>{}\\]", "".join(lines))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Anna Lee", "Anna Lee: Hi."),
        ("A" * 20, f"{'A' * 20}: Hi."),
        ("Bartholomew of Gloucester", "Bartholomew of Glou…: Hi."),
        ("東" * 10_000, f"{'東' * 9}…: Hi."),
    ],
)
def test_srt_cuts_names_that_would_leave_no_room(name: str, expected: str) -> None:
    assert to_srt(transcript_of(("Hi.", name))).splitlines()[2] == expected


def test_more_than_99_hours_are_written_in_full() -> None:
    late = Final(1, "c1", 0, Span(450_000_000 * MS, 450_001_000 * MS), "Hi.", None, None, None, ())
    transcript = Transcript.from_events([late])
    assert "125:00:00,000 --> 125:00:01,000" in to_srt(transcript)
    assert "125:00:00.000 --> 125:00:01.000" in to_vtt(transcript)


@settings(max_examples=50, deadline=None)
@given(text=TEXT, speaker=TEXT)
def test_txt_has_one_line_per_cue(text: str, speaker: str) -> None:
    transcript = transcript_of((text, speaker), ("end", None))
    assert len(to_txt(transcript).splitlines()) == len(transcript.cues())
