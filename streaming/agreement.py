"""Which words of a partial can be trusted, and where to cut speech that does not pause.

Owns: comparing two hypotheses of the same utterance. Commits nothing itself: the session does.

Source: LocalAgreement-2, the longest common prefix of two consecutive hypotheses (Liu et al. 2020,
"Low-latency sequence-to-sequence speech recognition and translation by partial hypothesis
selection"; Macháček et al. 2023, "Turning Whisper into real-time transcription system").
Differs: words are compared without case and punctuation, and what agrees is advice until a final.
"""

import unicodedata
from collections.abc import Iterator, Sequence
from itertools import pairwise

from streaming.engines import Word
from streaming.timeline import Span, samples_from_ms

GAP_SAMPLES_MIN = samples_from_ms(200)
"""The shortest pause between two words that is safe to cut in (design: 0.2 s)."""


def normalized(text: str) -> str:
    """Without case, punctuation and symbols; a word of nothing else stays as it is."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return "".join(c for c in folded if unicodedata.category(c)[0] not in "PS") or folded


def agreed_count(previous: Sequence[Word], newest: Sequence[Word]) -> int:
    """How many leading words of ``newest`` the hypothesis before it had too."""
    count = 0
    for old, new in zip(previous, newest, strict=False):
        if normalized(old.text) != normalized(new.text):
            break
        count += 1
    return count


def stable_count(earlier: Sequence[Sequence[Word]], newest: Sequence[Word], hypotheses: int) -> int:
    """How many leading words of ``newest`` its last ``hypotheses`` agree on, itself included.

    LocalAgreement-n with n = ``hypotheses``; ``earlier`` holds those before, the newest last. With
    n = 1 every word is stable, with fewer hypotheses than n none is.
    """
    if len(earlier) < hypotheses - 1:
        return 0
    compared = earlier[len(earlier) - (hypotheses - 1) :]
    return min((agreed_count(old, newest) for old in compared), default=len(newest))


def cut_point(
    words: Sequence[Word],
    previous: Sequence[Word],
    window: Span,
    gap_samples_min: int = GAP_SAMPLES_MIN,
) -> tuple[int, int] | None:
    """Where to cut a full window: how many of ``words`` stand before the cut, and its sample.

    The middle of the last gap of at least ``gap_samples_min`` between two words; else the
    LocalAgreement boundary; else the start of the last of several words. None where no such place
    lies inside ``window``: then cut at its end. Spans of words and window are absolute.
    """
    for kept, sample in _cut_candidates(words, previous, gap_samples_min):
        if window.start < sample <= window.end:
            return kept, sample
    return None


def _cut_candidates(
    words: Sequence[Word], previous: Sequence[Word], gap_samples_min: int
) -> Iterator[tuple[int, int]]:
    middles = [(left.span.end + right.span.start) // 2 for left, right in pairwise(words)]
    for kept in range(len(words) - 1, 0, -1):
        if words[kept].span.start - words[kept - 1].span.end >= gap_samples_min:
            yield kept, middles[kept - 1]
    agreed = agreed_count(previous, words)
    if 0 < agreed < len(words):
        yield agreed, middles[agreed - 1]
    if 0 < agreed == len(words):
        yield agreed, words[-1].span.end
    if len(words) > 1:
        yield len(words) - 1, words[-1].span.start
