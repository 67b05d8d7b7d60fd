"""The WebSocket that captiond serves: limits set, compression off, typed errors, a way to cut it.

aiohttp's defaults do not fit a live audio server: permessage-deflate costs memory per socket and
opens it to decompression bombs, and no heartbeat means that a dead peer is never noticed.
"""

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from aiohttp import WSCloseCode, WSMessage, WSMsgType, web
from aiohttp.abc import AbstractStreamWriter

from streaming.errors import BadMessage, CaptiondError, TooBig
from streaming.wire import (
    AUDIO_MESSAGE_BYTES_MAX,
    SUBPROTOCOL,
    ErrorNotice,
    encode_notice,
)

CLOSE_SECONDS_MAX = 5.0
"""How long a close waits for the peer's own."""
PROBE = b"pause"
"""Content of a ping that is not the heartbeat's."""


class CaptionSocket(web.WebSocketResponse):
    """Ready to ``prepare``; as the native protocol wants it, unless a subclass says otherwise."""

    subprotocols: ClassVar[tuple[str, ...]] = (SUBPROTOCOL,)
    """The first of them that a client offers is chosen."""
    message_bytes_max: ClassVar[int] = AUDIO_MESSAGE_BYTES_MAX

    def __init__(self, *, heartbeat_s: float) -> None:
        super().__init__(
            protocols=self.subprotocols,
            heartbeat=heartbeat_s,
            compress=False,
            max_msg_size=self.message_bytes_max,
            timeout=CLOSE_SECONDS_MAX,
            # The reader answers pings itself, so that they count as messages.
            autoping=False,
        )
        self._transport: asyncio.Transport | None = None
        self.refusal: CaptiondError | None = None
        """What the client was told where a frame of its could not be taken at all."""
        self._answered: Callable[[], None] | None = None
        self._probing: asyncio.Task[None] | None = None

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter:
        self._transport = request.transport
        return await super().prepare(request)

    def probe(self, answered: Callable[[], None]) -> None:
        """Ask whether the line holds: ``answered`` is called behind what the client has sent."""
        self._answered = answered
        self._probing = asyncio.create_task(self._ping(), name="line probe")

    async def _ping(self) -> None:
        with contextlib.suppress(ConnectionError):
            await self.ping(PROBE)

    async def receive(self, timeout: float | None = None) -> WSMessage:
        message = await super().receive(timeout)
        if message.type is WSMsgType.PONG and message.data == PROBE and self._answered is not None:
            answered, self._answered = self._answered, None
            answered()
        return message

    def abort(self) -> None:
        """Cut the connection; a plain close would wait for a peer that reads nothing."""
        self._cancel_heartbeat()
        if self._transport is not None:
            self._transport.abort()

    async def close(
        self, *, code: int = WSCloseCode.OK, message: bytes = b"", drain: bool = True
    ) -> bool:
        """Sends the typed error first where aiohttp itself refuses a frame."""
        refusal = None if message or self.closed else self._refusal(code)
        if refusal is not None:
            self.refusal = refusal
            farewell = self.farewell(refusal)
            if farewell.text is not None:
                with contextlib.suppress(ConnectionError):
                    await self.send_str(farewell.text)
            code, message = farewell.code, farewell.reason.encode()
        try:
            return await super().close(code=code, message=message, drain=drain)
        finally:
            # The peer's own close has started aiohttp's heartbeat again: its timer would hold this
            # socket and its request in memory for 20 s more.
            self._cancel_heartbeat()

    def farewell(self, refusal: CaptiondError) -> "Farewell":
        """How a client is told of an error that closes the socket."""
        notice = encode_notice(ErrorNotice(refusal.code, refusal.message, refusal.retry_after_ms))
        return Farewell(notice.decode(), refusal.close_code, refusal.code)

    def _refusal(self, code: int) -> CaptiondError | None:
        """The error behind a close code of aiohttp's own."""
        match code:
            case WSCloseCode.MESSAGE_TOO_BIG:
                advice = f"a message above {self.message_bytes_max} bytes; send smaller packets"
                return TooBig(advice)
            case WSCloseCode.INVALID_TEXT:
                return BadMessage("a text message that is not UTF-8; send JSON as UTF-8")
            case WSCloseCode.PROTOCOL_ERROR:
                return BadMessage("a broken WebSocket frame; connect again and resume")
        return None


@dataclass(frozen=True, slots=True)
class Farewell:
    """The last that is said on a socket."""

    text: str | None
    """Before the close; None for nothing."""
    code: int
    reason: str
    """At most 123 bytes."""
