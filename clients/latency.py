"""How long after its last sample a caption came, as the client sees it. Pure.

Arrival is the moment a packet was handed to the stream, so a lost connection counts as delay.
Bounds: ``PACKETS_KEPT`` arrivals and ``DELAYS_KEPT`` delays, the oldest go first.
"""

from bisect import bisect_left
from collections import deque

PACKETS_KEPT = 36_000
"""One hour of 100 ms packets: no caption comes later than that."""
DELAYS_KEPT = 10_000
"""Quantiles of the last ten thousand captions are quantiles enough."""


class LatencyMeter:
    """Pairs the ends of captions with the packets that held them."""

    def __init__(self) -> None:
        self._ends: deque[float] = deque(maxlen=PACKETS_KEPT)
        self._times_ns: deque[int] = deque(maxlen=PACKETS_KEPT)
        self._delays_s: deque[float] = deque(maxlen=DELAYS_KEPT)
        self._first_ns: int | None = None

    @property
    def audio_seconds(self) -> float:
        """Audio sent so far."""
        return self._ends[-1] if self._ends else 0.0

    def packet_sent(self, end_seconds: float, now_ns: int) -> None:
        if self._first_ns is None:
            self._first_ns = now_ns
        self._ends.append(end_seconds)
        self._times_ns.append(now_ns)

    def caption_came(self, end_seconds: float, now_ns: int) -> float | None:
        """The caption's delay in seconds; None where the packet is long forgotten."""
        if not self._ends or self._is_forgotten(end_seconds):
            return None
        index = min(bisect_left(self._ends, end_seconds), len(self._ends) - 1)
        delay_s = max(0, now_ns - self._times_ns[index]) / 1e9
        self._delays_s.append(delay_s)
        return delay_s

    def _is_forgotten(self, end_seconds: float) -> bool:
        return len(self._ends) == PACKETS_KEPT and end_seconds <= self._ends[0]

    def quantile_s(self, share: float) -> float | None:
        """Nearest-rank quantile of the delays; None before the first."""
        if not self._delays_s:
            return None
        ranked = sorted(self._delays_s)
        return ranked[min(len(ranked) - 1, int(share * len(ranked)))]

    def rtfx(self, captioned_seconds: float, now_ns: int) -> float | None:
        """Captioned audio seconds per second of waiting since the first packet."""
        if self._first_ns is None or now_ns <= self._first_ns:
            return None
        return captioned_seconds * 1e9 / (now_ns - self._first_ns)
