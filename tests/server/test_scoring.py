"""Word and speaker errors with known answers."""

import pytest

from server.scoring import (
    diarization_error_rate,
    normalized,
    turns_of_words,
    word_error_rate,
)
from streaming.events import CaptionWord
from streaming.timeline import Span
from streaming.turns import Turn

SECOND = 16_000


def turn(start_s: float, end_s: float, speaker: str) -> Turn:
    return Turn(Span(round(start_s * SECOND), round(end_s * SECOND)), speaker)


def word(start_s: float, end_s: float, speaker: str | None) -> CaptionWord:
    return CaptionWord("x", Span(round(start_s * SECOND), round(end_s * SECOND)), None, speaker)


def test_spelling_does_not_count() -> None:
    assert normalized("It's  DONE, isn't it?") == "it's done isn't it"
    assert word_error_rate("It is done.", "it is DONE") == 0


@pytest.mark.parametrize(
    ("hypothesis", "rate"),
    [("a b c d", 0.0), ("a x c d", 0.25), ("a b c", 0.25), ("a b c d e", 0.25), ("", 1.0)],
)
def test_word_errors_per_reference_word(hypothesis: str, rate: float) -> None:
    assert word_error_rate("a b c d", hypothesis) == rate


def test_words_of_one_speaker_become_turns() -> None:
    spoken = [word(0, 1, "S1"), word(1.4, 2, "S1"), word(2, 3, "S2"), word(3, 4, None)]
    assert turns_of_words([*spoken, word(5, 6, "S1")]) == [
        turn(0, 2, "S1"),
        turn(2, 3, "S2"),
        turn(5, 6, "S1"),
    ]


@pytest.mark.slow
def test_speaker_errors() -> None:
    reference = [turn(0, 6, "Ann"), turn(6, 10, "Ben")]
    assert diarization_error_rate(reference, [turn(0, 6, "S2"), turn(6, 10, "S1")]) == 0
    assert diarization_error_rate(reference, [turn(0, 10, "S1")]) == pytest.approx(0.4)
    assert diarization_error_rate(reference, [turn(0, 6, "S1")]) == pytest.approx(0.4)
