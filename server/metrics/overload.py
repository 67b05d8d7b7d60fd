"""Too much work: how much, and what is done about it."""

from server.admission import OverloadReason
from server.metrics.making import MetricMaker


class OverloadMetrics(MetricMaker):
    """What ``admission.py`` decides by, and what it led to."""

    def _make_overload_metrics(self) -> None:
        self.admission_closed = self._gauge(
            "admission_closed", "1 while no new session may start for this reason.", "reason"
        )
        self.overload_refusals = self._counter(
            "overload_refusals", "New sessions refused because of the load.", "reason"
        )
        for reason in OverloadReason:
            self.overload_refusals.labels(reason.value)
        self.sessions_shed = self._counter(
            "sessions_shed", "Newest sessions sent away for others; they may resume."
        )
        self.slow_readers = self._counter(
            "slow_readers", "Connections cut because their client took nothing; it may come back."
        )
        self.engine_load_ratio = self._gauge(
            "engine_load_ratio", "Share of the recognizers' time that one more session leads to."
        )
        self.live_delay_seconds = self._gauge(
            "live_delay_seconds", "How late the latest unanswered live work is."
        )
        self.memory_bytes = self._gauge("memory_bytes", "Memory of the server and its engines.")
        self.memory_limit_bytes = self._gauge(
            "memory_limit_bytes", "What the server and its engines may use together."
        )
