"""Sessions, their audio and their words."""

from server.metrics.making import MetricMaker
from streaming.errors import InternalError, Overloaded, TooFast, Unauthorized
from streaming.events import GapReason

PROTOCOLS_KNOWN = ("captiond", "http")
"""Others appear with their first error."""
CODES_WATCHED = tuple(e.code for e in (InternalError, Overloaded, TooFast, Unauthorized))
"""Alerts ask whether these have increased."""


class SessionMetrics(MetricMaker):
    """What came in, what went out, what was lost."""

    def _make_session_metrics(self) -> None:
        self.sessions_active = self._gauge(
            "sessions_active", "Sessions now, by protocol.", "protocol"
        )
        self.sessions_waiting = self._gauge(
            "sessions_waiting", "Sessions without a connection, which their client may resume."
        )
        self.sessions = self._counter(
            "sessions", "Sessions that ended or were refused.", "protocol", "outcome"
        )
        self.session_capacity = self._gauge("session_capacity", "Sessions that fit at once.")
        self.estimated_session_capacity = self._gauge(
            "estimated_session_capacity", "Sessions that could be captioned at once, as measured."
        )
        self.connections = self._gauge("connections", "WebSockets of talkers now.")
        self.audio_received_seconds = self._counter(
            "audio_received_seconds", "Audio that arrived from clients.", "protocol"
        )
        self.audio_captioned_seconds = self._live_counter(
            "audio_captioned_seconds", "Audio inside utterances that were recognized."
        )
        self.audio_silent_seconds = self._live_counter(
            "audio_silent_seconds", "Audio judged to hold no speech."
        )
        self.audio_dropped_seconds = self._live_counter(
            "audio_dropped_seconds", "Audio reported to clients as a gap.", "reason"
        )
        for reason in GapReason:  # a series that begins at 1 has not increased
            self.audio_dropped_seconds.labels(reason.value)
        self.words = self._counter("words", "Words written to clients.", "kind")
        self.stable_words_changed = self._live_counter(
            "stable_words_changed", "Words called stable in a partial that the final changed."
        )
        self.events_dropped = self._counter(
            "events_dropped", "Passing events not sent to a slow reader.", "kind"
        )
        self.events_dropped.labels("partial")
        self.errors = self._counter("errors", "Errors told to clients.", "protocol", "code")
        for protocol in PROTOCOLS_KNOWN:
            for code in CODES_WATCHED:
                self.errors.labels(protocol, code)
