"""Both attribution rules: the worked example, the ties, and what the published rule got wrong."""

from collections.abc import Callable, Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streaming.attribution import (
    DISTANCE_SAMPLES_MAX,
    attribute_by_overlap,
    attribute_by_segment,
)
from streaming.timeline import Span, samples_from_seconds
from streaming.turns import Turn

Rule = Callable[[Sequence[Span], Sequence[Turn]], list[str | None]]
both_rules = pytest.mark.parametrize("rule", [attribute_by_overlap, attribute_by_segment])


def span(start: float, end: float) -> Span:
    return Span(samples_from_seconds(start), samples_from_seconds(end))


def turn(start: float, end: float, speaker: str) -> Turn:
    return Turn(span(start, end), speaker)


def between(*times: float) -> list[Span]:
    return [span(start, end) for start, end in pairwise(times)]


def letters(speakers: Sequence[str | None]) -> str:
    return "".join(speaker or "-" for speaker in speakers)


@both_rules
def test_worked_example(rule: Rule) -> None:
    turns = [turn(0.498, 14.521, "A"), turn(15.365, 21.372, "B")]
    chunks = between(0.0, 3.56, 7.84, 13.88, 15.48, 19.44, 21.28)
    assert letters(rule(chunks, turns)) == "AAAABB"


@both_rules
def test_no_turns_and_no_words(rule: Rule) -> None:
    assert rule(between(0, 1, 2), []) == [None, None]
    assert rule([], [turn(0, 1, "A")]) == []


@both_rules
def test_more_turns_than_words(rule: Rule) -> None:
    turns = [turn(i, i + 1, "AB"[i % 2]) for i in range(10)]
    assert letters(rule([span(0.1, 0.9), span(8.1, 8.9)], turns)) == "AA"


@both_rules
def test_words_without_length(rule: Rule) -> None:
    words = [span(at, at) for at in (0.5, 1.5, 2.5, 3.5)]
    assert letters(rule(words, [turn(0, 2, "A"), turn(2, 4, "B")])) == "AABB"


@both_rules
def test_one_bad_boundary_shifts_no_later_turn(rule: Rule) -> None:
    words = [span(i, i + 1) for i in range(12)]
    good = [turn(0, 3, "A"), turn(3, 6, "B"), turn(6, 9, "A"), turn(9, 12, "B")]
    bad = [turn(0, 5, "A"), turn(5, 6, "B"), *good[2:]]
    assert letters(rule(words, good)) == "AAABBBAAABBB"
    assert letters(rule(words, bad)) == "AAAAABAAABBB"


def test_overlap_takes_the_largest_and_of_equals_the_earlier() -> None:
    turns = [turn(0, 1, "A"), turn(1, 2, "B")]
    assert attribute_by_overlap([span(0.6, 1.3)], turns) == ["A"]
    assert attribute_by_overlap([span(0.7, 1.4)], turns) == ["B"]
    assert attribute_by_overlap([span(0.5, 1.5)], turns) == ["A"]


def test_a_word_in_a_pause_goes_to_the_turn_at_minimum_distance() -> None:
    turns = [turn(0, 1, "A"), turn(3, 4, "B")]
    assert attribute_by_overlap([span(1.2, 1.8)], turns) == ["A"]
    assert attribute_by_overlap([span(2.2, 2.8)], turns) == ["B"]
    assert attribute_by_overlap([span(1.5, 2.5)], turns) == ["A"]


def test_a_word_too_far_from_every_turn_has_no_speaker() -> None:
    turns = [turn(0, 1, "A")]
    far = Span(16_000 + DISTANCE_SAMPLES_MAX, 60_000)
    assert attribute_by_overlap([far], turns) == ["A"]
    assert attribute_by_overlap([far.shifted(1)], turns) == [None]
    assert attribute_by_overlap([span(0.2, 0.6), far.shifted(1)], turns) == ["A", None]


