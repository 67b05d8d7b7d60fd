"""Whose jobs make calls fail: kept apart from everybody else's, and in the end not asked.

Owns what is held against each session of one stage. Knows nothing of workers or queues. A session
whose job stood in a call that failed goes alone until one of its jobs is answered, so that who is
to blame fails alone and nobody else with him. Where a job that is alone takes its process along,
the session gets no partials, and finals alone are tried. A window that is lost for good costs
itself only; where the next one takes a process too, the session is held: its jobs are refused for
a while, which doubles each time.

Invariants: G1 an answer clears its session; G2 a session that was never in a failed call is never
kept apart; G3 what is held against a session that is gone is forgotten.
"""

from collections.abc import Sequence
from enum import Enum, auto

from streaming.jobs import Job

HOLD_NS = 15_000_000_000
"""As long as one more try would block an engine."""
HOLD_NS_MAX = 900_000_000_000


class Verdict(Enum):
    """What may be done with a job."""

    TOGETHER = auto()
    ALONE = auto()
    REFUSED = auto()


class _Suspect:
    """What is held against one session."""

    __slots__ = ("has_lost_window", "hold_ns", "is_known", "until_ns")

    def __init__(self) -> None:
        self.is_known = False
        """A job of it took a process along, alone."""
        self.has_lost_window = False
        """All tries of a final did."""
        self.hold_ns = 0
        self.until_ns = 0

    def hold(self, now_ns: int) -> None:
        self.hold_ns = min(HOLD_NS_MAX, 2 * self.hold_ns or HOLD_NS)
        self.until_ns = now_ns + self.hold_ns


class Suspicion:
    """The suspects of one stage; one entry per session at most."""

    def __init__(self) -> None:
        self._suspects: dict[str, _Suspect] = {}

    def verdict(self, job: Job, now_ns: int) -> Verdict:
        suspect = self._suspects.get(job.session_id)
        if suspect is None:
            return Verdict.TOGETHER
        is_unwanted = suspect.is_known and not job.is_final
        return Verdict.REFUSED if is_unwanted or now_ns < suspect.until_ns else Verdict.ALONE

    def has_one_try(self, job: Job) -> bool:
        """The session has lost a window for good, and no answer since."""
        suspect = self._suspects.get(job.session_id)
        return suspect is not None and suspect.has_lost_window

    def note_failure(
        self, jobs: Sequence[Job], now_ns: int, *, is_process_lost: bool, is_last_try: bool
    ) -> None:
        """A call with these jobs failed."""
        for job in jobs:
            suspect = self._suspects.setdefault(job.session_id, _Suspect())
            if len(jobs) == 1 and is_process_lost:
                suspect.is_known = True
                if suspect.has_lost_window:
                    suspect.hold(now_ns)
                suspect.has_lost_window |= is_last_try and job.is_final

    def note_answer(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            self._suspects.pop(job.session_id, None)

    def forget(self, session_id: str) -> None:
        self._suspects.pop(session_id, None)
