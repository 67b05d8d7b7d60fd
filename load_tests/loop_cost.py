"""What a packet costs the server's front process: ``python -m load_tests.loop_cost``.

The front process is this one, under a real load from a child process over real sockets, with
scripted engines in their own processes, so its processor time is the event loop's cost and
nothing else. ``--spoken`` takes real voices and real voice activity, and tells how late the loop
takes up what is due. ``--profile`` says which part of the program used it; ``--against FOLDER``
runs another source tree by turns under the same load and prints the ratio, which is what may be
compared: absolute times depend on the machine.
"""

import argparse
import asyncio
import cProfile
import os
import pstats
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import psutil
import uvloop

Figures = dict[str, Any]

PACKETS_PER_SECOND = 10
"""Of the canonical workload."""
SECONDS_MAX = 120.0
"""On top of the load's own length: a server that takes longer hangs."""
LAG_PROBE_SECONDS = 0.005
SCHEDULED = Path("/proc/thread-self/schedstat")
PARTS = (
    ("server/worker", "worker frames"),
    ("pickle", "worker frames"),
    ("server/dispatch", "dispatch"),
    ("streaming/batching", "dispatch"),
    ("streaming/audio", "audio"),
    ("streaming/buffer", "audio"),
    ("streaming/wire", "wire"),
    ("orjson", "wire"),
    ("streaming/", "session"),
    ("server/store", "store"),
    ("sqlalchemy", "store"),
    ("aiosqlite", "store"),
    ("prometheus_client", "metrics"),
    ("server/telemetry", "metrics"),
    ("server/metrics", "metrics"),
    ("server/accounts", "metrics"),
    ("server/vitals", "metrics"),
    ("structlog", "logging"),
    ("logging/", "logging"),
    ("server/", "connections"),
    ("aiohttp", "aiohttp"),
    ("asyncio/", "asyncio"),
)
"""Where a function's time is counted, by the first match with its file's path."""


@dataclass(frozen=True, slots=True)
class Arguments:
    """What the command line says."""

    streams: int
    seconds: float
    rounds: int
    profile: bool
    against: Path | None
    json_path: Path | None
    is_spoken: bool
    """Real voices and real voice activity, in place of scripted ones."""


