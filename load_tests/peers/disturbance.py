"""What else the machine did during a measurement: without this, a figure of time means nothing.

Reads the kernel's own accounts (Linux); elsewhere everything reads as undisturbed, and the
lateness of the load is the only witness.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import psutil

_STAT = Path("/proc/stat")
_BUSY = ("user", "nice", "system", "irq", "softirq")
_NAMES = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal")
_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Reading:
    """Processor seconds since some beginning, over all processors."""

    at_s: float
    busy_s: float
    stolen_s: float
    """By other machines on the same hardware."""


def read(now_s: float, stat: Path = _STAT) -> Reading:
    """The machine's account."""
    try:
        line = stat.read_text().split("\n", 1)[0].split()[1:]
    except OSError:
        return Reading(now_s, 0.0, 0.0)
    seconds = {
        name: int(ticks) / _TICKS_PER_SECOND for name, ticks in zip(_NAMES, line, strict=False)
    }
    return Reading(now_s, sum(seconds[name] for name in _BUSY), seconds.get("steal", 0.0))


def others_share(before: Reading, after: Reading, own_s: float, cores: int) -> float:
    """Of all processors between two readings; ``own_s`` is what the measurement itself used."""
    passed_s = (after.at_s - before.at_s) * cores
    others_s = after.busy_s - before.busy_s - own_s + after.stolen_s - before.stolen_s
    return round(max(0.0, others_s) / passed_s, 4) if passed_s > 0 else 0.0


def scheduler_waits_s(pids: Iterable[int], proc: Path = Path("/proc")) -> float:
    """For how long all threads of these processes were ready to run and did not, since they began.

    A server that uses the whole machine waits for itself, too: beside ``others_share`` only.
    """
    waited_ns = 0
    for pid in pids:
        for figures in (proc / str(pid)).glob("task/*/schedstat"):
            try:
                waited_ns += int(figures.read_text().split()[1])
            except (OSError, ValueError, IndexError):
                continue  # the thread has ended
    return waited_ns / 1e9


def family(pid: int) -> list[int]:
    """The process and all that it started."""
    try:
        root = psutil.Process(pid)
        return [pid, *(child.pid for child in root.children(recursive=True))]
    except psutil.NoSuchProcess:
        return []
