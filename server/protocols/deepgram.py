"""Deepgram's API, as their clients call it: live ``/v1/listen``, and recordings on the same path.

Owns the routes and how a refusal is told: as an HTTP status before the upgrade, with ``dg-error``,
so that clients give up where trying again is of no use. What is said on the socket is
``deepgram_connection``'s.
"""

from datetime import UTC, datetime
from uuid import uuid4

import orjson
import structlog
from aiohttp import hdrs, web

from server.admission import RETRY_AFTER_FULL_MS
from server.config import Settings
from server.connection import HEARTBEAT_SECONDS, Connection, Gatekeeper
from server.guard import DIALECTS, TENANT, Dialect, offered_subprotocols
from server.hub import Hub
from server.limits import PacketGate
from server.protocols import deepgram_recording
from server.protocols.deepgram_connection import DeepgramConnection, model_of
from server.protocols.deepgram_query import DEFAULT_LANGUAGE, ListenOptions, parse_query
from server.protocols.deepgram_recording import Upload, decoder_header
from server.protocols.deepgram_socket import PROTOCOL, DeepgramSocket
from server.recordings import ClientGone, Recording, UploadPlaces
from server.recordings import heard as heard_of
from streaming.errors import (
    BadAudio,
    BadMessage,
    CaptiondError,
    Forbidden,
    InternalError,
    Overloaded,
    ServerError,
    TooBig,
    TooFast,
    Unauthorized,
    UnsupportedOption,
)
from streaming.wire import Configure

LISTEN_PATH = "/v1/listen"
REQUEST_ID_HEADER = "dg-request-id"
ERROR_HEADER = "dg-error"
HEADER_CHARACTERS_MAX = 500
IGNORED_HEADER = "captiond-ignored"
"""Names the parameters that are accepted and change nothing."""
EXPOSED_HEADERS = f"{REQUEST_ID_HEADER}, {ERROR_HEADER}, {IGNORED_HEADER}"
"""To pages of other origins, where these are allowed at all."""
REQUEST_ID: web.RequestKey[str] = web.RequestKey("request_id", str)
ERROR_CODES: tuple[tuple[type[CaptiondError], str], ...] = (
    (Unauthorized, "INVALID_AUTH"),
    (Forbidden, "INSUFFICIENT_PERMISSIONS"),
    (UnsupportedOption, "INVALID_QUERY_PARAMETER"),
    (BadAudio, "INVALID_AUDIO"),
    (TooBig, "PAYLOAD_TOO_LARGE"),
    (TooFast, "TOO_MANY_REQUESTS"),
    (InternalError, "INTERNAL_SERVER_ERROR"),
    (ServerError, "SERVICE_UNAVAILABLE"),
)
BAD_REQUEST = "BAD_REQUEST"

_log = structlog.get_logger(__name__)