def parse_arguments(words: Sequence[str] | None) -> Arguments:
    """Exits with a usage message where they are wrong."""
    parser = argparse.ArgumentParser(prog="python -m load_tests.loop_cost", description=__doc__)
    parser.add_argument("--streams", type=int, default=50, help="virtual users [50]")
    parser.add_argument("--seconds", type=float, default=15.0, help="audio of each [15]")
    parser.add_argument("--rounds", type=int, default=1, help="runs; the median counts [1]")
    parser.add_argument("--profile", action="store_true", help="say which part used the time")
    parser.add_argument(
        "--against", type=Path, metavar="FOLDER", help="another source tree, for the ratio"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    parser.add_argument(
        "--spoken", action="store_true", help="real voices, and Silero to find them"
    )
    given = parser.parse_args(words)
    if given.streams < 1 or given.seconds < 3 or given.rounds < 1:
        parser.error("at least one stream, three seconds and one round are needed")
    return Arguments(
        given.streams,
        given.seconds,
        given.rounds,
        given.profile,
        given.against,
        given.json,
        given.spoken,
    )


async def measure(
    streams: int, seconds: float, *, profile: bool, is_spoken: bool = False
) -> Figures:
    """One run, in this process. Raises: RuntimeError where the load failed."""
    # Here, because another source tree may be the one that is measured.
    from server.app import Server
    from server.config import Settings
    from server.telemetry import configure_logging

    configure_logging("warning", "console")
    with tempfile.TemporaryDirectory(prefix="captiond-loop-") as folder:
        settings = Settings(
            port=0,
            asr="scripted",
            diarizer="none",
            vad="silero" if is_spoken else "auto",
            sessions_max=2 * streams,
            store_url=str(Path(folder) / "captiond.db"),
        )
        ready, urls = asyncio.Event(), list[str]()
        server = Server(settings)
        serving = asyncio.create_task(server.run(urls.append, ready.set))
        await asyncio.wait(
            [serving, asyncio.create_task(ready.wait())], return_when=asyncio.FIRST_COMPLETED
        )
        if serving.done():
            serving.result()
        workers = psutil.Process().children()
        try:
            if is_spoken:
                return await _under_voices(urls[0], streams, seconds)
            return await _under_load(urls[0], workers, streams, seconds, profile=profile)
        finally:
            os.kill(os.getpid(), 15)  # the server's own way to stop
            await serving


async def _under_load(
    url: str, workers: list[psutil.Process], streams: int, seconds: float, *, profile: bool
) -> Figures:
    command = [sys.executable, "-m", "load_tests", "--url", url]
    command += ["--streams", str(streams), "--seconds", str(seconds)]
    profiler = cProfile.Profile()
    worker_s, front_s, loop_s = _cpu_s(workers), time.process_time(), time.thread_time()
    if profile:
        profiler.enable()
    load = await asyncio.create_subprocess_exec(
        *command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    async with asyncio.timeout(seconds + SECONDS_MAX):
        _, errors = await load.communicate()
    profiler.disable()
    worker_s, front_s = _cpu_s(workers) - worker_s, time.process_time() - front_s
    loop_s = time.thread_time() - loop_s
    if load.returncode:
        raise RuntimeError(f"the load went wrong: {errors.decode()[-2000:]}")
    packets, audio_s = streams * seconds * PACKETS_PER_SECOND, streams * seconds
    figures: Figures = {
        "event_loop_us_per_packet": round(loop_s * 1e6 / packets, 1),
        "front_cpu_per_stream_second": round(front_s / audio_s, 6),
        "workers_cpu_per_stream_second": round(worker_s / audio_s, 6),
    }
    return {**figures, "shares": _shares(profiler)} if profile else figures


class LagWatch:
    """How late the event loop takes up what is due: with, and without, waiting for a processor."""

    def __init__(self) -> None:
        self.lags_s: list[float] = []
        self.own_lags_s: list[float] = []

    async def run(self) -> None:
        """Until it is cancelled."""
        waited_s = _waited_s()
        while True:
            due_s = time.monotonic() + LAG_PROBE_SECONDS
            await asyncio.sleep(LAG_PROBE_SECONDS)
            late_s, before_s = time.monotonic() - due_s, waited_s
            waited_s = _waited_s()
            self.note(late_s, waited_s - before_s)

    def note(self, late_s: float, waited_s: float) -> None:
        """So late, of which it had no processor for ``waited_s``."""
        self.lags_s.append(max(0.0, late_s))
        self.own_lags_s.append(max(0.0, late_s - waited_s))


def _waited_s() -> float:
    """For a processor, this thread since its start; 0 where nobody tells."""
    try:
        return int(SCHEDULED.read_text().split()[1]) / 1e9
    except (OSError, ValueError, IndexError):
        return 0.0


async def _under_voices(url: str, streams: int, seconds: float) -> Figures:
    """Raises: RuntimeError where the load could not be made."""
    from clients.delays import quantiles

    command = [sys.executable, "-m", "load_tests.bench.spoken_load", "--url", url]
    command += ["--streams", str(streams), "--seconds", str(seconds)]
    watch = LagWatch()
    load = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
    assert load.stdout is not None
    async with asyncio.timeout(seconds + SECONDS_MAX):
        await load.stdout.readline()  # voices are made: it begins to speak
        watching = asyncio.create_task(watch.run())
        loop_s = time.thread_time()
        told, _ = await load.communicate()
    watching.cancel()
    if load.returncode:
        raise RuntimeError(f"the load went wrong: {told.decode()[-2000:]}")
    return {
        "event_loop_lag_s": quantiles(watch.lags_s),
        "event_loop_own_lag_s": quantiles(watch.own_lags_s),
        "event_loop_us_per_packet": round(
            (time.thread_time() - loop_s) * 1e6 / (streams * seconds * PACKETS_PER_SECOND), 1
        ),
        "load": orjson.loads(told),
    }


def _cpu_s(processes: list[psutil.Process]) -> float:
    return sum(sum(process.cpu_times()[:2]) for process in processes)


def _shares(profiler: cProfile.Profile) -> dict[str, float]:
    """Share of each part in the profiled time; a built-in counts where it was called from."""
    used: dict[str, float] = {}
    for function, (_, _, own_s, _, callers) in pstats.Stats(profiler).stats.items():  # type: ignore[attr-defined]
        if function[0] == "~" and callers:
            for caller, (_, _, from_there_s, _) in callers.items():
                part = _part_of(caller[0])
                used[part] = used.get(part, 0.0) + from_there_s
        else:
            used[_part_of(function[0])] = used.get(_part_of(function[0]), 0.0) + own_s
    whole_s = sum(used.values())
    return {
        part: round(own_s / whole_s, 3)
        for part, own_s in sorted(used.items(), key=lambda item: -item[1])
    }


def _part_of(path: str) -> str:
    return next((part for match, part in PARTS if match in path), "other")


def _measure_elsewhere(tree: Path, arguments: Arguments) -> Figures:
    """One run of the tree in a process of its own, measured by this very file."""
    command = [sys.executable, "-P", str(Path(__file__).resolve()), "--json", "/dev/stdout"]
    command += ["--streams", str(arguments.streams), "--seconds", str(arguments.seconds)]
    command += ["--profile"] if arguments.profile else []
    command += ["--spoken"] if arguments.is_spoken else []
    environment = {**os.environ, "PYTHONPATH": str(tree.resolve())}
    result = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
    found: Figures = orjson.loads(result.stdout)
    return found


def _median(runs: Sequence[Figures]) -> Figures:
    """Of each number; shares are the last run's."""
    merged = dict(runs[-1])
    for name, value in merged.items():
        if isinstance(value, float):
            merged[name] = statistics.median(run[name] for run in runs)
    return merged


def run(arguments: Arguments) -> Figures:
    """All rounds, the other tree's by turns with ours."""
    if arguments.against is None and arguments.rounds == 1:
        return uvloop.run(
            measure(
                arguments.streams,
                arguments.seconds,
                profile=arguments.profile,
                is_spoken=arguments.is_spoken,
            )
        )
    ours, theirs = list[Figures](), list[Figures]()
    for _ in range(arguments.rounds):
        if arguments.against is not None:
            theirs.append(_measure_elsewhere(arguments.against, arguments))
        ours.append(_measure_elsewhere(Path(__file__).parents[1], arguments))
    figures = _median(ours)
    if theirs:
        other = figures["against"] = _median(theirs)
        figures["ratios"] = {
            name: round(figures[name] / other[name], 3)
            for name, value in other.items()
            if isinstance(value, float)
        }
    return figures


def main(words: Sequence[str] | None = None) -> int:
    """Returns the exit status."""
    arguments = parse_arguments(words)
    figures = run(arguments)
    text = orjson.dumps(figures, option=orjson.OPT_INDENT_2) + b"\n"
    if arguments.json_path is not None:
        arguments.json_path.write_bytes(text)
    else:
        print(text.decode(), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
