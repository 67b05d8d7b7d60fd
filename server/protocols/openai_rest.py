"""OpenAI's audio API for recordings: transcriptions, translations, and the list of models.

Owns the routes, how many uploads there may be at once, and how a refusal is told. The form is read
by ``openai_form``, bodies are made by ``openai_bodies``; the recording itself is a session like any
other (``server/recordings.py``).
"""

import asyncio
import contextlib
import re
import time
from collections import deque
from collections.abc import AsyncIterator, Iterator
from typing import Any

import orjson
import structlog
from aiohttp import hdrs, web

from server.admission import RETRY_AFTER_DRAINING_MS
from server.connection import WRITE_SECONDS_MAX, Gatekeeper
from server.guard import DIALECTS, TENANT, Dialect
from server.hub import EnginesInUse, Hub
from server.protocols import openai_bodies as bodies
from server.protocols.known_speakers import Acquaintance, introduced, recognized
from server.protocols.openai_form import (
    BadField,
    Form,
    Wishes,
    read_form,
    wishes_of,
    without_guidance,
)
from server.recordings import ClientGone, Heard, Recording, UploadPlaces
from streaming.errors import (
    CaptiondError,
    EngineFailed,
    InternalError,
    ServerError,
    TooFast,
    Unauthorized,
    UnknownSession,
    UnsupportedOption,
)
from streaming.events import DurableEvent, Event, Final

PROTOCOL = "openai"
"""Label of this protocol in metrics."""
TRANSCRIPTIONS_PATH = "/v1/audio/transcriptions"
TRANSLATIONS_PATH = "/v1/audio/translations"
MODELS_PATH = "/v1/models"
ENGINES_RETRY_AFTER_MS = 5_000
OWNER = "captiond"
REQUEST_ID_HEADER = "x-request-id"
"""The session's id; their clients show it as ``_request_id``."""
IGNORED_HEADER = "captiond-ignored"
"""Names the fields that were accepted and change nothing."""
MISSING_HEADER = "captiond-missing"
"""Where audio could not be captioned, and why."""
DAMAGED_HEADER = "captiond-damaged-packets"

_log = structlog.get_logger(__name__)


