"""How far partials drift from finals, and when that asks for wider context."""

from hypothesis import given
from hypothesis import strategies as st

from streaming.engines import Word
from streaming.partials import (
    CONTEXT_WIDENING_MAX,
    EVIDENCE_WORDS_MIN,
    PartialContext,
    prefix_errors,
)
from streaming.timeline import Span

TEXTS = st.lists(st.sampled_from(["a", "b", "c"]), max_size=7)


def said(texts: list[str]) -> list[Word]:
    return [Word(text, Span(1_000 * i, 1_000 * (i + 1))) for i, text in enumerate(texts)]


def distance(left: list[str], right: list[str]) -> int:
    """Levenshtein's, as it is defined."""
    if not left or not right:
        return len(left) + len(right)
    return min(
        distance(left[1:], right) + 1,
        distance(left, right[1:]) + 1,
        distance(left[1:], right[1:]) + (left[0] != right[0]),
    )


@given(TEXTS.filter(lambda texts: len(texts) < 5), TEXTS.filter(lambda texts: len(texts) < 6))
def test_errors_are_the_distance_to_the_best_beginning(
    partial: list[str], final: list[str]
) -> None:
    least = min(distance(partial, final[:end]) for end in range(len(final) + 1))
    assert prefix_errors(said(partial), said(final)) == least


@given(TEXTS, TEXTS)
def test_a_final_that_goes_on_is_no_error(partial: list[str], more: list[str]) -> None:
    assert prefix_errors(said(partial), said([*partial, *more])) == 0


def compare(context: PartialContext, partial: list[str], final: list[str], times: int) -> None:
    for _ in range(times):
        context.compare(said(partial), said(final), 1_000 * len(final))


RIGHT = ["we", "will", "review", "the", "budget", "half"]
WRONG = ["we", "while", "view", "a", "budget", "half"]
ENOUGH = EVIDENCE_WORDS_MIN // (len(RIGHT) - 1)


def test_wrong_partials_widen_the_context_step_by_step_up_to_a_bound() -> None:
    context = PartialContext()
    compare(context, WRONG, RIGHT, ENOUGH - 1)
    assert context.widening == 0
    compare(context, WRONG, RIGHT, 1)
    assert context.widening == 1
    compare(context, WRONG, RIGHT, 10 * ENOUGH)
    assert context.widening == CONTEXT_WIDENING_MAX


def test_right_partials_change_nothing_and_nothing_goes_back() -> None:
    context = PartialContext()
    compare(context, RIGHT, RIGHT, 10 * ENOUGH)
    assert context.widening == 0
    compare(context, WRONG, RIGHT, ENOUGH)
    compare(context, RIGHT, RIGHT, 10 * ENOUGH)
    assert context.widening == 1


def test_right_partials_before_do_not_hide_wrong_ones() -> None:
    context = PartialContext()
    compare(context, RIGHT, RIGHT, 100 * ENOUGH)
    compare(context, WRONG, RIGHT, ENOUGH)
    assert context.widening == 1


def test_a_last_word_heard_by_half_is_no_evidence() -> None:
    context = PartialContext()
    compare(context, ["will"], ["we"], 10 * EVIDENCE_WORDS_MIN)
    assert context.widening == 0


def test_words_behind_the_cut_of_a_final_are_no_evidence() -> None:
    context = PartialContext()
    for _ in range(10 * EVIDENCE_WORDS_MIN):
        context.compare(said(RIGHT), said(RIGHT[:2]), 2_000)
    assert context.widening == 0
