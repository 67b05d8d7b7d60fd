"""What was heard of a recording, in the shapes of OpenAI's audio API.

Knows no sockets. Figures are the recognizer's own: where OpenAI's format has a number that it does
not tell, it is null (``docs/clients.md`` says which).
"""

import math
import string
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import orjson

from server.protocols.openai_form import ResponseFormat, Wishes
from server.recordings import Heard
from streaming.engines import DecodingFigures
from streaming.events import CaptionWord, Gap
from streaming.exports import FORMATS
from streaming.exports.transcript import Caption, Transcript
from streaming.guards import compression_ratio
from streaming.timeline import seconds

UNKNOWN_SPEAKER = "unknown"
"""Of words that the diarizer gave to nobody: their format has no null here."""
CONFIDENCE_MIN = 0.00005
"""Confidences come rounded to four decimals; 0 has no logarithm."""
SEEK_PER_SECOND = 100
"""Whisper's frames."""
GAPS_NAMED_MAX = 20
"""A header has 8 kB."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A body and what it is."""

    body: bytes
    media_type: str


def answer(heard: Heard, wishes: Wishes) -> Answer:
    """The whole body, in the format that was asked for."""
    exporter = _EXPORTED.get(wishes.response_format)
    if exporter is not None:
        return exporter(heard)
    fields = _FIELDS[wishes.response_format](heard, wishes)
    return Answer(orjson.dumps(fields), "application/json")


def _exported(name: str, heard: Heard) -> Answer:
    """SRT and WebVTT, which name the speakers where there are any."""
    export = FORMATS[name]
    return Answer(export.export(heard.transcript).encode(), export.media_type)


def _text(heard: Heard) -> Answer:
    return Answer((full_text(heard.transcript) + "\n").encode(), "text/plain; charset=utf-8")


_EXPORTED: Mapping[ResponseFormat, Callable[[Heard], Answer]] = {
    "text": _text,
    "srt": lambda heard: _exported("srt", heard),
    "vtt": lambda heard: _exported("vtt", heard),
}


def full_text(transcript: Transcript) -> str:
    return " ".join(caption.text for caption in transcript.captions if caption.text)


def usage(heard: Heard) -> dict[str, Any]:
    return {"type": "duration", "seconds": heard.audio_seconds}


def _json_fields(heard: Heard, _: Wishes) -> dict[str, Any]:
    fields: dict[str, Any] = {"text": full_text(heard.transcript), "usage": usage(heard)}
    if heard.language is not None:
        fields["languages"] = [{"code": heard.language}]
    return fields


def _verbose_fields(heard: Heard, wishes: Wishes) -> dict[str, Any]:
    has_words = "word" in wishes.granularities
    fields: dict[str, Any] = {
        "task": wishes.start.task,
        # Their clients take no null here; the code for a language that cannot be determined.
        "language": heard.language or "und",
        "duration": heard.audio_seconds,
        "text": full_text(heard.transcript),
        "usage": usage(heard),
    }
    if heard.language_probability is not None:
        fields["language_probability"] = heard.language_probability
    captions = heard.transcript.captions
    if has_words:
        fields["words"] = [_word_fields(word) for c in captions for word in c.words]
    if "segment" in wishes.granularities:
        fields["segments"] = [
            _segment_fields(
                number, caption, heard.figures.get(caption.caption_id), has_words=has_words
            )
            for number, caption in enumerate(captions)
        ]
    return fields


def _word_fields(word: CaptionWord) -> dict[str, Any]:
    return {"word": word.text, "start": seconds(word.span.start), "end": seconds(word.span.end)}


def _segment_fields(
    number: int, caption: Caption, figures: DecodingFigures | None, *, has_words: bool
) -> dict[str, Any]:
    start = seconds(caption.span.start)
    if figures is None:
        mean_logprob, no_speech, temperature = average_logprob(caption.words), None, None
    else:
        mean_logprob = round(figures.mean_log_probability, 4)
        no_speech, temperature = round(figures.no_speech_probability, 6), figures.temperature
    fields: dict[str, Any] = {
        "id": number,
        "seek": int(start * SEEK_PER_SECOND),
        "start": start,
        "end": seconds(caption.span.end),
        "text": caption.text,
        "tokens": [],
        "temperature": temperature,
        "avg_logprob": mean_logprob,
        "compression_ratio": round(compression_ratio(caption.text), 4),
        "no_speech_prob": no_speech,
    }
    if has_words:  # as Whisper's own servers write them
        fields["words"] = [
            {**_word_fields(word), "probability": word.confidence} for word in caption.words
        ]
    return fields


