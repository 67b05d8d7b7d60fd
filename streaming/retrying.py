"""What goes to an engine once more, or in parts: who is asked again, with whom, and how often.

Owns the batches of a stage that failed or are too large. Knows nothing of workers but a number,
nor of time but as an argument.

A failed batch is asked again final by final, so that one poisonous window costs only itself; a
partial is not worth it, the next one is due in a moment. Whose jobs must not stand beside others
is ``suspicion``'s to say. A final is asked again on another worker where there is one. A batch that
was too large for the machine's memory goes in halves. So does everything after it for a while: a
size that failed is remembered, and forgotten step by step. A batch that took its process along was
too large where each of its finals then succeeds alone.

Invariants: Y1 a job is tried at most ``TRIES_MAX`` times; a call that ran out of memory is no try
while it has more than one job; Y2 each job is given out again or given up, exactly once per
failure; Y3 what was a part of a batch goes before what was asked for later.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from enum import Enum, auto

from streaming.batching import Batch
from streaming.jobs import Job
from streaming.suspicion import Suspicion, Verdict

TRIES_MAX = 2
PAUSE_NS = 200_000_000
"""Before a job is asked again whose process was lost: what killed it may kill others just now."""
HOLD_NS = 60_000_000_000
"""So long a size that was too large is not tried again."""
HOLD_NS_MAX = 3_600_000_000_000
"""Where it is too large each time: a try costs a call, or a process and the loading of a model."""


class Loss(Enum):
    """How a call failed."""

    RAISED = auto()
    """The engine raised and lives."""
    MEMORY = auto()
    """It raised for want of memory: a smaller batch may succeed."""
    CRASHED = auto()
    """Its process ended by itself."""
    KILLED = auto()
    """Its process was killed: it was late, or the machine ran out of memory."""


class BatchSize:
    """The largest call that is tried, in questions, learned from those that were too large."""

    def __init__(self) -> None:
        self._questions_max = 0
        """0 while nothing is remembered."""
        self._whole = 0
        """What failed first: from there on nothing needs to be remembered."""
        self._hold_ns = HOLD_NS
        self._until_ns = 0

    def questions_max(self, now_ns: int) -> int | None:
        """None where any size will do."""
        while self._questions_max and now_ns >= self._until_ns:
            self._questions_max *= 2
            self._until_ns += self._hold_ns
            if self._questions_max >= self._whole:
                self._questions_max = 0
        return self._questions_max or None

    def note_too_large(self, questions: int, now_ns: int) -> None:
        """A call with so many questions failed for its size."""
        is_again = self._whole > 0 and now_ns < self._until_ns + self._hold_ns
        self._hold_ns = min(HOLD_NS_MAX, 2 * self._hold_ns) if is_again else HOLD_NS
        self._whole = max(self._whole, questions) if is_again else questions
        self._questions_max = max(1, questions // 2)
        self._until_ns = now_ns + self._hold_ns


class _Trial:
    """The finals of a lost batch, each asked alone: was it one of them, or the size?"""

    __slots__ = ("left", "questions")

    def __init__(self, finals: int, questions: int) -> None:
        self.left: int | None = finals
        """None as soon as one of them is to blame, or nobody knows."""
        self.questions = questions


@dataclass(frozen=True, slots=True)
class Attempt:
    """A batch that is to be asked, and what it has been through."""

    batch: Batch
    tries: int = 0
    failed_on: int | None = None
    """The worker to be avoided."""
    not_before_ns: int = 0
    trial: _Trial | None = None


class Retries:
    """The batches of one stage that are due before, or beside, what the queue has."""

    def __init__(self) -> None:
        self.size = BatchSize()
        self._suspicion = Suspicion()
        self._parts: deque[Attempt] = deque()
        self._again: deque[Attempt] = deque()

    @property
    def depth_jobs(self) -> int:
        """Jobs that wait here."""
        return sum(len(attempt.batch.jobs) for attempt in (*self._parts, *self._again))

    # What is next

    def cut(self, batch: Batch, now_ns: int) -> tuple[Attempt | None, list[Job]]:
        """As much of the batch as may go in one call, and the jobs that are refused.

        The rest of it comes next, and jobs that must go alone come in their turn.
        """
        verdicts = [self._suspicion.verdict(job, now_ns) for job in batch.jobs]
        of: dict[Verdict, list[Job]] = {verdict: [] for verdict in Verdict}
        for job, verdict in zip(batch.jobs, verdicts, strict=True):
            of[verdict].append(job)
        for job in of[Verdict.ALONE]:
            self._again.append(Attempt(replace(batch, jobs=(job,))))
        together = tuple(of[Verdict.TOGETHER])
        if not together:
            return None, of[Verdict.REFUSED]
        parts = _cut_to(replace(batch, jobs=together), self.size.questions_max(now_ns))
        first, *rest = map(Attempt, parts)
        self._parts.extend(rest)
        return first, of[Verdict.REFUSED]

    def take_part(self) -> Attempt | None:
        """The rest of a batch whose first part has gone."""
        return self._parts.popleft() if self._parts else None

    def take_again(self, worker: int, now_ns: int, *, is_only_worker: bool) -> Attempt | None:
        """A job that failed and that this worker may try."""
        for attempt in self._again:
            is_due = now_ns >= attempt.not_before_ns
            if is_due and (is_only_worker or attempt.failed_on != worker):
                self._again.remove(attempt)
                return attempt
        return None

    # What became of it

    def put_back(self, attempt: Attempt) -> None:
        """It was not sent: no worker was there."""
        self._parts.appendleft(attempt)

    def note_answer(self, attempt: Attempt, now_ns: int) -> None:
        self._suspicion.note_answer(attempt.batch.jobs)
        trial = attempt.trial
        if trial is None or trial.left is None:
            return
        trial.left -= 1
        if trial.left == 0:
            self.size.note_too_large(trial.questions, now_ns)

    def note_failure(self, attempt: Attempt, worker: int, loss: Loss, now_ns: int) -> list[Job]:
        """Returns the jobs that are given up; the others come again."""
        batch, questions = attempt.batch, _questions(attempt.batch)
        given_up = [job for job in batch.jobs if not job.is_final]
        finals = tuple(job for job in batch.jobs if job.is_final)
        if attempt.trial is not None:
            attempt.trial.left = None
        if loss is Loss.MEMORY and len(batch.jobs) > 1:
            self.size.note_too_large(questions, now_ns)
            self._put_first(finals, attempt, self.size.questions_max(now_ns))
            return given_up
        if self._is_last_try(attempt, loss, now_ns):
            return [*batch.jobs]
        is_size_suspect = loss is Loss.KILLED and len(batch.jobs) > 1
        trial = _Trial(len(finals), questions) if is_size_suspect else None
        due_ns = now_ns if loss in (Loss.RAISED, Loss.MEMORY) else now_ns + PAUSE_NS
        for job in finals:
            one = replace(batch, jobs=(job,), waited_ns=0)
            self._again.append(Attempt(one, attempt.tries + 1, worker, due_ns, trial))
        return given_up

    def _is_last_try(self, attempt: Attempt, loss: Loss, now_ns: int) -> bool:
        """Also tells whoever keeps suspects apart."""
        jobs, is_process_lost = attempt.batch.jobs, loss in (Loss.CRASHED, Loss.KILLED)
        is_last = attempt.tries + 1 >= TRIES_MAX
        if is_process_lost and len(jobs) == 1:
            is_last = is_last or self._suspicion.has_one_try(jobs[0])
        self._suspicion.note_failure(
            jobs, now_ns, is_process_lost=is_process_lost, is_last_try=is_last
        )
        return is_last

    def _put_first(
        self, jobs: tuple[Job, ...], attempt: Attempt, questions_max: int | None
    ) -> None:
        if jobs:
            smaller = _cut_to(replace(attempt.batch, jobs=jobs, waited_ns=0), questions_max)
            parts = [replace(attempt, batch=part, trial=None) for part in smaller]
            self._parts.extendleft(reversed(parts))

    # What nobody waits for

    def forget(self, session_id: str) -> None:
        """The session is gone."""
        self._suspicion.forget(session_id)
        self._parts = deque(_without(session_id, self._parts))
        self._again = deque(_without(session_id, self._again))

    def give_up(self) -> list[Job]:
        """Takes everything off; returns the jobs."""
        jobs = [job for attempt in (*self._parts, *self._again) for job in attempt.batch.jobs]
        self._parts.clear()
        self._again.clear()
        return jobs


def _questions(batch: Batch) -> int:
    return sum(len(job.questions) for job in batch.jobs)


def _cut_to(batch: Batch, questions_max: int | None) -> list[Batch]:
    """In order; a job with more questions than that goes alone."""
    if questions_max is None or _questions(batch) <= questions_max:
        return [batch]
    parts: list[list[Job]] = []
    room = 0
    for job in batch.jobs:
        if not parts or len(job.questions) > room:
            parts.append([])
            room = questions_max
        parts[-1].append(job)
        room -= len(job.questions)
    return [replace(batch, jobs=tuple(jobs)) for jobs in parts]


def _without(session_id: str, attempts: Iterable[Attempt]) -> Iterator[Attempt]:
    for attempt in attempts:
        jobs = tuple(job for job in attempt.batch.jobs if job.session_id != session_id)
        if len(jobs) < len(attempt.batch.jobs) and attempt.trial is not None:
            attempt.trial.left = None
        if jobs:
            yield replace(attempt, batch=replace(attempt.batch, jobs=jobs))
