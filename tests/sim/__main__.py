"""Runs many seeds, shows one, or plants faults: ``python -m tests.sim --seeds 2000``,
``… --seed 784``, ``… --mutants``.
"""

import argparse
import os
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial

from tests.sim.mutants import MUTANTS, SEEDS_MAX, hunt
from tests.sim.weather import Fault, Way
from tests.sim.whole import Report, run_seed

SEEDS_PER_TASK = 4
FAILURES_SHOWN = 10


def replay_command(seed: int) -> str:
    """What shows a seed again, log and all."""
    return f".venv/bin/python -m tests.sim --seed {seed}"


@dataclass
class Totals:
    """What many worlds add up to."""

    seeds: int = 0
    sessions: int = 0
    events: int = 0
    audio_seconds: float = 0.0
    faults: Counter[Fault] = field(default_factory=Counter)
    ways: Counter[Way] = field(default_factory=Counter)
    failures: list[Report] = field(default_factory=list)

    def add(self, report: Report) -> None:
        self.seeds += 1
        self.sessions += report.sessions
        self.events += report.events
        self.audio_seconds += report.audio_seconds
        self.faults.update(report.faults)
        self.ways.update(report.ways)
        if report.check is not None:
            self.failures.append(report)

    @property
    def missing(self) -> list[str]:
        """Kinds of faults and ways through a session that never occurred."""
        faults = [fault.value for fault in Fault if not self.faults[fault]]
        return faults + [way.value for way in Way if not self.ways[way]]


def reports(seeds: Iterable[int], jobs: int, *, with_logs: bool) -> Iterator[Report]:
    """In the order of the seeds, whichever process is done first."""
    with ProcessPoolExecutor(jobs) as pool:
        yield from pool.map(partial(_report, with_logs=with_logs), seeds, chunksize=SEEDS_PER_TASK)


def _report(seed: int, *, with_logs: bool) -> Report:
    report = run_seed(seed)
    return report if with_logs else replace(report, lines=())


def run_many(seeds: range, jobs: int, *, with_logs: bool) -> int:
    """Returns the exit status."""
    totals, started = Totals(), time.monotonic()
    for report in reports(seeds, jobs, with_logs=with_logs):
        totals.add(report)
        if with_logs:
            sys.stdout.writelines(f"{report.seed} {line}\n" for line in report.lines)
        if report.check is not None and len(totals.failures) <= FAILURES_SHOWN:
            _say(f"seed {report.seed}: {report.last_word}\n  replay: {replay_command(report.seed)}")
        if totals.seeds % max(1, len(seeds) // 20) == 0:
            done = f"{totals.seeds} of {len(seeds)} seeds"
            _say(f"{done}, {len(totals.failures)} failed, {time.monotonic() - started:.0f} s")
    _say(_summary(totals, time.monotonic() - started))
    return 1 if totals.failures else 0


def _summary(totals: Totals, seconds: float) -> str:
    lines = [
        f"seeds      {totals.seeds}, {len(totals.failures)} failed",
        f"sessions   {totals.sessions}",
        f"events     {totals.events}",
        f"audio      {totals.audio_seconds:.0f} s",
        f"time       {seconds:.0f} s",
        f"faults     {_counts(totals.faults)}",
        f"ways       {_counts(totals.ways)}",
    ]
    if totals.missing:
        lines.append(f"never      {', '.join(totals.missing)}")
    lines += [
        f"failed     {replay_command(report.seed)}" for report in totals.failures[:FAILURES_SHOWN]
    ]
    return "\n".join(lines)


def _counts(tally: Counter[Fault] | Counter[Way]) -> str:
    # Ties by name: the order of first occurrence is another one with other seeds.
    ordered = sorted(tally.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{name} {count}" for name, count in ordered)


def show(seed: int) -> int:
    """One seed's log, its weather and what went wrong; returns the exit status."""
    report = run_seed(seed)
    sys.stdout.writelines(f"{line}\n" for line in report.lines)
    _say(f"{report.weather}\nlog {report.digest}")
    _say(report.failure or "all is well")
    return 1 if report.failure else 0


def plant_all() -> int:
    """Every mutant, and what caught it; returns the exit status."""
    missed = 0
    for mutant in MUTANTS:
        catch = hunt(mutant)
        if catch is None:
            missed += 1
            _say(f"{mutant.name}: NOT CAUGHT in {SEEDS_MAX} seeds")
        else:
            _say(f"{mutant.name}: {catch.check}, seed {catch.seed}")
    _say(f"{len(MUTANTS) - missed} of {len(MUTANTS)} caught")
    return 1 if missed else 0


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description=__doc__)
    parser.add_argument("--seed", type=int, help="show this one: its log, and what went wrong")
    parser.add_argument("--mutants", action="store_true", help="plant each fault, and catch it")
    parser.add_argument("--seeds", type=int, default=200, help="how many to run")
    parser.add_argument("--from", dest="first", type=int, default=0, help="the first of them")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument("--logs", action="store_true", help="write every log to standard output")
    options = parser.parse_args()
    if options.seed is not None:
        return show(options.seed)
    if options.mutants:
        return plant_all()
    seeds = range(options.first, options.first + options.seeds)
    return run_many(seeds, options.jobs, with_logs=options.logs)


if __name__ == "__main__":
    sys.exit(main())
