"""LocalAgreement-n and the place to cut speech that does not pause."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streaming.agreement import agreed_count, cut_point, normalized, stable_count
from streaming.engines import Word
from streaming.timeline import Span

WINDOW = Span(0, 320_000)
TEXTS = st.lists(st.sampled_from(["a", "b", "B.", "c"]), max_size=6)


def words(*parts: tuple[str, int, int]) -> list[Word]:
    return [Word(text, Span(start, end)) for text, start, end in parts]


def said(texts: list[str]) -> list[Word]:
    """The texts without pauses between them."""
    return words(*((text, 1_000 * i, 1_000 * (i + 1)) for i, text in enumerate(texts)))


@pytest.mark.parametrize(
    ("text", "same"),
    [("Budget.", "budget"), ("“Straße”", "STRASSE"), ("don't", "dont"), ("ﬁne", "fine")],
)
def test_case_and_punctuation_do_not_matter(text: str, same: str) -> None:
    assert normalized(text) == normalized(same)


def test_a_word_of_punctuation_stays_itself() -> None:
    assert normalized("…") == normalized("...")
    assert normalized("?") != normalized("!")


def test_only_the_leading_words_agree() -> None:
    assert agreed_count(said(["Alice", "will", "go"]), said(["alice", "will,", "no", "go"])) == 2
    assert agreed_count([], said(["a"])) == 0
    assert agreed_count(said(["a", "b"]), said(["a"])) == 1


@given(TEXTS, TEXTS)
def test_agreement_is_the_longest_common_prefix(old: list[str], new: list[str]) -> None:
    count = agreed_count(said(old), said(new))
    same = [normalized(a) == normalized(b) for a, b in zip(old, new, strict=False)]
    assert all(same[:count])
    assert count == len(same) or not same[count]


@given(st.lists(TEXTS, max_size=4), TEXTS, st.integers(1, 5))
def test_stable_words_are_in_each_of_the_last_hypotheses(
    earlier: list[list[str]], new: list[str], hypotheses: int
) -> None:
    count = stable_count([said(old) for old in earlier], said(new), hypotheses)
    compared = earlier[len(earlier) - (hypotheses - 1) :] if hypotheses > 1 else []
    if len(earlier) < hypotheses - 1:
        assert count == 0
    else:
        agreed = [agreed_count(said(old), said(new)) for old in compared]
        assert count == min([*agreed, len(new)])


def test_the_last_gap_is_cut_in_its_middle() -> None:
    newest = words(
        ("a", 0, 1_000), ("b", 5_000, 6_000), ("c", 9_200, 10_000), ("d", 10_100, 11_000)
    )
    assert cut_point(newest, newest, WINDOW) == (2, 7_600)


def test_a_gap_below_the_minimum_is_no_gap() -> None:
    newest = words(("a", 0, 1_000), ("b", 4_199, 6_000))
    assert cut_point(newest, [], WINDOW) == (1, 4_199)
    assert cut_point(newest, [], WINDOW, gap_samples_min=3_199) == (1, 2_599)


def test_without_a_gap_the_agreed_words_are_kept() -> None:
    newest = said(["one", "two", "three", "four"])
    assert cut_point(newest, said(["one", "two", "tree"]), WINDOW) == (2, 2_000)
    assert cut_point(newest, newest, WINDOW) == (4, 4_000)


def test_without_agreement_all_but_the_last_word_are_kept() -> None:
    assert cut_point(said(["one", "two", "three"]), said(["won"]), WINDOW) == (2, 2_000)


@pytest.mark.parametrize("texts", [[], ["one"]])
def test_without_two_words_there_is_no_place(texts: list[str]) -> None:
    assert cut_point(said(texts), [], WINDOW) is None


def test_a_place_outside_the_window_is_none() -> None:
    newest = words(("a", 0, 1_000), ("b", 9_000, 10_000))
    assert cut_point(newest, newest, Span(5_000, 320_000)) == (2, 10_000)
    assert cut_point(newest, [], Span(0, 4_000)) is None


@given(TEXTS, TEXTS, st.lists(st.integers(0, 5_000), min_size=6, max_size=6))
def test_a_cut_always_makes_progress_and_parts_the_words(
    old: list[str], new: list[str], gaps: list[int]
) -> None:
    newest, position = [], 1
    for text, gap in zip(new, gaps, strict=False):
        newest.append(Word(text, Span(position + gap, position + gap + 1_000)))
        position += gap + 1_000
    found = cut_point(newest, said(old), Span(0, position))
    if found is None:
        assert len(newest) < 2
        return
    kept, sample = found
    assert kept > 0
    assert 0 < sample <= position
    assert all(word.span.middle < sample for word in newest[:kept])
    assert all(word.span.middle >= sample for word in newest[kept:])
