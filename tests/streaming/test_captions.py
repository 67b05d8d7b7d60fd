"""CaptionBook: speakers of sent words and their revisions."""

from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streaming.captions import (
    CAPTIONS_MAX,
    CaptionBook,
    changed_runs,
    mean_confidence,
)
from streaming.engines import Word
from streaming.events import CaptionWord, SpeakerRun
from streaming.timeline import Span
from streaming.turns import Turn

SPEAKERS = st.sampled_from(["A", "B", None])


def spoken(*spans: tuple[int, int]) -> list[Word]:
    return [Word(f"w{i}", Span(*span), 0.5) for i, span in enumerate(spans)]


def caption_word(
    speaker: str | None, samples: int = 10, confidence: float | None = None
) -> CaptionWord:
    return CaptionWord("w", Span(0, samples), confidence, speaker)


def turn(start: int, end: int, speaker: str) -> Turn:
    return Turn(Span(start, end), speaker)


def sent(*spans: tuple[int, int], turns: Sequence[Turn] = (), book: CaptionBook) -> None:
    book.remember(f"c{spans[0][0]}", book.attributed(spoken(*spans), turns))


def test_words_keep_text_time_and_confidence_and_get_speakers() -> None:
    words = CaptionBook().attributed(
        [Word("a", Span(0, 100), 0.9, is_glued=True), Word("b", Span(200, 300))],
        [turn(0, 150, "A"), turn(150, 400, "B")],
    )
    assert words == (
        CaptionWord("a", Span(0, 100), 0.9, "A", is_glued=True),
        CaptionWord("b", Span(200, 300), None, "B"),
    )


def test_a_named_lane_speaks_for_itself() -> None:
    book = CaptionBook("Alice")
    assert book.named_speakers == set()
    sent((0, 10), turns=[turn(0, 10, "B")], book=book)
    assert book.named_speakers == {"Alice"}
    assert book.revise([turn(0, 10, "B")]) == []
    assert book.attributed(spoken((0, 10)), [])[0].speaker == "Alice"


def test_a_revision_names_only_words_that_changed_since_what_was_sent_last() -> None:
    book = CaptionBook()
    sent((0, 100), (100, 200), (200, 300), turns=[turn(0, 300, "A")], book=book)
    turns = [turn(0, 100, "A"), turn(100, 300, "B")]
    (change,) = book.revise(turns)
    assert (change.caption_id, change.rev, change.runs) == ("c0", 1, (SpeakerRun(1, 3, "B"),))
    assert book.revise(turns) == []
    (again,) = book.revise([turn(0, 300, "A")])
    assert (again.rev, again.runs) == (2, (SpeakerRun(1, 3, "A"),))


def test_a_name_is_not_taken_back_for_want_of_evidence() -> None:
    book = CaptionBook()
    sent((0, 100), turns=[turn(0, 100, "A")], book=book)
    assert book.revise([]) == []


def test_captions_that_end_before_the_horizon_stay_as_they_are() -> None:
    book = CaptionBook()
    sent((0, 100), book=book)
    sent((100, 200), book=book)
    turns = [turn(0, 200, "A")]
    assert [change.caption_id for change in book.revise(turns, since=100)] == ["c100"]
    assert [change.caption_id for change in book.revise(turns)] == ["c0"]


def test_a_caption_without_words_is_never_revised() -> None:
    book = CaptionBook()
    book.remember("c1", ())
    assert book.revise([turn(0, 100, "A")]) == []


def test_only_so_many_captions_are_remembered() -> None:
    book = CaptionBook(attribute=lambda words, turns: ["A" if turns else None] * len(words))
    for i in range(CAPTIONS_MAX + 5):
        sent((i, i + 1), book=book)
    changed = book.revise([turn(0, 1, "A")])
    assert (len(changed), changed[0].caption_id) == (CAPTIONS_MAX, "c5")


@given(pairs=st.lists(st.tuples(SPEAKERS, SPEAKERS), max_size=12))
def test_applying_the_runs_gives_the_new_speakers(
    pairs: list[tuple[str | None, str | None]],
) -> None:
    old, new = [a for a, _ in pairs], [b for _, b in pairs]
    runs = changed_runs(old, new)
    folded = list(old)
    for run in runs:
        assert all(old[i] != run.speaker for i in range(run.from_word, run.to_word))
        folded[run.from_word : run.to_word] = [run.speaker] * (run.to_word - run.from_word)
    assert folded == new
    for left, right in pairwise(runs):
        assert left.to_word < right.from_word or left.speaker != right.speaker


def test_the_mean_confidence_is_of_the_words_that_have_one() -> None:
    assert mean_confidence([caption_word("A")]) is None
    words = [caption_word("A", confidence=c) for c in (0.5, None, 1.0, 1.0)]
    assert mean_confidence(words) == pytest.approx(0.833)
