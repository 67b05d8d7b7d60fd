"""What is looked at now and then, so that operators see it: the loop, the workers, the store.

Most gauges are asked for at each scrape and cost nothing in between; what needs a clock or the
disk is looked at by ``watch``. Decides nothing.
"""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from sqlalchemy import make_url

from server.admission import BOUNDS, OverloadReason
from server.capacity import BusyMeter, estimated_capacity
from server.config import Settings
from server.dispatch import Dispatcher
from server.hub import Hub
from server.load import LoadMeter
from server.workers import EngineWorker
from streaming.events import SessionStage

LOOK_SECONDS = 0.5
LOOKS_PER_MEASUREMENT = 10
"""The share of a processor and the size of files move slowly."""
STORE_FILES = {"database": "", "log": "-wal"}
"""Label → what stands behind the store's path."""


class Vitals:
    """Of one server."""

    def __init__(self, hub: Hub, settings: Settings, connections: Callable[[], int]) -> None:
        self._hub = hub
        self._settings = settings
        self._busy = BusyMeter()
        self._looks = 0
        self._meter: LoadMeter | None = None
        self._stages: tuple[SessionStage, ...] = ()
        self._store_path = store_path(settings.store_url)
        metrics = hub.metrics
        metrics.connections.set_function(connections)
        metrics.sessions_waiting.set_function(
            lambda: sum(not live.is_attached for live in hub.sessions)
        )
        metrics.store_refusing.set_function(lambda: hub.is_store_refusing)
        metrics.backlog_seconds.set_function(lambda: hub.backlog_seconds)
        metrics.estimated_session_capacity.set(settings.sessions_max)

    def watch_readiness(self, problems: Callable[[], Sequence[str]]) -> None:
        """``problems`` is asked at each scrape."""
        self._hub.metrics.ready.set_function(lambda: not problems())

    def watch_workers(self, workers: Mapping[SessionStage, Sequence[EngineWorker]]) -> None:
        """They are being started."""
        self._stages = tuple(workers)
        gauge, restarts = self._hub.metrics.workers, self._hub.metrics.worker_restarts
        for stage, of_stage in workers.items():
            restarts.labels(stage.value)
            self._hub.metrics.jobs_failed.labels(stage.value)
            gauge.labels(stage.value, "ready").set_function(partial(_ready, of_stage))
            gauge.labels(stage.value, "unready").set_function(partial(_unready, of_stage))

    def watch_engines(self, dispatcher: Dispatcher, meter: LoadMeter) -> None:
        """They serve from now on."""
        self._meter = meter
        for stage in self._stages:
            self._hub.metrics.stage_stalled.labels(stage.value).set_function(
                partial(_is_stalled, dispatcher, stage)
            )

    async def watch(self) -> None:
        """Look at the loop's lag for as long as the server runs, and at the rest less often."""
        lag_seconds = self._hub.metrics.event_loop_lag_seconds
        self.measure()
        while True:
            due_s = time.monotonic() + LOOK_SECONDS
            await asyncio.sleep(LOOK_SECONDS)
            lag_seconds.observe(max(0.0, time.monotonic() - due_s))
            self._looks += 1
            if self._looks % LOOKS_PER_MEASUREMENT == 0:
                self.measure()

    def measure(self) -> None:
        """How busy the loop is, how many sessions that means, how large the store is."""
        metrics = self._hub.metrics
        loop_share = self._busy.share()
        metrics.event_loop_busy_ratio.set(loop_share)
        if self._meter is not None:
            need = self._meter.need
            capacity = estimated_capacity(
                need.talkers.count,
                need.share(self._settings.thinning_admitted),
                BOUNDS[OverloadReason.ENGINES].upper,
                loop_share,
                self._settings.sessions_max,
            )
            if capacity is not None:
                metrics.estimated_session_capacity.set(capacity)
        if self._store_path is not None:
            for label, suffix in STORE_FILES.items():
                metrics.store_bytes.labels(label).set(_bytes_of(f"{self._store_path}{suffix}"))


def _ready(workers: Sequence[EngineWorker]) -> int:
    return sum(worker.ready is not None for worker in workers)


def _unready(workers: Sequence[EngineWorker]) -> int:
    return len(workers) - _ready(workers)


def _is_stalled(dispatcher: Dispatcher, stage: SessionStage) -> bool:
    return stage in dispatcher.stalled


def store_path(url: str) -> Path | None:
    """Of an SQLite store; None for a database server."""
    parsed = make_url(url)
    is_file = parsed.get_backend_name() == "sqlite" and parsed.database
    return Path(parsed.database) if is_file and parsed.database else None


def _bytes_of(path: str) -> int:
    try:
        return Path(path).stat().st_size
    except OSError:  # no log is there after a checkpoint on close
        return 0
