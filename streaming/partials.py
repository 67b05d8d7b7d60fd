"""What readers are told of uncommitted words, and whether partials are heard well enough.

Owns: the options of partials, and the evidence that their context is too short. A session whose
partials differ too much from their finals asks for a wider one (``SpeechWindow``): three times at
most, and never back, because what made a short context fail (a checkpoint, a voice, a room) stays.
Commits nothing, and no final depends on what is decided here.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from streaming.agreement import normalized
from streaming.engines import Word

CONTEXT_WIDENING_MAX = 3
"""Eight times the shortest context: from 4 s up, that is all that Whisper hears."""
COMPARED_WORDS_MAX = 50
"""Of one partial with its final: comparing costs the square of it."""
EVIDENCE_WORDS_MIN = 20
"""Some change is what partials are for: a few words say nothing of its share."""
PARTIAL_ERROR_SHARE_MAX = 0.3
"""Where every third word is another one in the end, what is read live is not the speech."""


@dataclass(frozen=True, slots=True)
class PartialOptions:
    """What readers see of uncommitted words."""

    stability: int = 2
    """Consecutive hypotheses that must agree on a word before it is called stable."""
    stable_only: bool = False
    """Words that are not stable are not shown."""


class PartialContext:
    """Whether the partials of one lane are heard with too short a context."""

    def __init__(self) -> None:
        self.widening = 0
        """How often the context should be doubled."""
        self._words = self._errors = 0

    def compare(self, partial: Sequence[Word], final: Sequence[Word], end: int) -> None:
        """Weigh the last partial of a caption against its final, which covers audio up to ``end``.

        The partial's last word is left out: it may have been heard by half.
        """
        heard = [word for word in partial[:-1] if word.span.end <= end][:COMPARED_WORDS_MAX]
        self._words += len(heard)
        self._errors += prefix_errors(heard, final[: 2 * COMPARED_WORDS_MAX])
        if self._words < EVIDENCE_WORDS_MIN:
            return
        if self._errors > PARTIAL_ERROR_SHARE_MAX * self._words:
            self.widening = min(CONTEXT_WIDENING_MAX, self.widening + 1)
        self._words = self._errors = 0


def prefix_errors(partial: Sequence[Word], final: Sequence[Word]) -> int:
    """Word errors of ``partial`` against whatever beginning of ``final`` fits it best.

    Edit distance with a free end, since a final goes on where its partial stopped. Costs the
    product of both lengths: the caller bounds them.
    """
    texts = [normalized(word.text) for word in final]
    row = list(range(len(texts) + 1))
    for number, word in enumerate(partial, start=1):
        text, diagonal, row[0] = normalized(word.text), row[0], number
        for at, other in enumerate(texts, start=1):
            replaced = diagonal + (text != other)
            diagonal, row[at] = row[at], min(replaced, row[at] + 1, row[at - 1] + 1)
    return min(row)
