"""Whether captions get on disk, how fast, and how much is there."""

from server.metrics.making import SHORT_BUCKETS_S, MetricMaker


class StoreMetrics(MetricMaker):
    """Of the transcript store."""

    def _make_store_metrics(self) -> None:
        self.store_commit_seconds = self._histogram(
            "store_commit_seconds", "One group commit of the store.", SHORT_BUCKETS_S
        )
        self.store_writes = self._counter("store_writes", "Writes in those commits.")
        self.store_refusing = self._gauge(
            "store_refusing", "1 while the store takes some session's captions not."
        )
        self.store_bytes = self._gauge(
            "store_bytes", "Size of the SQLite store's files on disk.", "file"
        )
        self.spool_events = self._gauge(
            "spool_events", "Durable events that clients have seen and the store has not."
        )
        self.sessions_swept = self._counter(
            "sessions_swept", "Stored sessions that a sweep closed or deleted.", "action"
        )
        for action in ("interrupted", "deleted"):
            self.sessions_swept.labels(action)
