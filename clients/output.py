"""What a stream's events become on standard output or in a file.

Owns: the formats and their choice. Text that came from the network is made inert before it may
reach a terminal (``plain``); NDJSON is exempt, it is the server's JSON as it came, and JSON
escapes control characters itself.
Bound: formats that need the whole session keep at most ``EVENTS_MAX`` durable events.
"""

from enum import StrEnum
from pathlib import Path
from typing import Protocol, TextIO

from clients.live import CaptionFold, keep_event
from streaming.events import (
    Degraded,
    Done,
    DurableEvent,
    Event,
    Final,
    Gap,
    Revision,
)
from streaming.exports import FORMATS, Cue, Transcript
from streaming.exports.space_fields import FILE_ID
from streaming.exports.transcript import plain
from streaming.timeline import seconds
from streaming.wire import Ready, parse_server_message

EVENTS_MAX = 1_000_000
"""Weeks of talk; a session that long belongs in the server's store."""


class Format(StrEnum):
    """What ``captiond stream`` can print."""

    LIVE = "live"
    TXT = "txt"
    NDJSON = "ndjson"
    SRT = "srt"
    VTT = "vtt"
    JSON = "json"
    RTTM = "rttm"
    STM = "stm"
    CTM = "ctm"
    SEGLST = "seglst"


class Output(Protocol):
    """Is told everything once, in order."""

    def message(self, text: str) -> None:
        """A server message as it came, before its event."""

    def event(self, event: Event) -> None: ...

    def tick(self) -> None:
        """Called a few times a second, for what changes with time alone."""

    def close(self) -> None:
        """The session is over, well or not."""


class NdjsonOutput:
    """Every server message on a line of its own, exactly as it came."""

    def __init__(self, sink: TextIO) -> None:
        self._sink = sink

    def message(self, text: str) -> None:
        self._sink.write(text + "\n")
        self._sink.flush()

    def event(self, event: Event) -> None:
        pass

    def tick(self) -> None:
        pass

    def close(self) -> None:
        self._sink.flush()


class TranscriptOutput:
    """The whole session in one of the export formats, written when it is over."""

    def __init__(self, sink: TextIO, format_name: str) -> None:
        self._sink = sink
        self._export = FORMATS[format_name].export
        self._events: list[DurableEvent] = []
        self._session_id = FILE_ID

    def message(self, text: str) -> None:
        """``ready`` says which session the file is of."""
        if '"type":"ready"' in text and isinstance(ready := parse_server_message(text), Ready):
            self._session_id = ready.session_id

    def event(self, event: Event) -> None:
        if isinstance(event, DurableEvent):
            if len(self._events) >= EVENTS_MAX:
                raise OverflowError("too many events for one file; use --format ndjson")
            keep_event(self._events, event)

    def tick(self) -> None:
        pass

    def close(self) -> None:
        self._sink.write(self._export(Transcript.from_events(self._events), self._session_id))
        self._sink.flush()


class LinesOutput:
    """One line per caption as it becomes final, and one per change: for logs and pipes."""

    def __init__(self, sink: TextIO) -> None:
        self._sink = sink
        self._fold = CaptionFold()
        self._last_seq = 0

    def message(self, text: str) -> None:
        pass

    def event(self, event: Event) -> None:
        self._fold.apply(event)
        self._note_repeats(event)
        match event:
            case Final():
                self._print_caption(event.caption_id)
            case Revision():
                self._print_revision(event)
            case Gap():
                start, end = seconds(event.span.start), seconds(event.span.end)
                self._print(f"[no captions from {start} s to {end} s: {event.reason.value}]")
            case Degraded():
                state = "works again" if event.is_over else "is not working"
                self._print(f"[{event.stage.value} {state}: {plain(event.reason)}]")
            case Done():
                self._print(summary(event))
            case _:
                pass

    def tick(self) -> None:
        pass

    def close(self) -> None:
        self._sink.flush()

    def _note_repeats(self, event: Event) -> None:
        if isinstance(event, DurableEvent):
            if event.seq <= self._last_seq:
                self._print("[the server lost its last captions before they were stored: again]")
            self._last_seq = event.seq

    def _print_caption(self, caption_id: str) -> None:
        caption = self._fold.caption(caption_id)
        for cue in caption.cues() if caption else ():
            self._print(f"{clock(cue.start_ms)} {speaker_name(cue)}: {cue.text}")

    def _print_revision(self, revision: Revision) -> None:
        caption = self._fold.caption(revision.caption_id)
        for cue in caption.cues() if caption else ():
            self._print(f"{clock(cue.start_ms)} is {speaker_name(cue)}: {cue.text}")

    def _print(self, line: str) -> None:
        self._sink.write(line + "\n")
        self._sink.flush()


def speaker_name(cue: Cue) -> str:
    return cue.speaker or "?"


def clock(ms: int) -> str:
    """Minutes and seconds, hours where there are any."""
    minutes, whole_seconds = divmod(ms // 1000, 60)
    hours, minutes = divmod(minutes, 60)
    return (f"{hours}:{minutes:02}" if hours else f"{minutes:02}") + f":{whole_seconds:02}"


def summary(done: Done) -> str:
    """One line of a session's figures."""
    parts = [
        f"{done.audio_seconds:.1f} s of audio",
        f"{done.words} words",
        f"{done.speakers} speakers" if done.speakers != 1 else "1 speaker",
        f"words final after {quantiles(done.final_latency_s.p50, done.final_latency_s.p95)}",
    ]
    if done.rtfx is not None:
        parts.append(f"RTFx {done.rtfx:.1f}")
    if done.gap_seconds > 0:
        parts.append(f"{done.gap_seconds:.1f} s not captioned")
    return ", ".join(parts)


def quantiles(p50: float | None, p95: float | None) -> str:
    if p50 is None or p95 is None:
        return "– s"
    return f"{p50:.2f} s (p95 {p95:.2f} s)"


def format_of(path: Path) -> Format:
    """Raises: ValueError, with the suffixes there are."""
    try:
        return Format(path.suffix.removeprefix("."))
    except ValueError:
        known = ", ".join(f".{name}" for name in Format if name is not Format.LIVE)
        raise ValueError(f"{path} has no known suffix: give --format, or one of {known}") from None


def file_output(sink: TextIO, chosen: Format) -> Output:
    """The output of a format that is no screen."""
    match chosen:
        case Format.NDJSON:
            return NdjsonOutput(sink)
        case Format.LIVE:
            return LinesOutput(sink)
        case _:
            return TranscriptOutput(sink, chosen.value)
