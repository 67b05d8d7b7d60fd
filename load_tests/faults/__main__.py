"""Break everything on purpose, a part at a time, and judge: ``python -m load_tests.faults``.

Each part is a program of its own, which prints figures and fails where its bound is missed; here
they are run one after the other, and summed up. A part that only needs a processor may run beside
those that mostly wait, at the lowest priority; not beside those that measure delays. ``--full`` is
what the promises are made of, and takes hours; without it the same parts are smaller. The exit
status is 1 where a bound was missed, or a part could not be measured.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import IO

REPEATS_SHOWN_MAX = 12
"""Lines of figures of one part in the summary."""


@dataclass(frozen=True, slots=True)
class Part:
    """One program, and how to read it."""

    name: str
    bound: str
    """What its exit status stands for."""
    module: str
    arguments: tuple[str, ...]
    figures: str
    """Regular expression: the lines of its output that go into the summary."""
    needs: str | None = None
    """A program without which it cannot be measured."""
    runs_beside: bool = False
    """It takes what the parts after it leave of the processors."""
    wants_quiet: bool = False
    """It measures delays: nothing may run beside it."""

    @property
    def command(self) -> list[str]:
        return ["-m", self.module, *self.arguments]


@dataclass(frozen=True, slots=True)
class Result:
    """What became of a part."""

    part: Part
    verdict: str
    """``met``, ``MISSED`` or ``NOT MEASURED``."""
    figures: tuple[str, ...]
    seconds: float = 0.0

    @property
    def is_met(self) -> bool:
        return self.verdict == "met"


def kills(name: str, faults: int, option: str, sessions: int) -> Part:
    arguments = (option, str(faults), "--sessions", str(sessions))
    return Part(
        name,
        f"{faults} with {sessions} sessions: 0 lost, 0 doubled, all end",
        "load_tests.faults.kills",
        arguments,
        r"^(?:part|(?:server|worker) kills|client cuts|server moves) ",
    )


def simulation(seeds: int, *, runs_beside: bool = False) -> Part:
    jobs = ("--jobs", "1") if runs_beside else ()
    return Part(
        "simulation",
        f"{seeds} seeds with all faults: 0 violations, every session ends",
        "tests.sim",
        ("--seeds", str(seeds), *jobs),
        r"^(?:seeds|sessions|time|never) ",
        runs_beside=runs_beside,
    )


def store_crash(every: int) -> Part:
    return Part(
        "store crash",
        "integrity ok, and every final that was seen is there",
        "load_tests.faults.store_crash",
        ("--every", str(every)),
        r"^store crash:",
        needs="strace",
    )


def hangs(*arguments: str) -> Part:
    return Part(
        "hangs",
        "every engine call hangs: 20 of 20 end, each word in a final or a gap, pings answered",
        "load_tests.faults.hangs",
        ("--sessions", "20", *arguments),
        r"^(?:always|outage|poison): ",
    )


def leaks(sessions: int) -> Part:
    return Part(
        "leaks",
        f"{sessions} short sessions: at most 4 MiB more than after half of them, nothing left",
        "load_tests.faults.leaks",
        ("--sessions", str(sessions)),
        r"^(?:memory|left behind): ",
    )


def machines(session: int, protocol: int) -> Part:
    return Part(
        "state machines",
        f"{session} stories of a session and {protocol} over sockets: no promise is broken",
        "load_tests.faults.machines",
        ("--session", str(session), "--protocol", str(protocol)),
        r"^(?:session|protocol) machine: ",
    )


def overload(*arguments: str) -> Part:
    return Part(
        "overload",
        "twice as many people: no delay for those inside, all others refused in 250 ms",
        "load_tests.faults.overload",
        arguments,
        r"^overload: ",
        wants_quiet=True,
    )


def diarizer(*arguments: str) -> Part:
    return Part(
        "diarizer",
        "killed, then late by each call: text at most 1.1 times as late, no word changes, speakers "
        "by revisions",
        "load_tests.faults.diarizer",
        arguments,
        r"^(?:calm|killed|late): ",
        wants_quiet=True,
    )


MUTANTS = Part(
    "mutants", "every planted bug is caught", "tests.sim", ("--mutants",), r"caught$|NOT CAUGHT"
)
SAME_LOGS = Part(
    "same logs",
    "200 seeds with two hash seeds: identical logs",
    "load_tests.faults.same_logs",
    ("--seeds", "200"),
    r"^logs of ",
)

SMALL = (
    simulation(500, runs_beside=True),
    kills("server kills", 20, "--server-kills", 5),
    kills("worker kills", 10, "--worker-kills", 5),
    kills("client cuts", 100, "--cuts", 5),
    kills("server moves", 50, "--moves", 5),
    store_crash(8),
    hangs("--call-timeout-s", "2"),
    leaks(400),
    machines(200, 50),
    overload("--quick"),
    diarizer("--rounds", "1", "--sessions", "8", "--talk-s", "6", "--late-s", "1"),
)
FULL = (
    kills("server kills", 100, "--server-kills", 20),
    kills("worker kills", 50, "--worker-kills", 20),
    kills("client cuts", 1_000, "--cuts", 20),
    kills("server moves", 200, "--moves", 20),
    store_crash(1),
    hangs(),
    leaks(2_000),
    machines(10_000, 1_000),
    overload(),
    diarizer("--rounds", "3", "--sessions", "3"),
    MUTANTS,
    SAME_LOGS,
    simulation(10_000),
)

SEED_OPTIONS = {
    "load_tests.faults.kills": "--seed",
    "load_tests.faults.hangs": "--seed",
    "load_tests.faults.overload": "--seed",
    "load_tests.faults.diarizer": "--seed",
    "tests.sim": "--from",
}
"""Of the modules that have one."""

Say = Callable[[str], None]


def run_part(part: Part, say: Say) -> Result:
    """Shows the part's output while it runs."""
    if part.needs is not None and shutil.which(part.needs) is None:
        return Result(part, "NOT MEASURED", (f"{part.needs} is not installed",))
    began_s = time.monotonic()
    priority = ["nice", "-n", "19"] if part.runs_beside else []
    with subprocess.Popen(
        [*priority, sys.executable, *part.command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    ) as process:
        assert process.stdout is not None
        figures = read_figures(process.stdout, part.figures, say)
    seconds = time.monotonic() - began_s
    return Result(part, verdict(process.returncode, figures), figures, seconds)


def run_all(parts: Sequence[Part], say: Say) -> list[Result]:
    """In their order; what was said by those that run beside others comes when they are over."""
    results: list[Result] = []
    beside: list[tuple[Future[Result], list[str]]] = []
    with ThreadPoolExecutor() as pool:
        for part in parts:
            head = f"== {part.name}: python {' '.join(part.command)}"
            if part.runs_beside:
                lines = [head]
                beside.append((pool.submit(run_part, part, lines.append), lines))
                continue
            if part.wants_quiet:
                results += _finished(beside, say)
            say(head)
            results.append(run_part(part, say))
        results += _finished(beside, say)
    return results


def _finished(beside: list[tuple[Future[Result], list[str]]], say: Say) -> list[Result]:
    """Waits for them, and takes them off."""
    results = []
    while beside:
        future, lines = beside.pop(0)
        results.append(future.result())
        for line in lines:
            say(line)
    return results


def read_figures(output: IO[str], pattern: str, say: Say) -> tuple[str, ...]:
    figures: list[str] = []
    for line in output:
        say(line.rstrip("\n"))
        if re.search(pattern, line) and len(figures) < REPEATS_SHOWN_MAX:
            figures.append(line.strip())
    return tuple(figures)


def verdict(status: int, figures: Sequence[str]) -> str:
    """A program that says nothing has measured nothing, whatever its status."""
    if not figures:
        return "NOT MEASURED"
    return "met" if status == 0 else "MISSED"


def summary(results: Sequence[Result], seconds: float) -> str:
    """``seconds``: that all of them took together."""
    lines = []
    for result in results:
        head = f"{result.verdict:12}  {result.part.name} ({result.part.bound})"
        lines.append(f"{head}, {result.seconds:.0f} s")
        lines += [f"              {line}" for line in result.figures]
    met = sum(result.is_met for result in results)
    lines.append(f"{met} of {len(results)} bounds met, {seconds:.0f} s")
    return "\n".join(lines)


def chosen(parts: Sequence[Part], only: Sequence[str], seed: int) -> list[Part]:
    """Raises: ValueError for a name that none has."""
    names = [part.name for part in parts]
    for name in only:
        if name not in names:
            raise ValueError(f"no part {name!r}; there are: {', '.join(names)}")
    return [_seeded(part, seed) for part in parts if not only or part.name in only]


def _seeded(part: Part, seed: int) -> Part:
    option = SEED_OPTIONS.get(part.module)
    if option is None or "--mutants" in part.arguments:
        return part
    return replace(part, arguments=(*part.arguments, option, str(seed)))


def main(words: Sequence[str] | None = None) -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m load_tests.faults", description=__doc__)
    parser.add_argument("--full", action="store_true", help="as much as is promised; hours")
    parser.add_argument("--only", action="append", default=[], metavar="PART")
    parser.add_argument("--seed", type=int, default=1, help="another run of the same kind [1]")
    given = parser.parse_args(words)
    try:
        parts = chosen(FULL if given.full else SMALL, given.only, given.seed)
    except ValueError as error:
        parser.error(str(error))
    began_s = time.monotonic()
    results = run_all(parts, lambda line: print(line, flush=True))
    print(f"\n{summary(results, time.monotonic() - began_s)}", flush=True)
    return 0 if all(result.is_met for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
