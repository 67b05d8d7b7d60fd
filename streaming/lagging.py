"""When to tell a client that its captions are behind its audio, or have caught up.

Owns what was told last. Captions are as far behind as the audio of the oldest question that nobody
has answered yet, about words or about speech, or as the answer that has just come. So a client
hears of an engine that stalls while it stalls, and not when it answers again.

Invariant: G1 captions are told to have caught up when an answer comes in time and no question is
late beside it, or when nothing has been late for ``CALM_NS``: with each utterance of a talker
whose answers all come late, they are not.
"""

from collections.abc import Iterable

from streaming.asking import Ask
from streaming.eventlog import EventLog
from streaming.events import Lag
from streaming.jobs import PATIENCE_NS, JobKind

LAG_SECONDS_MIN = 3.0
"""Below this, captions count as live: a hop, a window and a full batch fit in."""
LAG_SECONDS_STEP = 1.0
LAG_STEP_SHARE = 0.25
"""Of what was told before: whoever is a minute behind need not be told of each second."""
CALM_NS = 5_000_000_000
"""Longer than most pauses of a talker."""

_SPEECH = (JobKind.DETECT, JobKind.RECOGNIZE)
"""Nobody waits for a speaker."""


def behind_s(asks: Iterable[Ask], now_ns: int) -> float:
    """Since the audio of those asks came that wait for words, or for whether there are any."""
    came_ns = (ask.deadline_ns - PATIENCE_NS[ask.kind] for ask in asks if ask.kind in _SPEECH)
    return max(0, now_ns - min(came_ns, default=now_ns)) / 1e9


class LagNotice:
    """One session's; says nothing while little changes."""

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self._lag_s = 0.0
        """As it was told last."""
        self._late_ns = 0
        """When captions were late last."""

    def note(self, behind_s: float, now_ns: int) -> None:
        """An answer came; captions are so far behind."""
        if behind_s >= LAG_SECONDS_MIN:
            self._late_ns = now_ns
            self._tell(round(behind_s, 1))
        else:
            self._tell(0.0)

    def look(self, behind_s: float, now_ns: int) -> None:
        """No answer came: captions are so far behind by now."""
        if behind_s >= LAG_SECONDS_MIN:
            self._late_ns = now_ns
            self._tell(max(round(behind_s, 1), self._lag_s))
        elif now_ns - self._late_ns >= CALM_NS:
            self._tell(0.0)

    def _tell(self, lag_s: float) -> None:
        step_s = max(LAG_SECONDS_STEP, LAG_STEP_SHARE * self._lag_s)
        if lag_s == self._lag_s or (lag_s and abs(lag_s - self._lag_s) < step_s):
            return
        self._lag_s = lag_s
        self._log.post(Lag(self._log.last_seq, lag_s))
