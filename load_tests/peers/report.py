"""Rows of the comparison → ``peers.json`` and ``peers.md``. Pure but for the machine's name."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from load_tests.peers.held import LEVELS, PARTIALS_MIN, STRICT, USUAL, WER_SLACK, Probe
from load_tests.peers.probing import Bench
from load_tests.peers.system import System

Row = dict[str, Any]
WER_ABOVE_BEST_PEER_MAX = 0.01
NEEDED = {"exact": 6, "calibrated": 10}


def row_of(bench: Bench, most: Mapping[str, int]) -> Row:
    """Of a system that was measured."""
    at_most = bench.probes.get(most[USUAL.name])
    return {
        **_told(bench.system),
        **most,
        "at_one": _figures(bench.probes.get(1)),
        "at_most": _figures(at_most),
        "probes": [_figures(probe) for _, probe in sorted(bench.probes.items())],
        "is_void": any(probe.disturbances for probe in bench.probes.values()),
        "failure": None,
        "log": bench.log or None,
    }


def failed_row(system: System | str, why: str, bench: Bench | None = None) -> Row:
    """Of one that could not be measured, with what it said."""
    told = _told(system) if isinstance(system, System) else {"system": system, "finals": None}
    probes = bench.probes if bench else {}
    return {
        **told,
        **{level.name: 0 for level in LEVELS},
        "at_one": _figures(probes.get(1)),
        "at_most": None,
        "probes": [_figures(probe) for _, probe in sorted(probes.items())],
        "is_void": False,
        "failure": why,
        "log": None,
    }


def _told(system: System) -> Row:
    return {
        "system": system.name,
        "finals": system.finals,
        "options": [_without_folder(option) for option in system.options],
        "why": system.why,
        "versions": dict(system.versions),
    }


def _without_folder(option: str) -> str:
    """Where files lie on the machine that measured means nothing to a reader."""
    return Path(option).name if Path(option).is_absolute() else option


def _figures(probe: Probe | None) -> Row | None:
    if probe is None:
        return None
    return {**asdict(probe), "disturbances": list(probe.disturbances)}


def times_best_peer(rows: Sequence[Row]) -> dict[str, float | None]:
    """Our streams held over the best peer's, by kind of finals; None where ours was not measured.

    A peer that holds none counts as holding one: the ratio is then a lower bound.
    """
    peers = [row for row in rows if row["finals"] is None]
    best = max((row[USUAL.name] for row in peers), default=0)
    ours = {row["finals"]: row[USUAL.name] for row in rows if row["finals"] and not row["failure"]}
    if not peers:
        return dict.fromkeys(NEEDED)
    return {kind: round(ours[kind] / max(1, best), 2) if kind in ours else None for kind in NEEDED}


def wer_above_best_peer(rows: Sequence[Row]) -> dict[str, float | None]:
    """Ours less the lowest of any peer's, each at one stream."""
    rates = [row["at_one"]["wer"] for row in rows if row["finals"] is None and row["at_one"]]
    best = min((rate for rate in rates if rate is not None), default=None)
    ours = {row["finals"]: row["at_one"]["wer"] for row in rows if row["finals"] and row["at_one"]}
    return {
        kind: None if best is None or ours.get(kind) is None else round(ours[kind] - best, 4)
        for kind in NEEDED
    }


def wer_above_best_peer_at_most(rows: Sequence[Row]) -> dict[str, float | None]:
    """Ours less the peer's that holds most, each at the most streams that it holds: of the very
    streams whose numbers ``times_best_peer`` compares."""
    most = {row["system"]: row for row in rows if row["at_most"]}
    peers = [row for row in most.values() if row["finals"] is None]
    held = max((row[USUAL.name] for row in peers), default=0)
    best = min((row["at_most"]["wer"] for row in peers if row[USUAL.name] == held), default=None)
    ours = {row["finals"]: row["at_most"]["wer"] for row in most.values() if row["finals"]}
    return {
        kind: None if best is None or kind not in ours else round(ours[kind] - best, 4)
        for kind in NEEDED
    }


def as_json(rows: Sequence[Row], speech: Mapping[str, Any], told: Mapping[str, Any]) -> Row:
    """The whole file."""
    return {
        "times_best_peer": times_best_peer(rows),
        "wer_above_best_peer": wer_above_best_peer(rows),
        "wer_above_best_peer_at_most": wer_above_best_peer_at_most(rows),
        "is_void": any(row["is_void"] for row in rows),
        "rows": list(rows),
        "speech": dict(speech),
        "levels": [asdict(level) for level in LEVELS],
        **told,
    }


