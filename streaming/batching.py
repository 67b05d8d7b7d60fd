"""Which jobs of many sessions go to an engine together: a pure scheduler, one per stage.

Owns the queue, its order and the size of a call. Knows nothing of workers, tensors or clocks.

The order: finals, then partials, then whatever came faster than speech (an upload far ahead of
real time); within each the earliest deadline. Deadlines come from the arrival of the audio, or
from where it would be at the pace of speech where that is later. So a job that waits moves ahead
of every job that was asked for later, and an upload gets at least the pace of speech and what the
others leave. One call has one encoder context: its jobs share the context of the most urgent one.

Invariants: B1 a lane has at most one partial waiting; B2 a newer job of a lane takes its waiting
partial off the queue; B3 at most ``queue_jobs_max`` jobs wait, partials are refused first; B4 no
job goes before a more urgent one that has the same kind and context; B5 while anybody is live,
jobs ahead of real time take at most ``AHEAD_SHARE`` of a call, or one job.

Cost: O(log n) for each job added or scheduled, O(1) amortized for one that is dropped.
"""

import heapq
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from streaming.engines import RecognizerProfile, SpeechWindow
from streaming.jobs import Job, JobKind
from streaming.timeline import SAMPLE_RATE_HZ

AHEAD_SHARE = 4
"""A quarter of a call: a live job that just missed it waits little, an upload still moves."""
LIVE_MEMORY_NS = 30_000_000_000
"""Live sessions ask for no words in a pause; somebody who was live so recently still is."""
GONE_MAX = 64
"""Places of dropped jobs in a heap, beside as many as it has jobs, before it is rebuilt."""


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """How large one call to an engine may get, and how many jobs may wait for one."""

    questions_max: int
    audio_samples_max: int = 240 * SAMPLE_RATE_HZ
    """Encoder input; eight full Whisper windows. A single larger job still goes, alone."""
    queue_jobs_max: int = 20_000
    """Far above what admitted sessions can have in flight (a handful per lane)."""
    profile: RecognizerProfile | None = None
    """What the encoder hears of a window; None where that is the window itself."""
    calls_apart_ns: int = 0
    """Between the starts of two calls: jobs of many sessions gather, where calls are dear."""

    def context_samples(self, job: Job) -> int | None:
        """The encoder context that the job's call must have; None where any will do."""
        if self.profile is None or job.kind is not JobKind.RECOGNIZE:
            return None
        windows = [question for question in job.questions if isinstance(question, SpeechWindow)]
        return max(self.profile.context_samples(window) for window in windows)


@dataclass(frozen=True, slots=True)
class Batch:
    """Jobs of one kind, in the order in which their answers come back."""

    kind: JobKind
    jobs: tuple[Job, ...]
    waited_ns: int
    """How long the longest-waiting of them stood in the queue."""
    context_samples: int | None = None
    """Of the encoder, the same for all of them."""
    live_share: float = 1.0
    """Of its cost, what does not come from jobs ahead of real time."""

    @property
    def audio_samples(self) -> int:
        return sum(job.audio_samples for job in self.jobs)


_Group = tuple[JobKind, int | None]
"""Jobs that may share a call: their kind and encoder context."""


class _Waiting:
    """A job in the queue."""

    __slots__ = ("cost_samples", "group", "job", "number", "order", "since_ns")

    def __init__(self, job: Job, limits: BatchLimits, since_ns: int, number: int) -> None:
        context = limits.context_samples(job)
        self.job = job
        self.since_ns = since_ns
        self.number = number
        self.group: _Group = (job.kind, context)
        self.cost_samples = job.audio_samples if context is None else context * len(job.questions)
        self.order = (job.deadline_ns, since_ns, number)

    def urgency(self, now_ns: int) -> tuple[bool, bool, int, int, int]:
        """The least goes first."""
        return (self.job.is_ahead(now_ns), not self.job.is_final, *self.order)


class _Heap:
    """Waiting jobs of one group and one sort, the earliest deadline (or the latest) on top.

    A job that is taken off leaves its place behind until the heap comes across it, but nothing
    else: a window that was dropped must not stay in memory.
    """

    def __init__(self, *, is_latest_first: bool = False) -> None:
        self._sign = -1 if is_latest_first else 1
        self._places: list[tuple[int, int, int]] = []
        self._waiting: dict[int, _Waiting] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def push(self, waiting: _Waiting) -> None:
        deadline_ns, since_ns, number = waiting.order
        place = (self._sign * deadline_ns, self._sign * since_ns, self._sign * number)
        heapq.heappush(self._places, place)
        self._waiting[number] = waiting

    def first(self) -> _Waiting | None:
        while self._places:
            waiting = self._waiting.get(self._sign * self._places[0][2])
            if waiting is not None:
                return waiting
            heapq.heappop(self._places)
        return None

    def take_off(self, waiting: _Waiting) -> None:
        del self._waiting[waiting.number]
        if len(self._places) > 2 * len(self._waiting) + GONE_MAX:
            self._places = [p for p in self._places if self._sign * p[2] in self._waiting]
            heapq.heapify(self._places)


