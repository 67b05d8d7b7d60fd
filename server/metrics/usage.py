"""Who uses the server, by the operator's own names for the API keys; only where that is wanted."""

from server.metrics.making import MetricMaker


class UsageMetrics(MetricMaker):
    """Bounded by ``accounts.KEYS_SHOWN_MAX``."""

    def _make_usage_metrics(self) -> None:
        self.key_audio_seconds = self._live_counter(
            "key_audio_seconds", "Audio that arrived, by API key.", "key"
        )
        self.key_sessions = self._counter(
            "key_sessions", "Sessions that were opened, by API key.", "key"
        )
        self.key_sessions_active = self._gauge(
            "key_sessions_active", "Sessions now, by API key.", "key"
        )
