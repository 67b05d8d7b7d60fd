"""What ``captiond top`` shows, from two readings of ``/metrics``. Pure.

Rates and quantiles are those of the time between the two; totals and gauges those of the newer.
A reading of a server that was restarted in between counts from its start.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from math import inf

from prometheus_client.parser import text_string_to_metric_families

PREFIX = "captiond_"
KEYS_SHOWN_MAX = 5


class NotOurMetrics(Exception):
    """The page is no captiond's; the message is one line for people."""


@dataclass(frozen=True, slots=True)
class Reading:
    """One page of metrics."""

    at_s: float
    """On any clock that goes forward."""
    samples: dict[str, dict[frozenset[tuple[str, str]], float]] = field(repr=False)
    """Name → labels → value."""

    def total(self, name: str, **labels: str) -> float:
        """Sum over all series with these labels; 0 where there is none."""
        wanted = labels.items()
        series = self.samples.get(name, {})
        return sum(value for found, value in series.items() if wanted <= set(found))

    def values_of(self, name: str, label: str) -> list[str]:
        """All values that a label has."""
        series = self.samples.get(name, {})
        return sorted({value for found in series for key, value in found if key == label})

    def has(self, name: str) -> bool:
        return name in self.samples


def read_page(text: str, at_s: float) -> Reading:
    """Raises: NotOurMetrics."""
    samples: dict[str, dict[frozenset[tuple[str, str]], float]] = defaultdict(dict)
    try:
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                samples[sample.name][frozenset(sample.labels.items())] = sample.value
    except ValueError:
        raise NotOurMetrics("what answers there is no page of metrics") from None
    if f"{PREFIX}build_info" not in samples:
        raise NotOurMetrics("what answers there is no captiond, or hides its metrics")
    return Reading(at_s, dict(samples))


@dataclass(frozen=True, slots=True)
class Delay:
    """Seconds; None where nothing was measured."""

    p50: float | None
    p95: float | None
    p99: float | None


@dataclass(frozen=True, slots=True)
class StageFigures:
    """One stage's engines."""

    stage: str
    ready: int
    processes: int
    restarts: int
    is_stalled: bool
    busy_share: float | None
    """Of the time of its processes."""
    rtfx: float | None
    calls_per_s: float
    windows_per_call: float | None
    call_s: Delay
    wait_s: Delay
    queue_jobs: int


@dataclass(frozen=True, slots=True)
class KeyFigures:
    """One API key, by the operator's name for it."""

    name: str
    sessions: int
    audio_rate: float


@dataclass(frozen=True, slots=True)
class Figures:
    """All of one frame."""

    now: Reading
    passed_s: float
    version: str
    stages: tuple[StageFigures, ...]
    keys: tuple[KeyFigures, ...]
    _before: Reading

    def gauge(self, name: str, **labels: str) -> float:
        return self.now.total(PREFIX + name, **labels)

    def rate(self, name: str, **labels: str) -> float:
        """A second, of a counter."""
        grown = self.grown(name, **labels)
        return grown / self.passed_s if self.passed_s > 0 else 0.0

    def grown(self, name: str, **labels: str) -> float:
        """Of a counter, between the readings."""
        return _grown(self._before, self.now, PREFIX + name, **labels)

    def delay(self, name: str, **labels: str) -> Delay:
        """Quantiles of a histogram's observations between the readings."""
        return _delay(self._before, self.now, PREFIX + name, **labels)

    def closed_because(self) -> list[str]:
        """Why new sessions are refused for load."""
        reasons = self.now.values_of(f"{PREFIX}admission_closed", "reason")
        return [reason for reason in reasons if self.gauge("admission_closed", reason=reason)]


def figures_of(before: Reading, now: Reading) -> Figures:
    """What happened between two readings of one server."""
    passed_s = now.at_s - before.at_s
    versions = now.values_of(f"{PREFIX}build_info", "version")
    stages = now.values_of(f"{PREFIX}workers", "stage")
    return Figures(
        now,
        passed_s,
        versions[0],
        tuple(_stage(before, now, stage, passed_s) for stage in stages),
        tuple(_keys(before, now, passed_s)),
        before,
    )


def _stage(before: Reading, now: Reading, stage: str, passed_s: float) -> StageFigures:
    busy_s = _grown(before, now, f"{PREFIX}inference_duration_seconds_sum", stage=stage)
    audio_s = _grown(before, now, f"{PREFIX}audio_processed_seconds_total", stage=stage)
    calls = _grown(before, now, f"{PREFIX}inference_duration_seconds_count", stage=stage)
    windows = _grown(before, now, f"{PREFIX}batch_size_sum", stage=stage)
    processes = int(now.total(f"{PREFIX}workers", stage=stage))
    return StageFigures(
        stage,
        int(now.total(f"{PREFIX}workers", stage=stage, state="ready")),
        processes,
        int(now.total(f"{PREFIX}worker_restarts_total", stage=stage)),
        now.total(f"{PREFIX}stage_stalled", stage=stage) > 0,
        busy_s / passed_s / processes if passed_s > 0 and processes else None,
        audio_s / busy_s if busy_s > 0 else None,
        calls / passed_s if passed_s > 0 else 0.0,
        windows / calls if calls else None,
        _delay(before, now, f"{PREFIX}inference_duration_seconds", stage=stage),
        _delay(before, now, f"{PREFIX}queue_wait_seconds", stage=stage),
        int(now.total(f"{PREFIX}queue_depth", stage=stage)),
    )


def _keys(before: Reading, now: Reading, passed_s: float) -> Iterator[KeyFigures]:
    """Those who use it most."""
    names = now.values_of(f"{PREFIX}key_sessions_active", "key")
    found = [
        KeyFigures(
            name,
            int(now.total(f"{PREFIX}key_sessions_active", key=name)),
            _grown(before, now, f"{PREFIX}key_audio_seconds_total", key=name) / passed_s
            if passed_s > 0
            else 0.0,
        )
        for name in names
    ]
    yield from sorted(found, key=lambda key: (-key.sessions, -key.audio_rate))[:KEYS_SHOWN_MAX]


def _grown(before: Reading, now: Reading, name: str, **labels: str) -> float:
    """A counter that is lower than before began anew: all that it has is new."""
    old, new = before.total(name, **labels), now.total(name, **labels)
    return new - old if new >= old else new


def _delay(before: Reading, now: Reading, name: str, **labels: str) -> Delay:
    bounds = sorted({float(text) for text in now.values_of(f"{name}_bucket", "le")})
    counts = [
        _grown(before, now, f"{name}_bucket", **labels, le=text) for text in _texts(now, name)
    ]
    return Delay(*(quantile(share, bounds, counts) for share in (0.50, 0.95, 0.99)))


def _texts(now: Reading, name: str) -> list[str]:
    """Upper bounds as they stand in the page, in their order."""
    return sorted(now.values_of(f"{name}_bucket", "le"), key=float)


def quantile(share: float, bounds: Iterable[float], counts: Iterable[float]) -> float | None:
    """As Prometheus estimates it: within its bucket, the rank's part of the way.

    ``counts`` are cumulative, one per upper bound, the last of which is infinite. None without
    observations; the last finite bound where the rank lies beyond it.
    """
    low = seen = 0.0
    buckets = list(zip(bounds, counts, strict=True))
    whole = buckets[-1][1] if buckets else 0.0
    if whole <= 0:
        return None
    rank = share * whole
    for high, count in buckets:
        if count >= rank and count > seen and high < inf:
            return low + (high - low) * (rank - seen) / (count - seen)
        if high < inf:
            low, seen = high, count
    return low
