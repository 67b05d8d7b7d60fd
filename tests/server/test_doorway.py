"""Connections that ask for nothing, over real sockets: they are few, they end, others get in."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import orjson
import pytest
import pytest_asyncio
import trustme
import uvloop

from server import doorway
from server.listener import Listener
from server.tls import ServerTls
from tests.server.open_port import fetched, listening

Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]

PLACES = 4
REQUEST = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[ServerTls, ssl.SSLContext]:
    authority = trustme.CA()
    leaf = authority.issue_cert("127.0.0.1")
    leaf.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    leaf.private_key_pem.write_to_path(tmp_path / "key.pem")
    trust = ssl.create_default_context()
    authority.configure_trust(trust)
    return ServerTls(tmp_path / "cert.pem", tmp_path / "key.pem"), trust


@pytest.fixture(autouse=True)
def few_places(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doorway, "PLACES_MAX", PLACES)
    monkeypatch.setattr(doorway, "PATIENCE_SECONDS", 0.02)


@pytest_asyncio.fixture(params=["plain", "TLS"])
async def port(
    request: pytest.FixtureRequest, certificate: tuple[ServerTls, ssl.SSLContext]
) -> AsyncIterator[tuple[Listener, ssl.SSLContext | bool]]:
    """And what a client must trust there."""
    tls, trust = certificate
    is_plain = request.param == "plain"
    async with listening("127.0.0.1", None if is_plain else tls) as listener:
        yield listener, is_plain or trust


async def connected(listener: Listener, trust: ssl.SSLContext | bool = True) -> Stream:
    """Without a handshake where there is nothing to trust."""
    host, number = listener.sockets[0].getsockname()
    return await asyncio.open_connection(host, number, ssl=None if trust is True else trust)


async def closed(streams: list[Stream]) -> list[bytes]:
    """What each of them was told, when all of them were closed."""
    told = []
    for reader, writer in streams:
        try:
            told.append(await reader.read())
        except ConnectionResetError:
            told.append(b"")
        writer.close()
    return told


async def test_silent_clients_give_way_and_everybody_else_gets_in(
    port: tuple[Listener, ssl.SSLContext | bool],
) -> None:
    """Far more than there are places, which would be held for 10 s each."""
    listener, trust = port
    silent = [await connected(listener) for _ in range(3 * PLACES)]
    for _ in range(3):
        assert await fetched(listener.url, trust) == "well"
    assert await closed(silent[:PLACES]) == [b""] * PLACES
    for _, writer in silent:
        writer.close()


async def test_a_request_that_comes_byte_by_byte_keeps_no_place(
    port: tuple[Listener, ssl.SSLContext | bool],
) -> None:
    listener, trust = port
    slow = []
    for _ in range(PLACES):
        stream = await connected(listener, trust)
        stream[1].write(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: ")
        slow.append(stream)

    async def dribble() -> None:
        while True:
            for _, writer in slow:
                writer.write(b"a")
            await asyncio.sleep(0.005)

    dribbling = asyncio.create_task(dribble())
    try:
        for _ in range(PLACES):
            assert await fetched(listener.url, trust) == "well"
    finally:
        dribbling.cancel()
    for _, writer in slow:
        writer.close()


async def test_what_takes_too_long_is_told(
    port: tuple[Listener, ssl.SSLContext | bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    listener, trust = port
    monkeypatch.setattr(doorway, "REQUEST_SECONDS_MAX", 0.3)
    stream = await connected(listener, trust)
    stream[1].write(REQUEST[:-1])
    (told,) = await closed([stream])
    head, _, body = told.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 408 ")
    assert orjson.loads(body)["code"] == "idle"


async def test_a_head_without_an_end_is_refused(
    port: tuple[Listener, ssl.SSLContext | bool],
) -> None:
    listener, trust = port
    reader, writer = await connected(listener, trust)
    writer.write(REQUEST[:-2] + b"X: " + b"a" * doorway.HEAD_BYTES_MAX)
    assert (await reader.readline()).startswith(b"HTTP/1.1 413 ")
    writer.close()


@pytest.mark.parametrize("size", [1, 7, len(REQUEST) - 1, len(REQUEST)])
async def test_a_request_may_come_in_pieces(
    size: int, port: tuple[Listener, ssl.SSLContext | bool]
) -> None:
    listener, trust = port
    reader, writer = await connected(listener, trust)
    for at in range(0, len(REQUEST), size):
        writer.write(REQUEST[at : at + size])
        await writer.drain()
        await asyncio.sleep(0)
    assert (await reader.read()).endswith(b"well")
    writer.close()


async def test_what_is_no_http_is_refused_at_once() -> None:
    async with listening("127.0.0.1") as listener:
        reader, writer = await connected(listener)
        writer.write(b"\x16\x03\x01\x02")
        assert b" 400 " in await reader.readline()
        writer.close()


async def test_a_client_that_goes_gives_its_place_back(
    port: tuple[Listener, ssl.SSLContext | bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody has to give way here: they would stay for an hour."""
    listener, trust = port
    monkeypatch.setattr(doorway, "PATIENCE_SECONDS", 3_600.0)
    for _ in range(3 * PLACES):
        _, writer = await connected(listener)
        writer.write(b"G")
        writer.close()
    assert await fetched(listener.url, trust) == "well"


async def test_closing_ends_whoever_stands_there(
    certificate: tuple[ServerTls, ssl.SSLContext],
) -> None:
    tls, trust = certificate
    async with listening("127.0.0.1", tls) as listener:
        silent = await connected(listener)
        assert await fetched(listener.url, trust) == "well"
    assert await closed([silent]) == [b""]


@pytest.mark.parametrize("is_plain", [True, False])
def test_uvloop_is_no_different(
    is_plain: bool, certificate: tuple[ServerTls, ssl.SSLContext], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Servers run on it."""
    tls, trust = certificate

    async def once_more() -> None:
        async with listening("127.0.0.1", None if is_plain else tls) as listener:
            port = (listener, is_plain or trust)
            await test_silent_clients_give_way_and_everybody_else_gets_in(port)
            await test_a_request_that_comes_byte_by_byte_keeps_no_place(port)
            await test_a_request_may_come_in_pieces(7, port)
            await test_what_takes_too_long_is_told(port, monkeypatch)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(once_more())
