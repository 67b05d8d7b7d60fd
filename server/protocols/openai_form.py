"""A multipart form of OpenAI's audio API → what is to be done with which recording.

Owns the fields' names, encodings and ranges. Their clients write lists in three ways (``name[]``
again and again, ``name`` again and again, or one JSON array), objects in two, and put the file
first or last: all are read. Unknown fields are ignored, as OpenAI adds some every month; what
captiond has no use for is named in ``ignored``.

Bounds: ``FILE_BYTES_MAX`` for the recording, ``TEXT_BYTES_MAX`` for all other fields together,
``FIELDS_MAX`` of them; a part that does not come within ``PART_SECONDS_MAX`` ends the upload.
"""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import orjson
from aiohttp import BodyPartReader, MultipartReader, web
from aiohttp.http_exceptions import HttpProcessingError

from streaming.errors import BadMessage, IdleTooLong, TooBig
from streaming.tuning_ranges import ENDPOINTING_MS_MAX, ENDPOINTING_MS_MIN
from streaming.wire import (
    KEYWORDS_MAX,
    NAME_CHARACTERS_MAX,
    PROMPT_CHARACTERS_MAX,
    Start,
)

MIB = 1024 * 1024
FILE_BYTES_MAX = 25 * MIB
"""Theirs."""
TEXT_BYTES_MAX = 16 * MIB
"""Four voices of ten seconds as WAV in base64 are the most that is of use."""
FIELDS_MAX = 300
PART_SECONDS_MAX = 30.0
"""Between two parts of an upload; a line that is slower than that has broken."""
PART_BYTES = 64 * 1024
SPEAKERS_MAX = 4
"""Theirs, of those that can be made known."""

ResponseFormat = Literal["json", "text", "srt", "verbose_json", "vtt", "diarized_json"]
RESPONSE_FORMATS: tuple[ResponseFormat, ...] = (
    *("json", "text", "srt", "verbose_json", "vtt", "diarized_json"),
)
STREAMED_FORMATS = ("json", "text", "diarized_json")
GRANULARITIES = ("word", "segment")
_TRUE, _FALSE = ("true", "1", "yes"), ("false", "0", "no", "null", "")


class BadField(BadMessage):
    """A field of the form is wrong; ``param`` is its name."""

    def __init__(self, param: str, message: str) -> None:
        super().__init__(message)
        self.param = param


@dataclass(frozen=True, slots=True)
class KnownSpeaker:
    name: str
    reference: str
    """A data URL."""


@dataclass(frozen=True, slots=True)
class Wishes:
    """What a client asks for."""

    start: Start
    response_format: ResponseFormat = "json"
    granularities: tuple[str, ...] = ("segment",)
    streams: bool = False
    known_speakers: tuple[KnownSpeaker, ...] = ()
    ignored: tuple[str, ...] = ()
    """Fields that were given, are well formed, and change nothing."""


@dataclass(slots=True)
class Form:
    """The parts of one request."""

    file: list[bytes] | None = None
    """In pieces, as they came; whoever takes them makes them free."""
    _values: dict[str, list[str]] = field(default_factory=dict)
    """By name without brackets, in order."""
    _nested: dict[str, dict[str, str]] = field(default_factory=dict)
    """``name[key]``."""

    def add(self, name: str, value: str) -> None:
        bare, bracket, rest = name.partition("[")
        key = rest.removesuffix("]")
        if bracket and key and not key.isdigit():
            self._nested.setdefault(bare, {})[key] = value
        else:
            self._values.setdefault(bare, []).append(value)

    def text(self, name: str) -> str | None:
        """None where it is missing or empty."""
        values = self._values.get(name)
        return values[-1].strip() or None if values else None

    def texts(self, name: str) -> list[str]:
        """A list in any of its encodings. Raises: BadField."""
        values = self._values.get(name, [])
        if len(values) == 1 and values[0].lstrip().startswith("["):
            found = _json(name, values[0])
            if not all(isinstance(value, str) for value in found):
                raise BadField(name, f"{name}: give a list of texts")
            return list(found)
        return [value for value in values if value]

    def mapping(self, name: str) -> dict[str, Any] | str | None:
        """An object in either encoding, or the text that stands for one. Raises: BadField."""
        if name in self._nested:
            return dict(self._nested[name])
        text = self.text(name)
        if text is None or not text.startswith("{"):
            return text
        found = _json(name, text)
        assert isinstance(found, dict)
        return found

    def flag(self, name: str) -> bool:
        """False where it is missing. Raises: BadField."""
        text = (self.text(name) or "").lower()
        if text not in (*_TRUE, *_FALSE):
            raise BadField(name, f"{name}: give true or false")
        return text in _TRUE

    def number(self, name: str) -> float | None:
        """Raises: BadField."""
        return _number(name, self.text(name))


