"""JSON: every caption with its words, the gaps and the speakers, times in seconds.

Nothing is cleaned here: JSON carries any text safely, and whoever reads it may want all of it.
"""

from typing import Any

import orjson

from streaming.events import CaptionWord, Gap
from streaming.exports.transcript import Caption, Transcript
from streaming.timeline import seconds


def to_json(transcript: Transcript) -> str:
    document = {
        "audio_seconds": transcript.audio_seconds,
        "speakers": list(transcript.speakers),
        "captions": [_caption_fields(caption) for caption in transcript.captions],
        "gaps": [_gap_fields(gap) for gap in transcript.gaps],
    }
    return orjson.dumps(document, option=orjson.OPT_INDENT_2).decode() + "\n"


def _caption_fields(caption: Caption) -> dict[str, Any]:
    return {
        "caption_id": caption.caption_id,
        "lane": caption.lane,
        "start": seconds(caption.span.start),
        "end": seconds(caption.span.end),
        "text": _encodable(caption.text),
        "language": caption.language,
        "confidence": caption.confidence,
        "speaker": _encodable(caption.speaker),
        "words": [_word_fields(word) for word in caption.words],
    }


def _word_fields(word: CaptionWord) -> dict[str, Any]:
    glued = {"glued": True} if word.is_glued else {}
    return {
        "word": _encodable(word.text),
        "start": seconds(word.span.start),
        "end": seconds(word.span.end),
        "confidence": word.confidence,
        "speaker": _encodable(word.speaker),
        **glued,
    }


def _gap_fields(gap: Gap) -> dict[str, Any]:
    return {
        "lane": gap.lane,
        "start": seconds(gap.span.start),
        "end": seconds(gap.span.end),
        "reason": gap.reason.value,
    }


def _encodable(text: str | None) -> str | None:
    """A lone surrogate, which UTF-8 cannot hold, becomes a question mark."""
    return None if text is None else text.encode(errors="replace").decode()
