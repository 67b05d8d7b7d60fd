"""The parts one after the other: what is run, how it is judged, and what the summary says."""

import io
import subprocess
import sys
from dataclasses import replace

import pytest

from load_tests.faults import __main__ as faults
from load_tests.faults import same_logs
from load_tests.faults.__main__ import FULL, SMALL, Part, chosen, main, run_all, run_part, summary

GOOD = Part("good", "the platform is named", "platform", (), r"(?i)linux|darwin|windows")
BAD = Part("bad", "there is such a file", "json.tool", ("/no/such/file",), r"(?i)no such file")
MUTE = Part("mute", "something is said", "platform", (), r"never said")


def silent(_: str) -> None:
    pass


@pytest.mark.parametrize(
    ("part", "verdict"), [(GOOD, "met"), (BAD, "MISSED"), (MUTE, "NOT MEASURED")]
)
def test_a_part_is_judged_by_its_status_and_its_figures(part: Part, verdict: str) -> None:
    lines: list[str] = []
    result = run_part(part, lines.append)
    assert result.verdict == verdict
    assert result.is_met == (verdict == "met")
    assert lines


def test_what_needs_a_program_that_is_absent_is_not_measured() -> None:
    part = Part("absent", "-", "platform", (), ".", needs="no-such-program")
    result = run_part(part, silent)
    assert result.verdict == "NOT MEASURED"
    assert result.figures == ("no-such-program is not installed",)


def test_figures_are_the_lines_that_match() -> None:
    output = io.StringIO("noise\nseeds      5, 0 failed\nother\n")
    assert faults.read_figures(output, r"^seeds ", silent) == ("seeds      5, 0 failed",)


def test_the_summary_shows_every_part_and_counts_the_bounds() -> None:
    text = summary([run_part(part, silent) for part in (GOOD, BAD)], 61.0)
    assert "met           good (the platform is named)" in text
    assert "MISSED        bad" in text
    assert text.splitlines()[-1] == "1 of 2 bounds met, 61 s"


def test_what_runs_beside_others_is_over_before_one_that_wants_quiet() -> None:
    beside = replace(GOOD, name="beside", runs_beside=True)
    quiet = replace(GOOD, name="quiet", wants_quiet=True)
    said: list[str] = []
    results = run_all([beside, BAD, quiet, MUTE, beside], said.append)
    assert [r.part.name for r in results] == ["bad", "beside", "quiet", "mute", "beside"]
    assert [r.verdict for r in results] == ["MISSED", "met", "met", "NOT MEASURED", "met"]
    heads = [line.split(":")[0] for line in said if line.startswith("== ")]
    assert heads == ["== bad", "== beside", "== quiet", "== mute", "== beside"]


def test_whoever_measures_delays_wants_quiet() -> None:
    for parts in (SMALL, FULL):
        quiet = {part.name for part in parts if part.wants_quiet}
        assert quiet == {"overload", "diarizer"}


@pytest.mark.parametrize(("parts", "status"), [((GOOD,), 0), ((GOOD, BAD), 1)])
def test_one_missed_bound_fails_the_run(
    parts: tuple[Part, ...],
    status: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(faults, "SMALL", parts)
    assert main([]) == status
    assert f"1 of {len(parts)} bounds met" in capsys.readouterr().out


def test_parts_can_be_chosen_and_seeded() -> None:
    [part] = chosen(SMALL, ["client cuts"], seed=7)
    assert part.command[-2:] == ["--seed", "7"]
    [part] = chosen(FULL, ["simulation"], seed=7)
    assert part.command[-2:] == ["--from", "7"]
    [part] = chosen(FULL, ["mutants"], seed=7)
    assert "7" not in part.command
    with pytest.raises(ValueError, match="no part 'naps'; there are: simulation, server kills"):
        chosen(SMALL, ["naps"], seed=1)


def test_an_unknown_part_exits_with_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--only", "naps"])
    assert stopped.value.code == 2
    assert "there are:" in capsys.readouterr().err


@pytest.mark.parametrize("module", sorted({part.module for part in (*SMALL, *FULL)}))
def test_every_part_is_a_program_with_the_options_it_is_given(module: str) -> None:
    command = [sys.executable, "-m", module, "--help"]
    usage = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    parts = [part for part in (*SMALL, *FULL) if part.module == module]
    options = {word for part in parts for word in part.arguments if word.startswith("--")}
    assert options
    assert all(f"{option} " in usage or f"{option}]" in usage for option in options)


@pytest.mark.parametrize(("other", "status"), [("a", 0), ("b", 1)])
def test_logs_that_differ_are_reported(
    other: str,
    status: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    async def measure(seeds: int, first: int) -> list[tuple[str, int]]:
        assert (seeds, first) == (3, 4)
        return [("a", 1_000_000), (other, 1_000_000)]

    monkeypatch.setattr(same_logs, "measure", measure)
    assert same_logs.main(["--seeds", "3", "--from", "4"]) == status
    assert ("DIFFERENT" in capsys.readouterr().out) == bool(status)


@pytest.mark.slow
def test_logs_of_one_seed_are_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    assert same_logs.main(["--seeds", "1"]) == 0
    assert "identical" in capsys.readouterr().out
