"""HTTP beside the WebSocket: health, metrics, sessions, transcripts, a session's events.

Every route goes through ``guard.py``. The pages are in ``pages.py``, what their users need beside
the stream is in ``sharing.py``; all of them are added here.
"""

import asyncio
from datetime import datetime
from typing import Any, Protocol

from aiohttp import hdrs, web

from server.guard import (
    TENANT,
    error_response,
    forbid_sniffing,
    guard_middleware,
    json_answer,
    offered_subprotocols,
    owned_session,
)
from server.hub import Hub, utc_text
from server.names import SpeakerNames
from server.pages import add_pages
from server.sharing import Sharing
from server.store import SessionCursor, SessionRecord
from server.subscription import subscribe
from streaming.errors import BadMessage, Overloaded, UnsupportedOption
from streaming.exports import FORMATS
from streaming.exports.transcript import Transcript
from streaming.wire import parse_durable_event

__all__ = ["TENANT", "Routes", "error_response", "guard_middleware", "offered_subprotocols"]

SESSIONS_PAGE_MAX = 100


class Readiness(Protocol):
    @property
    def problems(self) -> list[str]:
        """Why no session can start now; empty when one can."""


class Routes:
    """The handlers, over one hub."""

    def __init__(self, hub: Hub, readiness: Readiness) -> None:
        self._hub = hub
        self._readiness = readiness
        self._names = SpeakerNames(hub.store)
        self._sharing = Sharing(hub, self._names)

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
        self._sharing.add_to(app)
        add_pages(app)

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
        return json_answer(
            {"sessions": [_session_fields(r) for r in records], "next_before": before}
        )

    async def session(self, request: web.Request) -> web.Response:
        return json_answer(_session_fields(await self._owned(request)))

    async def delete(self, request: web.Request) -> web.Response:
        """Remove a session, its text and what is left of it in memory."""
        record = await self._owned(request)
        self._hub.drop(record.session_id)
        await self._hub.store.delete_session(record.session_id)
        return web.Response(status=204)

    async def transcript(self, request: web.Request) -> web.Response:
        """The captions so far in a format of ``streaming.exports``, with the names people gave."""
        record = await self._owned(request)
        name = request.query.get("format", "json")
        export = FORMATS.get(name)
        if export is None:
            raise UnsupportedOption(f'format "{name}"; choose one of: {", ".join(FORMATS)}')
        stored = await self._all_events(record.session_id)
        names = await self._names.of(record.session_id)

        def exported() -> bytes:
            transcript = Transcript.from_events([parse_durable_event(f) for f in stored])
            return export.export(transcript.named(names), record.session_id).encode()

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
        names = self._names if request.query.get("names") else None
        return await subscribe(request, self._hub, record, live, names)

    async def _all_events(self, session_id: str) -> list[dict[str, Any]]:
        events: list[dict[str, Any]] = []
        while page := await self._hub.store.events(
            session_id, after_seq=events[-1]["seq"] if events else 0
        ):
            events += page
        return events

    async def _owned(self, request: web.Request) -> SessionRecord:
        """Raises: UnknownSession."""
        return await owned_session(self._hub, request, request.match_info["id"])


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
