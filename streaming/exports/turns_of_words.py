"""What captions say about who spoke when: the one rule for RTTM files and for scores."""

from collections.abc import Iterable

from streaming.events import CaptionWord
from streaming.timeline import samples_from_ms
from streaming.turns import Turn, merge_turns

PAUSE_MS_MAX = 500
"""Words of one speaker that are nearer than this are one turn, as NIST's scoring has it."""


def turns_of_words(words: Iterable[CaptionWord]) -> list[Turn]:
    """Each speaker's words, short pauses bridged; words whose speaker is unknown are nobody's."""
    by_speaker: dict[str, list[Turn]] = {}
    for word in words:
        if word.speaker is not None:
            by_speaker.setdefault(word.speaker, []).append(Turn(word.span, word.speaker))
    gap = samples_from_ms(PAUSE_MS_MAX)
    return sorted(merged for turns in by_speaker.values() for merged in merge_turns(turns, gap))
