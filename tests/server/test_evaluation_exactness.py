"""The comparison of finals counts what is equal, what a guard touched and what was too close."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest

from server.evaluation.exactness import Exactness, compare_finals, first_difference
from streaming.engines import Hypothesis, SpeechWindow


@dataclass
class Ours:
    """Answers the window's draft, so that a test says what is decoded; seed 9 fires a guard."""

    batches: list[int] = field(default_factory=list)

    def task(self, window: SpeechWindow, language: str | None) -> str:
        return f"{window.prompt} in {language}"

    def recognize(self, windows: Sequence[SpeechWindow]) -> list[Hypothesis]:
        self.batches.append(len(windows))
        return [
            Hypothesis((), "en", tokens=w.draft, guards=("repetition",) if w.seed == 9 else ())
            for w in windows
        ]


@dataclass
class Theirs:
    margin_of_all: float
    asked: list[tuple[Sequence[int], int | None, int | None]] = field(default_factory=list)

    def tokens(self, window: SpeechWindow, task: str, language: str | None) -> list[int]:
        assert task == f"{window.prompt} in {language}"
        return [1, 2, 3]

    def margin(
        self,
        window: SpeechWindow,
        task: str,
        before: Sequence[int],
        ours: int | None,
        theirs: int | None,
    ) -> float:
        self.asked.append((before, ours, theirs))
        return self.margin_of_all


def decoded(*tokens: int, seed: int = 0) -> SpeechWindow:
    return SpeechWindow(np.zeros(0, np.int16), draft=tokens, seed=seed)


def compared(*windows: SpeechWindow, margin: float = 1.0) -> tuple[Exactness, Theirs]:
    reference = Theirs(margin)
    return compare_finals(Ours(), reference, windows), reference


def test_equal_finals_are_proof() -> None:
    report, _ = compared(*[decoded(1, 2, 3)] * 3)
    assert (report.windows, report.equal, report.tokens) == (3, 3, 9)
    assert report.is_proven


@pytest.mark.parametrize(
    ("tokens", "asked"),
    [
        ((1, 7, 3), ([1], 7, 2)),
        ((1, 2), ([1, 2], None, 3)),
        ((1, 2, 3, 4), ([1, 2, 3], 4, None)),
    ],
)
def test_a_difference_is_judged_where_it_begins(
    tokens: tuple[int, ...], asked: tuple[list[int], int | None, int | None]
) -> None:
    report, reference = compared(decoded(1, 2, 3), decoded(*tokens))
    assert reference.asked == [asked]
    assert [m.window for m in report.failures] == [1]
    assert not report.is_proven


def test_a_difference_too_close_to_call_is_counted_and_excused() -> None:
    report, _ = compared(decoded(1, 7, 3), margin=5e-5)
    assert len(report.mismatches) == 1
    assert report.is_proven


def test_guarded_finals_are_not_compared_but_must_be_few() -> None:
    many, _ = compared(*[decoded(1, 2, 3)] * 49, decoded(7, seed=9))
    assert (many.guarded, many.equal) == (1, 49)
    assert many.is_proven
    few, _ = compared(decoded(1, 2, 3), decoded(7, seed=9))
    assert not few.is_proven


def test_no_windows_are_no_proof() -> None:
    assert not compared()[0].is_proven


def test_windows_go_in_batches() -> None:
    ours = Ours()
    compare_finals(ours, Theirs(1.0), [decoded(1, 2, 3)] * 11)
    assert ours.batches == [8, 3]


def test_equal_transcripts_differ_nowhere() -> None:
    assert first_difference([1, 2], (1, 2)) is None
