"""Carries jobs to the workers and answers back: one queue per stage, one pump per worker.

The order of jobs is ``streaming.batching``'s decision, and how far apart partials are is that of
``streaming.pacing``; this module only waits and measures. A batch that fails is tried once more,
final by final, so that one poisonous window costs only itself.

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
from streaming.engines import RecognizerProfile
from streaming.events import SessionStage
from streaming.jobs import Answer, Job
from streaming.pacing import PartialPacer
from streaming.timeline import SAMPLE_RATE_HZ

TRIES_MAX = 2
CALL_SECONDS_BASE = 15.0
"""An engine that says nothing for this long hangs; a setting may say otherwise."""
CALL_SECONDS_PER_AUDIO_SECOND = 3.0
"""On top: on a starved machine late captions are better than a killed engine and a gap."""

ACTIVITY_WINDOWS_MAX = 256
"""Voice activity is cheap per window and dear per call."""
ACTIVITY_CALLS_APART_NS = 20_000_000
"""At most 50 calls a second, each with the packets of many sessions; a live packet of 100 ms
waits for 10 ms on average, and not at all where few are live."""
DIARIZER_ITEMS_MIN = 64
REPLACED_POLL_SECONDS = 0.25
"""How soon a replaced engine takes part again, beside others that work."""
SHORT_WINDOWS = 4
"""So many windows as short as partials stand for one that is full, in a call's number of rows."""

_log = structlog.get_logger(__name__)


def stage_limits(
    windows_max: int, profile: RecognizerProfile | None
) -> dict[SessionStage, BatchLimits]:
    """How large the calls of each stage may get, for ``windows_max`` full windows."""
    words = BatchLimits(windows_max)
    if profile is not None:
        budget = windows_max * profile.final_context_samples
        words = BatchLimits(windows_max * SHORT_WINDOWS, budget, profile=profile)
    return {
        SessionStage.ACTIVITY: BatchLimits(
            ACTIVITY_WINDOWS_MAX, calls_apart_ns=ACTIVITY_CALLS_APART_NS
        ),
        SessionStage.RECOGNITION: words,
        SessionStage.DIARIZATION: BatchLimits(max(windows_max, DIARIZER_ITEMS_MIN)),
    }


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one job."""

    job: Job
    answers: Sequence[Answer] | None
    """None where every try failed, or the job lost its place in the queue."""
    engine_ns: int = 0
    """Its share of the engine's time, by audio."""


Deliver = Callable[[list[Outcome]], None]
Pace = Callable[[float], None]
"""Takes the hops that shall lie between two partials of every session."""


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
        self._on_call: Callable[[Batch, int], None] = lambda batch, engine_ns: None
        metrics.queue_depth.labels(stage.value).set_function(lambda: self._scheduler.depth_jobs)
        self._queue_wait_seconds = metrics.queue_wait_seconds.labels(stage.value)

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
        self._has_work.set()
        if others := [Outcome(o, None) for o in lost if o.session_id != job.session_id]:
            asyncio.get_running_loop().call_soon(self._deliver, others)
        return [own for own in lost if own.session_id == job.session_id]

    def forget(self, session_id: str) -> None:
        """The session is gone: nobody waits for its jobs."""
        self._scheduler.forget(session_id)

    def pace_partials(self, pacer: PartialPacer, pace: Pace) -> None:
        """Thin the partials out by how long calls take and partials wait."""

        def measure(batch: Batch, engine_ns: int) -> None:
            now_ns = time.monotonic_ns()
            wait_ns = self._scheduler.partial_wait_ns(now_ns)
            if pacer.note_call(engine_ns, batch.live_share, wait_ns, now_ns):
                pace(pacer.thinning)

        self._on_call = measure

    async def _pump(self, worker: EngineWorker) -> None:
        # No batch is named here: it would keep its windows in memory until the next one comes.
        while True:
            await self._serve_guarded(worker, await self._next_batch(worker))

    async def _serve_guarded(self, worker: EngineWorker, batch: Batch) -> None:
        self._queue_wait_seconds.observe(batch.waited_ns / 1e9)
        try:
            await self._serve(worker, batch)
        except Exception as error:  # noqa: BLE001  task boundary: the stage must go on
            _log.error("batch lost to a bug", stage=self._stage.value, exc_info=error)
            self._deliver([Outcome(job, None) for job in batch.jobs])

    async def _next_batch(self, worker: EngineWorker) -> Batch:
        while True:
            if worker.ready is None and any(other.ready for other in self._workers):
                # It is being replaced: what it took now would wait for that, and might be given up.
                await asyncio.sleep(REPLACED_POLL_SECONDS)
                continue
            now_ns = time.monotonic_ns()
            batch = self._scheduler.schedule(now_ns)
            if batch is not None:
                return batch
            if self._scheduler.depth_jobs:
                await asyncio.sleep((self._scheduler.ready_ns - now_ns) / 1e9)
            else:
                self._has_work.clear()
                await self._has_work.wait()

    async def _serve(self, worker: EngineWorker, batch: Batch) -> None:
        outcomes = await self._try(worker, batch)
        if outcomes is not None:
            self._deliver(outcomes)
            return
        # A partial is not worth a second try: the next one is due in a moment.
        self._deliver([Outcome(job, None) for job in batch.jobs if not job.is_final])
        for job in (job for job in batch.jobs if job.is_final):
            one = Batch(batch.kind, (job,), 0, batch.context_samples, batch.live_share)
            alone = await self._try(worker, one)
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
            context_samples=batch.context_samples,
        )
        self._on_call(batch, engine_ns)
        return list(_shared_out(batch, answers, engine_ns))


def _shared_out(batch: Batch, answers: list[Answer], engine_ns: int) -> Iterable[Outcome]:
    """Each job's answers, and the engine's time by audio (evenly where there is none)."""
    start, whole = 0, batch.audio_samples
    for job in batch.jobs:
        share = job.audio_samples / whole if whole else 1 / len(batch.jobs)
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
        pace: Pace | None = None,
        call_timeout_s: float = CALL_SECONDS_BASE,
    ) -> None:
        self._stages = {
            stage: StageDispatcher(
                stage, workers[stage], limits[stage], metrics, deliver, call_timeout_s
            )
            for stage in workers
        }
        if pace is not None:
            pacer = PartialPacer(len(workers[SessionStage.RECOGNITION]), time.monotonic_ns())
            self._stages[SessionStage.RECOGNITION].pace_partials(pacer, pace)

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
