"""Leave one kind out: a parameter chosen on all kinds but one, judged on that one.

The recordings were known when the parameters were chosen. What the choice owes to each kind shows
where that kind has no say in it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tools.diarization_report.embedded import Line

COUNT_WEIGHT = 0.1
"""A wrong number in a recording is as bad as a tenth of its speech confused."""
TIE = 0.005
"""Differences of less are those of a turn or two."""


@dataclass(frozen=True, slots=True)
class Crossing:
    """One kind, and what is chosen without it."""

    chosen: tuple[float, ...]
    """All values that are equally good to the others."""
    line: Line
    """The kind itself with the middle one of them."""


def crossings(by_value: Mapping[float, Sequence[Line]]) -> list[Crossing]:
    """``by_value``: the same kinds, in the same order, for each value of the parameter."""
    kinds = len(next(iter(by_value.values())))
    return [_crossing(by_value, left_out) for left_out in range(kinds)]


def _crossing(by_value: Mapping[float, Sequence[Line]], left_out: int) -> Crossing:
    costs = {
        value: sum(_cost(line) for i, line in enumerate(lines) if i != left_out)
        for value, lines in by_value.items()
    }
    least = min(costs.values())
    chosen = tuple(sorted(value for value, cost in costs.items() if cost - least < TIE))
    return Crossing(chosen, by_value[chosen[(len(chosen) - 1) // 2]][left_out])


def _cost(line: Line) -> float:
    """Confusion, and the share of recordings with a wrong number of speakers."""
    return line.last.confusion + COUNT_WEIGHT * (1 - line.exact / line.recordings)
