"""One stream: packets by its own clock, whatever the server does, and what came onto its screen.

As ``load_tests.replay`` but for real words and any server's wire format, which a ``Dialect``
knows. A lost connection is a result, not a thing to repair. Nobody may speak for longer than the
least credit of any server, so no flow control is needed.
"""

import asyncio
import contextlib
import time
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake
from websockets.typing import Subprotocol

from clients.delays import SentAudio
from load_tests.bench.speech import Recording
from load_tests.peers.screens import Judged, Screen, judge
from streaming.timeline import SAMPLE_RATE_HZ, samples_from_ms

PACKET_MS = 100
PACKET_SAMPLES = samples_from_ms(PACKET_MS)
SECONDS_MAX = 110.0
"""Below captiond's credit of two minutes."""
WRITE_BUFFER_BYTES = 16 * 1024 * 1024
READY_SECONDS_MAX = 60.0
"""Some servers load a model when the first client comes."""
DONE_SECONDS_MAX = 60.0
STILL_SECONDS = 5.0
"""A server that never says that it is done is done when its text has not changed for so long."""
STILL_SECONDS_MAX = 30.0
_MESSAGE_BYTES_MAX = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Told:
    """What a message of the server means to a reader."""

    is_ready: bool = False
    text: str | None = None
    """All that stands on the screen now."""
    is_done: bool = False
    is_gap: bool = False
    failure: str | None = None


class Dialect(Protocol):
    """A server's wire format; one object per connection, since a screen is built up."""

    @property
    def path(self) -> str: ...

    @property
    def subprotocols(self) -> Sequence[str]: ...

    @property
    def says_done(self) -> bool:
        """Whether it tells when all audio has been transcribed."""
        ...

    def opening(self) -> str | None:
        """The first message, for a server that wants one."""
        ...

    def packet(self, pcm: bytes) -> bytes:
        """16-bit samples as it wants them."""
        ...

    def ending(self) -> str | bytes: ...

    def receive(self, data: str | bytes) -> Told: ...


@dataclass(slots=True)
class Heard:
    """What happened to one stream; times are monotonic seconds."""

    recording: Recording
    sent_s: list[float] = field(default_factory=list)
    lateness_s: list[float] = field(default_factory=list)
    screen: Screen = field(default_factory=Screen)
    updates: int = 0
    """Messages with text that came while it spoke."""
    gaps: int = 0
    failure: str | None = None
    is_done: bool = False

    def judged(self) -> Judged:
        sent = SentAudio.in_equal_packets(PACKET_SAMPLES, self.sent_s)
        return judge(self.recording.words, sent, self.screen)


class Talker:
    """One microphone and one screen."""

    def __init__(self, recording: Recording, base_url: str, dialect: Dialect) -> None:
        assert len(recording.samples) <= SECONDS_MAX * SAMPLE_RATE_HZ, "too long without credit"
        self.heard = Heard(recording)
        self.has_spoken = asyncio.Event()
        """All packets are sent, or never will be."""
        self._dialect = dialect
        self._url = base_url + dialect.path
        self._ready = asyncio.Event()
        self._changed = asyncio.Event()

    async def talk(self, starts_at_s: float) -> Heard:
        """Begins at ``starts_at_s``; never raises for what the server does."""
        await asyncio.sleep(starts_at_s - time.monotonic())
        try:
            async with await self._connect() as socket:
                await self._converse(socket)
        except (OSError, TimeoutError, InvalidHandshake, ConnectionClosed) as error:
            self._fail(f"{type(error).__name__}: {error}")
        finally:
            self.has_spoken.set()
        if not self.heard.is_done:
            self._fail("closed before it was done")
        return self.heard

    def _fail(self, why: str) -> None:
        self.heard.failure = self.heard.failure or why

    async def _connect(self) -> ClientConnection:
        return await connect(
            self._url,
            subprotocols=[Subprotocol(name) for name in self._dialect.subprotocols] or None,
            compression=None,
            proxy=None,
            open_timeout=READY_SECONDS_MAX,
            ping_interval=None,
            max_size=_MESSAGE_BYTES_MAX,
            write_limit=WRITE_BUFFER_BYTES,
        )

    async def _converse(self, socket: ClientConnection) -> None:
        reading = asyncio.create_task(self._read(socket))
        try:
            with contextlib.suppress(ConnectionClosed):  # the reader sees why, and notes it
                await self._say_all(socket, reading)
            self.has_spoken.set()
            async with asyncio.timeout(DONE_SECONDS_MAX):
                await reading
        finally:
            reading.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await reading

    async def _say_all(self, socket: ClientConnection, reading: "asyncio.Task[None]") -> None:
        if (opening := self._dialect.opening()) is not None:
            await socket.send(opening)
        async with asyncio.timeout(READY_SECONDS_MAX):
            await _first(self._ready.wait(), reading)
        if not reading.done():
            await _first(self._speak(socket), reading)

    async def _speak(self, socket: ClientConnection) -> None:
        samples, began_s = self.heard.recording.samples, time.monotonic()
        for number, start in enumerate(range(0, len(samples), PACKET_SAMPLES), 1):
            packet = samples[start : start + PACKET_SAMPLES]
            # A microphone gives a packet when its last sample has been spoken.
            due_s = began_s + number * PACKET_MS / 1000
            await asyncio.sleep(due_s - time.monotonic())
            await socket.send(self._dialect.packet(packet.tobytes()))
            now_s = time.monotonic()
            self.heard.sent_s.append(now_s)
            self.heard.lateness_s.append(max(0.0, now_s - due_s))
        self.has_spoken.set()
        if not self._dialect.says_done:
            await self._until_still()
            self.heard.is_done = True
        await socket.send(self._dialect.ending())

    async def _until_still(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STILL_SECONDS_MAX):
                while True:
                    self._changed.clear()
                    await asyncio.wait_for(self._changed.wait(), STILL_SECONDS)

    async def _read(self, socket: ClientConnection) -> None:
        try:
            async for data in socket:
                self._take(self._dialect.receive(data), time.monotonic())
                if self.heard.is_done and self._dialect.says_done:
                    return
        except ConnectionClosed as closed:
            if not self.heard.is_done:
                self._fail(f"closed: {closed}")

    def _take(self, told: Told, now_s: float) -> None:
        heard = self.heard
        if told.is_ready:
            self._ready.set()
        if told.text is not None:
            shown = len(heard.screen.shown)
            heard.screen.show(told.text, now_s)
            if len(heard.screen.shown) > shown:
                self._changed.set()
            heard.updates += not self.has_spoken.is_set()
        heard.gaps += told.is_gap
        heard.is_done = heard.is_done or told.is_done
        if told.failure is not None:
            self._fail(told.failure)


async def _first(work: Coroutine[Any, Any, object], other: "asyncio.Task[None]") -> None:
    """Until either has ended; the work is given up when the other ends first."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait([task, other], return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            task.result()
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
