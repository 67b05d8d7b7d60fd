"""A whole captiond server in this process: real sockets and store, engines called directly.

The engines do not run in processes of their own; a test decides which of their calls fail, and
when they answer.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from server.app import Server
from server.config import Settings
from server.engines import scripted
from server.engines.registry import EngineSpec
from server.hub import Hub
from server.live import LiveSession
from server.store import StoreError, TranscriptStore
from server.telemetry import Metrics
from server.workers import CallFailed, CallTimeout, WorkerReady, WorkerState
from streaming.events import SessionStage

SECONDS_MAX = 10.0
"""Bounds a broken test, on a machine of any speed."""
FACTORIES = {
    SessionStage.ACTIVITY: scripted.voice_activity,
    SessionStage.RECOGNITION: scripted.recognizer,
    SessionStage.DIARIZATION: scripted.diarizer,
}


class FakeWorker:
    """Stands for an ``EngineWorker``; answers at once unless told otherwise."""

    def __init__(
        self, spec: EngineSpec, *, on_state: Callable[[WorkerState], None] | None = None
    ) -> None:
        self.spec = spec
        self.ready: WorkerReady | None = None
        self.pid: int | None = None
        """It has no process."""
        self.calls: list[tuple[str, list[Any]]] = []
        self.faults: deque[Exception] = deque()
        """Raised by the next calls, one each."""
        self.is_poison: Callable[[Any], bool] = lambda item: False
        """A call with such an item fails."""
        self.hangs: Callable[[Any], bool] = lambda item: False
        """A call with such an item is not answered in time."""
        self.engine_ns = 1_000_000
        """How long each call says that it took."""
        self.open = asyncio.Event()
        """Clear it to hold all calls back."""
        self.open.set()
        self._engine: Any = FACTORIES[spec.stage](spec)

    async def start(self) -> WorkerReady:
        await self.open.wait()
        profile = scripted.ScriptedDiarizer.profile
        is_diarizer = self.spec.stage is SessionStage.DIARIZATION
        self.ready = WorkerReady("scripted", profile if is_diarizer else None, 0.0)
        return self.ready

    async def until_ready(self) -> None:
        while self.ready is None:  # noqa: ASYNC110  tests set it as they like
            await asyncio.sleep(0.001)

    async def call(
        self, method: str, items: Sequence[Any], *, timeout_s: float
    ) -> tuple[list[Any], int]:
        assert timeout_s > 0
        self.calls.append((str(method), list(items)))
        await self.open.wait()
        await asyncio.sleep(0)  # as any real process: the others come in between
        if self.faults:
            raise self.faults.popleft()
        if any(self.is_poison(item) for item in items):
            raise CallFailed("poison", is_memory=False)
        if any(self.hangs(item) for item in items):
            raise CallTimeout("hang")
        return list(getattr(self._engine, method)(list(items))), self.engine_ns

    async def close(self) -> None:
        self.ready = None


@dataclass
class Front:
    """A running server, with its insides in reach."""

    server: Server
    url: str
    task: asyncio.Task[None]

    @property
    def hub(self) -> Hub:
        assert self.server._hub is not None
        return self.server._hub

    @property
    def metrics(self) -> Metrics:
        return self.hub.metrics

    @property
    def live(self) -> LiveSession:
        """The only session."""
        (live,) = self.hub.sessions
        return live

    def worker(self, stage: SessionStage = SessionStage.RECOGNITION) -> FakeWorker:
        (worker,) = self.server._workers[stage]
        assert isinstance(worker, FakeWorker)
        return worker

    def stop(self) -> None:
        """As SIGTERM does."""
        self.server._on_signal()

    def metric(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(f"captiond_{name}", labels) or 0.0


@contextlib.asynccontextmanager
async def running(folder: Path, *, is_warm: bool = True, **options: Any) -> AsyncIterator[Front]:
    """``captiond serve`` with scripted engines; stopped at the end. Not warm: models still load."""
    settings = {
        "asr": "scripted",
        "diarizer": "none",
        "port": 0,
        "store_url": str(folder / "captiond.db"),
        "store_synchronous": "normal",
        "drain_s": 5,
        **options,
    }
    server = Server(Settings(**settings))
    loop = asyncio.get_running_loop()
    url: asyncio.Future[str] = loop.create_future()
    ready = asyncio.Event()
    with pytest.MonkeyPatch.context() as patch:
        # The signals of the test run are pytest's.
        patch.setattr(type(loop), "add_signal_handler", lambda *_: None)
        patch.setattr("server.app.EngineWorker", FakeWorker if is_warm else _ColdWorker)
        task = asyncio.create_task(server.run(url.set_result, ready.set))
        either: list[asyncio.Future[Any]] = [url, task]
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            await task  # which says why there is no server
        front = Front(server, await url, task)
        try:
            if is_warm:
                async with asyncio.timeout(SECONDS_MAX):
                    await ready.wait()
            yield front
        finally:
            front.stop()
            async with asyncio.timeout(SECONDS_MAX):
                await task


class _ColdWorker(FakeWorker):
    async def start(self) -> WorkerReady:
        await asyncio.Event().wait()
        raise AssertionError


async def until(is_so: Callable[[], bool]) -> None:
    """Gives the loop time until it is so."""
    async with asyncio.timeout(SECONDS_MAX):
        while not is_so():  # noqa: ASYNC110  what is waited for has no event of its own
            await asyncio.sleep(0.001)


class BrokenStore:
    """Makes the writes of a real store fail until it is told to stop."""

    def __init__(self, store: TranscriptStore, patch: pytest.MonkeyPatch) -> None:
        self.is_broken = True
        self.refused = 0
        self._append, self._finish = store.append, store.finish_session
        patch.setattr(store, "append", self.append)
        patch.setattr(store, "finish_session", self.finish_session)
        patch.setattr("server.live.STORE_RETRY_SECONDS", 0.002)

    async def append(self, *arguments: Any, **options: Any) -> None:
        self._refuse()
        await self._append(*arguments, **options)

    async def finish_session(self, *arguments: Any, **options: Any) -> None:
        self._refuse()
        await self._finish(*arguments, **options)

    def _refuse(self) -> None:
        if self.is_broken:
            self.refused += 1
            raise StoreError("the disk is full")
