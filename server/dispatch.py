"""Carries jobs to the workers and answers back: one queue and one pump per stage.

The order of jobs is ``streaming.batching``'s decision; this module only waits. A batch that
fails is tried once more, final by final, so that one poisonous window costs only itself.

Invariants: D1 every submitted job comes back exactly once, answered or failed, unless its session
was forgotten; D2 a job is sent to an engine at most ``TRIES_MAX`` times.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import structlog

from server.telemetry import Metrics
from server.workers import CallFailed, CallTimeout, EngineWorker, WorkerDied
from streaming.batching import Batch, BatchLimits, Scheduler
from streaming.events import SessionStage
from streaming.jobs import Answer, Job
from streaming.timeline import SAMPLE_RATE_HZ

TRIES_MAX = 2
CALL_SECONDS_BASE = 15.0
"""An engine that says nothing for this long hangs; a setting may say otherwise."""
CALL_SECONDS_PER_AUDIO_SECOND = 3.0
"""On top: on a starved machine late captions are better than a killed engine and a gap."""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one job."""

    job: Job
    answers: Sequence[Answer] | None
    """None where every try failed, or the job lost its place in the queue."""
    engine_ns: int = 0
    """Its share of the engine's time, by audio."""


Deliver = Callable[[list[Outcome]], None]


def call_seconds_max(batch: Batch, base_s: float) -> float:
    """How long an engine may take for a batch before it counts as hanging."""
    return base_s + CALL_SECONDS_PER_AUDIO_SECOND * batch.audio_samples / SAMPLE_RATE_HZ


class StageDispatcher:
    """The queue of one stage and the workers that serve it."""

    def __init__(
        self,
        stage: SessionStage,
        workers: Sequence[EngineWorker],
        limits: BatchLimits,
        metrics: Metrics,
        deliver: Deliver,
        call_timeout_s: float,
    ) -> None:
        self._stage = stage
        self._call_timeout_s = call_timeout_s
        self._workers = workers
        self._scheduler = Scheduler(limits)
        self._metrics = metrics
        self._deliver = deliver
        self._has_work = asyncio.Event()
        self._pumps: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin to serve; the workers have been started."""
        for number, worker in enumerate(self._workers):
            name = f"{self._stage.value} pump {number}"
            self._pumps.append(asyncio.create_task(self._pump(worker), name=name))

    async def close(self) -> None:
        for pump in self._pumps:
            pump.cancel()
        await asyncio.gather(*self._pumps, return_exceptions=True)

    def submit(self, job: Job) -> list[Job]:
        """Queue a job; returns jobs of its session that lost their place: they get no answer.

        Other sessions' jobs that had to make room come back to them unanswered, a moment later.
        """
        lost = self._scheduler.add(job, time.monotonic_ns())
        self._note_depth()
        self._has_work.set()
        if others := [Outcome(o, None) for o in lost if o.session_id != job.session_id]:
            asyncio.get_running_loop().call_soon(self._deliver, others)
        return [own for own in lost if own.session_id == job.session_id]

    def forget(self, session_id: str) -> None:
        """The session is gone: nobody waits for its jobs."""
        self._scheduler.forget(session_id)
        self._note_depth()

    def _note_depth(self) -> None:
        self._metrics.queue_depth.labels(self._stage.value).set(self._scheduler.depth_jobs)

    async def _pump(self, worker: EngineWorker) -> None:
        while True:
            batch = self._scheduler.schedule(time.monotonic_ns())
            if batch is None:
                self._has_work.clear()
                await self._has_work.wait()
                continue
            self._note_depth()
            self._metrics.queue_wait_seconds.labels(self._stage.value).observe(
                batch.waited_ns / 1e9
            )
            try:
                await self._serve(worker, batch)
            except Exception as error:  # noqa: BLE001  task boundary: the stage must go on
                _log.error("batch lost to a bug", stage=self._stage.value, exc_info=error)
                self._deliver([Outcome(job, None) for job in batch.jobs])

    async def _serve(self, worker: EngineWorker, batch: Batch) -> None:
        outcomes = await self._try(worker, batch)
        if outcomes is not None:
            self._deliver(outcomes)
            return
        # A partial is not worth a second try: the next one is due in a moment.
        self._deliver([Outcome(job, None) for job in batch.jobs if not job.is_final])
        for job in (job for job in batch.jobs if job.is_final):
            alone = await self._try(worker, Batch(batch.kind, (job,), 0))
            self._deliver(alone or [Outcome(job, None)])

    async def _try(self, worker: EngineWorker, batch: Batch) -> list[Outcome] | None:
        questions = [question for job in batch.jobs for question in job.questions]
        timeout_s = call_seconds_max(batch, self._call_timeout_s)
        try:
            answers, engine_ns = await worker.call(batch.kind, questions, timeout_s=timeout_s)
        except (CallFailed, WorkerDied, CallTimeout) as error:
            _log.warning(
                "engine call failed",
                stage=self._stage.value,
                jobs=len(batch.jobs),
                reason=f"{type(error).__name__}: {error}",
            )
            return None
        self._metrics.record_call(
            self._stage.value,
            audio_seconds=batch.audio_samples / SAMPLE_RATE_HZ,
            duration_seconds=engine_ns / 1e9,
            windows=len(questions),
        )
        return list(_shared_out(batch, answers, engine_ns))


def _shared_out(batch: Batch, answers: list[Answer], engine_ns: int) -> Iterable[Outcome]:
    """Each job's answers, and the engine's time by audio (evenly where there is none)."""
    start = 0
    for job in batch.jobs:
        share = (
            job.audio_samples / batch.audio_samples if batch.audio_samples else 1 / len(batch.jobs)
        )
        end = start + len(job.questions)
        yield Outcome(job, answers[start:end], round(engine_ns * share))
        start = end


class Dispatcher:
    """All stages of a server."""

    def __init__(
        self,
        workers: dict[SessionStage, list[EngineWorker]],
        limits: dict[SessionStage, BatchLimits],
        metrics: Metrics,
        deliver: Deliver,
        *,
        call_timeout_s: float = CALL_SECONDS_BASE,
    ) -> None:
        self._stages = {
            stage: StageDispatcher(
                stage, workers[stage], limits[stage], metrics, deliver, call_timeout_s
            )
            for stage in workers
        }

    def start(self) -> None:
        for stage in self._stages.values():
            stage.start()

    async def close(self) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*(stage.close() for stage in self._stages.values()))

    def submit(self, jobs: Iterable[Job]) -> list[Job]:
        """Queue jobs; returns those that lost their place, which their sessions must be told."""
        return [lost for job in jobs for lost in self._stages[job.stage].submit(job)]

    def forget(self, session_id: str) -> None:
        for stage in self._stages.values():
            stage.forget(session_id)
