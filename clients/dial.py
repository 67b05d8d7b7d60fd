"""Opens one connection to a captiond server and reads the server's refusals.

Owns: URL and headers, the WebSocket options, the first two messages, and the translation of what
``websockets`` raises into ``clients.errors``. Knows nothing of what is sent afterwards.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import urlsplit, urlunsplit

import orjson
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import (
    ConnectionClosed,
    InvalidHandshake,
    InvalidStatus,
    InvalidURI,
)
from websockets.http11 import Response
from websockets.typing import Subprotocol

from clients.errors import NO_CLOSE_FRAME, CaptionStreamError, ConnectionLost, ServerRefused
from streaming.errors import BadMessage, CaptiondError, ClientError, ServerError
from streaming.wire import (
    STREAM_PATH,
    SUBPROTOCOL,
    ErrorNotice,
    Ready,
    Resume,
    Start,
    encode_client_message,
    parse_server_message,
)

SERVER_MESSAGE_BYTES_MAX = 1024 * 1024
"""A final of a long utterance with every word is about 20 kB."""
OPEN_TIMEOUT_S = 10.0
READY_TIMEOUT_S = 30.0
"""A server that answers pings, and not what it is asked, hangs; its store may take seconds."""
RESUME_QUERY = "resume=1"
TLS_FAILED = 1015
"""RFC 6455 §7.4.1."""
CLOSE_TIMEOUT_S = 2.0

_SCHEMES = {"ws": "ws", "wss": "wss", "http": "ws", "https": "wss"}
_HTTP_CODES = {401: 4401, 403: 4403, 404: 4404, 410: 4410, 429: 4429, 503: 1013}


def _all_errors(base: type[CaptiondError]) -> list[type[CaptiondError]]:
    return [base, *(error for child in base.__subclasses__() for error in _all_errors(child))]


_CLOSE_CODE_OF = {
    error.code: error.close_code
    for family in (ClientError, ServerError)
    for error in _all_errors(family)[1:]
}


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where to connect, and as whom."""

    uri: str
    api_key: str | None
    is_loopback: bool
    tls: ssl.SSLContext | None = None
    """For ``wss``; None trusts what this machine trusts."""

    @property
    def tls_wanted(self) -> ssl.SSLContext | bool | None:
        """As ``websockets`` wants it: True is this machine's own trust, None no TLS at all."""
        return (self.tls or True) if self.uri.startswith("wss:") else None

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.api_key}"} if self.api_key else {}


def endpoint(url: str, api_key: str | None, tls: ssl.SSLContext | None = None) -> Endpoint:
    """Raises: ValueError with an example, where ``url`` is none or ``tls`` has no use."""
    parts = urlsplit(url)
    scheme = _SCHEMES.get(parts.scheme)
    if scheme is None or not parts.hostname:
        raise ValueError(f"not a server address: {url!r}; write it as ws://127.0.0.1:8710")
    if tls is not None and scheme == "ws":
        raise ValueError(f"{url!r} is no TLS address, so no certificate is checked; write wss://")
    path = parts.path if parts.path not in {"", "/"} else STREAM_PATH
    uri = urlunsplit((scheme, parts.netloc, path, parts.query, ""))
    return Endpoint(uri, api_key, _is_loopback(parts.hostname), tls)


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@asynccontextmanager
async def dial(target: Endpoint, *, is_resuming: bool = False) -> AsyncIterator[ClientConnection]:
    """One connection; a server that takes no new sessions lets in who says that it comes back.

    Raises: ServerRefused, ConnectionLost.
    """
    try:
        socket = await connect(
            _resuming(target.uri) if is_resuming else target.uri,
            subprotocols=[Subprotocol(SUBPROTOCOL)],
            compression=None,
            max_size=SERVER_MESSAGE_BYTES_MAX,
            additional_headers=target.headers,
            open_timeout=OPEN_TIMEOUT_S,
            close_timeout=CLOSE_TIMEOUT_S,
            # A proxy can never reach the server on this very machine.
            proxy=None if target.is_loopback else True,
            ssl=target.tls_wanted,
        )
    except InvalidStatus as error:
        raise _refusal_of_response(error.response) from None
    except InvalidURI as error:
        raise ConnectionLost(str(error), close_code=1008) from None
    except ssl.SSLError as error:
        reason = f"cannot reach {target.uri}: {_tls_advice(error)}"
        raise ConnectionLost(reason, close_code=TLS_FAILED) from error
    except (OSError, TimeoutError, InvalidHandshake) as error:
        raise ConnectionLost(f"cannot reach {target.uri}: {error}") from error
    try:
        yield socket
    finally:
        await socket.close()


