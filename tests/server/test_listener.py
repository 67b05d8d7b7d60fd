"""The open port in the test's own process: its addresses, and that it always accepts."""

import asyncio

import pytest

from server.listener import bound_sockets
from tests.server.open_port import fetched, listening


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


async def test_it_goes_on_when_no_descriptor_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = asyncio.get_running_loop()
    accept, failures = loop.sock_accept, [OSError(24, "Too many open files")] * 2

    async def failing(listening: object) -> object:
        if failures:
            raise failures.pop()
        return await accept(listening)  # type: ignore[arg-type]

    monkeypatch.setattr(loop, "sock_accept", failing)
    monkeypatch.setattr("server.listener.ACCEPT_PAUSE_SECONDS", 0.001)
    async with listening("127.0.0.1") as port:
        assert await fetched(port.url) == "well"
