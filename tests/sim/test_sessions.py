"""Whole sessions in seeded worlds: what must hold, holds in all of them."""

import os
import subprocess
import sys
from functools import cache

import pytest

from tests.sim.__main__ import Totals, replay_command
from tests.sim.whole import Report, run_seed

SEEDS = 120


@cache
def report_of(seed: int) -> Report:
    return run_seed(seed)


def check(seed: int) -> None:
    report = report_of(seed)
    assert report.check is None, f"replay: {replay_command(seed)}\n{report.failure}"


@pytest.mark.parametrize("seed", range(SEEDS))
def test_every_session_closes_with_every_sample_and_word_accounted_for(seed: int) -> None:
    check(seed)


def test_a_seed_gives_the_same_log_twice() -> None:
    for seed in (0, 7, 42):
        assert run_seed(seed).lines == report_of(seed).lines


def test_logs_do_not_depend_on_the_hash_seed_of_the_interpreter() -> None:
    command = [sys.executable, "-m", "tests.sim", "--seeds", "5", "--jobs", "1", "--logs"]
    logs = [
        subprocess.run(
            command, env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in ("1", "2")
    ]
    assert logs[0]
    assert logs[0] == logs[1]


def test_every_kind_of_fault_and_every_way_through_a_session_occurs() -> None:
    totals = Totals()
    for seed in range(SEEDS):
        totals.add(report_of(seed))
    assert not totals.missing
