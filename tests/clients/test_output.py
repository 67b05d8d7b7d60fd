"""What is printed, and that it cannot harm a terminal."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from clients.latency import LatencyMeter
from clients.output import Format, LinesOutput, NdjsonOutput, clock, file_output, format_of
from clients.terminal import RECENT_MAX, LiveOutput, SpeakerColours
from streaming.events import (
    CaptionWord,
    Degraded,
    Done,
    Event,
    Final,
    Gap,
    GapReason,
    Partial,
    Quantiles,
    Revision,
    SessionStage,
    SpeakerRun,
)
from streaming.exports import FORMATS
from streaming.timeline import Span
from streaming.wire import Ready, encode_notice

DONE = Done(9, 12.5, 3.0, 9.5, 1.5, 20.0, 4, 2, Quantiles(0.2, 0.3), Quantiles(0.5, 0.9))


def final(index: int, text: str, speaker: str | None = "S1") -> Final:
    at = index * 16_000
    words = tuple(
        CaptionWord(word, Span(at + i * 100, at + i * 100 + 90), None, speaker)
        for i, word in enumerate(text.split(" "))
    )
    return Final(index, f"c{index}", 0, Span(at, at + 1_000), text, "en", None, speaker, words)


def written(chosen: Format, *events: Event) -> str:
    sink = io.StringIO()
    output = file_output(sink, chosen)
    for event in events:
        output.message("{}")
        output.event(event)
        output.tick()
    output.close()
    return sink.getvalue()


REVISION = Revision(3, "c1", 1, (SpeakerRun(1, 2, "S2"),))


def test_text_is_printed_with_its_last_speakers() -> None:
    text = written(Format.TXT, final(1, "hello there"), final(2, "yes"), REVISION, DONE)
    assert text == "S1: hello\nS2: there\nS1: yes\n"


LOST = (final(1, "kept"), final(2, "lost"), final(2, "made anew"), DONE)
"""The server died before it could store the second one."""


def test_what_a_server_lost_is_in_no_file() -> None:
    assert written(Format.TXT, *LOST) == "S1: kept\nS1: made anew\n"


def test_lines_say_that_captions_come_again() -> None:
    lines = written(Format.LIVE, *LOST).splitlines()
    assert [line for line in lines if "again" in line or "anew" in line] == [
        "[the server lost its last captions before they were stored: again]",
        "00:02 S1: made anew",
    ]


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [(Format.SRT, "00:00:01,000 -->"), (Format.VTT, "WEBVTT"), (Format.JSON, '"captions"')],
)
def test_files_are_written_at_the_end(chosen: Format, expected: str) -> None:
    assert expected in written(chosen, final(1, "hello"), DONE)


def test_a_file_names_the_session_that_the_server_named() -> None:
    sink = io.StringIO()
    output = file_output(sink, Format.CTM)
    ready = Ready("abc-123", "secret", 0, 0, 16_000, "2026-11-20T08:00:00.000Z", {})
    output.message(encode_notice(ready).decode())
    output.event(final(1, "hello"))
    output.close()
    assert sink.getvalue() == "abc-123 1 1.000 0.006 hello\n"


@pytest.mark.parametrize("name", FORMATS)
def test_every_export_is_offered(name: str) -> None:
    assert written(format_of(Path(f"meeting.{name}")), final(1, "hello"), DONE)


def test_ndjson_is_what_the_server_said() -> None:
    sink = io.StringIO()
    output = NdjsonOutput(sink)
    output.message('{"type":"ack"}')
    output.event(DONE)
    output.close()
    assert sink.getvalue() == '{"type":"ack"}\n'


def test_lines_come_as_they_become_final_and_changes_are_said() -> None:
    gap = Gap(4, 0, Span(16_000, 32_000), GapReason.OVERLOAD)
    degraded = Degraded(4, SessionStage.DIARIZATION, "late")
    text = written(Format.LIVE, final(1, "hello there", None), REVISION, gap, degraded, DONE)
    assert text.splitlines() == [
        "00:01 ?: hello there",
        "00:01 is ?: hello",
        "00:01 is S2: there",
        "[no captions from 1.0 s to 2.0 s: overload]",
        "[diarizer is not working: late]",
        "12.5 s of audio, 4 words, 2 speakers, words final after 0.50 s (p95 0.90 s), RTFx 20.0, "
        "1.5 s not captioned",
    ]


def test_what_was_spoken_cannot_command_a_terminal() -> None:
    evil = final(1, "\x1b[2Jgone \x9b31m red [bold]not markup[/bold]", "\x1b]0;x\x07S1")
    for text in (written(Format.LIVE, evil, DONE), screen(evil, DONE)):
        assert "\x1b[2J" not in text
        assert "\x9b" not in text
        assert "\x1b]0" not in text
        assert "[bold]not" in text.replace("\n", " ")


def screen(*events: Event) -> str:
    sink = io.StringIO()
    console = Console(file=sink, force_terminal=True, width=100, color_system="standard")
    output = LiveOutput(console, LatencyMeter())
    for event in events:
        output.message("{}")
        output.event(event)
        output.tick()
    output.close()
    return sink.getvalue()


def test_the_live_view_ends_with_every_caption_and_the_figures() -> None:
    partial = Partial(0, "c9", 0, Span(0, 10), "in the making", 1, None, ())
    events = [final(i, f"caption-{i}") for i in range(RECENT_MAX + 3)]
    text = screen(partial, *events, DONE)
    assert "in the making" in text
    rest = text[text.rindex("caption-2") :]
    positions = [rest.index(f"caption-{i}") for i in range(2, RECENT_MAX + 3)]
    assert positions == sorted(positions)
    assert "12.5 s of audio" in rest


def test_a_revision_recolours_what_is_still_drawn() -> None:
    cyan, magenta = "\x1b[36m", "\x1b[35m"
    revised = screen(
        final(0, "zero"), final(1, "one two"), Revision(3, "c1", 1, (SpeakerRun(0, 2, "S2"),)), DONE
    )
    last = revised[revised.rindex("one two") - 5 :]
    assert last.startswith(magenta)
    unrevised = screen(final(0, "zero"), final(1, "one two"), DONE)
    assert unrevised[unrevised.rindex("one two") - 5 :].startswith(cyan)


def test_a_caption_that_is_made_anew_is_left_on_the_screen_once() -> None:
    text = screen(*LOST)
    rest = text[text.rindex("kept") :]
    assert rest.count("made anew") == 1
    assert "lost" not in rest


def test_colours_follow_first_appearance_and_repeat() -> None:
    colours = SpeakerColours()
    styles = [colours.style(f"S{i}") for i in range(8)]
    assert styles[0] == styles[7] != styles[1]
    assert colours.style("S1") == styles[1]
    assert colours.style(None) not in styles


def test_formats_follow_the_suffix() -> None:
    assert format_of(Path("a/meeting.srt")) is Format.SRT
    with pytest.raises(ValueError, match=r"\.txt, \.ndjson, \.srt, \.vtt"):
        format_of(Path("meeting.doc"))


def test_clock_shows_hours_only_where_there_are_any() -> None:
    assert [clock(0), clock(61_999), clock(3_600_000)] == ["00:00", "01:01", "1:00:00"]


def test_lines_survive_a_revision_of_an_unknown_caption() -> None:
    sink = io.StringIO()
    LinesOutput(sink).event(REVISION)
    assert sink.getvalue() == ""
