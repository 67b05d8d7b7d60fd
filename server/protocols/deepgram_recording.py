"""A whole recording by ``POST /v1/listen``: its bytes to a session, one answer back.

Owns the shape of Deepgram's prerecorded answer, and how raw audio is told to the decoder. The
session and the decoding are ``server/recordings.py``'s. Speakers are those of the session's end,
which nothing changes any more.
"""

import asyncio
import hashlib
import struct
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import groupby

from aiohttp import StreamReader

from server.hub import utc_text
from server.protocols.deepgram_messages import (
    Message,
    ModelInfo,
    SpokenWord,
    alternative,
    spoken_words,
    transcript,
)
from server.protocols.deepgram_query import ListenOptions, Terms
from server.protocols.deepgram_results import Voices, settled_voices
from server.recordings import Heard
from streaming.errors import BadAudio, IdleTooLong
from streaming.exports.transcript import Caption
from streaming.timeline import samples_from_ms, seconds
from streaming.wire import Encoding

BODY_SECONDS_MAX = 30.0
"""Between two pieces of an upload."""
PARAGRAPH_PAUSE_SAMPLES = samples_from_ms(2_000)
_SENTENCE_ENDS = (".", "?", "!", "…", "。", "？", "！")
_WAV_FORMATS: dict[Encoding, tuple[int, int]] = {
    "pcm_s16le": (1, 16),
    "pcm_f32le": (3, 32),
    "alaw": (6, 8),
    "mulaw": (7, 8),
}
"""Format tag and bits."""
_UNKNOWN_SIZE = 0xFFFFFFFF


class Upload:
    """The bytes of a request, as they come."""

    def __init__(self, body: StreamReader, header: bytes) -> None:
        """``header`` stands before them for the decoder; it is not theirs."""
        self._body = body
        self._header = header
        self._digest = hashlib.sha256()

    @property
    def digest(self) -> str:
        """SHA-256 in hexadecimal."""
        return self._digest.hexdigest()

    async def pieces(self) -> AsyncIterator[bytes]:
        """Raises: IdleTooLong, BadAudio where there are none, ConnectionError."""
        is_empty = True
        while piece := await self._piece():
            self._digest.update(piece)
            yield self._header + piece if is_empty else piece
            is_empty = False
        if is_empty:
            raise BadAudio("the body is empty; send the recording's bytes")

    async def _piece(self) -> bytes:
        try:
            async with asyncio.timeout(BODY_SECONDS_MAX):
                return await self._body.readany()
        except TimeoutError:
            raise IdleTooLong(f"no bytes for {BODY_SECONDS_MAX:g} s; send it again") from None


def decoder_header(options: ListenOptions) -> bytes:
    """What makes raw audio a WAV file of unknown length; nothing for what has a container."""
    if not options.is_raw or options.sample_rate is None:
        return b""
    tag, bits = _WAV_FORMATS[options.raw_encoding]
    frame_bytes = options.channels * bits // 8
    rate = options.sample_rate
    shape = struct.pack(
        "<HHIIHH", tag, options.channels, rate, rate * frame_bytes, frame_bytes, bits
    )
    return b"".join(
        (
            b"RIFF" + struct.pack("<I", _UNKNOWN_SIZE) + b"WAVE",
            b"fmt " + struct.pack("<I", len(shape)) + shape,
            b"data" + struct.pack("<I", _UNKNOWN_SIZE),
        )
    )


@dataclass(frozen=True, slots=True)
class Request:
    """What is told of the request itself."""

    request_id: str
    sha256: str
    created: datetime
    channels: int
    model: ModelInfo


@dataclass(slots=True)
class _Channel:
    words: list[SpokenWord] = field(default_factory=list)
    utterances: list[Message] = field(default_factory=list)


def answer(request: Request, heard: Heard, terms: Terms) -> Message:
    """The whole answer."""
    channels = _channels(request, heard, terms)
    results: Message = {"channels": [_channel_fields(c, heard, terms) for c in channels]}
    if terms.tells_utterances:
        utterances = [told for channel in channels for told in channel.utterances]
        results["utterances"] = sorted(utterances, key=lambda told: told["start"])
    return {"metadata": _metadata(request, heard), "results": results}


