"""The open port in the test's own process: addresses, and handshakes that never come."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
import trustme
from aiohttp import web

from server import listener
from server.listener import Listener, bound_sockets
from server.tls import ServerTls


@contextlib.asynccontextmanager
async def listening(host: str, tls: ServerTls | None = None) -> AsyncIterator[Listener]:
    """An application that answers ``well`` to everything."""

    async def well(_: web.Request) -> web.Response:
        return web.Response(text="well")

    app = web.Application()
    app.router.add_get("/", well)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    port = Listener(await bound_sockets(host, 0), tls)
    await port.start(runner)
    try:
        yield port
    finally:
        await port.close()
        await runner.cleanup()


async def fetched(url: str, trust: ssl.SSLContext | bool = True) -> str:
    async with aiohttp.ClientSession() as client, client.get(url, ssl=trust) as response:
        return await response.text()


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[ServerTls, ssl.SSLContext]:
    authority = trustme.CA()
    leaf = authority.issue_cert("127.0.0.1")
    leaf.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    leaf.private_key_pem.write_to_path(tmp_path / "key.pem")
    trust = ssl.create_default_context()
    authority.configure_trust(trust)
    return ServerTls(tmp_path / "cert.pem", tmp_path / "key.pem"), trust


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_the_url_says_where_it_listens(host: str) -> None:
    async with listening(host) as port:
        assert await fetched(port.url) == "well"


async def test_a_name_stands_for_all_its_addresses() -> None:
    async with listening("localhost") as port:
        hosts = {each.getsockname()[0] for each in port.sockets}
        assert hosts <= {"127.0.0.1", "::1"}
        assert "127.0.0.1" in hosts


async def test_an_address_that_is_taken_is_refused() -> None:
    async with listening("127.0.0.1") as port:
        with pytest.raises(OSError, match="in use"):
            await bound_sockets("127.0.0.1", port.sockets[0].getsockname()[1])


async def test_handshakes_that_never_come_are_bounded_and_end(
    certificate: tuple[ServerTls, ssl.SSLContext], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All places are taken by silent clients; the next one is served when their time is over."""
    monkeypatch.setattr(listener, "HANDSHAKES_MAX", 3)
    monkeypatch.setattr(listener, "HANDSHAKE_SECONDS_MAX", 0.2)
    tls, trust = certificate
    async with listening("127.0.0.1", tls) as port:
        address = port.sockets[0].getsockname()
        silent = [await asyncio.open_connection(*address) for _ in range(3)]
        assert await fetched(port.url, trust) == "well"
        for reader, writer in silent:
            assert await reader.read() == b""
            writer.close()


async def test_closing_ends_handshakes_that_are_under_way(
    certificate: tuple[ServerTls, ssl.SSLContext],
) -> None:
    tls, trust = certificate
    async with listening("127.0.0.1", tls) as port:
        reader, writer = await asyncio.open_connection(*port.sockets[0].getsockname())
        assert await fetched(port.url, trust) == "well"
    assert await reader.read() == b""
    writer.close()
