"""The WebSocket that captiond serves: limits set, compression off, typed error on a huge message.

aiohttp's defaults do not fit a live audio server: permessage-deflate costs memory per socket and
opens it to decompression bombs, and no heartbeat means that a dead peer is never noticed.
"""

from aiohttp import WSCloseCode, web

from streaming.errors import TooBig
from streaming.wire import (
    AUDIO_MESSAGE_BYTES_MAX,
    SUBPROTOCOL,
    ErrorNotice,
    encode_notice,
)

CLOSE_SECONDS_MAX = 5.0
"""How long a close waits for the peer's own."""


class CaptionSocket(web.WebSocketResponse):
    """Ready to ``prepare``."""

    def __init__(self, *, heartbeat_s: float) -> None:
        super().__init__(
            protocols=(SUBPROTOCOL,),
            heartbeat=heartbeat_s,
            compress=False,
            max_msg_size=AUDIO_MESSAGE_BYTES_MAX,
            timeout=CLOSE_SECONDS_MAX,
        )

    async def close(
        self, *, code: int = WSCloseCode.OK, message: bytes = b"", drain: bool = True
    ) -> bool:
        """Sends the typed error first where aiohttp itself refuses a message for its size."""
        if code == WSCloseCode.MESSAGE_TOO_BIG and not message and not self.closed:
            advice = f"a message above {AUDIO_MESSAGE_BYTES_MAX} bytes; send smaller packets"
            await self.send_str(encode_notice(ErrorNotice(TooBig.code, advice)).decode())
        return await super().close(code=code, message=message, drain=drain)
