"""The front process itself: its loop, its state, its build."""

import sys

from server.metrics.making import SHORT_BUCKETS_S, MetricMaker


class ProcessMetrics(MetricMaker):
    """Beside ``process_*``, which the client library has."""

    def _make_process_metrics(self, version: str) -> None:
        self.ready = self._gauge("ready", "1 while a new session can start, as /readyz says.")
        self.event_loop_lag_seconds = self._histogram(
            "event_loop_lag_seconds", "How late the event loop runs a timer.", SHORT_BUCKETS_S
        )
        self.event_loop_busy_ratio = self._gauge(
            "event_loop_busy_ratio",
            "Share of the time in which the event loop works or waits for a processor, lately.",
        )
        self.certificate_expiry_timestamp_seconds = self._gauge(
            "certificate_expiry_timestamp_seconds",
            "When the TLS certificate ends, in Unix time; 0 without TLS.",
        )
        self.draining = self._gauge("draining", "1 while the server finishes before it stops.")
        self.build_info = self._gauge(
            "build_info", "1, with the build as labels.", "version", "python"
        )
        python = ".".join(map(str, sys.version_info[:3]))
        self.build_info.labels(version, python).set(1)
