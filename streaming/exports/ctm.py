"""CTM: one line per word with its times and confidence; the channel is the lane, from 1.

Source: NIST's sclite manual, "CTM". Not in it: speakers, gaps, and which words have no space
before them. A word that took no time keeps a duration of 0.
"""

from streaming.exports.space_fields import FILE_ID, decimal_seconds, file_field, word_field
from streaming.exports.transcript import Transcript, rounded_ms


def to_ctm(transcript: Transcript, file_id: str = FILE_ID) -> str:
    """Lines by channel, then by start, as sclite wants them."""
    words = [(p.lane, word) for p in transcript.passages() for word in p.words]
    lines = []
    for lane, word in sorted(words, key=lambda found: (found[0], found[1].span)):
        start_ms = rounded_ms(word.span.start)
        duration_ms = rounded_ms(word.span.end) - start_ms
        times = f"{decimal_seconds(start_ms)} {decimal_seconds(duration_ms)}"
        confidence = "" if word.confidence is None else f" {word.confidence:.3f}"
        lines.append(
            f"{file_field(file_id)} {lane + 1} {times} {word_field(word.text)}{confidence}\n"
        )
    return "".join(lines)
