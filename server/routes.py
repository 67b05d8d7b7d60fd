"""HTTP beside the WebSocket: health, metrics, transcripts, the caption page.

Every route goes through ``guarded``, which checks Host, Origin and key, unless it is listed as
open. Errors are the same typed ones as on the socket, as JSON with their HTTP status.
"""

import asyncio
import functools
import importlib.resources
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any, Protocol

import orjson
import structlog
from aiohttp import hdrs, web

from server.auth import Keyring, OriginGuard
from server.hub import PROTOCOL, Hub, utc_text
from server.store import SessionCursor, SessionRecord
from server.subscription import subscribe
from server.telemetry import Metrics
from streaming.errors import (
    BadMessage,
    CaptiondError,
    InternalError,
    Overloaded,
    UnknownSession,
    UnsupportedOption,
)
from streaming.exports import FORMATS
from streaming.exports.transcript import Transcript
from streaming.wire import STREAM_PATH, parse_durable_event

SESSIONS_PAGE_MAX = 100
PAGE_FILES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}
PAGE_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "img-src 'self'; worker-src 'self'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
OPEN_PATHS = frozenset({"/", "/healthz", "/readyz", "/metrics"})
"""Readable without a key: no session, text or name is behind them."""
OPEN_PREFIX = "/static/"

TENANT: web.RequestKey[str] = web.RequestKey("tenant", str)
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_log = structlog.get_logger(__name__)


class Readiness(Protocol):
    @property
    def problems(self) -> list[str]:
        """Why no session can start now; empty when one can."""


