"""What a reader of captions saw, and when: how late each word came, and when it stopped changing.

Pure, and the same for every server: only the text that stood on the screen counts.
**First shown**: from sending the word's last sample until the screen first had the word in its
place. **Stable**: until the screen's text up to and including that word never changed again.
Case and punctuation do not count, neither as errors nor as changes.
Invariant N1: a screen holds one entry per change, in order of time.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from clients.delays import SentAudio
from load_tests.bench.speech import SaidWord
from server.scoring import WordErrors, normalized, word_errors


@dataclass(frozen=True, slots=True)
class Shown:
    """All text on the screen from this moment on."""

    at_s: float
    words: tuple[str, ...]


@dataclass(slots=True)
class Screen:
    """Everything that one reader saw."""

    shown: list[Shown] = field(default_factory=list)

    def show(self, text: str, now_s: float) -> None:
        words = tuple(normalized(text).split())
        if words != (self.shown[-1].words if self.shown else ()):
            self.shown.append(Shown(now_s, words))

    @property
    def last(self) -> tuple[str, ...]:
        return self.shown[-1].words if self.shown else ()


@dataclass(frozen=True, slots=True)
class Judged:
    """One stream; seconds, one value per word that was right, in no order."""

    errors: WordErrors
    first_shown_s: tuple[float, ...]
    """Of words that stood on the screen at some time, rightly."""
    stable_s: tuple[float, ...]
    """Of words that are right in the end."""


def judge(reference: Sequence[SaidWord], sent: SentAudio, screen: Screen) -> Judged:
    """``reference`` in order; each word of it is one word after normalization."""
    words = tuple(normalized(word.text) for word in reference)
    assert all(len(word.split()) == 1 for word in words), "a word of the reference is not one"
    first_shown = [
        delay_s
        for number, at_s in _first_shown(words, reference, sent, screen).items()
        if (delay_s := sent.delay_s(reference[number].span.end, at_s)) is not None
    ]
    stable_at_s = _stable_from(screen)
    stable = [
        delay_s
        for number, place in _right(words, screen.last)
        if (delay_s := sent.delay_s(reference[number].span.end, stable_at_s[place])) is not None
    ]
    return Judged(
        word_errors(" ".join(words), " ".join(screen.last)),
        # A word may be guessed before it is over, and is not late then.
        tuple(max(0.0, delay_s) for delay_s in first_shown),
        tuple(max(0.0, delay_s) for delay_s in stable),
    )


def _first_shown(
    words: Sequence[str], reference: Sequence[SaidWord], sent: SentAudio, screen: Screen
) -> dict[int, float]:
    """Number of each word that was ever shown rightly → when first."""
    found: dict[int, float] = {}
    for shown in screen.shown:
        # Not beyond what had begun to be said: "the" is said again later.
        begun = sum(_had_begun(word, sent, shown.at_s) for word in reference)
        for number, _ in _right(words[:begun], shown.words):
            found.setdefault(number, shown.at_s)
    return found


def _had_begun(word: SaidWord, sent: SentAudio, now_s: float) -> bool:
    waited_s = sent.delay_s(word.span.start + 1, now_s)
    return waited_s is not None and waited_s >= 0


def _stable_from(screen: Screen) -> list[float]:
    """For each word of the last screen, since when nothing up to it has changed."""
    from_s = [0.0] * len(screen.last)
    settled = len(screen.last)
    befores = [(), *(shown.words for shown in screen.shown)][: len(screen.shown)]
    for later, before in zip(reversed(screen.shown), reversed(befores), strict=True):
        same = min(settled, _common(before, screen.last))
        from_s[same:settled] = [later.at_s] * (settled - same)
        settled = same
    return from_s


def _common(ours: Sequence[str], theirs: Sequence[str]) -> int:
    """Length of what both begin with."""
    pairs = enumerate(zip(ours, theirs, strict=False))
    return next((n for n, (a, b) in pairs if a != b), min(len(ours), len(theirs)))


def _right(reference: Sequence[str], shown: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Places in both of the words that agree, by minimal edit distance."""
    import jiwer

    if not reference or not shown:
        return
    found = jiwer.process_words(" ".join(reference), " ".join(shown))
    for chunk in found.alignments[0]:
        if chunk.type == "equal":
            yield from zip(
                range(chunk.ref_start_idx, chunk.ref_end_idx),
                range(chunk.hyp_start_idx, chunk.hyp_end_idx),
                strict=True,
            )
