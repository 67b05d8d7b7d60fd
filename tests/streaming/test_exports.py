"""TXT, JSON, SRT and VTT: exact on a small transcript, inert on a hostile one."""

import html
import re

import orjson
import pysubs2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streaming.events import CaptionWord, Done, Final, Gap, GapReason, Quantiles
from streaming.exports import FORMATS, Transcript, to_json, to_srt, to_txt, to_vtt
from streaming.timeline import Span

MS = 16
NOTHING = Quantiles(None, None)
HOSTILE = [
    "--> 00:00:00.000 --> 00:00:01.000",
    "</v><script>alert(1)</script>",
    "NOTE\n\nWEBVTT\n\n00:00.000 --> 00:01.000",
    r"{\an8}{\p1}m 0 0{\p0}\N\h<i>&lt;",
    "a\0\x1b[2J\x9b\u202eb\u2028c\ud800",
]
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


def test_txt_is_silent_about_what_the_client_skipped() -> None:
    assert to_txt(transcript_of(gap=Gap(1, 0, Span(0, 16), GapReason.SKIPPED))) == ""


def test_srt() -> None:
    assert to_srt(SMALL) == (
        "1\n01:00:00,000 --> 01:00:00,900\nS1: Hello.\n\n"
        "2\n01:00:01,000 --> 01:00:01,900\nYes & no.\n\n"
    )


def test_vtt() -> None:
    assert to_vtt(SMALL) == (
        "WEBVTT\n\n"
        "01:00:00.000 --> 01:00:00.900\n<v S1>Hello.</v>\n\n"
        "01:00:01.000 --> 01:00:01.900\nYes &amp; no.\n\n"
        "NOTE no captions from 0.500 s to 1.500 s: overload\n"
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
    empty = {"json": '"captions": []', "txt": "", "srt": "", "vtt": "WEBVTT\n"}
    assert empty[name] in FORMATS[name].export(Transcript.from_events([]))
    assert "/" in FORMATS[name].media_type


@pytest.mark.parametrize("name", FORMATS)
@given(text=TEXT, speaker=TEXT)
def test_every_format_can_be_written_in_utf_8(name: str, text: str, speaker: str) -> None:
    assert FORMATS[name].export(transcript_of((text, speaker), ("end", None))).encode()


@given(text=TEXT, speaker=TEXT)
def test_hostile_text_stays_inside_its_vtt_cue(text: str, speaker: str) -> None:
    transcript = transcript_of((text, speaker), ("end", None))
    header, *blocks, _ = re.split("\n\n|\n$", to_vtt(transcript))
    assert header == "WEBVTT"
    assert len(blocks) == len(transcript.cues())
    for block, cue in zip(blocks, transcript.cues(), strict=True):
        timing, line = block.split("\n")
        assert timing.count("-->") == 1
        assert "-->" not in line
        tag = re.fullmatch(r"(?:<v ([^<>]+)>)?([^<>]*)(?:</v>)?", line)
        assert tag is not None
        assert html.unescape(tag[2]) == html.unescape(cue.text.replace("&", "&amp;"))


@given(text=TEXT, speaker=TEXT)
def test_hostile_text_stays_inside_its_srt_cue(text: str, speaker: str) -> None:
    transcript = transcript_of((text, speaker), ("end", None))
    written = to_srt(transcript)
    assert not re.search(r"[<{}\\]", written)
    read = pysubs2.SSAFile.from_string(written, format_="srt")
    assert [(e.start, e.end) for e in read] == [(c.start_ms, c.end_ms) for c in transcript.cues()]
    assert len(re.findall("\n\n", written)) == len(read)


@given(text=TEXT, speaker=TEXT)
def test_txt_has_one_line_per_cue(text: str, speaker: str) -> None:
    transcript = transcript_of((text, speaker), ("end", None))
    assert len(to_txt(transcript).splitlines()) == len(transcript.cues())
