"""Plain text: one line per cue, ``S1: text``; audio without captions is named in brackets."""

from streaming.events import Gap
from streaming.exports.transcript import Cue, Transcript
from streaming.timeline import SAMPLES_PER_MS, seconds


def to_txt(transcript: Transcript) -> str:
    lines = [(cue.start_ms, _line(cue)) for cue in transcript.cues()]
    lines += [(gap.span.start // SAMPLES_PER_MS, _gap_line(gap)) for gap in transcript.gaps]
    in_order = sorted(lines, key=lambda line: line[0])
    return "".join(f"{text}\n" for _, text in in_order)


def _line(cue: Cue) -> str:
    return f"{cue.speaker}: {cue.text}" if cue.speaker else cue.text


def _gap_line(gap: Gap) -> str:
    start, end = seconds(gap.span.start), seconds(gap.span.end)
    return f"[no captions from {start:.3f} s to {end:.3f} s: {gap.reason.value}]"
