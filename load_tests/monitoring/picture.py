"""The dashboard's queries as one picture, with the places that the panels have in Grafana."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from load_tests.monitoring.dashboard import GRID_WIDTH, Json, PanelQuery, queries_of
from load_tests.monitoring.prometheus import Prometheus, Series

RATE_INTERVAL = "10s"
STEP_S = 1.0
INCHES_PER_COLUMN, INCHES_PER_ROW = 0.72, 0.32
LEGEND_LINES_MAX = 8
SUFFIX_OF_UNIT = {"s": " s", "percentunit": "", "bytes": " B", "cps": "/s"}


@dataclass(frozen=True, slots=True)
class Drawn:
    """One query and its answer."""

    query: PanelQuery
    series: Sequence[Series]


async def answers(
    prometheus: Prometheus, dashboard: Json, start_s: float, end_s: float
) -> list[Drawn]:
    """Of all queries of the dashboard, over a time."""
    found = []
    for query in queries_of(dashboard):
        asked = query.asked(RATE_INTERVAL)
        found.append(Drawn(query, await prometheus.query_range(asked, start_s, end_s, STEP_S)))
    return found


def draw(dashboard: Json, drawn: Sequence[Drawn], title: str, path: Path) -> None:
    """Needs matplotlib."""
    from matplotlib.figure import Figure

    rows = max(p["gridPos"]["y"] + p["gridPos"]["h"] for p in dashboard["panels"]) + 2
    figure = Figure(figsize=(GRID_WIDTH * INCHES_PER_COLUMN, rows * INCHES_PER_ROW))
    figure.suptitle(title, x=0.01, y=1 - 0.4 / rows, ha="left", va="top", fontsize=12)
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        top = 1 - (place["y"] + 2) / rows
        if panel["type"] == "row":
            figure.text(0.01, top - 0.9 / rows, panel["title"], fontsize=11, weight="bold")
            continue
        of_panel = [one for one in drawn if one.query.panel["id"] == panel["id"]]
        box = (
            (place["x"] + 0.95) / GRID_WIDTH,
            top - (place["h"] - 0.9) / rows,
            (place["w"] - 1.25) / GRID_WIDTH,
            (place["h"] - 2.2) / rows,
        )
        axes = figure.add_axes(box)
        axes.set_title(panel["title"], fontsize=8, loc="left", pad=3)
        axes.tick_params(labelsize=6)
        _DRAWINGS[panel["type"]](axes, panel, of_panel)
    figure.savefig(path, dpi=80, metadata={"Software": None})


def _lines(axes: Any, panel: Json, drawn: Sequence[Drawn]) -> None:
    count = 0
    for one in drawn:
        for series in one.series:
            label = _legend(one.query.legend, series.labels)
            start_s = one.series[0].values[0][0]
            times = [at - start_s for at, _ in series.values]
            shown = label if count < LEGEND_LINES_MAX else None
            axes.plot(times, [value for _, value in series.values], linewidth=0.9, label=shown)
            count += 1
    axes.set_ylim(bottom=0, top=panel["fieldConfig"]["defaults"].get("max"))
    axes.grid(visible=True, alpha=0.25)
    suffix = SUFFIX_OF_UNIT.get(panel["fieldConfig"]["defaults"]["unit"], "")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}{suffix}")
    if count:
        axes.legend(fontsize=5, loc="upper left", framealpha=0.5)


def _number(axes: Any, panel: Json, drawn: Sequence[Drawn]) -> None:
    axes.set_axis_off()
    values = [series.value for one in drawn for series in one.series]
    unit = panel["fieldConfig"]["defaults"]["unit"]
    text = "no data" if not values else _shown(values[-1], unit)
    axes.text(0.5, 0.5, text, ha="center", va="center", fontsize=16, transform=axes.transAxes)


def _shown(value: float, unit: str) -> str:
    if unit == "percentunit":
        return f"{value:.0%}"
    return f"{value:.3g}{SUFFIX_OF_UNIT.get(unit, '')}"


def _heat(axes: Any, panel: Json, drawn: Sequence[Drawn]) -> None:
    """Cumulative buckets become the share that each bucket has of a moment's observations."""
    (one,) = drawn
    ordered = sorted(one.series, key=lambda series: float(series.labels["le"]))
    times = sorted({at for series in ordered for at, _ in series.values})
    lower = dict.fromkeys(times, 0.0)
    rows = []
    for series in ordered:
        upto = dict(series.values)
        rows.append([max(0.0, _or_zero(upto.get(at)) - lower[at]) for at in times])
        lower = {at: _or_zero(upto.get(at)) for at in times}
    if not rows:
        return
    axes.imshow(rows, aspect="auto", origin="lower", cmap="Oranges", interpolation="nearest")
    bounds = [series.labels["le"] for series in ordered]
    axes.set_yticks([i + 0.5 for i in range(len(bounds))], [f"{b} s" for b in bounds])
    axes.tick_params(axis="y", labelsize=5)


def _or_zero(value: float | None) -> float:
    return 0.0 if value is None or math.isnan(value) else value


def _legend(text: str, labels: dict[str, str]) -> str:
    """``{{name}}`` stands for a label's value; the server's address is the same everywhere."""
    filled = re.sub(r"\{\{(\w+)\}\}", lambda found: labels.get(found[1], ""), text)
    return filled.replace(labels.get("instance", "\0"), "").strip() or "value"


_DRAWINGS = {"timeseries": _lines, "stat": _number, "heatmap": _heat}
