"""Admission: each refusal has its type, its reason and its hint; nothing else is refused."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.admission import (
    BOUNDS,
    LATE_S,
    SHED_EVERY_S,
    SHED_LATE_S,
    Admission,
    Load,
    LoadGate,
    OverloadReason,
    Shedding,
    shed_error,
    who_goes,
)
from streaming.errors import CaptiondError, Draining, Overloaded, TooFast
from streaming.lagging import LAG_SECONDS_MIN
from streaming.pacing import BUSY_SHARE

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


IDLE = Load(engine_share=0.1, late_s=0.0, call_s=0.1, memory_share=0.2)


def closed_by(gate: LoadGate, load: Load) -> list[OverloadReason]:
    gate.note(load)
    return gate.reasons


def test_below_all_bounds_nobody_is_refused() -> None:
    gate = LoadGate()
    assert closed_by(gate, IDLE) == []
    assert gate.refusal() is None


@pytest.mark.parametrize(
    ("load", "reason", "words"),
    [
        (replace(IDLE, engine_share=0.9), OverloadReason.ENGINES, "no time for another"),
        (replace(IDLE, late_s=2.5), OverloadReason.BACKLOG, "late already"),
        (replace(IDLE, memory_share=0.9), OverloadReason.MEMORY, "memory"),
    ],
)
def test_too_much_of_anything_closes_and_says_why(
    load: Load, reason: OverloadReason, words: str
) -> None:
    gate = LoadGate()
    assert closed_by(gate, load) == [reason]
    refusal = gate.refusal()
    assert refusal is not None
    assert words in refusal.message
    assert refusal.retry_after_ms
    assert closed_by(gate, IDLE) == []


def test_slow_engines_may_be_later_but_not_without_end() -> None:
    slow = replace(IDLE, call_s=1.5, late_s=4.0)
    assert closed_by(LoadGate(), slow) == []
    assert closed_by(LoadGate(), replace(slow, call_s=10.0, late_s=SHED_LATE_S + 1)) != []


def test_the_order_of_what_is_done() -> None:
    """First nobody new, then the lag is told, then the newest go."""
    assert LATE_S < LAG_SECONDS_MIN < SHED_LATE_S


@given(st.lists(st.floats(0, 2)), st.sampled_from(OverloadReason))
def test_a_gate_has_two_thresholds(values: list[float], reason: OverloadReason) -> None:
    gate, bounds, was_closed = LoadGate(), BOUNDS[reason], False
    assert bounds.lower < bounds.upper
    for value in values:
        load = {
            OverloadReason.ENGINES: replace(IDLE, engine_share=value),
            OverloadReason.BACKLOG: replace(IDLE, late_s=value * LATE_S),
            OverloadReason.MEMORY: replace(IDLE, memory_share=value),
        }[reason]
        is_closed = reason in closed_by(gate, load)
        if value > bounds.upper:
            assert is_closed
        elif value < bounds.lower:
            assert not is_closed
        else:
            assert is_closed == was_closed, "between them nothing changes"
        was_closed = is_closed


NS_PER_LOOK = int(SHED_EVERY_S * 1e9)


@given(
    looks=st.lists(
        st.tuples(
            st.floats(0, 30),
            st.floats(0, 1.2),
            st.floats(0, 1),
            st.integers(0, 50),
            st.floats(0, 3),
        ),
        max_size=40,
    )
)
def test_nobody_is_sent_away_without_need(
    looks: list[tuple[float, float, float, int, float]],
) -> None:
    shedding, now_ns, waits_until_ns = Shedding(0), 0, 0
    for late_s, busy, left, sessions, passed in looks:
        now_ns += round(passed * NS_PER_LOOK)
        count = shedding.count(late_s, busy, left, sessions, now_ns)
        if count:
            assert now_ns >= waits_until_ns, "what was done before has not shown its effect"
            assert late_s > SHED_LATE_S
            assert busy >= BUSY_SHARE, "the engines are not what is missing"
            assert count <= max(1, sessions // 2) < sessions, "the last one stays"
            waits_until_ns = now_ns + round(late_s * 1e9)


def test_as_many_go_as_are_too_many() -> None:
    for left, sessions, count in ((0.0, 20, 2), (0.2, 20, 6), (0.9, 20, 10), (0.3, 2, 1)):
        assert Shedding(0).count(SHED_LATE_S + 1, 1.0, left, sessions, NS_PER_LOOK) == count
    assert Shedding(0).count(SHED_LATE_S + 1, 1.0, 0.9, 1, NS_PER_LOOK) == 0
    assert shed_error().retry_after_ms


def test_while_lateness_falls_nobody_goes() -> None:
    shedding = Shedding(0)
    counts = [
        shedding.count(late_s, 1.0, 0.9, 20, look * 20 * NS_PER_LOOK)
        for look, late_s in enumerate([20.0, 15.0, 10.0, 10.0])
    ]
    assert counts == [10, 0, 0, 10]


@pytest.mark.parametrize(
    ("can_come_back", "count", "leaving"),
    [
        ("abcd", 2, "cd"),
        ("abcd", 0, ""),
        ("abc", 1, "c"),
        ("ac", 3, "acd"),
        ("", 1, "d"),
    ],
)
def test_the_newest_go_and_whoever_would_lose_words_goes_last(
    can_come_back: str, count: int, leaving: str
) -> None:
    assert who_goes([*"abcd"], {*can_come_back}, count) == {*leaving}


def test_who_is_refused_for_some_reasons_is_not_for_others() -> None:
    gate = LoadGate()
    gate.note(replace(IDLE, engine_share=0.9))
    assert gate.refusal([OverloadReason.BACKLOG, OverloadReason.MEMORY]) is None
    refusal = gate.refusal([OverloadReason.ENGINES])
    assert refusal is not None
    gate.note(replace(IDLE, engine_share=0.9, memory_share=0.9))
    refusal = gate.refusal([OverloadReason.MEMORY])
    assert refusal is not None
    assert "time for another" not in refusal.message
