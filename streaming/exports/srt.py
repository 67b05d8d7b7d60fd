"""SubRip (SRT): numbered cues, ``S1: text``.

SRT has no escapes, and players read tags in angle brackets and in braces, and line breaks after a
backslash, so those characters are replaced by look-alikes that mean nothing to a player. So are the
colons of a line with a whole timestamp in it: some readers, pysubs2 among them, take any line with
two of those for the start of a cue. The same readers take a last line of mere digits for the next
cue's number; ``cue_breaks`` makes none.
"""

import re

from streaming.exports.cue_text import columns
from streaming.exports.shaped_cues import ShapedCue, shaped_cues
from streaming.exports.transcript import Transcript
from streaming.exports.vtt import timestamp

NAME_COLUMNS_MAX = 20
"""Of a speaker's name; a longer one would leave no room for words."""

_INERT = str.maketrans({"<": "‹", ">": "›", "{": "❴", "}": "❵", "\\": "⧵"})
"""All as wide as what they replace."""

_TIMESTAMP = re.compile(r"\d:\d+:\d+[.,]\d")


def to_srt(transcript: Transcript) -> str:
    blocks = map(_block, enumerate(shaped_cues(transcript, _prefix), 1))
    return "".join(f"{block}\n\n" for block in blocks)


def _prefix(speaker: str | None) -> str:
    if not speaker:
        return ""
    if columns(speaker) <= NAME_COLUMNS_MAX:
        return f"{speaker}: "
    short = speaker[: NAME_COLUMNS_MAX - 1]
    while columns(short) >= NAME_COLUMNS_MAX:
        short = short[:-1]
    return f"{short}…: "


def _block(numbered: tuple[int, ShapedCue]) -> str:
    number, cue = numbered
    start, end = timestamp(cue.start_ms, ","), timestamp(cue.end_ms, ",")
    lines = "\n".join(map(_inert, cue.lines))
    return f"{number}\n{start} --> {end}\n{lines}"


def _inert(line: str) -> str:
    safe = line.translate(_INERT)
    return safe.replace(":", "∶") if _TIMESTAMP.search(safe) else safe