def _metadata(request: Request, heard: Heard) -> Message:
    model = request.model
    return {
        "transaction_key": "deprecated",
        "request_id": request.request_id,
        "sha256": request.sha256,
        "created": utc_text(request.created),
        "duration": heard.audio_seconds,
        "channels": request.channels,
        "models": [model.uuid],
        "model_info": {model.uuid: model.fields()},
    }


def _channels(request: Request, heard: Heard, terms: Terms) -> list[_Channel]:
    channels = [_Channel() for _ in range(request.channels)]
    voices = Voices()
    for caption in heard.transcript.captions:
        words = _words(caption, terms, voices)
        channel = channels[caption.lane]
        channel.words += words
        runs = groupby(words, key=lambda word: word.speaker)
        channel.utterances += [
            _utterance(caption, index, list(run), terms) for index, (_, run) in enumerate(runs)
        ]
    return channels


def _words(caption: Caption, terms: Terms, voices: Voices) -> list[SpokenWord]:
    speakers = [word.speaker for word in caption.words]
    numbers = settled_voices(speakers, voices) if terms.diarize else [None] * len(speakers)
    return spoken_words(caption.words, numbers)


def _utterance(caption: Caption, index: int, words: list[SpokenWord], terms: Terms) -> Message:
    told = alternative(words, punctuate=terms.punctuate)
    fields: Message = {
        "start": seconds(words[0].span.start),
        "end": seconds(max(word.span.end for word in words)),
        "confidence": told["confidence"],
        "channel": caption.lane,
        "transcript": told["transcript"],
        "words": told["words"],
        "id": f"{caption.caption_id}.{index}",
    }
    if words[0].speaker is not None:
        fields["speaker"] = words[0].speaker
    return fields


def _channel_fields(channel: _Channel, heard: Heard, terms: Terms) -> Message:
    language = heard.language if terms.tells_language else None
    told = alternative(channel.words, punctuate=terms.punctuate, language=language)
    if terms.tells_paragraphs:
        told["paragraphs"] = _paragraphs(channel.words, terms)
    fields: Message = {"alternatives": [told]}
    if terms.detects_language and heard.language is not None:
        fields["detected_language"] = heard.language
        if heard.language_probability is not None:
            fields["language_confidence"] = heard.language_probability
    return fields


# Paragraphs


def _paragraphs(words: Sequence[SpokenWord], terms: Terms) -> Message:
    told = [_paragraph(part, terms) for part in _split(words, _begins_paragraph)]
    texts = (_paragraph_text(paragraph) for paragraph in told)
    return {"transcript": "\n\n".join(texts), "paragraphs": told}


def _paragraph_text(paragraph: Message) -> str:
    text = " ".join(sentence["text"] for sentence in paragraph["sentences"])
    speaker = paragraph.get("speaker")
    return text if speaker is None else f"Speaker {speaker}: {text}"


def _paragraph(words: list[SpokenWord], terms: Terms) -> Message:
    fields: Message = {
        "sentences": [_sentence(part, terms) for part in _split(words, _begins_sentence)],
        "num_words": len(words),
        **_times(words),
    }
    if words[0].speaker is not None:
        fields["speaker"] = words[0].speaker
    return fields


def _sentence(words: list[SpokenWord], terms: Terms) -> Message:
    return {"text": transcript(words, punctuate=terms.punctuate), **_times(words)}


def _times(words: Sequence[SpokenWord]) -> Message:
    end = max(word.span.end for word in words)
    return {"start": seconds(words[0].span.start), "end": seconds(end)}


def _split(
    words: Sequence[SpokenWord], begins: Callable[[SpokenWord, SpokenWord], bool]
) -> Iterator[list[SpokenWord]]:
    part: list[SpokenWord] = []
    for word in words:
        if part and begins(part[-1], word):
            yield part
            part = []
        part.append(word)
    if part:
        yield part


def _begins_paragraph(before: SpokenWord, word: SpokenWord) -> bool:
    is_pause = word.span.start - before.span.end >= PARAGRAPH_PAUSE_SAMPLES
    return before.speaker != word.speaker or (is_pause and _begins_sentence(before, word))


def _begins_sentence(before: SpokenWord, _: SpokenWord) -> bool:
    return before.text.endswith(_SENTENCE_ENDS)
