"""Measurements as Markdown."""

from collections.abc import Sequence
from dataclasses import dataclass

from tools.diarization_report.attribution import Attributed
from tools.diarization_report.crossing import Crossing
from tools.diarization_report.embedded import Line
from tools.diarization_report.growth import Growth
from tools.diarization_report.pipelines import Compared
from tools.diarization_report.recordings import Kind

DER_MAX = {Kind.TELEPHONE: 0.35, Kind.FAR_FIELD: 0.43, Kind.MIX: 0.12}
CONFUSION_MAX = {Kind.MIX: 0.03}
EXACT_SHARE_MIN = {Kind.MIX: 0.8}
MISCOUNT_MAX = {Kind.MIX: 1}
ATTRIBUTION_MIN = 0.97
LATE_OVER_EARLY_MAX, LAST_OVER_FIRST_MAX = 1.15, 1.5
OFFLINE_DIFFERENCE_MAX = 0.02


@dataclass(frozen=True, slots=True)
class Promise:
    """What was measured against what must be reached."""

    name: str
    value: float
    bound: float
    is_most: bool = True

    @property
    def is_met(self) -> bool:
        return self.value <= self.bound if self.is_most else self.value >= self.bound


def promises_of_lines(lines: Sequence[Line]) -> list[Promise]:
    found = []
    for line in lines:
        name = line.kind.value
        if line.kind in DER_MAX:
            found.append(Promise(f"DER, {name}", line.last.der, DER_MAX[line.kind]))
        if line.kind in CONFUSION_MAX:
            bound = CONFUSION_MAX[line.kind]
            found.append(Promise(f"confusion, {name}", line.last.confusion, bound))
            share, least = line.exact / line.recordings, EXACT_SHARE_MIN[line.kind]
            found.append(Promise(f"speakers exact, {name}", share, least, is_most=False))
            off = max(map(abs, line.miscounts))
            found.append(Promise(f"speakers off by, {name}", off, MISCOUNT_MAX[line.kind]))
    return found


def promises_of_growth(growth: Growth) -> list[Promise]:
    late = growth.mean_s(31, 60) / growth.mean_s(11, 20)
    last = growth.minute_s[59] / growth.minute_s[0]
    return [
        Promise("processor time, minutes 31–60 over 11–20", late, LATE_OVER_EARLY_MAX),
        Promise("processor time, minute 60 over minute 1", last, LAST_OVER_FIRST_MAX),
    ]


def promises_of_attribution(found: Sequence[Attributed]) -> list[Promise]:
    return [
        Promise(
            f"words attributed, {a.kind.value}, overlap",
            a.right["overlap"] / a.words,
            ATTRIBUTION_MIN,
            is_most=False,
        )
        for a in found
    ]


def table_of_lines(lines: Sequence[Line]) -> str:
    rows = [
        (
            line.kind.value,
            f"{line.recordings}",
            f"{line.last.speech_s / 60:.0f}",
            *(f"{value:.3f}" for value in _rates(line)),
            f"{line.exact} of {line.recordings}",
            f"{min(line.miscounts):+d} to {max(line.miscounts):+d}",
        )
        for line in lines
    ]
    head = ("recordings", "number", "minutes of speech", "DER", "missed", "false", "confused")
    return table((*head, "DER of first labels", "speakers exact", "off by"), rows)


def _rates(line: Line) -> tuple[float, ...]:
    last = line.last
    parts = (last.missed_s, last.false_alarm_s, last.confused_s)
    return (last.der, *(part / last.speech_s for part in parts), line.first.der)


def table_of_sweep(rows: Sequence[tuple[str, Sequence[Line]]]) -> str:
    """DER / confusion, and recordings with the exact number of speakers, by parameters."""
    kinds = [line.kind for line in rows[0][1]]
    body = [
        (
            name,
            *(_summary(line) for line in lines),
        )
        for name, lines in rows
    ]
    return table(("parameters", *(kind.value for kind in kinds)), body)


def table_of_crossings(found: Sequence[Crossing], shipped: Sequence[Line]) -> str:
    """What each kind gets from a choice that it had no say in, beside what it gets."""
    body = [
        (
            crossing.line.kind.value,
            ", ".join(f"{value:g}" for value in crossing.chosen),
            _summary(crossing.line),
            _summary(line),
        )
        for crossing, line in zip(found, shipped, strict=True)
    ]
    return table(("left out", "equally good to the others", "with the middle one", "shipped"), body)


def _summary(line: Line) -> str:
    return f"{line.last.der:.3f} / {line.last.confusion:.3f}, {line.exact} of {line.recordings}"


def table_of_pipelines(found: Sequence[Compared]) -> str:
    rows = [
        (
            c.name,
            f"{c.minutes:.1f}",
            f"{c.speakers}",
            f"{c.turns}",
            *(f"{v:.3f}" for v in (c.difference, c.der_offline, c.der_last, c.der_first)),
        )
        for c in found
    ]
    head = ("recording", "minutes", "speakers", "turns", "session against offline")
    return table((*head, "DER offline", "DER in the end", "DER of first labels"), rows)


def table_of_promises(promises: Sequence[Promise]) -> str:
    rows = [
        (
            p.name,
            f"{p.value:.3f}",
            f"{'≤' if p.is_most else '≥'} {p.bound:g}",
            "yes" if p.is_met else "**no**",
        )
        for p in promises
    ]
    return table(("what", "measured", "must be", "met"), rows)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
