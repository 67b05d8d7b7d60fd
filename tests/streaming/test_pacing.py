"""How far partials are thinned out: by measurements alone, smoothly, and back to nothing."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from streaming.pacing import (
    PRESSURE_MAX,
    RATE_PER_S,
    STEP_S_MAX,
    THINNING_MAX,
    THINNING_STEP,
    PartialPacer,
)

MS = 1_000_000
SECOND = 1_000 * MS


def test_without_load_nothing_is_thinned() -> None:
    pacer = PartialPacer(1, 0)
    for at_ns in range(0, 60 * SECOND, SECOND):
        assert not pacer.note_call(500 * MS, 1.0, 300 * MS, at_ns)
    assert pacer.thinning == 1.0


def overloaded() -> PartialPacer:
    pacer = PartialPacer(1, 0)
    for at_ns in range(0, 30 * SECOND, SECOND):
        pacer.note_call(1_000 * MS, 1.0, 10 * SECOND, at_ns)
    return pacer


def test_busy_engines_and_late_partials_thin_them_out_up_to_a_bound() -> None:
    assert overloaded().thinning == THINNING_MAX
    busy = PartialPacer(2, 0)
    for at_ns in range(0, 60 * SECOND, SECOND):
        busy.note_call(1_900 * MS, 1.0, 2_000 * MS, at_ns)
    assert 1.0 < busy.thinning < THINNING_MAX


def test_calls_that_leave_nobody_behind_have_room() -> None:
    pacer = PartialPacer(1, 0)
    for at_ns in range(0, 60 * SECOND, SECOND):
        pacer.note_call(1_000 * MS, 1.0, 900 * MS, at_ns)
    assert pacer.thinning == 1.0


def test_what_uploads_take_thins_nothing() -> None:
    pacer = PartialPacer(1, 0)
    for at_ns in range(0, 60 * SECOND, SECOND):
        pacer.note_call(1_000 * MS, 0.2, 0, at_ns)
    assert pacer.thinning == 1.0


def test_a_wait_for_two_slow_calls_is_no_lateness() -> None:
    pacer = PartialPacer(8, 0)
    for at_ns in range(0, 60 * SECOND, 2 * SECOND):
        pacer.note_call(2_000 * MS, 1.0, 2_500 * MS if at_ns else 0, at_ns)
    assert pacer.thinning == 1.0


def test_it_recovers_in_one_step_after_a_pause() -> None:
    pacer = overloaded()
    assert pacer.note_call(10 * MS, 1.0, 0, 90 * SECOND)
    assert pacer.thinning == 1.0
    assert not pacer.note_call(10 * MS, 1.0, 0, 91 * SECOND)


@given(
    calls=st.lists(
        st.tuples(
            st.integers(0, 20 * SECOND),  # passed
            st.integers(0, 20 * SECOND),  # engine
            st.integers(0, 60 * SECOND),  # wait
            st.floats(0, 1),
        ),
        max_size=40,
    )
)
def test_it_stays_in_its_bounds_and_grows_no_faster_than_it_may(
    calls: list[tuple[int, int, int, float]],
) -> None:
    pacer, now_ns, told = PartialPacer(1, 0), 0, [1.0]
    for passed_ns, engine_ns, wait_ns, share in calls:
        now_ns += passed_ns
        is_news = pacer.note_call(engine_ns, share, wait_ns, now_ns)
        assert is_news == (pacer.thinning != told[-1])
        told.append(pacer.thinning)
    assert all(1 <= thinning <= THINNING_MAX for thinning in told)
    assert all(thinning % THINNING_STEP == 0 for thinning in told)
    growth_max = 2.72 ** (RATE_PER_S * (PRESSURE_MAX - 1) * STEP_S_MAX)
    rounding = 1.5 * THINNING_STEP
    assert all(b <= (a + rounding) * growth_max for a, b in pairwise(told))
