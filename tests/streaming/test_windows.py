"""WindowPlanner: hops, the cap, cuts, left context."""

from collections.abc import Iterator
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streaming.timeline import Span, samples_from_ms
from streaming.windows import Window, WindowOptions, WindowPlanner

SECOND = 16_000
OPTIONS = WindowOptions()
CAP = samples_from_ms(OPTIONS.cap_ms)


def planner(start: int = 0, speech_start: int | None = None) -> WindowPlanner:
    opened = WindowPlanner(OPTIONS)
    opened.open(start, speech_start)
    return opened


def test_partials_follow_the_hop_from_the_first_on() -> None:
    windows = planner(start=SECOND)
    ends = [end for end in range(SECOND, 5 * SECOND, 160) if windows.next_partial(end)]
    assert [end / SECOND for end in ends] == [1.6, 2.6, 3.6, 4.6]


def test_partials_are_thinned_out_smoothly() -> None:
    windows = planner()
    ends = [end / SECOND for end in range(0, 10 * SECOND, 160) if windows.next_partial(end, 2.25)]
    assert ends == [0.6, 2.85, 5.1, 7.35, 9.6]


def test_a_change_of_the_thinning_brings_no_two_partials_close_together() -> None:
    windows, ends = planner(), []
    for end in range(0, 15 * SECOND, 160):
        thinning = 1.0 + (end // SECOND % 5) / 4
        if windows.next_partial(end, thinning):
            ends.append(end / SECOND)
    assert len(ends) >= 8
    assert all(later - earlier >= 0.5 for earlier, later in pairwise(ends))


def test_the_first_partial_waits_for_speech_not_for_pre_roll() -> None:
    windows = planner(start=0, speech_start=5_000)
    assert windows.next_partial(14_599) is None
    assert windows.next_partial(14_600) == Window(Span(0, 14_600), Span(0, 14_600))


def test_asked_late_it_plans_one_window_at_the_latest_boundary() -> None:
    windows = planner()
    late = windows.next_partial(3 * SECOND + 5)
    assert late is not None
    assert late.span == Span(0, 41_600)
    assert windows.next_partial(3 * SECOND + 5) is None


def test_at_the_cap_a_cut_is_planned_once_and_partials_wait() -> None:
    windows = planner()
    assert windows.next_cut(CAP - 1) is None
    assert windows.next_cut(CAP + 9) == Window(Span(0, CAP), Span(0, CAP))
    assert windows.next_cut(CAP + 9) is None
    assert windows.next_partial(CAP + 9) is None


def test_a_partial_never_passes_the_cap() -> None:
    late = planner().next_partial(60 * SECOND)
    assert late is not None
    assert late.span.end == int(19.6 * SECOND)


def test_after_a_cut_content_starts_there_and_is_heard_with_left_context() -> None:
    windows = planner()
    windows.next_cut(CAP)
    windows.cut(18 * SECOND)
    assert windows.content_start == 18 * SECOND
    assert windows.earliest_needed == 17 * SECOND
    partial = windows.next_partial(CAP)
    assert partial == Window(Span(17 * SECOND, 313_600), Span(18 * SECOND, 313_600))
    assert windows.next_cut(37 * SECOND - 1) is None
    assert windows.next_cut(37 * SECOND) is not None


def test_what_follows_a_cut_closely_is_too_short_for_a_partial() -> None:
    windows = planner()
    windows.next_cut(CAP)
    windows.cut(CAP - 160)
    assert windows.next_partial(CAP) is None
    assert windows.next_partial(int(20.6 * SECOND)) is not None


def test_left_context_never_reaches_before_the_utterance() -> None:
    windows = planner(start=5 * SECOND)
    windows.next_cut(5 * SECOND + CAP)
    windows.cut(5 * SECOND + 100)
    assert windows.earliest_needed == 5 * SECOND


def test_the_last_window_holds_the_rest() -> None:
    windows = planner()
    windows.next_cut(CAP)
    windows.cut(18 * SECOND)
    last = Window(Span(17 * SECOND, 21 * SECOND), Span(18 * SECOND, 21 * SECOND))
    assert windows.close(21 * SECOND) == last
    assert windows.content_start is None
    assert windows.earliest_needed is None


def test_an_utterance_that_ends_before_its_last_cut_leaves_nothing() -> None:
    windows = planner()
    windows.next_cut(CAP)
    windows.cut(CAP)
    assert windows.close(CAP - 500).content == Span(CAP, CAP)


def test_a_planned_cut_is_forgotten_at_the_close() -> None:
    windows = planner()
    windows.next_cut(CAP)
    assert windows.close(CAP) == Window(Span(0, CAP), Span(0, CAP))
    windows.open(CAP)
    assert windows.next_cut(2 * CAP) is not None


def walk(steps: list[int], cuts: list[float]) -> Iterator[Window]:
    """The cut windows and the last one, cut at these shares of their content."""
    windows = planner(start=1_000)
    shares = iter(cuts)
    end = 1_000
    for step in steps:
        end += step
        windows.next_partial(end)
        while window := windows.next_cut(end):
            share = next(shares, 1.0)
            at = window.content.start + max(1, int(share * window.content.samples))
            yield Window(window.span, Span(window.content.start, at))
            windows.cut(at)
    yield windows.close(end)


@given(
    st.lists(st.integers(1, 30 * SECOND), min_size=1, max_size=6),
    st.lists(st.floats(0.3, 1.0), max_size=8),
)
def test_contents_tile_the_utterance_and_no_window_passes_the_cap(
    steps: list[int], cuts: list[float]
) -> None:
    position = 1_000
    for window in walk(steps, cuts):
        assert window.span.samples <= CAP
        assert window.content.start == position
        assert window.span.start <= window.content.start
        assert window.content.end <= window.span.end
        position = window.content.end
    assert position == 1_000 + sum(steps)


def test_it_wants_its_calls_in_order() -> None:
    windows = WindowPlanner(OPTIONS)
    with pytest.raises(ValueError, match="no utterance is open"):
        windows.next_partial(0)
    windows.open(0)
    with pytest.raises(ValueError, match="an utterance is open"):
        windows.open(0)
    with pytest.raises(ValueError, match="no cut is planned"):
        windows.cut(10)
    windows.next_cut(CAP)
    for outside in (0, CAP + 1):
        with pytest.raises(ValueError, match="not inside"):
            windows.cut(outside)


@pytest.mark.parametrize(
    "options",
    [{"hop_ms": 0}, {"first_ms": -1}, {"left_context_ms": -1}, {"cap_ms": 2_000}],
)
def test_options_under_which_nothing_fits_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="_ms"):
        WindowOptions(**options)
