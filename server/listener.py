"""The open port: sockets of our own or of systemd's, plain or with TLS.

Owns: binding, and on a TLS port every connection until its handshake is done. A client that
speaks plain HTTP there is told so in HTTP. Knows nothing of requests.
Bounds: at most ``HANDSHAKES_MAX`` handshakes at once, each for ``HANDSHAKE_SECONDS_MAX``; further
connections wait in the kernel's queue of ``BACKLOG``.
"""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Coroutine, Sequence
from typing import Any

import orjson
import structlog
from aiohttp import web

from server.config import Settings, is_loopback
from server.tls import ServerTls

BACKLOG = 128
HANDSHAKES_MAX = 256
HANDSHAKE_SECONDS_MAX = 10.0
LINGER_SECONDS_MAX = 2.0
ACCEPT_PAUSE_SECONDS = 1.0
"""After a failed accept (no descriptors left): trying again at once would take a whole core."""
TLS_HANDSHAKE = 0x16
"""The first byte of every TLS connection."""
_ADVICE = "this port speaks TLS; use https:// or wss:// in the address"
_BODY = orjson.dumps(
    {"type": "error", "code": "bad_message", "message": _ADVICE, "retry_after_ms": None}
)
PLAIN_REFUSAL = (
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\nConnection: close\r\n"
    b"Content-Length: %d\r\n\r\n%s" % (len(_BODY), _BODY)
)

_log = structlog.get_logger(__name__)


class Listener:
    """Accepts for an application that is set up. Closed before the application is."""

    def __init__(self, sockets: Sequence[socket.socket], tls: ServerTls | None) -> None:
        self.sockets = tuple(sockets)
        self._tls = tls
        self._tasks: set[asyncio.Task[None]] = set()
        self._slots = asyncio.Semaphore(HANDSHAKES_MAX)

    @property
    def url(self) -> str:
        """Of the first socket."""
        host, port = self.sockets[0].getsockname()[:2]
        scheme = "http" if self._tls is None else "https"
        return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"

    async def start(self, runner: web.AppRunner) -> None:
        for listening in self.sockets:
            if self._tls is None:
                await web.SockSite(runner, listening, backlog=BACKLOG).start()
            else:
                listening.listen(BACKLOG)
                self._spawn(self._accept(listening, runner, self._tls))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _accept(
        self, listening: socket.socket, runner: web.AppRunner, tls: ServerTls
    ) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._slots.acquire()
            try:
                accepted, _ = await loop.sock_accept(listening)
            except OSError as error:
                self._slots.release()
                _log.error("cannot accept a connection", reason=error.strerror)
                await asyncio.sleep(ACCEPT_PAUSE_SECONDS)
                continue
            self._spawn(self._begin(accepted, runner, tls.context))

    async def _begin(
        self, accepted: socket.socket, runner: web.AppRunner, context: ssl.SSLContext
    ) -> None:
        """Up to the end of the handshake; a connection that fails on the way is just closed."""
        server = runner.server
        assert server is not None
        loop = asyncio.get_running_loop()
        is_handed_over = False
        try:
            async with asyncio.timeout(HANDSHAKE_SECONDS_MAX):
                if await _first_byte(accepted) == TLS_HANDSHAKE:
                    await loop.connect_accepted_socket(server, accepted, ssl=context)
                    is_handed_over = True
                else:
                    await _refuse_plain(accepted)
        except (OSError, TimeoutError) as error:
            _log.debug("no TLS connection", reason=str(error))
        finally:
            if not is_handed_over:
                accepted.close()
            self._slots.release()

    async def close(self) -> None:
        """No further connection; those that were handed over go on.

        Plain sockets belong to the application's sites, which close them.
        """
        if self._tls is None:
            return
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
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


async def _first_byte(accepted: socket.socket) -> int | None:
    """Looked at, not taken; None where the client has gone."""
    accepted.setblocking(False)
    loop = asyncio.get_running_loop()
    readable: asyncio.Future[None] = loop.create_future()

    def note() -> None:
        if not readable.done():
            readable.set_result(None)

    loop.add_reader(accepted, note)
    try:
        await readable
    finally:
        loop.remove_reader(accepted)
    first = accepted.recv(1, socket.MSG_PEEK)
    return first[0] if first else None


async def _refuse_plain(accepted: socket.socket) -> None:
    """Answer in HTTP. What the client still sends is read: closing on it would lose the answer."""
    loop = asyncio.get_running_loop()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(LINGER_SECONDS_MAX):
            await loop.sock_sendall(accepted, PLAIN_REFUSAL)
            accepted.shutdown(socket.SHUT_WR)
            while await loop.sock_recv(accepted, 65_536):
                pass
