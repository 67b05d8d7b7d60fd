"""One WebSocket, whatever is spoken on it: bytes to its session, events back, one close.

Owns what all protocols share: the reader, which always drains the socket (a paused one cannot
answer pings and kills healthy sessions; flow is controlled by credit), the writer, which sends
everything, so that a slow client holds up nobody, silence, drain and the end. What is said, and in
which words, is a protocol's: ``server/protocols/``.

Invariants: K1 nothing is awaited between two receives but the socket itself; K2 what was not sent
stays in the event log; K3 a connection whose session was taken over writes nothing of it; K4 a
session is over only when the client has answered the close behind its last event: what is on the
way to a client that goes is lost.
"""

import abc
import asyncio
import time
from typing import ClassVar, Protocol

import structlog
from aiohttp import WSCloseCode, WSMessage, WSMsgType

from server.limits import PacketGate
from server.live import LiveSession
from server.socket import CaptionSocket
from server.store import TranscriptStore
from server.telemetry import Metrics
from streaming.errors import (
    CaptiondError,
    Draining,
    IdleTooLong,
    InternalError,
    TooBig,
    UnknownSession,
)
from streaming.eventlog import Behind, Cursor
from streaming.events import Event
from streaming.wire import (
    CONTROL_MESSAGE_BYTES_MAX,
    Configure,
    Ready,
    Resume,
    Start,
    parse_durable_event,
)

EVENTS_PER_WRITE = 64
WRITE_SECONDS_MAX = 30.0
"""A client that takes nothing for this long is cut off."""
HEARTBEAT_SECONDS = 20.0

_log = structlog.get_logger(__name__)


class Desk(Protocol):
    """Where sessions come from; the app's."""

    @property
    def metrics(self) -> Metrics: ...

    @property
    def store(self) -> TranscriptStore: ...

    async def open(
        self, start: Start, tenant: str, *, protocol: str
    ) -> tuple[LiveSession, Ready]: ...

    async def resume(self, message: Resume, tenant: str) -> tuple[LiveSession, Ready]: ...

    def check_language(self, language: str | None) -> None: ...

    def check_guidance(self, message: Configure) -> None: ...


class Gatekeeper(Protocol):
    """Says whether the load leaves room for one more session."""

    def check(self) -> None:
        """Raises: Overloaded."""


