"""What operators see: the only logging configuration, and every metric.

Owns: log format, the fields that never reach a log, metric names, labels and buckets.
Invariants: L1 no transcript text, key or token is logged; L2 labels have few, fixed values: no
ids, no names of speakers or tenants, no free text; L3 base units (seconds), ``_total`` counters.
``docs/operations.md`` explains each metric; a test compares.
"""

import logging
import sys
from collections.abc import Mapping, MutableMapping
from typing import Any, Literal

import structlog
from aiohttp.http_exceptions import HttpProcessingError
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from streaming.timeline import SAMPLE_RATE_HZ

LogFormat = Literal["console", "json"]

SECRET_FIELDS = frozenset(
    {
        "api_key", "api_keys", "authorization", "cookie", "key", "headers", "password",
        "query_string", "resume_token", "resume_token_hash", "secret", "subprotocols", "token",
        "caption", "draft", "hypothesis", "keywords", "message_text", "options", "prompt", "text",
        "transcript", "words",
    }
)  # fmt: skip
"""Dropped from every log record (L1), also inside mappings."""

METRIC_PREFIX = "captiond"
LATENCY_BUCKETS_S = (0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0)
SHORT_BUCKETS_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
"""For what should take milliseconds: commits, waiting for a batch, the event loop's lag."""
BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
CONTEXT_BUCKETS_S = (1, 2, 5, 10, 15, 20, 30)


def configure_logging(level: str, log_format: LogFormat) -> None:
    """Send our logs and those of libraries to standard error, one format for all."""
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        drop_secrets,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,  # first: what is not shown costs nothing
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *_renderers(log_format),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    logging.getLogger("aiohttp.server").addFilter(_without_peer_bytes)


def _without_peer_bytes(record: logging.LogRecord) -> bool:
    """Keeps the report of a request that is no HTTP, not its bytes: aiohttp quotes headers, and
    a key is one; a traceback for each would let anyone fill the log."""
    if record.exc_info and isinstance(record.exc_info[1], HttpProcessingError):
        record.msg, record.args, record.exc_info = "refused bytes that are no HTTP", (), None
        record.levelno, record.levelname = logging.WARNING, "WARNING"
    return True


def drop_secrets(
    _logger: Any, _method: str, fields: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    """A structlog processor that removes ``SECRET_FIELDS`` at any depth of mappings."""
    return _without_secrets(fields)


def _without_secrets(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: _without_secrets(value) if isinstance(value, Mapping) else value
        for name, value in fields.items()
        if str(name).lower() not in SECRET_FIELDS
    }


def _renderers(log_format: LogFormat) -> list[Any]:
    # No traceback with local variables: those hold captions.
    if log_format == "json":
        return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    colors = sys.stderr.isatty()
    plain = structlog.dev.plain_traceback
    return [structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=plain)]


