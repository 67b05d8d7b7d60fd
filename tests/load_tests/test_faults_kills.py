"""The kills: what may be asked for, how losses are reported, and real kills that lose nothing."""

import random
from dataclasses import replace
from pathlib import Path

import orjson
import pytest

from load_tests.faults import kills
from load_tests.faults.crowd import Heard, Tally
from load_tests.faults.kills import (
    Blows,
    PartFigures,
    Weather,
    main,
    parse,
    report,
)
from load_tests.oracle import Mistakes
from streaming.events import DurableEvent

CLEAN = Tally(3, 6, 150, Mistakes(), broken_seqs=0, gaps=0, errors={}, failures=())
PART = PartFigures("server kills", 2, Blows(2, 5), CLEAN, seconds=9.4)


def test_defaults() -> None:
    effort, path = parse(["--server-kills", "5", "--sessions", "7", "--json", "out.json"])
    assert (effort.server_kills, effort.worker_kills, effort.cuts, effort.moves) == (5, 0, 0, 0)
    assert (effort.sessions, effort.seed) == (7, 1)
    assert path == Path("out.json")


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--cuts", "-1"],
        ["--cuts", "1", "--sessions", "0"],
        ["--cuts", "1", "--speed", "0"],
        ["--server-kills", "many"],
    ],
)
def test_wrong_arguments_exit_with_usage(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        parse(words)
    assert stopped.value.code == 2
    assert "usage" in capsys.readouterr().err


def test_every_line_is_cut_until_it_is_calm() -> None:
    weather, chance = Weather(), random.Random(1)
    lines = [weather(chance) for _ in range(100)]
    cuts = [line.cut for line in lines if line.cut is not None]
    assert len(cuts) == len(lines)
    assert len({(cut.direction, cut.ending) for cut in cuts}) == 6
    assert {Weather(2)(chance).server for _ in range(20)} == {0, 1}
    weather.is_calm = True
    assert weather(chance).cut is None


@pytest.mark.parametrize(
    "part",
    [
        replace(PART, blows=Blows(1, 3)),
        replace(PART, blows=Blows(2, 5, orphans=1)),
        replace(PART, tally=replace(CLEAN, mistakes=Mistakes(lost=1))),
        replace(PART, tally=replace(CLEAN, mistakes=Mistakes(doubled=1))),
        replace(PART, tally=replace(CLEAN, mistakes=Mistakes(mistimed=1))),
        replace(PART, tally=replace(CLEAN, broken_seqs=1)),
        replace(PART, tally=replace(CLEAN, failures=("stream 3: refused",))),
        replace(PART, tally=replace(CLEAN, words=0)),
    ],
)
def test_whatever_is_wrong_misses_the_bound(part: PartFigures) -> None:
    assert PART.is_met
    assert not part.is_met
    assert part.fields()["is_met"] is False


def test_the_report_shows_losses_and_says_what_failed() -> None:
    mistakes = Mistakes(lost=4, doubled=1, mistimed=2)
    tally = replace(CLEAN, mistakes=mistakes, broken_seqs=1, errors={"internal": 2})
    tally = replace(tally, failures=("stream 3: lost",), damages=("session s1: w3.1",), cut=3)
    head, row, *rest = report([replace(PART, blows=Blows(2, 5, 3), tally=tally)]).splitlines()
    figures = dict(zip(head.split(), row.replace("server kills", "kills").split(), strict=True))
    assert figures == {
        "part": "kills",
        "faults": "2/2",
        "met": "2.5",
        "sessions": "3",
        "resumes": "6",
        "words": "150",
        "lost": "4",
        "doubled": "1",
        "misplaced": "2",
        "cut": "3",
        "gaps": "0",
        "failed": "1",
        "seconds": "9",
    }
    assert "FAILED server kills: stream 3: lost" in rest
    assert "FAILED server kills: session s1: w3.1" in rest
    assert any("too busy" in line for line in rest)
    assert "FAILED server kills: 1 events out of turn" in rest
    assert "FAILED server kills: 3 workers outlived the server" in rest
    assert any("internal" in line for line in rest)


@pytest.mark.parametrize(("lost", "status"), [(0, 0), (1, 1)])
def test_a_lost_word_is_in_the_figures_and_in_the_exit_status(
    lost: int, status: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async def measure(_: kills.Effort) -> list[PartFigures]:
        return [replace(PART, tally=replace(CLEAN, mistakes=Mistakes(lost=lost)))]

    monkeypatch.setattr(kills, "measure", measure)
    path = tmp_path / "out.json"
    assert main(["--server-kills", "2", "--json", str(path)]) == status
    figures = orjson.loads(path.read_bytes())
    assert figures["parts"][0]["tally"]["mistakes"]["lost"] == lost


@pytest.mark.slow
def test_a_kill_and_some_cuts_lose_no_word(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "out.json"
    own = ["--server-kills", "1", "--cuts", "10", "--sessions", "2", "--speed", "16"]
    assert main([*own, "--json", str(path)]) == 0, capsys.readouterr().out
    server, cuts = orjson.loads(path.read_bytes())["parts"]
    assert server["blows"]["made"] == 1
    assert cuts["blows"]["made"] >= 10
    for part in (server, cuts):
        assert part["tally"]["resumes"] > 0
        assert part["tally"]["words"] > 50
        assert not any(part["tally"]["mistakes"].values())


@pytest.mark.slow
def test_a_word_that_is_missing_from_a_real_session_is_reported(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As if the first word of the first final had been dropped on its way."""
    whole = Heard.note_event

    def rob(heard: Heard, event: DurableEvent) -> None:
        whole(heard, event)
        if len(heard.finals) == len(heard.plan.words):
            del heard.finals[0]

    monkeypatch.setattr(Heard, "note_event", rob)
    assert main(["--cuts", "1", "--sessions", "1", "--speed", "20"]) == 1
    head, row, *_ = capsys.readouterr().out.splitlines()
    figures = dict(zip(head.split(), row.replace("client cuts", "cuts").split(), strict=True))
    assert (figures["lost"], figures["doubled"], figures["failed"]) == (
        figures["sessions"],
        "0",
        "0",
    )
