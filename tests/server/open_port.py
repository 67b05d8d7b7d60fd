"""A listener in the test's own process, and how to fetch from it."""

import contextlib
import ssl
from collections.abc import AsyncIterator

import aiohttp
from aiohttp import web

from server.listener import Listener, bound_sockets
from server.tls import ServerTls


@contextlib.asynccontextmanager
async def listening(host: str, tls: ServerTls | None = None) -> AsyncIterator[Listener]:
    """An application that answers ``well`` to ``/``."""

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
