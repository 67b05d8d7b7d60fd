"""Readers of a session that are not its talker: server-sent events from the same event log.

A viewer's page, a bot or a webhook relay may come late, leave and come back (``Last-Event-ID``);
whatever it does, the talker notices nothing: each reader has its own cursor, and a slow one misses
partials only.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from enum import Enum

import orjson
import structlog
from aiohttp import hdrs, web

from server.hub import Hub
from server.live import LiveSession
from server.names import NameFeed, SpeakerNames
from server.store import SessionRecord, StoreError, TranscriptStore
from server.telemetry import Metrics
from streaming.errors import BadMessage
from streaming.eventlog import Behind
from streaming.events import Done, DurableEvent, Event, PassingEvent
from streaming.wire import encode_event, parse_durable_event

EVENTS_PER_READ = 64
KEEPALIVE_SECONDS = 15.0
"""Proxies cut connections that say nothing for a minute."""
WRITE_SECONDS_MAX = 30.0
"""A reader that takes nothing for so long is cut off; it can come back where it was."""


class Quiet(Enum):
    """No event of the session, but"""

    LONG = "nothing came for a while: the connection wants a sign of life"
    WOKEN = "something else may have come"


_log = structlog.get_logger(__name__)


async def subscribe(
    request: web.Request,
    hub: Hub,
    record: SessionRecord,
    live: LiveSession | None,
    names: SpeakerNames | None,
) -> web.StreamResponse:
    """Stream the session's events to one reader until its last one, or until the reader goes.

    Durable events carry their seq as the event id. A session that is not in memory gives what is
    stored and ends. With ``names`` the reader is told what the speakers are called, at first and
    whenever that changes.
    """
    after_seq = _after_seq(request)
    response = web.StreamResponse(
        headers={
            hdrs.CONTENT_TYPE: "text/event-stream; charset=utf-8",
            hdrs.CACHE_CONTROL: "no-store",
            "X-Accel-Buffering": "no",
        }
    )
    await response.prepare(request)
    news = asyncio.Event()
    feed = names.feed(record.session_id, news.set) if names else None
    events: AsyncGenerator[Event | Quiet, None] = (
        _stored(hub.store, record.session_id, after_seq)
        if live is None
        else _live(hub.store, live, after_seq, hub.metrics, news)
    )
    try:
        async with contextlib.aclosing(_with_names(events, feed, record)) as source:
            await _write_all(response, source, live)
    except StoreError as error:
        _log.warning("reader sent away", session_id=record.session_id, reason=error.message)
    except OSError as error:  # the reader is gone, or a write's time is over
        _log.debug("reader gone", session_id=record.session_id, reason=str(error))
        hub.metrics.slow_readers.inc(isinstance(error, TimeoutError))
        if request.transport is not None:
            request.transport.abort()
    finally:
        if feed is not None:
            feed.close()
    return response


async def _with_names(
    events: AsyncGenerator[Event | Quiet, None], feed: NameFeed | None, record: SessionRecord
) -> AsyncGenerator[Event | Quiet | bytes, None]:
    """The same, with what is to be written of names as bytes, before what comes next."""
    async with contextlib.aclosing(events):
        if feed is not None:
            yield _named(record, await feed.news())
        async for event in events:
            names = await feed.news() if feed is not None else None
            if names is not None:
                yield _named(record, names)
            if event is not Quiet.WOKEN:
                yield event


def _named(record: SessionRecord, names: dict[str, str] | None) -> bytes:
    """An event of another kind: who reads captions alone never sees it."""
    body = {"type": "session", "state": record.state, "names": names or {}}
    return b"event: session\ndata: " + orjson.dumps(body) + b"\n\n"


async def _write_all(
    response: web.StreamResponse,
    source: AsyncGenerator[Event | Quiet | bytes, None],
    live: LiveSession | None,
) -> None:
    """Raises: ConnectionError, TimeoutError, StoreError."""
    async for event in source:
        async with asyncio.timeout(WRITE_SECONDS_MAX):
            await response.write(_written(event, live))
    async with asyncio.timeout(WRITE_SECONDS_MAX):
        await response.write_eof()


def _after_seq(request: web.Request) -> int:
    text = request.headers.get("Last-Event-ID") or request.query.get("after_seq") or "0"
    if not (text.isascii() and text.isdigit() and len(text) < 16):
        raise BadMessage("after_seq: give the seq of the last event that you have, or leave it out")
    return int(text)


def _written(event: Event | Quiet | bytes, live: LiveSession | None) -> bytes:
    if isinstance(event, bytes):
        return event
    if isinstance(event, Quiet):
        return b": keep-alive\n\n"
    return _framed(event, is_durable=live is None or live.is_durable(event))


def _framed(event: Event, *, is_durable: bool) -> bytes:
    """An event that is not stored has no id: a reader that comes back is given it again."""
    name = b"" if isinstance(event, PassingEvent) or not is_durable else b"id: %d\n" % event.seq
    return name + b"data: " + encode_event(event, is_durable=is_durable) + b"\n\n"


async def _stored(
    store: TranscriptStore, session_id: str, after_seq: int, through_seq: int | None = None
) -> AsyncGenerator[DurableEvent, None]:
    while page := await store.events(session_id, after_seq=after_seq):
        for fields in page:
            event = parse_durable_event(fields)
            if through_seq is not None and event.seq > through_seq:
                return
            yield event
            after_seq = event.seq


async def _live(
    store: TranscriptStore,
    live: LiveSession,
    after_seq: int,
    metrics: Metrics,
    news: asyncio.Event,
) -> AsyncGenerator[Event | Quiet, None]:
    """Events as they come. Whoever has other news for the reader sets ``news``."""
    cursor = live.session.log.cursor(after_seq)
    live.listen(news.set)
    try:
        while True:
            try:
                events = cursor.read(EVENTS_PER_READ)
            except Behind as behind:
                async for old in _stored(store, live.id, behind.after_seq, behind.through_seq):
                    yield old
                    if isinstance(old, Done):
                        return
                cursor.skip_through(behind.through_seq)
                continue
            for event in events:
                yield event
                if isinstance(event, Done):
                    return
            if not events and live.is_gone:
                return
            if not events:
                yield Quiet.WOKEN if await _comes(news) else Quiet.LONG
    finally:
        live.unlisten(news.set)
        metrics.events_dropped.labels("partial").inc(cursor.missed_partials)


async def _comes(news: asyncio.Event) -> bool:
    try:
        async with asyncio.timeout(KEEPALIVE_SECONDS):
            await news.wait()
    except TimeoutError:
        return False
    news.clear()
    return True
