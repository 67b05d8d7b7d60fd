"""Scheduler: order, budgets, replaceable partials, overflow, fairness."""

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from streaming.batching import BatchLimits, Scheduler
from streaming.engines import SpeechWindow
from streaming.jobs import Job, JobKind

QUESTION = SpeechWindow(np.zeros(0, np.int16))
FINAL = Job("s", 1, 0, JobKind.RECOGNIZE, (QUESTION,), 100, is_final=True, deadline_ns=0)
PARTIAL = replace(FINAL, is_final=False)


def numbers(jobs: Iterable[Job]) -> list[int]:
    return [job.number for job in jobs]


def scheduler(*jobs: Job, **limits: int) -> Scheduler:
    queue = Scheduler(BatchLimits(**{"questions_max": 8, **limits}))
    for job in jobs:
        assert queue.add(job, 0) == []
    return queue


def drain(queue: Scheduler) -> list[list[int]]:
    batches = []
    while (batch := queue.schedule(0)) is not None:
        batches.append(numbers(batch.jobs))
    return batches


def test_nothing_waits_nothing_is_scheduled() -> None:
    assert scheduler().schedule(0) is None


def test_finals_come_before_partials_then_the_earliest_deadline() -> None:
    queue = scheduler(
        replace(PARTIAL, number=1, lane=2, deadline_ns=1),
        replace(FINAL, number=2, deadline_ns=9),
        replace(FINAL, number=3, deadline_ns=5),
        replace(PARTIAL, number=4, lane=1, deadline_ns=0),
    )
    batch = queue.schedule(7)
    assert batch is not None
    assert numbers(batch.jobs) == [3, 2, 4, 1]
    assert (batch.kind, batch.audio_samples, batch.waited_ns) == (JobKind.RECOGNIZE, 400, 7)
    assert queue.depth_jobs == 0


def test_of_equal_deadlines_the_one_that_waits_longer_goes_first() -> None:
    queue = scheduler(questions_max=1)
    queue.add(replace(FINAL, number=1), 5)
    queue.add(replace(FINAL, number=2), 3)
    assert drain(queue) == [[2], [1]]


def test_a_batch_holds_one_kind_only() -> None:
    queue = scheduler(
        replace(FINAL, number=1, deadline_ns=1),
        replace(FINAL, number=2, kind=JobKind.CLUSTER, deadline_ns=2),
        replace(FINAL, number=3, deadline_ns=3),
    )
    assert drain(queue) == [[1, 3], [2]]


def test_questions_and_audio_of_a_batch_are_budgeted() -> None:
    queue = scheduler(
        replace(FINAL, number=1, questions=(QUESTION,) * 2),
        replace(FINAL, number=2, questions=(QUESTION,) * 2, deadline_ns=1),
        replace(FINAL, number=3, deadline_ns=2),
        questions_max=3,
    )
    assert drain(queue) == [[1, 3], [2]]
    queue = scheduler(
        replace(FINAL, number=1, audio_samples=60),
        replace(FINAL, number=2, audio_samples=50, deadline_ns=1),
        replace(FINAL, number=3, audio_samples=40, deadline_ns=2),
        audio_samples_max=100,
    )
    assert drain(queue) == [[1, 3], [2]]


def test_a_job_above_the_budget_goes_alone() -> None:
    big = replace(FINAL, number=1, questions=(QUESTION,) * 99, audio_samples=10**9)
    assert drain(scheduler(big, replace(FINAL, number=2, deadline_ns=1))) == [[1], [2]]


def test_a_waiting_partial_yields_to_any_newer_recognition_of_its_lane() -> None:
    for newer in (replace(PARTIAL, number=2), replace(FINAL, number=2)):
        queue = scheduler(PARTIAL)
        assert numbers(queue.add(newer, 1)) == [1]
        assert drain(queue) == [[2]]


def test_a_waiting_partial_stays_beside_other_lanes_sessions_and_kinds() -> None:
    others = (
        replace(PARTIAL, number=2, lane=1),
        replace(PARTIAL, number=3, session_id="t"),
        replace(FINAL, number=4, kind=JobKind.DETECT),
    )
    assert scheduler(PARTIAL, *others).depth_jobs == 4


def test_a_waiting_final_yields_to_nothing() -> None:
    assert scheduler(FINAL, replace(PARTIAL, number=2), questions_max=9).depth_jobs == 2


