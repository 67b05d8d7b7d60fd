"""Scheduler: order, budgets, contexts, replaceable partials, overflow, uploads, fairness."""

import gc
import weakref
from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streaming.batching import GONE_MAX, BatchLimits, Scheduler
from streaming.engines import RecognizerProfile, SpeechWindow
from streaming.jobs import PATIENCE_NS, Job, JobKind
from streaming.timeline import SAMPLE_RATE_HZ

QUESTION = SpeechWindow(np.zeros(0, np.int16))
FINAL = Job("s", 1, 0, JobKind.RECOGNIZE, (QUESTION,), 100, is_final=True, deadline_ns=0)
PARTIAL = replace(FINAL, is_final=False)


def numbers(jobs: Iterable[Job]) -> list[int]:
    return [job.number for job in jobs]


def scheduler(
    *jobs: Job,
    questions_max: int = 8,
    audio_samples_max: int = 1_000_000,
    queue_jobs_max: int = 1_000,
) -> Scheduler:
    queue = Scheduler(BatchLimits(questions_max, audio_samples_max, queue_jobs_max))
    for job in jobs:
        assert queue.add(job, 0) == []
    return queue


def drain(queue: Scheduler, now_ns: int = 1_000) -> list[list[int]]:
    batches = []
    while (batch := queue.schedule(now_ns)) is not None:
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
    assert drain(queue) == [[1], [2, 3]], "what does not fit is not overtaken"
    queue = scheduler(
        replace(FINAL, number=1, audio_samples=60),
        replace(FINAL, number=2, audio_samples=50, deadline_ns=1),
        replace(FINAL, number=3, audio_samples=40, deadline_ns=2),
        audio_samples_max=100,
    )
    assert drain(queue) == [[1], [2, 3]]


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


PROFILE = RecognizerProfile(
    (10 * SAMPLE_RATE_HZ, 20 * SAMPLE_RATE_HZ), 30 * SAMPLE_RATE_HZ, SAMPLE_RATE_HZ
)


def window(seconds: float, *, widening: int = 0, is_final: bool = False) -> SpeechWindow:
    samples = np.zeros(round(seconds * SAMPLE_RATE_HZ), np.int16)
    return SpeechWindow(samples, context_widening=widening, is_final=is_final)


@pytest.mark.parametrize(
    ("question", "seconds"),
    [
        (window(1), 10),
        (window(9), 10),
        (window(10), 20),
        (window(25), 20),
        (window(1, widening=1), 20),
        (window(6, widening=1), 20),
        (window(1, widening=5), 20),
        (window(9.5), 20),
        (window(1, is_final=True), 30),
    ],
)
def test_what_the_encoder_hears_of_a_window(question: SpeechWindow, seconds: int) -> None:
    assert PROFILE.context_samples(question) == seconds * SAMPLE_RATE_HZ


def heard(number: int, question: SpeechWindow) -> Job:
    return replace(
        FINAL,
        number=number,
        lane=number,
        questions=(question,),
        audio_samples=len(question.samples),
        is_final=question.is_final,
        deadline_ns=number,
    )


