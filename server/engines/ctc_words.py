"""From a CTC model's frames to words with times. Pure: numpy only, no torch.

Greedy decoding (Graves et al. 2006, section 3.2): the best token of each frame, repeats merged,
blanks dropped. A token's time is that of its own frames, and a word's from its first token's first
frame to its last token's last one: nothing is guessed. Texts and times are those of transformers'
``Wav2Vec2CTCTokenizer.decode(output_word_offsets=True)``.
A word's confidence is the geometric mean of its tokens' probabilities, each taken where it peaks:
CTC spends most frames of a sound on blanks, so that a mean over frames would say little.
Invariants: words are in time order, inside the window, and never empty.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from streaming.engines import Word
from streaming.timeline import Span

REPLACEMENT = "\ufffd"


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """What each output of the model stands for."""

    texts: tuple[str, ...]
    """Of each token id; of those that write nothing, the empty text."""
    blank: int
    delimiter: int | None
    """The token between words, mostly ``|``; None where the checkpoint has none."""
    is_lowered: bool = False
    """True where the checkpoint's tokenizer writes its capitals small."""


@dataclass(frozen=True, slots=True)
class TimedToken:
    """One token and the consecutive frames that say it."""

    token: int
    start: int
    end: int
    """The frame after its last."""
    log_probability: float
    """At the best of its frames."""


def collapse(log_probabilities: NDArray[np.float32], blank: int) -> list[TimedToken]:
    """Best path: one entry per run of equal tokens, without blanks.

    ``log_probabilities``: shape (frames, tokens). A blank between two equal tokens keeps both.
    """
    best = log_probabilities.argmax(axis=1)
    tokens: list[TimedToken] = []
    start = 0
    for token, run in groupby(best.tolist()):
        end = start + sum(1 for _ in run)
        if token != blank:
            peak = float(log_probabilities[start:end, token].max())
            tokens.append(TimedToken(int(token), start, end, peak))
        start = end
    return tokens


def read_words(
    log_probabilities: NDArray[np.float32],
    vocabulary: Vocabulary,
    *,
    frame_samples: int,
    window_samples: int,
    is_unspaced: bool,
) -> tuple[Word, ...]:
    """``is_unspaced``: each token is a word of its own, glued to the one before."""
    tokens = collapse(log_probabilities, vocabulary.blank)
    words: list[Word] = []
    for group in _between_delimiters(tokens, vocabulary.delimiter):
        for index, part in enumerate([[token] for token in group] if is_unspaced else [group]):
            text = _text(part, vocabulary)
            if text:
                span = _span(part, frame_samples, window_samples)
                words.append(Word(text, span, _confidence(part), is_glued=index > 0))
    return tuple(words)


def _between_delimiters(
    tokens: Sequence[TimedToken], delimiter: int | None
) -> Iterable[list[TimedToken]]:
    for is_delimiter, group in groupby(tokens, key=lambda token: token.token == delimiter):
        if not is_delimiter:
            yield list(group)


def _text(tokens: Sequence[TimedToken], vocabulary: Vocabulary) -> str:
    text = "".join(vocabulary.texts[token.token] for token in tokens)
    text = text.replace(REPLACEMENT, "").strip()
    return text.lower() if vocabulary.is_lowered else text


def _span(tokens: Sequence[TimedToken], frame_samples: int, window_samples: int) -> Span:
    span = Span(tokens[0].start * frame_samples, tokens[-1].end * frame_samples)
    return span.clamped(Span(0, window_samples))


def _confidence(tokens: Sequence[TimedToken]) -> float:
    """0 to 1; 0 where the model gave no number."""
    mean = float(np.mean([token.log_probability for token in tokens]))
    return round(min(1.0, float(np.exp(mean))), 4) if np.isfinite(mean) else 0.0