def test_a_lone_short_word_with_a_small_lead_stays_with_its_neighbours() -> None:
    turns = [turn(0, 1, "A"), turn(1, 1.22, "B"), turn(1.22, 3, "A")]
    words = [span(0.2, 0.8), span(0.9, 1.28), span(1.3, 1.9)]
    # 0.22 s of B against 0.10 s of A.
    assert letters(attribute_by_overlap(words, turns)) == "AAA"
    assert letters(attribute_by_overlap(words, turns, margin_samples_max=0)) == "ABA"
    assert letters(attribute_by_overlap(words, turns, lone_word_samples_max=0)) == "ABA"


def test_a_clear_interjection_keeps_its_speaker() -> None:
    turns = [turn(0, 1, "A"), turn(1.1, 1.5, "B"), turn(1.6, 3, "A")]
    words = [span(0.2, 0.9), span(1.15, 1.45), span(1.7, 2.4)]
    assert letters(attribute_by_overlap(words, turns)) == "ABA"


def test_a_word_at_a_change_of_speaker_is_not_lone() -> None:
    turns = [turn(0, 1, "A"), turn(1, 2, "B"), turn(2, 3, "C")]
    words = [span(0.2, 0.6), span(0.9, 1.2), span(2.2, 2.6)]
    assert letters(attribute_by_overlap(words, turns)) == "ABC"


def test_overlapped_speech_goes_to_the_turn_that_covers_more() -> None:
    turns = [turn(0, 10, "A"), turn(4, 4.3, "B")]
    assert attribute_by_overlap([span(4, 4.6)], turns) == ["A"]


def test_segment_merges_turns_of_one_speaker_and_ends_each_where_the_next_begins() -> None:
    turns = [turn(0, 1, "A"), turn(2, 3, "A"), turn(5.2, 8, "B")]
    assert letters(attribute_by_segment(between(0, 1, 4, 5, 6, 7), turns)) == "AAABB"


def test_segment_of_two_equally_near_ends_takes_the_earlier() -> None:
    turns = [turn(0, 2, "A"), turn(2.5, 5, "B")]
    assert letters(attribute_by_segment(between(0, 1, 2, 3, 4), turns)) == "AABB"


def test_segment_may_leave_the_first_turn_without_words() -> None:
    turns = [turn(0, 1, "A"), turn(1.5, 9, "B")]
    assert letters(attribute_by_segment([span(3, 6), span(6, 7)], turns)) == "BB"


spans = st.builds(
    lambda start, samples: Span(start, start + samples),
    st.integers(0, 200_000),
    st.integers(0, 20_000),
)
words_in_order = st.lists(spans, max_size=12).map(sorted)
some_turns = st.lists(st.builds(Turn, spans, st.sampled_from(["A", "B", "C"])), max_size=8)


@both_rules
@given(words=words_in_order, turns=some_turns, samples=st.integers(0, 10**9))
def test_only_differences_of_times_count(
    rule: Rule, words: list[Span], turns: list[Turn], samples: int
) -> None:
    moved = [Turn(t.span.shifted(samples), t.speaker) for t in turns]
    assert rule([w.shifted(samples) for w in words], moved) == rule(words, turns)


@both_rules
@given(words=words_in_order, turns=some_turns)
def test_every_word_gets_one_answer_among_the_speakers(
    rule: Rule, words: list[Span], turns: list[Turn]
) -> None:
    speakers = rule(words, turns)
    assert len(speakers) == len(words)
    assert set(speakers) <= {t.speaker for t in turns} | {None}


@both_rules
@given(words=words_in_order, turns=some_turns, data=st.data())
def test_the_order_of_turns_does_not_matter(
    rule: Rule, words: list[Span], turns: list[Turn], data: st.DataObject
) -> None:
    assert rule(words, data.draw(st.permutations(turns))) == rule(words, turns)


@given(words_in_order, some_turns)
def test_segment_names_every_word_once_somebody_spoke(words: list[Span], turns: list[Turn]) -> None:
    assert not turns or None not in attribute_by_segment(words, turns)
