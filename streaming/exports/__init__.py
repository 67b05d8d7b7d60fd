"""Transcripts as files. ``FORMATS`` is what a server or a client can offer, by name.

The way from a transcript to a file:

- ``transcript``: events → captions → passages, one per run of words by one speaker.
- ``json_``, ``txt``: the transcript as data and as lines.
- ``cue_text``, ``cue_breaks``, ``shaped_cues``: passages → cues for a screen; ``srt``, ``vtt``.
- ``space_fields``, ``turns_of_words``: names and turns; ``rttm``, ``stm``, ``ctm``, ``seglst``.
"""

from collections.abc import Callable
from dataclasses import dataclass

from streaming.exports.ctm import to_ctm
from streaming.exports.json_ import to_json
from streaming.exports.rttm import to_rttm
from streaming.exports.seglst import to_seglst
from streaming.exports.space_fields import FILE_ID
from streaming.exports.srt import to_srt
from streaming.exports.stm import to_stm
from streaming.exports.transcript import Caption, Cue, Passage, Transcript
from streaming.exports.turns_of_words import turns_of_words
from streaming.exports.txt import to_txt
from streaming.exports.vtt import to_vtt

__all__ = [
    "FORMATS",
    "Caption",
    "Cue",
    "Exporter",
    "Passage",
    "Transcript",
    "to_ctm",
    "to_json",
    "to_rttm",
    "to_seglst",
    "to_srt",
    "to_stm",
    "to_txt",
    "to_vtt",
    "turns_of_words",
]


@dataclass(frozen=True, slots=True)
class Exporter:
    """One file format."""

    media_type: str
    write: Callable[[Transcript, str], str]

    def export(self, transcript: Transcript, file_id: str = FILE_ID) -> str:
        """The text to be written in UTF-8; ``file_id`` names the session where a format wants it.

        Cost: an hour's transcript takes half a second, of an unspaced script up to two.
        """
        return self.write(transcript, file_id)


def _nameless(write: Callable[[Transcript], str]) -> Callable[[Transcript, str], str]:
    """For formats that do not say which session they are of."""
    return lambda transcript, _: write(transcript)


FORMATS: dict[str, Exporter] = {
    "json": Exporter("application/json", _nameless(to_json)),
    "txt": Exporter("text/plain; charset=utf-8", _nameless(to_txt)),
    "srt": Exporter("application/x-subrip; charset=utf-8", _nameless(to_srt)),
    "vtt": Exporter("text/vtt; charset=utf-8", _nameless(to_vtt)),
    "rttm": Exporter("text/plain; charset=utf-8", to_rttm),
    "stm": Exporter("text/plain; charset=utf-8", to_stm),
    "ctm": Exporter("text/plain; charset=utf-8", to_ctm),
    "seglst": Exporter("application/json", to_seglst),
}
