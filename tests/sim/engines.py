"""The engines of a world: the real scheduler, scripted engines, and workers that misbehave.

Follows the server's dispatcher: a call that lasts longer than its deadline is killed with its
worker; a batch that fails is tried once more, final by final; partials are not. Answers also come
late, twice, absurd or misshapen.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Protocol

import numpy as np

from server.dispatch import CALL_SECONDS_BASE, call_seconds_max
from streaming.batching import Batch, BatchLimits, Scheduler
from streaming.engines import Hypothesis, RecognizerProfile, SpeakerChunk, SpeechWindow, Word
from streaming.events import SessionStage
from streaming.jobs import Answer, Job, JobKind
from streaming.scripted_audio import CARRIER_SAMPLES, decode_words, loud_frames
from streaming.timeline import SAMPLE_RATE_HZ, Span
from tests.fakes import Engines
from tests.sim import lies
from tests.sim.watchers import check_queue
from tests.sim.weather import Fault, Way
from tests.sim.world import SECOND, World, delay_ns

Answers = list[Answer]
MISHAPS = (Fault.ENGINE_FAILURE, Fault.ENGINE_CRASH, Fault.ENGINE_HANG)
LATE_SECONDS_MAX = 20


WHISPER_LIKE = RecognizerProfile(
    partial_contexts_samples=(5 * SAMPLE_RATE_HZ, 10 * SAMPLE_RATE_HZ),
    final_context_samples=30 * SAMPLE_RATE_HZ,
)


class Asker(Protocol):
    """The session that a job came from."""

    @property
    def is_exact(self) -> bool: ...

    @property
    def chunk_samples(self) -> int | None: ...

    def receive(self, job: Job, answers: Sequence[Answer] | None, engine_ns: int) -> None: ...

    def receive_again(self, job: Job, answers: Sequence[Answer]) -> None: ...

    def note_lie(self, job: Job) -> None: ...


class Stage:
    """One engine, its queue and its workers."""

    def __init__(self, stage: SessionStage, world: World, askers: dict[str, Asker]) -> None:
        self._world, self._askers = world, askers
        self._lots = lots = world.lots(f"engine {stage}")
        weather = world.weather
        self._limits = BatchLimits(
            questions_max=lots.choice([1, 4, 8]),
            queue_jobs_max=weather.queue_jobs_max,
            profile=lots.choice([None, WHISPER_LIKE]),
            calls_apart_ns=lots.choice([0, 0, SECOND // 5]),
        )
        self._scheduler = Scheduler(self._limits)
        self._engines = Engines()
        self._idle_workers = lots.choice([1, 2, 3])
        share = 0.2 if stage is SessionStage.ACTIVITY else 1.0
        self._latency_ms = weather.latency_ms * share
        self._restart_ms = lots.choice([100, 3_000])
        mishaps = (weather.failure_share, weather.crash_share, weather.hang_share)
        self._mishaps = dict(zip(MISHAPS, mishaps, strict=True))

    def add(self, job: Job) -> None:
        """Queue a job, as the dispatcher does."""
        lost = self._scheduler.add(job, self._world.now_ns)
        check_queue(self._scheduler.depth_jobs, self._limits.queue_jobs_max)
        for other in lost:
            self._world.go(Way.REPLACED_PARTIAL)
            if other is job or other.is_final:
                self._world.note(Fault.FULL_QUEUE)
            self._world.after(0, partial(self._deliver, [other], None, 0))
        self._world.after(0, self._serve)

    def forget(self, session_id: str) -> None:
        self._scheduler.forget(session_id)

    def _serve(self) -> None:
        if not self._idle_workers:
            return
        batch = self._scheduler.schedule(self._world.now_ns)
        if batch is not None:
            self._idle_workers -= 1
            self._call(batch, lambda answers, ns: self._first_try_over(batch, answers, ns))
        elif self._scheduler.depth_jobs:
            self._world.after(self._scheduler.ready_ns - self._world.now_ns, self._serve)

    def _first_try_over(self, batch: Batch, answers: Answers | None, engine_ns: int) -> None:
        if answers is not None:
            self._deliver(list(batch.jobs), answers, engine_ns)
            self._free()
            return
        self._deliver([job for job in batch.jobs if not job.is_final], None, 0)
        self._try_again([job for job in batch.jobs if job.is_final])

    def _try_again(self, jobs: list[Job]) -> None:
        if not jobs:
            self._free()
            return
        self._world.go(Way.RETRY)

        def over(answers: Answers | None, engine_ns: int) -> None:
            self._deliver(jobs[:1], answers, engine_ns)
            self._try_again(jobs[1:])

        self._call(Batch(jobs[0].kind, (jobs[0],), 0), over)

    def _free(self) -> None:
        self._idle_workers += 1
        self._world.after(0, self._serve)

    def _call(self, batch: Batch, over: Callable[[Answers | None, int], None]) -> None:
        """One call to a worker; ``over`` hears the answers, or None, when it is over."""
        latency_ns = delay_ns(self._lots, self._latency_ms)
        deadline_ns = int(call_seconds_max(batch, CALL_SECONDS_BASE) * SECOND)
        mishap = self._mishap(batch)
        if mishap is None and latency_ns <= deadline_ns:
            self._world.after(latency_ns, lambda: over(self._answers(batch), latency_ns))
            return
        ns = deadline_ns if mishap in (None, Fault.ENGINE_HANG) else latency_ns
        if mishap is not Fault.ENGINE_FAILURE:
            ns += delay_ns(self._lots, self._restart_ms)
        self._world.after(ns, lambda: over(None, 0))
        if self._world.strikes(Fault.LATE_ANSWER, self._world.weather.late_share, self._lots):
            self._again_later(batch, ns)

    def _mishap(self, batch: Batch) -> Fault | None:
        for fault, share in self._mishaps.items():
            if self._world.strikes(fault, share, self._lots):
                return fault
        if batch.kind is JobKind.RECOGNIZE and any(map(self._is_poisonous, batch.jobs)):
            self._world.note(Fault.POISONOUS_WINDOW)
            return Fault.ENGINE_CRASH
        return None

    def _is_poisonous(self, job: Job) -> bool:
        """A window that kills whoever looks at it, in calm weather too."""
        per_mille = round(1_000 * self._world.weather.poison_share)
        if not per_mille:
            return False
        words = [word for q in job.questions for word in decode_words(q.samples)]  # type: ignore[union-attr]
        return any((7_919 * w.number + 104_729 * w.stream) % 1_000 < per_mille for w in words)

    def _answers(self, batch: Batch) -> Answers:
        return [answer for job in batch.jobs for answer in self._answer(job)]

    def _answer(self, job: Job) -> Answers:
        if job.kind is JobKind.RECOGNIZE and not self._askers[job.session_id].is_exact:
            return [_loud_words(q) for q in job.questions if isinstance(q, SpeechWindow)]
        return self._engines.answer(self._padded(job)) or []

    def _padded(self, job: Job) -> Job:
        """On a grid the activity of a short chunk is that of a whole one."""
        size = self._askers[job.session_id].chunk_samples
        if job.kind is not JobKind.OBSERVE or size is None:
            return job
        questions = (q for q in job.questions if isinstance(q, SpeakerChunk))
        padded = (np.pad(q.samples, (0, size - len(q.samples))) for q in questions)
        return replace(job, questions=tuple(SpeakerChunk(samples) for samples in padded))

    def _deliver(self, jobs: list[Job], answers: Answers | None, engine_ns: int) -> None:
        start = 0
        for job in jobs:
            part = None if answers is None else answers[start : start + len(job.questions)]
            start += len(job.questions)
            if part is not None:
                part = self._told(job, part)
            self._askers[job.session_id].receive(job, part, engine_ns // len(jobs))
        if answers is not None and jobs:
            double = self._world.weather.double_share
            if self._world.strikes(Fault.DOUBLE_ANSWER, double, self._lots):
                self._again_later(Batch(jobs[0].kind, tuple(jobs), 0), 0)

    def _told(self, job: Job, answers: Answers) -> Answers:
        """What the engine says instead of the truth."""
        weather = self._world.weather
        if self._world.strikes(Fault.MISSHAPEN_ANSWER, weather.misshapen_share, self._lots):
            self._askers[job.session_id].note_lie(job)
            return lies.misshapen(self._lots, job.kind, answers)
        if self._world.strikes(Fault.ABSURD_ANSWER, weather.absurd_share, self._lots):
            self._askers[job.session_id].note_lie(job)
            return lies.absurd(self._lots, answers)
        return answers

    def _again_later(self, batch: Batch, ns: int) -> None:
        """The answers of jobs that are answered already, or given up, come after that."""

        def come() -> None:
            for job in batch.jobs:
                self._askers[job.session_id].receive_again(job, self._answer(job))

        self._world.after(ns + 1 + self._lots.randrange(LATE_SECONDS_MAX * SECOND), come)


def _loud_words(window: SpeechWindow) -> Hypothesis:
    """A word for each loud stretch, where no format keeps the scripted ones readable."""
    loud = loud_frames(window.samples, CARRIER_SAMPLES)
    places = [
        Span(i * CARRIER_SAMPLES, (i + 1) * CARRIER_SAMPLES) for i in np.flatnonzero(loud).tolist()
    ]
    probability = None if window.language else 0.5
    return Hypothesis(
        tuple(Word("loud", place, 0.5) for place in places), window.language or "en", probability
    )
