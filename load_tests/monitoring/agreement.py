"""Figures of Prometheus beside the load generator's own. Pure.

Both measure each word from the arrival (there: the sending) of its last sample to the message that
holds it, at the two ends of one connection on one machine: quantiles must fall into the same bucket
of the histogram or into neighbours. RTFx is a ratio of the same two sums, kept by the server once
per session, for the client, and once per call, for Prometheus.
"""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from server.telemetry import LATENCY_BUCKETS_S

BUCKETS_APART_MAX = 1
RTFX_DIFFERENCE_MAX = 0.05
"""A call that is answered after a session's last event is Prometheus's alone."""
AUDIO_DIFFERENCE_MAX = 0.001
SHARES = {"p50": 0.50, "p95": 0.95, "p99": 0.99}


@dataclass(frozen=True, slots=True)
class Pair:
    """One figure from both sides."""

    name: str
    here: float | None
    """The load generator's."""
    there: float | None
    """Prometheus's."""
    agrees: bool
    how: str
    """In which sense."""

    def line(self) -> str:
        verdict = "agrees" if self.agrees else "DIFFERS"
        figures = f"{_text(self.here)} here, {_text(self.there)} there"
        return f"{self.name}: {figures}; {verdict} ({self.how})"


def _text(value: float | None) -> str:
    return "nothing" if value is None else f"{value:.3f}"


def bucket_of(value: float, bounds_s: Sequence[float] = LATENCY_BUCKETS_S) -> int:
    """Which bucket of delays holds it."""
    return bisect_left(bounds_s, value)


def delay_pair(
    name: str,
    here: float | None,
    there: float | None,
    bounds_s: Sequence[float] = LATENCY_BUCKETS_S,
) -> Pair:
    """A quantile in seconds."""
    if here is None or there is None:
        return Pair(name, here, there, agrees=False, how="one side has nothing")
    # Where a quantile lies on a bound, rounding decides which bucket it is told to be in.
    apart = abs(bucket_of(here, bounds_s) - bucket_of(there, bounds_s))
    return Pair(name, here, there, apart <= BUCKETS_APART_MAX, f"{apart} buckets apart")


def ratio_pair(name: str, here: float | None, there: float | None, most: float) -> Pair:
    """A figure that must be the same up to a share of it."""
    if not here or there is None:
        return Pair(name, here, there, agrees=False, how="one side has nothing")
    difference = abs(there / here - 1)
    return Pair(name, here, there, difference <= most, f"{difference:.1%} apart")


def delay_queries(metric: str) -> dict[str, str]:
    """Quantile → query over all words since the server's start."""
    return {
        name: f"histogram_quantile({share}, sum by (le) ({metric}_bucket))"
        for name, share in SHARES.items()
    }


def delay_pairs(
    name: str,
    here: Mapping[str, float | None],
    there: Mapping[str, float | None],
    bounds_s: Sequence[float],
) -> Sequence[Pair]:
    return [delay_pair(f"{name} {share}", here[share], there[share], bounds_s) for share in SHARES]
