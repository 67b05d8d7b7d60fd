"""Events are values: comparable, unchangeable, and their text follows from their words."""

from dataclasses import FrozenInstanceError

import pytest

from streaming.events import (
    CaptionWord,
    Gap,
    GapReason,
    ServerPart,
    SessionStage,
    main_speaker,
    text_of,
)
from streaming.timeline import Span


def word(text: str, *, is_glued: bool = False) -> CaptionWord:
    return CaptionWord(text, Span(0, 1), None, None, is_glued)


def test_words_are_joined_by_spaces_except_where_glued() -> None:
    assert text_of((word("Alice"), word("will"), word("go."))) == "Alice will go."
    assert text_of((word("今日", is_glued=True), word("は", is_glued=True))) == "今日は"
    assert text_of((word("don"), word("'t", is_glued=True), word("go"))) == "don't go"
    assert text_of(()) == ""


def test_an_event_cannot_be_changed() -> None:
    gap = Gap(1, 0, Span(0, 16), GapReason.OVERLOAD)
    with pytest.raises(FrozenInstanceError):
        gap.seq = 2  # type: ignore[misc]
    assert gap == Gap(1, 0, Span(0, 16), GapReason.OVERLOAD)


def test_reasons_and_stages_are_the_words_of_the_wire() -> None:
    assert {str(reason) for reason in GapReason} == {"engine_failed", "overload"}
    assert {str(stage) for stage in SessionStage} == {"vad", "asr", "diarizer"}
    assert {str(part) for part in ServerPart} == {"store"}


def said(speaker: str | None, samples: int) -> CaptionWord:
    return CaptionWord("w", Span(0, samples), None, speaker)


def test_the_main_speaker_says_most_by_time() -> None:
    assert main_speaker([]) is None
    assert main_speaker([said(None, 99)]) is None
    words = [
        said("A", 5),
        said("B", 9),
        said("A", 5),
        said(None, 99),
    ]
    assert main_speaker(words) == "A"
    assert main_speaker([said("B", 5), said("A", 5)]) == "B"
    assert main_speaker([said("B", 0)]) == "B"
