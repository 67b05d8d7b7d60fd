"""One WebSocket of the native protocol: bytes to its session, events back, one close.

The reader always drains the socket (a paused one cannot answer pings and kills healthy sessions);
flow is controlled by credit. One writer task sends everything, so that a slow client holds up
nobody. ``server/protocols/`` has what differs between protocols.

Invariants: K1 nothing is awaited between two receives but the socket itself; K2 an error message
stands before every close but 1000, as far as the client reads at all; K3 what was not sent stays
in the event log, for a resume; K4 a connection whose session was taken over writes nothing of it;
K5 a session is over only when the client has answered the close behind its last event: what is on
the way to a client that goes is lost.
"""

import asyncio
import time
from collections import deque
from typing import Protocol

import structlog
from aiohttp import WSCloseCode, WSMessage, WSMsgType

from server.limits import PacketGate
from server.live import LiveSession
from server.socket import CaptionSocket
from server.store import TranscriptStore
from server.telemetry import Metrics
from streaming.errors import (
    BadAudio,
    CaptiondError,
    Draining,
    IdleTooLong,
    InternalError,
    OutOfOrder,
    TooBig,
)
from streaming.eventlog import Behind, Cursor
from streaming.events import Done, Event
from streaming.wire import (
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

    async def open(self, start: Start, tenant: str) -> tuple[LiveSession, Ready]: ...

    async def resume(self, message: Resume, tenant: str) -> tuple[LiveSession, Ready]: ...

    def check_language(self, language: str | None) -> None: ...

    def check_guidance(self, message: Configure) -> None: ...


class Connection:
    """Serves one socket from its first message to its close."""

    def __init__(
        self,
        ws: CaptionSocket,
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
        self._notices: deque[ServerNotice] = deque()
        """At most ready, draining, one error and one ack: the next ack comes after it is sent."""
        self._wakeup = asyncio.Event()
        self._failure: CaptiondError | None = None
        self._is_dismissed = False
        """The session belongs to another connection, or is gone."""
        self._is_known = False
        """The client has the session's id and token."""
        self._is_delivered = False
        """The last event was sent."""
        self._is_answered = False
        """The client has closed, and so has read all that was sent before."""
        self._reader: asyncio.Task[None] | None = None
        self._with_words = True
        self._is_deaf = False
        """Draining: audio that comes now belongs to the next server."""
        self._log = _log
        self._heard_ns = time.monotonic_ns()
        """When the last message came that was no ping or pong."""
        self._silence: asyncio.TimerHandle | None = None
        self._audio_received_seconds = desk.metrics.audio_received_seconds.labels(PROTOCOL)

    async def serve(self) -> None:
        """Returns when the socket is closed. Never raises but on cancellation."""
        writer = asyncio.create_task(self._write(), name="socket writer")
        reader = self._reader = asyncio.create_task(self._read_until_closed(), name="socket reader")
        try:
            await asyncio.wait([reader])
            # The writer sends the last words and closes; a dead socket ends it by itself.
            self._wakeup.set()
            await asyncio.wait([writer], timeout=WRITE_SECONDS_MAX)
        finally:
            reader.cancel()
            writer.cancel()
            if not self._ws.closed or self._ws.close_code == WSCloseCode.ABNORMAL_CLOSURE:
                self._ws.abort()
            self._let_go()

    async def _read_until_closed(self) -> None:
        try:
            await self._read()
        except CaptiondError as error:
            self._fail(error)
        except Exception as error:  # noqa: BLE001  task boundary
            self._fail_by_bug(error)

    def _let_go(self) -> None:
        live, cursor = self._live, self._cursor
        if self._silence is not None:
            self._silence.cancel()
        if live is None or cursor is None:
            return
        live.unlisten(self._wakeup.set)
        self._desk.metrics.events_dropped.labels("partial").inc(cursor.missed_partials)
        is_delivered = self._is_delivered and self._is_answered
        live.detach(self._dismiss, is_delivered=is_delivered, is_known=self._is_known)

    # Reading

    async def _read(self) -> None:
        try:
            async with asyncio.timeout(self._handshake_s):
                message = await self._next()
        except TimeoutError:
            raise _silent_for(self._handshake_s, "send start or resume first") from None
        if message is None:
            return
        await self._open(self._parsed(message))
        self._watch_for_silence()
        while (message := await self._next()) is not None:
            if self._failure is None:
                self._take(message)

    def _watch_for_silence(self) -> None:
        """One timer that looks now and then: a new one for each packet costs more than its audio.

        A client that has sent ``end`` has nothing more to say.
        """
        assert self._live is not None
        silent_s = (time.monotonic_ns() - self._heard_ns) / 1e9
        is_ending = self._live.session.is_waiting_for_reader
        if silent_s >= self._idle_s and not is_ending:
            self._fail(_silent_for(self._idle_s, "send audio, or end"))
            return
        left_s = self._idle_s if is_ending else self._idle_s - silent_s
        self._silence = asyncio.get_running_loop().call_later(left_s, self._watch_for_silence)

    async def _next(self) -> WSMessage | None:
        """The next data message; None when the socket is closed."""
        message = await self._receive()
        if self._ws.refusal is not None:
            raise self._ws.refusal
        return message if message.type in (WSMsgType.TEXT, WSMsgType.BINARY) else None

    async def _receive(self) -> WSMessage:
        """Anything but a ping or a pong; those count as messages, but not as a sign of life."""
        while True:
            message = await self._ws.receive()
            now_ns = time.monotonic_ns()
            self._gate.receive_packet(now_ns)
            self._is_answered = message.type is WSMsgType.CLOSE
            if message.type is WSMsgType.PING:
                await self._ws.pong(message.data)
            elif message.type is not WSMsgType.PONG:
                self._heard_ns = now_ns
                return message

    def _parsed(self, message: WSMessage) -> ClientMessage:
        if message.type is WSMsgType.BINARY:
            raise OutOfOrder("audio before start; send start or resume first")
        if len(message.data.encode()) > CONTROL_MESSAGE_BYTES_MAX:
            raise TooBig(f"a text message above {CONTROL_MESSAGE_BYTES_MAX} bytes; shorten it")
        return parse_client_message(message.data)

    async def _open(self, message: ClientMessage) -> None:
        if isinstance(message, Start):
            live, ready = await self._desk.open(message, self._tenant)
        elif isinstance(message, Resume):
            live, ready = await self._desk.resume(message, self._tenant)
            self._is_known = True
        else:
            raise OutOfOrder(f"{message.type} before start; send start or resume first")
        self._live, self._log = live, _log.bind(session_id=live.id)
        self._with_words = live.session.start.words
        live.listen(self._wakeup.set)
        live.attach(self._dismiss, ready.seq, self._ws.probe)
        self._cursor = live.session.log.cursor(ready.seq)
        self._notify(ready)
        live.step()

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
        self._live.receive_audio(data)
        received = session.frames_received - frames
        self._audio_received_seconds.inc(received / session.start.audio.sample_rate)

    def _obey(self, message: ClientMessage) -> None:
        assert self._live is not None
        session = self._live.session
        if isinstance(message, End):
            self._end()
        elif isinstance(message, Flush):
            session.flush()
        elif isinstance(message, Skip):
            session.skip(message.ms, time.monotonic_ns(), message.lane)
        elif isinstance(message, Configure):
            self._desk.check_language(message.language)
            self._desk.check_guidance(message)
            session.configure(message)
        elif isinstance(message, Lane):
            session.set_lane(message.lane, message.name)
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
        """Everything received is captioned, stored and written, or never will be."""
        live = self._live
        if live is None or self._failure is not None or self._ws.closed:
            return True
        is_over = live.session.is_read and not live.session.is_waiting_for_reader
        return live.is_settled and is_over and not self._notices

    @property
    def session_id(self) -> str | None:
        """Of the session that it talks for; None before there is one."""
        return None if self._live is None else self._live.id

    def send_away(self, error: CaptiondError) -> None:
        """There is no room for it just now. Its session stays, and can be resumed."""
        self._fail(error)

    def close_for_drain(self) -> None:
        """Everything that could be said has been said."""
        self._fail(Draining("the server is going down; resume there or on another one"))

    def _dismiss(self, error: CaptiondError) -> None:
        self._is_dismissed = True
        self._fail(error)

    def _fail(self, error: CaptiondError) -> None:
        if self._failure is None:
            self._failure = error
            self._count(error)
            self._wakeup.set()

    def _fail_by_bug(self, error: Exception) -> None:
        self._log.error("connection broken by a bug", exc_info=error)
        self._fail(InternalError("the server has a bug; its log has the details"))

    async def _write(self) -> None:
        try:
            await self._write_until_over()
            async with asyncio.timeout(WRITE_SECONDS_MAX):
                await self._close()
        except TimeoutError:
            self._log.info("client reads nothing", seconds=WRITE_SECONDS_MAX)
            self._desk.metrics.slow_readers.inc()
            self._ws.abort()
        except ConnectionError as error:
            self._log.debug("socket gone while writing", reason=str(error))
            self._ws.abort()

    async def _write_until_over(self) -> None:
        """Raises: TimeoutError, ConnectionError."""
        while not self._ws.closed and self._failure is None and not self._is_delivered:
            await self._wakeup.wait()
            self._wakeup.clear()
            try:
                await self._write_news()
            except CaptiondError as error:
                self._fail(error)  # the store could not be read
            except OSError:
                raise
            except Exception as error:  # noqa: BLE001  task boundary
                self._fail_by_bug(error)

    async def _write_news(self) -> None:
        while not self._ws.closed:
            while self._notices:
                await self._write_notice(self._notices.popleft())
            events = await self._news()
            for event in events:
                if self._is_dismissed:
                    return
                await self._send(self._encoded(event))
                self._note_written(event)
            self._acknowledge()
            if not events and not self._notices:
                return

    def _encoded(self, event: Event) -> bytes:
        is_durable = self._live is None or self._live.is_durable(event)
        return encode_event(event, with_words=self._with_words, is_durable=is_durable)

    async def _write_notice(self, notice: ServerNotice) -> None:
        await self._send(encode_notice(notice))
        if isinstance(notice, Ready):
            self._is_known = True

    async def _news(self) -> list[Event]:
        if self._cursor is None or self._live is None or self._is_dismissed:
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

    def _note_written(self, event: Event) -> None:
        assert self._live is not None
        if self._is_dismissed:
            return  # while it was being sent: the next connection sends it again
        self._live.note_written(event)
        if isinstance(event, Done):
            self._is_delivered = True
        elif self._live.session.is_waiting_for_reader:
            self._live.step()

    def _acknowledge(self) -> None:
        if self._live is None or self._is_dismissed:
            return
        ack = self._live.session.take_ack()
        if ack is not None:
            self._notices.append(ack)

    async def _send(self, data: bytes) -> None:
        async with asyncio.timeout(WRITE_SECONDS_MAX):
            await self._ws.send_str(data.decode())

    async def _close(self) -> None:
        if self._is_delivered:
            await self._close_at_the_end()
        elif self._failure is not None and not self._ws.closed:
            await self._send(encode_notice(_notice_of(self._failure)))
            await self._ws.close(code=self._failure.close_code, message=self._failure.code.encode())

    async def _close_at_the_end(self) -> None:
        """Waits for the client's own close, which aiohttp does where nobody reads beside it."""
        assert self._reader is not None
        self._reader.cancel()
        await asyncio.wait([self._reader])
        if await self._ws.close(code=WSCloseCode.OK):
            self._is_answered = self._ws.close_code != WSCloseCode.ABNORMAL_CLOSURE

    def _count(self, error: CaptiondError) -> None:
        self._desk.metrics.errors.labels(PROTOCOL, error.code).inc()


def _silent_for(seconds: float, advice: str) -> IdleTooLong:
    return IdleTooLong(f"no message for {seconds} s; {advice}")


def _notice_of(error: CaptiondError) -> ErrorNotice:
    return ErrorNotice(error.code, error.message, error.retry_after_ms)
