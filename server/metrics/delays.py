"""How late captions are."""

from server.metrics.making import LATENCY_BUCKETS_S, MetricMaker

FINAL_BUCKETS_S = (*LATENCY_BUCKETS_S, 15.0, 20.0, 30.0)
"""A word waits for the rest of its utterance, up to ``window_cap_s``."""


class DelayMetrics(MetricMaker):
    """From the arrival of a sample to the words that are written about it."""

    def _make_delay_metrics(self) -> None:
        self.partial_latency_seconds = self._histogram(
            "partial_latency_seconds",
            "Per word: first written to the client, after its last sample arrived.",
            LATENCY_BUCKETS_S,
        )
        self.final_latency_seconds = self._histogram(
            "final_latency_seconds",
            "Per word: written in a final, after its last sample arrived.",
            FINAL_BUCKETS_S,
        )
        self.first_result_seconds = self._histogram(
            "first_result_seconds",
            "Per session: first words written, after the first speech arrived.",
            LATENCY_BUCKETS_S,
        )
