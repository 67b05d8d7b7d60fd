"""How good captions were: word and speaker errors against a reference, as counts that add up.

Imports its libraries when asked, so that no server process pays for them.
WER and CER: lower case, without punctuation (jiwer). DER and JER: pyannote.metrics, no collar,
overlap scored. A rate is None where the reference holds nothing to be wrong about.
"""

import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from streaming.exports.turns_of_words import turns_of_words as turns_of_words
from streaming.timeline import SAMPLE_RATE_HZ
from streaming.turns import Turn

if TYPE_CHECKING:
    from pyannote.core import Annotation

_PUNCTUATION = re.compile(r"[^\w\s']|_")


def normalized(text: str) -> str:
    """Lower case, without punctuation, single spaces; the apostrophes inside words stay."""
    return " ".join(_PUNCTUATION.sub(" ", text).lower().split())


def rate(errors: float, total: float) -> float | None:
    return round(errors / total, 4) if total > 0 else None


@dataclass(frozen=True, slots=True)
class WordErrors:
    """Edits that turn the reference into the hypothesis; of words, or of characters."""

    hits: int
    substitutions: int
    deletions: int
    insertions: int

    def __add__(self, other: "WordErrors") -> "WordErrors":
        return WordErrors(
            self.hits + other.hits,
            self.substitutions + other.substitutions,
            self.deletions + other.deletions,
            self.insertions + other.insertions,
        )

    @property
    def reference(self) -> int:
        """Length of the reference."""
        return self.hits + self.substitutions + self.deletions

    @property
    def rate(self) -> float | None:
        """Errors per reference word; may exceed 1."""
        return rate(self.substitutions + self.deletions + self.insertions, self.reference)


def word_errors(reference: str, hypothesis: str) -> WordErrors:
    """Of texts that are normalized already; by minimal edit distance."""
    import jiwer

    if not reference:
        return WordErrors(0, 0, 0, len(hypothesis.split()))
    found = jiwer.process_words(reference, hypothesis)
    return WordErrors(found.hits, found.substitutions, found.deletions, found.insertions)


def character_errors(reference: str, hypothesis: str) -> WordErrors:
    """As ``word_errors``, per character, spaces included."""
    import jiwer

    if not reference:
        return WordErrors(0, 0, 0, len(hypothesis))
    found = jiwer.process_characters(reference, hypothesis)
    return WordErrors(found.hits, found.substitutions, found.deletions, found.insertions)


def word_error_rate(reference: str, hypothesis: str) -> float:
    """Errors per word of a reference that is not empty; may exceed 1."""
    found = word_errors(normalized(reference), normalized(hypothesis)).rate
    assert found is not None, "nothing is said in the reference"
    return found


@dataclass(frozen=True, slots=True)
class TurnErrors:
    """Seconds of speech, summed over speakers, and what was wrong with them."""

    speech_s: float
    missed_s: float
    false_alarm_s: float
    confused_s: float
    speakers: float
    """Of the reference; JER is the mean over them."""
    speaker_errors: float
    """Sum over the reference's speakers of 1 - intersection / union with the mapped one."""

    def __add__(self, other: "TurnErrors") -> "TurnErrors":
        return TurnErrors(
            self.speech_s + other.speech_s,
            self.missed_s + other.missed_s,
            self.false_alarm_s + other.false_alarm_s,
            self.confused_s + other.confused_s,
            self.speakers + other.speakers,
            self.speaker_errors + other.speaker_errors,
        )

    @property
    def der(self) -> float | None:
        """Missed, falsely detected and confused speech over all speech of the reference."""
        return rate(self.missed_s + self.false_alarm_s + self.confused_s, self.speech_s)

    @property
    def jer(self) -> float | None:
        return rate(self.speaker_errors, self.speakers)

    def share(self, part_s: float) -> float | None:
        """One of the three parts of DER."""
        return rate(part_s, self.speech_s)


def turn_errors(reference: Sequence[Turn], hypothesis: Sequence[Turn]) -> TurnErrors:
    """Under the mapping of speakers that each metric likes best."""
    from pyannote.metrics.diarization import DiarizationErrorRate, JaccardErrorRate

    truth, said = _annotation(reference), _annotation(hypothesis)
    with warnings.catch_warnings():
        # Without a UEM they score the union of both, as they say; recordings are annotated whole.
        warnings.filterwarnings("ignore", message="'uem' was approximated")
        der = DiarizationErrorRate(collar=0.0, skip_overlap=False)(truth, said, detailed=True)
        jer = JaccardErrorRate(collar=0.0, skip_overlap=False)(truth, said, detailed=True)
    return TurnErrors(
        speech_s=float(der["total"]),
        missed_s=float(der["missed detection"]),
        false_alarm_s=float(der["false alarm"]),
        confused_s=float(der["confusion"]),
        speakers=float(jer["speaker count"]),
        speaker_errors=float(jer["speaker error"]),
    )


def _annotation(turns: Sequence[Turn]) -> "Annotation":
    from pyannote.core import Annotation, Segment

    made = Annotation()
    for number, turn in enumerate(turns):
        span = Segment(turn.span.start / SAMPLE_RATE_HZ, turn.span.end / SAMPLE_RATE_HZ)
        made[span, number] = turn.speaker
    return made


def diarization_error_rate(reference: Sequence[Turn], hypothesis: Sequence[Turn]) -> float:
    """DER against a reference in which somebody speaks."""
    found = turn_errors(reference, hypothesis).der
    assert found is not None, "nobody speaks in the reference"
    return found