def as_markdown(found: Row) -> str:
    """For people."""
    rows, speech, machine = found["rows"], found["speech"], found["machine"]
    lines = [
        "# captiond beside its peers",
        "",
        f"Written by `make bench-peers` on {found['date'][:10]}, commit {found['commit']}: "
        f"{machine['cores']} × {machine['cpu']}, {machine['memory_gb']} GB. All systems hear the "
        "same weights and the same speech, one after the other in one run. "
        "[README](README.md#peers) says how.",
        "",
        f"Speech: {speech['description']}. Weights: {speech['weights']}.",
        "",
        *_void(rows),
        *_table(rows),
        "",
        "Seconds are p50 / p95 over all words. `–`: not measured.",
        "",
        f"**Streams held, ours over the best peer's**: {_ratios(found['times_best_peer'])}. "
        f"**WER above that peer's, each at the most streams that it holds**: "
        f"{_ratios(found['wer_above_best_peer_at_most'])}. **WER above the lowest of any peer, at "
        f"one stream**: {_ratios(found['wer_above_best_peer'])}.",
        "",
        f"**Ceilings of these weights on this machine** (`make bench`): "
        f"{_ceilings(found['ceilings'])}.",
        "",
        f"Held: first shown p95 ≤ {USUAL.first_shown_s} s, stable p95 ≤ {USUAL.stable_s} s "
        f"(strict: {STRICT.first_shown_s} s and {STRICT.stable_s} s), at least {PARTIALS_MIN} "
        f"partials a second of speech, no gap, no failed stream, WER at most {WER_SLACK} above "
        "that of one stream.",
        "",
        "## Versions and options",
        "",
    ]
    for row in rows:
        lines += [*_described(row), ""]
    return "\n".join(lines).rstrip() + "\n"


def _void(rows: Sequence[Row]) -> list[str]:
    names = [row["system"] for row in rows if row["is_void"]]
    if not names:
        return []
    return [
        f"**Void**: the machine did other work while {', '.join(names)} "
        "ran. Figures of time below are lower than the systems can do; `disturbances` in "
        "`peers.json` says which and why.",
        "",
    ]


def _table(rows: Iterable[Row]) -> list[str]:
    heads = (
        *("system", "held", "strict", "WER at 1", "first shown at 1", "stable at 1"),
        *("CPU s per stream-second at 1", "first shown at most", "stable at most", "WER at most"),
        "CPU at most",
    )
    made = [_line(heads), _line(["---"] * len(heads))]
    for row in rows:
        one, most = row["at_one"] or {}, row["at_most"] or {}
        held = "failed" if row["failure"] else row[USUAL.name]
        made.append(
            _line(
                [
                    *(row["system"], held, row[STRICT.name], one.get("wer")),
                    *(_pair(one.get("first_shown_s")), _pair(one.get("stable_s"))),
                    one.get("cpu_s_per_stream_s"),
                    *(_pair(most.get("first_shown_s")), _pair(most.get("stable_s"))),
                    *(most.get("wer"), most.get("cpu_s_per_stream_s")),
                ]
            )
        )
    return made


def _described(row: Row) -> list[str]:
    lines = [f"**{row['system']}**"]
    if row.get("options"):
        versions = ", ".join(f"{name} {number}" for name, number in row["versions"].items())
        lines += [f"`{' '.join(row['options'])}`. {row['why']}. Versions: {versions}."]
    if row["failure"]:
        lines += ["", "It could not be measured:", "", "```", row["failure"].strip(), "```"]
    return lines


def _pair(quantiles: Mapping[str, float | None] | None) -> str | None:
    if quantiles is None or quantiles["p50"] is None or quantiles["p95"] is None:
        return None
    return f"{quantiles['p50']:.2f} / {quantiles['p95']:.2f}"


def _ratios(ratios: Mapping[str, float | None]) -> str:
    return ", ".join(f"{kind} {'–' if value is None else value}" for kind, value in ratios.items())


def _ceilings(ceilings: Mapping[str, float | None]) -> str:
    return ", ".join(
        f"`{name}` {'–' if value is None else value}" for name, value in ceilings.items()
    )


def _line(cells: Iterable[object]) -> str:
    return f"| {' | '.join('–' if cell is None else str(cell) for cell in cells)} |"
