"""Word times, trimmed to where somebody speaks.

Recognizers that place words by attention let each word begin where the one before it ended, so
that a word after a pause holds the pause. Voice activity knows better where speech is; which
words there are, and in which order, it does not touch.

Invariants: G1 a trimmed word lies inside the untrimmed one; G2 words that start in order still do.
"""

from collections.abc import Sequence
from dataclasses import replace

from streaming.engines import Word
from streaming.timeline import Span, samples_from_ms

OVERLAP_SAMPLES_MIN = samples_from_ms(60)
"""A word that reaches less far into a stretch of speech is not spoken there: two frames of voice
activity, which is how exact the ends of speech are."""


def within_speech(words: Sequence[Word], speech: Sequence[Span]) -> tuple[Word, ...]:
    """The words without the silence at their ends; ``speech`` is in order, on the same clock.

    A word that nobody seems to speak stays as it is.
    """
    nexts = [*(word.span.start for word in words[1:]), None]
    return tuple(_trimmed(w, start, speech) for w, start in zip(words, nexts, strict=False))


def _trimmed(word: Word, next_start: int | None, speech: Sequence[Span]) -> Word:
    touched = [part for part in speech if part.overlap_samples(word.span)]
    if not touched:
        return word
    spoken = [p for p in touched if p.overlap_samples(word.span) >= OVERLAP_SAMPLES_MIN]
    spoken = spoken or [max(touched, key=word.span.overlap_samples)]
    span = word.span.clamped(Span(spoken[0].start, spoken[-1].end))
    if next_start is not None and span.start > next_start:
        # Words that overlap: the later one may be heard in earlier speech.
        span = Span(next_start, span.end)
    return replace(word, span=span)
