"""Where a passage is broken: into cues, and a cue into lines.

Owns: the search for the cheapest breaks. What a break means is ``cue_text``'s matter, when a cue
appears ``shaped_cues``'s.

Invariants:
K2  A cue has one or two lines of at most ``LINE_COLUMNS_MAX`` columns, none of them empty.
K3  A cue of more than one piece lasts at most ``CUE_MS_MAX``.
K4  All pieces are in exactly one cue, in order.
K5  A word that fits a line is broken only where no other break keeps K2 and K3.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate, pairwise

from streaming.exports.cue_text import LINE_COLUMNS_MAX, Break, Piece, break_after, columns
from streaming.timeline import SAMPLES_PER_MS, Span

CUE_MS_MAX = 7_000
SHOWN_MS_MIN = 1_000
"""Less cannot be read; what follows may still force it."""

_CUE_COST = 0.5
_SHORT_COST = 8.0
"""For a cue that is shown for no time at all; half of it outweighs the end of a sentence."""
_UNEVEN_COST = 0.05
"""Decides between breaks that are as good otherwise."""
_BREAK_COST = {
    Break.SENTENCE: 0.0,
    Break.CLAUSE: 1.0,
    Break.WORD: 4.0,
    Break.CHARACTER: 4.0,
    Break.INSIDE: 100.0,
    Break.ORPHAN: 150.0,
}
_LINE_BREAK_COST = {
    Break.SENTENCE: 0.0,
    Break.CLAUSE: 0.3,
    Break.WORD: 0.6,
    Break.CHARACTER: 0.6,
    Break.INSIDE: 100.0,
    Break.ORPHAN: 150.0,
}
_LONE_PREFIX_COST = 50.0
_GAP_HALF_SAMPLES = 500 * SAMPLES_PER_MS
"""A pause of this length takes half of what a pause can take from a break between words."""


class PassageBreaks:
    """The breaks of one passage. ``prefix`` begins each cue's first line."""

    def __init__(self, pieces: Sequence[Piece], prefix: str) -> None:
        self._pieces = pieces
        self._prefix = prefix
        self._prefix_columns = columns(prefix)
        widths = [columns(piece.text) for piece in pieces]
        spaces = [0 if piece.is_glued else 1 for piece in pieces]
        self._right = list(accumulate(w + s for w, s in zip(widths, spaces, strict=True)))
        self._left = [right - width for right, width in zip(self._right, widths, strict=True)]
        self._breaks = [break_after(piece, following) for piece, following in pairwise(pieces)]
        self._words_end = [i for i, kind in enumerate(self._breaks) if kind < Break.INSIDE]
        self._digits_from = _digits_from(pieces)

    def cues(self) -> Iterator[tuple[Span, tuple[str, ...]]]:
        """Each cue's time and lines: the cheapest way, by dynamic programming from the end."""
        count = len(self._pieces)
        cheapest = [0.0] * (count + 1)
        ends = [0] * count
        for first in reversed(range(count)):
            cheapest[first], ends[first] = min(
                (cost + cheapest[last + 1], last) for last, cost in self._cue_costs(first)
            )
        first = 0
        while first < count:
            last = ends[first]
            yield _span(self._pieces[first : last + 1]), self._lines(first, last)
            first = last + 1

    def _cue_costs(self, first: int) -> Iterator[tuple[int, float]]:
        """The cues that begin with a piece: their last piece, their cost with the break after."""
        room = self._right_of_first_line(first)
        start, end = self._pieces[first].span.start, self._pieces[first].span.end
        for last in range(first, len(self._pieces)):
            span = self._pieces[last].span
            start, end = min(start, span.start), max(end, span.end)
            is_long = end - start > CUE_MS_MAX * SAMPLES_PER_MS
            earliest = self._earliest_second_line(first, last)
            if last > first and (is_long or earliest > room + 1):
                return
            if last <= room:
                yield last, self._cost(first, last)
            elif earliest <= (latest := min(room + 1, self._digits_from[last] - 1)):
                inside = 0.0 if self._has_good_break(first, earliest, latest) else 100.0
                yield last, self._cost(first, last) + inside

    def _cost(self, first: int, last: int) -> float:
        share = (self._right[last] - self._left[first]) / (2 * LINE_COLUMNS_MAX)
        cost = _CUE_COST + _UNEVEN_COST * share**2
        if last + 1 == len(self._pieces):
            return cost
        kind = self._breaks[last]
        shown = self._pieces[last + 1].span.start - self._pieces[first].span.start
        cost += _SHORT_COST * max(0.0, 1 - shown / (SHOWN_MS_MIN * SAMPLES_PER_MS))
        if kind in (Break.WORD, Break.CHARACTER):
            gap = max(0, self._pieces[last + 1].span.start - self._pieces[last].span.end)
            cost -= gap / (gap + _GAP_HALF_SAMPLES)
        return cost + _BREAK_COST[kind]

    # Pieces by the line they may stand in

    def _right_of_first_line(self, first: int) -> int:
        """The last piece that fits the first line of a cue."""
        end = self._left[first] + LINE_COLUMNS_MAX - self._prefix_columns
        return bisect_right(self._right, end, lo=first) - 1

    def _earliest_second_line(self, first: int, last: int) -> int:
        """The first piece of the longest second line; the whole cue only after a lone prefix."""
        start = self._right[last] - LINE_COLUMNS_MAX
        return bisect_left(self._left, start, lo=first if self._prefix else first + 1)

    def _has_good_break(self, first: int, earliest: int, latest: int) -> bool:
        """Whether a second line can begin with a word, from ``earliest`` to ``latest``."""
        after = bisect_left(self._words_end, earliest - 1)
        is_found = after < len(self._words_end) and self._words_end[after] <= latest - 1
        return earliest == first or is_found

    def _lines(self, first: int, last: int) -> tuple[str, ...]:
        room = self._right_of_first_line(first)
        if last <= room:
            return (self._prefix + self._text(first, last),)
        earliest = self._earliest_second_line(first, last)
        latest = min(room + 1, self._digits_from[last] - 1)
        begin = min(range(earliest, latest + 1), key=self._line_cost(first, last))
        return (self._prefix + self._text(first, begin - 1)).rstrip(), self._text(begin, last)

    def _line_cost(self, first: int, last: int) -> Callable[[int], float]:
        """What a second line costs that begins with a piece."""

        def cost(begin: int) -> float:
            if begin == first:
                return _LONE_PREFIX_COST
            upper = self._prefix_columns + self._right[begin - 1] - self._left[first]
            lower = self._right[last] - self._left[begin]
            uneven = abs(upper - lower) / LINE_COLUMNS_MAX
            return _LINE_BREAK_COST[self._breaks[begin - 1]] + uneven

        return cost

    def _text(self, first: int, last: int) -> str:
        chosen = self._pieces[first : last + 1]
        return "".join(p.text if p.is_glued else f" {p.text}" for p in chosen).removeprefix(" ")


def _digits_from(pieces: Sequence[Piece]) -> list[int]:
    """For each piece, where the run of mere digits that it ends began; one further without.

    A line of mere digits at the end of a cue is a cue's number to readers of SRT.
    """
    begins = []
    begin = 0
    for index, piece in enumerate(pieces):
        if not piece.text.isdecimal():
            begin = index + 1
        begins.append(begin)
    return begins


def _span(pieces: Sequence[Piece]) -> Span:
    start = min(piece.span.start for piece in pieces)
    return Span(start, max(piece.span.end for piece in pieces))
