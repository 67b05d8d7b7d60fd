"""What the metrics cost a server: ``python -m load_tests.monitoring.cost --streams 300``.

The server's front process is this one, under a real load from a child process, with its engines in
processes of their own. Every call into the metrics (observations, labels, the bookkeeping around
them, the pages for a scrape every 15 s) is counted and timed where it happens, calls inside such a
call not again. The cost is their number times their mean, the slowest hundredth of each kind left
out, since a call during which the kernel ran another program says nothing of the metrics. It is
held against the processor time of the server and its engines in the same run. Timing a call is part
of what is measured, so the figure is rather too high than too low.
"""

import argparse
import asyncio
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from typing import Any
from unittest import mock

import orjson
import psutil
import uvloop
from prometheus_client import Counter, Gauge, Histogram
from prometheus_client.metrics import MetricWrapperBase

import server.app
import server.vitals
from load_tests.monitoring.rules import SCRAPE_S
from server.app import Server
from server.config import Settings
from server.metrics.engines import EngineMetrics
from server.telemetry import Metrics, configure_logging

SHARE_MAX = 0.03
TIMES_MAX = 200_000
"""Of each kind; later ones are counted only."""
SLOWEST_LEFT_OUT = 0.01
LOAD_SECONDS_MAX = 120.0
"""On top of the load's own length."""
RENDERS = 5
THERE_SHARE_MIN = 0.9
HEARD_SHARE_MIN = 0.75
TOO_SLOW = "this machine is too slow, or too busy, for so many; try fewer"
SETTLE_SECONDS = 5.0
"""Until all streams are open, and a margin before they end."""


@dataclass(slots=True)
class Calls:
    """Of one kind."""

    count: int = 0
    times_ns: list[int] = field(default_factory=list)

    def note(self, took_ns: int) -> None:
        self.count += 1
        if len(self.times_ns) < TIMES_MAX:
            self.times_ns.append(took_ns)

    @property
    def mean_ns(self) -> float:
        """Without the slowest ones."""
        ordered = sorted(self.times_ns)
        kept = ordered[: max(1, int(len(ordered) * (1 - SLOWEST_LEFT_OUT)))]
        return sum(kept) / len(kept) if ordered else 0.0

    @property
    def seconds(self) -> float:
        return self.count * self.mean_ns / 1e9


