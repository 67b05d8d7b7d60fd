"""The async client of a captiond server: audio in, events out, across lost connections.

Owns: the connection, its tasks, and what must survive it (unacknowledged audio, the last ``seq``).
One task sends and one reads, so neither waits for the other. May not know files, microphones or
screens.
Invariants: C1 each durable event is yielded exactly once, in order of ``seq``; those that a server
had shown and lost come again, made anew, and say so by their ``seq``; C2 nothing is sent beyond
the server's credit; C3 audio is kept until the server has stored it; C4 after an error both
``send`` and iteration raise that error.
Bounds: unsent and unacknowledged audio by credit and ``backlog.BYTES_MAX`` (``send`` waits);
events by ``EVENTS_MAX``: when the reader of this object is slow, passing events are dropped and
the socket is not read until it catches up, so read events while you send.
"""

import asyncio
import random
import ssl
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from types import TracebackType
from typing import Self

from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from clients.backlog import Backlog, Control
from clients.dial import dial, endpoint, greet, refusal_of
from clients.errors import CaptionStreamError, ConnectionLost, ServerRefused, StreamEnded
from clients.reconnect import PROGRESS_UPTIME_NS, Retry, RetryBudget
from streaming.errors import BadMessage
from streaming.events import Done, DurableEvent, Event
from streaming.wire import (
    AUDIO_MESSAGE_BYTES_MAX,
    CHANNELS_MAX,
    Ack,
    AudioFormat,
    Configure,
    DrainNotice,
    End,
    ErrorNotice,
    Flush,
    Lane,
    Ready,
    Resume,
    Skip,
    Start,
    encode_client_message,
    parse_server_message,
)

EVENTS_MAX = 1_024
"""Events read but not yet taken: minutes of talk with partials, an hour of finals."""
KEEPALIVE_S = 15.0
"""A muted talker says nothing, but a server closes connections that are idle for a minute."""
MESSAGES_PER_SECOND = 250
"""Half of what a server with default settings lets through."""

BYTES_PER_SAMPLE = {"pcm_s16le": 2, "pcm_f32le": 4, "mulaw": 1, "alaw": 1}


def frame_bytes(audio: AudioFormat) -> int:
    """One sample of every channel."""
    return BYTES_PER_SAMPLE[audio.encoding] * audio.channels


def message_bytes_max(audio: AudioFormat) -> int:
    """A second of audio, as far as the wire allows.

    Larger messages would never get through a line that breaks every few seconds, and much smaller
    ones would be too many for the server while a client catches up. Tagged packets hold whole
    frames, and a byte more on the wire.
    """
    size = frame_bytes(audio)
    most = (AUDIO_MESSAGE_BYTES_MAX - 1) // size * size if audio.tagged else AUDIO_MESSAGE_BYTES_MAX
    return min(size * audio.sample_rate, most)


def _place_of(event: Event) -> int:
    """The durable event that it is, or that it comes after."""
    return event.seq if isinstance(event, DurableEvent) else event.after_seq


