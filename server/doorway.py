"""Connections that have not said yet what they want: few, each for a short time, oldest first out.

Owns: every accepted connection until its TLS handshake is done and the head of its first request is
there; then the web server has it. A client that speaks plain HTTP on a TLS port is told so in HTTP.
Knows nothing of requests but where their head ends.

Bounds: at most ``PLACES_MAX`` such connections at once, each for ``REQUEST_SECONDS_MAX``. Where all
places are taken, whoever has been silent longest gives way to the next, but nobody before
``PATIENCE_SECONDS``: an honest client that is slow gets in, and one that is kept out by hundreds of
silent ones waits no longer than that.
"""

import asyncio
import contextlib
import re
import socket
import ssl
import time
from collections.abc import Callable
from typing import cast

import orjson
import structlog
from aiohttp import web

from streaming.errors import BadMessage, CaptiondError, IdleTooLong, TooBig

PLACES_MAX = 256
REQUEST_SECONDS_MAX = 10.0
PATIENCE_SECONDS = 0.5
"""A handshake and a request take three round trips, of 0.15 s around the world."""
HEAD_BYTES_MAX = 65_536
"""The web server takes less: what is longer it shall refuse, not wait for."""
LINGER_SECONDS_MAX = 2.0
TLS_HANDSHAKE = 0x16
"""The first byte of every TLS connection."""
_HEAD_END = re.compile(rb"\n\r?\n")
_METHOD = re.compile(rb"[A-Z]")

_log = structlog.get_logger(__name__)


def raw_refusal(error: CaptiondError) -> bytes:
    """A typed error as a whole HTTP answer, for who has not sent a request that can be handled."""
    body = orjson.dumps(
        {"type": "error", "code": error.code, "message": error.message, "retry_after_ms": None}
    )
    return (
        b"HTTP/1.1 %d Refused\r\nContent-Type: application/json\r\nConnection: close\r\n"
        b"Content-Length: %d\r\n\r\n%s" % (error.http_status, len(body), body)
    )


PLAIN_REFUSAL = raw_refusal(
    BadMessage("this port speaks TLS; use https:// or wss:// in the address")
)
LATE_REFUSAL = raw_refusal(IdleTooLong("no whole request came in time; connect again"))
LONG_REFUSAL = raw_refusal(TooBig("a request with more headers than anybody needs; send fewer"))


class FirstRequest(asyncio.Protocol):
    """Keeps what comes until the head of a request is whole; then the web server goes on."""

    def __init__(self, handler: Callable[[], asyncio.Protocol]) -> None:
        self._handler = handler
        self._head = bytearray()
        self._transport: asyncio.Transport | None = None
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when the web server has the connection, or nobody has it any more."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # those of uvloop are none by type

    def data_received(self, data: bytes) -> None:
        # The end of the head may lie across two packets.
        searched = max(0, len(self._head) - 2)
        self._head += data
        if _HEAD_END.search(self._head, searched) or not _METHOD.match(self._head):
            self._hand_over()
        elif len(self._head) > HEAD_BYTES_MAX:
            self.refuse(LONG_REFUSAL)

    def _hand_over(self) -> None:
        """What cannot be a request is the web server's to refuse, too."""
        assert self._transport is not None
        handler = self._handler()
        self._transport.set_protocol(handler)
        handler.connection_made(self._transport)
        handler.data_received(bytes(self._head))
        self._end()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end()

    def refuse(self, answer: bytes = LATE_REFUSAL) -> None:
        """No longer: who has sent something is told why."""
        if self._transport is None or self.over.done():
            return
        if self._head:
            self._transport.write(answer)
            self._transport.close()
        else:
            self._transport.abort()
        self._end()

    def _end(self) -> None:
        if not self.over.done():
            self.over.set_result(None)


class Doorway:
    """Where accepted connections stand until they have asked for something."""

    def __init__(self, runner: web.AppRunner, tls: Callable[[], ssl.SSLContext] | None) -> None:
        """``tls``: the context for the next handshake; None where the port is plain."""
        server = runner.server
        assert server is not None
        self._server = server
        self._tls = tls
        self._standing: dict[asyncio.Task[None], float] = {}
        """Since when, in the order in which they came."""
        self._left = asyncio.Event()

    async def enter(self, accepted: socket.socket) -> None:
        """Returns when it has a place; what becomes of it is not waited for."""
        try:
            await self._make_room()
        except asyncio.CancelledError:
            accepted.close()
            raise
        task = asyncio.create_task(self._stand(accepted), name="doorway")
        self._standing[task] = time.monotonic()
        task.add_done_callback(self._leave)

    def _leave(self, task: asyncio.Task[None]) -> None:
        self._standing.pop(task, None)
        self._left.set()

    async def _make_room(self) -> None:
        while len(self._standing) >= PLACES_MAX:
            oldest, since_s = next(iter(self._standing.items()))
            left_s = since_s + PATIENCE_SECONDS - time.monotonic()
            if left_s <= 0:
                oldest.cancel()
                self._standing.pop(oldest)
                return
            self._left.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left_s):
                    await self._left.wait()

    async def _stand(self, accepted: socket.socket) -> None:
        """Up to the first request; a connection that fails on the way is just closed."""
        first = FirstRequest(self._server)
        is_taken = False
        try:
            async with asyncio.timeout(REQUEST_SECONDS_MAX):
                if await self._is_welcome(accepted):
                    await self._connect(first, accepted)
                    is_taken = True
                    await asyncio.shield(first.over)  # it is still asked for when time is up
        except (OSError, TimeoutError) as error:
            _log.debug("no request", reason=str(error))
        finally:
            first.refuse()
            if not is_taken:
                accepted.close()

    async def _is_welcome(self, accepted: socket.socket) -> bool:
        """False for one that has been told that this port speaks TLS."""
        accepted.setblocking(False)
        if self._tls is None or await _first_byte(accepted) == TLS_HANDSHAKE:
            return True
        await _refuse_plain(accepted)
        return False

    async def _connect(self, first: FirstRequest, accepted: socket.socket) -> None:
        """Raises: OSError where there is no handshake."""
        loop = asyncio.get_running_loop()
        if self._tls is None:
            await loop.connect_accepted_socket(lambda: first, accepted)
        else:
            await loop.connect_accepted_socket(
                lambda: first,
                accepted,
                ssl=self._tls(),
                ssl_shutdown_timeout=LINGER_SECONDS_MAX,
            )

    async def close(self) -> None:
        """Whoever stands here goes."""
        tasks = tuple(self._standing)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _first_byte(accepted: socket.socket) -> int | None:
    """Looked at, not taken; None where the client has gone."""
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