def _resuming(uri: str) -> str:
    return uri + ("&" if urlsplit(uri).query else "?") + RESUME_QUERY


def _tls_advice(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return (
            f"its certificate is not trusted here ({error.verify_message}); if it is your own, "
            "name its file, or that of its authority (--ca)"
        )
    return f"no TLS there ({error.reason}); a server without it is at ws://"


async def greet(
    socket: ClientConnection, message: Start | Resume, on_message: Callable[[str], None] | None
) -> Ready:
    """Say what is wanted and return the server's ``ready``.

    Raises: ServerRefused, ConnectionLost, or ConnectionClosed where no reason was given.
    """
    if socket.subprotocol != SUBPROTOCOL:
        raise ServerRefused(
            "unsupported",
            f"this server does not speak {SUBPROTOCOL}; check the address and its version",
            retry_after_ms=None,
            close_code=1002,
        )
    await socket.send(encode_client_message(message))
    try:
        async with asyncio.timeout(READY_TIMEOUT_S):
            text = await socket.recv(decode=True)
    except TimeoutError:
        raise ConnectionLost(f"the server did not answer within {READY_TIMEOUT_S:g} s") from None
    if on_message is not None:
        on_message(text)
    match _parsed(text):
        case Ready() as ready:
            return ready
        case ErrorNotice() as notice:
            raise ServerRefused.from_notice(notice, close_code_of(notice.code))
        case other:
            raise ConnectionLost(f"expected ready, got {other}", close_code=1002)


def _parsed(text: str) -> object:
    try:
        return parse_server_message(text)
    except BadMessage as error:
        raise ConnectionLost(error.message, close_code=1002) from None


def close_code_of(code: str) -> int:
    """The close code that belongs to an error code; 1011 for one of a later version."""
    return _CLOSE_CODE_OF.get(code, 1011)


def refusal_of(closed: ConnectionClosed, notice: ErrorNotice | None) -> CaptionStreamError:
    """Why a connection ended: the server's own words where it left any."""
    close_code = closed.rcvd.code if closed.rcvd else NO_CLOSE_FRAME
    if notice is not None:
        known = close_code_of(notice.code) if close_code == NO_CLOSE_FRAME else close_code
        return ServerRefused.from_notice(notice, known)
    reason = f": {closed.rcvd.reason}" if closed.rcvd and closed.rcvd.reason else ""
    return ConnectionLost(
        f"the connection closed with code {close_code}{reason}", close_code=close_code
    )


def _refusal_of_response(response: Response) -> ServerRefused:
    """An HTTP answer instead of an upgrade; its body is an ``error`` object where it is ours."""
    status = response.status_code
    default = 1013 if status >= 500 else 1008
    notice = _notice_in(bytes(response.body or b""))
    code = notice.code if notice else "refused"
    message = notice.message if notice else f"HTTP {status}; check the address and the API key"
    retry_after = response.headers.get("Retry-After", "")
    retry_after_ms = int(retry_after) * 1000 if retry_after.isdigit() else None
    if notice and notice.retry_after_ms is not None:
        retry_after_ms = notice.retry_after_ms
    close_code = _CLOSE_CODE_OF.get(code, _HTTP_CODES.get(status, default))
    return ServerRefused(code, message, retry_after_ms=retry_after_ms, close_code=close_code)


def _notice_in(body: bytes) -> ErrorNotice | None:
    try:
        message = parse_server_message(orjson.dumps({"type": "error"} | orjson.loads(body)))
    except (BadMessage, orjson.JSONDecodeError, TypeError):
        return None
    return message if isinstance(message, ErrorNotice) else None
