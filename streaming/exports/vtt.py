"""WebVTT, written by us: voice spans name the speakers, notes name what was not captioned.

Source: https://www.w3.org/TR/webvtt1/ (cue text and annotations take ``&amp; &lt; &gt;``).
"""

from streaming.events import Gap
from streaming.exports.transcript import Cue, Transcript
from streaming.timeline import seconds

_ESCAPES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})
"""With ``>`` escaped no text can hold the arrow that separates a cue's times."""


def to_vtt(transcript: Transcript) -> str:
    """Blocks in order of time, gaps as notes after the cues."""
    blocks = ["WEBVTT", *map(_block, transcript.cues()), *map(_note, transcript.gaps)]
    return "\n\n".join(blocks) + "\n"


def _block(cue: Cue) -> str:
    text = cue.text.translate(_ESCAPES)
    if cue.speaker:
        text = f"<v {cue.speaker.translate(_ESCAPES)}>{text}</v>"
    return f"{_timestamp(cue.start_ms)} --> {_timestamp(cue.end_ms)}\n{text}"


def _note(gap: Gap) -> str:
    start, end = seconds(gap.span.start), seconds(gap.span.end)
    return f"NOTE no captions from {start:.3f} s to {end:.3f} s: {gap.reason.value}"


def _timestamp(ms: int) -> str:
    minutes, rest = divmod(ms, 60_000)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{rest // 1000:02}.{rest % 1000:03}"
