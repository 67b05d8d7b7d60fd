"""What can go wrong between a client and a captiond server, as a bot developer sees it.

CaptionStreamError
├── ServerRefused     the server said no, and why; its sentence tells what to do
├── ConnectionLost    the network or the server went away and did not come back in time
└── StreamEnded       audio was sent after ``end()``
"""

from streaming.wire import ErrorNotice

NO_CLOSE_FRAME = 1006
"""RFC 6455's code for a connection that went away without a close frame."""


class CaptionStreamError(Exception):
    """Base of all errors that the client library raises by itself."""


class ServerRefused(CaptionStreamError):
    """The server gave an error that trying again does not mend, or not soon enough."""

    def __init__(
        self, code: str, message: str, *, retry_after_ms: int | None, close_code: int
    ) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        """One of the codes in docs/protocol.md."""
        self.message = message
        self.retry_after_ms = retry_after_ms
        self.close_code = close_code

    @classmethod
    def from_notice(cls, notice: ErrorNotice, close_code: int) -> "ServerRefused":
        return cls(
            notice.code,
            notice.message,
            retry_after_ms=notice.retry_after_ms,
            close_code=close_code,
        )


class ConnectionLost(CaptionStreamError):
    """The session could not be reached again; what was final is kept by the server."""

    def __init__(self, message: str, *, close_code: int = NO_CLOSE_FRAME) -> None:
        super().__init__(message)
        self.close_code = close_code


class StreamEnded(CaptionStreamError):
    """No audio can follow ``end()``; open a new stream for it."""
