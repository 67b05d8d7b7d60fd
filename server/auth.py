"""Who a client is, whether its web page may talk to us, and proof that a session is its own.

Owns: API keys, the Origin and Host checks, resume tokens. Keeps only SHA-256 digests of secrets.
May not know: sockets, routes, sessions.
Invariants: U1 secrets are compared in constant time and, for keys, against every known key;
U2 no secret is in a message, a repr or a log; U3 a key is never taken from a query string,
because URLs end up in logs and histories.
"""

import base64
import binascii
import hashlib
import hmac
import ipaddress
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Self
from urllib.parse import urlsplit

from server.config import Settings, is_loopback, name_and_key
from streaming.errors import Forbidden, Unauthorized

LOCAL_TENANT = "local"
"""Everyone's name where no key is configured."""
KEY_SUBPROTOCOL_PREFIX = "captiond.key."
"""Browsers cannot set headers on a WebSocket: they offer the key as a subprotocol. The server
never selects it, since it would be echoed."""
RESUME_TOKEN_BYTES = 32
ANY = "*"
_DEFAULT_PORTS = {"http": 80, "https": 443}
_SCHEMES = ("bearer", "token")


@dataclass(frozen=True, slots=True)
class Keyring:
    """The keys that are accepted; an empty ring accepts everyone as ``LOCAL_TENANT``."""

    _tenants: tuple[tuple[str, bytes], ...] = field(default=(), repr=False)
    """Name and SHA-256 of the key; a name may have several keys while one is being replaced."""

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        pairs = (name_and_key(secret) for secret in settings.api_keys)
        return cls(tuple((name, _digest(key)) for name, key in pairs))

    def authenticate(self, authorization: str | None, subprotocols: Sequence[str]) -> str:
        """The tenant's name.

        ``authorization`` is the header's value (Bearer or Token); without it the key is looked
        for among the offered WebSocket subprotocols.
        Raises: Unauthorized.
        """
        if not self._tenants:
            return LOCAL_TENANT
        tenant = self._tenant_of(_presented_key(authorization, subprotocols))
        if tenant is None:
            raise Unauthorized("this API key is not known here; ask the operator for one")
        return tenant

    def _tenant_of(self, key: str) -> str | None:
        presented = _digest(key)
        found = None
        for name, known in self._tenants:  # no early exit: U1
            if hmac.compare_digest(presented, known):
                found = name
        return found


def _digest(secret: str) -> bytes:
    # Headers may hold bytes that are no UTF-8; Python carries them as surrogates.
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()


def _presented_key(authorization: str | None, subprotocols: Sequence[str]) -> str:
    if authorization is not None:
        scheme, _, key = authorization.strip().partition(" ")
        if scheme.lower() in _SCHEMES and key.strip():
            return key.strip()
        raise Unauthorized('write the header as "Authorization: Bearer <key>"')
    for protocol in subprotocols:
        if protocol.startswith(KEY_SUBPROTOCOL_PREFIX):
            return _decoded_key(protocol.removeprefix(KEY_SUBPROTOCOL_PREFIX))
    for scheme, key in pairwise(subprotocols):
        if scheme.lower() in _SCHEMES:
            return key  # as Deepgram's clients do in browsers
    raise Unauthorized(
        'send an API key: header "Authorization: Bearer <key>", or in a browser the subprotocol '
        f'"{KEY_SUBPROTOCOL_PREFIX}<base64url of the key>"'
    )


def _decoded_key(encoded: str) -> str:
    padding = "=" * (-len(encoded) % 4)
    try:
        return base64.b64decode(encoded + padding, altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError):
        raise Unauthorized(
            f'the subprotocol "{KEY_SUBPROTOCOL_PREFIX}…" must end in the base64url of the key'
        ) from None


@dataclass(frozen=True, slots=True)
class _Address:
    """A host name in lower case without brackets, and a port where one is written."""

    host: str
    port: int | None


class OriginGuard:
    """Keeps other web pages out, also those whose name was pointed at this machine (rebinding).

    Names in a Host header must be known. Where the server listens on all addresses, any literal
    IP address is: only a name can be pointed elsewhere.
    """

    __slots__ = ("_any_host", "_any_ip", "_any_origin", "_hosts", "_origins")

    def __init__(
        self, allowed_origins: Sequence[str], allowed_hosts: Sequence[str], bound_host: str
    ) -> None:
        self._any_origin = ANY in allowed_origins
        self._any_host = ANY in allowed_hosts
        self._origins = frozenset(origin.rstrip("/").lower() for origin in allowed_origins)
        self._hosts = frozenset(host.strip("[]").lower() for host in (*allowed_hosts, bound_host))
        self._any_ip = _is_unspecified(bound_host)

    def check(self, host_header: str | None, origin_header: str | None) -> None:
        """Raises: Forbidden."""
        host = self._checked_host(host_header)
        if origin_header is None or self._any_origin:
            return  # no browser sent this, or all origins are welcome
        if origin_header.lower() in self._origins or _is_same_origin(origin_header, host):
            return
        raise Forbidden(
            "pages of this origin may not connect; the operator can add it to allowed_origins"
        )

    def _checked_host(self, header: str | None) -> _Address:
        address = _parsed("//" + header) if header else None
        if address is None:
            raise Forbidden("send a valid Host header")
        if self._any_host or self._is_known(address.host):
            return address
        raise Forbidden(
            "this server is not known under that Host name; "
            "the operator can add it to allowed_hosts"
        )

    def _is_known(self, host: str) -> bool:
        if is_loopback(host) or host in self._hosts:
            return True
        return self._any_ip and _is_ip(host)


def _parsed(url: str) -> _Address | None:
    """None where ``url`` is more than, or not, an optional scheme, a host and a port."""
    try:
        parts = urlsplit(url)
        address = _Address((parts.hostname or "").rstrip("."), parts.port)
    except ValueError:
        return None
    is_bare = not (parts.path or parts.query or parts.fragment or "@" in parts.netloc)
    return address if is_bare and address.host else None


def _is_same_origin(origin: str, host: _Address) -> bool:
    """Behind a TLS proxy our own scheme is unknown, so the origin's decides the default port."""
    scheme = origin.partition("://")[0].lower()
    address = _parsed(origin)
    if address is None or scheme not in _DEFAULT_PORTS:
        return False
    default = _DEFAULT_PORTS[scheme]
    ports_match = (address.port or default) == (host.port or default)
    return ports_match and address.host == host.host


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _is_unspecified(host: str) -> bool:
    bare = host.strip("[]")
    return _is_ip(bare) and ipaddress.ip_address(bare).is_unspecified


def new_resume_token() -> str:
    """A secret for the client that started a session; only its hash is stored."""
    return secrets.token_urlsafe(RESUME_TOKEN_BYTES)


def hash_resume_token(token: str) -> str:
    """Hex SHA-256; the token is random, so it needs no salt and no slow hash."""
    return _digest(token).hex()


def check_resume_token(token: str, token_hash: str) -> bool:
    """True where ``token`` is the one that ``token_hash`` was made of."""
    return hmac.compare_digest(hash_resume_token(token), token_hash)
