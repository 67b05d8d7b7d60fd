"""What a packet costs the front process, and which part of the program takes it."""

import subprocess
import sys

import orjson

from load_tests.bench.section import Effort, Figures, section


@section(
    "event loop",
    bounds={
        "event_loop_us_per_packet": None,
        "front_cpu_per_stream_second": None,
        "workers_cpu_per_stream_second": None,
    },
)
def measure(effort: Effort) -> Figures:
    """In a process of its own: this one's other sections must not count."""
    streams, seconds = (5, 3) if effort.is_quick else (50, 20)
    figures = _run(streams, seconds)
    return {**figures, "event_loop_shares": _run(streams, seconds, "--profile")["shares"]}


def _run(streams: int, seconds: int, *more: str) -> Figures:
    command = [sys.executable, "-m", "load_tests.loop_cost", "--json", "/dev/stdout"]
    command += ["--streams", str(streams), "--seconds", str(seconds), *more]
    result = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    figures: Figures = orjson.loads(result.stdout)
    return figures
