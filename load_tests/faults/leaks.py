"""Let 2,000 people have a short session each, and look what they leave behind:
``python -m load_tests.faults.leaks --sessions 2000``.

A real server with its worker processes, scripted words. Memory is that of the front process and of
each worker, when all sessions are over; it is compared between the first half and the whole, so
that caches that fill once do not count. Tasks, threads and descriptors are compared with those of
the server before its first session, when its pool of readers of the store had been filled.
"""

import argparse
import asyncio
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Self

import aiohttp
import orjson
import psutil

from load_tests.faults.visitors import look_around, visit
from load_tests.faults.watched import TASKS_FILE
from server.child import ServerChild, run_with_server, running_server

MIB = 1 << 20
GROWTH_MIB_MAX = 4.0
COUNT_CHANGE_MAX = 2
"""Of tasks, threads and descriptors."""
AT_ONCE = 10
POOL_FILLERS = 50
"""Far more than the store has readers."""
RESUME_WINDOW_S = 5
"""Above what a resume takes on a busy machine; whoever does not come back is gone soon after."""
CLOSING_SECONDS = 2.0
QUIET_SECONDS_MAX = 60.0
POLL_SECONDS = 0.1
SHOWN_FAILURES = 5
SERVER_OPTIONS = (
    *("--asr", "scripted", "--diarizer", "scripted", "--vad", "scripted"),
    *("--resume-window-s", str(RESUME_WINDOW_S), "--log-level", "warning"),
)


@dataclass(frozen=True, slots=True)
class Look:
    """What a server holds at one moment."""

    tasks: Counter[str]
    threads: int
    descriptors: int
    front_mib: float
    workers_mib: tuple[float, ...]
    """In the order in which they were started."""

    @classmethod
    async def at(cls, child: ServerChild, tasks_file: Path) -> Self:
        front = psutil.Process(child.process.pid)
        workers = sorted(front.children(), key=lambda worker: worker.pid)
        return cls(
            await _tasks(child, tasks_file),
            front.num_threads(),
            front.num_fds(),
            front.memory_info().rss / MIB,
            tuple(worker.memory_info().rss / MIB for worker in workers),
        )


async def _tasks(child: ServerChild, path: Path) -> Counter[str]:
    path.unlink(missing_ok=True)  # noqa: ASYNC240  nothing else runs in this program now
    os.kill(child.process.pid, signal.SIGUSR1)
    async with asyncio.timeout(QUIET_SECONDS_MAX):
        while not path.exists():  # noqa: ASYNC110, ASYNC240  another process writes it
            await asyncio.sleep(POLL_SECONDS)
    return Counter(orjson.loads(path.read_bytes()))  # noqa: ASYNC240


@dataclass(frozen=True, slots=True)
class Figures:
    """What was there at the start, at half time and at the end."""

    sessions: int
    start: Look
    half: Look
    end: Look
    failures: Sequence[str]
    seconds: float

    @property
    def faults(self) -> list[str]:
        """Why the bound is missed."""
        found = {
            f"the front process grew by {self.front_growth_mib:.1f} MiB": self.front_growth_mib
            > GROWTH_MIB_MAX,
            f"{len(self.failures)} sessions failed": bool(self.failures),
            "a worker was replaced": len(self.half.workers_mib) != len(self.end.workers_mib),
        }
        faults = [text for text, is_so in found.items() if is_so]
        faults += [
            f"a worker grew by {growth:.1f} MiB"
            for growth in self.worker_growths_mib
            if growth > GROWTH_MIB_MAX
        ]
        for name, (before, after) in self.counts.items():
            if abs(after - before) > COUNT_CHANGE_MAX:
                faults.append(f"{after} {name} in place of {before}")
        return faults

    @property
    def front_growth_mib(self) -> float:
        return self.end.front_mib - self.half.front_mib

    @property
    def worker_growths_mib(self) -> list[float]:
        pairs = zip(self.half.workers_mib, self.end.workers_mib, strict=False)
        return [after - before for before, after in pairs]

    @property
    def counts(self) -> dict[str, tuple[int, int]]:
        start, end = self.start, self.end
        return {
            "tasks": (start.tasks.total(), end.tasks.total()),
            "threads": (start.threads, end.threads),
            "descriptors": (start.descriptors, end.descriptors),
        }

    def lines(self) -> list[str]:
        workers = ", ".join(f"{growth:+.1f}" for growth in self.worker_growths_mib)
        counts = ", ".join(f"{name} {a} → {b}" for name, (a, b) in self.counts.items())
        lines = [
            f"memory: front {self.front_growth_mib:+.1f} MiB from session {self.sessions // 2:,} "
            f"to {self.sessions:,} ({self.end.front_mib:.0f} MiB in all), workers {workers} MiB; "
            f"{GROWTH_MIB_MAX:g} allowed",
            f"left behind: {counts}; ± {COUNT_CHANGE_MAX} allowed; {self.seconds:.0f} s",
        ]
        lines += [
            f"new tasks: {dict(news)}" for news in [self.end.tasks - self.start.tasks] if news
        ]
        lines += [f"FAILED session: {failure}" for failure in self.failures[:SHOWN_FAILURES]]
        return lines + [f"FAILED leaks: {fault}" for fault in self.faults]


async def measure(sessions: int) -> Figures:
    """One server, from ready to the last session."""
    with tempfile.TemporaryDirectory(prefix="captiond-leaks-") as name:
        folder = Path(name)
        tasks_file = folder / "tasks.json"
        environment = {TASKS_FILE: str(tasks_file)}
        began_s = time.monotonic()
        async with running_server(
            SERVER_OPTIONS,
            folder,
            environment=environment,
            hears_keyboard=False,
            program="load_tests.faults.watched",
        ) as child:
            await look_around(child.url, POOL_FILLERS)
            await until_quiet(child.url)
            start = await Look.at(child, tasks_file)
            looks, failures = [], []
            half = sessions // 2
            for numbers in (range(half), range(half, sessions)):
                failures += await visit(child.url, numbers, AT_ONCE)
                await until_quiet(child.url)
                looks.append(await Look.at(child, tasks_file))
        seconds = time.monotonic() - began_s
        return Figures(sessions, start, looks[0], looks[1], failures, seconds)


async def until_quiet(url: str) -> None:
    """No session is in memory any more. Raises: TimeoutError."""
    async with asyncio.timeout(QUIET_SECONDS_MAX), aiohttp.ClientSession() as http:
        while True:
            async with http.get(f"{url}/metrics") as answer:
                page = await answer.text()
            active = [x for x in page.splitlines() if x.startswith("captiond_sessions_active{")]
            if all(float(line.rpartition(" ")[2]) == 0 for line in active):
                break
            await asyncio.sleep(POLL_SECONDS)
    # Connections that were closed, this one included, are gone a moment later.
    await asyncio.sleep(CLOSING_SECONDS)


def main(words: Sequence[str] | None = None) -> int:
    """Print the figures; 1 where a bound is missed."""
    parser = argparse.ArgumentParser(prog="python -m load_tests.faults.leaks")
    parser.add_argument("--sessions", type=int, default=2_000, help="in all [2000]")
    given = parser.parse_args(words)
    if given.sessions < 2:
        parser.error("at least two sessions, to compare the second half with the first")
    figures = run_with_server(partial(measure, given.sessions)())
    print("\n".join(figures.lines()), flush=True)
    return int(bool(figures.faults))


if __name__ == "__main__":
    sys.exit(main())
