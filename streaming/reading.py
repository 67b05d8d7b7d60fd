"""What the talker's connections were given: up to which event, and how late each word was.

Owns the place in the session's events that was written, ever and to the present connection, which
may have to read again. Knows no cursor and no socket.
"""

from collections.abc import Callable
from dataclasses import dataclass

from streaming.delays import WordDelays
from streaming.events import DurableEvent, Event, Final, Partial
from streaming.stats import SessionStats


@dataclass(frozen=True, slots=True)
class WordDelay:
    """How late one word was written, in seconds after the arrival of its last sample."""

    is_final: bool
    seconds: float


class TalkerReading:
    """One session's talker."""

    def __init__(
        self, stats: SessionStats, delays_of: Callable[[int], WordDelays], *, written_seq: int = 0
    ) -> None:
        """``delays_of`` a lane; ``written_seq``: what was written before this object was made."""
        self._stats = stats
        self._delays_of = delays_of
        self._written_seq = written_seq
        self.read_seq = written_seq
        """The present connection has the durable events up to this one."""

    def attach(self, last_seq: int) -> None:
        """Another connection is there; it has the durable events up to ``last_seq``."""
        self.read_seq = last_seq

    def note_written(self, event: Event, now_ns: int) -> list[WordDelay]:
        """The connection wrote an event; the delays of its words, unless it came before."""
        is_again = isinstance(event, DurableEvent) and event.seq <= self._written_seq
        if isinstance(event, DurableEvent):
            self.read_seq = max(self.read_seq, event.seq)
            self._written_seq = max(self._written_seq, event.seq)
        if is_again or not isinstance(event, Partial | Final):
            return []
        return self._delays(event, now_ns)

    def _delays(self, event: Partial | Final, now_ns: int) -> list[WordDelay]:
        delays = self._delays_of(event.lane)
        spans = [word.span for word in event.words]
        found = [WordDelay(False, s) for s in delays.first_shown_s(spans, now_ns)]
        if isinstance(event, Final):
            found += [WordDelay(True, s) for s in delays.of(spans, now_ns)]
        for delay in found:
            stats = self._stats.final_latency if delay.is_final else self._stats.partial_latency
            stats.add(delay.seconds)
        return found
