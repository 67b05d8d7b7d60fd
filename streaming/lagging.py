"""When to tell a client that its captions are behind its audio, or have caught up."""

from streaming.eventlog import EventLog
from streaming.events import Lag

LAG_SECONDS_MIN = 3.0
"""Below this, captions count as live: a hop, a window and a full batch fit in."""
LAG_SECONDS_STEP = 1.0


class LagNotice:
    """One session's; says nothing while little changes."""

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self._lag_s = 0.0

    def note(self, behind_s: float) -> None:
        """An answer came so long after its audio."""
        lag_s = round(behind_s, 1) if behind_s >= LAG_SECONDS_MIN else 0.0
        if abs(lag_s - self._lag_s) >= LAG_SECONDS_STEP:
            self._lag_s = lag_s
            self._log.post(Lag(self._log.last_seq, lag_s))
