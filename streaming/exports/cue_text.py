"""How a passage's words may be broken into cues and lines.

Owns: the width of text, where a break may stand and how good it is. Knows nothing of cue times.
Invariant K1: a piece never needs more than the room that its passage's prefix leaves in a line.
"""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum

from streaming.events import CaptionWord
from streaming.exports.transcript import share_out
from streaming.timeline import Span

LINE_COLUMNS_MAX = 42
"""As broadcasters have it for scripts whose letters take one column."""
PART_COLUMNS_MAX = 7
"""A word that must be broken is broken at multiples of this; six fill a line."""
CLUSTER_CHARACTERS_MAX = 4
"""A letter and its marks, or two joined emoji: what must always fit a part."""

_SENTENCE_END = re.compile(r"[.!?…।؟۔][\"'”’»)\]]*$")
_CLAUSE_END = re.compile(r"[,;:،؛–—][\"'”’»)\]]*$")
_UNSPACED_SENTENCE_END = re.compile(r"[。！？｡][」』”’）]*$")
_UNSPACED_CLAUSE_END = re.compile(r"[、，；：､][」』”’）]*$")
_SOUTHEAST_ASIAN = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff]")
"""Thai, Lao, Burmese, Khmer; the other unspaced scripts have wide letters."""
_JOINER = "\u200d"
_NO_LINE_START = re.compile(r"[.!?…,;:%)\]}»”’。！？｡、，；：､」』）ー々]")


class Break(IntEnum):
    """What stands before a break, best first."""

    SENTENCE = 0
    CLAUSE = 1
    WORD = 2
    CHARACTER = 3
    """Between letters of a script that is written without spaces."""
    INSIDE = 4
    """Inside a word."""
    ORPHAN = 5
    """The next line would begin with a closing or a combining mark."""


@dataclass(frozen=True, slots=True)
class Piece:
    """What is never broken: a word, or a part of one that is too wide for a line."""

    text: str
    span: Span
    is_glued: bool


def pieces_of(words: Sequence[CaptionWord], prefix: str) -> list[Piece]:
    """The words, those too wide for a line after the prefix in parts."""
    room = LINE_COLUMNS_MAX - columns(prefix)
    pieces = []
    for word in words:
        if columns(word.text) <= room:
            pieces.append(Piece(word.text, word.span, word.is_glued))
        else:
            pieces += _parts(word)
    return pieces


def break_after(piece: Piece, following: Piece) -> Break:
    """A full stop ends a sentence only before a space, one of an unspaced script anywhere."""
    first, is_glued = following.text[0], following.is_glued
    if is_glued and (_NO_LINE_START.match(first) or _is_mark(first)):
        return Break.ORPHAN
    if _UNSPACED_SENTENCE_END.search(piece.text) or (
        not is_glued and _SENTENCE_END.search(piece.text)
    ):
        return Break.SENTENCE
    if _UNSPACED_CLAUSE_END.search(piece.text) or (not is_glued and _CLAUSE_END.search(piece.text)):
        return Break.CLAUSE
    if not is_glued:
        return Break.WORD
    is_unspaced = _is_unspaced(piece.text[-1]) and _is_unspaced(first)
    return Break.CHARACTER if is_unspaced else Break.INSIDE


def columns(text: str) -> int:
    """Characters, wide ones (Chinese, Japanese, Korean, emoji) counting two."""
    if text.isascii():
        return len(text)
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def _parts(word: CaptionWord) -> Iterator[Piece]:
    texts = list(_filled(word.text))
    for index, (text, span) in enumerate(zip(texts, share_out(word.span, texts), strict=True)):
        yield Piece(text, span, word.is_glued or index > 0)


def _filled(text: str) -> Iterator[str]:
    """Parts as wide as may be; they end after a mark that may end a line too."""
    part = ""
    for cluster in _clusters(text):
        is_ended = _UNSPACED_SENTENCE_END.search(part) or _UNSPACED_CLAUSE_END.search(part)
        is_closing = _NO_LINE_START.match(cluster)
        if columns(part + cluster) > PART_COLUMNS_MAX or (is_ended and not is_closing):
            yield part
            part = ""
        part += cluster
    yield part


def _clusters(text: str) -> Iterator[str]:
    """Letters with the marks and joiners that belong to them."""
    cluster = ""
    for character in text:
        if cluster and not _joins(cluster, character):
            yield cluster
            cluster = ""
        cluster += character
    yield cluster


def _joins(cluster: str, character: str) -> bool:
    is_short = len(cluster) < CLUSTER_CHARACTERS_MAX
    return is_short and (_is_mark(character) or cluster.endswith(_JOINER))


def _is_mark(character: str) -> bool:
    return unicodedata.category(character).startswith("M") or character == _JOINER


def _is_unspaced(character: str) -> bool:
    return columns(character) == 2 or _SOUTHEAST_ASIAN.match(character) is not None
