"""Carries jobs to the workers and answers back: one queue per stage, one pump per worker.

The order of jobs is ``streaming.batching``'s decision, who is asked again ``streaming.retrying``'s,
when a stage counts as stalled ``streaming.stalling``'s, and how far apart partials are
``streaming.pacing``'s; this module only waits and measures.

Invariants: D1 every submitted job comes back exactly once, answered or failed, unless its session
was forgotten; D2 a call lasts at most ``CALL_TIMES_MAX`` times the timeout that is set; D3 a job
comes back at the latest when its stage has answered nobody for ``stall_seconds``, and while a
stage is stalled at once: one of the jobs that were given up is asked again, for nobody, until it
is answered.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import structlog

from server.telemetry import Metrics
from server.workers import CallFailed, CallTimeout, EngineWorker, WorkerDied, WorkerUnready
from streaming.batching import Batch, BatchLimits, Scheduler
from streaming.engines import RecognizerProfile
from streaming.events import GapReason, SessionStage
from streaming.jobs import STAGE_OF_KIND, Answer, Job
from streaming.pacing import PartialPacer
from streaming.retrying import TRIES_MAX, Attempt, Loss, Retries
from streaming.stalling import StallClock
from streaming.timeline import SAMPLE_RATE_HZ

CALL_SECONDS_BASE = 15.0
"""An engine that says nothing for this long hangs; a setting may say otherwise."""
CALL_SECONDS_PER_AUDIO_SECOND = {
    SessionStage.ACTIVITY: 0.5,
    SessionStage.RECOGNITION: 3.0,
    SessionStage.DIARIZATION: 3.0,
}
"""On top: on a starved machine late captions are better than a killed engine and a gap."""
CALL_TIMES_MAX = {
    SessionStage.ACTIVITY: 2.0,
    SessionStage.RECOGNITION: 4.0,
    SessionStage.DIARIZATION: 4.0,
}
"""Together at most so many times the base, whatever the batch: who hangs is found out by then, and
a batch that is too much for the machine is cut smaller."""

ACTIVITY_WINDOWS_MAX = 256
"""Voice activity is cheap per window and dear per call."""
ACTIVITY_CALLS_APART_NS = 20_000_000
"""At most 50 calls a second, each with the packets of many sessions; a live packet of 100 ms
waits for 10 ms on average, and not at all where few are live."""
DIARIZER_ITEMS_MIN = 64
AGAIN_POLL_SECONDS = 0.1
"""How soon a worker looks again whether a job that failed is due, and has found no other one."""
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
    reason: GapReason = GapReason.ENGINE_FAILED
    """Why there are no answers, where there are none."""


def _refused(job: Job) -> Outcome:
    """It lost its place in the queue."""
    return Outcome(job, None, reason=GapReason.OVERLOAD)


Deliver = Callable[[list[Outcome]], None]
Pace = Callable[[float], None]
"""Takes the hops that shall lie between two partials of every session."""


def call_seconds_max(batch: Batch, base_s: float) -> float:
    """How long an engine may take for a batch before it counts as hanging."""
    stage, audio_s = STAGE_OF_KIND[batch.kind], batch.audio_samples / SAMPLE_RATE_HZ
    return min(
        base_s + CALL_SECONDS_PER_AUDIO_SECOND[stage] * audio_s, CALL_TIMES_MAX[stage] * base_s
    )


def stall_seconds(stage: SessionStage, load_s: float, base_s: float) -> float:
    """For so long a stage may answer nobody: every try of a job that makes engines hang, a new
    process for each, and then the answer to a job that stood beside it."""
    return TRIES_MAX * (CALL_TIMES_MAX[stage] * base_s + load_s) + base_s


class _Call:
    """A batch that an engine has been asked, or is about to be."""

    __slots__ = ("attempt", "is_given_up")

    def __init__(self, attempt: Attempt, *, is_given_up: bool = False) -> None:
        self.attempt = attempt
        self.is_given_up = is_given_up
        """Nobody waits for its answer: its jobs came back."""


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
        """The workers have been started."""
        self._stage = stage
        self._call_timeout_s = call_timeout_s
        self._workers = workers
        self._scheduler = Scheduler(limits)
        self._retries = Retries()
        self._is_turn_of_retries = False
        load_s = max((w.ready.load_seconds for w in workers if w.ready), default=0.0)
        self._clock = StallClock(round(stall_seconds(stage, load_s, call_timeout_s) * 1e9))
        self._look_timer: asyncio.TimerHandle | None = None
        self._calls: set[_Call] = set()
        self._probe: Job | None = None
        """What a stalled stage is asked next, for nobody: a job that was given up."""
        self._probed: Job | None = None
        """What it was asked last: again, where no other job was given up since."""
        self._metrics = metrics
        self._deliver = deliver
        self._has_work = asyncio.Event()
        self._pumps: list[asyncio.Task[None]] = []
        self._on_call: Callable[[Batch, int], None] = lambda batch, engine_ns: None
        metrics.queue_depth.labels(stage.value).set_function(lambda: self._depth_jobs)
        self._queue_wait_seconds = metrics.queue_wait_seconds.labels(stage.value)

    @property
    def is_stalled(self) -> bool:
        """It has answered nobody for so long that its jobs fail at once."""
        return self._clock.is_stalled

    @property
    def _depth_jobs(self) -> int:
        return self._scheduler.depth_jobs + self._retries.depth_jobs

    def start(self) -> None:
        """Begin to serve."""
        for number, worker in enumerate(self._workers):
            name = f"{self._stage.value} pump {number}"
            self._pumps.append(asyncio.create_task(self._pump(number, worker), name=name))

    async def close(self) -> None:
        if self._look_timer is not None:
            self._look_timer.cancel()
        for pump in self._pumps:
            pump.cancel()
        await asyncio.gather(*self._pumps, return_exceptions=True)

    # Jobs in

    def submit(self, job: Job) -> list[Outcome]:
        """Queue a job; returns those of its session that get no answer, and why.

        Other sessions' jobs that had to make room come back to them unanswered, a moment later.
        """
        if self.is_stalled:
            self._keep_for_probe(job)
            return [Outcome(job, None)]
        now_ns = time.monotonic_ns()
        lost = self._scheduler.add(job, now_ns)
        self._has_work.set()
        self._watch(now_ns)
        if others := [_refused(other) for other in lost if other.session_id != job.session_id]:
            asyncio.get_running_loop().call_soon(self._deliver, others)
        return [_refused(own) for own in lost if own.session_id == job.session_id]

    def forget(self, session_id: str) -> None:
        """The session is gone: nobody waits for its jobs."""
        self._scheduler.forget(session_id)
        self._retries.forget(session_id)
        if self._probe is not None and self._probe.session_id == session_id:
            self._probe = None
        if self._probed is not None and self._probed.session_id == session_id:
            self._probed = None
        self._note_if_idle()

    def pace_partials(self, pacer: PartialPacer, pace: Pace) -> None:
        """Thin the partials out by how long calls take and partials wait."""

        def measure(batch: Batch, engine_ns: int) -> None:
            now_ns = time.monotonic_ns()
            wait_ns = self._scheduler.partial_wait_ns(now_ns)
            if pacer.note_call(engine_ns, batch.live_share, wait_ns, now_ns):
                pace(pacer.thinning)

        self._on_call = measure

    # Calls

    async def _pump(self, number: int, worker: EngineWorker) -> None:
        # No batch is named here: it would keep its windows in memory until the next one comes.
        while True:
            await self._serve_guarded(number, worker, await self._next_call(number, worker))

    async def _serve_guarded(self, number: int, worker: EngineWorker, call: _Call) -> None:
        self._calls.add(call)
        try:
            await self._serve(number, worker, call)
        except Exception as error:  # noqa: BLE001  task boundary: the stage must go on
            _log.error("batch lost to a bug", stage=self._stage.value, exc_info=error)
            self._fail(call, call.attempt.batch.jobs)
        finally:
            self._calls.discard(call)
            self._note_if_idle()
            self._has_work.set()  # a probe may be due that waited for this one's end

    async def _next_call(self, number: int, worker: EngineWorker) -> _Call:
        """What waits for a process that is being replaced stays where others may take it."""
        while True:
            await worker.until_ready()
            now_ns = time.monotonic_ns()
            call = self._probe_call() if self.is_stalled else self._due_call(number, now_ns)
            if call is not None:
                return call
            await self._until_something_is_due(now_ns)

    def _due_call(self, number: int, now_ns: int) -> _Call | None:
        """Parts of a batch first; what failed by turns with what was never asked."""
        attempt = self._retries.take_part()
        self._is_turn_of_retries = not self._is_turn_of_retries
        if attempt is None and self._is_turn_of_retries:
            attempt = self._again(number, now_ns)
        if attempt is None:
            attempt = self._fresh(now_ns) or self._again(number, now_ns)
        return None if attempt is None else _Call(attempt)

    def _again(self, number: int, now_ns: int) -> Attempt | None:
        others = (worker for i, worker in enumerate(self._workers) if i != number)
        is_only_worker = not any(other.ready for other in others)
        return self._retries.take_again(number, now_ns, is_only_worker=is_only_worker)

    def _fresh(self, now_ns: int) -> Attempt | None:
        batch = self._scheduler.schedule(now_ns)
        if batch is None:
            return None
        self._queue_wait_seconds.observe(batch.waited_ns / 1e9)
        attempt, refused = self._retries.cut(batch, now_ns)
        if refused:
            outcomes = [Outcome(job, None) for job in refused]
            asyncio.get_running_loop().call_soon(self._deliver, outcomes)
        return attempt

    async def _until_something_is_due(self, now_ns: int) -> None:
        if self._scheduler.depth_jobs:
            await asyncio.sleep(max(0, self._scheduler.ready_ns - now_ns) / 1e9)
            return
        self._has_work.clear()
        # What failed is due in a moment, or for another worker that may be lost before it takes it.
        seconds = AGAIN_POLL_SECONDS if self._retries.depth_jobs else None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._has_work.wait()

    async def _serve(self, number: int, worker: EngineWorker, call: _Call) -> None:
        attempt, batch = call.attempt, call.attempt.batch
        questions = [question for job in batch.jobs for question in job.questions]
        timeout_s = call_seconds_max(batch, self._call_timeout_s)
        try:
            answers, engine_ns = await worker.call(batch.kind, questions, timeout_s=timeout_s)
        except WorkerUnready:
            if not call.is_given_up:
                self._retries.put_back(attempt)
            self._has_work.set()
        except (CallFailed, WorkerDied, CallTimeout) as error:
            self._note_failure(number, call, error)
        else:
            self._note_answer(call, len(questions), engine_ns)
            if not call.is_given_up:
                self._deliver(list(_shared_out(batch, answers, engine_ns)))

    def _note_answer(self, call: _Call, windows: int, engine_ns: int) -> None:
        batch, now_ns = call.attempt.batch, time.monotonic_ns()
        self._note_sign_of_life(now_ns)
        self._retries.note_answer(call.attempt, now_ns)
        self._metrics.record_call(
            self._stage.value,
            audio_seconds=batch.audio_samples / SAMPLE_RATE_HZ,
            duration_seconds=engine_ns / 1e9,
            windows=windows,
            context_samples=batch.context_samples,
        )
        self._on_call(batch, engine_ns)

    def _note_failure(
        self, number: int, call: _Call, error: CallFailed | WorkerDied | CallTimeout
    ) -> None:
        _log.warning(
            "engine call failed",
            stage=self._stage.value,
            jobs=len(call.attempt.batch.jobs),
            reason=f"{type(error).__name__}: {error}",
        )
        now_ns = time.monotonic_ns()
        if isinstance(error, CallFailed):
            self._note_sign_of_life(now_ns)
        if not call.is_given_up:
            given_up = self._retries.note_failure(call.attempt, number, _loss_of(error), now_ns)
            self._has_work.set()
            self._fail(call, given_up)

    def _fail(self, call: _Call, jobs: Iterable[Job]) -> None:
        if not call.is_given_up:
            self._deliver([Outcome(job, None) for job in jobs])

    # A stage that does not answer

    def _watch(self, now_ns: int) -> None:
        """One timer that looks now and then: each answer moves the time when it would be due."""
        self._clock.note_waiting(now_ns)
        due_ns = self._clock.due_ns
        if self._look_timer is None and due_ns is not None:
            seconds = max(0, due_ns - now_ns) / 1e9
            self._look_timer = asyncio.get_running_loop().call_later(seconds, self._look)

    def _look(self) -> None:
        self._look_timer = None
        self._note_if_idle()
        now_ns = time.monotonic_ns()
        if self._clock.look(now_ns):
            self._give_up_everything(now_ns)
        elif self._clock.due_ns is not None:
            self._watch(now_ns)

    def _give_up_everything(self, now_ns: int) -> None:
        jobs = self._retries.give_up()
        for call in self._calls:
            if not call.is_given_up:
                call.is_given_up = True
                jobs += call.attempt.batch.jobs
        while batch := self._scheduler.schedule(max(now_ns, self._scheduler.ready_ns)):
            jobs += batch.jobs
        _log.error("stage does not answer: its jobs fail", stage=self._stage.value, jobs=len(jobs))
        for job in jobs:
            self._keep_for_probe(job)
        self._deliver([Outcome(job, None) for job in jobs])

    def _keep_for_probe(self, job: Job) -> None:
        """The one with the least audio: an engine that is slow and not stuck can answer that."""
        if self._probe is None or job.audio_samples < self._probe.audio_samples:
            self._probe = job
            self._has_work.set()

    def _probe_call(self) -> _Call | None:
        """Another job each time: it may have been the one that was to blame."""
        job = self._probe or self._probed
        if job is None or any(call.is_given_up for call in self._calls):
            return None
        self._probe, self._probed = None, job
        return _Call(Attempt(Batch(job.kind, (job,), waited_ns=0)), is_given_up=True)

    def _note_sign_of_life(self, now_ns: int) -> None:
        if self._clock.note_answer(now_ns):
            self._probe = self._probed = None
            _log.info("stage answers again", stage=self._stage.value)
            self._has_work.set()

    def _note_if_idle(self) -> None:
        if self._depth_jobs or self._calls:
            return
        # Of a stalled stage nothing can be found out once everybody is gone: whoever comes next
        # waits for it again.
        if self._probe is None and self._probed is None:
            self._clock.note_idle()


def _loss_of(error: CallFailed | WorkerDied | CallTimeout) -> Loss:
    if isinstance(error, CallFailed):
        return Loss.MEMORY if error.is_memory else Loss.RAISED
    is_killed = isinstance(error, CallTimeout) or error.is_killed
    return Loss.KILLED if is_killed else Loss.CRASHED


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

    @property
    def stalled(self) -> list[SessionStage]:
        """Stages that have answered nobody for so long that their jobs fail at once."""
        return [name for name, stage in self._stages.items() if stage.is_stalled]

    def start(self) -> None:
        for stage in self._stages.values():
            stage.start()

    async def close(self) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*(stage.close() for stage in self._stages.values()))

    def submit(self, jobs: Iterable[Job]) -> list[Outcome]:
        """Queue jobs; returns those that get no answer, which their sessions must be told."""
        return [lost for job in jobs for lost in self._stages[job.stage].submit(job)]

    def forget(self, session_id: str) -> None:
        for stage in self._stages.values():
            stage.forget(session_id)
