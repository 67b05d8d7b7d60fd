"""What a client that pings was told, and how the scenes of hanging engines are judged."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from load_tests.faults import hangs
from load_tests.faults.hangs import Effort, SceneFigures, main, parse
from load_tests.faults.pinging import Told
from load_tests.oracle import FinalWord
from load_tests.workload import CANONICAL, plan_stream
from server.dispatch import CALL_SECONDS_BASE
from streaming.timeline import SAMPLE_RATE_HZ

PLAN = plan_stream(CANONICAL, 1, seconds=20, seed=1)
EFFORT = Effort(1, 1, CALL_SECONDS_BASE)


def told(lost: slice = slice(0, 3), gaps: bool = True) -> Told:
    """All words but some came, and a gap says so."""
    missing = PLAN.words[lost]
    finals = [
        FinalWord(w.text, w.start / SAMPLE_RATE_HZ, 0.0) for w in PLAN.words if w not in missing
    ]
    one = Told(PLAN, finals, is_done=True, close_code=1000, ended_s=100.0, over_s=140.0)
    if missing and gaps:
        one.gaps = [(missing[0].start / SAMPLE_RATE_HZ, missing[-1].end / SAMPLE_RATE_HZ)]
    one.pings, one.pongs_s = 2, [0.1, 0.2]
    return one


def test_a_word_in_a_gap_is_explained() -> None:
    one = told()
    assert one.is_good
    assert one.words_in_gaps == 3
    assert one.end_to_done_s == 40


def test_a_word_that_nothing_explains_is_lost() -> None:
    one = told(gaps=False)
    assert one.mistakes.lost == 3
    assert not one.is_good


def test_what_a_gap_has_left_of_a_word_may_come() -> None:
    one = told(slice(0, 0))
    word = PLAN.words[0]
    cut_s = (word.start + 400) / SAMPLE_RATE_HZ
    one.gaps = [(0.0, cut_s)]
    one.finals[0] = FinalWord(word.text, cut_s, 0.0)
    assert one.is_good
    assert one.words_in_gaps == 0


def close_badly(one: Told) -> None:
    one.close_code = 1011


def leave_a_ping(one: Told) -> None:
    one.pongs_s.pop()


def miss_the_end(one: Told) -> None:
    one.is_done = False


def double_a_word(one: Told) -> None:
    one.finals.append(one.finals[-1])


def skip_a_seq(one: Told) -> None:
    one.note({"type": "gap", "seq": 2, "start": 0.0, "end": 0.0})


def speak_in_a_gap(one: Told) -> None:
    one.gaps = [(0.0, 20.0)]


@pytest.mark.parametrize(
    "spoil",
    [close_badly, leave_a_ping, miss_the_end, double_a_word, skip_a_seq, speak_in_a_gap],
)
def test_whatever_is_wrong_is_not_good(spoil: Callable[[Told], None]) -> None:
    one = told()
    spoil(one)
    assert not one.is_good


def test_messages_are_noted() -> None:
    one = Told(PLAN)
    one.note({"type": "ready", "seq": 0})
    one.note({"type": "final", "seq": 1, "words": [{"word": "w0.1", "start": 1.5}]})
    one.note({"type": "gap", "seq": 2, "start": 2.0, "end": 3.0})
    one.note({"type": "done", "seq": 3})
    assert [(word.text, word.start_s) for word in one.finals] == [("w0.1", 1.5)]
    assert one.gaps == [(2.0, 3.0)]
    assert (one.is_done, one.broken_seqs) == (True, 0)


SCENE = SceneFigures("always", EFFORT, (told(),), restarts=9, orphans=0, seconds=60)


@pytest.mark.parametrize(
    ("scene", "fault"),
    [
        (replace(SCENE, told=(told(gaps=False),)), "good order"),
        (replace(SCENE, told=()), "nobody talked"),
        (replace(SCENE, told=(told(slice(0, 0)),)), "no hang had any effect"),
        (replace(SCENE, effort=Effort(1, 1, 0.1)), "end to done took 40 s"),
        (replace(SCENE, restarts=1_000), "a storm"),
        (replace(SCENE, orphans=1), "outlived"),
        (replace(SCENE, spared=(told(),)), "should lose none"),
        (replace(SCENE, spared=()), "should lose none"),
    ],
)
def test_a_bound_that_is_missed_is_named(scene: SceneFigures, fault: str) -> None:
    assert SCENE.faults == []
    assert any(fault in line for line in scene.faults)
    assert any(line.startswith("FAILED always: ") for line in scene.lines())


def test_the_figures_are_shown() -> None:
    first, second, third = replace(SCENE, spared=(told(slice(0, 0)),)).lines()
    words = len(PLAN.words)
    assert f"1 of 1 sessions done, close codes 1000, {words} words: {words - 3} in finals" in first
    assert "end to done 40.0 s at most" in second
    assert "2 of 2 pings answered, in 200 ms at most; 9 restarts" in second
    assert third == "always: 1 of 1 others lost nothing"


def test_the_bound_follows_the_setting() -> None:
    assert parse([]).end_to_done_s_max == 75 + 135 + 15 + hangs.MARGIN_S
    assert parse(["--call-timeout-s", "2"]).end_to_done_s_max == 10 + 18 + 15 + hangs.MARGIN_S


@pytest.mark.parametrize("words", [["--sessions", "1"], ["--call-timeout-s", "0"]])
def test_wrong_arguments_exit_with_usage(words: list[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        parse(words)
    assert stopped.value.code == 2


@pytest.mark.parametrize(("orphans", "status"), [(0, 0), (1, 1)])
def test_the_status_says_whether_the_bounds_are_met(
    orphans: int, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def measure(effort: Effort) -> list[SceneFigures]:
        assert effort.sessions == 3
        return [replace(SCENE, orphans=orphans)]

    monkeypatch.setattr(hangs, "measure", measure)
    assert main(["--sessions", "3"]) == status
