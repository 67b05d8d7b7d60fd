"""``latest.json`` → a page with every figure, and plots. Plots need matplotlib, the page nothing.

Everything is made of the file alone, so that page and plots never hold what the file does not.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from load_tests.bench.section import Figures, Section

PAGE = "figures.md"
DOTS_PER_INCH = 110
BOUNDS_OF_HELD_S = {"first shown p95 s": 4.0, "stable p95 s": 6.0}


def write(folder: Path, figures: Figures, sections: Mapping[str, Section]) -> list[Path]:
    """All pages and plots that these figures are enough for. Returns what was written."""
    plots = _plots(folder, figures)
    page = folder / PAGE
    page.write_text(as_markdown(figures, sections, [path.name for path in plots]))
    return [page, *plots]


def as_markdown(
    figures: Figures, sections: Mapping[str, Section], plots: Sequence[str] = ()
) -> str:
    """A table per section, with where its figures come from."""
    lines = ["# Figures", "", "Written by `make bench`, as [latest.json](latest.json) is. "]
    lines[-1] += "[README](README.md) says what each figure means."
    for name, told in sorted(figures.get("sections", {}).items()):
        bounds = sections[name].bounds if name in sections else {}
        lines += ["", f"## {name[0].upper()}{name[1:]}", "", *_table(figures, told, bounds)]
        lines += ["", *_origin(told)]
    if plots:
        lines += ["", "## Plots", "", *(f"![{Path(plot).stem}]({plot})" for plot in plots)]
    return "\n".join(lines) + "\n"


def _table(
    figures: Figures, told: Mapping[str, Any], bounds: Mapping[str, float | None]
) -> Iterator[str]:
    yield "| figure | value | at most |"
    yield "| --- | --- | --- |"
    for name in told["figures"]:
        value = figures.get(name)
        if isinstance(value, dict):
            shown = "<br>".join(f"{part}: {_cell(one)}" for part, one in value.items())
        else:
            shown = _cell(value)
        bound = bounds.get(name)
        yield f"| `{name}` | {shown} | {'' if bound is None else format(bound, 'g')} |"


def _cell(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(_cell, value))
    return "–" if value is None else str(value).replace("|", "\\|").replace("\n", " ")


def _origin(told: Mapping[str, Any]) -> Iterator[str]:
    machine = told["machine"]
    options = ", ".join(f"{name}={value}" for name, value in told["options"].items())
    yield (
        f"`{told['command']}`{f' with {options}' if options else ''}, {told['seconds']:.0f} s on "
        f"{told['date'][:10]}, commit {told['commit']}, {machine['cores']} × {machine['cpu']}, "
        f"{machine['memory_gb']} GB."
    )


def _plots(folder: Path, figures: Figures) -> list[Path]:
    try:
        import matplotlib as mpl
    except ImportError:
        print("no plots: matplotlib is not installed (pip install -e '.[test]')", file=sys.stderr)
        return []
    mpl.use("Agg")
    # The same figures make the same file.
    mpl.rcParams["svg.hashsalt"] = "captiond"
    plots = (_plot_held, _plot_encoder, _plot_shares)
    return [path for plot in plots if (path := plot(folder, figures)) is not None]


def _plot_held(folder: Path, figures: Figures) -> Path | None:
    """How late words were, by the number of streams."""
    found = {
        kind: figures[key]
        for kind, key in (
            ("exact finals", "streams_held_of"),
            ("calibrated finals", "streams_held_calibrated_of"),
        )
        if key in figures
    }
    if not found:
        return None
    plot, axes = _axes(len(BOUNDS_OF_HELD_S))
    for axis, (name, bound_s) in zip(axes, BOUNDS_OF_HELD_S.items(), strict=True):
        for kind, curve in found.items():
            axis.plot(curve["streams"], curve[name], marker="o", label=kind)
        axis.axhline(bound_s, color="0.5", linestyle="--", linewidth=1)
        axis.set(xlabel="streams at once", ylabel=name, ylim=(0, 3 * bound_s))
        axis.legend(frameon=False)
    return _saved(plot, folder / "streams_held.svg")


def _plot_encoder(folder: Path, figures: Figures) -> Path | None:
    """What a window costs the encoder, by context and rows in the batch."""
    costs = figures.get("encoder_ms")
    if not costs:
        return None
    points: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for name, cost_ms in costs.items():
        dtype, context, rows = name.split(", ")
        count = int(rows.split()[0])
        points.setdefault((dtype, rows), []).append((float(context.split()[0]), cost_ms / count))
    plot, (axis,) = _axes(1)
    for (dtype, rows), line in points.items():
        style = "-" if dtype == "float32" else "--"
        axis.plot(*zip(*sorted(line), strict=True), style, marker=".", label=f"{dtype}, {rows}")
    axis.set(xlabel="context, s", ylabel="encoder, ms a window", ylim=(0, None))
    axis.legend(frameon=False)
    return _saved(plot, folder / "encoder_cost.svg")


def _plot_shares(folder: Path, figures: Figures) -> Path | None:
    """Which stage takes the recognizer's live seconds."""
    shares = figures.get("streaming_shares")
    if not shares:
        return None
    plot, (axis,) = _axes(1)
    axis.barh(list(shares), list(shares.values()))
    axis.invert_yaxis()
    axis.set(xlabel="share of the recognizer's seconds", xlim=(0, 1))
    return _saved(plot, folder / "streaming_shares.svg")


def _axes(count: int) -> tuple[Any, Sequence[Any]]:
    from matplotlib.figure import Figure

    plot = Figure(figsize=(5.5 * count, 3.6), dpi=DOTS_PER_INCH, layout="constrained")
    axes: Sequence[Any] = plot.subplots(1, count, squeeze=False)[0]
    return plot, axes


def _saved(plot: Any, path: Path) -> Path:
    plot.savefig(path, metadata={"Date": None})
    return path
