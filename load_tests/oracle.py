"""Compares what a virtual user was told with what it said, word by word. Pure.

A scripted word names its stream and number and survives only if every sample arrived untouched,
so each kind of mistake is counted exactly, never estimated.
"""

import itertools
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields

from streaming.timeline import SAMPLE_RATE_HZ

TIME_TOLERANCE_S = 0.001
"""Times on the wire have three decimals."""


@dataclass(frozen=True, slots=True)
class FinalWord:
    """A word of a final as it came."""

    text: str
    start_s: float
    received_s: float
    """Monotonic."""


@dataclass(frozen=True, slots=True)
class Mistakes:
    """How many words went wrong, by kind; a word may count in several."""

    lost: int = 0
    doubled: int = 0
    misrouted: int = 0
    """Another stream's word."""
    out_of_order: int = 0
    changed: int = 0
    """Nobody's word."""
    mistimed: int = 0
    """Not at the place where it was said."""

    def __add__(self, other: "Mistakes") -> "Mistakes":
        names = [field.name for field in fields(self)]
        return Mistakes(*(getattr(self, name) + getattr(other, name) for name in names))


def find_mistakes(
    stream: int,
    expected: Sequence[tuple[str, int]],
    finals: Iterable[FinalWord],
    shown: Iterable[str] = (),
) -> Mistakes:
    """``expected`` are (text, start sample) in order; ``shown`` are texts of partials.

    A partial's words may still change, but never be another stream's.
    """
    finals = list(finals)
    place = {text: (i, start / SAMPLE_RATE_HZ) for i, (text, start) in enumerate(expected)}
    counts = Counter(word.text for word in finals)
    known = [word for word in finals if word.text in place]
    order = [place[word.text][0] for word in known]
    strangers = [text for text in counts.elements() if text not in place]
    foreign = sum(_is_foreign(text, stream) for text in strangers)
    passing = {text for text in shown if text not in counts and _is_foreign(text, stream)}
    return Mistakes(
        lost=sum(text not in counts for text in place),
        doubled=sum(counts[text] - 1 for text in place if counts[text] > 1),
        misrouted=foreign + len(passing),
        out_of_order=sum(b < a for a, b in itertools.pairwise(order)),
        changed=len(strangers) - foreign,
        mistimed=sum(abs(word.start_s - place[word.text][1]) > TIME_TOLERANCE_S for word in known),
    )


def _is_foreign(text: str, stream: int) -> bool:
    """True for a well-formed scripted word of another stream."""
    number, _, owner = text.removeprefix("w").partition(".")
    is_word = text.startswith("w") and number.isdecimal() and owner.isdecimal()
    return is_word and int(owner) != stream
