"""Admission: each refusal has its type, its reason and its hint; nothing else is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.admission import Admission
from streaming.errors import CaptiondError, Draining, Overloaded, TooFast

LIMITS = Admission(sessions_max=3, per_tenant_max=2)


def admit(active: dict[str, int], *, is_draining: bool = False, is_ready: bool = True) -> None:
    LIMITS.admit("alice", active, is_draining=is_draining, is_ready=is_ready)


@pytest.mark.parametrize("active", [{}, {"alice": 1}, {"alice": 1, "bob": 1}, {"bob": 2}])
def test_a_session_that_fits_is_admitted(active: dict[str, int]) -> None:
    admit(active)


def test_a_full_server_refuses_everyone() -> None:
    with pytest.raises(Overloaded, match="all 3 sessions"):
        admit({"bob": 2, "carol": 1})


def test_a_full_tenant_is_told_of_its_own_limit() -> None:
    with pytest.raises(TooFast, match="already has 2"):
        admit({"alice": 2, "bob": 1})


def test_without_a_tenant_limit_one_may_use_all() -> None:
    limits = Admission(sessions_max=3)
    limits.admit("alice", {"alice": 2}, is_draining=False, is_ready=True)
    with pytest.raises(Overloaded):
        limits.admit("alice", {"alice": 3}, is_draining=False, is_ready=True)


def test_draining_comes_before_all_other_reasons() -> None:
    with pytest.raises(Draining):
        admit({"alice": 9}, is_draining=True, is_ready=False)


def test_models_that_load_refuse() -> None:
    with pytest.raises(Overloaded, match="loading"):
        admit({}, is_ready=False)


@given(
    active=st.dictionaries(st.sampled_from(["alice", "bob"]), st.integers(0, 4)),
    is_draining=st.booleans(),
    is_ready=st.booleans(),
)
def test_every_refusal_says_when_to_come_back(
    active: dict[str, int], is_draining: bool, is_ready: bool
) -> None:
    expects_refusal = (
        is_draining or not is_ready or sum(active.values()) >= 3 or active.get("alice", 0) >= 2
    )
    refusal: CaptiondError | None = None
    try:
        admit(active, is_draining=is_draining, is_ready=is_ready)
    except CaptiondError as error:
        refusal = error
    assert (refusal is not None) == expects_refusal
    assert refusal is None or refusal.retry_after_ms
