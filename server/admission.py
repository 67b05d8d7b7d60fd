"""Whether one more session may start, what to tell the client where it may not, and who goes.

Pure: counts and measurements come in. ``load.py`` measures, ``overload.py`` does what is said here.

What is done about too much work, in this order: partials come less often (``streaming/pacing.py``);
no new session starts; clients are told how late they are (``streaming/lagging.py``); and only where
words are later than ``SHED_LATE_S``, and partials as rare as they get, the newest sessions are sent
away for a while.

Invariants: A1 a gate that has closed opens again only below its lower bound; A2 nobody is sent
away while lateness falls, and never the last session.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from math import inf

from streaming.errors import Draining, Overloaded, TooFast
from streaming.pacing import BUSY_SHARE

RETRY_AFTER_LOADING_MS = 1_000
"""Loading takes seconds or a minute, and all who were here before wait for its end; a refusal
costs a millisecond."""
RETRY_AFTER_FULL_MS = 3_000
"""Sessions last minutes, but with many of them one ends every few seconds."""
RETRY_AFTER_QUOTA_MS = 10_000
"""The tenant has to end a session of its own first."""
RETRY_AFTER_DRAINING_MS = 1_000
"""Another server, or this one's successor, may answer at once."""
RETRY_AFTER_OVERLOAD_MS = 5_000
"""As long as what was measured takes to fade."""
RETRY_AFTER_SHED_MS = 20_000
"""Well inside the resume window, and long enough for those who stayed to catch up."""

LATE_S = 2.0
"""Below what clients are told of as lag: new sessions are refused first."""
LATE_CALLS = 3.0
"""With slow engines, what has just missed a call waits for that one, and is in the next."""
SHED_LATE_S = 6.0
"""Twice the lag that clients are told of: nobody can follow a talk by such captions."""
SHED_EVERY_S = 3.0
"""At least; what waits when somebody goes is answered all the same, so it takes as long as words
are late to see whether those who went were enough."""
SHED_PART_MIN, SHED_PART_MAX = 0.1, 0.5
"""Of the sessions, at a time: more than are too many, so that those who stay catch up, but no more
than one can be sure of."""


@dataclass(frozen=True, slots=True)
class Admission:
    """The limits that a new session must fit into."""

    sessions_max: int
    per_tenant_max: int | None = None
    """None: a tenant may use all of ``sessions_max``."""

    def admit(
        self, tenant: str, active: Mapping[str, int], *, is_draining: bool, is_ready: bool
    ) -> None:
        """``active`` counts the present sessions, detached ones included, by tenant.

        Raises: Draining, Overloaded, or TooFast (the tenant's own limit), with a retry hint.
        """
        if is_draining:
            raise Draining(
                "the server is going down; connect again", retry_after_ms=RETRY_AFTER_DRAINING_MS
            )
        if not is_ready:
            raise Overloaded(
                "the server is still loading its models; try again",
                retry_after_ms=RETRY_AFTER_LOADING_MS,
            )
        if self.per_tenant_max is not None and active.get(tenant, 0) >= self.per_tenant_max:
            raise TooFast(
                f"this key already has {self.per_tenant_max} sessions; end one first",
                retry_after_ms=RETRY_AFTER_QUOTA_MS,
            )
        if sum(active.values()) >= self.sessions_max:
            raise Overloaded(
                f"all {self.sessions_max} sessions are taken; try again or use another server",
                retry_after_ms=RETRY_AFTER_FULL_MS,
            )


class OverloadReason(StrEnum):
    """Why no new session may start; a label of metrics."""

    ENGINES = "engines"
    BACKLOG = "backlog"
    MEMORY = "memory"


WHAT_IS_WRONG = {
    OverloadReason.ENGINES: "the speech engines have no time for another session",
    OverloadReason.BACKLOG: "captions are late already",
    OverloadReason.MEMORY: "the server's memory is nearly used up",
}


@dataclass(frozen=True, slots=True)
class Bounds:
    """Closed above the upper one, open again below the lower one."""

    upper: float
    lower: float


