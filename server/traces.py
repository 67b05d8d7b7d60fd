"""Traces of one server: who is watched, and where the spans go.

The libraries of OpenTelemetry, and the parts of the server that are watched, are imported only
where a trace is asked for.
"""

import asyncio
from typing import TYPE_CHECKING

from server.config import ConfigError
from server.telemetry import Metrics
from server.tracing import UtteranceTracer

if TYPE_CHECKING:
    from server.traced import TracedDispatcher, TracedStore, TracedWorker
    from server.tracing_export import SpanExport


class Traces:
    """Make one, and let the server be built of ``dispatcher``, ``store`` and ``worker``."""

    def __init__(self, export: "SpanExport", metrics: Metrics) -> None:
        from server.traced import watched_by

        self._export = export
        self.tracer = UtteranceTracer(export.utterance)
        self.dispatcher: type[TracedDispatcher]
        self.store: type[TracedStore]
        self.worker: type[TracedWorker]
        self.dispatcher, self.store, self.worker = watched_by(self.tracer)
        metrics.on_sent = self.tracer.sent

    def session_accepted(self, session_id: str) -> None:
        """It was opened, or came from another server."""
        self._export.session_accepted(session_id)

    def session_over(self, session_id: str) -> None:
        """It is out of memory."""
        self.tracer.forget(session_id)
        self._export.session_over(session_id)

    async def close(self) -> None:
        """Send what waits, in a thread: a collector that does not answer is waited for."""
        await asyncio.to_thread(self._export.close)


def traces_to(url: str, metrics: Metrics) -> Traces:
    """By OTLP over HTTP, to a collector. Raises: ConfigError where the extra is missing."""
    try:
        from server.tracing_export import otlp_export
    except ImportError as error:
        raise ConfigError(
            f"tracing_url needs the extra: pip install 'captiond[tracing]' ({error})"
        ) from None
    return Traces(otlp_export(url), metrics)
