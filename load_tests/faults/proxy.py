"""A TCP proxy that breaks lines on purpose, inside the process that tests.

Owns: what becomes of bytes between a client and a server: late, in odd pieces, cut off after any
byte, swallowed, reset or closed slowly. Knows no protocol above TCP.
Invariants: P1 bytes arrive in order and unchanged up to the cut, and none after it; P2 what a
connection meets is drawn from the seed and its number alone, whatever the network does.
Bounds: one read of ``READ_BYTES`` per direction beside the transports' own buffers; a proxy has no
more connections than its clients open.
"""

import asyncio
import contextlib
import random
import socket
import struct
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Self

HOST = "127.0.0.1"
READ_BYTES = 65_536
CONNECT_SECONDS_MAX = 10.0
CLOSE_SECONDS_MAX = 5.0
_LINGER_NOT = struct.pack("ii", 1, 0)
"""SO_LINGER of 0 s: a close throws unsent data away and sends RST instead of FIN."""


class Direction(Enum):
    """Which way bytes go."""

    UP = "up"
    """From the client to the server."""
    DOWN = "down"


class Ending(Enum):
    """How a line is cut."""

    RESET = "reset"
    """RST to both ends at once."""
    SLOW_CLOSE = "slow close"
    """FIN to the receiver; the other direction lives on for a while."""
    BLACK_HOLE = "black hole"
    """Nothing comes through in either direction, and nobody is told for a while; then RST."""


@dataclass(frozen=True, slots=True)
class Cut:
    """The line ends when this direction has carried so many bytes."""

    direction: Direction
    after_bytes: int
    ending: Ending = Ending.RESET
    hold_ms: int = 300
    """How long a slow close or a black hole lasts."""


@dataclass(frozen=True, slots=True)
class Line:
    """What one connection meets; by default nothing."""

    latency_ms_max: int = 0
    """Each read waits up to this long, so it throttles as well."""
    piece_bytes_max: int | None = None
    """Bytes are passed on in random pieces of 1 to so many, each a write of its own."""
    cut: Cut | None = None
    server: int = 0
    """Which of the proxy's servers it leads to."""


Lines = Callable[[random.Random], Line]
"""Draws the line of a connection that comes in."""


class _End(Enum):
    """Why a pump stopped."""

    EOF = auto()
    CUT = auto()
    LOST = auto()
    """The other side is gone."""


