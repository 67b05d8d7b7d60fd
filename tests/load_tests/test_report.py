"""Figures of runs that are written by hand."""

import subprocess
from pathlib import Path

import pytest

from clients.delays import quantiles
from load_tests.oracle import FinalWord
from load_tests.replay import Heard
from load_tests.report import (
    Conditions,
    Figures,
    ServerCost,
    as_markdown,
    broken_bounds,
    commit_of,
    is_wrong,
    make_report,
)
from load_tests.workload import CANONICAL, plan_stream

CONDITIONS = Conditions("canonical", 1, 1, 5.0, ("--asr", "scripted"))
COST = ServerCost(cpu_s=0.5, peak_memory_mb=123.4)


def a_good_run(delay_s: float = 0.5) -> Heard:
    """Packets leave on time; every word is final ``delay_s`` after its utterance's last packet."""
    plan = plan_stream(CANONICAL, 1, seconds=5, seed=1)
    heard = Heard(plan, sent_s=[100 + i / 10 for i in range(plan.packets)])
    heard.lateness_s = [0.001] * plan.packets
    for word in plan.words:
        final_s = heard.sent_s[plan.packet_of(word.utterance_end)] + delay_s
        heard.finals.append(FinalWord(word.text, word.start / 16_000, final_s))
        heard.shown_s[word.text] = heard.sent_s[plan.packet_of(word.end)] + 0.2
    heard.partials = 7
    heard.done = {"audio_seconds": 5.0, "rtfx": 50.0}
    return heard


def report(*heards: Heard) -> Figures:
    return make_report(heards, COST, CONDITIONS)


def test_a_good_run() -> None:
    figures = report(a_good_run())
    assert figures["words"] > 3
    assert not is_wrong(figures)
    assert figures["ratios"]["words_wrong"] == 0
    assert figures["first_shown_s"] == {"p50": 0.2, "p95": 0.2, "p99": 0.2}
    assert figures["final_after_utterance_s"] == {"p50": 0.5, "p95": 0.5, "p99": 0.5}
    assert figures["final_s"]["p99"] > 0.5
    assert figures["lateness_s"] == {"p50": 0.001, "p95": 0.001, "p99": 0.001, "max": 0.001}
    assert (figures["rtfx"], figures["server_cpu_s"], figures["peak_memory_mb"]) == (
        50.0,
        0.5,
        123.4,
    )
    assert figures["ratios"]["server_cpu_per_audio_second"] == 0.1


def test_rtfx_is_weighted_by_engine_time() -> None:
    slow = a_good_run()
    slow.done = {"audio_seconds": 5.0, "rtfx": 1.0}
    assert report(a_good_run(), slow)["rtfx"] == pytest.approx(10 / 5.1, abs=0.01)


def test_a_lost_word_is_wrong_and_has_no_delay() -> None:
    heard = a_good_run()
    lost = heard.finals.pop()
    del heard.shown_s[lost.text]
    figures = report(heard)
    assert figures["words_lost"] == 1
    assert is_wrong(figures)


def test_a_word_in_the_wrong_place_is_wrong() -> None:
    heard = a_good_run()
    word = heard.finals.pop()
    heard.finals.append(FinalWord(word.text, word.start_s + 0.1, word.received_s))
    figures = report(heard)
    assert figures["words_mistimed"] == 1
    assert is_wrong(figures)


def test_a_refused_user_lost_nothing() -> None:
    refused = Heard(plan_stream(CANONICAL, 2, seconds=5, seed=1), refusal="overloaded")
    figures = report(refused)
    assert not is_wrong(figures)
    assert figures["refusals"] == {"overloaded": 1}
    assert figures["ratios"]["refused"] == 1
    assert figures["final_s"] == {"p50": None, "p95": None, "p99": None}


def test_late_finals_are_a_share() -> None:
    assert report(a_good_run(delay_s=1.6))["ratios"]["finals_late"] == 1
    assert report(a_good_run(delay_s=1.4))["ratios"]["finals_late"] == 0


def test_a_session_that_broke_off_before_the_utterance_ended() -> None:
    heard = a_good_run()
    del heard.sent_s[heard.plan.packet_of(heard.plan.words[-1].end) :]
    del heard.shown_s[heard.finals.pop().text]
    heard.done = None
    figures = report(heard)
    assert figures["words_lost"] == 1
    assert figures["rtfx"] is None


def test_bounds() -> None:
    figures = report(a_good_run(delay_s=1.6))
    assert broken_bounds(figures, {"words_wrong": 0, "packets_late": 0.01}) == []
    [line] = broken_bounds(figures, {"finals_late": 0.05})
    assert line == "finals_late is 1.0, above 0.05"
    with pytest.raises(ValueError, match="no ratio final_s"):
        broken_bounds(figures, {"final_s": 1})


def test_a_bound_on_what_was_not_measured_is_broken() -> None:
    figures = make_report([a_good_run()], None, CONDITIONS)
    assert broken_bounds(figures, {"server_cpu_per_audio_second": 1})


def test_markdown_holds_the_figures() -> None:
    text = as_markdown(report(a_good_run()))
    assert "## 1 streams × 5 s, canonical workload, seed 1" in text
    assert "| final_after_utterance_s | 0.5 | 0.5 | 0.5 |" in text


def test_quantiles() -> None:
    assert quantiles(range(101)) == {"p50": 50.0, "p95": 95.0, "p99": 99.0}


def test_figures_that_benchmarks_write_do_not_count_as_changed_code(tmp_path: Path) -> None:
    def git(*words: str) -> None:
        who = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", *who, *words], cwd=tmp_path, check=True, capture_output=True)

    figures, code = tmp_path / "docs" / "benchmarks" / "latest.json", tmp_path / "code.py"
    figures.parent.mkdir(parents=True)
    assert commit_of(tmp_path) is None
    git("init")
    figures.write_text("1")
    code.write_text("1")
    git("add", ".")
    git("commit", "-m", "first")
    clean = commit_of(tmp_path)
    assert clean is not None
    assert "dirty" not in clean
    figures.write_text("2")
    assert commit_of(figures.parent) == clean
    code.write_text("2")
    assert commit_of(figures.parent) == f"{clean}-dirty"
