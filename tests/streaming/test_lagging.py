"""Clients hear how far their captions are behind, while nobody answers and when somebody does."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streaming.asking import Ask
from streaming.eventlog import EventLog
from streaming.events import Gap, Lag
from streaming.jobs import PATIENCE_NS, JobKind
from streaming.lagging import (
    CALM_NS,
    LAG_SECONDS_MIN,
    LAG_SECONDS_STEP,
    LAG_STEP_SHARE,
    LagNotice,
    behind_s,
)
from tests.fakes import Desk, channels, conversation, desk, of_type, speech, words_of

SECOND_NS = 1_000_000_000


def told(log: EventLog) -> list[float]:
    return [lag.seconds for lag in of_type(Lag, log.cursor().read(10_000))]


def ask(kind: JobKind, came_ns: int) -> Ask:
    return Ask(kind, (), 0, True, came_ns + PATIENCE_NS[kind])


def test_captions_are_as_far_behind_as_what_has_waited_longest() -> None:
    assert behind_s([], SECOND_NS) == 0
    asks = [ask(JobKind.DETECT, 4 * SECOND_NS), ask(JobKind.RECOGNIZE, 3 * SECOND_NS)]
    assert behind_s(asks, 10 * SECOND_NS) == pytest.approx(7)
    assert behind_s(asks, 2 * SECOND_NS) == 0, "an upload is ahead"


def test_nobody_waits_for_a_speaker() -> None:
    asks = [ask(JobKind.OBSERVE, 0), ask(JobKind.CLUSTER, 0)]
    assert behind_s(asks, 10 * SECOND_NS) == 0


def test_a_long_stall_is_told_now_and_then() -> None:
    log = EventLog()
    notice = LagNotice(log)
    for half_s in range(2 * 135):
        notice.look(half_s / 2, half_s * SECOND_NS // 2)
    lags = told(log)
    assert lags[:3] == [3.0, 4.0, 5.0]
    assert lags[-1] > 135 / (1 + 2 * LAG_STEP_SHARE)
    assert len(lags) < 25


def test_who_is_answered_late_each_time_is_not_told_that_all_is_well_between() -> None:
    log = EventLog()
    notice = LagNotice(log)
    for second in range(30):
        now_ns = second * SECOND_NS
        if second % 4 == 3:
            notice.note(4.2, now_ns)
        else:
            notice.look(1.0, now_ns)
    assert told(log) == [4.2]
    notice.look(0.0, 40 * SECOND_NS)
    assert told(log) == [4.2, 0.0]


def test_waiting_tells_of_no_smaller_lag() -> None:
    """The answers that come then do."""
    log = EventLog()
    notice = LagNotice(log)
    notice.note(20.0, 0)
    notice.look(10.0, SECOND_NS)
    assert told(log) == [20.0]
    notice.note(9.0, 2 * SECOND_NS)
    assert told(log) == [20.0, 9.0]


STEPS = st.lists(st.tuples(st.booleans(), st.floats(0, 200), st.integers(0, 4 * SECOND_NS)))


@given(STEPS)
def test_what_is_told_is_news_and_ends(steps: list[tuple[bool, float, int]]) -> None:
    log, now_ns = EventLog(entries_max=10_000), 0
    notice = LagNotice(log)
    for is_answer, late_s, passed_ns in steps:
        now_ns += passed_ns
        (notice.note if is_answer else notice.look)(late_s, now_ns)
    notice.look(0.0, now_ns + CALM_NS)
    lags = [0.0, *told(log)]
    assert lags[-1] == 0
    assert all(lag == 0 or lag >= LAG_SECONDS_MIN for lag in lags)
    for before, after in pairwise(lags):
        assert after != before
        assert after == 0 or abs(after - before) >= LAG_SECONDS_STEP - 1e-9


def look_for(table: Desk, seconds: int) -> None:
    """Time passes, and the server looks at its sessions now and then."""
    for _ in range(2 * seconds):
        table.wait(0.5)
        table.session.look(table.now_ns)
        table.settle()


@pytest.mark.parametrize("kind", [JobKind.DETECT, JobKind.RECOGNIZE])
def test_a_stall_is_told_while_it_lasts_and_so_is_its_end(kind: JobKind) -> None:
    table = desk()
    table.play(conversation())
    table.holds = lambda job: job.kind is kind
    table.play(speech(range(12, 15)))
    look_for(table, 60)
    lags = [lag.seconds for lag in of_type(Lag, table.events)]
    assert lags == sorted(lags)
    assert lags[0] == pytest.approx(LAG_SECONDS_MIN, abs=1)
    assert lags[-1] > 40
    table.holds = lambda job: False
    table.answer_held()
    look_for(table, 1 + CALM_NS // SECOND_NS)
    assert of_type(Lag, table.events)[-1].seconds == 0
    assert len(words_of(table.end())) == 15


def test_a_lane_that_is_answered_in_time_does_not_speak_for_one_that_is_not() -> None:
    start, audio = channels(speech(range(40), stream=1), speech(range(40), stream=2))
    table = desk(start)
    table.holds = lambda job: job.kind is JobKind.RECOGNIZE and job.lane == 0
    table.play(audio, packet_ms=200)
    look_for(table, 1)
    assert words_of(table.events, lane=1)
    lags = [lag.seconds for lag in of_type(Lag, table.events)]
    assert lags
    assert lags == sorted(lags)


def test_what_is_given_up_is_a_gap_and_no_lag() -> None:
    table = desk()
    table.holds = lambda job: job.kind is JobKind.RECOGNIZE
    table.play(conversation())
    look_for(table, 10)
    while table.held:
        held, table.held = table.held, []
        for job in held:
            table.session.receive_failure(job.number)
        table.settle()
    look_for(table, 6)
    assert of_type(Lag, table.events)[-1].seconds == 0
    assert of_type(Gap, table.events)


def test_nothing_is_told_after_the_end() -> None:
    table = desk()
    table.play(conversation())
    table.end()
    before = list(table.events)
    look_for(table, 10)
    assert table.events == before
