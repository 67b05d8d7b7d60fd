"""Who is asked again: finals one by one, elsewhere; what is too large, in halves."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streaming.batching import Batch
from streaming.engines import SpeechWindow
from streaming.jobs import Job, JobKind
from streaming.retrying import (
    HOLD_NS,
    HOLD_NS_MAX,
    PAUSE_NS,
    TRIES_MAX,
    Attempt,
    BatchSize,
    Loss,
    Retries,
)

HERE, ELSEWHERE = 0, 1


def job(number: int, *, session: str = "a", is_final: bool = True, questions: int = 1) -> Job:
    window = SpeechWindow(np.zeros(1, np.int16), is_final=is_final)
    return Job(session, number, 0, JobKind.RECOGNIZE, (window,) * questions, 1, is_final, number)


def batch(jobs: Sequence[Job], context_samples: int | None = 7) -> Batch:
    return Batch(JobKind.RECOGNIZE, tuple(jobs), 5, context_samples, live_share=0.5)


def numbers(attempt: Attempt | None) -> list[int]:
    assert attempt is not None
    return [one.number for one in attempt.batch.jobs]


def again(
    retries: Retries, worker: int = ELSEWHERE, *, now_ns: int = PAUSE_NS, is_only: bool = False
) -> Attempt | None:
    return retries.take_again(worker, now_ns, is_only_worker=is_only)


def cut(retries: Retries, *jobs: Job, now_ns: int = 1) -> Attempt | None:
    """Nothing of it is refused."""
    attempt, refused = retries.cut(batch(jobs), now_ns)
    assert refused == []
    return attempt


def everything(retries: Retries, worker: int = ELSEWHERE) -> list[Attempt]:
    """All that waits, in the order in which that worker would take it."""
    taken = []
    while attempt := retries.take_part() or again(retries, worker):
        taken.append(attempt)
    return taken


@pytest.mark.parametrize("loss", [Loss.RAISED, Loss.CRASHED, Loss.KILLED])
def test_finals_come_again_alone_and_partials_do_not(loss: Loss) -> None:
    retries = Retries()
    failed = Attempt(batch([job(1), job(2, is_final=False), job(3)]))
    assert [one.number for one in retries.note_failure(failed, HERE, loss, 0)] == [2]
    assert retries.depth_jobs == 2
    alone = everything(retries)
    assert [numbers(attempt) for attempt in alone] == [[1], [3]]
    assert {(a.batch.context_samples, a.batch.live_share) for a in alone} == {(7, 0.5)}
    assert retries.depth_jobs == 0


def test_the_second_failure_is_the_last() -> None:
    retries = Retries()
    retries.note_failure(Attempt(batch([job(1), job(2)])), HERE, Loss.RAISED, 0)
    first, second = everything(retries)
    retries.note_answer(first, 0)
    given_up = retries.note_failure(second, ELSEWHERE, Loss.MEMORY, 0)
    assert [one.number for one in given_up] == [2]
    assert retries.depth_jobs == 0


def test_a_job_is_not_tried_again_where_it_failed_unless_nobody_else_is_there() -> None:
    retries = Retries()
    retries.note_failure(Attempt(batch([job(1)])), HERE, Loss.CRASHED, 0)
    retries.note_failure(Attempt(batch([job(2)])), ELSEWHERE, Loss.CRASHED, 0)
    assert numbers(again(retries, HERE)) == [2]
    assert again(retries, HERE) is None
    assert numbers(again(retries, HERE, is_only=True)) == [1]


@pytest.mark.parametrize(
    ("loss", "is_at_once"),
    [(Loss.RAISED, True), (Loss.MEMORY, True), (Loss.CRASHED, False), (Loss.KILLED, False)],
)
def test_what_lost_its_process_waits_for_whatever_kills_others_too(
    loss: Loss, is_at_once: bool
) -> None:
    retries = Retries()
    retries.note_failure(Attempt(batch([job(1)])), HERE, loss, 0)
    assert (again(retries, now_ns=0) is not None) == is_at_once
    if not is_at_once:
        assert again(retries, now_ns=PAUSE_NS - 1) is None
        assert numbers(again(retries)) == [1]


def test_what_was_not_sent_is_next_and_was_no_try() -> None:
    retries = Retries()
    unsent = Attempt(batch([job(1), job(2)]))
    retries.put_back(unsent)
    assert retries.take_part() is unsent
    assert retries.take_part() is None


# Too large


def test_a_batch_without_memory_goes_in_halves_until_a_job_is_alone() -> None:
    retries = Retries()
    whole = cut(retries, *(job(n) for n in range(8)))
    assert whole is not None
    assert len(whole.batch.jobs) == 8
    waiting, alone = [whole], []
    while waiting:
        attempt = waiting.pop(0)
        if len(attempt.batch.jobs) == 1:
            alone += numbers(attempt)
            continue
        assert retries.note_failure(attempt, HERE, Loss.MEMORY, 0) == []
        waiting += everything(retries)
    assert sorted(alone) == list(range(8))
    assert retries.size.questions_max(0) == 1


def test_halves_keep_their_order_and_partials_are_let_go() -> None:
    retries = Retries()
    jobs = [job(0), job(1), job(2), job(3), job(8, is_final=False), job(9, is_final=False)]
    given_up = retries.note_failure(Attempt(batch(jobs)), HERE, Loss.MEMORY, 0)
    assert [one.number for one in given_up] == [8, 9]
    assert [numbers(attempt) for attempt in everything(retries)] == [[0, 1, 2], [3]]
    partials = [job(1, is_final=False), job(2, is_final=False)]
    assert len(retries.note_failure(Attempt(batch(partials)), HERE, Loss.MEMORY, 0)) == 2
    assert retries.depth_jobs == 0


def test_the_next_batches_are_cut_to_what_is_remembered() -> None:
    retries = Retries()
    retries.size.note_too_large(8, 0)
    assert numbers(cut(retries, *(job(n) for n in range(6)))) == [0, 1, 2, 3]
    assert numbers(retries.take_part()) == [4, 5]
    assert numbers(cut(retries, job(7, questions=30))) == [7], "alone, but it goes"
    assert numbers(cut(retries, job(1, questions=3), job(2, questions=3), job(3))) == [1]
    assert numbers(retries.take_part()) == [2, 3]


def test_a_size_that_failed_is_forgotten_step_by_step() -> None:
    size = BatchSize()
    assert size.questions_max(0) is None
    size.note_too_large(8, 0)
    size.note_too_large(4, 1)
    hold_ns = 2 * HOLD_NS
    assert size.questions_max(hold_ns) == 2
    assert size.questions_max(hold_ns + 1) == 4
    assert size.questions_max(2 * hold_ns + 1) is None


def test_a_size_that_fails_each_time_is_tried_less_and_less() -> None:
    size, now_ns, pauses = BatchSize(), 0, []
    for _ in range(10):
        size.note_too_large(8, now_ns)
        since_ns = now_ns
        while size.questions_max(now_ns) is not None:
            now_ns += HOLD_NS // 2
        pauses.append(now_ns - since_ns)
    assert pauses == sorted(pauses)
    assert pauses[-1] == HOLD_NS_MAX
    size.note_too_large(8, now_ns + 3 * HOLD_NS_MAX)
    assert size.questions_max(now_ns + 3 * HOLD_NS_MAX + HOLD_NS) is None, "that was long ago"


def lost(retries: Retries, loss: Loss) -> list[Attempt]:
    jobs = [job(n) for n in range(4)]
    retries.note_failure(Attempt(batch(jobs)), HERE, loss, 0)
    return everything(retries)


def test_a_batch_that_was_killed_was_too_large_where_each_final_succeeds_alone() -> None:
    retries = Retries()
    for attempt in lost(retries, Loss.KILLED):
        assert retries.size.questions_max(0) is None
        retries.note_answer(attempt, 0)
    assert retries.size.questions_max(0) == 2


@pytest.mark.parametrize("loss", [Loss.RAISED, Loss.CRASHED])
def test_a_batch_that_failed_otherwise_says_nothing_of_its_size(loss: Loss) -> None:
    retries = Retries()
    for attempt in lost(retries, loss):
        retries.note_answer(attempt, 0)
    assert retries.size.questions_max(0) is None


def test_a_poisonous_window_does_not_make_the_next_batches_small() -> None:
    retries = Retries()
    poison, *rest = lost(retries, Loss.KILLED)
    retries.note_failure(poison, ELSEWHERE, Loss.KILLED, 0)
    for attempt in rest:
        retries.note_answer(attempt, 0)
    assert retries.size.questions_max(0) is None


# Suspects


def test_who_stood_in_a_lost_call_goes_alone_until_it_is_answered() -> None:
    retries = Retries()
    jobs = [job(1), job(2, session="b")]
    retries.note_failure(Attempt(batch(jobs)), HERE, Loss.KILLED, 0)
    first, second = everything(retries)
    retries.note_answer(first, 0)
    retries.note_failure(second, ELSEWHERE, Loss.KILLED, 0)
    three = [job(3), job(4, session="b"), job(5, session="c")]
    attempt, refused = retries.cut(batch([*three, job(6, session="b", is_final=False)]), 1)
    assert numbers(attempt) == [3, 5]
    assert [one.number for one in refused] == [6], "a partial is not worth a process"
    assert [numbers(alone) for alone in everything(retries)] == [[4]]
    assert retries.cut(batch([job(7, session="b")]), 1) == (None, [])


def test_the_window_after_one_that_was_lost_for_good_has_one_try() -> None:
    retries = Retries()
    retries.note_failure(Attempt(batch([job(1)]), tries=1), HERE, Loss.KILLED, 0)
    given_up = retries.note_failure(Attempt(batch([job(2)])), HERE, Loss.CRASHED, 0)
    assert [one.number for one in given_up] == [2]
    assert retries.cut(batch([job(3)]), 1)[1] == [job(3)], "and then it is held"


# Gone


def test_a_session_that_is_gone_is_not_asked_about() -> None:
    retries = Retries()
    retries.size.note_too_large(4, 0)
    jobs = [job(n, session="b" if n == 3 else "a") for n in range(4)]
    cut(retries, *jobs, now_ns=0)
    retries.note_failure(
        Attempt(batch([job(4), job(5, session="b"), job(6, session="b")])), HERE, Loss.KILLED, 0
    )
    retries.forget("a")
    assert [numbers(attempt) for attempt in everything(retries)] == [[3], [5], [6]]


def test_who_leaves_takes_the_proof_of_the_size_along() -> None:
    retries = Retries()
    retries.note_failure(Attempt(batch([job(1), job(2, session="b")])), HERE, Loss.KILLED, 0)
    retries.forget("b")
    [attempt] = everything(retries)
    retries.note_answer(attempt, 0)
    assert retries.size.questions_max(0) is None


def test_all_is_given_up_at_once() -> None:
    retries = Retries()
    retries.put_back(Attempt(batch([job(1)])))
    retries.note_failure(Attempt(batch([job(2)])), HERE, Loss.CRASHED, 0)
    assert [one.number for one in retries.give_up()] == [1, 2]
    assert everything(retries) == []


@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=5),
    losses=st.lists(st.sampled_from([None, *Loss]), max_size=60),
)
def test_every_final_is_answered_or_given_up_once_within_its_tries(
    sizes: list[int], losses: list[Loss | None]
) -> None:
    retries, lots, number = Retries(), iter(losses), 0
    over: Counter[int] = Counter()
    blamed: Counter[int] = Counter()
    for size in sizes:
        jobs = [job(number + i, session=f"{i % 3}") for i in range(size)]
        number += size
        attempt, refused = retries.cut(batch(jobs), 0)
        over.update(one.number for one in refused)
        attempt = attempt or again(retries, HERE, is_only=True)
        while attempt is not None:
            loss = next(lots, None)
            if loss is None:
                retries.note_answer(attempt, 0)
                over.update(numbers(attempt))
            else:
                if loss is not Loss.MEMORY or len(attempt.batch.jobs) == 1:
                    blamed.update(numbers(attempt))
                given_up = retries.note_failure(attempt, HERE, loss, 0)
                over.update(one.number for one in given_up)
            attempt = retries.take_part() or again(retries, HERE, is_only=True)
    assert over == Counter(range(number))
    assert max(blamed.values(), default=0) <= TRIES_MAX
