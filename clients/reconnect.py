"""Whether, and when, a lost connection is tried again. Pure: time and chance are arguments.

Invariants: R1 what the server means for good is never retried; R2 tries and time are counted from
the last progress, so a session that moves on is never given up; R3 a server's ``retry_after_ms``
is never undercut.
"""

from dataclasses import dataclass
from enum import Enum

FATAL_CODES = frozenset(
    {1002, 1003, 1007, 1008, 1009, 1010, 1015, 4400, 4401, 4403, 4404, 4409, 4410}
)
"""The same message would be answered the same way, or the session is gone."""
FEW_TRIES_CODES = frozenset({1011, 4429, 4500})
"""A fault of the server, or a quota, may pass; if it does not soon, more tries are a burden."""

PROGRESS_UPTIME_NS = 5_000_000_000
"""A connection that held this long was a good one, even where nobody spoke."""


class Fate(Enum):
    """What a close code allows."""

    FATAL = "never again"
    FEW_TRIES = "a few times"
    RETRY = "as the policy says"


def fate_of(close_code: int) -> Fate:
    if close_code in FATAL_CODES:
        return Fate.FATAL
    return Fate.FEW_TRIES if close_code in FEW_TRIES_CODES else Fate.RETRY


@dataclass(frozen=True, slots=True)
class Retry:
    """How stubborn a client is; the defaults spread 10 tries over 60 s at most."""

    first_delay_ms: int = 200
    delay_ms_max: int = 8_000
    jitter: float = 0.5
    """Each delay is multiplied by 1 ± this, so that a thousand clients do not come back at once."""
    tries_max: int = 10
    time_ms_max: int = 60_000
    few_tries_max: int = 3
    """For codes where more would be a burden, and for the first opening of a session."""

    def delay_ms(self, tries: int, chance: float, retry_after_ms: int | None = None) -> float:
        """Before try number ``tries`` (from 0); ``chance`` is uniform in [0, 1)."""
        base = min(self.delay_ms_max, self.first_delay_ms * (1 << min(tries, 16)))
        wait = base * (1 + self.jitter * (2 * chance - 1))
        return wait if retry_after_ms is None else max(wait, retry_after_ms * (1 + chance / 4))


class RetryBudget:
    """Counts tries since the last progress of one session."""

    def __init__(self, policy: Retry) -> None:
        self._policy = policy
        self._tries = 0
        self._since_ns: int | None = None

    @property
    def tries(self) -> int:
        return self._tries

    def progressed(self) -> None:
        """A frame was stored or an event came: the count starts anew."""
        self._tries = 0
        self._since_ns = None

    def next_delay_ms(
        self,
        close_code: int,
        now_ns: int,
        chance: float,
        *,
        is_opening: bool,
        retry_after_ms: int | None = None,
    ) -> float | None:
        """How long to wait before the next try; None where there is to be none."""
        fate = fate_of(close_code)
        if self._since_ns is None:
            self._since_ns = now_ns
        few = is_opening or fate is Fate.FEW_TRIES
        tries_max = self._policy.few_tries_max if few else self._policy.tries_max
        delay_ms = self._policy.delay_ms(self._tries, chance, retry_after_ms)
        spent_ms = (now_ns - self._since_ns) / 1e6
        is_over = self._tries >= tries_max or spent_ms + delay_ms > self._policy.time_ms_max
        if fate is Fate.FATAL or is_over:
            return None
        self._tries += 1
        return delay_ms