class Ledger:
    """All calls into the metrics; all come from the event loop's thread."""

    def __init__(self) -> None:
        self.calls: dict[str, Calls] = {}
        self._is_inside = False

    def timed(self, kind: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, with an account of its outermost calls."""
        calls = self.calls.setdefault(kind, Calls())

        @wraps(function)
        def counted(*arguments: Any, **options: Any) -> Any:
            if self._is_inside:
                return function(*arguments, **options)
            self._is_inside = True
            began_ns = time.perf_counter_ns()
            try:
                return function(*arguments, **options)
            finally:
                calls.note(time.perf_counter_ns() - began_ns)
                self._is_inside = False

        return counted

    @contextmanager
    def keeping(self) -> Iterator[None]:
        """Inside, every call is counted."""
        places: list[tuple[Any, str]] = [
            (Counter, "inc"),
            (Gauge, "set"),
            (Gauge, "inc"),
            (Gauge, "dec"),
            (Histogram, "observe"),
            (MetricWrapperBase, "labels"),
            (EngineMetrics, "record_call"),
            (server.app, "note_outcomes"),
            (server.vitals.Vitals, "measure"),
        ]
        with ExitStack() as stack:
            for owner, name in places:
                kind = f"{owner.__name__.rpartition('.')[2]}.{name}"
                timed = self.timed(kind, vars(owner)[name])
                stack.enter_context(mock.patch.object(owner, name, timed))
            yield


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one run."""

    streams: int
    seconds: float
    heard_s: float
    """Audio that arrived in that time."""
    ledger: dict[str, Calls]
    render_s: float
    """One page."""
    cpu_s: float
    """Of the server and its engines."""
    front_cpu_s: float

    @property
    def scrapes(self) -> float:
        return self.seconds / SCRAPE_S

    @property
    def metrics_s(self) -> float:
        return sum(c.seconds for c in self.ledger.values()) + self.scrapes * self.render_s

    @property
    def share(self) -> float:
        return self.metrics_s / self.cpu_s

    @property
    def heard_share(self) -> float:
        """Of the audio that should have come."""
        return self.heard_s / (self.streams * self.seconds)

    @property
    def is_met(self) -> bool:
        """A server that was hardly spoken to has done nothing that the metrics' cost could be held
        against."""
        return self.share <= SHARE_MAX and self.heard_share >= HEARD_SHARE_MIN

    def lines(self) -> list[str]:
        found = [
            f"cost of metrics: {self.share:.2%} of the server's processor time "
            f"({self.metrics_s:.2f} s of {self.cpu_s:.1f} s, {SHARE_MAX:.0%} allowed), "
            f"{self.metrics_s / self.front_cpu_s:.2%} of its front process's, "
            f"{self.streams} streams, {self.seconds:.0f} s, "
            f"{self.heard_share:.0%} of their audio arrived in time"
        ]
        if self.heard_share < HEARD_SHARE_MIN:
            found.append(f"  NOT MEASURED: {TOO_SLOW}")
        used = sorted(self.ledger.items(), key=lambda item: -item[1].seconds)
        found += [
            f"  {kind}: {calls.count} calls of {calls.mean_ns / 1000:.2f} µs"
            for kind, calls in used
            if calls.count
        ]
        return [*found, f"  pages: {self.scrapes:.0f} of {self.render_s * 1000:.1f} ms"]


async def measure(streams: int, seconds: float) -> Cost:
    """One run in this process. Raises: RuntimeError where the load failed."""
    configure_logging("warning", "console")
    with tempfile.TemporaryDirectory(prefix="captiond-cost-") as folder:
        settings = Settings(
            port=0,
            asr="scripted",
            diarizer="scripted",
            sessions_max=2 * streams,
            usage_metrics=True,
            store_url=str(Path(folder) / "captiond.db"),
        )
        ready, urls = asyncio.Event(), list[str]()
        server_ = Server(settings)
        serving = asyncio.create_task(server_.run(urls.append, ready.set))
        await asyncio.wait(
            [serving, asyncio.create_task(ready.wait())], return_when=asyncio.FIRST_COMPLETED
        )
        if serving.done():
            serving.result()
        try:
            return await _under_load(server_, urls[0], streams, seconds)
        finally:
            os.kill(os.getpid(), 15)  # the server's own way to stop
            await serving


async def _under_load(server_: Server, url: str, streams: int, seconds: float) -> Cost:
    command = [sys.executable, "-m", "load_tests", "--url", url]
    command += ["--streams", str(streams), "--seconds", str(seconds)]
    workers = psutil.Process().children()
    load = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE
    )
    assert server_._hub is not None
    ledger = Ledger()
    async with asyncio.timeout(seconds + LOAD_SECONDS_MAX):
        most = 0
        # Sessions have no event for their number.
        while (there := sum(1 for _ in server_._hub.sessions)) < streams * THERE_SHARE_MIN:
            most = max(most, there)
            if load.returncode is not None:
                raise RuntimeError(
                    f"only {most} of {streams} streams were there at once; {TOO_SLOW}"
                )
            await asyncio.sleep(0.1)
        heard_s = _heard_s(server_._hub.metrics)
        with ledger.keeping():
            began_s, front_s, before_s = time.monotonic(), time.process_time(), _cpu_s(workers)
            await asyncio.sleep(max(1.0, seconds - 2 * SETTLE_SECONDS))
            passed_s = time.monotonic() - began_s
            front_s = time.process_time() - front_s
            # An engine that was replaced meanwhile is left out: the metrics seem dearer then.
            workers_s = sum(s - before_s[pid] for pid, s in _cpu_s(workers).items())
        heard_s = _heard_s(server_._hub.metrics) - heard_s
        render_s = min(_render_s(server_._hub.metrics) for _ in range(RENDERS))
        _, errors = await load.communicate()
    if load.returncode:
        raise RuntimeError(f"the load went wrong: {errors.decode()[-2000:]}")
    cpu_s = front_s + workers_s
    return Cost(streams, passed_s, heard_s, ledger.calls, render_s, cpu_s, front_s)


def _heard_s(metrics: Metrics) -> float:
    """Audio that has arrived."""
    (family,) = metrics.audio_received_seconds.collect()
    return sum(sample.value for sample in family.samples)


def _render_s(metrics: Metrics) -> float:
    began_s = time.thread_time()
    metrics.render()
    return time.thread_time() - began_s


def _cpu_s(processes: Sequence[psutil.Process]) -> dict[int, float]:
    """Process → what it has used; those that are gone are left out."""
    used = {}
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            used[process.pid] = sum(process.cpu_times()[:2])
    return used


def main(words: Sequence[str] | None = None) -> int:
    """Prints the figures; 1 where they cost too much."""
    parser = argparse.ArgumentParser(prog="python -m load_tests.monitoring.cost")
    parser.add_argument("--streams", type=int, default=300, help="virtual users [300]")
    parser.add_argument("--seconds", type=float, default=40.0, help="audio of each [40]")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    given = parser.parse_args(words)
    if given.streams < 1 or given.seconds < 3 * SETTLE_SECONDS:
        parser.error(f"at least one stream and {3 * SETTLE_SECONDS:g} seconds are needed")
    try:
        cost = uvloop.run(measure(given.streams, given.seconds))
    except RuntimeError as error:
        print(f"cost of metrics: NOT MEASURED: {error}", flush=True)
        return 1
    print("\n".join(cost.lines()), flush=True)
    if given.json is not None:
        figures = {"share": cost.share, "metrics_s": cost.metrics_s, "cpu_s": cost.cpu_s}
        given.json.write_bytes(orjson.dumps(figures))
    return int(not cost.is_met)


if __name__ == "__main__":
    sys.exit(main())