def test_one_call_has_one_encoder_context_and_is_budgeted_by_it() -> None:
    queue = Scheduler(BatchLimits(99, audio_samples_max=30 * SAMPLE_RATE_HZ, profile=PROFILE))
    windows = [window(1), window(12), window(2), window(3), window(4), window(1, is_final=True)]
    for number, question in enumerate(windows):
        queue.add(heard(number, question), 0)
    queue.add(replace(FINAL, number=99, kind=JobKind.OBSERVE, deadline_ns=99), 0)
    contexts = []
    batches = []
    while (batch := queue.schedule(0)) is not None:
        batches.append(numbers(batch.jobs))
        contexts.append(batch.context_samples and batch.context_samples // SAMPLE_RATE_HZ)
    assert batches == [[5], [99], [0, 2, 3], [1], [4]]
    assert contexts == [30, None, 10, 20, 10]


SECOND = 1_000_000_000
PATIENCE = PATIENCE_NS[JobKind.RECOGNIZE]


def ahead(number: int, *, seconds: int, is_final: bool = True) -> Job:
    """A job of an upload that is so far ahead of real time, at time 0."""
    job = replace(FINAL, session_id=f"upload {number}", number=number, is_final=is_final)
    return replace(job, deadline_ns=seconds * SECOND + PATIENCE)


def test_what_is_ahead_of_real_time_goes_behind_those_who_are_live() -> None:
    queue = scheduler(
        ahead(1, seconds=5),
        ahead(2, seconds=3),
        ahead(3, seconds=2, is_final=False),
        replace(PARTIAL, number=4, deadline_ns=PATIENCE),
        replace(FINAL, number=5, lane=5, deadline_ns=PATIENCE),
        questions_max=1,
    )
    assert queue.partial_wait_ns(9) == 9
    assert drain(queue, 0) == [[5], [4], [2], [1], [3]]


def test_an_upload_becomes_live_when_its_time_comes() -> None:
    queue = scheduler(ahead(1, seconds=5), questions_max=1)
    late = replace(FINAL, number=2, deadline_ns=5 * SECOND + PATIENCE + 1)
    queue.add(late, 0)
    assert drain(queue, 5 * SECOND + 1) == [[1], [2]]


def test_uploads_fill_a_call_alone_and_a_quarter_of_it_beside_live_ones() -> None:
    uploads = [ahead(number, seconds=number + 5) for number in range(8)]
    live = replace(FINAL, number=99, deadline_ns=PATIENCE)
    assert drain(scheduler(*uploads), 0) == [[0, 1, 2, 3, 4, 5, 6, 7]]
    assert drain(scheduler(*uploads, live), 0) == [[99, 0, 1], [2, 3], [4, 5], [6, 7]]
    small = scheduler(*uploads, live, questions_max=2)
    assert drain(small, 0) == [[99], *([number] for number in range(8))]


def test_no_partial_that_is_ahead_counts_as_waiting() -> None:
    queue = scheduler(ahead(1, seconds=5, is_final=False))
    assert queue.partial_wait_ns(9) == 0
    assert scheduler().partial_wait_ns(9) == 0


def test_calls_can_be_kept_apart() -> None:
    queue = Scheduler(BatchLimits(8, calls_apart_ns=20))
    queue.add(replace(FINAL, number=1), 100)
    assert queue.schedule(100) is not None, "the first one need not wait"
    queue.add(replace(FINAL, number=2), 101)
    queue.add(replace(FINAL, number=3), 105)
    assert queue.schedule(119) is None
    assert queue.ready_ns == 120
    batch = queue.schedule(120)
    assert batch is not None
    assert numbers(batch.jobs) == [2, 3]


def test_dropped_jobs_do_not_pile_up_in_memory() -> None:
    job = replace(PARTIAL, questions=(SpeechWindow(np.zeros(9, np.int16)),))
    is_in_memory = weakref.ref(job.questions[0].samples)  # type: ignore[union-attr]
    queue = scheduler(job)
    for number in range(20 * GONE_MAX):
        queue.add(replace(PARTIAL, number=number), number)
        queue.add(replace(FINAL, session_id="gone", number=number, deadline_ns=9), number)
        queue.forget("gone")
    places = [len(heap._places) for heap in (*queue._heaps(), queue._latest_partials)]
    assert max(places) <= 2 + GONE_MAX
    del job
    gc.collect()
    assert is_in_memory() is None, "a window that was dropped is held"
    assert drain(queue, SECOND) == [[20 * GONE_MAX - 1]]


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
    waiting: dict[int, Job] = {}
    for number, (job, is_taken) in enumerate(zip(jobs, takes, strict=False)):
        waiting[number] = replace(job, number=number)
        lost = numbers(queue.add(waiting[number], number))
        back += lost
        assert all(number in lost or not waiting[number].is_final for number in lost)
        for gone in lost:
            del waiting[gone]
        assert queue.depth_jobs <= 5
        batch = queue.schedule(number) if is_taken else None
        if batch is not None:
            assert len(batch.jobs) == 1 or sum(len(j.questions) for j in batch.jobs) <= 6
            assert len(batch.jobs) == 1 or batch.audio_samples <= 300
            assert {job.kind for job in batch.jobs} == {batch.kind}
            back += numbers(batch.jobs)
            order = sorted(
                waiting.values(), key=lambda j: (not j.is_final, j.deadline_ns, j.number)
            )
            of_kind = [job for job in order if job.kind is order[0].kind]
            assert list(batch.jobs) == of_kind[: len(batch.jobs)], "none is overtaken"
            for job in batch.jobs:
                del waiting[job.number]
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
