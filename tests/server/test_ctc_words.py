"""CTC frames become the words and times that transformers' own decoding finds."""

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from server.engines.ctc_words import Vocabulary, collapse, read_words
from streaming.engines import Word
from streaming.timeline import Span
from tests.tiny_ctc import VOCABULARY, save_tokenizer

FRAME_SAMPLES = 320
LETTERS = Vocabulary(("", "", "", *"ABCDEFGH"), blank=0, delimiter=2)


def frames(symbols: str, sure: float = 0.9) -> NDArray[np.float32]:
    """Log-probabilities whose best path is ``symbols``; ``_`` is the blank, ``?`` unknown."""
    ids = ["_?|ABCDEFGH".index(symbol) for symbol in symbols]
    rest = (1 - sure) / (len(LETTERS.texts) - 1)
    rows = np.full((len(ids), len(LETTERS.texts)), math.log(rest), np.float32)
    rows[np.arange(len(ids)), ids] = math.log(sure)
    return rows


def words(symbols: str, vocabulary: Vocabulary = LETTERS, *, glued: bool = False) -> list[Word]:
    return list(
        read_words(
            frames(symbols),
            vocabulary,
            frame_samples=FRAME_SAMPLES,
            window_samples=len(symbols) * FRAME_SAMPLES,
            is_unspaced=glued,
        )
    )


def said(symbols: str) -> list[tuple[str, int, int]]:
    """Words with their first frame and the one after their last."""
    return [
        (word.text, word.span.start // FRAME_SAMPLES, word.span.end // FRAME_SAMPLES)
        for word in words(symbols)
    ]


@pytest.mark.parametrize(
    ("symbols", "expected"),
    [
        ("", []),
        ("____", []),
        ("||||", []),
        ("AAA", [("A", 0, 3)]),
        ("_AA_A_", [("AA", 1, 5)]),  # a blank keeps a doubled letter
        ("AAAA", [("A", 0, 4)]),  # without one it is one letter
        ("_BB_A_CCC__", [("BAC", 1, 9)]),
        ("AB|_C_", [("AB", 0, 2), ("C", 4, 5)]),
        ("A_||_|_B", [("A", 0, 1), ("B", 7, 8)]),
        ("|A|", [("A", 1, 2)]),
        ("A?B", [("AB", 0, 3)]),
        ("A|?|B", [("A", 0, 1), ("B", 4, 5)]),
        ("A_|_A", [("A", 0, 1), ("A", 4, 5)]),
    ],
)
def test_repeats_blanks_and_delimiters(symbols: str, expected: list[tuple[str, int, int]]) -> None:
    assert said(symbols) == expected


def test_a_tokens_frames_and_its_peak_are_kept() -> None:
    rows = frames("_AAB")
    rows[2, 3] = math.log(0.95)
    first, second = collapse(rows, blank=0)
    assert (first.token, first.start, first.end) == (3, 1, 3)
    assert first.log_probability == pytest.approx(math.log(0.95))
    assert (second.token, second.start, second.end) == (4, 3, 4)


def test_confidence_is_the_geometric_mean_of_the_peaks() -> None:
    rows = np.concatenate([frames("AA", 0.4), frames("A", 0.9), frames("_", 0.2), frames("B", 0.4)])
    (word,) = read_words(
        rows, LETTERS, frame_samples=1, window_samples=len(rows), is_unspaced=False
    )
    assert word.confidence == pytest.approx(math.sqrt(0.9 * 0.4), abs=1e-4)


def test_numbers_that_are_none_are_no_confidence() -> None:
    rows = frames("A")
    rows[0, 3] = np.inf
    (word,) = read_words(rows, LETTERS, frame_samples=1, window_samples=1, is_unspaced=False)
    assert word.confidence == 0.0


def test_without_spaces_each_character_is_a_word_glued_to_the_one_before() -> None:
    found = words("A_B|CC", glued=True)
    assert [(w.text, w.is_glued) for w in found] == [("A", False), ("B", True), ("C", False)]
    assert [w.span for w in found] == [Span(0, 320), Span(640, 960), Span(1280, 1920)]


def test_a_checkpoint_that_writes_small_letters_does() -> None:
    small = Vocabulary(LETTERS.texts, LETTERS.blank, LETTERS.delimiter, is_lowered=True)
    assert [word.text for word in words("A_B", small)] == ["ab"]


def test_the_last_frame_ends_with_the_window() -> None:
    (word,) = read_words(
        frames("A"), LETTERS, frame_samples=320, window_samples=300, is_unspaced=False
    )
    assert word.span == Span(0, 300)


@given(st.text("_|ABC", max_size=40), st.booleans())
def test_words_are_in_order_inside_the_window_and_never_empty(symbols: str, glued: bool) -> None:
    found = words(symbols, glued=glued)
    bounds = [edge for word in found for edge in (word.span.start, word.span.end)]
    assert bounds == sorted(bounds)
    assert all(word.text and word.span.samples > 0 for word in found)
    assert not bounds or bounds[-1] <= len(symbols) * FRAME_SAMPLES


@pytest.mark.slow
def test_words_and_times_equal_those_of_transformers(tmp_path: Path) -> None:
    tokenizer = save_tokenizer(tmp_path)
    vocabulary = Vocabulary(("", "", *VOCABULARY[2:]), blank=0, delimiter=2)
    rng = np.random.default_rng(7)
    for _ in range(200):
        ids = rng.choice([0, 2, 3, 4, 5], rng.integers(1, 60), p=[0.4, 0.15, 0.15, 0.15, 0.15])
        rows = np.log(np.eye(len(VOCABULARY), dtype=np.float32)[ids] * 0.9 + 0.005)
        found = read_words(
            rows, vocabulary, frame_samples=1, window_samples=len(ids), is_unspaced=False
        )
        theirs = tokenizer.decode(ids.tolist(), output_word_offsets=True)
        assert [(w.text, w.span.start, w.span.end) for w in found] == [
            (w["word"], w["start_offset"], w["end_offset"]) for w in theirs.word_offsets
        ]
        assert " ".join(w.text for w in found) == " ".join(theirs.text.split())
