"""From Whisper's tokens and their times to words. Pure: numpy only, no torch.

Invariants: words are in time order, inside the window, never empty, free of U+FFFD, and their
times are finite whatever the attention holds.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streaming.engines import Word
from streaming.timeline import SAMPLE_RATE_HZ, Span

POSITION_SAMPLES = 320
"""20 ms: one encoder position."""
UNSPACED_LANGUAGES = frozenset({"zh", "ja", "th", "lo", "my", "yue"})
"""Written without spaces between words, so that each character group is a word of its own."""
LONG_WORD_FACTOR = 2
MEDIAN_WORD_SAMPLES_MAX = 7 * SAMPLE_RATE_HZ // 10
_REPLACEMENT = "\ufffd"
_OPENING = "\"'“‘¿([{-「『（《"
_CLOSING = "\"'”’.。,，、!！?？:：;；)]}%…」』）》"
_SENTENCE_ENDS = ".。!！?？"

Decode = Callable[[Sequence[int]], str]


@dataclass(frozen=True, slots=True)
class Piece:
    """The text of some consecutive tokens."""

    text: str
    """As decoded, with the space before it where there is one."""
    tokens: int


def split_words(tokens: Sequence[int], decode: Decode, language: str | None) -> list[Piece]:
    """Groups text tokens into words with their punctuation; the pieces cover all tokens."""
    words: list[Piece] = []
    for piece in _characters(tokens, decode):
        if words and not _starts_word(words[-1].text, piece.text, language):
            words[-1] = Piece(words[-1].text + piece.text, words[-1].tokens + piece.tokens)
        else:
            words.append(piece)
    return words


def _characters(tokens: Sequence[int], decode: Decode) -> list[Piece]:
    """The smallest token groups that hold whole characters; a broken tail is one group."""
    pieces: list[Piece] = []
    start = 0
    for end in range(1, len(tokens) + 1):
        text = decode(tokens[start:end])
        # A character of four bytes takes at most four tokens; after that it is truly broken.
        if _REPLACEMENT not in text or end - start >= 4 or end == len(tokens):
            pieces.append(Piece(text, end - start))
            start = end
    return pieces


def _starts_word(before: str, text: str, language: str | None) -> bool:
    mark = text.strip()
    if mark and all(character in _CLOSING for character in mark) and not text.startswith(" "):
        return False
    if all(character in _OPENING for character in before.strip()):
        return False
    return text.startswith(" ") or (language or "") in UNSPACED_LANGUAGES


def place_words(
    pieces: Sequence[Piece],
    bounds: NDArray[np.int64],
    log_probabilities: NDArray[np.float32],
    window_samples: int,
    language: str | None,
) -> tuple[Word, ...]:
    """Words with times and confidence.

    ``bounds``: positions at which each token starts and ends, shape (tokens, 2);
    ``log_probabilities``: shape (tokens,).
    """
    ends_at = np.cumsum([0, *(piece.tokens for piece in pieces)])
    starts, ends = bounds[ends_at[:-1], 0], bounds[ends_at[1:] - 1, 1]
    spans = _bounded(starts * POSITION_SAMPLES, ends * POSITION_SAMPLES, pieces, window_samples)
    words: list[Word] = []
    for index, (piece, span) in enumerate(zip(pieces, spans, strict=True)):
        text = piece.text.replace(_REPLACEMENT, "").strip()
        if not text:
            continue
        is_glued = bool(words) and not piece.text.startswith(" ") and _is_unspaced(language)
        own = log_probabilities[ends_at[index] : ends_at[index + 1]]
        words.append(Word(text, span, confidence(own), is_glued))
    return tuple(words)


def _is_unspaced(language: str | None) -> bool:
    return language in UNSPACED_LANGUAGES


def confidence(log_probabilities: NDArray[np.float32]) -> float:
    """exp of the mean log-probability, 0 to 1; 0 where the model gave no number."""
    if not len(log_probabilities) or not np.isfinite(log_probabilities).all():
        return 0.0
    return round(min(1.0, float(np.exp(log_probabilities.mean()))), 4)


def _bounded(
    starts: NDArray[np.int64], ends: NDArray[np.int64], pieces: Sequence[Piece], samples: int
) -> list[Span]:
    """Spans inside the window and in order, long words cut at sentence ends.

    Attention puts the silence between two sentences into the word next to it
    (whisper/timing.py, ``add_word_timestamps``, which cuts them the same way).
    """
    starts = np.clip(np.maximum.accumulate(starts), 0, samples)
    ends = np.clip(np.maximum(ends, starts), 0, samples)
    lengths = ends - starts
    spoken = lengths[lengths > 0]
    median = min(MEDIAN_WORD_SAMPLES_MAX, int(np.median(spoken))) if len(spoken) else 0
    longest = max(POSITION_SAMPLES, LONG_WORD_FACTOR * median)
    spans: list[Span] = []
    for index in range(len(pieces)):
        start, end = int(starts[index]), int(ends[index])
        if end - start > longest and (index == 0 or _ends_sentence(pieces[index - 1])):
            start = end - longest
        elif end - start > longest and _ends_sentence(pieces[index]):
            end = start + longest
        # A word of no length could overlap no speaker's turn.
        end = min(samples, max(end, start + POSITION_SAMPLES))
        spans.append(Span(min(start, max(0, end - POSITION_SAMPLES)), end))
    return spans


def _ends_sentence(piece: Piece) -> bool:
    return piece.text.rstrip().endswith(tuple(_SENTENCE_ENDS))
