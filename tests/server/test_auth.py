"""Keys, Origin and Host, resume tokens: who gets in, and that secrets do not get out."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.auth import (
    KEY_SUBPROTOCOL_PREFIX,
    LOCAL_TENANT,
    Keyring,
    OriginGuard,
    check_resume_token,
    hash_resume_token,
    new_resume_token,
)
from server.config import Settings
from streaming.errors import Forbidden, Unauthorized

ALICE, BOB = "alice-0123456789abcdef", "bob-öäü-0123456789abcdef"
RING = Keyring.from_settings(Settings(api_keys=(f"alice:{ALICE}", f"bob:{BOB}")))


def as_subprotocol(key: str) -> str:
    return KEY_SUBPROTOCOL_PREFIX + base64.urlsafe_b64encode(key.encode()).decode().rstrip("=")


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "TOKEN", "Token"])
def test_a_key_in_the_header(scheme: str) -> None:
    assert RING.authenticate(f"{scheme} {ALICE}", []) == "alice"
    assert RING.authenticate(f"  {scheme}   {BOB} ", []) == "bob"


def test_a_key_as_subprotocol() -> None:
    assert RING.authenticate(None, ["captiond.v1", as_subprotocol(BOB)]) == "bob"
    assert RING.authenticate(None, [as_subprotocol(BOB) + "="]) == "bob"


@pytest.mark.parametrize("scheme", ["token", "bearer", "Token"])
def test_a_key_behind_its_scheme_among_the_subprotocols(scheme: str) -> None:
    """As Deepgram's clients do in browsers."""
    assert RING.authenticate(None, [scheme, ALICE, "x-deepgram-session-id", "1"]) == "alice"
    for offered in ([scheme], [ALICE, scheme], [scheme, "nobody", ALICE]):
        with pytest.raises(Unauthorized):
            RING.authenticate(None, offered)


@pytest.mark.parametrize(
    "authorization",
    [
        "",
        "Bearer",
        "Bearer ",
        f"Basic {ALICE}",
        ALICE,
        "Bearer " + ALICE[:-1],
        "Bearer \udcff",
    ],
)
def test_a_bad_header_is_refused(authorization: str) -> None:
    with pytest.raises(Unauthorized):
        RING.authenticate(authorization, [as_subprotocol(ALICE)])


def test_a_header_with_any_surrogate_is_refused() -> None:
    with pytest.raises(Unauthorized, match="not known"):
        RING.authenticate("Bearer \ud800", [])


@pytest.mark.parametrize(
    "protocols",
    [[], ["captiond.v1"], [KEY_SUBPROTOCOL_PREFIX], [KEY_SUBPROTOCOL_PREFIX + "a"],
     [KEY_SUBPROTOCOL_PREFIX + "!!!!"], [KEY_SUBPROTOCOL_PREFIX + "__79"]],
)  # fmt: skip
def test_bad_subprotocols_are_refused(protocols: list[str]) -> None:
    with pytest.raises(Unauthorized):
        RING.authenticate(None, protocols)


@given(st.text(), st.lists(st.text().map(lambda text: KEY_SUBPROTOCOL_PREFIX + text)))
def test_no_input_does_more_than_unauthorized(header: str, protocols: list[str]) -> None:
    for authorization in (None, header, "Bearer " + header):
        with pytest.raises(Unauthorized):
            RING.authenticate(authorization, protocols)


def test_a_name_may_have_two_keys() -> None:
    ring = Keyring.from_settings(Settings(api_keys=(f"alice:{ALICE}", f"alice:{BOB}")))
    assert ring.authenticate(f"Bearer {ALICE}", []) == ring.authenticate(f"Bearer {BOB}", [])


def test_without_keys_everyone_is_local() -> None:
    ring = Keyring.from_settings(Settings())
    assert ring.authenticate(None, []) == LOCAL_TENANT
    assert ring.authenticate("Bearer whatever", []) == LOCAL_TENANT


