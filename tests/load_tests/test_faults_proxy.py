"""The fault proxy before a plain echo server: what comes through, and how a line ends."""

import asyncio
import itertools
import random
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from load_tests.faults.proxy import Cut, Direction, Ending, FaultProxy, Line, Pieces

DATA = random.Random(1).randbytes(50_000)
SECONDS_MAX = 20.0


class EchoServer:
    """Sends back what it gets, and remembers it."""

    def __init__(self) -> None:
        self.received = bytearray()
        self.is_over = asyncio.Event()
        """The first connection has ended."""

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while chunk := await reader.read(4_096):
                self.received += chunk
                writer.write(chunk)
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()
            self.is_over.set()


@asynccontextmanager
async def echo_through(
    lines: Callable[[random.Random], Line], *, seed: int = 1
) -> AsyncIterator[tuple[FaultProxy, EchoServer]]:
    echo = EchoServer()
    listener = await asyncio.start_server(echo.handle, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    async with listener, FaultProxy.running(port, lines=lines, seed=seed) as proxy:
        async with asyncio.timeout(SECONDS_MAX):
            yield proxy, echo


async def exchange(proxy: FaultProxy, data: bytes = DATA) -> tuple[bytes, bool]:
    """What came back, and whether the connection was reset instead of closed."""
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    came = bytearray()
    try:
        writer.write(data)
        writer.write_eof()
        while chunk := await reader.read(4_096):
            came += chunk
    except ConnectionError:
        return bytes(came), True
    finally:
        writer.close()
    return bytes(came), False


@pytest.mark.parametrize(
    "line",
    [
        Line(),
        Line(latency_ms_max=2),
        Line(piece_bytes_max=1),
        Line(piece_bytes_max=977, latency_ms_max=1),
        Line(cut=Cut(Direction.UP, len(DATA) + 1)),
    ],
)
async def test_what_comes_through_is_what_was_sent(line: Line) -> None:
    data = DATA[:2_000] if line.piece_bytes_max == 1 else DATA
    async with echo_through(lambda _: line) as (proxy, echo):
        assert await exchange(proxy, data) == (data, False)
        assert echo.received == data
        assert not proxy.cuts


@pytest.mark.parametrize("after_bytes", [0, 1, 4_097, 20_000])
async def test_a_reset_on_the_way_up(after_bytes: int) -> None:
    cut = Cut(Direction.UP, after_bytes, Ending.RESET)
    async with echo_through(lambda _: Line(cut=cut)) as (proxy, echo):
        came, was_reset = await exchange(proxy)
        await echo.is_over.wait()
        assert was_reset
        assert len(echo.received) <= after_bytes
        assert DATA.startswith(echo.received)
        assert DATA.startswith(came)
        assert proxy.cuts == {Ending.RESET: 1}


async def test_a_reset_on_the_way_down() -> None:
    cut = Cut(Direction.DOWN, 10, Ending.RESET)
    async with echo_through(lambda _: Line(cut=cut)) as (proxy, _):
        came, was_reset = await exchange(proxy)
        assert was_reset
        assert DATA[:10].startswith(came)


async def test_a_slow_close_ends_one_direction_and_leaves_the_other_for_a_while() -> None:
    cut = Cut(Direction.DOWN, 10, Ending.SLOW_CLOSE, hold_ms=60_000)
    async with echo_through(lambda _: Line(cut=cut)) as (proxy, echo):
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        writer.write(DATA[:100])
        assert await reader.read() == DATA[:10]
        writer.write(DATA[100:])
        writer.write_eof()
        await echo.is_over.wait()
        assert echo.received == DATA
        assert proxy.cuts == {Ending.SLOW_CLOSE: 1}
        writer.close()


async def test_a_slow_close_on_the_way_up_looks_like_a_close_to_the_server() -> None:
    cut = Cut(Direction.UP, 10, Ending.SLOW_CLOSE, hold_ms=60_000)
    async with echo_through(lambda _: Line(cut=cut)) as (proxy, echo):
        came, _ = await exchange(proxy, DATA[:100])
        assert echo.received == DATA[:10]
        assert came == DATA[:10]


async def test_a_black_hole_takes_everything_and_tells_nobody() -> None:
    cut = Cut(Direction.UP, 10, Ending.BLACK_HOLE, hold_ms=60_000)
    async with echo_through(lambda _: Line(cut=cut)) as (proxy, echo):
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        writer.write(DATA[:100])
        await proxy.cut_made.wait()
        writer.write(DATA[100:])
        await writer.drain()
        assert DATA[:10].startswith(echo.received)
        assert not echo.is_over.is_set()
        assert not reader.at_eof()
        writer.close()


async def test_a_black_hole_ends_in_a_reset() -> None:
    cut = Cut(Direction.DOWN, 10, Ending.BLACK_HOLE, hold_ms=1)
    async with echo_through(lambda _: Line(cut=cut)) as (proxy, _):
        came, was_reset = await exchange(proxy)
        assert was_reset
        assert DATA[:10].startswith(came)


async def test_a_server_that_is_not_there_resets() -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        port = nobody.getsockname()[1]
        async with FaultProxy.running(port, lines=lambda _: Line(), seed=1) as proxy:
            assert await exchange(proxy) == (b"", True)


async def test_a_line_leads_to_the_server_that_it_names() -> None:
    async with (
        echo_through(lambda _: Line()) as (one, _),
        echo_through(lambda _: Line()) as (two, _),
    ):
        ways = iter([1, 0, 1])
        ports = (one.port, two.port)
        async with FaultProxy.running(
            *ports, lines=lambda _: Line(server=next(ways)), seed=1
        ) as switch:
            for _ in range(3):
                assert await exchange(switch) == (DATA, False)
        assert (one.connections, two.connections) == (1, 2)


async def test_all_lines_can_be_reset_at_once_and_new_ones_are_served() -> None:
    async with echo_through(lambda _: Line()) as (proxy, _):
        ends = [await asyncio.open_connection("127.0.0.1", proxy.port) for _ in range(2)]
        for reader, writer in ends:
            writer.write(b"x")
            assert await reader.read(1) == b"x"
        proxy.reset_all()
        for reader, writer in ends:
            with pytest.raises(ConnectionError):
                await reader.readexactly(1)
            writer.close()
        assert await exchange(proxy) == (DATA, False)


async def test_the_end_of_a_proxy_is_the_end_of_its_connections() -> None:
    async with echo_through(lambda _: Line()) as (proxy, _):
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        writer.write(b"x")
        assert await reader.read(1) == b"x"
        assert proxy.connections == 1
    with pytest.raises(ConnectionError):
        await reader.readexactly(1)
    writer.close()


async def test_lines_are_drawn_from_the_seed_and_the_number_alone() -> None:
    async def drawn(seed: int) -> list[int]:
        numbers: list[int] = []

        def line(chance: random.Random) -> Line:
            numbers.append(chance.getrandbits(32))
            return Line()

        async with echo_through(line, seed=seed) as (proxy, _):
            for _ in range(3):
                await exchange(proxy, b"x")
        return numbers

    assert await drawn(1) == await drawn(1)
    assert await drawn(1) != await drawn(2)


@given(st.binary(max_size=200), st.data())
def test_pieces_do_not_depend_on_reads(data: bytes, draw: st.DataObject) -> None:
    """Where a read ends there is one more end of a piece, and no other end moves."""
    read_ends = draw.draw(st.lists(st.integers(0, len(data)), max_size=5).map(sorted))
    bytes_max = draw.draw(st.integers(1, 50))

    def ends(chunks: list[bytes]) -> list[int]:
        pieces = Pieces(bytes_max, random.Random(1))
        found, at = [], 0
        for chunk in chunks:
            for piece in pieces.of(chunk):
                assert 0 < len(piece) <= bytes_max
                assert data[at : at + len(piece)] == piece
                at += len(piece)
                found.append(at)
        assert at == len(data)
        return found

    bounds = [0, *read_ends, len(data)]
    chunks = [data[a:b] for a, b in itertools.pairwise(bounds)]
    assert set(ends([data])) <= set(ends(chunks)) <= set(ends([data])) | set(bounds)
