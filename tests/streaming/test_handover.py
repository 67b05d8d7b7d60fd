"""What of an open utterance is committed where another server goes on with it, and what is left."""

from itertools import count

import pytest

from streaming.endpointing import Onset
from streaming.engines import Hypothesis, Word
from streaming.recognition import EarlyCut, FinalText, Recognition, Request
from streaming.timeline import SAMPLE_RATE_HZ as SECOND
from streaming.timeline import Span
from streaming.windows import Window, WindowOptions, WindowPlanner

OPTIONS = WindowOptions(cap_ms=4_000)


def opened() -> Recognition:
    numbers = count(1)
    lane = Recognition(OPTIONS, lambda: f"c{next(numbers)}", partials=True)
    lane.open(Onset(0, 0))
    return lane


def ask(lane: Recognition, judged: int) -> Request:
    request = lane.take_request(judged, judged)
    assert request is not None
    return request


def word(text: str, start_s: float, end_s: float) -> Word:
    return Word(text, Span(round(start_s * SECOND), round(end_s * SECOND)))


def hear(request: Request, spoken: list[Word]) -> Hypothesis:
    """Windows of these tests begin with the audio."""
    assert request.window.span.start == 0
    return Hypothesis(tuple(spoken))


EARLY = EarlyCut(2 * SECOND, SECOND)


@pytest.mark.parametrize(
    ("spoken", "committed", "end"),
    [
        ([word("a", 0.0, 0.4), word("b", 0.6, 1.0), word("c", 1.2, 1.6)], ["a", "b"], 1.1),
        ([word("a", 0.0, 0.4), word("b", 0.6, 1.0)], ["a", "b"], 1.0),
        ([word("a", 0.0, 0.4), word("b", 0.8, 1.1)], ["a"], 0.6),
    ],
)
def test_where_another_server_goes_on_settled_words_are_committed(
    spoken: list[Word], committed: list[str], end: float
) -> None:
    lane = opened()
    lane.leave(EARLY)
    assert not lane.is_left
    request = ask(lane, 3 * SECOND)
    assert (request.is_final, request.is_cut, request.window.span.end) == (True, True, 2 * SECOND)
    assert not lane.is_left
    outcome = lane.receive(request, hear(request, spoken))
    assert isinstance(outcome, FinalText)
    assert [word.text for word in outcome.words] == committed
    assert outcome.span == Span(0, round(end * SECOND))
    assert lane.is_left
    assert lane.uncommitted_from == outcome.span.end
    assert lane.take_request(3 * SECOND, 3 * SECOND) is None


@pytest.mark.parametrize("spoken", [None, [], [word("a", 0.8, 1.2)], [word("a", 0.0, 0.0)]])
def test_where_nothing_is_settled_all_is_left(spoken: list[Word] | None) -> None:
    lane = opened()
    lane.leave(EARLY)
    request = ask(lane, 3 * SECOND)
    assert lane.receive(request, None if spoken is None else hear(request, spoken)) is None
    assert lane.is_left
    assert lane.uncommitted_from == 0
    assert lane.take_request(3 * SECOND, 3 * SECOND) is None
    lane.stay()
    assert not ask(lane, 3 * SECOND).is_final


def test_too_little_is_not_cut_and_what_is_over_is_committed_first() -> None:
    lane = opened()
    lane.close(SECOND)
    lane.open(Onset(SECOND, SECOND))
    lane.leave(EARLY)
    request = ask(lane, 2 * SECOND)
    assert not request.is_cut
    lane.receive(request, hear(request, [word("a", 0.1, 0.4)]))
    assert not lane.is_left
    assert lane.take_request(2 * SECOND, 2 * SECOND) is None
    assert lane.is_left
    lane.close(2 * SECOND)
    assert not lane.is_left
    assert lane.receive(ask(lane, 2 * SECOND), Hypothesis(())) is not None
    assert lane.is_left


def test_a_window_is_cut_early_where_there_is_enough_of_it_and_no_longer_than_the_cap() -> None:
    windows = WindowPlanner(OPTIONS)
    windows.open(0)
    assert windows.next_early_cut(SECOND, 2 * SECOND) is None
    window = windows.next_early_cut(3 * SECOND, 2 * SECOND)
    assert window == Window(Span(0, 3 * SECOND), Span(0, 3 * SECOND))
    assert windows.next_partial(3 * SECOND) is None
    windows.keep()
    assert windows.next_partial(3 * SECOND) is not None
    window = windows.next_early_cut(9 * SECOND, 2 * SECOND)
    assert window == Window(Span(0, 4 * SECOND), Span(0, 4 * SECOND))
    windows.cut(2 * SECOND)
    assert windows.content_start == 2 * SECOND
