"""Whole sessions in seeded worlds: what must hold, holds in all of them."""

import os
import subprocess
import sys
from functools import cache

import pytest

from streaming.events import CaptionWord, Event, Final
from streaming.timeline import Span
from tests.sim import checkers
from tests.sim.__main__ import Totals, replay_command
from tests.sim.script import SpokenWord
from tests.sim.watchers import Violation
from tests.sim.whole import Report, run_seed

SEEDS = 120
NEVER_SENT_AGAIN = [2736, 3717]
"""A server dies with its finals stored; the client resumes, and is gone before it has sent their
audio again."""


@cache
def report_of(seed: int) -> Report:
    return run_seed(seed)


def check(seed: int) -> None:
    report = report_of(seed)
    assert report.check is None, f"replay: {replay_command(seed)}\n{report.failure}"


@pytest.mark.parametrize("seed", range(SEEDS))
def test_every_session_closes_with_every_sample_and_word_accounted_for(seed: int) -> None:
    check(seed)


@pytest.mark.parametrize("seed", NEVER_SENT_AGAIN)
def test_finals_of_a_server_that_died_need_not_be_sent_again(seed: int) -> None:
    check(seed)


SPOKEN = [SpokenWord(f"w{i}", Span(100 * i, 100 * i + 90), 0, 100 * i + 90) for i in range(4)]


def final(seq: int, text: str, span: Span, lane: int = 0) -> Final:
    words = (CaptionWord(text, span, 1.0, None),)
    return Final(seq, f"c{seq}", lane, span, text, "en", 1.0, None, words)


def arrived(before: list[Event], frames_before: int) -> list[SpokenWord]:
    """The last server got the first word only."""
    return checkers.arrived_words(SPOKEN, 0, 90, before, frames_before)


def test_words_have_arrived_where_a_server_that_got_their_audio_told_them() -> None:
    told = final(1, "w1", Span(100, 190))
    assert arrived([], 290) == SPOKEN[:1]
    assert arrived([told], 290) == SPOKEN[:2]  # who heard the third one told nobody
    assert arrived([told], 189) == SPOKEN[:1]  # told before all of it had come
    assert arrived([final(1, "w1", Span(100, 190), lane=1)], 290) == SPOKEN[:1]


def test_after_a_crash_words_are_still_accused() -> None:
    told, cut = final(1, "w1", Span(100, 190)), [Span(0, 90)]
    checkers.check_words([told], 0, arrived([told], 290), cut)
    invented = [told, final(2, "w2", Span(200, 290))]  # by a server that never got its audio
    with pytest.raises(Violation, match="w2 was never said on lane 0"):
        checkers.check_words(invented, 0, arrived([told], 290), cut)
    twice = [told, final(2, "w1", Span(200, 290))]
    with pytest.raises(Violation, match="words came twice"):
        checkers.check_words(twice, 0, arrived([told], 290), cut)
    moved = final(1, "w1", Span(105, 190))
    with pytest.raises(Violation, match="w1 was said at"):
        checkers.check_words([moved], 0, arrived([moved], 290), cut)


def test_a_seed_gives_the_same_log_twice() -> None:
    for seed in (0, 7, 42):
        assert run_seed(seed).lines == report_of(seed).lines


def test_logs_do_not_depend_on_the_hash_seed_of_the_interpreter() -> None:
    command = [sys.executable, "-m", "tests.sim", "--seeds", "5", "--jobs", "1", "--logs"]
    logs = [
        subprocess.run(
            command, env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in ("1", "2")
    ]
    assert logs[0]
    assert logs[0] == logs[1]


def test_every_kind_of_fault_and_every_way_through_a_session_occurs() -> None:
    totals = Totals()
    for seed in range(SEEDS):
        totals.add(report_of(seed))
    assert not totals.missing