def test_a_full_queue_refuses_partials() -> None:
    queue = scheduler(FINAL, queue_jobs_max=1)
    assert numbers(queue.add(replace(PARTIAL, number=2, lane=1), 0)) == [2]


def test_in_a_full_queue_a_final_takes_the_place_of_the_least_urgent_partial() -> None:
    queue = scheduler(
        replace(PARTIAL, number=1, lane=1, deadline_ns=1),
        replace(PARTIAL, number=2, lane=2, deadline_ns=2),
        queue_jobs_max=2,
    )
    assert numbers(queue.add(replace(FINAL, number=3), 0)) == [2]
    assert drain(queue) == [[3, 1]]


def test_a_queue_full_of_finals_refuses_a_final() -> None:
    queue = scheduler(FINAL, queue_jobs_max=1)
    assert numbers(queue.add(replace(FINAL, number=2), 0)) == [2]
    assert drain(queue) == [[1]]


def test_in_a_full_queue_a_partial_takes_the_place_of_its_own_older_one() -> None:
    queue = scheduler(PARTIAL, queue_jobs_max=1)
    assert numbers(queue.add(replace(PARTIAL, number=2), 0)) == [1]
    assert drain(queue) == [[2]]


def test_the_jobs_of_a_session_can_be_forgotten() -> None:
    queue = scheduler(FINAL, replace(FINAL, number=2), replace(FINAL, session_id="t"))
    assert queue.forget("s") == 2
    assert queue.forget("s") == 0
    assert queue.depth_jobs == 1


JOBS = st.builds(
    Job,
    session_id=st.sampled_from("stu"),
    number=st.just(0),
    lane=st.integers(0, 2),
    kind=st.sampled_from([JobKind.RECOGNIZE, JobKind.OBSERVE]),
    questions=st.integers(1, 5).map(lambda count: (QUESTION,) * count),
    audio_samples=st.integers(0, 200),
    is_final=st.booleans(),
    deadline_ns=st.integers(0, 50),
)


@given(jobs=st.lists(JOBS, max_size=40), takes=st.lists(st.booleans(), min_size=40, max_size=40))
def test_every_job_comes_back_once_and_the_bounds_hold(jobs: list[Job], takes: list[bool]) -> None:
    queue = Scheduler(BatchLimits(questions_max=6, audio_samples_max=300, queue_jobs_max=5))
    back: list[int] = []
    for number, (job, is_taken) in enumerate(zip(jobs, takes, strict=False)):
        back += numbers(queue.add(replace(job, number=number), number))
        assert queue.depth_jobs <= 5
        batch = queue.schedule(number) if is_taken else None
        if batch is not None:
            assert len(batch.jobs) == 1 or sum(len(j.questions) for j in batch.jobs) <= 6
            assert len(batch.jobs) == 1 or batch.audio_samples <= 300
            assert {job.kind for job in batch.jobs} == {batch.kind}
            back += numbers(batch.jobs)
    back += [number for batch in drain(queue) for number in batch]
    assert sorted(back) == list(range(len(jobs)))


def test_under_steady_load_no_session_waits_longer_than_the_others() -> None:
    """Eight sessions, each with a final per tick of 100; a call takes one of them and 12 ticks."""
    queue = Scheduler(BatchLimits(questions_max=1))
    waits: dict[str, int] = {}
    for tick in range(0, 8_000, 4):
        session = f"s{tick // 4 % 25}"
        if tick // 4 % 25 < 8:
            job = replace(FINAL, session_id=session, number=tick, deadline_ns=tick + 100)
            assert queue.add(job, tick) == []
        batch = queue.schedule(tick) if tick % 12 == 0 else None
        if batch is not None:
            session = batch.jobs[0].session_id
            waits[session] = max(waits.get(session, 0), batch.waited_ns)
    assert set(waits) == {f"s{i}" for i in range(8)}
    assert max(waits.values()) <= 8 * 12


def test_a_job_overtakes_all_that_were_asked_for_later_however_many() -> None:
    patient = replace(FINAL, number=1, session_id="patient", deadline_ns=50)
    queue = scheduler(patient, questions_max=1)
    served_at = None
    for tick in range(200):
        job = replace(FINAL, number=tick, session_id=f"hasty {tick}", deadline_ns=tick + 20)
        queue.add(job, tick)
        batch = queue.schedule(tick) if tick % 2 else None
        if batch is not None and any(j.session_id == "patient" for j in batch.jobs):
            served_at = tick
    assert served_at is not None
    assert served_at <= 2 * 50
