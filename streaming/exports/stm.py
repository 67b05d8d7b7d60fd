"""STM: one line per passage with its speaker and times; the channel is the lane, from 1.

Source: NIST's sclite manual, "STM". Not in it: word times, confidences, gaps.
"""

from streaming.exports.space_fields import (
    FILE_ID,
    decimal_seconds,
    distinct_names,
    file_field,
    lasting_ms,
    name_field,
    word_field,
)
from streaming.exports.transcript import Transcript


def to_stm(transcript: Transcript, file_id: str = FILE_ID) -> str:
    """Lines by channel, then by start, as sclite wants them."""
    names = distinct_names(transcript.speakers, name_field)
    lines = []
    for passage in sorted(transcript.passages(), key=lambda p: (p.lane, p.span)):
        start_ms, end_ms = lasting_ms(passage.span)
        times = f"{decimal_seconds(start_ms)} {decimal_seconds(end_ms)}"
        head = f"{file_field(file_id)} {passage.lane + 1} {names[passage.speaker]} {times}"
        lines.append(f"{head} {word_field(passage.text)}\n")
    return "".join(lines)
