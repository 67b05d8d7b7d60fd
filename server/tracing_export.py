"""Spans of OpenTelemetry from what ``tracing.py`` has watched.

Needs the extra ``tracing``, and is imported only where a trace is asked for. One trace per
utterance: a span for its whole way, one for each part of it, and a link to the short span that says
when its session was accepted. A session, which may last for hours, is no span.
"""

import importlib.metadata
import time
from collections import OrderedDict
from dataclasses import dataclass

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Link, SpanContext, SpanKind, Tracer, set_span_in_context

from server.tracing import Part, Utterance

SERVICE = "captiond"
UNKNOWN_VERSION = "unreleased"
SESSIONS_MAX = 4_096
"""Whose acceptance is remembered; the oldest is forgotten, and its utterances have no link."""
EXPORT_SECONDS_MAX = 3.0
"""Retries included: a collector that is gone must not hold up the end of the server for longer."""
UTTERANCE_SPAN = "utterance"
SESSION_SPAN = "session accepted"


@dataclass(frozen=True, slots=True)
class _Clocks:
    """Spans are on the wall clock; what was watched is on the monotonic one."""

    wall_ahead_ns: int

    def wall_ns(self, monotonic_ns: int) -> int:
        return monotonic_ns + self.wall_ahead_ns


class SpanExport:
    """Hands spans to a processor, which sends them from a thread of its own."""

    def __init__(self, processor: SpanProcessor, version: str = UNKNOWN_VERSION) -> None:
        resource = Resource.create({"service.name": SERVICE, "service.version": version})
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(processor)
        self._tracer: Tracer = self._provider.get_tracer(SERVICE, version)
        self._clocks = _Clocks(time.time_ns() - time.monotonic_ns())
        self._accepted: OrderedDict[str, SpanContext] = OrderedDict()

    def session_accepted(self, session_id: str) -> None:
        """It was opened, or came here from another server."""
        now_ns = self._clocks.wall_ns(time.monotonic_ns())
        span = self._tracer.start_span(
            SESSION_SPAN,
            kind=SpanKind.SERVER,
            attributes={"captiond.session_id": session_id},
            start_time=now_ns,
        )
        span.end(now_ns)
        self._accepted[session_id] = span.get_span_context()
        while len(self._accepted) > SESSIONS_MAX:
            self._accepted.popitem(last=False)

    def session_over(self, session_id: str) -> None:
        """No utterance of it will follow."""
        self._accepted.pop(session_id, None)

    def utterance(self, utterance: Utterance, sent_ns: int) -> None:
        """Its caption was sent: the trace is complete."""
        accepted = self._accepted.get(utterance.session_id)
        span = self._tracer.start_span(
            UTTERANCE_SPAN,
            attributes=utterance.facts,
            links=[] if accepted is None else [Link(accepted)],
            start_time=self._clocks.wall_ns(utterance.asked_ns),
        )
        context = set_span_in_context(span)
        for part in utterance.trail(sent_ns):
            self._part(part, context)
        span.end(self._clocks.wall_ns(sent_ns))

    def _part(self, part: Part, context: object) -> None:
        span = self._tracer.start_span(
            part.name,
            context=context,  # type: ignore[arg-type]
            start_time=self._clocks.wall_ns(part.start_ns),
        )
        inner = set_span_in_context(span)
        for smaller in part.parts:
            self._part(smaller, inner)
        span.end(self._clocks.wall_ns(part.end_ns))

    def close(self) -> None:
        """Send what waits; blocks for some seconds at most."""
        self._provider.shutdown()


def otlp_export(url: str) -> SpanExport:
    """To a collector; what it does not take is dropped, and logged by the library."""
    return SpanExport(
        BatchSpanProcessor(OTLPSpanExporter(endpoint=url, timeout=EXPORT_SECONDS_MAX)), _version()
    )


def _version() -> str:
    try:
        return importlib.metadata.version(SERVICE)
    except importlib.metadata.PackageNotFoundError:
        return UNKNOWN_VERSION
