"""What a browser shows instead of an API key: tickets, and the links that an audience gets.

A *ticket* lets one request in, once, within ``TICKET_SECONDS``, and is good for one thing: to open
a stream, or to read one session. A *link* lets whoever has it ask for tickets that read one
session, until it expires. Both go into headers, subprotocols and the fragment of a URL, which no
browser sends; never into what a server logs.

Owns: who holds which ticket, and how a link is signed. May not know: requests, sockets, the store.
Invariants: T1 a ticket is good once, also where the request is then refused; T2 only digests of
tickets are kept; T3 a link is good for its own session alone, ends with it, and needs no memory:
any server over the same store knows it.
"""

import base64
import binascii
import hashlib
import hmac
import secrets
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from streaming.errors import BadMessage, Forbidden, Overloaded, TooFast, Unauthorized

TICKET_SECONDS = 30.0
"""From the answer that brings a ticket to the request that shows it: one trip of a slow network."""
TICKETS_MAX = 20_000
"""Unused ones, of all tenants: about 5 MB."""
TICKETS_PER_TENANT_MAX = 2_000
"""Unused ones: an audience that comes back all at once after a restart, each with one."""
LINK_HOURS_MAX = 31 * 24
LINK_HOURS = 24

TICKET_SCHEME, LINK_SCHEME = "ticket", "link"
TICKET_SUBPROTOCOL_PREFIX = "captiond.ticket."
"""As with keys, a WebSocket of a browser has no header to put it in."""
_SECRET_BYTES = 24
_LINK_PARTS = 3
_RETRY_MS = 5_000


class TicketRequest(BaseModel):
    """What a ticket should be good for."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    scope: Literal["stream", "view"]
    session_id: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    """The session to read; for the scope ``view`` alone."""


class LinkRequest(BaseModel):
    """How long an audience may read along."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    hours: int = Field(LINK_HOURS, ge=1, le=LINK_HOURS_MAX)


@dataclass(frozen=True, slots=True)
class Grant:
    """What one ticket lets in."""

    tenant: str
    session_id: str | None
    """The session to read; None: a stream may be opened, and nothing be read."""
    expires_s: float
    """On the server's monotonic clock."""


class Tickets:
    """Those that were given out and not shown yet."""

    def __init__(self) -> None:
        self._grants: dict[bytes, Grant] = {}
        """By digest, in the order in which they expire: all last equally long."""
        self._of_tenant: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._grants)

    def issue(self, tenant: str, session_id: str | None, now_s: float) -> str:
        """A new ticket. Raises: TooFast, Overloaded."""
        self._forget_expired(now_s)
        if self._of_tenant[tenant] >= TICKETS_PER_TENANT_MAX:
            raise TooFast(
                f"{TICKETS_PER_TENANT_MAX} tickets of this key wait to be used; use them, or wait",
                retry_after_ms=_RETRY_MS,
            )
        if len(self._grants) >= TICKETS_MAX:
            raise Overloaded("too many unused tickets; try again", retry_after_ms=_RETRY_MS)
        ticket = secrets.token_urlsafe(_SECRET_BYTES)
        self._grants[_digest(ticket)] = Grant(tenant, session_id, now_s + TICKET_SECONDS)
        self._of_tenant[tenant] += 1
        return ticket

    def redeem(self, ticket: str, now_s: float) -> Grant:
        """What the ticket is good for; from now on it is good for nothing. Raises: Unauthorized."""
        grant = self._take(_digest(ticket))
        if grant is None or grant.expires_s < now_s:
            raise Unauthorized("this ticket was used, or is too old; ask for another one")
        return grant

    def _forget_expired(self, now_s: float) -> None:
        while self._grants:
            oldest = next(iter(self._grants))
            if self._grants[oldest].expires_s >= now_s:
                return
            self._take(oldest)

    def _take(self, digest: bytes) -> Grant | None:
        grant = self._grants.pop(digest, None)
        if grant is not None:
            self._of_tenant[grant.tenant] -= 1
            if not self._of_tenant[grant.tenant]:
                del self._of_tenant[grant.tenant]
        return grant


def check_scope(grant: Grant, method: str, path: str, stream_path: str) -> None:
    """Raises: Forbidden where the ticket is for something else than this request."""
    if grant.session_id is None:
        is_meant = path == stream_path
    else:
        of_session = f"/v1/sessions/{grant.session_id}"
        readable = {f"{of_session}/{what}" for what in ("events", "transcript", "names")}
        is_meant = method == "GET" and path in readable
    if not is_meant:
        raise Forbidden("this ticket is for something else; ask for one with the right scope")


def presented(scheme: str, authorization: str | None) -> str | None:
    """What an Authorization header shows under this scheme, if it does."""
    if authorization is None:
        return None
    name, _, secret = authorization.strip().partition(" ")
    return secret.strip() if name.lower() == scheme else None


def presented_ticket(authorization: str | None, subprotocols: Sequence[str]) -> str | None:
    """None where the client shows no ticket, but perhaps a key."""
    if authorization is not None:
        return presented(TICKET_SCHEME, authorization)
    for protocol in subprotocols:
        if protocol.startswith(TICKET_SUBPROTOCOL_PREFIX):
            return protocol.removeprefix(TICKET_SUBPROTOCOL_PREFIX)
    return None


# Links


@dataclass(frozen=True, slots=True)
class Link:
    """What a link says of itself; believe it after ``check_link``."""

    session_id: str
    expires_unix_s: int
    signature: bytes


def make_link(session_id: str, seed: str, expires_unix_s: int) -> str:
    """``seed`` is a secret of the session that only its store has, and that goes with it."""
    signature = _signature(session_id, seed, expires_unix_s)
    encoded = base64.urlsafe_b64encode(signature).decode().rstrip("=")
    return f"{session_id}.{expires_unix_s}.{encoded}"


def parse_link(text: str) -> Link:
    """Raises: Unauthorized."""
    parts = text.split(".")
    try:
        if len(parts) != _LINK_PARTS or not text.isascii():
            raise ValueError(text)
        session_id, expires, encoded = parts
        signature = base64.b64decode(encoded + "=" * (-len(encoded) % 4), b"-_", validate=True)
        return Link(session_id, int(expires), signature)
    except (binascii.Error, ValueError):
        raise not_a_link() from None


def check_link(link: Link, seed: str, now_unix_s: float) -> None:
    """Raises: Unauthorized where it was not made here, or is over."""
    wanted = _signature(link.session_id, seed, link.expires_unix_s)
    if not hmac.compare_digest(link.signature, wanted):
        raise not_a_link()
    if link.expires_unix_s < now_unix_s:
        raise Unauthorized("this link has expired; ask whoever gave it to you for another one")


def session_of_request(request: TicketRequest) -> str | None:
    """Raises: BadMessage where scope and session do not belong together."""
    if (request.scope == "view") != (request.session_id is not None):
        raise BadMessage('session_id: give it with the scope "view", and with no other')
    return request.session_id


def _signature(session_id: str, seed: str, expires_unix_s: int) -> bytes:
    message = f"captiond viewer link\n{session_id}\n{expires_unix_s}".encode()
    return hmac.digest(seed.encode(), message, "sha256")


def not_a_link() -> Unauthorized:
    """The same for what never was one, and for a session that was deleted."""
    return Unauthorized("this link is not, or no longer, good here; ask for another one")


def _digest(ticket: str) -> bytes:
    # A header may hold bytes that are no UTF-8; Python carries them as surrogates.
    return hashlib.sha256(ticket.encode("utf-8", "surrogatepass")).digest()
