"""How many sessions would fit, by what the present ones cost."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.capacity import LOOP_BUSY_MAX, SESSIONS_FOR_A_GUESS, BusyMeter, estimated_capacity


def capacity(
    talkers: float, engine_share: float = 0.0, loop_share: float = 0.0, sessions_max: int = 200
) -> int | None:
    return estimated_capacity(talkers, engine_share, 0.8, loop_share, sessions_max)


def test_nobody_talks_so_nothing_is_known() -> None:
    assert capacity(0) is None
    assert capacity(0.5, engine_share=0.1) is None


@pytest.mark.parametrize(
    ("talkers", "engine_share", "loop_share", "expected"),
    [
        (20, 0.4, 0.0, 40),  # each takes 2 % of the engines' time, 80 % may be used
        (20, 0.4, 0.4, 40),  # the loop has room for as many
        (20, 0.1, 0.32, 50),  # the loop is the narrow place
        (20, 0.0001, 0.0001, 200),  # what is set holds whatever is measured
        (20, 1.6, 0.0, 10),  # too many are there already
        (1, 4.0, 0.0, 1),  # whether one is too much is for its user to say
        (5, 0.1, 0.5, 40),  # so few say nothing of the loop
    ],
)
def test_the_narrowest_place_decides(
    talkers: float, engine_share: float, loop_share: float, expected: int
) -> None:
    assert capacity(talkers, engine_share, loop_share) == expected


@given(st.floats(1, 500), st.floats(0, 10), st.floats(0, 1), st.integers(1, 1_000))
def test_it_lies_between_one_and_what_is_set(
    talkers: float, engine_share: float, loop_share: float, sessions_max: int
) -> None:
    found = capacity(talkers, engine_share, loop_share, sessions_max)
    assert found is not None
    assert 1 <= found <= sessions_max


def test_the_loop_counts_from_enough_sessions_on() -> None:
    few, enough = SESSIONS_FOR_A_GUESS - 1, SESSIONS_FOR_A_GUESS
    assert capacity(few, loop_share=LOOP_BUSY_MAX) == 200
    assert capacity(enough, loop_share=LOOP_BUSY_MAX) == enough


def test_a_share_of_the_time_is_one() -> None:
    meter = BusyMeter()
    sum(range(100_000))
    assert 0.0 <= meter.share() <= 1.0


def test_waiting_for_a_processor_is_no_room(tmp_path: Path) -> None:
    """As if other programs had kept this thread waiting for an hour meanwhile."""
    scheduled = tmp_path / "schedstat"
    scheduled.write_text("1000 2000 3\n")
    meter = BusyMeter(scheduled)
    scheduled.write_text("1000 3600000002000 3\n")
    assert meter.share() == 1.0


@pytest.mark.parametrize("text", [None, "", "no figures here"])
def test_where_nobody_tells_only_what_was_used_counts(tmp_path: Path, text: str | None) -> None:
    scheduled = tmp_path / "schedstat"
    if text is not None:
        scheduled.write_text(text)
    assert 0.0 <= BusyMeter(scheduled).share() <= 1.0
