"""Transcripts for the exporters' tests: made from a few words, and the hand-made session."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import orjson

from streaming.events import CaptionWord, DurableEvent, Final, text_of
from streaming.exports import Transcript
from streaming.timeline import SAMPLES_PER_MS, Span
from streaming.wire import parse_durable_event

GOLDEN = Path(__file__).parent / "golden" / "exports"
SESSION_ID = "8f14e45f-ceea-4672-a8b8-1a2d3c4b5e6f"

HOSTILE = [
    "--> 00:00:00.000 --> 00:00:01.000",
    "00:00:01,000 00:00:02,000",
    "</v><script>alert(1)</script>",
    "NOTE\n\nWEBVTT\n\n00:00.000 --> 00:01.000",
    r"{\an8}{\p1}m 0 0{\p0}\N\h<i>&lt;",
    "a\0\x1b[2J\x9b\u202eb\u2028c\ud800\ufeff",
    "\u2066\u202e\u0627\u0644\u2069",
    ";; a comment",
    '"quoted "twice',
    "{ this / that } (maybe) <O,F0> @",
    "two\tfields and\xa0more\u3000of them",
    "1 2 3\n4",
    "9" * 100,
    "x" * 1_000,
    "漢" * 100,
    "NA",
    "null",
    "unknown",
    "e" + "\u0301" * 100,
    "👩\u200d🚀" * 50,
]
"""What must stay inside its cue, line or field."""


def word(
    text: str, start_ms: int, end_ms: int, speaker: str | None = "S1", glued: bool = False
) -> CaptionWord:
    span = Span(start_ms * SAMPLES_PER_MS, end_ms * SAMPLES_PER_MS)
    return CaptionWord(text, span, 0.5, speaker, glued)


def spoken(
    text: str, start_ms: int = 0, step_ms: int = 300, speaker: str | None = "S1"
) -> list[CaptionWord]:
    """A word every ``step_ms``, each 50 ms shorter than that."""
    return [
        word(each, start_ms + i * step_ms, start_ms + (i + 1) * step_ms - 50, speaker)
        for i, each in enumerate(text.split())
    ]


def caption(words: Sequence[CaptionWord], caption_id: str = "c1", lane: int = 0) -> Final:
    span = Span(min(w.span.start for w in words), max(w.span.end for w in words))
    speaker = words[0].speaker
    return Final(1, caption_id, lane, span, text_of(tuple(words)), "en", 0.5, speaker, tuple(words))


def bare_caption(text: str, start_ms: int, end_ms: int, speaker: str | None = "S1") -> Final:
    """Without words."""
    span = Span(start_ms * SAMPLES_PER_MS, end_ms * SAMPLES_PER_MS)
    return Final(1, "c1", 0, span, text, None, None, speaker, ())


def transcript(*captions: Sequence[CaptionWord]) -> Transcript:
    finals = [caption(words, f"c{number}") for number, words in enumerate(captions)]
    return Transcript.from_events(finals)


def of(events: Iterable[DurableEvent]) -> Transcript:
    return Transcript.from_events(events)


def golden_session() -> Transcript:
    lines = (GOLDEN / "session.ndjson").read_bytes().splitlines()
    return Transcript.from_events([parse_durable_event(orjson.loads(line)) for line in lines])


def no_spaces(text: str) -> str:
    return "".join(text.split())
