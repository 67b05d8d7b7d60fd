"""One WebSocket of the native protocol: bytes to its session, events back, one close.

The reader always drains the socket (a paused one cannot answer pings and kills healthy sessions);
flow is controlled by credit. One writer task sends everything, so that a slow client holds up
nobody. ``server/protocols/`` has what differs between protocols.

Invariants: K1 nothing is awaited between two receives but the socket itself; K2 an error message
stands before every close but 1000; K3 what was not sent stays in the event log, for a resume.
"""

import asyncio
import time
from collections import deque
from typing import Protocol

import structlog
from aiohttp import WSCloseCode, WSMessage, WSMsgType, web

from server.limits import PacketGate
from server.live import LiveSession
from server.store import TranscriptStore
from server.telemetry import Metrics
from streaming.errors import (
    BadAudio,
    BadMessage,
    CaptiondError,
    Draining,
    IdleTooLong,
    InternalError,
    OutOfOrder,
    Superseded,
    TooBig,
    UnknownSession,
    UnsupportedOption,
)
from streaming.eventlog import Behind, Cursor
from streaming.events import Done, Event
from streaming.wire import (
    AUDIO_MESSAGE_BYTES_MAX,
    CONTROL_MESSAGE_BYTES_MAX,
    ClientMessage,
    Configure,
    DrainNotice,
    End,
    ErrorNotice,
    Flush,
    Lane,
    Ready,
    Resume,
    ServerNotice,
    Skip,
    Start,
    encode_event,
    encode_notice,
    parse_client_message,
    parse_durable_event,
)

NOTICES_MAX = 64
"""Acks and notices that wait for a slow client; newer acks replace older ones beyond it."""
EVENTS_PER_WRITE = 64
WRITE_SECONDS_MAX = 30.0
"""A client that takes nothing for this long is cut off; it can resume."""
HEARTBEAT_SECONDS = 20.0
PROTOCOL = "captiond"
"""Label of this protocol in metrics."""

_log = structlog.get_logger(__name__)


class Desk(Protocol):
    """Where sessions come from; the app's."""

    @property
    def metrics(self) -> Metrics: ...

    @property
    def store(self) -> TranscriptStore: ...

    @property
    def is_draining(self) -> bool: ...

    async def open(self, start: Start, tenant: str) -> tuple[LiveSession, Ready]: ...

    def resume(self, message: Resume, tenant: str) -> tuple[LiveSession, Ready]: ...

    def check_language(self, language: str | None) -> None: ...


