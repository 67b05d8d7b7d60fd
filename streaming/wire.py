"""The native protocol's messages and their JSON, both directions, for server and clients.

Times on the wire are seconds with three decimals on the audio clock. Nothing here reads or
writes a socket. ``docs/protocol.md`` shows each message; a test parses every example there.

Client → server: ``parse_client_message`` checks each field's type and range and raises
``BadMessage`` with a sentence that names the field. Server → client: ``encode_event`` and the
message dataclasses below; ``parse_server_message`` is their inverse for clients.
"""

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import orjson
from pydantic import Field, TypeAdapter, ValidationError

from streaming.errors import BadMessage
from streaming.events import (
    CaptionWord,
    Degraded,
    Done,
    DurableEvent,
    Event,
    Final,
    Gap,
    GapReason,
    Lag,
    LanguageDetected,
    Partial,
    Quantiles,
    Revision,
    ServerPart,
    SessionStage,
    SpeakerRun,
    SpeechEnded,
    SpeechStarted,
)
from streaming.session_options import (
    CHANNELS_MAX,
    KEYWORDS_MAX,
    NAME_CHARACTERS_MAX,
    PROMPT_CHARACTERS_MAX,
    SAMPLE_RATE_HZ_MAX,
    SAMPLE_RATE_HZ_MIN,
    AudioFormat,
    Encoding,
    Message,
    Name,
    Start,
)
from streaming.timeline import Span, samples_from_seconds, seconds

__all__ = [  # what ``session_options`` has for whoever speaks the protocol; the rest is made here
    "CHANNELS_MAX",
    "KEYWORDS_MAX",
    "NAME_CHARACTERS_MAX",
    "PROMPT_CHARACTERS_MAX",
    "SAMPLE_RATE_HZ_MAX",
    "SAMPLE_RATE_HZ_MIN",
    "AudioFormat",
    "Encoding",
    "Start",
]

SUBPROTOCOL = "captiond.v1"
STREAM_PATH = "/v1/stream"

CONTROL_MESSAGE_BYTES_MAX = 64 * 1024
"""A start message with every option at its limit is under 20 kB."""
AUDIO_MESSAGE_BYTES_MAX = 256 * 1024
"""8 s of 16 kHz PCM16: far above any live packet, far below a memory attack."""
SKIP_MS_MAX = 24 * 3600 * 1000


class Resume(Message):
    """Continues a session on a new connection, or as a second reader takes it over."""

    type: Literal["resume"] = "resume"
    session_id: str = Field(max_length=64)
    resume_token: str = Field(max_length=128)
    last_seq: int = Field(0, ge=0)


LaneNumber = Annotated[int, Field(ge=0, lt=CHANNELS_MAX)]


class Lane(Message):
    """Adds a lane of tagged audio, or says whose it is from now on."""

    type: Literal["lane"] = "lane"
    lane: LaneNumber
    name: Name | None = None
    """None: several people, or one whose name is not known."""


class Skip(Message):
    """Time passed without audio: muted, or a discontinuous source."""

    type: Literal["skip"] = "skip"
    ms: int = Field(ge=1, le=SKIP_MS_MAX)
    lane: LaneNumber | None = None
    """Of tagged audio; None: for all lanes."""


class Flush(Message):
    """Closes the open utterances now."""

    type: Literal["flush"] = "flush"


class Configure(Message):
    """Changes options of a running session; what is left out stays."""

    type: Literal["configure"] = "configure"
    language: str | None = Field(None, pattern="^[a-z]{2,3}$")
    prompt: str | None = Field(None, max_length=PROMPT_CHARACTERS_MAX)
    keywords: list[Name] | None = Field(None, max_length=KEYWORDS_MAX)


class End(Message):
    """No more audio: finish every caption, then close."""

    type: Literal["end"] = "end"


ClientMessage = Start | Resume | Lane | Skip | Flush | Configure | End
_CLIENT_MESSAGE: TypeAdapter[ClientMessage] = TypeAdapter(
    Annotated[ClientMessage, Field(discriminator="type")]
)


def parse_client_message(data: str | bytes) -> ClientMessage:
    """Raises: BadMessage, in words that name the offending field."""
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise BadMessage(f"not JSON ({error}); send one JSON object per text message") from None
    if not isinstance(value, dict):
        raise BadMessage('send a JSON object with a "type", for example {"type":"start"}')
    try:
        return _CLIENT_MESSAGE.validate_python(value)
    except ValidationError as error:
        raise BadMessage(_first_complaint(error, value)) from None


def _first_complaint(error: ValidationError, value: dict[str, Any]) -> str:
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    location = [str(part) for part in first["loc"]]
    if location and location[0] == value.get("type"):
        location = location[1:]
    where = ".".join(location) or "type"
    return f'"{where}": {first["msg"]}; see the message table in docs/protocol.md'