BOUNDS = {
    OverloadReason.ENGINES: Bounds(BUSY_SHARE, 0.7),
    OverloadReason.BACKLOG: Bounds(1.0, 0.5),
    OverloadReason.MEMORY: Bounds(0.85, 0.80),
}


@dataclass(frozen=True, slots=True)
class Load:
    """What decides whether one more session may start."""

    engine_share: float
    """Of the recognizers' time that would be needed with that session."""
    late_s: float
    """How late the latest live work is."""
    call_s: float
    """How long a call of the recognizer takes."""
    memory_share: float
    """Of what the server may use."""

    def measure(self, reason: OverloadReason) -> float:
        """What is held against the ``BOUNDS`` of a reason."""
        match reason:
            case OverloadReason.ENGINES:
                return self.engine_share
            case OverloadReason.BACKLOG:
                late_s_max = min(max(LATE_S, LATE_CALLS * self.call_s), SHED_LATE_S)
                return self.late_s / late_s_max
            case OverloadReason.MEMORY:
                return self.memory_share


class LoadGate:
    """Closed to new sessions while there is too much of anything."""

    def __init__(self) -> None:
        self._closed: set[OverloadReason] = set()

    @property
    def reasons(self) -> list[OverloadReason]:
        """Why it is closed; empty while it is open."""
        return [reason for reason in OverloadReason if reason in self._closed]

    def note(self, load: Load) -> None:
        for reason, bounds in BOUNDS.items():
            value = load.measure(reason)
            if value > bounds.upper:
                self._closed.add(reason)
            elif value < bounds.lower:
                self._closed.discard(reason)

    def refusal(
        self, against: Collection[OverloadReason] = tuple(OverloadReason)
    ) -> Overloaded | None:
        """For a client that wants in; None while nothing of ``against`` closes it."""
        reasons = [reason for reason in self.reasons if reason in against]
        if not reasons:
            return None
        wrong = " and ".join(WHAT_IS_WRONG[reason] for reason in reasons)
        return Overloaded(
            f"{wrong}; try again or use another server", retry_after_ms=RETRY_AFTER_OVERLOAD_MS
        )


class Shedding:
    """How many of the newest sessions must go, for those before them to be captioned in time."""

    def __init__(self, now_ns: int) -> None:
        self._looks_ns = now_ns
        self._lowest_s = inf
        """How late it was at the best moment since the last look: it jumps with each call."""
        self._before_s = 0.0
        """The same, at the last look."""

    def count(
        self, late_s: float, busy_share: float, left_share: float, sessions: int, now_ns: int
    ) -> int:
        """To be asked at every look at the load, sessions are those that are connected.

        ``busy_share`` of the engines' time goes into what thinning partials out cannot save; below
        ``BUSY_SHARE``, whatever is late is late for another reason. ``left_share`` of the live
        finals is not answered as fast as it is asked for: so many sessions are too many.
        """
        self._lowest_s = min(self._lowest_s, late_s)
        if now_ns < self._looks_ns:
            return 0
        is_falling = self._lowest_s < self._before_s
        self._before_s, self._lowest_s = self._lowest_s, inf
        self._looks_ns = now_ns + round(SHED_EVERY_S * 1e9)
        if is_falling or late_s <= SHED_LATE_S or busy_share < BUSY_SHARE or sessions < 2:
            return 0
        self._looks_ns = now_ns + round(late_s * 1e9)
        return max(1, int(sessions * min(SHED_PART_MAX, left_share + SHED_PART_MIN)))


def who_goes(sessions: Sequence[str], can_come_back: Collection[str], count: int) -> set[str]:
    """The newest ``count`` of ``sessions``, which are in the order in which they came.

    Whoever cannot come back would lose words, and goes when nobody else is left.
    """
    order = sorted(sessions, key=lambda session_id: session_id in can_come_back)
    return set(order[len(order) - count :])


def shed_error() -> Overloaded:
    """For a session that has to go."""
    return Overloaded(
        "too many sessions for this server's engines, and this is one of the newest; keep the "
        "audio and resume later",
        retry_after_ms=RETRY_AFTER_SHED_MS,
    )
