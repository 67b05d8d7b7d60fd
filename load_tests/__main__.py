"""``python -m load_tests``: start a server (or take one), put load on it, report, judge.

The exit status is 1 when any word went wrong (lost, doubled, at the wrong client, out of order,
changed, at the wrong time), when a bound given with ``--assert`` is broken, or when a session ended
in an error.
"""

import argparse
import asyncio
import contextlib
import random
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import orjson
import psutil
import uvloop
from rich.console import Console
from rich.progress import Progress

from load_tests.replay import Heard, Target, VirtualUser
from load_tests.report import (
    Conditions,
    Figures,
    ServerCost,
    as_markdown,
    broken_bounds,
    is_wrong,
    make_report,
)
from load_tests.workload import WORKLOADS, plan_stream
from server.child import running_server

STAGGER_SECONDS = 0.02
"""Per stream: clients of a real server do not all connect in the same instant."""
SAMPLE_EVERY_SECONDS = 0.5
STOP = "--"


@dataclass(frozen=True, slots=True)
class Arguments:
    """What the command line says."""

    streams: int
    seconds: float
    workload: str
    seed: int
    url: str | None
    api_key: str | None
    json_path: Path | None
    bounds: dict[str, float]
    server_options: tuple[str, ...]


def parse_arguments(words: Sequence[str]) -> Arguments:
    """Exits with a usage message where they are wrong."""
    own, has_options, options = _split(words)
    parser = argparse.ArgumentParser(
        prog="python -m load_tests",
        description="Put an open-loop, real-time load of scripted words on a captiond server.",
        epilog="Options after -- go to `captiond serve`.",
    )
    parser.add_argument("--streams", type=int, default=20, help="virtual users [20]")
    parser.add_argument("--seconds", type=float, default=60.0, help="audio of each user [60]")
    parser.add_argument("--workload", choices=sorted(WORKLOADS), default="canonical")
    parser.add_argument("--seed", type=int, default=1, help="of the workload [1]")
    parser.add_argument("--url", help="of a running server; else one is started")
    parser.add_argument("--api-key", help="for that server")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    parser.add_argument(
        "--assert",
        dest="bounds",
        action="append",
        default=[],
        type=_bound,
        metavar="RATIO<=BOUND",
        help="fail where a ratio of the report is above the bound; may be repeated",
    )
    given = parser.parse_args(own)
    if given.streams < 1 or given.seconds < 3:
        parser.error("at least one stream and three seconds are needed")
    if given.url and has_options:
        parser.error("options after -- are for a server that is started here; leave out --url")
    return Arguments(
        given.streams,
        given.seconds,
        given.workload,
        given.seed,
        given.url,
        given.api_key,
        given.json,
        dict(given.bounds),
        server_options(options, given.streams),
    )


def _split(words: Sequence[str]) -> tuple[list[str], bool, list[str]]:
    if STOP not in words:
        return list(words), False, []
    at = list(words).index(STOP)
    return list(words[:at]), True, list(words[at + 1 :])


def _bound(text: str) -> tuple[str, float]:
    name, separator, value = text.partition("<=")
    if not separator:
        raise argparse.ArgumentTypeError("write it as RATIO<=BOUND")
    return name.strip(), float(value)


def server_options(given: Sequence[str], streams: int) -> tuple[str, ...]:
    """``given``, with the scripted engines and room for all streams where it says nothing else."""
    defaults = {"--asr": "scripted", "--diarizer": "none", "--sessions-max": str(max(streams, 200))}
    names = {word.partition("=")[0] for word in given}
    missing = [(name, value) for name, value in defaults.items() if name not in names]
    return (*given, *(word for pair in missing for word in pair))


class CostMeter:
    """Watches a process and its children."""

    def __init__(self, pid: int) -> None:
        self._process = psutil.Process(pid)
        self._cpu_s: dict[int, float] = {}
        self._began_cpu_s: dict[int, float] = {}
        self._peak_bytes = 0
        self.sample()
        self._began_cpu_s = dict(self._cpu_s)

    def sample(self) -> None:
        """Look once; a process that ends keeps what it had used when last seen."""
        resident = 0
        with contextlib.suppress(psutil.NoSuchProcess):
            for process in [self._process, *self._process.children(recursive=True)]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    times = process.cpu_times()
                    self._cpu_s[process.pid] = times.user + times.system
                    resident += process.memory_info().rss
        self._peak_bytes = max(self._peak_bytes, resident)

    def cost(self) -> ServerCost:
        """Since the first look."""
        self.sample()
        used = sum(s - self._began_cpu_s.get(pid, 0.0) for pid, s in self._cpu_s.items())
        return ServerCost(used, self._peak_bytes / 1e6)


@contextlib.asynccontextmanager
async def target_of(arguments: Arguments) -> AsyncIterator[tuple[Target, CostMeter | None]]:
    """The server to be loaded, ready."""
    if arguments.url is not None:
        yield Target(arguments.url, arguments.api_key), None
        return
    with tempfile.TemporaryDirectory(prefix="captiond-load-") as folder:
        async with running_server(arguments.server_options, Path(folder)) as server:
            meter = CostMeter(server.process.pid)
            yield Target(server.url, arguments.api_key), meter


async def put_load(arguments: Arguments, target: Target, meter: CostMeter | None) -> list[Heard]:
    """All virtual users at once, from their first packet to ``done``."""
    workload = WORKLOADS[arguments.workload]
    plans = [
        plan_stream(workload, number, seconds=arguments.seconds, seed=arguments.seed)
        for number in range(1, arguments.streams + 1)
    ]
    chance = random.Random(arguments.seed)
    spread_s = STAGGER_SECONDS * arguments.streams
    begins_s = time.monotonic()
    watching = asyncio.create_task(_watch(meter, spread_s + arguments.seconds))
    try:
        async with asyncio.TaskGroup() as users:
            talks = [
                users.create_task(
                    VirtualUser(plan, target).talk(begins_s + chance.uniform(0, spread_s))
                )
                for plan in plans
            ]
    finally:
        watching.cancel()
    return [talk.result() for talk in talks]


async def _watch(meter: CostMeter | None, expected_s: float) -> None:
    began_s = time.monotonic()
    with Progress(console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("streaming", total=expected_s)
        while True:
            await asyncio.sleep(SAMPLE_EVERY_SECONDS)
            progress.update(bar, completed=min(expected_s, time.monotonic() - began_s))
            if meter is not None:
                meter.sample()


async def run(arguments: Arguments) -> Figures:
    """One load test."""
    async with target_of(arguments) as (target, meter):
        heards = await put_load(arguments, target, meter)
        cost = meter.cost() if meter else None
    options = None if arguments.url else arguments.server_options
    conditions = Conditions(
        arguments.workload, arguments.seed, arguments.streams, arguments.seconds, options
    )
    return make_report(heards, cost, conditions)


def main(words: Sequence[str] | None = None) -> int:
    """Returns the exit status."""
    arguments = parse_arguments(sys.argv[1:] if words is None else words)
    figures = uvloop.run(run(arguments))
    print(as_markdown(figures))
    if arguments.json_path is not None:
        arguments.json_path.write_bytes(orjson.dumps(figures, option=orjson.OPT_INDENT_2) + b"\n")
    broken = broken_bounds(figures, arguments.bounds)
    for line in broken:
        print(line, file=sys.stderr)
    return 1 if broken or is_wrong(figures) or figures["errors"] else 0


if __name__ == "__main__":
    sys.exit(main())