def encode_client_message(message: ClientMessage) -> str:
    """JSON of the fields that were given: in ``configure`` a null takes a value away."""
    fields = {"type": message.type, **message.model_dump(exclude_unset=True)}
    return orjson.dumps(fields).decode()


@dataclass(frozen=True, slots=True)
class Ready:
    """Answers ``start`` and ``resume``."""

    session_id: str
    resume_token: str
    seq: int
    """The last durable event that this connection will not send again."""
    resume_from_frame: int
    """Send audio from this frame of your own sample rate."""
    credit_until_frame: int
    """Audio up to this frame may be sent now."""
    wall_clock: str
    """When the session's audio clock started, ISO 8601 in UTC."""
    engines: dict[str, str]
    limits: dict[str, int] = field(default_factory=dict)
    type: Literal["ready"] = "ready"


@dataclass(frozen=True, slots=True)
class Ack:
    stored_through_frame: int
    """Audio before this frame will never be asked for again."""
    credit_until_frame: int
    type: Literal["ack"] = "ack"


@dataclass(frozen=True, slots=True)
class DrainNotice:
    """The server goes down: it finishes what it has received, then closes with 1012."""

    deadline_s: float
    type: Literal["draining"] = "draining"


@dataclass(frozen=True, slots=True)
class ErrorNotice:
    """Stands before every close that is not the end of a session."""

    code: str
    message: str
    retry_after_ms: int | None = None
    type: Literal["error"] = "error"


ServerNotice = Ready | Ack | DrainNotice | ErrorNotice
ServerMessage = ServerNotice | Event


def encode_notice(notice: ServerNotice) -> bytes:
    return orjson.dumps(notice)


def encode_event(event: Event, *, with_words: bool = True, is_durable: bool = True) -> bytes:
    """JSON of one event; ``with_words=False`` leaves out the word list, not the text.

    ``is_durable=False`` marks a durable event that is sent before the store has it.
    """
    fields = event_fields(event, with_words=with_words)
    return orjson.dumps(fields if is_durable else {**fields, "durable": False})


def event_fields(event: Event, *, with_words: bool = True) -> dict[str, Any]:
    """The event as plain JSON values."""
    fields: dict[str, Any] = _FIELDS_OF[type(event)](event, with_words)
    return fields


def _word_fields(word: CaptionWord) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "word": word.text,
        "start": seconds(word.span.start),
        "end": seconds(word.span.end),
        "confidence": word.confidence,
        "speaker": word.speaker,
    }
    if word.is_glued:
        fields["glued"] = True
    return fields


def _caption_fields(kind: str, event: Final | Partial, with_words: bool) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "type": kind,
        "caption_id": event.caption_id,
        "lane": event.lane,
        "start": seconds(event.span.start),
        "end": seconds(event.span.end),
        "text": event.text,
        "speaker": event.speaker,
    }
    if with_words:
        fields["words"] = [_word_fields(word) for word in event.words]
    return fields


def _final_fields(event: Final, with_words: bool) -> dict[str, Any]:
    return {
        **_caption_fields("final", event, with_words),
        "seq": event.seq,
        "language": event.language,
        "confidence": event.confidence,
    }


def _partial_fields(event: Partial, with_words: bool) -> dict[str, Any]:
    return {
        **_caption_fields("partial", event, with_words),
        "stable_words": event.stable_words,
        "after_seq": event.after_seq,
    }


def _revision_fields(event: Revision, _: bool) -> dict[str, Any]:
    runs = [
        {"from_word": run.from_word, "to_word": run.to_word, "speaker": run.speaker}
        for run in event.runs
    ]
    return {
        "type": "revision",
        "seq": event.seq,
        "caption_id": event.caption_id,
        "rev": event.rev,
        "runs": runs,
    }


def _language_fields(event: LanguageDetected, _: bool) -> dict[str, Any]:
    return {
        "type": "language",
        "seq": event.seq,
        "language": event.language,
        "probability": event.probability,
    }


def _gap_fields(event: Gap, _: bool) -> dict[str, Any]:
    return {
        "type": "gap",
        "seq": event.seq,
        "lane": event.lane,
        "start": seconds(event.span.start),
        "end": seconds(event.span.end),
        "reason": event.reason.value,
    }


def _done_fields(event: Done, _: bool) -> dict[str, Any]:
    def quantiles(value: Quantiles) -> dict[str, float | None]:
        return {"p50": value.p50, "p95": value.p95}

    return {
        "type": "done",
        "seq": event.seq,
        "audio_seconds": event.audio_seconds,
        "decoded_seconds": event.decoded_seconds,
        "silent_seconds": event.silent_seconds,
        "gap_seconds": event.gap_seconds,
        "rtfx": event.rtfx,
        "words": event.words,
        "speakers": event.speakers,
        "partial_latency_s": quantiles(event.partial_latency_s),
        "final_latency_s": quantiles(event.final_latency_s),
    }


