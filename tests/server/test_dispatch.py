"""Jobs come back exactly once, whatever the engine does."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from server.dispatch import (
    Deliver,
    Dispatcher,
    Outcome,
    StageDispatcher,
    call_seconds_max,
    stage_limits,
    stall_seconds,
)
from server.engines.registry import EngineSpec
from server.telemetry import Metrics
from server.workers import CallFailed, CallTimeout, WorkerDied, WorkerUnready
from streaming.batching import Batch, BatchLimits
from streaming.engines import Hypothesis, RecognizerProfile, SpeechWindow
from streaming.events import GapReason, SessionStage
from streaming.jobs import Job, JobKind
from streaming.pacing import PartialPacer
from streaming.retrying import TRIES_MAX
from streaming.scripted_audio import encode_word, word_text
from tests.server_fakes import FakeWorker, until

STAGE = SessionStage.RECOGNITION
FAULTS = [CallFailed("boom", is_memory=False), WorkerDied("crash"), CallTimeout("hang")]


def job(number: int, session_id: str = "a", *, is_final: bool = True, lane: int = 0) -> Job:
    samples = encode_word(1, number)
    return Job(
        session_id=session_id,
        number=number,
        lane=lane,
        kind=JobKind.RECOGNIZE,
        questions=(SpeechWindow(samples, is_final=is_final),),
        audio_samples=len(samples),
        is_final=is_final,
        deadline_ns=number,
    )


def text(outcome: Outcome) -> str | None:
    """The recognized word; None where the job failed."""
    if outcome.answers is None:
        return None
    (answer,) = outcome.answers
    assert isinstance(answer, Hypothesis)
    return " ".join(word.text for word in answer.words)


class Desk:
    """A dispatcher, its one worker, and what came back."""

    def __init__(
        self, limits: BatchLimits, deliver: Deliver | None = None, call_timeout_s: float = 15.0
    ) -> None:
        self.worker = FakeWorker(EngineSpec(STAGE, "scripted"))
        self.outcomes: list[Outcome] = []
        self.thinnings: list[float] = []
        self.metrics = Metrics("test")
        self.dispatcher = Dispatcher(
            {STAGE: [self.worker]},  # type: ignore[list-item]
            {STAGE: limits},
            self.metrics,
            deliver or self.outcomes.extend,
            pace=self.thinnings.append,
            call_timeout_s=call_timeout_s,
        )

    @property
    def is_stalled(self) -> bool:
        return self.dispatcher.stalled == [STAGE]

    @property
    def numbers(self) -> list[int]:
        return [outcome.job.number for outcome in self.outcomes]

    async def back(self, count: int) -> dict[int, str | None]:
        """Waits for so many jobs; number → word."""
        await until(lambda: len(self.outcomes) >= count)
        await asyncio.sleep(0.005)  # for one too many
        assert sorted(self.numbers) == sorted(set(self.numbers)), "a job came back twice"
        assert len(self.outcomes) == count
        return {outcome.job.number: text(outcome) for outcome in self.outcomes}


def refused(desk: Desk, asked: Job) -> dict[int, GapReason]:
    """Number → why, of the jobs that get no answer for this one."""
    return {outcome.job.number: outcome.reason for outcome in desk.dispatcher.submit([asked])}


@asynccontextmanager
async def running(
    limits: BatchLimits | None = None,
    deliver: Deliver | None = None,
    call_timeout_s: float = 15.0,
) -> AsyncIterator[Desk]:
    desk = Desk(limits or BatchLimits(8), deliver, call_timeout_s)
    await desk.worker.start()
    desk.dispatcher.start()
    try:
        yield desk
    finally:
        await desk.dispatcher.close()


def words(numbers: Sequence[int]) -> dict[int, str | None]:
    return {number: word_text(1, number) for number in numbers}


async def test_each_job_gets_its_own_answer() -> None:
    async with running() as desk:
        assert desk.dispatcher.submit([job(1), job(2), job(3, "b")]) == []
        assert await desk.back(3) == words([1, 2, 3])
        assert len(desk.worker.calls) == 1, "they fit into one batch"
        assert sum(outcome.engine_ns for outcome in desk.outcomes) == pytest.approx(1e6, abs=3)


async def test_an_engine_that_is_being_replaced_leaves_the_jobs_to_the_others() -> None:
    lost, well = (FakeWorker(EngineSpec(STAGE, "scripted")) for _ in range(2))
    await well.start()
    lost.faults.extend(WorkerUnready("still restarting") for _ in range(20))
    outcomes: list[Outcome] = []
    stage = StageDispatcher(
        STAGE,
        [lost, well],  # type: ignore[list-item]
        BatchLimits(1),
        Metrics("test"),
        outcomes.extend,
        15.0,
    )
    stage.start()
    for number in range(4):
        stage.submit(job(number, lane=number))
    await until(lambda: len(outcomes) == 4)
    await stage.close()
    assert {outcome.job.number: text(outcome) for outcome in outcomes} == words(range(4))
    assert lost.calls == []


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: type(fault).__name__)
async def test_finals_are_tried_again_alone_and_partials_are_not(fault: Exception) -> None:
    async with running() as desk:
        desk.worker.faults.append(fault)
        desk.dispatcher.submit([job(1), job(2, lane=1), job(3, lane=2, is_final=False)])
        assert await desk.back(3) == {**words([1, 2]), 3: None}
        assert [len(items) for _, items in desk.worker.calls] == [3, 1, 1]


async def test_a_poisonous_window_costs_only_itself() -> None:
    async with running() as desk:
        poison = job(2)
        desk.worker.is_poison = lambda item: item is poison.questions[0]
        desk.dispatcher.submit([job(1), poison, job(3)])
        assert await desk.back(3) == {**words([1, 3]), 2: None}
        seen = [any(map(desk.worker.is_poison, items)) for _, items in desk.worker.calls]
        assert seen.count(True) == TRIES_MAX


async def test_who_makes_calls_hang_stands_beside_nobody_from_then_on() -> None:
    async with running() as desk:
        poison = {number: job(number, "poison") for number in (1, 3, 5)}
        questions = [one.questions[0] for one in poison.values()]
        desk.worker.hangs = lambda item: any(item is question for question in questions)
        desk.dispatcher.submit([poison[1], job(2)])
        assert await desk.back(2) == {1: None, **words([2])}
        desk.dispatcher.submit([poison[3], job(4), job(6, "b")])
        assert await desk.back(5) == {1: None, 3: None, **words([2, 4, 6])}
        desk.dispatcher.submit([poison[5], job(7, "poison", is_final=False), job(8)])
        assert await desk.back(8) == {**dict.fromkeys([1, 3, 5, 7]), **words([2, 4, 6, 8])}
        hung = [items for _, items in desk.worker.calls if any(map(desk.worker.hangs, items))]
        assert [len(items) for items in hung] == [2, 1, 1], "and then it is held"


async def test_a_batch_without_memory_comes_back_in_halves_and_the_next_one_is_smaller() -> None:
    async with running() as desk:
        desk.worker.faults.append(CallFailed("too much", is_memory=True))
        desk.dispatcher.submit([job(n) for n in range(8)])
        assert await desk.back(8) == words(range(8))
        desk.dispatcher.submit([job(n) for n in range(8, 16)])
        assert await desk.back(16) == words(range(16))
        assert [len(items) for _, items in desk.worker.calls] == [8, 4, 4, 4, 4]


async def test_a_final_that_failed_is_asked_again_on_another_worker() -> None:
    workers = [FakeWorker(EngineSpec(STAGE, "scripted")) for _ in range(2)]
    for worker in workers:
        await worker.start()
        worker.open.clear()
    outcomes: list[Outcome] = []
    fakes: list[Any] = workers
    stage = StageDispatcher(STAGE, fakes, BatchLimits(1), Metrics("test"), outcomes.extend, 15.0)
    stage.start()
    stage.submit(job(1))
    await until(lambda: any(worker.calls for worker in workers))
    failing, other = sorted(workers, key=lambda worker: -len(worker.calls))
    failing.faults.extend(WorkerDied("crash") for _ in range(9))
    failing.open.set()
    other.open.set()
    await until(lambda: len(outcomes) == 1)
    await stage.close()
    assert text(outcomes[0]) == word_text(1, 1)
    assert (len(failing.calls), len(other.calls)) == (1, 1)


async def test_what_waits_for_a_replacement_waits_in_the_queue() -> None:
    async with running() as desk:
        await desk.worker.close()
        desk.dispatcher.submit([job(1, is_final=False)])
        await asyncio.sleep(0)
        assert refused(desk, job(2, is_final=False)) == {1: GapReason.OVERLOAD}
        await desk.worker.start()
        assert await desk.back(1) == words([2])


async def test_a_batch_that_met_no_process_was_not_tried() -> None:
    async with running() as desk:
        desk.worker.faults.extend(WorkerUnready("restarting") for _ in range(TRIES_MAX + 1))
        desk.dispatcher.submit([job(1), job(2)])
        assert await desk.back(2) == words([1, 2])
        assert {len(items) for _, items in desk.worker.calls} == {2}


# A stage that answers nobody. Patience is nine times the timeout here.
SOON_S = 0.01


async def test_nobody_waits_longer_than_patience_allows() -> None:
    async with running(BatchLimits(1), call_timeout_s=SOON_S) as desk:
        desk.worker.open.clear()
        desk.dispatcher.submit([job(1), job(2, "b"), job(3, "c", is_final=False)])
        assert await desk.back(3) == dict.fromkeys([1, 2, 3])
        assert desk.is_stalled
        assert [len(items) for _, items in desk.worker.calls] == [1], "two were never asked"


async def test_a_late_answer_ends_a_stall_and_is_nobodys() -> None:
    async with running(BatchLimits(1), call_timeout_s=SOON_S) as desk:
        desk.worker.open.clear()
        desk.dispatcher.submit([job(1)])
        await until(lambda: desk.is_stalled)
        assert refused(desk, job(2)) == {2: GapReason.ENGINE_FAILED}, "at once"
        desk.worker.open.set()
        await until(lambda: not desk.is_stalled)
        assert desk.dispatcher.submit([job(3)]) == []
        assert await desk.back(2) == {1: None, **words([3])}


async def test_a_stalled_stage_is_asked_for_nobody_until_it_answers() -> None:
    async with running(BatchLimits(1), call_timeout_s=SOON_S) as desk:
        await desk.worker.close()
        desk.dispatcher.submit([job(1)])
        await until(lambda: desk.is_stalled)
        desk.worker.faults.extend(CallTimeout("hang") for _ in range(5))
        await desk.worker.start()
        await until(lambda: not desk.is_stalled)
        assert len(desk.worker.calls) == 6
        assert await desk.back(1) == {1: None}
        desk.dispatcher.submit([job(2)])
        assert await desk.back(2) == {1: None, **words([2])}


async def test_a_poisonous_window_does_not_keep_a_stage_stalled() -> None:
    async with running(BatchLimits(1), call_timeout_s=SOON_S) as desk:
        await desk.worker.close()
        poison = job(1)
        desk.worker.hangs = lambda item: item is poison.questions[0]
        desk.dispatcher.submit([poison])
        await until(lambda: desk.is_stalled)
        await desk.worker.start()
        await until(lambda: len(desk.worker.calls) > 2)
        assert desk.is_stalled
        desk.dispatcher.submit([job(2)])
        await until(lambda: not desk.is_stalled)


async def test_with_everybody_gone_the_next_one_waits_for_a_stage_again() -> None:
    async with running(BatchLimits(1), call_timeout_s=SOON_S) as desk:
        await desk.worker.close()
        desk.dispatcher.submit([job(1)])
        await until(lambda: desk.is_stalled)
        desk.dispatcher.submit([job(2)])
        desk.dispatcher.forget("a")
        assert not desk.is_stalled
        assert desk.dispatcher.submit([job(3, "b")]) == []
        await desk.worker.start()
        assert await desk.back(2) == {1: None, **words([3])}


def test_a_call_has_so_long_as_its_audio_needs_and_no_longer() -> None:
    one = Batch(JobKind.RECOGNIZE, (job(1),), 0)
    many = Batch(JobKind.RECOGNIZE, tuple(job(n) for n in range(1_000)), 0)
    assert call_seconds_max(one, 15.0) == pytest.approx(15 + 3 * 0.32)
    assert call_seconds_max(many, 15.0) == 60.0
    assert stall_seconds(STAGE, 5.0, 15.0) == TRIES_MAX * (60 + 5) + 15


async def test_forgotten_jobs_do_not_come_back() -> None:
    async with running(BatchLimits(1)) as desk:
        desk.worker.open.clear()
        desk.dispatcher.submit([job(1, "a")])
        await until(lambda: len(desk.worker.calls) == 1)
        desk.dispatcher.submit([job(2, "b"), job(3, "c")])
        desk.dispatcher.forget("b")
        desk.worker.open.set()
        assert await desk.back(2) == words([1, 3])
        assert desk.metrics.registry.get_sample_value(
            "captiond_queue_depth", {"stage": STAGE.value}
        ) == pytest.approx(0)


async def test_a_replaced_partial_is_named_to_its_session() -> None:
    async with running() as desk:
        desk.worker.open.clear()
        desk.dispatcher.submit([job(9, "other")])
        await until(lambda: len(desk.worker.calls) == 1)
        desk.dispatcher.submit([job(1, is_final=False)])
        assert refused(desk, job(2)) == {1: GapReason.OVERLOAD}
        desk.worker.open.set()
        assert await desk.back(2) == words([9, 2])


async def test_a_job_that_makes_room_for_another_session_comes_back_to_its_own() -> None:
    async with running(BatchLimits(1, queue_jobs_max=1)) as desk:
        desk.worker.open.clear()
        desk.dispatcher.submit([job(9, "busy")])
        await until(lambda: len(desk.worker.calls) == 1)
        desk.dispatcher.submit([job(1, "a", is_final=False)])
        assert desk.dispatcher.submit([job(2, "b")]) == [], "b lost nothing"
        desk.worker.open.set()
        assert await desk.back(3) == {**words([9, 2]), 1: None}
        (lost,) = [outcome for outcome in desk.outcomes if outcome.answers is None]
        assert (lost.job.session_id, lost.reason) == ("a", GapReason.OVERLOAD)


async def test_a_final_is_refused_for_overload_where_finals_alone_fill_the_queue() -> None:
    async with running(BatchLimits(1, queue_jobs_max=1)) as desk:
        desk.worker.open.clear()
        desk.dispatcher.submit([job(9, "busy")])
        await until(lambda: len(desk.worker.calls) == 1)
        assert refused(desk, job(1, "a")) == {}
        assert refused(desk, job(2, "b")) == {2: GapReason.OVERLOAD}
        desk.worker.open.set()
        assert await desk.back(2) == words([9, 1])


async def test_a_stage_outlives_a_bug_in_a_batch() -> None:
    async with running() as desk:
        desk.worker.faults.append(ValueError("a bug"))
        desk.dispatcher.submit([job(1)])
        assert await desk.back(1) == {1: None}
        desk.dispatcher.submit([job(2)])
        assert await desk.back(2) == {1: None, **words([2])}


async def test_calls_that_are_kept_apart_gather_jobs() -> None:
    async with running(BatchLimits(8, calls_apart_ns=30_000_000)) as desk:
        for number in range(6):
            desk.dispatcher.submit([job(number)])
            await asyncio.sleep(0)
        assert await desk.back(6) == words(range(6))
        assert len(desk.worker.calls) <= 3, "the first alone, the others together"


class _Notes(PartialPacer):
    """Keeps what it is told, and is alarmed by it."""

    def __init__(self) -> None:
        super().__init__(1, time.monotonic_ns())
        self.noted: list[tuple[int, float, bool]] = []

    def note_call(
        self, engine_ns: int, live_share: float, partial_wait_ns: int, now_ns: int
    ) -> bool:
        self.noted.append((engine_ns, live_share, partial_wait_ns > 0))
        self.thinning = 2.5
        return True


async def test_partials_are_paced_by_what_calls_take() -> None:
    async with running(BatchLimits(1)) as desk:
        pacer = _Notes()
        desk.dispatcher._stages[STAGE].pace_partials(pacer, desk.thinnings.append)
        live = replace(job(1), deadline_ns=0)
        waiting = replace(job(2, lane=1, is_final=False), deadline_ns=0)
        desk.dispatcher.submit([live, waiting])
        await until(lambda: bool(desk.thinnings))
        assert pacer.noted[0] == (desk.worker.engine_ns, 1.0, True)
        assert desk.thinnings[0] == 2.5


async def test_the_context_of_a_call_is_measured() -> None:
    profile = RecognizerProfile((10 * 16_000,), 30 * 16_000)
    async with running(stage_limits(2, profile)[STAGE]) as desk:
        desk.dispatcher.submit([job(1), job(2, lane=1, is_final=False)])
        await desk.back(2)
        assert len(desk.worker.calls) == 2, "one encoder context per call"
        seconds = desk.metrics.registry.get_sample_value("captiond_batch_context_seconds_sum")
        assert seconds == pytest.approx(40)


def test_a_call_holds_so_many_full_windows_or_four_times_as_many_short_ones() -> None:
    profile = RecognizerProfile((10 * 16_000,), 30 * 16_000)
    limits = stage_limits(2, profile)
    assert set(limits) == set(SessionStage)
    assert limits[STAGE].questions_max == 8
    assert limits[STAGE].audio_samples_max == 60 * 16_000
    plain = stage_limits(2, None)[STAGE]
    assert (plain.questions_max, plain.profile) == (2, None)
