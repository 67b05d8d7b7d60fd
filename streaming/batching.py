"""Which jobs of many sessions go to an engine together: a pure scheduler, one per stage.

Owns the queue and its order: finals before partials, then the earliest deadline. Knows nothing of
workers, tensors or clocks. Deadlines come from the audio's arrival, so no session can starve
another: a job that waits moves ahead of every job that was asked for later.

Invariants: B1 a lane has at most one partial waiting; B2 a final of a lane takes its waiting
partial off the queue; B3 at most ``queue_jobs_max`` jobs wait, partials are refused first.
"""

from dataclasses import dataclass

from streaming.jobs import Job, JobKind
from streaming.timeline import SAMPLE_RATE_HZ


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """How large one call to an engine may get, and how many jobs may wait for one."""

    questions_max: int
    audio_samples_max: int = 240 * SAMPLE_RATE_HZ
    """Eight full Whisper windows; a single larger job still goes through, alone."""
    queue_jobs_max: int = 20_000
    """Far above what admitted sessions can have in flight (a handful per lane)."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Jobs of one kind, in the order in which their answers come back."""

    kind: JobKind
    jobs: tuple[Job, ...]
    waited_ns: int
    """How long the longest-waiting of them stood in the queue."""

    @property
    def audio_samples(self) -> int:
        return sum(job.audio_samples for job in self.jobs)


@dataclass(frozen=True, slots=True)
class _Waiting:
    job: Job
    since_ns: int

    @property
    def order(self) -> tuple[bool, int, int]:
        return (not self.job.is_final, self.job.deadline_ns, self.since_ns)


class Scheduler:
    """The waiting jobs of one stage."""

    def __init__(self, limits: BatchLimits) -> None:
        self._limits = limits
        self._waiting: dict[tuple[str, int], _Waiting] = {}

    @property
    def depth_jobs(self) -> int:
        return len(self._waiting)

    def add(self, job: Job, now_ns: int) -> list[Job]:
        """Queue a job. Returns the jobs that lost their place for it, or the job itself."""
        lost = [other.job for other in self._waiting.values() if _yields_to(other.job, job)]
        for other in lost:
            del self._waiting[_key(other)]
        if len(self._waiting) >= self._limits.queue_jobs_max:
            return [*lost, *self._make_room(job, now_ns)]
        self._waiting[_key(job)] = _Waiting(job, now_ns)
        return lost

    def _make_room(self, job: Job, now_ns: int) -> list[Job]:
        if not job.is_final:
            return [job]
        newest = max(self._waiting.values(), key=lambda waiting: waiting.order)
        if newest.job.is_final:
            return [job]
        del self._waiting[_key(newest.job)]
        self._waiting[_key(job)] = _Waiting(job, now_ns)
        return [newest.job]

    def schedule(self, now_ns: int) -> Batch | None:
        """The next call to the engine: the most urgent job and what fits beside it."""
        if not self._waiting:
            return None
        ordered = sorted(self._waiting.values(), key=lambda waiting: waiting.order)
        first = ordered[0].job
        taken = [ordered[0]]
        questions, audio_samples = len(first.questions), first.audio_samples
        for waiting in ordered[1:]:
            job = waiting.job
            fits = (
                job.kind is first.kind
                and questions + len(job.questions) <= self._limits.questions_max
                and audio_samples + job.audio_samples <= self._limits.audio_samples_max
            )
            if fits:
                taken.append(waiting)
                questions += len(job.questions)
                audio_samples += job.audio_samples
        for waiting in taken:
            del self._waiting[_key(waiting.job)]
        waited_ns = now_ns - min(waiting.since_ns for waiting in taken)
        return Batch(first.kind, tuple(waiting.job for waiting in taken), waited_ns)

    def forget(self, session_id: str) -> int:
        """Drop the jobs of a session that is gone; returns how many."""
        gone = [key for key in self._waiting if key[0] == session_id]
        for key in gone:
            del self._waiting[key]
        return len(gone)


def _key(job: Job) -> tuple[str, int]:
    return (job.session_id, job.number)


def _yields_to(waiting: Job, job: Job) -> bool:
    """A waiting partial gives way to any newer recognition job of its lane."""
    return (
        not waiting.is_final
        and waiting.session_id == job.session_id
        and waiting.lane == job.lane
        and waiting.kind is job.kind
    )