class DeepgramRoutes:
    """The handlers, over one hub."""

    def __init__(
        self,
        hub: Hub,
        gatekeeper: Gatekeeper,
        connections: set[Connection],
        settings: Settings,
    ) -> None:
        """``connections``: of the whole server; those here are added while they last."""
        self._hub = hub
        self._gatekeeper = gatekeeper
        self._connections = connections
        self._settings = settings
        self._uploads = UploadPlaces()

    def add_to(self, app: web.Application) -> None:
        """``app`` has its ``DIALECTS``."""
        app[DIALECTS][LISTEN_PATH] = Dialect(PROTOCOL, error_answer)
        app.router.add_get(LISTEN_PATH, self.listen)
        app.router.add_post(LISTEN_PATH, self.transcribe)

    async def listen(self, request: web.Request) -> web.StreamResponse:
        """A live stream. Raises: CaptiondError before the upgrade."""
        request[REQUEST_ID] = str(uuid4())
        tenant = request[TENANT]
        _check_upgrade(request)
        options = self._options(request, tenant)
        socket = DeepgramSocket(heartbeat_s=HEARTBEAT_SECONDS)
        socket.headers.update(_headers(request, options))
        await socket.prepare(request)
        connection = DeepgramConnection(
            socket,
            self._hub,
            tenant,
            gate=PacketGate(self._settings.packets_per_second_max),
            options=options,
            request_id=request[REQUEST_ID],
        )
        self._connections.add(connection)
        try:
            await connection.serve()
        finally:
            self._connections.discard(connection)
        return socket

    async def transcribe(self, request: web.Request) -> web.StreamResponse:
        """A recording. Raises: CaptiondError."""
        request[REQUEST_ID] = str(uuid4())
        if request.content_type == "application/json":
            raise BadMessage(
                "this server fetches no addresses, which could be of its own network; send the "
                "recording itself as the body"
            )
        options = self._options(request, request[TENANT])
        with self._uploads.take():
            try:
                return await self._transcribe(request, options)
            except (ConnectionError, ClientGone):
                _log.info("client of a recording gone", protocol=PROTOCOL)
                return web.Response(status=499)  # nobody reads it

    async def _transcribe(self, request: web.Request, options: ListenOptions) -> web.Response:
        created = datetime.now(UTC)
        upload = Upload(request.content, decoder_header(options))
        recording = Recording(
            self._hub,
            request[TENANT],
            options.start,
            is_mixed=not options.terms.multichannel,
            is_gone=lambda: request.transport is None or request.transport.is_closing(),
            protocol=PROTOCOL,
        )
        heard = await heard_of(recording, upload.pieces())
        about = deepgram_recording.Request(
            request_id=request[REQUEST_ID],
            sha256=upload.digest,
            created=created,
            channels=recording.channels if options.terms.multichannel else 1,
            model=model_of(self._hub.engines.descriptions),
        )
        body = orjson.dumps(deepgram_recording.answer(about, heard, options.terms))
        headers = _headers(request, options)
        return web.Response(body=body, headers=headers, content_type="application/json")

    def _options(self, request: web.Request, tenant: str) -> ListenOptions:
        """What the client asks for, where it can be had now. Raises: CaptiondError."""
        options = parse_query(request.query, pause_ms_min=self._settings.endpointing_ms)
        self._hub.admit(tenant)
        self._gatekeeper.check()
        self._check_room()
        self._hub.check_guidance(Configure(keywords=options.start.keywords))
        if request.query.get("language"):
            self._hub.check_language(options.start.language)
            return options
        return self._with_default_language(options)

    def _check_room(self) -> None:
        """Sessions of compressed streams open with their first audio: they count before, else any
        number of decoders could be started. Raises: Overloaded."""
        opening = sum(connection.session_id is None for connection in self._connections)
        if len(tuple(self._hub.sessions)) + opening >= self._settings.sessions_max:
            raise Overloaded(
                f"all {self._settings.sessions_max} sessions are taken; try again or use another "
                "server",
                retry_after_ms=RETRY_AFTER_FULL_MS,
            )

    def _with_default_language(self, options: ListenOptions) -> ListenOptions:
        """Theirs, where the recognizer understands it; else whichever it finds."""
        try:
            self._hub.check_language(DEFAULT_LANGUAGE)
        except UnsupportedOption:
            return options.in_any_language()
        return options


def _check_upgrade(request: web.Request) -> None:
    """Raises: BadMessage."""
    if request.headers.get(hdrs.UPGRADE, "").lower() != "websocket":
        raise BadMessage("a live stream is a WebSocket; send recordings by POST")
    offered = [name.lower() for name in offered_subprotocols(request)]
    if offered and not set(DeepgramSocket.subprotocols) & set(offered):
        # aiohttp would log what was offered, and a key may be among it.
        raise BadMessage('offer the WebSocket subprotocols "token" and the key, or none')


def _headers(request: web.Request, options: ListenOptions) -> dict[str, str]:
    headers = {
        REQUEST_ID_HEADER: request[REQUEST_ID],
        hdrs.ACCESS_CONTROL_EXPOSE_HEADERS: EXPOSED_HEADERS,
    }
    if options.ignored:
        headers[IGNORED_HEADER] = ", ".join(options.ignored)
    return headers


def error_answer(request: web.Request, error: CaptiondError) -> web.Response:
    """As their clients read it: some take the header, some the body."""
    request_id = request.get(REQUEST_ID) or str(uuid4())
    code = next((code for kind, code in ERROR_CODES if isinstance(error, kind)), BAD_REQUEST)
    headers = {
        REQUEST_ID_HEADER: request_id,
        ERROR_HEADER: _header_text(error.message),
        hdrs.ACCESS_CONTROL_EXPOSE_HEADERS: EXPOSED_HEADERS,
    }
    if error.retry_after_ms is not None:
        headers[hdrs.RETRY_AFTER] = str(max(1, round(error.retry_after_ms / 1000)))
    if error.http_status == web.HTTPUnauthorized.status_code:
        headers[hdrs.WWW_AUTHENTICATE] = "Token"
    body = {"err_code": code, "err_msg": error.message, "request_id": request_id}
    return web.Response(
        body=orjson.dumps(body),
        status=error.http_status,
        headers=headers,
        content_type="application/json",
    )


def _header_text(message: str) -> str:
    """One short line of printable ASCII: a message may quote what the client has sent."""
    line = "".join(c if c.isprintable() else " " for c in message[:HEADER_CHARACTERS_MAX])
    return line.encode("ascii", "backslashreplace").decode()
