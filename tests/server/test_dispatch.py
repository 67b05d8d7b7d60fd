"""Jobs come back exactly once, whatever the engine does."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest

from server.dispatch import (
    TRIES_MAX,
    Deliver,
    Dispatcher,
    Outcome,
    StageDispatcher,
    stage_limits,
)
from server.engines.registry import EngineSpec
from server.telemetry import Metrics
from server.workers import CallFailed, CallTimeout, WorkerDied, WorkerUnready
from streaming.batching import BatchLimits
from streaming.engines import Hypothesis, RecognizerProfile, SpeechWindow
from streaming.events import SessionStage
from streaming.jobs import Job, JobKind
from streaming.pacing import PartialPacer
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

    def __init__(self, limits: BatchLimits, deliver: Deliver | None = None) -> None:
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
        )

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


@asynccontextmanager
async def running(
    limits: BatchLimits | None = None, deliver: Deliver | None = None
) -> AsyncIterator[Desk]:
    desk = Desk(limits or BatchLimits(8), deliver)
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
        lost = desk.dispatcher.submit([job(2)])
        assert [job.number for job in lost] == [1]
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
        (lost,) = [outcome.job for outcome in desk.outcomes if outcome.answers is None]
        assert lost.session_id == "a"


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


async def test_partials_are_paced_by_what_calls_take() -> None:
    async with running(BatchLimits(1)) as desk:
        began_ns = time.monotonic_ns() - 10_000_000_000
        stage = desk.dispatcher._stages[STAGE]
        stage.pace_partials(PartialPacer(1, began_ns), desk.thinnings.append)
        desk.worker.engine_ns = 60_000_000_000
        desk.dispatcher.submit([job(1)])
        await desk.back(1)
        (thinning,) = desk.thinnings
        assert thinning > 1


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
