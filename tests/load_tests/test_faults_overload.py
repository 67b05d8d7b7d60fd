"""The overload's account: which delays count, what is judged, and what a missed bound leads to."""

import asyncio
import os
import time
from collections import deque
from dataclasses import replace
from pathlib import Path

import orjson
import pytest

from load_tests.faults import overload
from load_tests.faults.overload import (
    FULL,
    QUICK,
    Figures,
    Notes,
    Phase,
    Refusal,
    Watch,
    delays_s,
    main,
    overlap_s,
    parse,
    report,
)
from load_tests.oracle import FinalWord
from load_tests.replay import Heard
from load_tests.workload import CANONICAL, plan_stream
from streaming.timeline import SAMPLE_RATE_HZ

GOOD = Figures(
    rounds=1,
    inside=20,
    let_in=1,
    words=100,
    words_wrong={},
    closed=0,
    final_calm_s=1.0,
    final_rush_s=1.2,
    shown_calm_s=2.0,
    shown_rush_s=2.1,
    memory_calm_mb=100.0,
    memory_rush_mb=101.0,
    refusals=50,
    refusals_without_hint=0,
    refusal_p50_s=0.005,
    refusal_max_s=0.1,
    refusal_max_with_stalls_s=0.1,
    own_delay_max_s=0.01,
)


def test_defaults() -> None:
    assert parse([]) == (FULL, None)
    assert parse(["--quick"]) == (QUICK, None)
    effort, path = parse(["--quick", "--rush-s", "5", "--seed", "7", "--json", "out.json"])
    assert effort == replace(QUICK, rush_s=5.0, seed=7)
    assert path == Path("out.json")


@pytest.mark.parametrize("words", [["--rounds", "0"], ["--calm-s", "0"], ["--rush-s", "x"]])
def test_wrong_arguments_exit_with_usage(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        parse(words)
    assert stopped.value.code == 2
    assert "usage" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("wrong", "line"),
    [
        ({"final_rush_s": 1.31}, "final p95"),
        ({"shown_rush_s": 2.7}, "first shown p95"),
        ({"closed": 1}, "admitted"),
        ({"words_wrong": {"lost": 1}}, "{'lost': 1} of 100 words wrong"),
        ({"refusals": 0}, "refused 0"),
        ({"refusals_without_hint": 1}, "refused 50"),
        ({"refusal_max_s": 0.26}, "told in"),
        ({"memory_rush_mb": 111.0}, "memory"),
    ],
)
def test_every_bound_can_be_missed(wrong: dict[str, object], line: str) -> None:
    assert GOOD.is_met
    assert "MISSED" not in report(GOOD)
    bad = replace(GOOD, **wrong)  # type: ignore[arg-type]
    assert not bad.is_met
    (missed,) = [told for told in report(bad).splitlines() if "MISSED" in told]
    assert line in missed


def spoken(*, late_s: float) -> Heard:
    """A user who sent everything in time and got each word so late after its utterance."""
    plan = plan_stream(CANONICAL, 1, seconds=30.0, seed=1)
    packet_s = plan.packet_samples / SAMPLE_RATE_HZ
    heard = Heard(plan, sent_s=[(i + 1) * packet_s for i in range(plan.packets)])
    heard.lateness_s = [0.0] * plan.packets
    for word in plan.words:
        heard.shown_s[word.text] = heard.sent_s[plan.packet_of(word.end)] + late_s / 2
        at_s = heard.sent_s[plan.packet_of(word.utterance_end)] + late_s
        heard.finals.append(FinalWord(word.text, word.start / SAMPLE_RATE_HZ, at_s))
    heard.done = {}
    return heard


def test_words_count_where_they_were_said() -> None:
    heard = spoken(late_s=2.0)
    whole = Phase(False, 0.0, 60.0)
    first, second = Phase(False, 0.0, 15.0), Phase(True, 15.0, 60.0)
    finals = list(delays_s([heard], whole, of_partials=False))
    assert finals == pytest.approx([2.0] * len(heard.plan.words))
    assert list(delays_s([heard], whole, of_partials=True)) == pytest.approx(
        [1.0] * len(heard.plan.words)
    )
    parts = [list(delays_s([heard], part, of_partials=False)) for part in (first, second)]
    assert all(parts)
    assert sum(map(len, parts)) == len(finals)


def test_figures_are_medians_of_phases_and_leave_out_what_was_our_own_delay() -> None:
    heard = spoken(late_s=2.0)
    phases = [Phase(False, 0.0, 15.0), Phase(True, 15.0, 30.0)]
    refusals = [Refusal("overloaded", 0.3, 5.0, lost_s=0.2), Refusal("overloaded", 0.05, 5.0, 0.0)]
    memory = [(float(second), 100.0 + second) for second in range(30)]
    figures = Figures.of(Notes([heard], [], refusals, phases, memory))
    assert (figures.final_calm_s, figures.final_rush_s) == pytest.approx((2.0, 2.0))
    assert (figures.shown_calm_s, figures.shown_rush_s) == pytest.approx((1.0, 1.0))
    assert (figures.memory_calm_mb, figures.memory_rush_mb) == (114.0, 129.0)
    assert figures.refusal_max_s == pytest.approx(0.1)
    assert figures.refusal_max_with_stalls_s == 0.3
    assert (figures.closed, figures.words_wrong) == (0, {})


def test_our_own_stalls_count_where_they_overlap() -> None:
    stalls = deque([(10.0, 2.0), (20.0, 1.0)])
    assert overlap_s(stalls, 9.0, 9.5) == 0.5
    assert overlap_s(stalls, 7.0, 9.0) == 1.0
    assert overlap_s(stalls, 9.0, 21.0) == 2.0
    assert overlap_s(stalls, 10.5, 11.0) == 0.0
    assert overlap_s(stalls, 7.0, 7.9) == 0.0


async def test_who_waits_for_a_processor_is_seen() -> None:
    """This process is both: it keeps its own loop from running."""
    watch = Watch(os.getpid())
    watching = asyncio.create_task(watch.run())
    await asyncio.sleep(0)
    began_s = time.monotonic()
    while time.monotonic() < began_s + 0.1:
        pass
    await asyncio.sleep(0.05)
    watching.cancel()
    assert watch.lost_s(began_s, time.monotonic()) > 0.05


@pytest.mark.parametrize(("figures", "status"), [(GOOD, 0), (replace(GOOD, closed=1), 1)])
def test_a_missed_bound_fails_the_program(
    figures: Figures,
    status: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    async def run(_: overload.Effort) -> Notes:
        return Notes()

    monkeypatch.setattr(overload, "run", run)
    monkeypatch.setattr(Figures, "of", lambda _: figures)
    assert main(["--quick", "--json", str(tmp_path / "out.json")]) == status
    assert capsys.readouterr().out.startswith("overload: ")
    written = orjson.loads((tmp_path / "out.json").read_bytes())
    assert written["figures"]["inside"] == 20


def test_what_cannot_be_measured_is_no_success(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def run(_: overload.Effort) -> Notes:
        raise RuntimeError("only 2 fit")

    monkeypatch.setattr(overload, "run", run)
    assert main(["--quick"]) == 1
    assert "only 2 fit" in capsys.readouterr().out
