"""The page and the plots that are made of ``latest.json``."""

from pathlib import Path

import pytest

from load_tests.bench import pages
from load_tests.bench.section import Figures, Section

TOLD = {
    "figures": ["words", "shares"],
    "command": 'python -m load_tests.bench --only "words"',
    "options": {"threads": "1"},
    "date": "2026-01-02T03:04:05+00:00",
    "seconds": 12.0,
    "commit": "abc",
    "machine": {"cores": 2, "cpu": "AMD", "memory_gb": 8},
}
CURVE = {
    "streams": [1, 2, 4],
    "first shown p95 s": [1.0, 2.0, None],
    "stable p95 s": [2.0, 3.0, 9.0],
}
FIGURES: Figures = {
    "words": 1.5,
    "shares": {"encoder": 0.5, "streams": [1, None]},
    "streams_held_of": CURVE,
    "encoder_ms": {"float32, 4 s, 1 rows": 10.0, "float32, 30 s, 1 rows": 80.0},
    "streaming_shares": {"encoder": 0.8, "step": 0.2},
    "sections": {"words": TOLD},
}
SECTIONS = {"words": Section("words", lambda effort: {}, {"words": 1.6})}


def test_each_figure_stands_beside_its_bound_and_its_origin() -> None:
    page = pages.as_markdown(FIGURES, SECTIONS, ["a.svg"])
    assert "| `words` | 1.5 | 1.6 |" in page
    assert "encoder: 0.5<br>streams: 1, –" in page
    assert "with threads=1, 12 s on 2026-01-02, commit abc, 2 × AMD, 8 GB" in page
    assert "![a](a.svg)" in page


def test_a_plot_for_whatever_there_is(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    written = pages.write(tmp_path, FIGURES, SECTIONS)
    assert {path.name for path in written} == {
        "figures.md",
        "streams_held.svg",
        "encoder_cost.svg",
        "streaming_shares.svg",
    }
    assert all(path.stat().st_size > 1_000 for path in written if path.suffix == ".svg")


def test_no_plot_of_nothing(tmp_path: Path) -> None:
    written = pages.write(tmp_path, {"words": 1, "sections": {}}, SECTIONS)
    assert [path.name for path in written] == ["figures.md"]
