"""How many sessions this server could caption at once, by what the present ones cost.

Pure but for ``BusyMeter``, which asks how much processor time its thread has used and missed. A
guess for people and for autoscalers; whether a session may start is ``admission.py``'s to decide.
"""

import time
from pathlib import Path

SCHEDULED = Path("/proc/thread-self/schedstat")
"""Of Linux: nanoseconds that the thread has run, and that it has waited for a processor."""


class BusyMeter:
    """Which share of the time the calling thread works, or would if it had a processor.

    A thread that other programs keep from its processor uses little of it, and has no room at all.
    """

    def __init__(self, scheduled: Path = SCHEDULED) -> None:
        self._scheduled = scheduled
        self._wall_s, self._busy_s = time.monotonic(), self._wanted_s()

    def share(self) -> float:
        """Since it was asked last."""
        wall_s, busy_s = time.monotonic(), self._wanted_s()
        passed_s, wanted_s = wall_s - self._wall_s, busy_s - self._busy_s
        self._wall_s, self._busy_s = wall_s, busy_s
        return min(1.0, max(0.0, wanted_s / passed_s)) if passed_s > 0 else 0.0

    def _wanted_s(self) -> float:
        return time.thread_time() + self._waited_s()

    def _waited_s(self) -> float:
        """0 where nobody tells: then only what was used counts."""
        try:
            return int(self._scheduled.read_text().split()[1]) / 1e9
        except (OSError, ValueError, IndexError):
            return 0.0


LOOP_BUSY_MAX = 0.8
"""Above it timers, and so captions, are late by more than a call's own time."""
SESSIONS_FOR_A_GUESS = 10
"""Below, what the loop does for nobody in particular would count as theirs."""


def estimated_capacity(
    talkers: float,
    engine_share: float,
    engine_share_max: float,
    loop_share: float,
    sessions_max: int,
) -> int | None:
    """How many sessions like the present ones could talk at once; None where nobody does.

    ``engine_share`` of the recognizers' time and ``loop_share`` of the event loop's go to
    ``talkers``; what leaves the engines nothing to spare above ``engine_share_max`` is too many.
    """
    if talkers < 1:
        return None
    fits = [float(sessions_max)]
    if engine_share > 0:
        fits.append(talkers * engine_share_max / engine_share)
    if talkers >= SESSIONS_FOR_A_GUESS and loop_share > 0:
        fits.append(talkers * LOOP_BUSY_MAX / loop_share)
    return max(1, int(min(fits)))