def average_logprob(words: Sequence[CaptionWord]) -> float | None:
    """Mean over the words, each the mean log-probability of its tokens; None where none is known.

    For recognizers that tell no figure of their windows: a confidence is the geometric mean of a
    word's token probabilities. Whisper's own figure weighs a word by its tokens.
    """
    known = [word.confidence for word in words if word.confidence is not None]
    if not known:
        return None
    return round(sum(math.log(max(CONFIDENCE_MIN, value)) for value in known) / len(known), 4)


def _diarized_fields(heard: Heard, _: Wishes) -> dict[str, Any]:
    return {
        "task": "transcribe",
        "duration": heard.audio_seconds,
        "text": full_text(heard.transcript),
        "segments": diarized_segments(heard.transcript),
        "usage": usage(heard),
    }


def diarized_segments(transcript: Transcript) -> list[dict[str, Any]]:
    """One for each run of words by one speaker."""
    return [
        {
            "type": "transcript.text.segment",
            "id": f"seg_{number:03}",
            "start": seconds(passage.span.start),
            "end": seconds(passage.span.end),
            "text": passage.text,
            "speaker": passage.speaker or UNKNOWN_SPEAKER,
        }
        for number, passage in enumerate(transcript.passages(), 1)
    ]


_FIELDS: Mapping[ResponseFormat, Callable[[Heard, Wishes], dict[str, Any]]] = {
    "json": _json_fields,
    "verbose_json": _verbose_fields,
    "diarized_json": _diarized_fields,
}


def lettered(heard: Heard) -> Heard:
    """Its speakers as A, B … in order of appearance; names that are known stay."""
    letters = _letters()
    names: dict[str, str] = {}
    for speaker in heard.transcript.speakers:
        names[speaker] = next(letters) if _is_number(speaker) else speaker
    return renamed(heard, names)


def _is_number(speaker: str) -> bool:
    return speaker[:1] == "S" and speaker[1:].isdigit()


def _letters() -> Iterator[str]:
    """A … Z, AA, AB …"""
    for length in (1, 2, 3):
        for letters in product(string.ascii_uppercase, repeat=length):
            yield "".join(letters)


def renamed(heard: Heard, names: Mapping[str, str]) -> Heard:
    """With other names for some speakers."""

    def renamed_caption(caption: Caption) -> Caption:
        words = tuple(
            replace(word, speaker=names.get(word.speaker or "", word.speaker))
            for word in caption.words
        )
        speaker = names.get(caption.speaker or "", caption.speaker)
        return replace(caption, words=words, speaker=speaker)

    captions = tuple(map(renamed_caption, heard.transcript.captions))
    return replace(heard, transcript=replace(heard.transcript, captions=captions))


def missing(gaps: Sequence[Gap]) -> str:
    """For a header: what was received and could not be captioned."""
    named = [
        f"{seconds(gap.span.start):.3f}-{seconds(gap.span.end):.3f} {gap.reason.value}"
        for gap in gaps[:GAPS_NAMED_MAX]
    ]
    more = len(gaps) - len(named)
    return ", ".join([*named, f"and {more} more"] if more else named)


# Streamed


def framed(fields: dict[str, Any]) -> bytes:
    """One server-sent event."""
    return b"data: " + orjson.dumps(fields) + b"\n\n"


END_OF_STREAM = b"data: [DONE]\n\n"


def delta(text: str, *, is_first: bool) -> bytes:
    """Clients put deltas one behind the other."""
    return framed({"type": "transcript.text.delta", "delta": text if is_first else f" {text}"})


def last_events(heard: Heard, wishes: Wishes) -> list[bytes]:
    """What follows the deltas: segments, whose speakers are settled only now, and the whole."""
    segments = (
        diarized_segments(heard.transcript) if wishes.response_format == "diarized_json" else []
    )
    done: dict[str, Any] = {"type": "transcript.text.done", "text": full_text(heard.transcript)}
    if heard.language is not None:
        done["languages"] = [{"code": heard.language}]
    return [*map(framed, segments), framed(done), END_OF_STREAM]
