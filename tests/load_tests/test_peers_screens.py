"""What a reader saw: how late words came, and when they stopped changing."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clients.delays import SentAudio
from load_tests.bench.speech import SaidWord
from load_tests.peers.screens import Screen, judge
from streaming.timeline import SAMPLE_RATE_HZ, Span

PACKET_SAMPLES = SAMPLE_RATE_HZ // 10


def said(text: str) -> list[SaidWord]:
    """A word a second, each half a second long."""
    return [
        SaidWord(word, Span(n * SAMPLE_RATE_HZ, n * SAMPLE_RATE_HZ + SAMPLE_RATE_HZ // 2))
        for n, word in enumerate(text.split())
    ]


def sent(seconds: float) -> SentAudio:
    """From time 0, packets of 100 ms that leave when their last sample has been spoken."""
    times_s = [(number + 1) / 10 for number in range(round(seconds * 10))]
    return SentAudio.in_equal_packets(PACKET_SAMPLES, times_s)


def screen(*shown: tuple[float, str]) -> Screen:
    made = Screen()
    for at_s, text in shown:
        made.show(text, at_s)
    return made


def test_a_word_is_first_shown_when_it_first_stands_in_its_place() -> None:
    seen = screen((0.7, "Alice"), (1.75, "alice will"), (3.0, "Alice will test."))
    judged = judge(said("Alice will test."), sent(4), seen)
    assert judged.errors.rate == 0
    assert judged.first_shown_s == pytest.approx((0.2, 0.25, 0.5))
    assert judged.stable_s == pytest.approx((0.2, 0.25, 0.5)), "case and marks are no change"


def test_a_word_is_stable_when_nothing_up_to_it_changes_any_more() -> None:
    seen = screen((1.0, "Alice"), (2.0, "Alex will"), (4.0, "Alice will"))
    judged = judge(said("Alice will"), sent(4), seen)
    assert judged.first_shown_s == pytest.approx((0.5, 0.5))
    assert judged.stable_s == pytest.approx((3.5, 2.5))


def test_a_word_that_is_not_said_yet_is_not_shown_by_an_earlier_one_like_it() -> None:
    seen = screen((1.0, "the"), (5.0, "the plan and the"))
    judged = judge(said("the plan and the"), sent(5), seen)
    assert sorted(judged.first_shown_s) == pytest.approx(sorted((0.5, 3.5, 2.5, 1.5)))


def test_a_guess_before_the_end_of_a_word_is_not_late() -> None:
    judged = judge(said("budget"), sent(1), screen((0.3, "budget")))
    assert judged.first_shown_s == (0.0,)


def test_wrong_and_missing_words_are_errors_and_have_no_delay() -> None:
    seen = screen((2.0, "alice won"), (6.0, "alice won the"))
    judged = judge(said("Alice will test the plan"), sent(6), seen)
    assert (judged.errors.hits, judged.errors.substitutions, judged.errors.deletions) == (2, 1, 2)
    assert len(judged.stable_s) == 2


def test_a_word_that_was_shown_and_taken_away_was_shown() -> None:
    judged = judge(said("Alice will"), sent(2), screen((1.0, "Alice"), (2.0, "")))
    assert len(judged.first_shown_s) == 1
    assert judged.stable_s == ()
    assert judged.errors.deletions == 2


def test_an_empty_screen() -> None:
    judged = judge(said("Alice"), sent(1), Screen())
    assert (judged.errors.rate, judged.first_shown_s, judged.stable_s) == (1.0, (), ())


def test_only_changes_are_kept() -> None:
    assert len(screen((1.0, "Alice"), (2.0, "alice."), (3.0, "Alice will")).shown) == 2


WORDS = st.lists(st.sampled_from(["a", "b", "c", "d"]), min_size=1, max_size=6)


@given(WORDS, st.lists(WORDS, min_size=1, max_size=6))
def test_no_word_is_stable_before_the_screen_has_it(
    words: Sequence[str], shown: Sequence[Sequence[str]]
) -> None:
    seen = screen(*((float(n + 1), " ".join(text)) for n, text in enumerate(shown)))
    judged = judge(said(" ".join(words)), sent(len(words)), seen)
    assert len(judged.stable_s) == judged.errors.hits
    last_s = len(shown)
    assert all(0 <= delay_s <= last_s for delay_s in (*judged.stable_s, *judged.first_shown_s))
