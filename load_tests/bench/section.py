"""What a section of the bench is: a function that measures, with a name and bounds.

    @section("event loop", bounds={"event_loop_us_per_packet": None})
    def measure(effort: Effort) -> Figures: ...

Invariant S1: no two sections give a figure of the same name.
"""

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Figures = dict[str, Any]
"""Name → number; a mapping where a figure has parts, such as shares of a whole."""


@dataclass(frozen=True, slots=True)
class Effort:
    """How much a section may spend."""

    is_quick: bool = False
    """Only to see that it works: figures are not to be believed."""
    options: Mapping[str, str] = field(default_factory=dict)
    """What the command line gave with ``--set``, such as a checkpoint's folder."""

    @property
    def seed(self) -> int:
        """``--set seed=2`` measures on other speech of the same kind."""
        return int(self.options.get("seed", 1))


Measure = Callable[[Effort], Figures]


@dataclass(frozen=True, slots=True)
class Section:
    """One function that measures."""

    name: str
    measure: Measure
    bounds: Mapping[str, float | None]
    """The highest value of each figure that has a bound; None for those that are only printed."""


SECTIONS: dict[str, Section] = {}


class SectionSkipped(Exception):
    """What it measures is not there; the message says what, and how to get it."""


def section(name: str, *, bounds: Mapping[str, float | None]) -> Callable[[Measure], Measure]:
    """Make a function a section. ``bounds`` names every number that it gives."""

    def register(measure: Measure) -> Measure:
        taken = {figure for other in SECTIONS.values() for figure in other.bounds}
        if name in SECTIONS or taken & set(bounds):
            raise ValueError(f"section {name}: its name, or one of {sorted(bounds)}, is taken")
        SECTIONS[name] = Section(name, measure, dict(bounds))
        return measure

    return register


def all_sections() -> dict[str, Section]:
    """Every section, by name."""
    folder = Path(__file__).parent / "sections"
    for module in pkgutil.iter_modules([str(folder)]):
        importlib.import_module(f"load_tests.bench.sections.{module.name}")
    return dict(SECTIONS)
