"""The deployed dashboard: its queries, and the conventions of Grafana that it must keep. Pure."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from load_tests.monitoring.rules import DEPLOY

DASHBOARD = DEPLOY / "grafana" / "dashboards" / "captiond.json"
GRID_WIDTH = 24
KINDS = {"timeseries", "heatmap", "stat"}
UNITS = {"none", "short", "s", "bytes", "percentunit", "cps"}
"""Of Grafana's, those that are used here."""
SOURCE = {"type": "prometheus", "uid": "${DS_PROMETHEUS}"}

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class PanelQuery:
    """One query of one panel."""

    panel: Json
    expression: str
    legend: str

    @property
    def title(self) -> str:
        return str(self.panel["title"])

    def asked(self, rate_interval: str) -> str:
        """As Grafana would send it, for all servers."""
        text = self.expression.replace("$__rate_interval", rate_interval)
        return text.replace("$instance", ".*")


def load(path: Path = DASHBOARD) -> Json:
    dashboard: Json = json.loads(path.read_text("utf-8"))
    return dashboard


def panels_of(dashboard: Json) -> list[Json]:
    """Without the titles of rows."""
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def queries_of(dashboard: Json) -> list[PanelQuery]:
    return [
        PanelQuery(panel, target["expr"], target["legendFormat"])
        for panel in panels_of(dashboard)
        for target in panel["targets"]
    ]


def complaints(dashboard: Json) -> list[str]:
    """What is against the conventions, a line each."""
    found = list(_about_the_whole(dashboard))
    for panel in panels_of(dashboard):
        found += [f"{panel.get('title') or panel['id']}: {line}" for line in _about_panel(panel)]
    return found


def _about_the_whole(dashboard: Json) -> Iterator[str]:
    for name in ("uid", "title", "description", "schemaVersion", "version", "time", "refresh"):
        if not dashboard.get(name):
            yield f"no {name}"
    variables = {variable["name"]: variable for variable in dashboard["templating"]["list"]}
    if variables.get("DS_PROMETHEUS", {}).get("type") != "datasource":
        yield "no variable DS_PROMETHEUS: it could not be imported by hand"
    if variables.get("instance", {}).get("type") != "query":
        yield "no variable instance"
    numbers = [panel["id"] for panel in dashboard["panels"]]
    if len(numbers) != len(set(numbers)):
        yield "two panels have one id"
    yield from _about_places(dashboard["panels"])


def _about_places(panels: list[Json]) -> Iterator[str]:
    taken: dict[tuple[int, int], str] = {}
    for panel in panels:
        place = panel["gridPos"]
        if place["x"] < 0 or place["x"] + place["w"] > GRID_WIDTH or place["h"] < 1:
            yield f"{panel['title']}: lies outside the grid"
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                other = taken.setdefault((x, y), panel["title"])
                if other != panel["title"]:
                    yield f"{panel['title']}: lies over {other}"
                    return


def _about_panel(panel: Json) -> Iterator[str]:
    if not panel.get("title"):
        yield "no title"
    if len(panel.get("description", "")) < 10:
        yield "no description"
    if panel["type"] not in KINDS:
        yield f"a {panel['type']} is not known here"
    if panel["fieldConfig"]["defaults"].get("unit") not in UNITS:
        yield "no unit"
    if panel.get("datasource") != SOURCE:
        yield "its data source is not the variable"
    if not panel["targets"]:
        yield "no query"
    for target in panel["targets"]:
        yield from _about_target(panel, target)
    if len({target["refId"] for target in panel["targets"]}) < len(panel["targets"]):
        yield "two queries have one refId"


def _about_target(panel: Json, target: Json) -> Iterator[str]:
    expression = target["expr"]
    if not expression.strip():
        yield "an empty query"
    if target.get("datasource") != SOURCE:
        yield "a query's data source is not the variable"
    if 'instance=~"$instance"' not in expression:
        yield f"cannot be narrowed to a server: {expression}"
    if "rate(" in expression and "[$__rate_interval]" not in expression:
        yield f"a rate over a fixed time: {expression}"
    if panel["type"] == "heatmap" and (target["format"] != "heatmap" or "(le)" not in expression):
        yield "a heatmap needs buckets"
