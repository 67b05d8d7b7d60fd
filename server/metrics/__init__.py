"""Every metric of a server, by subject; ``making`` has what they share.

Invariants: L2 labels have few, fixed values: no ids, no names of speakers, no free text, and of API
keys only the operator's own names for them, at most so many; L3 base units (seconds), ``_total``
counters. ``docs/operations.md`` explains each metric; a test compares.
"""

from collections.abc import Callable

from prometheus_client import ProcessCollector, disable_created_metrics, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from server.metrics.delays import DelayMetrics
from server.metrics.engines import EngineMetrics
from server.metrics.overload import OverloadMetrics
from server.metrics.process import ProcessMetrics
from server.metrics.sessions import SessionMetrics
from server.metrics.speakers import SpeakerMetrics
from server.metrics.store import StoreMetrics
from server.metrics.usage import UsageMetrics
from streaming.events import Event


class Metrics(
    SessionMetrics,
    DelayMetrics,
    EngineMetrics,
    SpeakerMetrics,
    OverloadMetrics,
    StoreMetrics,
    UsageMetrics,
    ProcessMetrics,
):
    """All metrics of one server, in a registry of their own.

    Attributes are named as the metrics, without ``captiond_`` and without a counter's ``_total``.
    """

    content_type = CONTENT_TYPE_PLAIN_0_0_4

    def __init__(self, version: str) -> None:
        super().__init__()
        self.on_sent: Callable[[str, Event], None] = lambda session_id, event: None
        """Told of each event that a talker was sent: who watches single ones has a place here."""
        # A second series beside each counter, which no query of ours or of Prometheus 2 reads.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        ProcessCollector(registry=self.registry)
        self._make_session_metrics()
        self._make_delay_metrics()
        self._make_engine_metrics()
        self._make_speaker_metrics()
        self._make_overload_metrics()
        self._make_store_metrics()
        self._make_usage_metrics()
        self._make_process_metrics(version)

    def render(self) -> bytes:
        """The page for ``/metrics``, in the format that ``content_type`` names."""
        return generate_latest(self.registry)
