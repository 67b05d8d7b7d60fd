"""The WebSocket as Deepgram's clients expect it: subprotocols, sizes, close codes and reasons."""

from typing import ClassVar

from aiohttp import WSCloseCode

from server.socket import CaptionSocket, Farewell
from streaming.errors import (
    BadAudio,
    CaptiondError,
    ClientError,
    Draining,
    IdleTooLong,
    Overloaded,
    TooBig,
)

PROTOCOL = "deepgram"
"""Label in metrics."""
MESSAGE_BYTES_MAX = 4 * 1024 * 1024
"""Clients send whole files in one message; two minutes of 16 kHz PCM16, as much as the credit."""


class DeepgramSocket(CaptionSocket):
    """Says the key's scheme back, never the key, and closes with codes that browsers know."""

    subprotocols: ClassVar[tuple[str, ...]] = ("token", "bearer")
    message_bytes_max: ClassVar[int] = MESSAGE_BYTES_MAX

    def farewell(self, refusal: CaptiondError) -> Farewell:
        """No message: an ``Error`` of theirs is about a message, never about a close."""
        code, reason = close_of(refusal)
        return Farewell(None, code, reason)


def close_of(error: CaptiondError) -> tuple[int, str]:
    """Close code and reason. Codes above 4000 mean nothing to their clients."""
    match error:
        case IdleTooLong():
            return WSCloseCode.INTERNAL_ERROR, "NET-0001"
        case BadAudio():
            return WSCloseCode.POLICY_VIOLATION, "DATA-0000"
        case TooBig() | Draining() | Overloaded():
            return error.close_code, error.code
        case ClientError():
            return WSCloseCode.POLICY_VIOLATION, error.code
    return WSCloseCode.INTERNAL_ERROR, "NET-0000"
