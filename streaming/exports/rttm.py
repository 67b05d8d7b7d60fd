"""RTTM: who spoke when, as turns made from the words; the channel is the lane, from 1.

Source: NIST's RT-09 evaluation plan, appendix A; the ten fields that pyannote.database reads.
Words without a speaker, gaps and text are not in it.
"""

from collections.abc import Iterator
from dataclasses import replace

from streaming.events import CaptionWord
from streaming.exports.space_fields import (
    FILE_ID,
    decimal_seconds,
    distinct_names,
    file_field,
    lasting_ms,
    name_field,
)
from streaming.exports.transcript import Transcript
from streaming.exports.turns_of_words import turns_of_words
from streaming.turns import Turn


def to_rttm(transcript: Transcript, file_id: str = FILE_ID) -> str:
    names = distinct_names(transcript.speakers, name_field)
    turns = sorted((turn.span, lane, turn.speaker) for lane, turn in _turns(transcript))
    lines = []
    for span, lane, speaker in turns:
        start_ms, end_ms = lasting_ms(span)
        start, duration = decimal_seconds(start_ms), decimal_seconds(end_ms - start_ms)
        place = f"{file_field(file_id)} {lane + 1} {start} {duration}"
        lines.append(f"SPEAKER {place} <NA> <NA> {names[speaker]} <NA> <NA>\n")
    return "".join(lines)


def _turns(transcript: Transcript) -> Iterator[tuple[int, Turn]]:
    """With their lanes."""
    by_lane: dict[int, list[CaptionWord]] = {}
    for passage in transcript.passages():
        words = (replace(word, speaker=passage.speaker) for word in passage.words)
        by_lane.setdefault(passage.lane, []).extend(words)
    for lane, words_of_lane in by_lane.items():
        for turn in turns_of_words(words_of_lane):
            yield lane, turn
