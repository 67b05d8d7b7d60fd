"""A transcript as subtitles: cues of a size and a duration that can be read.

Owns: when a cue appears and goes. Where text is broken is ``cue_breaks``'s matter.

Invariants:
K6  A cue lasts at least a millisecond and at most ``CUE_MS_MAX``.
K7  Cues of one speaker on one lane never overlap; others overlap only where their words do.
K8  A cue that is shorter than ``SHOWN_MS_MIN`` is shown longer, up to the next cue.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from streaming.exports.cue_breaks import CUE_MS_MAX, SHOWN_MS_MIN, PassageBreaks
from streaming.exports.cue_text import pieces_of
from streaming.exports.transcript import Passage, Transcript, rounded_ms

Prefix = Callable[[str | None], str]
"""What a cue's first line begins with, by speaker."""


@dataclass(frozen=True, slots=True)
class ShapedCue:
    """What is on the screen for a while, by one speaker."""

    start_ms: int
    end_ms: int
    lane: int
    speaker: str | None
    lines: tuple[str, ...]


def shaped_cues(transcript: Transcript, prefix: Prefix) -> list[ShapedCue]:
    """All passages as cues, by start."""
    cues = [cue for passage in transcript.passages() for cue in _cues(passage, prefix)]
    apart = _apart(sorted(cues, key=lambda cue: cue.start_ms))
    return _readable(sorted(apart, key=lambda cue: cue.start_ms))


def _cues(passage: Passage, prefix: Prefix) -> Iterator[ShapedCue]:
    begin = prefix(passage.speaker)
    for span, lines in PassageBreaks(pieces_of(passage.words, begin), begin).cues():
        start_ms, end_ms = rounded_ms(span.start), rounded_ms(span.end)
        yield ShapedCue(start_ms, end_ms, passage.lane, passage.speaker, lines)


def _apart(cues: list[ShapedCue]) -> list[ShapedCue]:
    """Each speaker's cues one after the other: ends cut, where need be starts moved by 1 ms."""
    moved: list[ShapedCue] = []
    last_of: dict[tuple[int, str | None], int] = {}
    for cue in cues:
        start_ms = cue.start_ms
        last = last_of.get((cue.lane, cue.speaker))
        if last is not None:
            previous = moved[last]
            start_ms = max(start_ms, previous.start_ms + 1)
            moved[last] = replace(previous, end_ms=min(previous.end_ms, start_ms))
        end_ms = min(max(cue.end_ms, start_ms + 1), start_ms + CUE_MS_MAX)
        last_of[cue.lane, cue.speaker] = len(moved)
        moved.append(replace(cue, start_ms=start_ms, end_ms=end_ms))
    return moved


def _readable(cues: list[ShapedCue]) -> list[ShapedCue]:
    starts = [cue.start_ms for cue in cues]
    shown = []
    for cue in cues:
        following = bisect_left(starts, cue.end_ms)
        limit = starts[following] if following < len(starts) else cue.end_ms + SHOWN_MS_MIN
        end_ms = max(cue.end_ms, min(limit, cue.start_ms + SHOWN_MS_MIN))
        shown.append(replace(cue, end_ms=end_ms))
    return shown
