"""How late words are: by the packet that held them and the message that first showed them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clients.delays import DelayMeter, SentAudio, WordDelay, quantiles
from streaming.events import CaptionWord, Event, Final, Partial
from streaming.timeline import Span

SECOND = 16_000


def word(text: str, start: int, end: int) -> CaptionWord:
    return CaptionWord(text, Span(start, end), None, None)


def partial(*words: CaptionWord, lane: int = 0) -> Partial:
    return Partial(0, "c1", lane, Span(0, SECOND), "x", 0, None, words)


def final(*words: CaptionWord, lane: int = 0) -> Final:
    whole = Span(words[0].span.start, words[-1].span.end)
    return Final(1, "c1", lane, whole, "x", None, None, None, words)


def meter() -> DelayMeter:
    """Second k of the audio was sent at k seconds."""
    made = DelayMeter()
    for second in range(1, 11):
        made.sent.packet_sent(second * SECOND, float(second))
    return made


def measured(*events: tuple[Event, float]) -> list[WordDelay]:
    one = meter()
    for event, now_s in events:
        one.received(event, now_s)
    return one.words


def test_a_word_starts_its_clock_with_the_packet_of_its_last_sample() -> None:
    ends_with_packet = word("a", 0, SECOND)
    one_sample_more = word("b", 0, SECOND + 1)
    delays = measured((final(ends_with_packet, one_sample_more), 5.0))
    assert delays == [WordDelay(4.0, 4.0), WordDelay(3.0, 3.0)]


def test_first_shown_is_the_first_message_with_the_word_in_its_place() -> None:
    early, late = word("a", 0, SECOND), word("a", 0, SECOND + 100)
    (delay,) = measured((partial(early), 1.5), (partial(late), 2.5), (final(late), 4.0))
    assert delay == WordDelay(first_shown_s=0.0, final_s=2.0)


def test_another_word_in_that_place_does_not_count() -> None:
    know, no = word("know", 0, SECOND), word("no", 0, SECOND)
    (delay,) = measured((partial(know), 1.5), (partial(no), 2.5), (final(no), 4.0))
    assert delay == WordDelay(first_shown_s=1.5, final_s=3.0)


def test_case_and_marks_do_not_make_another_word() -> None:
    shown, closed = word("Budget", 0, SECOND), word("budget.", 0, SECOND)
    (delay,) = measured((partial(shown), 1.5), (final(closed), 4.0))
    assert delay == WordDelay(first_shown_s=0.5, final_s=3.0)


def test_the_same_word_elsewhere_does_not_count() -> None:
    first, again = word("a", 0, SECOND), word("a", 3 * SECOND, 4 * SECOND)
    delays = measured((partial(first), 1.5), (final(first, again), 6.0))
    assert [delay.first_shown_s for delay in delays] == [0.5, 2.0]


def test_lanes_do_not_see_each_other() -> None:
    one = word("a", 0, SECOND)
    (delay,) = measured((partial(one, lane=1), 1.5), (final(one), 4.0))
    assert delay.first_shown_s == 3.0


def test_partials_of_later_words_survive_a_final() -> None:
    first, second = word("a", 0, SECOND), word("b", SECOND, 2 * SECOND)
    delays = measured((partial(first, second), 2.25), (final(first), 3.0), (final(second), 5.0))
    assert delays == [WordDelay(1.25, 2.0), WordDelay(0.25, 3.0)]


def test_a_word_beyond_everything_sent_is_not_timed() -> None:
    assert measured((final(word("a", 0, 11 * SECOND)), 20.0)) == []


def test_a_word_that_came_before_it_was_said_is_not_early() -> None:
    assert measured((final(word("a", 0, 9 * SECOND)), 8.0)) == [WordDelay(0.0, 0.0)]


@given(st.integers(1, 5_000), st.integers(1, 20), st.data())
def test_equal_packets_are_found_by_division(size: int, count: int, data: st.DataObject) -> None:
    end = data.draw(st.integers(1, size * count))
    sent = SentAudio.in_equal_packets(size, [float(number) for number in range(count)])
    assert sent.delay_s(end, 100.0) == 100.0 - (end - 1) // size


def test_quantiles_of_nothing_are_unknown() -> None:
    assert quantiles([]) == {"p50": None, "p95": None, "p99": None}
    assert quantiles(range(101))["p95"] == pytest.approx(95)