def _json(name: str, text: str) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        raise BadField(name, f"{name}: this is no JSON") from None


def _number(name: str, value: Any) -> float | None:
    try:
        return None if value is None else float(value)
    except (TypeError, ValueError):
        raise BadField(name, f"{name}: give a number") from None


# From the socket


async def read_form(request: web.Request) -> Form:
    """Raises: BadMessage, TooBig, IdleTooLong; ConnectionError where the client has gone."""
    if request.content_type != "multipart/form-data":
        raise BadMessage("send the recording as multipart/form-data, in the field file")
    if (request.content_length or 0) > FILE_BYTES_MAX + TEXT_BYTES_MAX:
        raise _file_too_big()
    form, count, text_left = Form(), 0, TEXT_BYTES_MAX
    try:
        async for part in _parts(await request.multipart()):
            count += 1
            if count > FIELDS_MAX:
                raise TooBig(f"more than {FIELDS_MAX} fields; send fewer")
            if part.name == "file":
                form.file = [piece async for piece in _pieces(part, FILE_BYTES_MAX)]
            else:
                value = b"".join([piece async for piece in _pieces(part, text_left)])
                text_left -= len(value)
                form.add(part.name or "", value.decode(errors="replace"))
    except TimeoutError:
        raise IdleTooLong(
            f"nothing of the upload came for {PART_SECONDS_MAX:.0f} s; send it again"
        ) from None
    except (ValueError, HttpProcessingError):  # the library's words, which quote what came
        raise BadMessage("this form is broken, or ends too early; send it again") from None
    return form


async def _parts(reader: MultipartReader) -> AsyncIterator[BodyPartReader]:
    while True:
        async with asyncio.timeout(PART_SECONDS_MAX):
            part = await reader.next()
        if part is None:
            return
        if not isinstance(part, BodyPartReader):
            raise BadMessage("a form within a form; send the fields as they are")
        yield part


async def _pieces(part: BodyPartReader, bytes_max: int) -> AsyncIterator[bytes]:
    size = 0
    while True:
        async with asyncio.timeout(PART_SECONDS_MAX):
            piece = await part.read_chunk(PART_BYTES)
        if not piece:
            return
        size += len(piece)
        if size > bytes_max:
            raise _file_too_big() if part.name == "file" else TooBig("too much text in the form")
        yield bytes(piece)


def _file_too_big() -> TooBig:
    return TooBig(
        f"the file is larger than {FILE_BYTES_MAX // MIB} MB; send it compressed (Opus, MP3), in "
        "parts, or over the live protocol"
    )


# What it says


def wishes_of(form: Form, *, translates: bool) -> Wishes:
    """Raises: BadField."""
    response_format = _response_format(form)
    known_speakers, ignored = _known_speakers(form), _ignored(form)
    if known_speakers and response_format != "diarized_json":
        known_speakers, ignored = (), [*ignored, "known_speaker_names"]
    wishes = Wishes(
        _start(form, diarize=response_format == "diarized_json", translates=translates),
        response_format,
        _granularities(form),
        form.flag("stream"),
        known_speakers,
        tuple(ignored),
    )
    _check(form, wishes, translates=translates)
    return wishes


def _check(form: Form, wishes: Wishes, *, translates: bool) -> None:
    if wishes.streams and wishes.response_format not in STREAMED_FORMATS:
        names = ", ".join(STREAMED_FORMATS)
        raise BadField("stream", f"stream: {wishes.response_format} cannot be sent so; {names} can")
    if translates and wishes.response_format == "diarized_json":
        raise BadField("response_format", "response_format: translations have no diarized_json")
    if not form.file or not any(form.file):
        raise BadField("file", "file: send the recording in this field; it is missing or empty")


def _response_format(form: Form) -> ResponseFormat:
    given = form.text("response_format") or "json"
    for known in RESPONSE_FORMATS:
        if given == known:
            return known
    names = ", ".join(RESPONSE_FORMATS)
    raise BadField("response_format", f'response_format: "{given[:40]}"; choose one of {names}')


def _start(form: Form, *, diarize: bool, translates: bool) -> Start:
    """Partials would be for nobody."""
    start = Start(
        language=_language(form),
        task="translate" if translates else "transcribe",
        prompt=_prompt(form),
        keywords=_keywords(form),
        diarize=diarize,
        partials=False,
    )
    silence_ms = _silence_ms(form)
    return start if silence_ms is None else _with_endpointing(start, silence_ms)


