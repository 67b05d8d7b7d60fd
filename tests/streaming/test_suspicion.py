"""Whose jobs stand alone, who is held and for how long, and what clears a session."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streaming.engines import SpeechWindow
from streaming.jobs import Job, JobKind
from streaming.suspicion import HOLD_NS, HOLD_NS_MAX, Suspicion, Verdict


def job(session: str = "a", *, is_final: bool = True) -> Job:
    window = SpeechWindow(np.zeros(1, np.int16), is_final=is_final)
    return Job(session, 1, 0, JobKind.RECOGNIZE, (window,), 1, is_final, 1)


def lose(suspicion: Suspicion, *jobs: Job, is_last_try: bool = False, now_ns: int = 0) -> None:
    suspicion.note_failure(jobs, now_ns, is_process_lost=True, is_last_try=is_last_try)


def test_an_honest_session_stands_with_others() -> None:
    assert Suspicion().verdict(job(), 0) is Verdict.TOGETHER


def test_all_who_stood_in_a_failed_call_stand_alone_until_they_are_answered() -> None:
    suspicion = Suspicion()
    lose(suspicion, job("a"), job("b"))
    verdicts = [suspicion.verdict(job(name, is_final=False), 0) for name in "abc"]
    assert verdicts == [Verdict.ALONE, Verdict.ALONE, Verdict.TOGETHER]
    suspicion.note_answer([job("a")])
    assert suspicion.verdict(job("a"), 0) is Verdict.TOGETHER
    assert suspicion.verdict(job("b"), 0) is Verdict.ALONE


def test_who_took_a_process_along_alone_gets_no_partials() -> None:
    suspicion = Suspicion()
    lose(suspicion, job())
    assert suspicion.verdict(job(is_final=False), 0) is Verdict.REFUSED
    assert suspicion.verdict(job(), 0) is Verdict.ALONE


def test_an_engine_that_raises_costs_little_and_is_asked_on() -> None:
    suspicion = Suspicion()
    for _ in range(9):
        suspicion.note_failure([job()], 0, is_process_lost=False, is_last_try=True)
    assert suspicion.verdict(job(), 0) is Verdict.ALONE
    assert suspicion.verdict(job(is_final=False), 0) is Verdict.ALONE
    assert not suspicion.has_one_try(job())


def test_one_window_that_is_lost_for_good_costs_only_itself() -> None:
    suspicion = Suspicion()
    lose(suspicion, job())
    assert not suspicion.has_one_try(job())
    lose(suspicion, job(), is_last_try=True)
    assert suspicion.has_one_try(job())
    assert suspicion.verdict(job(), 0) is Verdict.ALONE


def test_a_session_that_goes_on_taking_processes_is_held_twice_as_long_each_time() -> None:
    suspicion, now_ns, holds = Suspicion(), 0, []
    lose(suspicion, job(), is_last_try=True)
    for _ in range(12):
        lose(suspicion, job(), is_last_try=True, now_ns=now_ns)
        since_ns = now_ns
        while suspicion.verdict(job(), now_ns) is Verdict.REFUSED:
            now_ns += HOLD_NS
        holds.append(now_ns - since_ns)
    assert holds[:3] == [HOLD_NS, 2 * HOLD_NS, 4 * HOLD_NS]
    assert holds[-1] == HOLD_NS_MAX
    suspicion.note_answer([job()])
    assert suspicion.verdict(job(), 0) is Verdict.TOGETHER, "one answer is enough"


def test_a_partial_that_fails_costs_no_window() -> None:
    suspicion = Suspicion()
    lose(suspicion, job(is_final=False), is_last_try=True)
    assert not suspicion.has_one_try(job())


@pytest.mark.parametrize("name", ["a", "stranger"])
def test_who_is_gone_is_forgotten(name: str) -> None:
    suspicion = Suspicion()
    lose(suspicion, job("a"))
    suspicion.forget(name)
    suspicion.forget("a")
    assert suspicion.verdict(job("a"), 0) is Verdict.TOGETHER


@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans(), st.booleans()), max_size=30))
def test_who_never_failed_is_never_kept_apart(steps: list[tuple[str, bool, bool]]) -> None:
    suspicion = Suspicion()
    for now_ns, (name, is_lost, is_last) in enumerate(steps):
        if is_lost:
            lose(suspicion, job(name), is_last_try=is_last, now_ns=now_ns)
        else:
            suspicion.note_answer([job(name)])
            assert suspicion.verdict(job(name), now_ns) is Verdict.TOGETHER
        assert suspicion.verdict(job("honest"), now_ns) is Verdict.TOGETHER