class _Room:
    """What still fits into a call."""

    def __init__(self, limits: BatchLimits, *, is_anybody_live: bool) -> None:
        share = AHEAD_SHARE if is_anybody_live else 1
        self._questions, self._samples = limits.questions_max, limits.audio_samples_max
        self._ahead_questions = self._questions // share
        self._ahead_samples = self._samples // share
        self._is_empty = True

    def take(self, waiting: _Waiting, *, is_ahead: bool) -> bool:
        """False, with nothing taken, where it does not fit; the first job always does."""
        questions, samples = len(waiting.job.questions), waiting.cost_samples
        fits = questions <= self._questions and samples <= self._samples
        if is_ahead:
            self._ahead_questions -= questions
            self._ahead_samples -= samples
            fits = fits and self._ahead_questions >= 0 and self._ahead_samples >= 0
        if not fits and not self._is_empty:
            return False
        self._questions -= questions
        self._samples -= samples
        self._is_empty = False
        return True


class Scheduler:
    """The waiting jobs of one stage."""

    def __init__(self, limits: BatchLimits) -> None:
        self._limits = limits
        self._finals: dict[_Group, _Heap] = {}
        self._partials: dict[_Group, _Heap] = {}
        self._latest_partials = _Heap(is_latest_first=True)
        self._partial_of_lane: dict[tuple[str, int, JobKind], _Waiting] = {}
        self._of_session: dict[str, dict[int, _Waiting]] = {}
        self._added = 0
        self._live_until_ns = 0
        self.depth_jobs = 0
        self.ready_ns = 0
        """No call before this time."""

    def add(self, job: Job, now_ns: int) -> list[Job]:
        """Queue a job. Returns the jobs that lost their place for it, or the job itself."""
        lost: list[Job] = []
        older = self._partial_of_lane.get((job.session_id, job.lane, job.kind))
        if older is not None:
            self._take_off(older)
            lost.append(older.job)
        if self.depth_jobs >= self._limits.queue_jobs_max:
            latest = self._latest_partials.first() if job.is_final else None
            if latest is None:
                return [*lost, job]
            self._take_off(latest)
            lost.append(latest.job)
        self._queue(job, now_ns)
        return lost

    def _queue(self, job: Job, now_ns: int) -> None:
        self._added += 1
        waiting = _Waiting(job, self._limits, now_ns, self._added)
        heaps = self._finals if job.is_final else self._partials
        heaps.setdefault(waiting.group, _Heap()).push(waiting)
        if not job.is_final:
            self._latest_partials.push(waiting)
            self._partial_of_lane[job.session_id, job.lane, job.kind] = waiting
        self._of_session.setdefault(job.session_id, {})[job.number] = waiting
        self.depth_jobs += 1

    def _take_off(self, waiting: _Waiting) -> None:
        job = waiting.job
        heaps = self._finals if job.is_final else self._partials
        heaps[waiting.group].take_off(waiting)
        if not heaps[waiting.group]:
            del heaps[waiting.group]
        if not job.is_final:
            self._latest_partials.take_off(waiting)
            del self._partial_of_lane[job.session_id, job.lane, job.kind]
        of_session = self._of_session[job.session_id]
        del of_session[job.number]
        if not of_session:
            del self._of_session[job.session_id]
        self.depth_jobs -= 1

    def schedule(self, now_ns: int) -> Batch | None:
        """The next call to the engine: the most urgent job and those that fit beside it.

        None where nothing waits, and before ``ready_ns``.
        """
        first = None if now_ns < self.ready_ns else _most_urgent(self._heaps(), now_ns)
        if first is None:
            return None
        self.ready_ns = now_ns + self._limits.calls_apart_ns
        taken = list(self._taken_with(first, now_ns))
        waited_ns = now_ns - min(waiting.since_ns for waiting in taken)
        kind, context = first.group
        jobs = tuple(waiting.job for waiting in taken)
        return Batch(kind, jobs, waited_ns, context, _live_share(taken, now_ns))

    def _heaps(self, group: _Group | None = None) -> list[_Heap]:
        if group is None:
            return [*self._finals.values(), *self._partials.values()]
        return [heaps[group] for heaps in (self._finals, self._partials) if group in heaps]

    def _taken_with(self, first: _Waiting, now_ns: int) -> Iterator[_Waiting]:
        """In order of urgency, up to the first that does not fit: none is overtaken (B4)."""
        if not first.job.is_ahead(now_ns):
            self._live_until_ns = now_ns + LIVE_MEMORY_NS
        room = _Room(self._limits, is_anybody_live=now_ns < self._live_until_ns)
        waiting: _Waiting | None = first
        while waiting is not None and room.take(waiting, is_ahead=waiting.job.is_ahead(now_ns)):
            self._take_off(waiting)
            yield waiting
            waiting = _most_urgent(self._heaps(first.group), now_ns)

    def partial_wait_ns(self, now_ns: int) -> int:
        """How long the partial that should go next has been waiting; 0 where none is."""
        waiting = _most_urgent(self._partials.values(), now_ns)
        return 0 if waiting is None or waiting.job.is_ahead(now_ns) else now_ns - waiting.since_ns

    def forget(self, session_id: str) -> int:
        """Drop the jobs of a session that is gone; returns how many."""
        gone = list(self._of_session.get(session_id, {}).values())
        for waiting in gone:
            self._take_off(waiting)
        return len(gone)


def _live_share(taken: Sequence[_Waiting], now_ns: int) -> float:
    ahead = sum(1 + waiting.cost_samples for waiting in taken if waiting.job.is_ahead(now_ns))
    return 1 - ahead / sum(1 + waiting.cost_samples for waiting in taken)


def _most_urgent(heaps: Iterable[_Heap], now_ns: int) -> _Waiting | None:
    firsts = (heap.first() for heap in heaps)
    return min(
        (waiting for waiting in firsts if waiting is not None),
        key=lambda waiting: waiting.urgency(now_ns),
        default=None,
    )
