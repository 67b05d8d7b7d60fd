"""Each kind of mistake is found, counted, and not taken for another."""

import dataclasses

import pytest

from load_tests.oracle import FinalWord, Mistakes, find_mistakes

EXPECTED = [("w0.5", 8_000), ("w1.5", 16_000), ("w2.5", 24_000)]


def said(*words: str) -> list[FinalWord]:
    starts = dict(EXPECTED)
    return [FinalWord(text, starts.get(text, 0) / 16_000, 0.0) for text in words]


@pytest.mark.parametrize(
    ("words", "mistakes"),
    [
        (("w0.5", "w1.5", "w2.5"), Mistakes()),
        (("w0.5", "w2.5"), Mistakes(lost=1)),
        ((), Mistakes(lost=3)),
        (("w0.5", "w1.5", "w1.5", "w1.5", "w2.5"), Mistakes(doubled=2)),
        (("w0.5", "w2.5", "w1.5"), Mistakes(out_of_order=1)),
        (("w0.5", "w1.5", "w2.6"), Mistakes(lost=1, misrouted=1)),
        (("w0.5", "w1.5", "?w2.5"), Mistakes(lost=1, changed=1)),
        (("w0.5", "w1.5", "w2.5", "w3.5"), Mistakes(changed=1)),
        (("w0.5", "w1.5", "w2.5", "w9.7", "w9.7"), Mistakes(misrouted=2)),
    ],
)
def test_mistakes_in_finals(words: tuple[str, ...], mistakes: Mistakes) -> None:
    assert find_mistakes(5, EXPECTED, said(*words)) == mistakes


def test_a_word_at_the_wrong_place_is_mistimed() -> None:
    finals = [*said("w0.5", "w1.5"), FinalWord("w2.5", 1.51, 0.0)]
    assert find_mistakes(5, EXPECTED, finals) == Mistakes(mistimed=1)


def test_a_partial_may_be_wrong_but_never_anothers() -> None:
    finals = said("w0.5", "w1.5", "w2.5")
    assert find_mistakes(5, EXPECTED, finals, ["?w2.5", "w0.5"]) == Mistakes()
    assert find_mistakes(5, EXPECTED, finals, ["w0.6"]) == Mistakes(misrouted=1)


def test_a_foreign_word_in_partial_and_final_counts_once() -> None:
    finals = [*said("w0.5", "w1.5", "w2.5"), FinalWord("w0.6", 0.0, 0.0)]
    assert find_mistakes(5, EXPECTED, finals, ["w0.6"]) == Mistakes(misrouted=1)


def test_mistakes_add_up() -> None:
    total = Mistakes(1, 2, 3, 4, 5, 6) + Mistakes(1, 1, 1, 1, 1, 1)
    assert dataclasses.astuple(total) == (2, 3, 4, 5, 6, 7)