class Metrics:
    """All metrics of one server, in a registry of their own.

    Attributes are named as the metrics, without ``captiond_`` and without a counter's ``_total``.
    """

    content_type = CONTENT_TYPE_PLAIN_0_0_4

    def __init__(self, version: str) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._make_session_metrics()
        self._make_latency_metrics()
        self._make_engine_metrics()
        self._make_overload_metrics()
        self._make_server_metrics(version)
        self._processed_s: dict[str, float] = {}
        self._busy_s: dict[str, float] = {}

    def render(self) -> bytes:
        """The page for ``/metrics``, in the format that ``content_type`` names."""
        return generate_latest(self.registry)

    def record_call(
        self,
        stage: str,
        *,
        audio_seconds: float,
        duration_seconds: float,
        windows: int,
        context_samples: int | None = None,
    ) -> None:
        """Account for one call of an engine: a batch of ``windows`` with that much audio."""
        if context_samples is not None:
            self.batch_context_seconds.observe(context_samples / SAMPLE_RATE_HZ)
        self.audio_processed_seconds.labels(stage).inc(audio_seconds)
        self.inference_duration_seconds.labels(stage).observe(duration_seconds)
        self.batch_size.labels(stage).observe(windows)
        self._processed_s[stage] = self._processed_s.get(stage, 0.0) + audio_seconds
        self._busy_s[stage] = self._busy_s.get(stage, 0.0) + duration_seconds
        if self._busy_s[stage] > 0:
            self.rtfx.labels(stage).set(self._processed_s[stage] / self._busy_s[stage])

    def _make_session_metrics(self) -> None:
        self.sessions_active = self._gauge(
            "sessions_active", "Sessions now, by protocol.", "protocol"
        )
        self.sessions = self._counter(
            "sessions", "Sessions that ended or were refused.", "protocol", "outcome"
        )
        self.session_capacity = self._gauge("session_capacity", "Sessions that fit at once.")
        self.audio_received_seconds = self._counter(
            "audio_received_seconds", "Audio that arrived from clients.", "protocol"
        )
        self.audio_silent_seconds = self._counter(
            "audio_silent_seconds", "Audio judged to hold no speech."
        )
        self.audio_dropped_seconds = self._counter(
            "audio_dropped_seconds", "Audio reported to clients as a gap.", "reason"
        )
        self.words = self._counter("words", "Words written to clients.", "kind")
        self.stable_words_changed = self._counter(
            "stable_words_changed", "Words called stable in a partial that the final changed."
        )
        self.events_dropped = self._counter(
            "events_dropped", "Passing events not sent to a slow reader.", "kind"
        )
        self.errors = self._counter("errors", "Errors told to clients.", "protocol", "code")

    def _make_latency_metrics(self) -> None:
        self.partial_latency_seconds = self._histogram(
            "partial_latency_seconds",
            "Per word: first written to the client, after its last sample arrived.",
            LATENCY_BUCKETS_S,
        )
        self.final_latency_seconds = self._histogram(
            "final_latency_seconds",
            "Per word: written in a final, after its last sample arrived.",
            LATENCY_BUCKETS_S,
        )
        self.first_result_seconds = self._histogram(
            "first_result_seconds",
            "Per session: first words written, after the first speech arrived.",
            LATENCY_BUCKETS_S,
        )

    def _make_engine_metrics(self) -> None:
        self.audio_processed_seconds = self._counter(
            "audio_processed_seconds", "Audio in the windows that engines answered.", "stage"
        )
        self.inference_duration_seconds = self._histogram(
            "inference_duration_seconds", "One call of an engine.", LATENCY_BUCKETS_S, "stage"
        )
        self.batch_size = self._histogram(
            "batch_size", "Windows in one call of an engine.", BATCH_BUCKETS, "stage"
        )
        self.batch_context_seconds = self._histogram(
            "batch_context_seconds",
            "Encoder context of one call of the recognizer, the same for all its windows.",
            CONTEXT_BUCKETS_S,
        )
        self.partial_thinning = self._gauge(
            "partial_thinning", "Hops between two partials; above 1 while engine time is short."
        )
        self.partial_thinning.set(1)
        self.queue_wait_seconds = self._histogram(
            "queue_wait_seconds", "A job's wait for its batch.", SHORT_BUCKETS_S, "stage"
        )
        self.queue_depth = self._gauge("queue_depth", "Jobs that wait for a batch.", "stage")
        self.rtfx = self._gauge(
            "rtfx", "Audio seconds per second of engine time since start.", "stage"
        )
        self.backlog_seconds = self._gauge(
            "backlog_seconds", "Speech received and not yet captioned, over all sessions."
        )
        self.results_superseded = self._counter(
            "results_superseded", "Engine answers that came too late to be used."
        )
        self.guards_fired = self._counter(
            "guards_fired", "Finals that a guard against invented words changed.", "guard"
        )
        self.worker_restarts = self._counter(
            "worker_restarts", "Engine processes replaced after a crash or a hang.", "stage"
        )

    def _make_overload_metrics(self) -> None:
        self.admission_closed = self._gauge(
            "admission_closed", "1 while no new session may start for this reason.", "reason"
        )
        self.overload_refusals = self._counter(
            "overload_refusals", "New sessions refused because of the load.", "reason"
        )
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

    def _make_server_metrics(self, version: str) -> None:
        self.store_commit_seconds = self._histogram(
            "store_commit_seconds", "One group commit of the store.", SHORT_BUCKETS_S
        )
        self.spool_events = self._gauge(
            "spool_events", "Durable events that clients have seen and the store has not."
        )
        self.sessions_swept = self._counter(
            "sessions_swept", "Stored sessions that a sweep closed or deleted.", "action"
        )
        self.event_loop_lag_seconds = self._histogram(
            "event_loop_lag_seconds", "How late the event loop runs a timer.", SHORT_BUCKETS_S
        )
        self.draining = self._gauge("draining", "1 while the server finishes before it stops.")
        self.build_info = self._gauge(
            "build_info", "1, with the build as labels.", "version", "python"
        )
        python = ".".join(map(str, sys.version_info[:3]))
        self.build_info.labels(version, python).set(1)

    def _counter(self, name: str, meaning: str, *labels: str) -> Counter:
        return Counter(name, meaning, labels, namespace=METRIC_PREFIX, registry=self.registry)

    def _gauge(self, name: str, meaning: str, *labels: str) -> Gauge:
        return Gauge(name, meaning, labels, namespace=METRIC_PREFIX, registry=self.registry)

    def _histogram(
        self, name: str, meaning: str, buckets: tuple[float, ...], *labels: str
    ) -> Histogram:
        return Histogram(
            name, meaning, labels, namespace=METRIC_PREFIX, registry=self.registry, buckets=buckets
        )