def test_no_key_in_repr_or_error() -> None:
    assert "alice" not in repr(RING)
    with pytest.raises(Unauthorized) as caught:
        RING.authenticate("Bearer wrong-key-0123456789", [])
    assert "wrong-key" not in str(caught.value)


LOCAL = OriginGuard((), (), "127.0.0.1")


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("localhost:8710", None),
        ("127.0.0.1:8710", "http://127.0.0.1:8710"),
        ("[::1]:8710", "http://[::1]:8710"),
        ("LOCALHOST:8710", "http://localhost:8710"),
        ("localhost", "http://localhost"),
        ("localhost", "https://localhost:443"),
        ("127.0.0.1", None),
    ],
)
def test_own_pages_and_programs_pass(host: str, origin: str | None) -> None:
    LOCAL.check(host, origin)


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        (None, None),
        ("", None),
        ("evil.example:8710", None),  # DNS rebinding: the name now points here
        ("evil.example:8710", "http://evil.example:8710"),
        ("localhost.evil.example", None),
        ("127.0.0.1.evil.example", None),
        ("192.168.1.5:8710", None),
        ("localhost:port", None),
        ("localhost/path", None),
        ("user@localhost", None),
        ("[::1", None),
        ("localhost:8710", "null"),
        ("localhost:8710", ""),
        ("localhost:8710", "http://evil.example"),
        ("localhost:8710", "http://localhost:3000"),
        ("localhost:8710", "http://localhost"),
        ("localhost:8710", "file://localhost:8710"),
        ("localhost:8710", "http://localhost:8710/page"),
    ],
)
def test_other_pages_and_unknown_names_are_refused(host: str | None, origin: str | None) -> None:
    with pytest.raises(Forbidden):
        LOCAL.check(host, origin)


def test_configured_names_and_origins_pass_behind_a_tls_proxy() -> None:
    guard = OriginGuard(("https://App.example/",), ("captions.example",), "127.0.0.1")
    guard.check("captions.example", "https://captions.example")
    guard.check("captions.example", "https://app.example")
    with pytest.raises(Forbidden, match="allowed_origins"):
        guard.check("captions.example", "https://other.example")
    with pytest.raises(Forbidden, match="allowed_hosts"):
        guard.check("other.example", "https://app.example")


@pytest.mark.parametrize("bound", ["0.0.0.0", "::"])
def test_on_all_addresses_any_address_passes_but_no_name(bound: str) -> None:
    guard = OriginGuard((), (), bound)
    guard.check("192.168.1.5:8710", "http://192.168.1.5:8710")
    with pytest.raises(Forbidden):
        guard.check("evil.example:8710", None)


def test_the_listening_name_is_known() -> None:
    OriginGuard((), (), "captions.lan").check("captions.lan:8710", "http://captions.lan:8710")


def test_stars_allow_everything() -> None:
    OriginGuard(("*",), ("*",), "127.0.0.1").check("any.example", "https://evil.example")
    OriginGuard((), ("*",), "127.0.0.1").check("any.example", None)
    with pytest.raises(Forbidden):
        OriginGuard((), ("*",), "127.0.0.1").check("any.example", "https://evil.example")


@given(st.text(), st.none() | st.text())
def test_no_header_does_more_than_forbidden(host: str, origin: str | None) -> None:
    guard = OriginGuard(("https://app.example",), (), "0.0.0.0")
    try:
        guard.check(host, origin)
        guard.check("localhost", origin)
    except Forbidden:
        return  # the only exception that may leave


def test_a_resume_token_proves_its_session_only() -> None:
    token, other = new_resume_token(), new_resume_token()
    token_hash = hash_resume_token(token)
    assert check_resume_token(token, token_hash)
    assert not check_resume_token(other, token_hash)
    assert not check_resume_token("ü\udcff", token_hash)
    assert not check_resume_token(token, "")
    assert token not in token_hash
    assert len(token) <= 128, "the resume message's limit"
