"""WebVTT, written by us: voice spans name the speakers, notes name what was not captioned.

Source: https://www.w3.org/TR/webvtt1/ (cue text and annotations take ``&amp; &lt; &gt;``).
"""

from streaming.events import Gap
from streaming.exports.shaped_cues import ShapedCue, shaped_cues
from streaming.exports.transcript import Transcript
from streaming.timeline import SAMPLES_PER_MS, seconds

_ESCAPES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})
"""With ``>`` escaped no text can hold the arrow that separates a cue's times."""


def to_vtt(transcript: Transcript) -> str:
    """Blocks in order of time."""
    blocks = [(gap.span.start // SAMPLES_PER_MS, _note(gap)) for gap in transcript.gaps]
    blocks += [(cue.start_ms, _block(cue)) for cue in shaped_cues(transcript, _no_prefix)]
    in_order = [text for _, text in sorted(blocks, key=lambda block: block[0])]
    return "\n\n".join(["WEBVTT", *in_order]) + "\n"


def timestamp(ms: int, point: str = ".") -> str:
    """At least two digits of hours."""
    minutes, rest = divmod(ms, 60_000)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{rest // 1000:02}{point}{rest % 1000:03}"


def _no_prefix(_: str | None) -> str:
    return ""


def _block(cue: ShapedCue) -> str:
    text = "\n".join(cue.lines).translate(_ESCAPES)
    if cue.speaker:
        text = f"<v {_annotation(cue.speaker)}>{text}</v>"
    return f"{timestamp(cue.start_ms)} --> {timestamp(cue.end_ms)}\n{text}"


def _annotation(speaker: str) -> str:
    """A name that ends in hyphens must not make an arrow of the bracket behind it."""
    name = speaker.translate(_ESCAPES)
    return f"{name[:-1]}&#45;" if name.endswith("-") else name


def _note(gap: Gap) -> str:
    start, end = seconds(gap.span.start), seconds(gap.span.end)
    return f"NOTE no captions from {start:.3f} s to {end:.3f} s: {gap.reason.value}"