def guard_middleware(keyring: Keyring, origins: OriginGuard, metrics: Metrics) -> Any:
    """Checks every request before its handler runs; turns typed errors into answers."""

    def refused(request: web.Request, error: CaptiondError) -> web.Response:
        protocol = PROTOCOL if request.path == STREAM_PATH else "http"
        metrics.errors.labels(protocol, error.code).inc()
        return error_response(error)

    @web.middleware
    async def guarded(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            origins.check(request.headers.get(hdrs.HOST), request.headers.get(hdrs.ORIGIN))
            _check_upgrade(request)
            if not _is_open(request):
                request[TENANT] = keyring.authenticate(
                    request.headers.get(hdrs.AUTHORIZATION), offered_subprotocols(request)
                )
            return await handler(request)
        except CaptiondError as error:
            return refused(request, error)
        except web.HTTPException:
            raise
        except Exception as error:  # noqa: BLE001  task boundary
            _log.error("request broken by a bug", path=request.path, exc_info=error)
            bug = InternalError("the server has a bug; its log has the details")
            return refused(request, bug)

    return guarded


async def forbid_sniffing(_: web.Request, response: web.StreamResponse) -> None:
    """What was spoken must never be taken for a page, whatever a browser reads into it."""
    response.headers["X-Content-Type-Options"] = "nosniff"


def _check_upgrade(request: web.Request) -> None:
    """A proxy and we could differ on where such a request ends, and smuggle another one in.

    Raises: BadMessage.
    """
    has_body = request.headers.get(hdrs.CONTENT_LENGTH, "0") != "0"
    is_chunked = hdrs.TRANSFER_ENCODING in request.headers
    if hdrs.UPGRADE in request.headers and (has_body or is_chunked):
        raise BadMessage("an upgrade request has no body; send the first message after the 101")


def _is_open(request: web.Request) -> bool:
    return request.path in OPEN_PATHS or request.path.startswith(OPEN_PREFIX)


def offered_subprotocols(request: web.Request) -> list[str]:
    offered = request.headers.getall(hdrs.SEC_WEBSOCKET_PROTOCOL, [])
    return [name.strip() for line in offered for name in line.split(",")]


def error_response(error: CaptiondError) -> web.Response:
    """JSON of a typed error, with Retry-After where it says when to come again."""
    body = {
        "type": "error",
        "code": error.code,
        "message": error.message,
        "retry_after_ms": error.retry_after_ms,
    }
    headers = {}
    if error.retry_after_ms is not None:
        headers[hdrs.RETRY_AFTER] = str(max(1, round(error.retry_after_ms / 1000)))
    if error.http_status == web.HTTPUnauthorized.status_code:
        headers[hdrs.WWW_AUTHENTICATE] = "Bearer"
    return web.Response(
        body=orjson.dumps(body),
        status=error.http_status,
        headers=headers,
        content_type="application/json",
    )


def _json(value: Any) -> web.Response:
    return web.Response(body=orjson.dumps(value), content_type="application/json")


class Routes:
    """The handlers, over one hub."""

    def __init__(self, hub: Hub, readiness: Readiness) -> None:
        self._hub = hub
        self._readiness = readiness

    def add_to(self, app: web.Application) -> None:
        app.on_response_prepare.append(forbid_sniffing)
        app.router.add_get("/healthz", self.healthz)
        app.router.add_get("/readyz", self.readyz)
        app.router.add_get("/metrics", self.metrics)
        app.router.add_get("/v1/sessions", self.sessions)
        app.router.add_get("/v1/sessions/{id}", self.session)
        app.router.add_delete("/v1/sessions/{id}", self.delete)
        app.router.add_get("/v1/sessions/{id}/transcript", self.transcript)
        app.router.add_get("/v1/sessions/{id}/events", self.events)
        app.router.add_get("/", self.page)
        app.router.add_get("/static/{name}", self.page)

    async def healthz(self, request: web.Request) -> web.Response:
        """The event loop runs."""
        return web.Response(text="ok\n")

    async def readyz(self, request: web.Request) -> web.Response:
        """Models are loaded and warm, the store works, nothing drains."""
        problems = self._readiness.problems
        if problems:
            return error_response(Overloaded("; ".join(problems), retry_after_ms=2_000))
        return web.Response(text="ready\n")

    async def metrics(self, request: web.Request) -> web.Response:
        metrics = self._hub.metrics
        headers = {hdrs.CONTENT_TYPE: metrics.content_type}
        return web.Response(body=metrics.render(), headers=headers)

    async def sessions(self, request: web.Request) -> web.Response:
        """The tenant's sessions, newest first, a page at a time."""
        records = await self._hub.store.sessions(
            request[TENANT], limit=SESSIONS_PAGE_MAX, before=_cursor(request.query.get("before"))
        )
        next_page = records[-1].cursor if len(records) == SESSIONS_PAGE_MAX else None
        before = _page_mark(next_page) if next_page else None
        return _json({"sessions": [_session_fields(r) for r in records], "next_before": before})

    async def session(self, request: web.Request) -> web.Response:
        return _json(_session_fields(await self._owned(request)))

    async def delete(self, request: web.Request) -> web.Response:
        """Remove a session, its text and what is left of it in memory."""
        record = await self._owned(request)
        self._hub.drop(record.session_id)
        await self._hub.store.delete_session(record.session_id)
        return web.Response(status=204)

    async def transcript(self, request: web.Request) -> web.Response:
        """The captions so far in a format of ``streaming.exports``."""
        record = await self._owned(request)
        name = request.query.get("format", "json")
        export = FORMATS.get(name)
        if export is None:
            raise UnsupportedOption(f'format "{name}"; choose one of: {", ".join(FORMATS)}')
        stored = await self._all_events(record.session_id)

        def exported() -> bytes:
            transcript = Transcript.from_events([parse_durable_event(f) for f in stored])
            return export.export(transcript, record.session_id).encode()

        # Hours of captions take a second to write out: no live session may wait for that.
        body = await asyncio.to_thread(exported)
        headers = {
            hdrs.CONTENT_TYPE: export.media_type,
            hdrs.CONTENT_DISPOSITION: f'inline; filename="{record.session_id}.{name}"',
        }
        return web.Response(body=body, headers=headers)

    async def events(self, request: web.Request) -> web.StreamResponse:
        """Server-sent events for readers besides the talker."""
        record = await self._owned(request)
        live = self._hub.find(record.session_id)
        return await subscribe(request, self._hub.store, record.session_id, live, self._hub.metrics)

    async def _all_events(self, session_id: str) -> list[dict[str, Any]]:
        events: list[dict[str, Any]] = []
        while page := await self._hub.store.events(
            session_id, after_seq=events[-1]["seq"] if events else 0
        ):
            events += page
        return events

    async def _owned(self, request: web.Request) -> SessionRecord:
        """Raises: UnknownSession, the same for what never was and what is somebody else's."""
        session_id = request.match_info["id"]
        # Ids are hexadecimal; bytes that are no text could not even be asked for.
        record = await self._hub.store.session(session_id) if session_id.isascii() else None
        if record is None or record.tenant != request[TENANT]:
            raise UnknownSession("no session of yours has this id; /v1/sessions lists them")
        return record

    async def page(self, request: web.Request) -> web.Response:
        """The caption page and its files, out of the installed package."""
        name = request.match_info.get("name", "index.html")
        body = _page_files().get(name)
        if body is None:
            raise web.HTTPNotFound
        headers = {**PAGE_HEADERS, hdrs.CONTENT_TYPE: PAGE_FILES[_suffix(name)]}
        return web.Response(body=body, headers=headers)


@functools.cache
def _page_files() -> dict[str, bytes]:
    """Name → content of all that may be served; read once."""
    files = importlib.resources.files("clients.web").iterdir()
    return {file.name: file.read_bytes() for file in files if _suffix(file.name) in PAGE_FILES}


def _suffix(name: str) -> str:
    return name[name.rfind(".") :]


def _page_mark(cursor: SessionCursor) -> str:
    """With a Z: the plus sign of an offset means a space in a URL."""
    return f"{cursor.created_at.isoformat().replace('+00:00', 'Z')}~{cursor.session_id}"


def _cursor(text: str | None) -> SessionCursor | None:
    if text is None:
        return None
    moment, _, session_id = text.partition("~")
    try:
        # Without an offset it would be the server's local time.
        created_at = datetime.fromisoformat(moment)
        if created_at.tzinfo is None or not session_id.isascii():
            raise ValueError(text)
    except ValueError:
        raise BadMessage("before: give the next_before of the previous page") from None
    return SessionCursor(created_at, session_id)


def _session_fields(record: SessionRecord) -> dict[str, Any]:
    return {
        "session_id": record.session_id,
        "created_at": utc_text(record.created_at),
        "ended_at": record.ended_at and utc_text(record.ended_at),
        "state": record.state,
        "options": record.options,
    }
