"""Who said which word: cpWER and tcpWER (meeteval), and word attribution.

Words are compared in lower case without punctuation. Words that no speaker was told for are, for
cpWER and tcpWER, a speaker of their own; for attribution they are wrong.
"""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from server.evaluation.truth import Segment, timed_words
from server.scoring import normalized, rate
from streaming.events import CaptionWord
from streaming.timeline import SAMPLE_RATE_HZ, Span

TCPWER_COLLAR_S = 5.0
"""meeteval's usual choice: a word matches within 5 s of where it was said."""
UNKNOWN_SPEAKER = "unknown"

SegLst = list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class SpokenWord:
    """A normalized word, where it is, and whose it is."""

    text: str
    span: Span
    speaker: str | None


@dataclass(frozen=True, slots=True)
class SpeakerWordErrors:
    """Errors against the reference's words under the best mapping of speakers."""

    errors: int
    reference: int

    def __add__(self, other: "SpeakerWordErrors") -> "SpeakerWordErrors":
        return SpeakerWordErrors(self.errors + other.errors, self.reference + other.reference)

    @property
    def rate(self) -> float | None:
        return rate(self.errors, self.reference)


@dataclass(frozen=True, slots=True)
class Attribution:
    """Of the reference's words that were recognized: how many have the right speaker."""

    right: int
    recognized: int

    def __add__(self, other: "Attribution") -> "Attribution":
        return Attribution(self.right + other.right, self.recognized + other.recognized)

    @property
    def rate(self) -> float | None:
        return rate(self.right, self.recognized)


def reference_words(segments: Iterable[Segment]) -> list[SpokenWord]:
    """By time."""
    return _by_time(
        spoken
        for segment in segments
        for text, span in timed_words(segment)
        for spoken in _spoken(text, span, segment.speaker)
    )


def hypothesis_words(words: Iterable[CaptionWord]) -> list[SpokenWord]:
    """By time."""
    return _by_time(
        spoken for word in words for spoken in _spoken(word.text, word.span, word.speaker)
    )


def _spoken(text: str, span: Span, speaker: str | None) -> list[SpokenWord]:
    """No word for punctuation alone, several for ``twenty-one``."""
    return [SpokenWord(part, span, speaker) for part in normalized(text).split()]


def _by_time(words: Iterable[SpokenWord]) -> list[SpokenWord]:
    return sorted(words, key=lambda word: word.span)


def seglst(words: Iterable[SpokenWord], session: str) -> SegLst:
    """One segment per word, as meeteval's SegLST has it."""
    return [
        {
            "session_id": session,
            "speaker": word.speaker or UNKNOWN_SPEAKER,
            "start_time": word.span.start / SAMPLE_RATE_HZ,
            "end_time": word.span.end / SAMPLE_RATE_HZ,
            "words": word.text,
        }
        for word in words
    ]


def cp_errors(
    reference: Sequence[SpokenWord], hypothesis: Sequence[SpokenWord]
) -> SpeakerWordErrors:
    """Concatenated minimum-permutation errors."""
    return _errors(reference, hypothesis, collar_s=None)


def tcp_errors(
    reference: Sequence[SpokenWord], hypothesis: Sequence[SpokenWord]
) -> SpeakerWordErrors:
    """The same, where words match only within ``TCPWER_COLLAR_S``."""
    return _errors(reference, hypothesis, collar_s=TCPWER_COLLAR_S)


def _errors(
    reference: Sequence[SpokenWord], hypothesis: Sequence[SpokenWord], collar_s: float | None
) -> SpeakerWordErrors:
    # meeteval refuses an empty side, and there is nothing to permute.
    if not reference or not hypothesis:
        return SpeakerWordErrors(max(len(reference), len(hypothesis)), len(reference))
    import meeteval
    from meeteval.io import SegLST

    # One speaker's words may overlap where an engine's times are rough: no news, and not in stdout.
    logging.getLogger("error_rate").setLevel(logging.ERROR)
    truth, said = SegLST(seglst(reference, "s")), SegLST(seglst(hypothesis, "s"))
    if collar_s is None:
        found = meeteval.wer.cpwer(truth, said)["s"]
    else:
        found = meeteval.wer.tcpwer(truth, said, collar=collar_s)["s"]
    return SpeakerWordErrors(int(found.errors), int(found.length))


def attribution(reference: Sequence[SpokenWord], hypothesis: Sequence[SpokenWord]) -> Attribution:
    """Aligns both sequences by minimal edit distance and looks at the words that are equal.

    Speakers are mapped one to one so that most of these words are right (Hungarian algorithm).
    """
    from scipy.optimize import linear_sum_assignment

    pairs = _equal_pairs(reference, hypothesis)
    truth = sorted({word.speaker or UNKNOWN_SPEAKER for word, _ in pairs})
    said = sorted({word.speaker for _, word in pairs if word.speaker is not None})
    counts = np.zeros((len(truth), len(said)), np.int64)
    for spoken, heard in pairs:
        if heard.speaker is not None:
            row = truth.index(spoken.speaker or UNKNOWN_SPEAKER)
            counts[row, said.index(heard.speaker)] += 1
    rows, columns = linear_sum_assignment(-counts)
    return Attribution(int(counts[rows, columns].sum()), len(pairs))


def _equal_pairs(
    reference: Sequence[SpokenWord], hypothesis: Sequence[SpokenWord]
) -> list[tuple[SpokenWord, SpokenWord]]:
    if not reference or not hypothesis:
        return []
    import jiwer

    texts = (" ".join(word.text for word in words) for words in (reference, hypothesis))
    (chunks,) = jiwer.process_words(*texts).alignments
    return [
        (reference[chunk.ref_start_idx + i], hypothesis[chunk.hyp_start_idx + i])
        for chunk in chunks
        if chunk.type == "equal"
        for i in range(chunk.ref_end_idx - chunk.ref_start_idx)
    ]
