"""The bench: sections are found, figures are merged into one file, bounds are judged."""

from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest

from load_tests.bench import __main__ as bench
from load_tests.bench.section import (
    SECTIONS,
    Effort,
    Figures,
    Section,
    SectionSkipped,
    all_sections,
    section,
)


@pytest.fixture(autouse=True)
def _sections_stay_as_they_were() -> Iterator[None]:
    before = dict(all_sections())
    yield
    SECTIONS.clear()
    SECTIONS.update(before)


def only(measure: Section) -> None:
    SECTIONS.clear()
    SECTIONS[measure.name] = measure


def run(path: Path, *words: str) -> int:
    return bench.main(["--output", str(path), *words])


def test_every_module_of_the_folder_is_a_section() -> None:
    folder = Path(bench.__file__).parent / "sections"
    modules = [path for path in folder.glob("*.py") if path.stem != "__init__"]
    assert len(all_sections()) == len(modules)


def test_two_sections_cannot_give_the_same_figure() -> None:
    section("one", bounds={"same": None})(lambda effort: {"same": 1})
    with pytest.raises(ValueError, match="taken"):
        section("two", bounds={"same": None})(lambda effort: {"same": 2})
    with pytest.raises(ValueError, match="taken"):
        section("one", bounds={"other": None})(lambda effort: {"other": 2})


def test_figures_are_printed_judged_and_written_with_their_origin(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "docs" / "latest.json"

    def measure(effort: Effort) -> Figures:
        return {"passes": float(effort.options["passes"]), "shares": {"encoder": 0.5}}

    only(Section("words", measure, {"passes": 1.6}))
    assert run(path, "--set", "passes=1.5") == 0
    assert run(path, "--set", "passes=1.7") == 1
    out = capsys.readouterr().out
    assert "| passes | 1.5 | <= 1.6 | ok |" in out
    assert "| passes | 1.7 | <= 1.6 | ABOVE |" in out
    assert "encoder 0.5" in out
    written = orjson.loads(path.read_bytes())
    assert written["passes"] == pytest.approx(1.7)
    told = written["sections"]["words"]
    assert told["figures"] == ["passes", "shares"]
    assert told["command"] == 'python -m load_tests.bench --only "words"'
    assert {"commit", "machine", "versions", "date", "options"} <= set(told)


def test_figures_of_other_sections_stay_and_old_ones_of_its_own_go() -> None:
    old = bench.merged({}, "a", {"x": 1, "gone": 2}, {"figures": ["gone", "x"]})
    old = bench.merged(old, "b", {"y": 3}, {"figures": ["y"]})
    new = bench.merged(old, "a", {"x": 4}, {"figures": ["x"]})
    assert {key: new[key] for key in new if key != "sections"} == {"x": 4, "y": 3}
    assert set(new["sections"]) == {"a", "b"}


def test_a_section_without_its_model_is_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def measure(effort: Effort) -> Figures:
        raise SectionSkipped("no checkpoint; give --set model=FOLDER")

    only(Section("words", measure, {"passes": 1.6}))
    assert run(tmp_path / "latest.json") == 0
    assert "no checkpoint" in capsys.readouterr().err
    assert not (tmp_path / "latest.json").exists()


def test_a_section_that_fails_costs_no_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    only(Section("words", lambda effort: {}, {"passes": 1.6}))
    SECTIONS["memory"] = Section("memory", lambda effort: {"megabytes": 1}, {"megabytes": 2})
    assert run(tmp_path / "latest.json") == 1
    assert "gave no passes" in capsys.readouterr().err
    assert orjson.loads((tmp_path / "latest.json").read_bytes())["megabytes"] == 1


def test_sections_are_listed_and_unknown_ones_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main(["--list"]) == 0
    assert "event loop" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        bench.main(["--only", "unheard"])


@pytest.mark.slow
def test_the_memory_section_works(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path / "latest.json", "--quick", "--only", "memory") == 0
    assert "memory_mb_per_session" in capsys.readouterr().out
    assert not (tmp_path / "latest.json").exists(), "a quick run is not to be believed"
