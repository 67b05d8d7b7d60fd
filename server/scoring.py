"""How good captions were: word and speaker errors against a reference.

Imports its libraries when asked, so that no server process pays for them.
WER: lower case, without punctuation (jiwer). DER: pyannote.metrics, no collar, overlap scored.
"""

import re
import warnings
from collections.abc import Iterable, Sequence

from streaming.events import CaptionWord
from streaming.timeline import samples_from_ms
from streaming.turns import Turn, merge_turns

PAUSE_MS_MAX = 500
"""Words of one speaker that are nearer than this are one turn, as NIST's scoring has it."""

_PUNCTUATION = re.compile(r"[^\w\s']")


def normalized(text: str) -> str:
    return " ".join(_PUNCTUATION.sub(" ", text).lower().split())


def word_error_rate(reference: str, hypothesis: str) -> float:
    """Substitutions, deletions and insertions per reference word; may exceed 1."""
    import jiwer

    return round(float(jiwer.wer(normalized(reference), normalized(hypothesis))), 4)


def turns_of_words(words: Iterable[CaptionWord]) -> list[Turn]:
    """What captions say about who spoke when: each speaker's words, short pauses bridged."""
    turns = [Turn(word.span, word.speaker) for word in words if word.speaker is not None]
    speakers = dict.fromkeys(turn.speaker for turn in turns)
    gap = samples_from_ms(PAUSE_MS_MAX)
    return sorted(
        merged
        for speaker in speakers
        for merged in merge_turns([t for t in turns if t.speaker == speaker], gap)
    )


def diarization_error_rate(reference: Sequence[Turn], hypothesis: Sequence[Turn]) -> float:
    """Missed, falsely detected and confused speech over all speech of the reference."""
    from pyannote.core import Annotation, Segment
    from pyannote.metrics.diarization import DiarizationErrorRate

    def annotation(turns: Sequence[Turn]) -> Annotation:
        made = Annotation()
        for number, turn in enumerate(turns):
            made[Segment(turn.span.start / 16_000, turn.span.end / 16_000), number] = turn.speaker
        return made

    with warnings.catch_warnings():
        # Without a UEM it scores the union of both, as it says; the clips are annotated whole.
        warnings.filterwarnings("ignore", message="'uem' was approximated")
        metric = DiarizationErrorRate(collar=0.0, skip_overlap=False)
        return round(float(metric(annotation(reference), annotation(hypothesis))), 4)
