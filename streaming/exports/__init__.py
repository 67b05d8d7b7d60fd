"""Transcripts as files. ``FORMATS`` is what a server or a client can offer, by name."""

from collections.abc import Callable
from dataclasses import dataclass

from streaming.exports.json_ import to_json
from streaming.exports.srt import to_srt
from streaming.exports.transcript import Caption, Cue, Transcript
from streaming.exports.txt import to_txt
from streaming.exports.vtt import to_vtt

__all__ = [
    "FORMATS",
    "Caption",
    "Cue",
    "Exporter",
    "Transcript",
    "to_json",
    "to_srt",
    "to_txt",
    "to_vtt",
]


@dataclass(frozen=True, slots=True)
class Exporter:
    """One file format."""

    media_type: str
    export: Callable[[Transcript], str]
    """The text to be written in UTF-8."""


FORMATS: dict[str, Exporter] = {
    "json": Exporter("application/json", to_json),
    "txt": Exporter("text/plain; charset=utf-8", to_txt),
    "srt": Exporter("application/x-subrip; charset=utf-8", to_srt),
    "vtt": Exporter("text/vtt; charset=utf-8", to_vtt),
}
