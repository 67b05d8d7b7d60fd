"""Words and speakers become captions; what was sent is remembered so that it can be revised.

Owns caption ids, the speaker of each sent word, and revisions. Knows no wire format, no audio, no
model. Asks ``attribution`` for every speaker and decides none itself.

Invariants: C1 a caption's words and times never change once it is final; C2 a revision names only
words whose speaker differs from what was sent last; C3 captions older than the revision horizon
are forgotten, except for the last pass, which may reach back ``CAPTIONS_MAX`` captions.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from streaming.attribution import attribute_by_overlap
from streaming.engines import Word
from streaming.events import CaptionWord, SpeakerRun
from streaming.timeline import SAMPLE_RATE_HZ, Span
from streaming.turns import Turn

REVISION_HORIZON_SAMPLES = 120 * SAMPLE_RATE_HZ
"""Live revisions reach back this far: nobody watches older lines change."""
CAPTIONS_MAX = 2_000
"""More than 30 minutes of the shortest captions that endpointing makes."""

Attribute = Callable[[Sequence[Span], Sequence[Turn]], list[str | None]]


@dataclass(slots=True)
class SentCaption:
    """What readers hold of a final caption."""

    caption_id: str
    words: tuple[Span, ...]
    speakers: list[str | None]
    rev: int = 0


@dataclass(frozen=True, slots=True)
class SpeakerChange:
    """One caption's new speakers."""

    caption_id: str
    rev: int
    runs: tuple[SpeakerRun, ...]


@dataclass(slots=True)
class CaptionBook:
    """One lane's captions.

    ``lane_name`` is the speaker of every word where the lane belongs to one person; acoustic
    turns are then not asked for.
    """

    lane_name: str | None = None
    attribute: Attribute = attribute_by_overlap
    _sent: deque[SentCaption] = field(default_factory=lambda: deque(maxlen=CAPTIONS_MAX))

    @property
    def has_words(self) -> bool:
        return bool(self._sent)

    def attributed(self, words: Sequence[Word], turns: Sequence[Turn]) -> tuple[CaptionWord, ...]:
        """The words with their speakers, as far as they are known now."""
        spans = [word.span for word in words]
        return tuple(
            CaptionWord(word.text, word.span, word.confidence, speaker, word.is_glued)
            for word, speaker in zip(words, self._speakers(spans, turns), strict=True)
        )

    def remember(self, caption_id: str, words: Sequence[CaptionWord]) -> None:
        """These words were committed as a final caption."""
        spans = tuple(word.span for word in words)
        self._sent.append(SentCaption(caption_id, spans, [word.speaker for word in words]))

    def revise(self, turns: Sequence[Turn], *, since: int = 0) -> list[SpeakerChange]:
        """Compare every remembered caption that ends after sample ``since`` with the turns."""
        changes = [self._revise_one(sent, turns) for sent in self._sent if _ends_after(sent, since)]
        return [change for change in changes if change is not None]

    def _revise_one(self, sent: SentCaption, turns: Sequence[Turn]) -> SpeakerChange | None:
        speakers = self._speakers(sent.words, turns)
        # A name that was given is not taken back for want of evidence: turns age out of memory.
        speakers = [new or old for new, old in zip(speakers, sent.speakers, strict=True)]
        runs = changed_runs(sent.speakers, speakers)
        if not runs:
            return None
        sent.speakers = speakers
        sent.rev += 1
        return SpeakerChange(sent.caption_id, sent.rev, runs)

    def _speakers(self, words: Sequence[Span], turns: Sequence[Turn]) -> list[str | None]:
        if self.lane_name is not None:
            return [self.lane_name] * len(words)
        return self.attribute(words, turns)


def _ends_after(sent: SentCaption, sample: int) -> bool:
    return bool(sent.words) and sent.words[-1].end > sample


def changed_runs(old: Sequence[str | None], new: Sequence[str | None]) -> tuple[SpeakerRun, ...]:
    """Maximal runs of words that changed to one speaker."""
    runs: list[SpeakerRun] = []
    for index, (before, after) in enumerate(zip(old, new, strict=True)):
        if before == after:
            continue
        if runs and runs[-1].to_word == index and runs[-1].speaker == after:
            runs[-1] = SpeakerRun(runs[-1].from_word, index + 1, after)
        else:
            runs.append(SpeakerRun(index, index + 1, after))
    return tuple(runs)


def mean_confidence(words: Sequence[CaptionWord]) -> float | None:
    """The mean over words that have one, with three decimals."""
    known = [word.confidence for word in words if word.confidence is not None]
    return round(sum(known) / len(known), 3) if known else None
