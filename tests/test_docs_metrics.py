"""``docs/operations.md`` lists every metric with its type and labels, and no other."""

import re
from pathlib import Path

from prometheus_client import Counter, Gauge, Histogram

from server.telemetry import METRIC_PREFIX, Metrics

PAGE = Path(__file__).parents[1] / "docs" / "operations.md"
ROW = re.compile(r"\| `(captiond_\w+)` \| (\w+) \| ([^|]*) \| ([^|]+) \|")


def documented() -> set[tuple[str, str, str]]:
    rows = [ROW.fullmatch(line) for line in PAGE.read_text().splitlines()]
    return {(row[1], row[2], row[3].strip()) for row in rows if row is not None}


def exposed() -> set[tuple[str, str, str]]:
    """Name, type and labels of each metric, as operators write them in a query."""
    return {
        described(metric)
        for metric in vars(Metrics("1")).values()
        if isinstance(metric, Counter | Gauge | Histogram)
    }


def described(metric: Counter | Gauge | Histogram) -> tuple[str, str, str]:
    (family,) = metric.describe()
    suffix = "_total" if family.type == "counter" else ""
    labels = ", ".join(f"`{label}`" for label in metric._labelnames)
    return (family.name + suffix, family.type, labels)


def test_the_tables_are_the_metrics() -> None:
    assert sorted(exposed() - documented()) == [], "document these"
    assert sorted(documented() - exposed()) == [], "these do not exist"


def test_every_metric_has_our_prefix_and_one_row() -> None:
    assert all(name.startswith(METRIC_PREFIX + "_") for name, _, _ in exposed())
    names = [row[1] for line in PAGE.read_text().splitlines() if (row := ROW.fullmatch(line))]
    assert len(names) == len(set(names))


def test_every_captiond_metric_named_in_the_text_exists() -> None:
    """Queries and prose name metrics too; histograms are named by their parts."""
    known = {name for name, _, _ in exposed()}
    parts = {f"{name}_{part}" for name in known for part in ("bucket", "sum", "count")}
    named = set(re.findall(r"captiond_[a-z_]+", PAGE.read_text()))
    assert sorted(named - known - parts) == []
