"""The open port: sockets of our own or of systemd's, plain or with TLS.

Owns: binding and accepting. What is accepted stands in the ``Doorway`` until it has asked for
something; further connections wait in the kernel's queue of ``BACKLOG``. Knows nothing of requests.
"""

import asyncio
import contextlib
import socket
from collections.abc import Sequence

import structlog
from aiohttp import web

from server.config import Settings, is_loopback
from server.doorway import Doorway
from server.tls import ServerTls

BACKLOG = 1_024
"""Whoever finds it full tries again after a second, as TCP has it."""
ACCEPT_PAUSE_SECONDS = 1.0
"""After a failed accept (no descriptors left): trying again at once would take a whole core."""

_log = structlog.get_logger(__name__)


class Listener:
    """Accepts for an application that is set up. Closed before the application is."""

    def __init__(self, sockets: Sequence[socket.socket], tls: ServerTls | None) -> None:
        self.sockets = tuple(sockets)
        self._tls = tls
        self._doorway: Doorway | None = None
        self._accepting: list[asyncio.Task[None]] = []

    @property
    def url(self) -> str:
        """Of the first socket."""
        host, port = self.sockets[0].getsockname()[:2]
        scheme = "http" if self._tls is None else "https"
        return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"

    async def start(self, runner: web.AppRunner) -> None:
        tls = self._tls
        doorway = Doorway(runner, None if tls is None else lambda: tls.context)
        self._doorway = doorway
        for listening in self.sockets:
            listening.setblocking(False)
            listening.listen(BACKLOG)
            self._accepting.append(asyncio.create_task(self._accept(listening, doorway)))

    async def _accept(self, listening: socket.socket, doorway: Doorway) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                accepted, _ = await loop.sock_accept(listening)
            except OSError as error:
                _log.error("cannot accept a connection", reason=error.strerror)
                await asyncio.sleep(ACCEPT_PAUSE_SECONDS)
                continue
            await doorway.enter(accepted)

    async def close(self) -> None:
        """No further connection; those that have asked for something go on."""
        for task in self._accepting:
            task.cancel()
        await asyncio.gather(*self._accepting, return_exceptions=True)
        if self._doorway is not None:
            await self._doorway.close()
        for listening in self.sockets:
            listening.close()


async def bound_sockets(host: str, port: int) -> list[socket.socket]:
    """One socket per address of ``host``, bound and not yet listening. Raises: OSError."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    with contextlib.ExitStack() as stack:
        sockets = []
        for family, kind, protocol, _, address in dict.fromkeys(found):
            opened = stack.enter_context(socket.socket(family, kind, protocol))
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                # Else it would take the IPv4 address too, which is bound by itself.
                opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            opened.bind(address)
            opened.setblocking(False)
            sockets.append(opened)
        stack.pop_all()
    return sockets


def refusal_of_open_sockets(sockets: Sequence[socket.socket], settings: Settings) -> str | None:
    """Why sockets that were handed over may not be used: systemd chose their address, not the
    settings, which insist on keys where others can connect."""
    hosts = [str(listening.getsockname()[0]) for listening in sockets]
    exposed = [host for host in hosts if not is_loopback(host)]
    if not exposed or settings.api_keys or settings.insecure:
        return None
    return (
        f"the socket from systemd listens on {exposed[0]}, which other machines can reach, and no "
        "API key is set: set api_keys_file, let the socket listen on 127.0.0.1, or accept that "
        "anyone may connect with insecure"
    )
