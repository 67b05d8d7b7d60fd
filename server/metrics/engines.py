"""Engines: what they are asked, how fast they answer, and how their processes are."""

from server.metrics.making import LATENCY_BUCKETS_S, SHORT_BUCKETS_S, MetricMaker
from streaming.guards import Guard
from streaming.timeline import SAMPLE_RATE_HZ

BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
CONTEXT_BUCKETS_S = (1, 2, 5, 10, 15, 20, 30)


class StageCalls:
    """The metrics of one stage's calls: their labels are looked up once, not at each call."""

    __slots__ = ("_audio_s", "_busy_s", "_duration", "_processed_s", "_windows")

    def __init__(self, metrics: "EngineMetrics", stage: str) -> None:
        self._audio_s = metrics.audio_processed_seconds.labels(stage)
        self._duration = metrics.inference_duration_seconds.labels(stage)
        self._windows = metrics.batch_size.labels(stage)
        self._processed_s = self._busy_s = 0.0

    def record(self, audio_s: float, duration_s: float, windows: int) -> float | None:
        """One call; the stage's RTFx since the start, where there is one."""
        self._audio_s.inc(audio_s)
        self._duration.observe(duration_s)
        self._windows.observe(windows)
        self._processed_s += audio_s
        self._busy_s += duration_s
        return self._processed_s / self._busy_s if self._busy_s > 0 else None


class EngineMetrics(MetricMaker):
    """By stage; see ``streaming.events.SessionStage``."""

    def _make_engine_metrics(self) -> None:
        self._calls: dict[str, StageCalls] = {}
        self._make_call_metrics()
        self._make_queue_metrics()
        self._make_worker_metrics()

    def _make_call_metrics(self) -> None:
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
        self.rtfx = self._gauge(
            "rtfx", "Audio seconds per second of engine time since start.", "stage"
        )
        self.results_superseded = self._live_counter(
            "results_superseded", "Engine answers that came too late to be used."
        )
        self.guards_fired = self._live_counter(
            "guards_fired", "Finals that a guard against invented words changed.", "guard"
        )
        for guard in Guard:
            self.guards_fired.labels(guard.value)

    def _make_queue_metrics(self) -> None:
        self.partial_thinning = self._gauge(
            "partial_thinning", "Hops between two partials; above 1 while engine time is short."
        )
        self.partial_thinning.set(1)
        self.queue_wait_seconds = self._histogram(
            "queue_wait_seconds", "A job's wait for its batch.", SHORT_BUCKETS_S, "stage"
        )
        self.queue_depth = self._gauge("queue_depth", "Jobs that wait for a batch.", "stage")
        self.backlog_seconds = self._gauge(
            "backlog_seconds", "Speech received and not yet captioned, over all sessions."
        )

    def _make_worker_metrics(self) -> None:
        self.workers = self._gauge(
            "workers", "Engine processes that are ready, or being replaced.", "stage", "state"
        )
        self.worker_restarts = self._counter(
            "worker_restarts", "Engine processes replaced after a crash or a hang.", "stage"
        )
        self.jobs_failed = self._counter(
            "jobs_failed", "Jobs that no engine answered, every try included.", "stage"
        )
        self.stage_stalled = self._gauge(
            "stage_stalled", "1 while a stage answers nobody and its jobs fail at once.", "stage"
        )

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
        calls = self._calls.get(stage)
        if calls is None:
            calls = self._calls[stage] = StageCalls(self, stage)
        rtfx = calls.record(audio_seconds, duration_seconds, windows)
        if rtfx is not None:
            self.rtfx.labels(stage).set(rtfx)
