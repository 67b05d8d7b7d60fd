"""Are finals token for token what the reference gives? For tests and benchmarks alike.

Owns the comparison and its rule: where a final differs, the comparison that decided between the
two tokens must have been so close that the order of additions may turn it. Knows no model
library; the two engines come as protocols.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, Protocol

from streaming.engines import Hypothesis, SpeechWindow

MARGIN_MAX = 1e-4
"""In logits. Sums of a few hundred float32 terms differ by less when they are ordered anew."""
GUARDED_SHARE_MAX = 0.02
WINDOWS_PER_CALL = 8


class ExactRecognizer(Protocol):
    """A recognizer that says what it asks its decoder: a task, which only the reference reads."""

    def task(self, window: SpeechWindow, language: str | None) -> Any: ...

    def recognize(self, windows: Sequence[SpeechWindow]) -> list[Hypothesis]: ...


class Reference(Protocol):
    """What finals are held to. Tokens come without the end mark, which is None in ``margin``."""

    def tokens(self, window: SpeechWindow, task: Any, language: str | None) -> list[int]: ...

    def margin(
        self,
        window: SpeechWindow,
        task: Any,
        before: Sequence[int],
        ours: int | None,
        theirs: int | None,
    ) -> float: ...


@dataclass(frozen=True, slots=True)
class Mismatch:
    """The first token in which a final differs."""

    window: int
    position: int
    ours: int | None
    theirs: int | None
    margin: float
    """Of the comparison that decided between them, in logits."""

    @property
    def is_excused(self) -> bool:
        return self.margin <= MARGIN_MAX


@dataclass(frozen=True, slots=True)
class Exactness:
    """How many finals are equal, and what became of the rest."""

    windows: int
    equal: int
    guarded: int
    """Decoded again because a guard fired: not compared."""
    mismatches: tuple[Mismatch, ...]
    tokens: int
    """Of the reference, in the windows that were compared."""

    @property
    def failures(self) -> tuple[Mismatch, ...]:
        return tuple(mismatch for mismatch in self.mismatches if not mismatch.is_excused)

    @property
    def is_proven(self) -> bool:
        is_believed = self.guarded <= GUARDED_SHARE_MAX * self.windows
        return self.windows > 0 and is_believed and not self.failures


def compare_finals(
    recognizer: ExactRecognizer, reference: Reference, windows: Sequence[SpeechWindow]
) -> Exactness:
    """Decode each window both ways; ours go in batches, with whatever drafts they carry.

    Windows without a language are compared in the one that the recognizer detects.
    """
    mismatches: list[Mismatch] = []
    equal = guarded = tokens = 0
    for start in range(0, len(windows), WINDOWS_PER_CALL):
        batch = windows[start : start + WINDOWS_PER_CALL]
        for offset, (window, answer) in enumerate(
            zip(batch, recognizer.recognize(batch), strict=True)
        ):
            if answer.guards:
                guarded += 1
                continue
            task = recognizer.task(window, answer.language)
            theirs = reference.tokens(window, task, answer.language)
            tokens += len(theirs)
            at = first_difference(answer.tokens, theirs)
            if at is None:
                equal += 1
                continue
            pair = (_at(answer.tokens, at), _at(theirs, at))
            margin = reference.margin(window, task, theirs[:at], *pair)
            mismatches.append(Mismatch(start + offset, at, *pair, margin))
    return Exactness(len(windows), equal, guarded, tuple(mismatches), tokens)


def first_difference(ours: Sequence[int], theirs: Sequence[int]) -> int | None:
    """Index of the first token in which two transcripts differ; None where they are equal."""
    pairs = enumerate(zip_longest(ours, theirs))
    return next((index for index, (one, other) in pairs if one != other), None)


def _at(tokens: Sequence[int], index: int) -> int | None:
    """None is the end mark."""
    return tokens[index] if index < len(tokens) else None
