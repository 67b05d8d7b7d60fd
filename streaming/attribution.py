"""Words × turns → the speaker of each word. The only place that decides a word's speaker.

Owns: both rules, their tie-breaks and limits. Knows nothing of audio, text, captions or how turns
came about. Words come in time order and may have no length (an engine that gives no ends); turns
come in any order and may overlap.
Invariants: A1 every word gets exactly one answer; A2 only differences of times count: shifting
words and turns alike changes nothing; A3 the order of the turns does not matter.
"""

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate, pairwise

import numpy as np
from numpy.typing import NDArray

from streaming.timeline import Span
from streaming.turns import Turn, merge_turns

DISTANCE_SAMPLES_MAX = 24_000
"""1.5 s: a word further than this from every turn has no known speaker. Word times of Whisper are
off by up to a second; a pause between speakers is seldom longer than this."""
LONE_WORD_SAMPLES_MAX = 8_000
"""0.5 s: a longer word is evidence enough of a change of speaker on its own."""
MARGIN_SAMPLES_MAX = 3_200
"""0.2 s: the error of a word's or a turn's boundary. A lone word whose speaker leads by no more
than this stays with its neighbours."""


def attribute_by_overlap(
    words: Sequence[Span],
    turns: Sequence[Turn],
    *,
    distance_samples_max: int = DISTANCE_SAMPLES_MAX,
    lone_word_samples_max: int = LONE_WORD_SAMPLES_MAX,
    margin_samples_max: int = MARGIN_SAMPLES_MAX,
) -> list[str | None]:
    """Per word, the speaker of the turn with the largest overlap; where nothing overlaps, of the
    turn at the smallest distance, unless even that is too far: None.

    Ties go to the earlier turn. A lone short word between two words of one other speaker, close
    enough in score, is given to them (hysteresis).
    """
    near = _turns_near(words, turns, distance_samples_max)
    if not near:
        return [None] * len(words)
    scores = _scores(words, near)
    best = scores.argmax(axis=1)
    speakers = [
        near[turn].speaker if scores[word, turn] >= -distance_samples_max else None
        for word, turn in enumerate(best.tolist())
    ]
    return [
        speakers[i - 1]
        if _is_lone(speakers, i)
        and words[i].samples <= lone_word_samples_max
        and _lead(scores[i], near, speakers[i - 1]) <= margin_samples_max
        else speakers[i]
        for i in range(len(words))
    ]


def attribute_by_segment(words: Sequence[Span], turns: Sequence[Turn]) -> list[str | None]:
    """The classic rule: text is cut at the word end nearest to each change of speaker.

    Consecutive turns of one speaker are merged; each merged turn ends where the next begins, and
    its text is closed at the transcript timestamp whose absolute distance to that end is minimal
    (ties: the earlier one). Each end is placed on its own, so a bad one shifts no other; a turn
    whose two ends fall on the same timestamp gets no text. Words may also be whole segments.
    """
    merged = merge_turns(turns)
    if not merged or not words:
        return [None] * len(words)
    # The first start stands for "no word yet"; ends never run backwards.
    closings = list(accumulate([words[0].start, *(word.end for word in words)], max))
    speakers: list[str | None] = []
    for turn, following in pairwise(merged):
        count = _nearest(closings, following.span.start)
        speakers += [turn.speaker] * (count - len(speakers))
    return speakers + [merged[-1].speaker] * (len(words) - len(speakers))


def _turns_near(words: Sequence[Span], turns: Sequence[Turn], distance: int) -> list[Turn]:
    """Turns that can be some word's, sorted; a session has thousands, a caption needs a few."""
    if not words:
        return []
    first = min(word.start for word in words)
    around = Span(first, max(word.end for word in words))
    return sorted(turn for turn in turns if turn.span.distance_samples(around) <= distance)


def _scores(words: Sequence[Span], turns: Sequence[Turn]) -> NDArray[np.int64]:
    """Overlap in samples, or where there is none, minus the distance; shape (words, turns)."""
    word = np.array([(w.start, w.end) for w in words], np.int64)
    turn = np.array([(t.span.start, t.span.end) for t in turns], np.int64)
    starts = np.maximum(word[:, None, 0], turn[None, :, 0])
    ends = np.minimum(word[:, None, 1], turn[None, :, 1])
    return np.asarray(ends - starts, np.int64)


def _is_lone(speakers: Sequence[str | None], i: int) -> bool:
    """True for a word with a speaker between two words that share another one."""
    if not 0 < i < len(speakers) - 1:
        return False
    before, own, after = speakers[i - 1 : i + 2]
    return own is not None and before is not None and before == after != own


def _lead(scores: NDArray[np.int64], turns: Sequence[Turn], rival: str | None) -> int:
    """By how many samples a word's best turn beats the best turn of a rival speaker."""
    rivals = [score for score, turn in zip(scores, turns, strict=True) if turn.speaker == rival]
    return int(scores.max() - max(rivals))


def _nearest(sorted_times: Sequence[int], time: int) -> int:
    """Index of the time nearest to the given one; the earlier of two equally near."""
    at = bisect_left(sorted_times, time)
    candidates = [i for i in (at - 1, at) if 0 <= i < len(sorted_times)]
    return min(candidates, key=lambda i: (abs(sorted_times[i] - time), i))
