"""Captions that clients see before they are stored: how many there may be while the store refuses.

Owns the account over all sessions; the events themselves wait in each session's log, which is
their spool: they are written from there, in order, before anything newer. Knows no sockets and no
database.
Invariants: P1 at most ``SPOOL_EVENTS_MAX`` events of a session, and ``SPOOL_BYTES_MAX`` of JSON
over all sessions, are shown and not stored; beyond that captions wait unseen, and a session whose
log is full takes no more audio; P2 the last event of a session is never among them: who has it
keeps no audio to repair a loss with.
"""

from collections import deque

from streaming.eventlog import EventLog
from streaming.events import Done
from streaming.wire import encode_event

SPOOL_EVENTS_MAX = 512
"""A quarter of an hour of lively talk, and half of what the log of a session holds."""
SPOOL_BYTES_MAX = 64 * 1024 * 1024
"""200 sessions for ten minutes need about half of it."""


class Spool:
    """The account of all sessions."""

    def __init__(
        self, *, events_max: int = SPOOL_EVENTS_MAX, bytes_max: int = SPOOL_BYTES_MAX
    ) -> None:
        self.events_max = events_max
        self._bytes_max = bytes_max
        self.events = 0
        self.bytes = 0

    def take(self, size_bytes: int) -> bool:
        """Count one event more; False, and nothing counted, where it does not fit."""
        if self.bytes + size_bytes > self._bytes_max:
            return False
        self.events += 1
        self.bytes += size_bytes
        return True

    def give_back(self, size_bytes: int) -> None:
        self.events -= 1
        self.bytes -= size_bytes


class SessionSpool:
    """One session's part."""

    def __init__(self, log: EventLog, spool: Spool) -> None:
        self._log = log
        self._spool = spool
        self._sizes_bytes: deque[int] = deque()
        """Of the events that are shown and not stored, oldest first."""

    @property
    def events(self) -> int:
        return len(self._sizes_bytes)

    def show(self) -> None:
        """The store refuses: let readers see what waits for it, as far as there is room."""
        for event in self._log.hidden:
            if isinstance(event, Done) or self.events >= self._spool.events_max:
                return
            size_bytes = len(encode_event(event))
            if not self._spool.take(size_bytes):
                return
            self._sizes_bytes.append(size_bytes)
            self._log.show_unstored(event.seq)

    def settle(self) -> None:
        """The store has taken events: they need no room any more."""
        while self.events > self._log.shown_seq - self._log.stored_seq:
            self._spool.give_back(self._sizes_bytes.popleft())

    def close(self) -> None:
        """The session is gone, and what it showed with it."""
        while self._sizes_bytes:
            self._spool.give_back(self._sizes_bytes.popleft())