class CaptionStream:
    """One caption session. Made by ``CaptionStream.open``; use as an async context manager."""

    def __init__(
        self,
        url: str,
        start: Start,
        api_key: str | None,
        retry: Retry,
        *,
        can_resume: bool,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._endpoint = endpoint(url, api_key, tls)
        self._start = start
        self._can_resume = can_resume
        self._on_message: Callable[[str], None] | None = None
        self._backlog = Backlog(
            frame_bytes(start.audio),
            message_bytes_max(start.audio),
            sample_rate=start.audio.sample_rate,
        )
        self._lanes = 0
        """Lanes 0 up to, not including, this one were added."""
        self._budget = RetryBudget(retry)
        self._events: deque[Event] = deque()
        self._changed = asyncio.Event()
        self._ready: Ready | None = None
        self._failure: CaptionStreamError | None = None
        self._last_notice: ErrorNotice | None = None
        self._last_seq = 0
        self._has_end = False
        self._is_done = False
        self._is_over = False
        self._runner: asyncio.Task[None] | None = None
        self.connections = 0
        """How many connections the session has had."""

    @classmethod
    def open(
        cls,
        url: str,
        start: Start | None = None,
        *,
        api_key: str | None = None,
        resume: bool = True,
        retry: Retry | None = None,
        on_message: Callable[[str], None] | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> Self:
        """A stream to be entered with ``async with``.

        ``url`` is ``ws://host:port`` (or wss, http, https); the path is added where it has none.
        ``on_message`` gets every server message as it came, before it is parsed. ``tls`` is for a
        wss server whose certificate this machine does not trust by itself:
        ``ssl.create_default_context(cafile=...)``.
        """
        stream = cls(url, start or Start(), api_key, retry or Retry(), can_resume=resume, tls=tls)
        stream._on_message = on_message
        return stream

    @property
    def ready(self) -> Ready:
        """Session id, engines and limits, as of the newest connection."""
        if self._ready is None:
            raise RuntimeError("the stream is not open yet; enter it with `async with`")
        return self._ready

    @property
    def accepted_frames(self) -> int:
        """Frames that ``send`` has taken."""
        return self._backlog.accepted_frames

    @property
    def stored_frames(self) -> int:
        """Frames that the server has acknowledged."""
        return self._backlog.stored_frames

    async def __aenter__(self) -> Self:
        """Connects. Raises: ServerRefused, ConnectionLost."""
        self._runner = asyncio.create_task(self._run(), name="captiond-stream")
        try:
            while self._ready is None:
                self._raise_failure()
                await self._changed.wait()
        except BaseException:
            await self._stop()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._stop()

    async def send(self, pcm: bytes, lane: int | None = None) -> None:
        """Hand over audio of any length; waits while it lies beyond the server's credit.

        Tagged audio: whole mono samples, and the lane that they belong to, which ``add_lane``
        gave. While the connection is down audio is taken as far as the credit goes, and sent
        later. Raises: ServerRefused, ConnectionLost, StreamEnded; ValueError for a wrong lane.
        """
        self._check_lane(lane, len(pcm))
        view = memoryview(pcm)
        while len(view):
            self._raise_failure()
            if self._has_end:
                raise StreamEnded("send() after end(): open a new stream for more audio")
            room = min(self._backlog.room_bytes(), len(view))
            if room == 0:
                await self._changed.wait()
                continue
            self._backlog.accept(bytes(view[:room]), lane)
            view = view[room:]
            self._pulse()

    async def add_lane(self, name: str | None = None) -> int:
        """Somebody joins a session of tagged audio; returns the lane for ``send``.

        A lane with a name belongs to that person; in one without, voices are told apart. Its
        times are on the others' clock. Raises: ValueError where all lanes are taken: give the
        lane of somebody who has left another name.
        """
        if not self._start.audio.tagged:
            raise ValueError("lanes are for tagged audio: Start(audio=AudioFormat(tagged=True))")
        if self._lanes == CHANNELS_MAX:
            raise ValueError(
                f"a session has at most {CHANNELS_MAX} lanes; rename one with name_lane"
            )
        message = Lane(lane=self._lanes, name=name)
        self._control(message)
        self._lanes += 1
        return message.lane

    async def name_lane(self, lane: int, name: str | None) -> None:
        """Whose the audio is that follows on this lane; what was said before keeps its name."""
        self._check_lane(lane)
        self._control(Lane(lane=lane, name=name))

    async def skip(self, ms: int, lane: int | None = None) -> None:
        """Time passes without audio: in one lane of tagged audio, or in the whole session.

        It ends what is being said, and what follows comes that much later on the audio clock.
        """
        if lane is not None:
            self._check_lane(lane)
        self._raise_if_over()
        self._backlog.accept_skip(Skip(ms=ms) if lane is None else Skip(ms=ms, lane=lane))
        self._pulse()

    def _check_lane(self, lane: int | None, size_bytes: int = 0) -> None:
        if not self._start.audio.tagged:
            if lane is not None:
                raise ValueError(
                    "lanes are for tagged audio: Start(audio=AudioFormat(tagged=True))"
                )
            return
        if lane is None or not 0 <= lane < self._lanes:
            raise ValueError(f"lane {lane} was not added; use what add_lane() gave")
        if size_bytes % frame_bytes(self._start.audio):
            raise ValueError(f"{size_bytes} bytes are not whole samples; tagged audio must be")

    async def flush(self) -> None:
        """Close the open utterances after the audio sent so far."""
        self._control(Flush())

    async def configure(self, message: Configure) -> None:
        """Change language, prompt or keywords for the audio that follows."""
        self._control(message)

    async def end(self) -> None:
        """No more audio: the server finishes all captions, then iteration ends. Idempotent."""
        self._raise_failure()
        self._has_end = True
        self._pulse()

    async def __aiter__(self) -> AsyncIterator[Event]:
        """Yields events up to and with ``Done``.

        Raises: ServerRefused, ConnectionLost, after the events that came before.
        """
        while self._events or not self._is_over:
            if not self._events:
                await self._changed.wait()
                continue
            event = self._events.popleft()
            self._pulse()
            yield event
        if not self._is_done:
            self._raise_failure()

    def _raise_if_over(self) -> None:
        self._raise_failure()
        if self._has_end:
            raise StreamEnded("the stream has ended; open a new one")

    def _control(self, message: Control) -> None:
        self._raise_if_over()
        self._backlog.accept_control(message)
        self._pulse()

    def _pulse(self) -> None:
        # Wakes all that wait now; each looks at the state again before it waits anew.
        self._changed.set()
        self._changed.clear()

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    async def _stop(self) -> None:
        if self._runner is not None:
            self._runner.cancel()
            [outcome] = await asyncio.gather(self._runner, return_exceptions=True)
            if isinstance(outcome, Exception):
                raise outcome

    async def _run(self) -> None:
        """Connect and converse until the session is done or given up."""
        try:
            while not self._is_done:
                lost = await self._try_connection()
                if not self._is_done:
                    await self._wait_before_retry(lost)
        except CaptionStreamError as error:
            self._failure = error
        finally:
            if self._failure is None and not self._is_done:
                self._failure = ConnectionLost("the stream was closed before the session was done")
            self._is_over = True
            self._pulse()

    async def _try_connection(self) -> CaptionStreamError:
        """Runs one connection to its end, and says why it ended."""
        self._last_notice = None
        try:
            async with dial(self._endpoint, is_resuming=self._ready is not None) as socket:
                return await self._converse(socket)
        except CaptionStreamError as error:
            return error

    async def _converse(self, socket: ClientConnection) -> CaptionStreamError:
        started_ns = time.monotonic_ns()
        try:
            self._begin(await greet(socket, self._greeting(), self._on_message))
            async with asyncio.TaskGroup() as tasks:
                sender = tasks.create_task(self._send_all(socket), name="captiond-sender")
                lost = await self._read_all(socket)
                sender.cancel()
            return lost
        except ConnectionClosed as closed:
            return refusal_of(closed, self._last_notice)
        finally:
            if time.monotonic_ns() - started_ns > PROGRESS_UPTIME_NS:
                self._budget.progressed()

    def _greeting(self) -> Start | Resume:
        if self._ready is None:
            return self._start
        return Resume(
            session_id=self._ready.session_id,
            resume_token=self._ready.resume_token,
            last_seq=self._last_seq,
        )

    def _begin(self, ready: Ready) -> None:
        try:
            self._backlog.rewind(ready.resume_from_frame)
        except ValueError as error:
            raise ConnectionLost(str(error), close_code=4404) from None
        self._backlog.grant(ready.credit_until_frame)
        self._forget_after(ready.seq)
        if self._ready is not None and ready.resume_from_frame > self._ready.resume_from_frame:
            self._budget.progressed()
        self._ready = ready
        self.connections += 1
        self._pulse()

    def _forget_after(self, seq: int) -> None:
        """The server died before it could store the rest: that is made anew."""
        if seq < self._last_seq:
            self._last_seq = seq
            kept = (event for event in self._events if _place_of(event) <= seq)
            self._events = deque(kept)

    async def _read_all(self, socket: ClientConnection) -> CaptionStreamError:
        """Returns, never raises, how it ended: the sender is then to be cancelled."""
        try:
            while not self._is_done:
                await self._receive(await socket.recv(decode=True))
        except ConnectionClosed as closed:
            return refusal_of(closed, self._last_notice)
        except BadMessage as error:
            return ConnectionLost(error.message, close_code=1002)
        except ConnectionLost as error:
            return error
        return ConnectionLost("the session is done")

    async def _send_all(self, socket: ClientConnection) -> None:
        """Ends by cancellation, or in silence where the reader sees the same connection close."""
        with suppress(ConnectionClosed):
            await self._send_in_order(socket)

    async def _send_in_order(self, socket: ClientConnection) -> None:
        loop = asyncio.get_running_loop()
        end_sent = False
        quiet_since = loop.time()
        while True:
            if (item := self._backlog.take()) is not None:
                await socket.send(item if isinstance(item, bytes) else encode_client_message(item))
                quiet_since = loop.time()
                # What comes meanwhile goes together, however small the pieces are.
                await asyncio.sleep(self._message_seconds)
            elif self._has_end and self._backlog.is_sent and not end_sent:
                end_sent = True
                await socket.send(encode_client_message(End()))
            elif not await self._changed_before(quiet_since + KEEPALIVE_S):
                # Neither changes anything: no audio, or an end that was said before.
                await socket.send(encode_client_message(End()) if end_sent else b"")
                quiet_since = loop.time()

    @property
    def _message_seconds(self) -> float:
        """Between two messages; each one counts, and a server sends away who sends too many."""
        allowed = self.ready.limits.get("packets_per_second_max", 2 * MESSAGES_PER_SECOND)
        return 1 / min(MESSAGES_PER_SECOND, max(1, allowed / 2))

    async def _changed_before(self, loop_time: float) -> bool:
        try:
            async with asyncio.timeout_at(loop_time):
                await self._changed.wait()
        except TimeoutError:
            return False
        return True

    async def _receive(self, text: str) -> None:
        if self._on_message is not None:
            self._on_message(text)
        match parse_server_message(text):
            case Ack() as ack:
                self._acknowledge(ack)
            case ErrorNotice() as notice:
                self._last_notice = notice
            case DrainNotice() | Ready():
                pass  # the close that follows a drain notice is what is acted upon
            case event:
                await self._deliver(event)

    def _acknowledge(self, ack: Ack) -> None:
        if self._backlog.acknowledge(ack.stored_through_frame):
            self._budget.progressed()
        self._backlog.grant(ack.credit_until_frame)
        self._pulse()

    async def _deliver(self, event: Event) -> None:
        if not isinstance(event, DurableEvent):
            if len(self._events) < EVENTS_MAX:
                self._events.append(event)
                self._pulse()
            return
        if event.seq <= self._last_seq:
            return
        if event.seq != self._last_seq + 1:
            raise ConnectionLost(f"event {event.seq} came after {self._last_seq}", close_code=1011)
        while len(self._events) >= EVENTS_MAX:
            await self._changed.wait()
        self._events.append(event)
        self._last_seq = event.seq
        self._budget.progressed()
        self._is_done = isinstance(event, Done)
        self._pulse()

    async def _wait_before_retry(self, lost: CaptionStreamError) -> None:
        """Raises ``lost`` where there is to be no other try."""
        code = lost.close_code if isinstance(lost, ServerRefused | ConnectionLost) else 1006
        is_opening = self._ready is None
        delay_ms = self._budget.next_delay_ms(
            code,
            time.monotonic_ns(),
            random.random(),
            is_opening=is_opening,
            retry_after_ms=lost.retry_after_ms if isinstance(lost, ServerRefused) else None,
        )
        if delay_ms is None or not (self._can_resume or is_opening):
            raise lost
        await asyncio.sleep(delay_ms / 1000)
