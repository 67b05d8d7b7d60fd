"""A draft survives a token that the model has disagreed with, where it can."""

from hypothesis import given
from hypothesis import strategies as st

from server.engines.whisper_drafts import realigned

STAMPS = 100


def is_stamp(token: int) -> bool:
    return token >= STAMPS


def after(rest: list[int], token: int) -> list[int]:
    return realigned(rest, token, is_stamp)


def test_another_word_takes_a_words_place() -> None:
    assert after([1, 2, 3], 9) == [2, 3]


def test_words_that_are_not_there_are_skipped() -> None:
    assert after([1, 2, 3, 4], 3) == [4]


def test_a_moved_timestamp_leaves_the_rest() -> None:
    assert after([105, 1, 2], 106) == [1, 2]


def test_a_pair_of_timestamps_moves_as_one() -> None:
    assert after([105, 105, 1], 107) == [107, 1]
    assert after([105, 109, 1], 107) == [109, 1]


def test_a_phrase_that_ends_earlier_begins_again_at_once() -> None:
    assert after([1, 2], 105) == [105, 1, 2]


def test_a_phrase_that_goes_on_swallows_the_timestamps() -> None:
    assert after([105, 105, 1, 2], 9) == [2]
    assert after([105], 9) == []


@given(st.lists(st.integers(0, 120), min_size=1, max_size=12), st.integers(0, 120))
def test_a_guess_is_never_much_longer_than_what_was_left(rest: list[int], token: int) -> None:
    if token != rest[0]:
        assert len(after(rest, token)) <= len(rest) + 1