class Connection(abc.ABC):
    """Serves one socket from its handshake to its close."""

    protocol: ClassVar[str]
    """Label in metrics."""
    silence_advice: ClassVar[str]
    """For a client that says nothing."""

    def __init__(
        self,
        ws: CaptionSocket,
        desk: Desk,
        tenant: str,
        *,
        gate: PacketGate,
        idle_s: float,
    ) -> None:
        self._ws = ws
        self._desk = desk
        self._tenant = tenant
        self._gate = gate
        self._idle_s = idle_s
        self._live: LiveSession | None = None
        self._cursor: Cursor | None = None
        self._wakeup = asyncio.Event()
        self._failure: CaptiondError | None = None
        self._is_dismissed = False
        """The session belongs to another connection, or is gone."""
        self._is_known = False
        """The client has what it takes to come back to the session."""
        self._is_delivered = False
        """The last event was sent."""
        self._is_answered = False
        """The client has closed, and so has read all that was sent before."""
        self._reader: asyncio.Task[None] | None = None
        self._log = _log
        self._heard_ns = time.monotonic_ns()
        """When the last message came that was no ping or pong."""
        self._silence: asyncio.TimerHandle | None = None
        self._audio_received_seconds = desk.metrics.audio_received_seconds.labels(self.protocol)

    # A protocol's own

    @abc.abstractmethod
    async def _begin(self) -> bool:
        """Whatever comes before the session's messages; False where the socket is closed."""

    @abc.abstractmethod
    def _take(self, message: WSMessage) -> None:
        """One message of a client whose session runs. Raises: CaptiondError."""

    @property
    @abc.abstractmethod
    def _has_messages(self) -> bool:
        """``_write_messages`` would say something."""

    @abc.abstractmethod
    async def _write_messages(self) -> None:
        """Say what is no event of the log, or was put off."""

    @abc.abstractmethod
    async def _tell(self, event: Event) -> None:
        """The log's next event, to be said now or put off; then ``_note_written`` has it."""

    @abc.abstractmethod
    def _note_told(self) -> None:
        """All events that there are were told."""

    @abc.abstractmethod
    def _announce_drain(self, deadline_s: float) -> None:
        """The server goes down, so late at the latest."""

    @property
    @abc.abstractmethod
    def _is_all_said(self) -> bool:
        """Everything received is captioned, stored and written."""

    async def _linger(self) -> None:
        """The socket is closed: do whatever the session still needs of its talker."""
        return

    async def serve(self) -> None:
        """Returns when the socket is closed. Never raises but on cancellation."""
        try:
            await self._talk()
            await self._linger()
        finally:
            self._let_go()

    async def _talk(self) -> None:
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
        if not await self._begin():
            return
        self._watch_for_silence()
        while (message := await self._next()) is not None:
            if self._failure is None:
                self._take(message)

    def _use(self, live: LiveSession, after_seq: int) -> None:
        """Talk for a session whose events up to ``after_seq`` the client has.

        Raises: UnknownSession where it was deleted while it was opened.
        """
        if live.is_gone:
            raise UnknownSession("this session was deleted; start a new one")
        self._live, self._log = live, _log.bind(session_id=live.id)
        live.listen(self._wakeup.set)
        live.attach(self._dismiss, after_seq, self._ws.probe)
        self._cursor = live.session.log.cursor(after_seq)

    def _watch_for_silence(self) -> None:
        """One timer that looks now and then: a new one for each packet costs more than its audio.

        A client that has ended its audio has nothing more to say.
        """
        silent_s = (time.monotonic_ns() - self._heard_ns) / 1e9
        is_ending = self._live is not None and self._live.session.is_waiting_for_reader
        if silent_s >= self._idle_s and not is_ending:
            self._fail(silent_for(self._idle_s, self.silence_advice))
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
            await self._pass_gate()
            now_ns = time.monotonic_ns()
            self._is_answered = message.type is WSMsgType.CLOSE
            if message.type is WSMsgType.PING:
                await self._ws.pong(message.data)
            elif message.type is not WSMsgType.PONG:
                self._heard_ns = now_ns
                return message

    async def _pass_gate(self) -> None:
        """Raises: TooFast."""
        self._gate.receive_packet(time.monotonic_ns())

    def _checked_text(self, message: WSMessage) -> str:
        """Raises: TooBig."""
        text: str = message.data
        if len(text.encode()) > CONTROL_MESSAGE_BYTES_MAX:
            raise TooBig(f"a text message above {CONTROL_MESSAGE_BYTES_MAX} bytes; shorten it")
        return text

    @property
    def _is_deaf(self) -> bool:
        """Draining: whatever comes now belongs to the next server."""
        return self._live is not None and self._live.session.is_deaf

    def _take_audio(self, data: bytes) -> None:
        if self._live is None:
            return
        session = self._live.session
        frames = session.frames_received
        self._live.receive_audio(data)
        received = session.frames_received - frames
        self._audio_received_seconds.inc(received / session.start.audio.sample_rate)

    # Writing

    def drain(self, deadline_s: float) -> None:
        """Listen to the end of what is being said; it is finished and sent."""
        self._announce_drain(deadline_s)
        if self._live is None:
            self.close_for_drain()
        else:
            self._live.wind_up(can_come_back=self.can_come_back)

    @property
    def is_caught_up(self) -> bool:
        """Everything received is captioned, stored and written, or never will be."""
        if self._live is None or self._failure is not None or self._ws.closed:
            return True
        return self._is_all_said and not self._has_messages

    @property
    def session_id(self) -> str | None:
        """Of the session that it talks for; None before there is one."""
        return None if self._live is None else self._live.id

    @property
    def can_come_back(self) -> bool:
        """Its client has what it takes to go on with the session on another connection."""
        return self._is_known

    def send_away(self, error: CaptiondError) -> None:
        """There is no room for it just now."""
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
            await self._write_messages()
            events = await self._news()
            for event in events:
                if self._is_dismissed:
                    return
                await self._tell(event)
            self._note_told()
            if not events and not self._has_messages:
                return

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
        if not stored:
            self._live.note_deleted()  # which dismisses this connection
        events: list[Event] = [parse_durable_event(fields) for fields in stored]
        self._cursor.skip_through(behind.after_seq + len(events))
        return events

    def _note_written(self, event: Event) -> None:
        """An event was sent."""
        assert self._live is not None
        if self._is_dismissed:
            return  # while it was being sent: the next connection sends it again
        self._live.note_written(event)
        self._desk.metrics.on_sent(self._live.id, event)
        if self._live.session.is_waiting_for_reader:
            self._live.step()

    async def _send(self, data: bytes) -> None:
        async with asyncio.timeout(WRITE_SECONDS_MAX):
            await self._ws.send_str(data.decode())

    async def _close(self) -> None:
        if self._is_delivered:
            await self._close_at_the_end()
        elif self._failure is not None and not self._ws.closed:
            farewell = self._ws.farewell(self._failure)
            if farewell.text is not None:
                await self._send(farewell.text.encode())
            await self._ws.close(code=farewell.code, message=farewell.reason.encode())

    async def _close_at_the_end(self) -> None:
        """Waits for the client's own close, which aiohttp does where nobody reads beside it."""
        assert self._reader is not None
        self._reader.cancel()
        await asyncio.wait([self._reader])
        if await self._ws.close(code=WSCloseCode.OK):
            self._is_answered = self._ws.close_code != WSCloseCode.ABNORMAL_CLOSURE

    def _count(self, error: CaptiondError) -> None:
        self._desk.metrics.errors.labels(self.protocol, error.code).inc()


def silent_for(seconds: float, advice: str) -> IdleTooLong:
    return IdleTooLong(f"no message for {seconds} s; {advice}")