class Connection:
    """Serves one socket from its first message to its close."""

    def __init__(
        self,
        ws: web.WebSocketResponse,
        desk: Desk,
        tenant: str,
        *,
        gate: PacketGate,
        handshake_s: float,
        idle_s: float,
    ) -> None:
        self._ws = ws
        self._desk = desk
        self._tenant = tenant
        self._gate = gate
        self._handshake_s, self._idle_s = handshake_s, idle_s
        self._live: LiveSession | None = None
        self._cursor: Cursor | None = None
        self._notices: deque[ServerNotice] = deque(maxlen=NOTICES_MAX)
        self._wakeup = asyncio.Event()
        self._failure: CaptiondError | None = None
        self._is_delivered = False
        self._with_words = True
        self._is_deaf = False
        """Draining: audio that comes now belongs to the next server."""

    async def serve(self) -> None:
        """Returns when the socket is closed. Never raises but on cancellation."""
        writer = asyncio.create_task(self._write())
        try:
            await self._read()
        except CaptiondError as error:
            self._fail(error)
        except Exception as error:  # noqa: BLE001  task boundary
            _log.error("connection broken by a bug", exc_info=error)
            self._fail(InternalError("the server has a bug; its log has the details"))
        try:
            await self._finish(writer)
        finally:
            writer.cancel()
            self._let_go()

    async def _finish(self, writer: asyncio.Task[None]) -> None:
        """Let the writer send the last words and close; a dead socket ends it by itself."""
        if self._failure is None and not self._ws.closed:
            self._fail(BadMessage("a broken WebSocket frame; connect again and resume"))
        self._wakeup.set()
        await asyncio.wait([writer], timeout=WRITE_SECONDS_MAX)

    def _let_go(self) -> None:
        live = self._live
        if live is None:
            return
        live.unlisten(self._wakeup.set)
        if self._cursor is not None:
            dropped = self._desk.metrics.events_dropped.labels("partial")
            dropped.inc(self._cursor.missed_partials)
        if self._is_delivered:
            live.mark_delivered()
        live.detach(self._fail)

    # Reading

    async def _read(self) -> None:
        message = await self._next(self._handshake_s, "send start or resume first")
        if message is None:
            return
        await self._open(self._parsed(message))
        while (message := await self._next(self._patience_s, "send audio, or end")) is not None:
            if self._failure is None:
                self._take(message)

    @property
    def _patience_s(self) -> float | None:
        """A client that has sent ``end`` has nothing more to say."""
        is_ending = self._live is not None and self._live.session.is_waiting_for_reader
        return None if is_ending else self._idle_s

    async def _next(self, timeout_s: float | None, advice: str) -> WSMessage | None:
        """The next data message; None when the socket is closed."""
        try:
            async with asyncio.timeout(timeout_s):
                message = await self._ws.receive()
        except TimeoutError:
            raise IdleTooLong(f"no message for {timeout_s} s; {advice}") from None
        if message.type in (WSMsgType.TEXT, WSMsgType.BINARY):
            self._gate.receive_packet(time.monotonic_ns())
            return message
        if message.type is WSMsgType.ERROR and self._ws.close_code == WSCloseCode.MESSAGE_TOO_BIG:
            raise TooBig(f"a message above {AUDIO_MESSAGE_BYTES_MAX} bytes; send smaller ones")
        return None

    def _parsed(self, message: WSMessage) -> ClientMessage:
        if message.type is WSMsgType.BINARY:
            raise OutOfOrder("audio before start; send start or resume first")
        if len(message.data) > CONTROL_MESSAGE_BYTES_MAX:
            raise TooBig(f"a text message above {CONTROL_MESSAGE_BYTES_MAX} characters")
        return parse_client_message(message.data)

    async def _open(self, message: ClientMessage) -> None:
        if isinstance(message, Start):
            self._live, ready = await self._desk.open(message, self._tenant)
        elif isinstance(message, Resume):
            self._live, ready = self._desk.resume(message, self._tenant)
        else:
            raise OutOfOrder(f"{message.type} before start; send start or resume first")
        self._with_words = self._live.session.start.words
        self._live.listen(self._wakeup.set)
        self._live.attach(self._fail, ready.seq)
        self._cursor = self._live.session.log.cursor(ready.seq)
        self._notify(ready)
        self._live.step()

    def _take(self, message: WSMessage) -> None:
        assert self._live is not None
        if message.type is WSMsgType.BINARY:
            self._take_audio(message.data)
        else:
            self._obey(self._parsed(message))
        self._live.step()

    def _take_audio(self, data: bytes) -> None:
        if self._is_deaf or self._live is None:
            return
        session = self._live.session
        frames = session.frames_received
        session.receive_audio(data, time.monotonic_ns())
        received = session.frames_received - frames
        seconds = received / session.start.audio.sample_rate
        self._desk.metrics.audio_received_seconds.labels(PROTOCOL).inc(seconds)

    def _obey(self, message: ClientMessage) -> None:
        assert self._live is not None
        session = self._live.session
        if isinstance(message, End):
            self._end()
        elif isinstance(message, Flush):
            session.flush()
        elif isinstance(message, Skip):
            session.skip(message.ms, time.monotonic_ns())
        elif isinstance(message, Configure):
            self._desk.check_language(message.language)
            session.configure(message)
        elif isinstance(message, Lane):
            raise UnsupportedOption("lane messages are for tagged audio, which is not offered yet")
        else:
            raise OutOfOrder(f"{message.type} on a session that runs; open another connection")

    def _end(self) -> None:
        assert self._live is not None
        if self._is_deaf:
            return
        try:
            self._live.session.end_of_audio(time.monotonic_ns())
        except BadAudio as error:
            # The session has ended all the same: its captions still come, then done.
            self._count(error)
            self._notify(_notice_of(error))

    # Writing

    def _notify(self, notice: ServerNotice) -> None:
        self._notices.append(notice)
        self._wakeup.set()

    def drain(self, deadline_s: float) -> None:
        """Take no more audio; what was received is finished and sent."""
        self._is_deaf = True
        self._notify(DrainNotice(deadline_s))
        if self._live is None:
            self.close_for_drain()

    @property
    def is_caught_up(self) -> bool:
        """Everything received is captioned, stored and written."""
        live = self._live
        if live is None or self._ws.closed:
            return True
        is_over = live.session.is_read and not live.session.is_waiting_for_reader
        return live.is_settled and is_over and not self._notices

    def close_for_drain(self) -> None:
        """Everything that could be said has been said."""
        self._fail(Draining("the server is going down; resume there or on another one"))

    def _fail(self, error: CaptiondError) -> None:
        if self._failure is None:
            self._failure = error
            self._wakeup.set()

    async def _write(self) -> None:
        try:
            while not self._ws.closed and self._failure is None and not self._is_delivered:
                await self._wakeup.wait()
                self._wakeup.clear()
                await self._write_news()
            await self._close()
        except TimeoutError:
            _log.info("client reads nothing", seconds=WRITE_SECONDS_MAX)
            await self._drop(IdleTooLong.close_code)
        except (ConnectionError, RuntimeError) as error:
            # aiohttp raises RuntimeError for a socket that closed under the writer.
            _log.debug("socket gone while writing", reason=str(error))
        except Exception as error:  # noqa: BLE001  task boundary
            _log.error("writer broken by a bug", exc_info=error)
            await self._drop(InternalError.close_code)

    async def _write_news(self) -> None:
        while not self._ws.closed:
            while self._notices:
                await self._send(encode_notice(self._notices.popleft()))
            events = await self._news()
            for event in events:
                await self._send(encode_event(event, with_words=self._with_words))
                self._note_written(event)
            self._acknowledge()
            if not events and not self._notices:
                return

    async def _news(self) -> list[Event]:
        if self._cursor is None or self._live is None or self._has_lost_session:
            return []
        try:
            return self._cursor.read(EVENTS_PER_WRITE)
        except Behind as behind:
            return await self._news_from_store(behind)

    async def _news_from_store(self, behind: Behind) -> list[Event]:
        assert self._live is not None
        assert self._cursor is not None
        limit = min(EVENTS_PER_WRITE, behind.through_seq - behind.after_seq)
        stored = await self._desk.store.events(
            self._live.id, after_seq=behind.after_seq, limit=limit
        )
        events: list[Event] = [parse_durable_event(fields) for fields in stored]
        self._cursor.skip_through(behind.after_seq + len(events))
        return events

    @property
    def _has_lost_session(self) -> bool:
        """Its events are another connection's now, or nobody's."""
        return isinstance(self._failure, Superseded | UnknownSession)

    def _note_written(self, event: Event) -> None:
        assert self._live is not None
        self._live.note_written(event)
        if isinstance(event, Done):
            self._is_delivered = True
        elif self._live.session.is_waiting_for_reader:
            self._live.step()

    def _acknowledge(self) -> None:
        if self._live is None or self._has_lost_session:
            return
        ack = self._live.session.take_ack()
        if ack is not None:
            self._notices.append(ack)

    async def _send(self, data: bytes) -> None:
        async with asyncio.timeout(WRITE_SECONDS_MAX):
            await self._ws.send_str(data.decode())

    async def _close(self) -> None:
        if self._is_delivered:
            await self._ws.close(code=WSCloseCode.OK)
        elif self._failure is not None and not self._ws.closed:
            self._count(self._failure)
            await self._send(encode_notice(_notice_of(self._failure)))
            await self._ws.close(code=self._failure.close_code, message=self._failure.code.encode())

    async def _drop(self, close_code: int) -> None:
        """Close without waiting for what is still to be sent."""
        await self._ws.close(code=close_code, drain=False)

    def _count(self, error: CaptiondError) -> None:
        self._desk.metrics.errors.labels(PROTOCOL, error.code).inc()


def _notice_of(error: CaptiondError) -> ErrorNotice:
    return ErrorNotice(error.code, error.message, error.retry_after_ms)
