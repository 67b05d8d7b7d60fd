"""Certificate and key for the listening port: read, checked, described, read again.

Owns: the ``ssl`` context, and one line for every file that cannot be used. Knows no sockets.
Invariant T1: a context only ever holds one certificate, with its own key. A new certificate gets a
new context: OpenSSL keeps one of each kind of key, so that an old RSA one would be shown beside a
new ECDSA one for as long as the server runs.
"""

import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509

WARN_PERIOD = timedelta(days=14)
"""Automatic renewal replaces certificates about thirty days before they expire."""
PEM_BYTES_MAX = 1024 * 1024
"""A long chain has 20 kB."""


class TlsError(Exception):
    """A certificate or key that cannot be used; the message is one line for the operator."""


class ServerTls:
    """``context`` is for the next connection; ``reload`` puts another in its place."""

    def __init__(self, cert: Path, key: Path) -> None:
        """Raises: TlsError."""
        self._cert, self._key = cert, key
        self.context = _loaded(cert, key)

    def reload(self) -> None:
        """Read the files again. Raises: TlsError, and then the old certificate stays in use."""
        self.context = _loaded(self._cert, self._key)

    @property
    def expires_at(self) -> datetime:
        """When the certificate in the file ends. Raises: TlsError."""
        return expiry_of(self._cert)

    def warning(self, now: datetime) -> str | None:
        """What an operator should know of the certificate's age."""
        return expiry_warning(self._cert, now)


def expiry_of(cert: Path) -> datetime:
    """When the certificate in a file ends. Raises: TlsError."""
    try:
        certificate = x509.load_pem_x509_certificate(
            _first_certificate(_text("tls_cert", cert)).encode()
        )
    except ValueError:
        raise TlsError(f"tls_cert: {cert} holds no certificate in PEM form") from None
    return certificate.not_valid_after_utc


def expiry_warning(cert: Path, now: datetime) -> str | None:
    """One line where the certificate has expired or soon will."""
    end = expiry_of(cert)
    if end < now:
        return f"the certificate in {cert} expired on {_day(end)}; clients will refuse it: renew it"
    if end < now + WARN_PERIOD:
        return f"the certificate in {cert} expires on {_day(end)}; renew it, then send SIGHUP"
    return None


def _day(moment: datetime) -> str:
    return moment.astimezone(UTC).date().isoformat()


def _loaded(cert: Path, key: Path) -> ssl.SSLContext:
    _first_certificate(_text("tls_cert", cert))
    key_text = _text("tls_key", key)
    if "PRIVATE KEY-----" not in key_text:
        raise TlsError(f"tls_key: {key} holds no private key in PEM form")
    if "ENCRYPTED" in key_text:
        raise TlsError(
            f"tls_key: {key} is encrypted, and nobody is there to type its password at a start; "
            f"decrypt it: openssl pkey -in {key} -out {key}.plain"
        )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(cert, key)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise TlsError(f"tls_key: {key} is not the key of the certificate in {cert}") from None
        reason = error.reason or error
        raise TlsError(f"tls_cert, tls_key: {cert} and {key} cannot be used: {reason}") from None
    return context


def _text(option: str, path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(PEM_BYTES_MAX).decode()
    except OSError as error:
        raise TlsError(f"{option}: cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise TlsError(f"{option}: {path} is not in PEM form") from None


def _first_certificate(text: str) -> str:
    start = text.find(ssl.PEM_HEADER)
    end = text.find(ssl.PEM_FOOTER, start)
    if start < 0 or end < 0:
        raise TlsError("tls_cert: the file holds no certificate in PEM form")
    return text[start : end + len(ssl.PEM_FOOTER)]
