"""When a session's deadline is acted upon: on time, and never before what is under way has come.

Owns the one timer of a session. While audio may still come, a deadline means that the talker has
paused; what was heard is closed then, in the middle of a word if it must be. So a pause has to be
the talker's own: not this process's, not the line's, not that of a client that has only just come
back. Knows no socket; a connection lends it a way to ask the line.
Invariants: D1 a session has at most one timer; D2 a pause is closed at most ``LINE_NS_MAX`` late.
"""

import asyncio
import time
from collections.abc import Callable
from functools import partial
from typing import Protocol

from streaming.resting import IDLE_FLUSH_NS
from streaming.session import SessionState

LATE_NS = 200_000_000
"""A timer that is later than this was held up by the whole process."""
CATCH_UP_NS = 100_000_000
"""Then a loop runs its timers before it reads its sockets, and audio may wait in them."""
LINE_NS_MAX = 10_000_000_000
"""For a line that stands still, and for the first audio of a client that has come back."""
ANSWERED_NS = 250_000_000
"""A library may answer before its program, which stood still as well, sends what it has."""


class Waiting(Protocol):
    """A session, as far as time is concerned."""

    @property
    def state(self) -> SessionState: ...

    @property
    def deadline_ns(self) -> int | None: ...


Probe = Callable[[Callable[[], None]], None]
"""Asks a connection; what it is given is called when the client's answer has come, and with it
everything that was sent before."""


class DeadlineTimer:
    """One session's."""

    def __init__(self, session: Waiting, act: Callable[[int], None]) -> None:
        """``act`` is called when a deadline has come, with the time."""
        self._session = session
        self._act = act
        self._timer: asyncio.TimerHandle | None = None
        self._timer_ns = 0
        self._probe: Probe | None = None
        self._has_heard = True
        """Audio came over the present connection."""
        self._audio_ns = 0
        """When it came last, on whichever lane."""
        self._waits_since_ns: int | None = None
        """Since when a pause waits for the line; None while none does."""
        self._question: object | None = None
        self._is_answered = False

    def use(self, probe: Probe | None, *, has_come_back: bool) -> None:
        """Another connection is there, or none; ``has_come_back``: to a session with audio."""
        self.cancel()
        self._probe = probe
        self._has_heard = not has_come_back

    def note_audio(self, now_ns: int) -> None:
        """A packet came."""
        self._has_heard = True
        self._audio_ns = now_ns
        if self._waits_since_ns is not None:
            self.cancel()
        if self._timer is None:
            self.arm(now_ns)

    def arm(self, now_ns: int) -> None:
        """A timer that comes too early only looks again: packets move the deadline all the time."""
        deadline_ns = self._session.deadline_ns
        if deadline_ns is None or self._waits_since_ns is not None:
            return
        if self._timer is None or deadline_ns < self._timer_ns:
            self._set(max(now_ns, deadline_ns), now_ns)

    def cancel(self) -> None:
        """Nothing is looked at, and no pause waits."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._waits_since_ns = self._question = None
        self._is_answered = False

    def _set(self, due_ns: int, now_ns: int) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_ns = due_ns
        self._timer = asyncio.get_running_loop().call_later((due_ns - now_ns) / 1e9, self._fire)

    def _fire(self) -> None:
        self._timer = None
        now_ns = time.monotonic_ns()
        if now_ns - self._timer_ns > LATE_NS:
            self._set(now_ns + CATCH_UP_NS, now_ns)
        elif self._is_talkers_own(now_ns):
            self.cancel()
            self._act(now_ns)

    def _is_talkers_own(self, now_ns: int) -> bool:
        """False where a pause waits for the line; the timer is set then (D2)."""
        deadline_ns = self._session.deadline_ns
        is_pause = self._session.state is SessionState.OPEN
        if deadline_ns is None or now_ns < deadline_ns or not is_pause:
            return True
        if self._has_heard and (self._probe is None or self._is_answered):
            return True
        # Of tagged audio, a packet of another lane says that the line holds.
        if now_ns - self._audio_ns < IDLE_FLUSH_NS:
            return True
        if self._waits_since_ns is None:
            self._waits_since_ns = now_ns
            self._ask()
        give_up_ns = self._waits_since_ns + LINE_NS_MAX
        if now_ns < give_up_ns:
            self._set(give_up_ns, now_ns)
        return now_ns >= give_up_ns

    def _ask(self) -> None:
        if self._has_heard and self._probe is not None:
            self._question = object()
            self._probe(partial(self._note_answer, self._question))

    def _note_answer(self, question: object) -> None:
        if question is self._question:
            self._question, self._is_answered = None, True
            now_ns = time.monotonic_ns()
            self._set(now_ns + ANSWERED_NS, now_ns)
