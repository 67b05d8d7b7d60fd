"""How long each word took: from the arrival of its last sample to the moment it was written.

This is the only place where the audio clock and the monotonic clock meet. One instance per lane.
"""

from array import array
from bisect import bisect_left
from collections.abc import Iterable

from streaming.timeline import SAMPLES_PER_MS, Span

MARK_SAMPLES = 20 * SAMPLES_PER_MS
"""Packets that are shorter share a mark, unless they come further apart than ``MARK_NS``."""
MARK_NS = 20_000_000
"""The error that sharing a mark adds to a delay."""
MARKS_MAX = 20_000
"""More than six minutes of live packets of 20 ms; beyond it, packets share marks at any pace."""

BURST_SECONDS = 30
"""One Whisper window: a longer stall is no live talk any more."""
BURST_NS = BURST_SECONDS * 1_000_000_000
EARLY_NS = 1_000_000_000
"""A packet's own length, and what a network makes of it: so much may come at once and be live."""
CATCH_UP_PACE = 1.5
"""Audio per second of time that engines are given to follow a burst: what admits sessions leaves
them that much and more."""
LONG_AGO_NS = -(1 << 62)
"""Before every reading of a monotonic clock."""


class ArrivalClock:
    """When each sample arrived, for the samples that may still be asked for."""

    def __init__(self) -> None:
        self._ends = array("q")
        self._times_ns = array("q")
        self._mark_since_ns = 0
        """When the first sample of the newest mark arrived."""

    @property
    def latest_sample(self) -> int:
        return self._ends[-1] if self._ends else 0

    @property
    def marks(self) -> int:
        """How many arrivals are remembered."""
        return len(self._ends)

    def note(self, end: int, now_ns: int) -> None:
        """Everything before sample ``end`` has arrived by now."""
        if end <= self.latest_sample:
            return
        if self._is_mark_full(end, now_ns):
            self._make_room()
            self._ends.append(end)
            self._times_ns.append(now_ns)
            self._mark_since_ns = now_ns
        else:
            self._ends[-1] = end
            self._times_ns[-1] = now_ns

    def _is_mark_full(self, end: int, now_ns: int) -> bool:
        if len(self._ends) < 2 or end - self._ends[-2] >= MARK_SAMPLES:
            return True
        return now_ns - self._mark_since_ns > MARK_NS and len(self._ends) < MARKS_MAX

    def _make_room(self) -> None:
        """At the bound, every second mark stands for the one before it as well."""
        if len(self._ends) >= MARKS_MAX:
            self._ends, self._times_ns = self._ends[1::2], self._times_ns[1::2]

    def arrival_ns(self, sample: int) -> int | None:
        """When the last sample before ``sample`` arrived; the latest arrival for later ones."""
        if not self._ends:
            return None
        return self._times_ns[min(bisect_left(self._ends, sample), len(self._ends) - 1)]

    def forget(self, before: int) -> None:
        """No sample before this one will be asked for; the newest mark always stays."""
        count = min(bisect_left(self._ends, before), max(0, len(self._ends) - 1))
        del self._ends[:count], self._times_ns[:count]


class SpeechPace:
    """Where a lane's audio would be, had it come at the pace of speech.

    A stream may be ahead of the pace by ``BURST_NS`` before it counts as faster than speech: what
    was recorded before it could connect, and what waited in a stalled network, is live.
    """

    def __init__(self) -> None:
        self._spoken_ns = LONG_AGO_NS
        """When the last sample would have been there."""

    def note(self, samples: int, now_ns: int) -> None:
        """So much audio has arrived."""
        since_ns = max(self._spoken_ns, now_ns - BURST_NS)
        self._spoken_ns = since_ns + samples * 1_000_000 // SAMPLES_PER_MS

    def spoken_ns(self, samples_ago: int) -> int:
        """When the sample so far before the last one would have been there."""
        return self._spoken_ns - samples_ago * 1_000_000 // SAMPLES_PER_MS


class CatchUpPace:
    """When a lane's audio would have been there, had none of it come faster than it was spoken.

    A burst takes as long as it takes to speak it. Who goes on at the pace of speech after one is
    taken to be caught up with at ``CATCH_UP_PACE``: whoever had to send much at once, after a
    stall of the network, is not given time for ever.
    """

    def __init__(self) -> None:
        self._ahead_ns = -EARLY_NS
        self._seen_ns = LONG_AGO_NS

    def note(self, samples: int, now_ns: int) -> None:
        """So much audio has arrived."""
        caught_up_ns = round((now_ns - self._seen_ns) * CATCH_UP_PACE)
        spoken_ns = samples * 1_000_000 // SAMPLES_PER_MS
        self._ahead_ns = max(-EARLY_NS, self._ahead_ns - caught_up_ns) + spoken_ns
        self._seen_ns = now_ns

    def due_ns(self, samples_ago: int) -> int:
        """When the sample so far before the last one would have been there."""
        return self._seen_ns + self._ahead_ns - samples_ago * 1_000_000 // SAMPLES_PER_MS


class WordDelays:
    """Which words of a lane have been shown, and how late."""

    def __init__(self, arrivals: ArrivalClock) -> None:
        self._arrivals = arrivals
        self._shown_through = 0

    def first_shown_s(self, words: Iterable[Span], now_ns: int) -> list[float]:
        """Delays of the words that reach beyond everything shown before, in seconds."""
        fresh = [word for word in words if word.end > self._shown_through]
        if fresh:
            self._shown_through = max(word.end for word in fresh)
        return self.of(fresh, now_ns)

    def of(self, words: Iterable[Span], now_ns: int) -> list[float]:
        """Seconds since the arrival of each word's last sample."""
        arrivals = (self._arrivals.arrival_ns(word.end) for word in words)
        return [max(0, now_ns - arrival) / 1e9 for arrival in arrivals if arrival is not None]
