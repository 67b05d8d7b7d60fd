"""Certificates: what is refused and why, when they expire, and reading them again."""

import base64
import re
import ssl
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)
from hypothesis import given
from hypothesis import strategies as st

from server.tls import WARN_PERIOD, ServerTls, TlsError, expiry_warning

NOW = datetime(2026, 11, 20, tzinfo=UTC)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def issued(
    authority: trustme.CA,
    folder: Path,
    *,
    expires: datetime | None = None,
    kind: trustme.KeyType = trustme.KeyType.ECDSA,
) -> tuple[Path, Path]:
    """Certificate and key files for localhost."""
    leaf = authority.issue_cert("localhost", not_after=expires, key_type=kind)
    cert, key = folder / "cert.pem", folder / "key.pem"
    cert.write_bytes(b"".join(blob.bytes() for blob in leaf.cert_chain_pems))
    key.write_bytes(leaf.private_key_pem.bytes())
    return cert, key


def shown_certificate(tls: ServerTls) -> bytes | None:
    """What a client is shown, by a handshake in memory."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    trusting = ssl.create_default_context()
    trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
    client = trusting.wrap_bio(to_client, to_server)
    server = tls.context.wrap_bio(to_server, to_client, server_side=True)
    for side in (client, server, client, server):
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            continue
    return client.getpeercert(binary_form=True)


def test_a_certificate_and_its_key_make_a_context(authority: trustme.CA, tmp_path: Path) -> None:
    cert, key = issued(authority, tmp_path)
    tls = ServerTls(cert, key)
    assert shown_certificate(tls) == ssl.PEM_cert_to_DER_cert(cert.read_text().split("\n\n")[0])
    assert tls.context.minimum_version >= ssl.TLSVersion.TLSv1_2


def test_reload_shows_the_new_certificate(authority: trustme.CA, tmp_path: Path) -> None:
    cert, key = issued(authority, tmp_path)
    tls = ServerTls(cert, key)
    before = shown_certificate(tls)
    issued(authority, tmp_path)
    tls.reload()
    assert shown_certificate(tls) not in (before, None)


@pytest.mark.parametrize(
    "kinds",
    [
        (trustme.KeyType.ECDSA, trustme.KeyType.RSA),
        (trustme.KeyType.RSA, trustme.KeyType.ECDSA),
    ],
)
def test_a_reload_with_another_kind_of_key_leaves_nothing_of_the_old_one(
    kinds: tuple[trustme.KeyType, trustme.KeyType], authority: trustme.CA, tmp_path: Path
) -> None:
    cert, key = issued(authority, tmp_path, kind=kinds[0])
    tls = ServerTls(cert, key)
    issued(authority, tmp_path, kind=kinds[1])
    tls.reload()
    assert shown_certificate(tls) == ssl.PEM_cert_to_DER_cert(cert.read_text().split("\n\n")[0])


def test_a_reload_that_fails_changes_nothing(authority: trustme.CA, tmp_path: Path) -> None:
    cert, key = issued(authority, tmp_path)
    tls = ServerTls(cert, key)
    before = shown_certificate(tls)
    old_key = key.read_bytes()
    issued(authority, tmp_path)
    key.write_bytes(old_key)
    with pytest.raises(TlsError, match="is not the key"):
        tls.reload()
    assert shown_certificate(tls) == before


def encrypted(key: bytes) -> bytes:
    return load_pem_private_key(key, None).private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")
    )


@pytest.mark.parametrize(
    ("cert", "key", "said"),
    [
        (None, b"", r"tls_cert: cannot read .*cert.pem: No such file"),
        (b"", None, r"tls_key: cannot read .*key.pem: No such file"),
        (b"\xff\xfe", b"", r"tls_cert: .* is not in PEM form"),
        (b"text", b"", r"tls_cert: .*no certificate"),
        (b"", b"text", r"tls_key: .*no private key"),
    ],
)
def test_files_that_cannot_be_used_are_named(
    authority: trustme.CA, tmp_path: Path, cert: bytes | None, key: bytes | None, said: str
) -> None:
    """Empty bytes stand for a good file here."""
    for path, content in zip(issued(authority, tmp_path), (cert, key), strict=True):
        if content is None:
            path.unlink()
        elif content:
            path.write_bytes(content)
    with pytest.raises(TlsError, match=said) as caught:
        ServerTls(tmp_path / "cert.pem", tmp_path / "key.pem")
    assert "\n" not in str(caught.value)


def test_damaged_and_encrypted_and_foreign_keys_are_told_apart(
    authority: trustme.CA, tmp_path: Path
) -> None:
    cert, key = issued(authority, tmp_path)
    own = key.read_bytes()
    for content, said in (
        (authority.issue_cert("localhost").private_key_pem.bytes(), "is not the key"),
        (encrypted(own), "encrypted.*openssl pkey"),
        (own[:60] + b"!" + own[61:], "cannot be used"),
    ):
        key.write_bytes(content)
        with pytest.raises(TlsError, match=said):
            ServerTls(cert, key)


@pytest.mark.parametrize(
    ("left", "said"),
    [
        (timedelta(days=-1), "expired on 2026-11-19"),
        (WARN_PERIOD - timedelta(days=1), "expires on 2026-12-03.*SIGHUP"),
        (WARN_PERIOD + timedelta(days=1), None),
    ],
)
def test_certificates_at_their_end_are_warned_of(
    authority: trustme.CA, tmp_path: Path, left: timedelta, said: str | None
) -> None:
    cert, _ = issued(authority, tmp_path, expires=NOW + left)
    warning = expiry_warning(cert, NOW)
    if said is None:
        assert warning is None
    else:
        assert warning is not None
        assert re.search(said, warning)


@given(st.binary(max_size=64))
def test_what_is_no_certificate_is_refused(data: bytes) -> None:
    body = base64.b64encode(data).decode()
    with tempfile.TemporaryDirectory() as folder:
        cert = Path(folder, "cert.pem")
        cert.write_text(f"{ssl.PEM_HEADER}\n{body}\n{ssl.PEM_FOOTER}\n")
        with pytest.raises(TlsError, match="PEM form"):
            expiry_warning(cert, NOW)
