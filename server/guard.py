"""What every request must pass, and how a refusal is told.

Host and Origin are checked first, then who asks: a key, or a ticket that stands for one. Errors are
the same typed ones as on the socket, as JSON with their HTTP status. Knows no route's work.
"""

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import orjson
import structlog
from aiohttp import hdrs, web

from server.auth import Keyring, OriginGuard
from server.hub import PROTOCOL, Hub
from server.store import SessionRecord
from server.telemetry import Metrics
from server.tickets import (
    LINK_SCHEME,
    Tickets,
    check_scope,
    presented,
    presented_ticket,
)
from streaming.errors import BadMessage, CaptiondError, InternalError, UnknownSession
from streaming.wire import STREAM_PATH

TICKETS_PATH = "/v1/tickets"
OPEN_PATHS = frozenset({"/", "/healthz", "/readyz", "/metrics"})
"""Readable without a key: no session, text or name is behind them."""
OPEN_PREFIXES = ("/static/", "/view/", "/overlay/")
"""The page's files, and the same two pages for every session."""

TENANT: web.RequestKey[str] = web.RequestKey("tenant", str)
TICKETS: web.AppKey[Tickets] = web.AppKey("tickets", Tickets)


@dataclass(frozen=True, slots=True)
class Dialect:
    """How the clients of a path that is not captiond's own are told of errors."""

    protocol: str
    """Label in metrics."""
    answer: Callable[[web.Request, CaptiondError], web.Response]


DIALECTS: web.AppKey[dict[str, Dialect]] = web.AppKey("dialects", dict)
"""By path; those below it are told the same way."""
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_log = structlog.get_logger(__name__)


def guard_middleware(keyring: Keyring, origins: OriginGuard, metrics: Metrics) -> Any:
    """Checks every request before its handler runs; turns typed errors into answers."""

    def refused(request: web.Request, error: CaptiondError) -> web.Response:
        dialect = _dialect(request)
        if dialect is None:
            protocol = PROTOCOL if request.path == STREAM_PATH else "http"
            dialect = Dialect(protocol, lambda _, error: error_response(error))
        metrics.errors.labels(dialect.protocol, error.code).inc()
        return dialect.answer(request, error)

    @web.middleware
    async def guarded(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            origins.check(request.headers.get(hdrs.HOST), request.headers.get(hdrs.ORIGIN))
            _check_upgrade(request)
            if not _is_open(request):
                request[TENANT] = _tenant(request, keyring)
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


def _dialect(request: web.Request) -> Dialect | None:
    path = request.path + "/"
    dialects = request.app.get(DIALECTS, {})
    return next((dialects[own] for own in dialects if path.startswith(own + "/")), None)


def _tenant(request: web.Request, keyring: Keyring) -> str:
    """By a key or by a ticket. Raises: Unauthorized, Forbidden."""
    authorization = request.headers.get(hdrs.AUTHORIZATION)
    offered = offered_subprotocols(request)
    ticket = presented_ticket(authorization, offered)
    if ticket is None:
        return keyring.authenticate(authorization, offered)
    grant = request.app[TICKETS].redeem(ticket, time.monotonic())
    check_scope(grant, request.method, request.path, STREAM_PATH)
    return grant.tenant


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
    """Who asks for a ticket with a link is looked at where the link's session is known."""
    if request.path in OPEN_PATHS or request.path.startswith(OPEN_PREFIXES):
        return True
    return request.path == TICKETS_PATH and presented_link(request) is not None


def presented_link(request: web.Request) -> str | None:
    return presented(LINK_SCHEME, request.headers.get(hdrs.AUTHORIZATION))


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


def json_answer(value: Any) -> web.Response:
    return web.Response(body=orjson.dumps(value), content_type="application/json")


async def owned_session(hub: Hub, request: web.Request, session_id: str) -> SessionRecord:
    """Raises: UnknownSession, the same for what never was and what is somebody else's."""
    # Ids are hexadecimal; bytes that are no text could not even be asked for.
    record = await hub.store.session(session_id) if session_id.isascii() else None
    if record is None or record.tenant != request[TENANT]:
        raise UnknownSession("no session of yours has this id; /v1/sessions lists them")
    return record