def _with_endpointing(start: Start, silence_ms: float) -> Start:
    if not ENDPOINTING_MS_MIN <= silence_ms <= ENDPOINTING_MS_MAX:
        raise BadField(
            "chunking_strategy",
            f"chunking_strategy: silence_duration_ms from {ENDPOINTING_MS_MIN} to "
            f"{ENDPOINTING_MS_MAX}",
        )
    return start.model_copy(update={"endpointing_ms": round(silence_ms)})


def _language(form: Form) -> str | None:
    """One that is given is believed; of several, the recognizer finds out."""
    several = form.texts("languages")
    given = form.text("language") or (several[0] if len(several) == 1 else None)
    if given is None:
        return None
    code = given.replace("_", "-").partition("-")[0].lower()
    if not (2 <= len(code) <= 3 and code.isascii() and code.isalpha()):
        raise BadField("language", f'language: "{given[:40]}"; give an ISO 639-1 code such as en')
    return code


def _prompt(form: Form) -> str | None:
    """Its end, which is what a recognizer would look at."""
    prompt = form.text("prompt")
    return prompt[-PROMPT_CHARACTERS_MAX:] if prompt else None


def _keywords(form: Form) -> list[str]:
    words = [word.strip() for word in form.texts("keywords") if word.strip()]
    if len(words) > KEYWORDS_MAX or any(len(word) > NAME_CHARACTERS_MAX for word in words):
        raise BadField(
            "keywords",
            f"keywords: at most {KEYWORDS_MAX}, of {NAME_CHARACTERS_MAX} characters each",
        )
    return words


def _granularities(form: Form) -> tuple[str, ...]:
    given = [
        name.strip() for text in form.texts("timestamp_granularities") for name in text.split(",")
    ]
    unknown = [name for name in given if name not in GRANULARITIES]
    if unknown:
        raise BadField(
            "timestamp_granularities",
            f'timestamp_granularities: "{unknown[0][:40]}"; choose word, segment or both',
        )
    return tuple(dict.fromkeys(given)) or ("segment",)


def _silence_ms(form: Form) -> float | None:
    strategy = form.mapping("chunking_strategy")
    if strategy is None or strategy == "auto":
        return None
    if not isinstance(strategy, dict) or strategy.get("type") not in ("server_vad", "auto"):
        raise BadField(
            "chunking_strategy", 'chunking_strategy: give "auto" or an object of type server_vad'
        )
    return _number("chunking_strategy", strategy.get("silence_duration_ms"))


def _known_speakers(form: Form) -> tuple[KnownSpeaker, ...]:
    names = [name.strip() for name in form.texts("known_speaker_names")]
    references = form.texts("known_speaker_references")
    if len(names) != len(references) or len(set(names)) != len(names) or len(names) > SPEAKERS_MAX:
        raise BadField(
            "known_speaker_names",
            f"known_speaker_names: at most {SPEAKERS_MAX} different names, and a reference for "
            "each in known_speaker_references",
        )
    if not all(0 < len(name) <= NAME_CHARACTERS_MAX for name in names):
        raise BadField(
            "known_speaker_names",
            f"known_speaker_names: from 1 to {NAME_CHARACTERS_MAX} characters each",
        )
    return tuple(map(KnownSpeaker, names, references))


def _ignored(form: Form) -> list[str]:
    found = []
    temperature = form.number("temperature")
    if temperature is not None:
        if not 0 <= temperature <= 1:
            raise BadField("temperature", "temperature: from 0 to 1")
        found += ["temperature"] if temperature else []
    if form.texts("include"):
        found.append("include")
    if len(form.texts("languages")) > 1 and form.text("language") is None:
        found.append("languages")
    strategy = form.mapping("chunking_strategy")
    if isinstance(strategy, dict):
        names = ("threshold", "prefix_padding_ms")
        found += [f"chunking_strategy.{name}" for name in names if name in strategy]
    return found


def without_guidance(wishes: Wishes) -> Wishes:
    """For a recognizer that writes what it hears and cannot be told more."""
    start = wishes.start
    guidance = {"prompt": start.prompt, "keywords": start.keywords}
    given = [name for name, value in guidance.items() if value]
    bare = start.model_copy(update={"prompt": None, "keywords": []})
    return replace(wishes, start=bare, ignored=(*wishes.ignored, *given))