def _speech_fields(kind: str, event: SpeechStarted | SpeechEnded) -> dict[str, Any]:
    return {
        "type": kind,
        "lane": event.lane,
        "time": seconds(event.at),
        "after_seq": event.after_seq,
    }


def _lag_fields(event: Lag, _: bool) -> dict[str, Any]:
    return {"type": "lag", "seconds": event.seconds, "after_seq": event.after_seq}


def _degraded_fields(event: Degraded, _: bool) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "type": "degraded",
        "stage": event.stage.value,
        "reason": event.reason,
        "after_seq": event.after_seq,
    }
    if event.is_over:
        fields["over"] = True
    return fields


_FIELDS_OF: dict[type, Any] = {
    Final: _final_fields,
    Partial: _partial_fields,
    Revision: _revision_fields,
    LanguageDetected: _language_fields,
    Gap: _gap_fields,
    Done: _done_fields,
    SpeechStarted: lambda event, _: _speech_fields("speech_started", event),
    SpeechEnded: lambda event, _: _speech_fields("speech_ended", event),
    Lag: _lag_fields,
    Degraded: _degraded_fields,
}


def parse_server_message(data: str | bytes) -> ServerMessage:
    """The inverse of ``encode_event`` and ``encode_notice``, for clients.

    Raises: BadMessage for anything that is not a message of this protocol version.
    """
    try:
        fields = orjson.loads(data)
        message: ServerMessage = _PARSERS[fields["type"]](fields)
    except (orjson.JSONDecodeError, LookupError, TypeError, ValueError, OverflowError) as error:
        raise BadMessage(f"not a captiond.v1 server message: {error!r}") from None
    return message


def parse_durable_event(fields: dict[str, Any]) -> DurableEvent:
    """One stored event, as ``event_fields`` made it."""
    event: DurableEvent = _PARSERS[fields["type"]](fields)
    return event


def _span(fields: dict[str, Any]) -> Span:
    return Span(samples_from_seconds(fields["start"]), samples_from_seconds(fields["end"]))


def _words(fields: dict[str, Any]) -> tuple[CaptionWord, ...]:
    return tuple(
        CaptionWord(
            text=word["word"],
            span=_span(word),
            confidence=word["confidence"],
            speaker=word["speaker"],
            is_glued=word.get("glued", False),
        )
        for word in fields.get("words", ())
    )


def _parse_final(fields: dict[str, Any]) -> Final:
    return Final(
        seq=fields["seq"],
        caption_id=fields["caption_id"],
        lane=fields["lane"],
        span=_span(fields),
        text=fields["text"],
        language=fields["language"],
        confidence=fields["confidence"],
        speaker=fields["speaker"],
        words=_words(fields),
    )


def _parse_partial(fields: dict[str, Any]) -> Partial:
    return Partial(
        after_seq=fields["after_seq"],
        caption_id=fields["caption_id"],
        lane=fields["lane"],
        span=_span(fields),
        text=fields["text"],
        stable_words=fields["stable_words"],
        speaker=fields["speaker"],
        words=_words(fields),
    )


def _parse_done(fields: dict[str, Any]) -> Done:
    values = {name: fields[name] for name in Done.__slots__}
    for name in ("partial_latency_s", "final_latency_s"):
        values[name] = Quantiles(values[name]["p50"], values[name]["p95"])
    return Done(**values)


def _stage(name: str) -> SessionStage | ServerPart:
    return ServerPart.STORE if name == ServerPart.STORE else SessionStage(name)


def _named(cls: type) -> Any:
    """A parser for messages whose JSON fields are the dataclass's own."""

    def parse(fields: dict[str, Any]) -> Any:
        return cls(**{name: fields[name] for name in cls.__slots__ if name in fields})  # type: ignore[attr-defined]

    return parse


_PARSERS: dict[str, Any] = {
    "final": _parse_final,
    "partial": _parse_partial,
    "revision": lambda f: Revision(
        f["seq"], f["caption_id"], f["rev"], tuple(SpeakerRun(**run) for run in f["runs"])
    ),
    "language": _named(LanguageDetected),
    "gap": lambda f: Gap(f["seq"], f["lane"], _span(f), GapReason(f["reason"])),
    "done": _parse_done,
    "speech_started": lambda f: SpeechStarted(
        f["after_seq"], f["lane"], samples_from_seconds(f["time"])
    ),
    "speech_ended": lambda f: SpeechEnded(
        f["after_seq"], f["lane"], samples_from_seconds(f["time"])
    ),
    "lag": _named(Lag),
    "degraded": lambda f: Degraded(
        f["after_seq"], _stage(f["stage"]), f["reason"], f.get("over", False)
    ),
    "ready": _named(Ready),
    "ack": _named(Ack),
    "draining": _named(DrainNotice),
    "error": _named(ErrorNotice),
}
