"""Tokens and attention become words that are whole, in order, finite and inside the window."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from server.engines.whisper_alignment import token_starts
from server.engines.whisper_words import (
    POSITION_SAMPLES,
    Piece,
    confidence,
    place_words,
    split_words,
)

BYTES = {index: bytes([index]) for index in range(256)}


def decode(tokens: Sequence[int]) -> str:
    """A byte-level vocabulary without merges: the hardest case for whole characters."""
    return b"".join(BYTES[token] for token in tokens).decode(errors="replace")


def words_of(text: str, language: str | None = "en") -> list[str]:
    return [piece.text for piece in split_words(list(text.encode()), decode, language)]


@pytest.mark.parametrize(
    ("text", "language", "words"),
    [
        (" Yes, I do.", "en", [" Yes,", " I", " do."]),
        (" the “budget” (mine)", "en", [" the", " “budget”", " (mine)"]),
        ("你好,世界。", "zh", ["你", "好,", "世", "界。"]),
        (" 한국어 말", "ko", [" 한국어", " 말"]),
        ("ok", None, ["ok"]),
        ("", "en", []),
    ],
)
def test_words_keep_their_punctuation(text: str, language: str | None, words: list[str]) -> None:
    assert words_of(text, language) == words


@given(st.lists(st.integers(0, 255), max_size=40), st.sampled_from(["en", "zh", None]))
def test_pieces_cover_all_tokens_whatever_they_are(tokens: list[int], language: str | None) -> None:
    pieces = split_words(tokens, decode, language)
    assert sum(piece.tokens for piece in pieces) == len(tokens)


def edges(starts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Each token ends where the next one starts; the last start is that of the end."""
    return np.stack([starts[:-1], starts[1:]], axis=1)


@given(
    st.lists(st.sampled_from([" one", " two.", "three", " \ufffd", " "]), max_size=8),
    st.integers(1_600, 480_000),
    st.sampled_from([0.0, 0.01, np.nan, np.inf, -np.inf]),
    st.integers(0, 2**32 - 1),
)
def test_words_are_in_order_inside_and_finite(
    texts: list[str], samples: int, poison: float, seed: int
) -> None:
    random = np.random.default_rng(seed)
    attention = random.random((2, len(texts) + 1, samples // POSITION_SAMPLES)).astype(np.float32)
    attention[0, 0, 0] = poison
    scores = np.full(len(texts), poison, np.float32)
    pieces = [Piece(text, 1) for text in texts]
    words = place_words(pieces, edges(token_starts(attention)), scores, samples, "en")
    starts = [word.span.start for word in words]
    assert starts == sorted(starts)
    assert all(word.span.samples > 0 and word.span.end <= samples for word in words)
    assert all(word.text and "\ufffd" not in word.text for word in words)
    assert all(word.confidence is not None and 0 <= word.confidence <= 1 for word in words)


def test_a_pause_between_sentences_belongs_to_no_word() -> None:
    pieces = [Piece(text, 1) for text in (" one", " two.", " three", " four")]
    starts = np.array([0, 20, 40, 200, 220])
    words = place_words(
        pieces, edges(starts), np.zeros(4, np.float32), 220 * POSITION_SAMPLES, "en"
    )
    assert [word.span.start // POSITION_SAMPLES for word in words] == [0, 20, 160, 200]


def test_words_of_unspaced_languages_are_glued() -> None:
    pieces = [Piece("你", 1), Piece("好", 1)]
    starts = np.array([0, 5, 10])
    words = place_words(pieces, edges(starts), np.zeros(2, np.float32), 10 * POSITION_SAMPLES, "zh")
    assert [word.is_glued for word in words] == [False, True]


def test_confidence_is_the_mean_probability_of_the_tokens() -> None:
    assert confidence(np.log(np.array([0.25, 1.0], np.float32))) == 0.5
    assert confidence(np.array([], np.float32)) == 0.0
