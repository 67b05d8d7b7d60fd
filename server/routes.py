"""HTTP beside the WebSocket: health, metrics, transcripts, the caption page.

Every route goes through ``guarded``, which checks Host, Origin and key, unless it is listed as
open. Errors are the same typed ones as on the socket, as JSON with their HTTP status.
"""

import importlib.resources
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any, Protocol

import orjson
import structlog
from aiohttp import hdrs, web

from server.auth import Keyring, OriginGuard
from server.hub import Hub, utc_text
from server.store import SessionCursor, SessionRecord
from server.subscription import subscribe
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
from streaming.wire import parse_durable_event

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


def guard_middleware(keyring: Keyring, origins: OriginGuard) -> Any:
    """Checks every request before its handler runs; turns typed errors into answers."""

    @web.middleware
    async def guarded(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            origins.check(request.headers.get(hdrs.HOST), request.headers.get(hdrs.ORIGIN))
            if not _is_open(request):
                request[TENANT] = keyring.authenticate(
                    request.headers.get(hdrs.AUTHORIZATION), offered_subprotocols(request)
                )
            return await handler(request)
        except CaptiondError as error:
            return error_response(error)
        except web.HTTPException:
            raise
        except Exception as error:  # noqa: BLE001  task boundary
            _log.error("request broken by a bug", path=request.path, exc_info=error)
            return error_response(InternalError("the server has a bug; its log has the details"))

    return guarded


async def forbid_sniffing(_: web.Request, response: web.StreamResponse) -> None:
    """What was spoken must never be taken for a page, whatever a browser reads into it."""
    response.headers["X-Content-Type-Options"] = "nosniff"


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
        before = f"{next_page.created_at.isoformat()}~{next_page.session_id}" if next_page else None
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
        events = [parse_durable_event(f) for f in await self._all_events(record.session_id)]
        text = export.export(Transcript.from_events(events))
        headers = {
            hdrs.CONTENT_TYPE: export.media_type,
            hdrs.CONTENT_DISPOSITION: f'inline; filename="{record.session_id}.{name}"',
        }
        return web.Response(body=text.encode(), headers=headers)

    async def events(self, request: web.Request) -> web.StreamResponse:
        """Server-sent events for readers besides the talker."""
        record = await self._owned(request)
        live = self._hub.find(record.session_id)
        return await subscribe(request, self._hub.store, record.session_id, live)

    async def _all_events(self, session_id: str) -> list[dict[str, Any]]:
        events: list[dict[str, Any]] = []
        while page := await self._hub.store.events(
            session_id, after_seq=events[-1]["seq"] if events else 0
        ):
            events += page
        return events

    async def _owned(self, request: web.Request) -> SessionRecord:
        """Raises: UnknownSession, the same for what never was and what is somebody else's."""
        record = await self._hub.store.session(request.match_info["id"])
        if record is None or record.tenant != request[TENANT]:
            raise UnknownSession("no session of yours has this id; /v1/sessions lists them")
        return record

    async def page(self, request: web.Request) -> web.Response:
        """The caption page and its files, out of the installed package."""
        name = request.match_info.get("name", "index.html")
        file = importlib.resources.files("clients.web").joinpath(name)
        suffix = name[name.rfind(".") :]
        if suffix not in PAGE_FILES or "/" in name or not file.is_file():
            raise web.HTTPNotFound
        headers = {**PAGE_HEADERS, hdrs.CONTENT_TYPE: PAGE_FILES[suffix]}
        return web.Response(body=file.read_bytes(), headers=headers)


def _cursor(text: str | None) -> SessionCursor | None:
    if text is None:
        return None
    moment, _, session_id = text.partition("~")
    try:
        return SessionCursor(datetime.fromisoformat(moment), session_id)
    except ValueError:
        raise BadMessage("before: give the next_before of the previous page") from None


def _session_fields(record: SessionRecord) -> dict[str, Any]:
    return {
        "session_id": record.session_id,
        "created_at": utc_text(record.created_at),
        "ended_at": record.ended_at and utc_text(record.ended_at),
        "state": record.state,
        "options": record.options,
    }
