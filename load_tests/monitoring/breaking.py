"""Faults that must fire their alerts, and end them when they end; on a server under load."""

import asyncio
import contextlib
import sqlite3
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psutil

from load_tests.monitoring.prometheus import Prometheus

FIRES_SECONDS_MAX = 60.0
RESOLVES_SECONDS_MAX = 180.0
"""The longest range of the alerts below, in faster time, and what recovers before it begins."""
KILLS = 4
KILL_EVERY_SECONDS = 2.0
WORKER_MODULE = "server.worker_main"


@dataclass(frozen=True, slots=True)
class Watched:
    """What became of one alert."""

    alert: str
    fault: str
    fired_s: float | None
    """After the fault began; None where it did not."""
    resolved_s: float | None
    """After the fault ended."""

    @property
    def is_good(self) -> bool:
        return self.fired_s is not None and self.resolved_s is not None

    def line(self) -> str:
        fired = "NOT FIRED" if self.fired_s is None else f"fired after {self.fired_s:.1f} s"
        resolved = (
            "NOT RESOLVED"
            if self.resolved_s is None
            else f"resolved {self.resolved_s:.1f} s after its end"
        )
        return f"{self.alert}: {self.fault}: {fired}, {resolved}"


Breaking = Callable[[], AbstractAsyncContextManager[None]]
"""Inside the block there is the fault."""


async def watch(prometheus: Prometheus, alert: str, fault: str, breaking: Breaking) -> Watched:
    """One fault, from its beginning until nothing is left of it."""
    firing = f'ALERTS{{alertname="{alert}", alertstate="firing"}}'
    if await prometheus.query(firing):
        return Watched(alert, f"{fault} (it fired before)", None, None)
    began_s, fired_s = time.monotonic(), None
    async with breaking():
        with contextlib.suppress(TimeoutError):
            await prometheus.until(firing, FIRES_SECONDS_MAX)
            fired_s = time.monotonic() - began_s
    resolved_s = None
    with contextlib.suppress(TimeoutError):
        resolved_s = await prometheus.until(firing, RESOLVES_SECONDS_MAX, is_there=False)
    return Watched(alert, fault, fired_s, resolved_s)


@contextlib.asynccontextmanager
async def locked_store(path: Path) -> AsyncIterator[None]:
    """Another program holds the store's lock: no commit succeeds."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        # No checkpoint of ours may come between the server's writes.
        other.execute("PRAGMA wal_autocheckpoint=0")
        other.execute("BEGIN IMMEDIATE")
        try:
            yield
        finally:
            other.execute("ROLLBACK")


@contextlib.asynccontextmanager
async def hanging_engine(sign: Path) -> AsyncIterator[None]:
    """While there is the file, calls of the scripted recognizer are not answered."""
    await asyncio.to_thread(sign.touch)
    try:
        yield
    finally:
        await asyncio.to_thread(sign.unlink)


@contextlib.asynccontextmanager
async def dying_workers(server_pid: int) -> AsyncIterator[None]:
    """An engine process is killed, and its replacement, and so on."""
    killing = asyncio.create_task(_kill_some(server_pid))
    try:
        yield
    finally:
        await killing


async def _kill_some(server_pid: int) -> None:
    for _ in range(KILLS):
        workers = worker_processes(server_pid)
        with contextlib.suppress(psutil.NoSuchProcess, IndexError):
            workers[0].kill()
        await asyncio.sleep(KILL_EVERY_SECONDS)


def worker_processes(server_pid: int) -> list[psutil.Process]:
    """The engines' processes, the oldest first."""
    found = []
    for process in psutil.Process(server_pid).children():
        with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
            if WORKER_MODULE in process.cmdline():
                found.append(process)
    return sorted(found, key=lambda process: process.create_time())


def faults_of(server_pid: int, store: Path, sign: Path) -> list[tuple[str, str, Breaking]]:
    """Alert, what is done, and how."""
    return [
        ("CaptiondStoreRefusing", "the store is locked", partial(locked_store, store)),
        ("CaptiondCaptionsLate", "the recognizer hangs", partial(hanging_engine, sign)),
        (
            "CaptiondWorkerRestarting",
            f"an engine process is killed {KILLS} times",
            partial(dying_workers, server_pid),
        ),
    ]
