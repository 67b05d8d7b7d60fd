"""Patience with a stage: when it is over, and what gives it back."""

from hypothesis import given
from hypothesis import strategies as st

from streaming.stalling import StallClock

PATIENCE_NS = 100


def waiting(since_ns: int = 0) -> StallClock:
    clock = StallClock(PATIENCE_NS)
    clock.note_waiting(since_ns)
    return clock


def test_who_is_asked_nothing_owes_nothing() -> None:
    clock = StallClock(PATIENCE_NS)
    assert clock.due_ns is None
    assert not clock.look(10**9)


def test_patience_is_over_once() -> None:
    clock = waiting(since_ns=5)
    clock.note_waiting(60)
    assert clock.due_ns == 105
    assert not clock.look(104)
    assert clock.look(105)
    assert clock.is_stalled
    assert clock.due_ns is None
    assert not clock.look(10**9), "it is known"


def test_an_answer_gives_patience_back() -> None:
    clock = waiting()
    assert not clock.note_answer(90), "nothing was wrong"
    assert clock.due_ns == 190


def test_an_answer_to_nobody_starts_no_clock() -> None:
    clock = StallClock(PATIENCE_NS)
    clock.note_answer(50)
    assert clock.due_ns is None


def test_an_answer_ends_a_stall() -> None:
    clock = waiting()
    clock.look(100)
    assert clock.note_answer(500)
    assert not clock.is_stalled
    assert clock.due_ns == 600


def test_with_nobody_there_a_stall_is_forgotten() -> None:
    clock = waiting()
    clock.look(100)
    clock.note_idle()
    assert not clock.is_stalled
    clock.note_waiting(1_000)
    assert clock.due_ns == 1_100, "whoever comes next waits for it again"


@given(st.lists(st.tuples(st.sampled_from(["wait", "answer", "idle", "look"]), st.integers(1, 60))))
def test_it_stalls_where_something_waited_for_so_long_and_nothing_came(
    steps: list[tuple[str, int]],
) -> None:
    clock, now_ns, since_ns = StallClock(PATIENCE_NS), 0, None
    for step, passed_ns in steps:
        now_ns += passed_ns
        if step == "wait":
            clock.note_waiting(now_ns)
            since_ns = now_ns if since_ns is None else since_ns
        elif step == "answer":
            clock.note_answer(now_ns)
            since_ns = None if since_ns is None else now_ns
        elif step == "idle":
            clock.note_idle()
            since_ns = None
        elif clock.look(now_ns):
            assert since_ns is not None
            assert now_ns - since_ns >= PATIENCE_NS
        else:
            assert clock.is_stalled or since_ns is None or now_ns - since_ns < PATIENCE_NS