@dataclass(frozen=True, slots=True)
class _Side:
    """One of the two sockets."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    def reset(self) -> None:
        with contextlib.suppress(OSError):  # it is closed already
            end: socket.socket = self.writer.get_extra_info("socket")
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT)
        self.writer.transport.abort()

    def send_fin(self) -> None:
        with contextlib.suppress(OSError):
            self.writer.write_eof()

    async def close(self) -> None:
        """After everything that was written has left."""
        self.writer.close()
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(CLOSE_SECONDS_MAX):
                await self.writer.wait_closed()


class FaultProxy:
    """Passes connections on to servers of this machine, each over a line of its own."""

    def __init__(self, ports: Sequence[int], lines: Lines, *, seed: int) -> None:
        self._ports = ports
        self._lines, self._seed = lines, seed
        self._tasks: set[asyncio.Task[None]] = set()
        self._bug: BaseException | None = None
        self.port = 0
        self.connections = 0
        self.cuts: Counter[Ending] = Counter()
        """Made so far."""
        self.cut_made = asyncio.Event()
        """Set at each cut; whoever waits clears it."""

    @classmethod
    @contextlib.asynccontextmanager
    async def running(cls, *ports: int, lines: Lines, seed: int) -> AsyncIterator[Self]:
        """Listens on ``proxy.port`` of the loopback address inside the block."""
        proxy = cls(ports, lines, seed=seed)
        listener = await asyncio.start_server(proxy._accept, HOST, 0)
        proxy.port = listener.sockets[0].getsockname()[1]
        try:
            async with listener:
                yield proxy
        finally:
            await proxy._end_all()

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    def reset_all(self) -> None:
        """Every connection of now ends with RST, and what was under way is lost."""
        for task in self._tasks:
            task.cancel()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number = self.connections
        self.connections += 1
        task = asyncio.create_task(self._serve(number, _Side(reader, writer)))
        self._tasks.add(task)
        task.add_done_callback(self._forget)

    def _forget(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            self._bug = self._bug or task.exception()

    async def _end_all(self) -> None:
        self.reset_all()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._bug is not None:
            raise self._bug

    async def _serve(self, number: int, near: _Side) -> None:
        chance = random.Random(f"{self._seed} {number}")
        line = self._lines(chance)
        try:
            async with asyncio.timeout(CONNECT_SECONDS_MAX):
                far = _Side(*await asyncio.open_connection(HOST, self._ports[line.server]))
            await _Connection(near, far, line, chance, self._note_cut).run()
        except (OSError, TimeoutError):
            pass  # no server there: reset, as it would be without a proxy
        finally:
            near.reset()

    def _note_cut(self, ending: Ending) -> None:
        self.cuts[ending] += 1
        self.cut_made.set()


class _Connection:
    """One client's connection and the server's, with a line between them."""

    def __init__(
        self,
        near: _Side,
        far: _Side,
        line: Line,
        chance: random.Random,
        note_cut: Callable[[Ending], None],
    ) -> None:
        self._near, self._far, self._line = near, far, line
        self._note_cut = note_cut
        # Of its own for each direction: how reads fall in time must not change what is drawn.
        self._chances = {way: random.Random(chance.getrandbits(64)) for way in Direction}

    async def run(self) -> None:
        """Returns when both sockets are closed."""
        pumps = {
            asyncio.create_task(self._pump(self._near, self._far, Direction.UP)),
            asyncio.create_task(self._pump(self._far, self._near, Direction.DOWN)),
        }
        try:
            await self._watch(pumps)
        finally:
            # First, and without a wait: a cancellation may come here as well.
            for side in (self._near, self._far):
                side.reset()
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)

    async def _watch(self, pumps: set[asyncio.Task[_End]]) -> None:
        pending = set(pumps)
        while pending:
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            ends = {pump.result() for pump in done}
            if _End.CUT in ends:
                await self._cut(pending)
                return
            if _End.LOST in ends:
                return
        await asyncio.gather(self._near.close(), self._far.close())

    async def _cut(self, others: set[asyncio.Task[_End]]) -> None:
        cut = self._line.cut
        assert cut is not None
        self._note_cut(cut.ending)
        if cut.ending is Ending.SLOW_CLOSE:
            receiver = self._far if cut.direction is Direction.UP else self._near
            receiver.send_fin()
            if others:
                await asyncio.wait(others, timeout=cut.hold_ms / 1000)
        elif cut.ending is Ending.BLACK_HOLE:
            for other in others:
                other.cancel()
            await asyncio.sleep(cut.hold_ms / 1000)

    async def _pump(self, source: _Side, sink: _Side, way: Direction) -> _End:
        left = self._bytes_to_cut(way)
        chance = self._chances[way]
        pieces = Pieces(self._line.piece_bytes_max, chance)
        latency = random.Random(chance.getrandbits(64))
        try:
            while left is None or left > 0:
                chunk = await source.reader.read(READ_BYTES)
                if not chunk:
                    sink.send_fin()
                    return _End.EOF
                if self._line.latency_ms_max:
                    await asyncio.sleep(latency.uniform(0, self._line.latency_ms_max) / 1000)
                chunk = chunk[:left]
                await _write(sink.writer, pieces.of(chunk))
                left = None if left is None else left - len(chunk)
        except ConnectionError:
            return _End.LOST
        return _End.CUT

    def _bytes_to_cut(self, way: Direction) -> int | None:
        cut = self._line.cut
        return cut.after_bytes if cut is not None and cut.direction is way else None


class Pieces:
    """Cuts a stream at places that do not depend on how it was read."""

    def __init__(self, bytes_max: int | None, chance: random.Random) -> None:
        self._bytes_max, self._chance = bytes_max, chance
        self._left = 0

    def of(self, chunk: bytes) -> list[bytes]:
        if self._bytes_max is None:
            return [chunk]
        pieces, at = [], 0
        while at < len(chunk):
            if self._left == 0:
                self._left = self._chance.randint(1, self._bytes_max)
            piece = chunk[at : at + self._left]
            self._left -= len(piece)
            at += len(piece)
            pieces.append(piece)
        return pieces


async def _write(writer: asyncio.StreamWriter, pieces: list[bytes]) -> None:
    """Each piece as a packet of its own: asyncio's sockets do not wait for more."""
    for piece in pieces:
        writer.write(piece)
        await writer.drain()
        await asyncio.sleep(0)