class OpenAiRoutes:
    """The handlers, over one hub."""

    def __init__(self, hub: Hub, gatekeeper: Gatekeeper) -> None:
        self._hub = hub
        self._gatekeeper = gatekeeper
        self._uploads = UploadPlaces()
        self._since_s = int(time.time())

    def add_to(self, app: web.Application) -> None:
        """``app`` has its ``DIALECTS``."""
        dialect = Dialect(PROTOCOL, error_answer)
        for path in (TRANSCRIPTIONS_PATH, TRANSLATIONS_PATH, MODELS_PATH):
            app[DIALECTS][path] = dialect
        app.router.add_post(TRANSCRIPTIONS_PATH, self.transcriptions)
        app.router.add_post(TRANSLATIONS_PATH, self.translations)
        app.router.add_get(MODELS_PATH, self.models)
        app.router.add_get(MODELS_PATH + "/{id:.+}", self.model)

    # Recordings

    async def transcriptions(self, request: web.Request) -> web.StreamResponse:
        return await self._take(request, translates=False)

    async def translations(self, request: web.Request) -> web.StreamResponse:
        return await self._take(request, translates=True)

    async def _take(self, request: web.Request, *, translates: bool) -> web.StreamResponse:
        """One recording. Raises: CaptiondError."""
        with self._place(request[TENANT]):
            try:
                form = await read_form(request)
                wishes = self._offered(wishes_of(form, translates=translates))
                return await self._transcribe(request, form, wishes)
            except (ConnectionError, ClientGone):
                _log.info("client of a recording gone", protocol=PROTOCOL)
                if request.transport is not None:
                    request.transport.abort()
                return web.Response(status=499)  # nobody reads it

    @contextlib.contextmanager
    def _place(self, tenant: str) -> Iterator[None]:
        """Before the upload is read: what would be refused need not be sent at all."""
        self._hub.admit(tenant)
        self._gatekeeper.check()
        with self._uploads.take():
            yield

    def _offered(self, wishes: Wishes) -> Wishes:
        """As far as the engines can. Raises: BadField."""
        engines = self._hub.engines
        if wishes.start.task == "translate":
            _check_translation(engines)
        if wishes.response_format == "diarized_json" and engines.diarizer is None:
            raise BadField(
                "response_format",
                "response_format: this server tells no speakers apart, so it has no diarized_json; "
                "choose another format, or ask the operator for a diarizer",
            )
        try:
            engines.check_language(wishes.start.language)
        except UnsupportedOption as error:
            raise BadField("language", error.message) from None
        return wishes if engines.takes_guidance else without_guidance(wishes)

    async def _transcribe(
        self, request: web.Request, form: Form, wishes: Wishes
    ) -> web.StreamResponse:
        known = [await introduced(speaker) for speaker in wishes.known_speakers]
        recording = Recording(
            self._hub,
            request[TENANT],
            wishes.start,
            is_gone=lambda: request.transport is None or request.transport.is_closing(),
            introductions=[acquaintance.samples for acquaintance in known],
            protocol=PROTOCOL,
        )
        events = recording.events(_taken(form))
        async with contextlib.aclosing(events):
            if wishes.streams:
                return await self._stream(request, recording, events, wishes, known)
            durable = [event async for event in events if isinstance(event, DurableEvent)]
        heard = _settled(recording, durable, wishes, known)
        whole = bodies.answer(heard, wishes)
        return web.Response(
            body=whole.body,
            headers={hdrs.CONTENT_TYPE: whole.media_type, **_headers(heard, wishes)},
        )

    async def _stream(
        self,
        request: web.Request,
        recording: Recording,
        events: AsyncIterator[Event],
        wishes: Wishes,
        known: list[Acquaintance],
    ) -> web.StreamResponse:
        """Server-sent events; an error before the first is an ordinary answer."""
        durable: list[DurableEvent] = []
        response: web.StreamResponse | None = None
        try:
            async for event in events:
                if not isinstance(event, DurableEvent):
                    continue
                durable.append(event)
                text = event.text if isinstance(event, Final) else ""
                if text and not recording.is_introduction(event):
                    is_first = response is None
                    response = response or await _begun(request, recording, wishes)
                    await _send(response, bodies.delta(text, is_first=is_first))
            heard = _settled(recording, durable, wishes, known)
            response = response or await _begun(request, recording, wishes)
            for frame in bodies.last_events(heard, wishes):
                await _send(response, frame)
        except CaptiondError as error:
            if response is None:
                raise
            await _send(response, bodies.framed(error_fields(error)))
        await response.write_eof()
        return response

    # Models

    async def models(self, request: web.Request) -> web.Response:
        return _json({"object": "list", "data": [self._model_fields()]})

    async def model(self, request: web.Request) -> web.Response:
        """Ours alone: any name is taken for a transcription, but there is one model."""
        fields = self._model_fields()
        if request.match_info["id"] != fields["id"]:
            raise UnknownModel(f'there is one model here, "{fields["id"]}"; any name stands for it')
        return _json(fields)

    def _model_fields(self) -> dict[str, Any]:
        name = self._hub.engines.descriptions.get("asr", OWNER)
        return {
            "id": re.sub(r"[^\w.:/-]+", "-", name).strip("-"),
            "object": "model",
            "created": self._since_s,
            "owned_by": OWNER,
        }


class UnknownModel(UnknownSession):
    """Asked for by name, and not there."""


def _check_translation(engines: EnginesInUse) -> None:
    """Raises: BadField."""
    if not engines.takes_guidance or engines.languages == ("en",):
        raise BadField(
            "model",
            "this server's recognizer cannot translate; use /v1/audio/transcriptions, or ask the "
            "operator for a multilingual Whisper checkpoint",
        )


