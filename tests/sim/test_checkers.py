"""The checkers' own judgement, where a simulated world seldom comes."""

import pytest

from streaming.events import CaptionWord, Final
from streaming.timeline import Span
from tests.sim.checkers import check_words
from tests.sim.script import SpokenWord
from tests.sim.watchers import Violation

SAID = Span(16_000, 20_096)
LIES = [Span(4_000, 16_000), Span(20_096, 40_000)]
"""An engine lied about what lies before the word and after it, to the sample."""


def _caption(number: int, text: str, span: Span) -> Final:
    words = (CaptionWord(text, span, 1.0, None),)
    return Final(number, f"c{number}", 0, span, text, "en", 1.0, None, words)


def _check(*captions: tuple[str, Span]) -> None:
    events = [_caption(seq, text, span) for seq, (text, span) in enumerate(captions, start=1)]
    check_words(events, 0, [SpokenWord("true", SAID, 0, SAID.end)], lies=LIES)


def test_a_word_at_the_edge_of_a_lie_is_heard() -> None:
    _check(("true", SAID))


def test_what_a_lie_made_up_at_its_edge_is_no_word() -> None:
    _check(("false", Span(16_000, 16_000)), ("true", SAID), ("wild", Span(20_096, 20_096)))


def test_a_word_at_the_edge_of_a_lie_must_come_once_and_in_place() -> None:
    with pytest.raises(Violation, match="lost"):
        _check(("wild", SAID))
    with pytest.raises(Violation, match="twice"):
        _check(("true", SAID), ("true", SAID))
    with pytest.raises(Violation, match="was said at"):
        _check(("true", Span(SAID.start, SAID.end + 1_000)))
