"""Faults planted in the code: the simulation's checks catch each of them, by name."""

import pytest

from tests.sim.mutants import MUTANTS, Mutant, hunt

NAMED = {
    "final sent before commit",
    "dedupe skipped",
    "tail dropped",
    "queue unbounded",
    "late result accepted",
    "NaN let through",
}
"""Which the project has promised to catch."""


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_planted_fault_is_caught_by_the_check_that_is_meant_for_it(mutant: Mutant) -> None:
    catch = hunt(mutant)
    assert catch is not None, f"{mutant.name} goes unnoticed"
    assert catch.check in mutant.caught_by, f"{mutant.name}: seed {catch.seed}, {catch.check}"


def test_the_promised_faults_are_planted() -> None:
    assert {mutant.name for mutant in MUTANTS} >= NAMED