async def _taken(form: Form) -> AsyncIterator[bytes]:
    """The recording; what was given is free."""
    pieces, form.file = deque(form.file or ()), None
    while pieces:
        yield pieces.popleft()


def _settled(
    recording: Recording, durable: list[DurableEvent], wishes: Wishes, known: list[Acquaintance]
) -> Heard:
    """Raises: EngineFailed where nothing could be captioned."""
    heard = recording.heard(durable)
    transcript = heard.transcript
    if transcript.gaps and not transcript.captions:
        raise EngineFailed(
            "the speech engines could not answer; send it again",
            retry_after_ms=ENGINES_RETRY_AFTER_MS,
        )
    heard = recognized(heard, recording.introduced_spans, known)
    return bodies.lettered(heard) if wishes.response_format == "diarized_json" else heard


def _headers(heard: Heard, wishes: Wishes) -> dict[str, str]:
    headers = {REQUEST_ID_HEADER: heard.session_id, **_ignored(wishes)}
    if heard.transcript.gaps:
        headers[MISSING_HEADER] = bodies.missing(heard.transcript.gaps)
    if heard.damaged_packets:
        headers[DAMAGED_HEADER] = str(heard.damaged_packets)
    return headers


def _ignored(wishes: Wishes) -> dict[str, str]:
    return {IGNORED_HEADER: ", ".join(wishes.ignored)} if wishes.ignored else {}


async def _begun(request: web.Request, recording: Recording, wishes: Wishes) -> web.StreamResponse:
    headers = {
        hdrs.CONTENT_TYPE: "text/event-stream; charset=utf-8",
        hdrs.CACHE_CONTROL: "no-store",
        "X-Accel-Buffering": "no",
        REQUEST_ID_HEADER: recording.session_id or "",
        **_ignored(wishes),
    }
    response = web.StreamResponse(headers=headers)
    await response.prepare(request)
    return response


async def _send(response: web.StreamResponse, data: bytes) -> None:
    """Raises: ClientGone where nobody reads; ConnectionError."""
    try:
        async with asyncio.timeout(WRITE_SECONDS_MAX):
            await response.write(data)
    except TimeoutError:
        raise ClientGone from None


def _json(value: Any) -> web.Response:
    return web.Response(body=orjson.dumps(value), content_type="application/json")


# Errors

_CODES: tuple[tuple[type[CaptiondError], str, str | None], ...] = (
    (Unauthorized, "invalid_request_error", "invalid_api_key"),
    (UnknownModel, "invalid_request_error", "model_not_found"),
    (TooFast, "rate_limit_error", "rate_limit_exceeded"),
    (InternalError, "server_error", "internal"),
    (ServerError, "server_error", None),
)
"""Their ``type`` and ``code``; our own code where there is none."""


def error_fields(error: CaptiondError) -> dict[str, Any]:
    """Their clients raise for any object with a truthy ``error``."""
    found = next((row for row in _CODES if isinstance(error, row[0])), None)
    kind, code = found[1:] if found else ("invalid_request_error", None)
    param = error.param if isinstance(error, BadField) else None
    fields = {"message": error.message, "type": kind, "param": param, "code": code or error.code}
    return {"error": fields}


def error_answer(_: web.Request, error: CaptiondError) -> web.Response:
    headers = {}
    retry_after_ms = error.retry_after_ms
    if retry_after_ms is None and error.http_status == web.HTTPServiceUnavailable.status_code:
        retry_after_ms = RETRY_AFTER_DRAINING_MS
    if retry_after_ms is not None:
        headers[hdrs.RETRY_AFTER] = str(max(1, round(retry_after_ms / 1000)))
    if error.http_status == web.HTTPUnauthorized.status_code:
        headers[hdrs.WWW_AUTHENTICATE] = "Bearer"
    return web.Response(
        body=orjson.dumps(error_fields(error)),
        status=error.http_status,
        headers=headers,
        content_type="application/json",
    )
