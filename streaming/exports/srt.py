"""SubRip (SRT) through pysubs2: numbered cues, ``S1: text``.

SRT has no escapes, and players read tags in angle brackets and in braces, so those characters and
the backslash (pysubs2's line breaks) are replaced by look-alikes that mean nothing to a player.
So are the colons of a text with a whole timestamp in it: some readers, pysubs2 among them, take any
line with two of those for the start of a cue.
"""

import re

import pysubs2

from streaming.exports.transcript import Cue, Transcript

_INERT = str.maketrans({"<": "‹", ">": "›", "{": "｛", "}": "｝", "\\": "＼"})

_TIMESTAMP = re.compile(r"\d:\d+:\d+[.,]\d")


def to_srt(transcript: Transcript) -> str:
    subtitles = pysubs2.SSAFile()
    subtitles.events = [_event(cue) for cue in transcript.cues()]
    text: str = subtitles.to_string("srt")
    return text


def _event(cue: Cue) -> pysubs2.SSAEvent:
    line = f"{cue.speaker}: {cue.text}" if cue.speaker else cue.text
    return pysubs2.SSAEvent(start=cue.start_ms, end=cue.end_ms, text=_inert(line))


def _inert(line: str) -> str:
    safe = line.translate(_INERT)
    return safe.replace(":", "∶") if _TIMESTAMP.search(safe) else safe
