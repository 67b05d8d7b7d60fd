"""SegLST: a JSON list of passages, as meeteval and the CHiME challenges have it.

Source: https://github.com/fgnt/meeteval, "SegLST". ``channel`` is the lane, from 1; ``caption_id``
and ``language`` are ours, readers pass over them. Not in it: word times, gaps.
"""

import orjson

from streaming.exports.space_fields import FILE_ID, distinct_names, lasting_ms
from streaming.exports.transcript import Transcript, plain


def to_seglst(transcript: Transcript, file_id: str = FILE_ID) -> str:
    names = distinct_names(transcript.speakers, str)
    segments = []
    for passage in transcript.passages():
        start_ms, end_ms = lasting_ms(passage.span)
        segments.append(
            {
                "session_id": plain(file_id) or FILE_ID,
                "speaker": names[passage.speaker],
                "start_time": start_ms / 1000,
                "end_time": end_ms / 1000,
                "words": passage.text,
                "channel": passage.lane + 1,
                "caption_id": passage.caption_id,
                "language": passage.language,
            }
        )
    return orjson.dumps(segments, option=orjson.OPT_INDENT_2).decode() + "\n"
