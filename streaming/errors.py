"""Everything that may go wrong inside a session, by whose fault it is.

    CaptiondError                carries a wire code, a message that says what to do, a close code
    ├── ClientError              the client broke the protocol: tell it, close, keep its session
    │   ├── BadMessage           JSON or a field is wrong                     bad_message      4400
    │   ├── BadAudio             bytes cannot be the announced audio          bad_audio        4400
    │   ├── UnsupportedOption    well formed, but not offered                 unsupported      4400
    │   ├── OutOfOrder           a message at the wrong time                  out_of_order     4400
    │   ├── TooFast              audio or frames beyond credit or rate        too_fast         4429
    │   ├── TooBig               one message above the size limit             too_big          1009
    │   ├── Unauthorized         no key, or a wrong one                       unauthorized     4401
    │   ├── Forbidden            Origin or Host not allowed                   forbidden        4403
    │   ├── UnknownSession       no such session, or not yours                unknown_session  4404
    │   ├── IdleTooLong          nothing came in time                         idle             4408
    │   ├── Superseded           another socket took the session over         superseded       4409
    │   └── SessionExpired       the resume window is over                    session_expired  4410
    └── ServerError              our fault: the client may retry
        ├── Overloaded           no capacity now                              overloaded       1013
        ├── Draining             the server is going down                     draining         1012
        ├── EngineFailed         a model gave up on this session              engine_failed    4500
        └── InternalError        a bug; the log has the traceback             internal         1011

``docs/protocol.md`` lists the same codes; a test compares the two.
"""

from typing import ClassVar


class CaptiondError(Exception):
    """Base of all errors that a client may be told of."""

    code: ClassVar[str]
    close_code: ClassVar[int]
    http_status: ClassVar[int] = 400

    def __init__(self, message: str, *, retry_after_ms: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.retry_after_ms = retry_after_ms


class ClientError(CaptiondError):
    """The peer's fault."""


class BadMessage(ClientError):
    code = "bad_message"
    close_code = 4400


class BadAudio(ClientError):
    code = "bad_audio"
    close_code = 4400


class UnsupportedOption(ClientError):
    code = "unsupported"
    close_code = 4400


class OutOfOrder(ClientError):
    code = "out_of_order"
    close_code = 4400


class TooFast(ClientError):
    code = "too_fast"
    close_code = 4429
    http_status = 429


class TooBig(ClientError):
    code = "too_big"
    close_code = 1009
    http_status = 413


class Unauthorized(ClientError):
    code = "unauthorized"
    close_code = 4401
    http_status = 401


class Forbidden(ClientError):
    code = "forbidden"
    close_code = 4403
    http_status = 403


class UnknownSession(ClientError):
    code = "unknown_session"
    close_code = 4404
    http_status = 404


class IdleTooLong(ClientError):
    code = "idle"
    close_code = 4408
    http_status = 408


class Superseded(ClientError):
    code = "superseded"
    close_code = 4409
    http_status = 409


class SessionExpired(ClientError):
    code = "session_expired"
    close_code = 4410
    http_status = 410


class ServerError(CaptiondError):
    """Our fault."""

    http_status = 503


class Overloaded(ServerError):
    code = "overloaded"
    close_code = 1013


class Draining(ServerError):
    code = "draining"
    close_code = 1012


class EngineFailed(ServerError):
    code = "engine_failed"
    close_code = 4500


class InternalError(ServerError):
    code = "internal"
    close_code = 1011
    http_status = 500
