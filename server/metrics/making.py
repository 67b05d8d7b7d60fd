"""How metrics are made: one registry, one prefix, and the buckets that several of them share."""

from collections.abc import Callable, Iterable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric
from prometheus_client.samples import Sample

METRIC_PREFIX = "captiond"
LATENCY_BUCKETS_S = (0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0)
SHORT_BUCKETS_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
"""For what should take milliseconds: commits, waiting for a batch, the event loop's lag."""

LiveParts = Callable[[], Mapping[tuple[str, ...], float]]
"""Label values → what is to be counted, and is not in the counter yet."""


def _no_parts() -> Mapping[tuple[str, ...], float]:
    return {}


class LiveCounter(Counter):
    """A counter of what sessions count by themselves, told of it when they end.

    A session may last for hours: what those in memory have counted so far is asked for at each
    scrape and added, so that nothing is late, and nothing is paid for while captions are made.
    """

    live: LiveParts = staticmethod(_no_parts)
    """What is asked; it must never fall by more than the counter itself rises."""

    def collect(self) -> Iterable[Metric]:
        """As the base class, with the parts that are still in memory."""
        parts = dict(self.live())
        for family in super().collect():
            family.samples = [_with_part(sample, parts) for sample in family.samples]
            for values, part in parts.items():
                labels = dict(zip(self._labelnames, values, strict=True))
                family.add_sample(f"{family.name}_total", labels, part)
            yield family


def _with_part(sample: Sample, parts: dict[tuple[str, ...], float]) -> Sample:
    part = parts.pop(tuple(sample.labels.values()), 0.0)
    return sample._replace(value=sample.value + part)


class MetricMaker:
    """Base of the classes that declare metrics."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()

    def _counter(self, name: str, meaning: str, *labels: str) -> Counter:
        return Counter(name, meaning, labels, namespace=METRIC_PREFIX, registry=self.registry)

    def _live_counter(self, name: str, meaning: str, *labels: str) -> LiveCounter:
        return LiveCounter(name, meaning, labels, namespace=METRIC_PREFIX, registry=self.registry)

    def _gauge(self, name: str, meaning: str, *labels: str) -> Gauge:
        return Gauge(name, meaning, labels, namespace=METRIC_PREFIX, registry=self.registry)

    def _histogram(
        self, name: str, meaning: str, buckets: tuple[float, ...], *labels: str
    ) -> Histogram:
        return Histogram(
            name, meaning, labels, namespace=METRIC_PREFIX, registry=self.registry, buckets=buckets
        )
