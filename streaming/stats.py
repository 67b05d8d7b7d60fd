"""What a session has counted, as plain data.

Owns: counters, latency distributions of bounded size, and their summary. Exports nothing, reads no
clock: whoever measures hands the figures in.
"""

from collections import Counter
from dataclasses import dataclass, field
from math import ceil, exp, floor, log

from streaming.events import GapReason, Quantiles, SessionStage
from streaming.timeline import SAMPLE_RATE_HZ

LATENCY_S_MIN, LATENCY_S_MAX = 0.001, 1_000.0
"""What lies outside falls into the first or last bucket."""
BUCKET_GROWTH = 1.05
"""A quantile is within 2.5 % of a latency that was measured."""
BUCKETS = 1 + ceil(log(LATENCY_S_MAX / LATENCY_S_MIN) / log(BUCKET_GROWTH))


@dataclass(slots=True)
class LatencyStats:
    """Quantiles of any number of latencies in ``BUCKETS`` counters, the same in any order."""

    counts: list[int] = field(default_factory=lambda: [0] * BUCKETS)
    low_s: float = LATENCY_S_MAX
    high_s: float = 0.0

    @property
    def count(self) -> int:
        return sum(self.counts)

    def add(self, seconds: float) -> None:
        """A negative latency (a word shown before its end) counts as none."""
        value_s = max(0.0, seconds)
        self.counts[_bucket(value_s)] += 1
        self.low_s = min(self.low_s, value_s)
        self.high_s = max(self.high_s, value_s)

    def quantile(self, share: float) -> float | None:
        """The latency that ``share`` of all stay at or below; None where nothing was measured."""
        rank = max(1, ceil(share * self.count))
        seen = 0
        for bucket, count in enumerate(self.counts):
            seen += count
            if seen >= rank:
                middle_s = LATENCY_S_MIN * exp((bucket + 0.5) * log(BUCKET_GROWTH))
                return round(min(max(middle_s, self.low_s), self.high_s), 3)
        return None

    def quantiles(self) -> Quantiles:
        return Quantiles(self.quantile(0.50), self.quantile(0.95))


def _bucket(value_s: float) -> int:
    bounded_s = min(max(value_s, LATENCY_S_MIN), LATENCY_S_MAX)
    return min(BUCKETS - 1, floor(log(bounded_s / LATENCY_S_MIN) / log(BUCKET_GROWTH)))


@dataclass(slots=True)
class SessionStats:
    """One session's counters; samples are summed over its lanes."""

    received_samples: int = 0
    decoded_samples: int = 0
    """Inside utterances that were recognized."""
    silent_samples: int = 0
    """Judged to hold no speech."""
    gap_samples: Counter[GapReason] = field(default_factory=Counter)
    engine_ns: Counter[SessionStage] = field(default_factory=Counter)
    """This session's share of the time that batches took."""
    engine_calls: Counter[SessionStage] = field(default_factory=Counter)
    words: int = 0
    """In finals."""
    partials: int = 0
    finals: int = 0
    revisions: int = 0
    revised_words: int = 0
    stable_words: int = 0
    """Words of finals that a partial had called stable at their place."""
    broken_stable_words: int = 0
    """Those of them that the final changed."""
    guards_fired: Counter[str] = field(default_factory=Counter)
    """Finals whose words are not what plain decoding gave, by the name of the guard."""
    superseded_results: int = 0
    """Answers that came after their question had lost its meaning."""
    dropped_chunks: int = 0
    """Chunks that no diarizer looked at, because it failed or was too late."""
    degraded_stages: set[SessionStage] = field(default_factory=set)
    """Stages whose failure the client was told of."""
    dropped_events: int = 0
    """Passing events that a slow reader did not get."""
    partial_latency: LatencyStats = field(default_factory=LatencyStats)
    """First time that a word was shown, after the arrival of its last sample."""
    final_latency: LatencyStats = field(default_factory=LatencyStats)

    @property
    def gap_samples_total(self) -> int:
        return self.gap_samples.total()

    @property
    def unaccounted_samples(self) -> int:
        """Received, and not yet decoded, judged silent or reported; 0 at the end of a session."""
        told = self.decoded_samples + self.silent_samples + self.gap_samples_total
        return self.received_samples - told

    def add_engine_time(self, stage: SessionStage, duration_ns: int) -> None:
        self.engine_ns[stage] += duration_ns
        self.engine_calls[stage] += 1

    def rtfx(self, stage: SessionStage | None = None) -> float | None:
        """Audio seconds per second of engine time, of one stage or all; None if none was used."""

        used_ns = self.engine_ns.total() if stage is None else self.engine_ns[stage]
        if used_ns <= 0:
            return None
        return round(self.received_samples / SAMPLE_RATE_HZ / (used_ns / 1e9), 3)
