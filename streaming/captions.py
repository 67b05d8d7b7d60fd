"""Words and speakers become captions; what was sent is remembered so that it can be revised.

Owns caption ids, the speaker of each sent word, and revisions. Knows no wire format, no audio, no
model. Asks ``attribution`` for every speaker and decides none itself.

Invariants: C1 a caption's words and times never change once it is final; C2 a revision names only
words whose speaker differs from what was sent last; C3 captions older than the revision horizon
are forgotten, except for the last pass, which may reach back ``CAPTIONS_MAX`` captions.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from streaming.attribution import attribute_by_overlap
from streaming.engines import Word
from streaming.events import CaptionWord, SpeakerRun
from streaming.timeline import SAMPLE_RATE_HZ, Span
from streaming.turns import Turn

REVISION_HORIZON_SAMPLES = 120 * SAMPLE_RATE_HZ
"""Live revisions reach back this far: nobody watches older lines change."""
CAPTIONS_MAX = 2_000
"""More than 30 minutes of the shortest captions that endpointing makes."""

NAMES_MAX = 64
"""Names of a lane that audio not yet captioned may fall under; the oldest are forgotten first, and
words from before them are the diarizer's."""
SPEAKERS_MAX = 1_000
"""Names that a lane is known to have spoken under; more are captioned, and not counted."""

STATE_CAPTIONS_MAX = 64
"""Captions in a state: those whose speakers are still looked for, from half a minute of talk."""
STATE_NAMES_MAX = 64

Attribute = Callable[[Sequence[Span], Sequence[Turn]], list[str | None]]


@dataclass(slots=True)
class SentCaption:
    """What readers hold of a final caption."""

    caption_id: str
    words: tuple[Span, ...]
    speakers: list[str | None]
    rev: int = 0
    is_named: bool = False
    """Its lane had a name: no turn has a say in it."""


@dataclass(frozen=True, slots=True)
class BookState:
    """What whoever takes a lane over must know of its captions."""

    names: tuple[tuple[int, str | None], ...]
    named_speakers: tuple[str, ...]
    sent: tuple[SentCaption, ...]


@dataclass(frozen=True, slots=True)
class SpeakerChange:
    """One caption's new speakers."""

    caption_id: str
    rev: int
    runs: tuple[SpeakerRun, ...]


class CaptionBook:
    """One lane's captions.

    ``lane_name`` is the speaker of every word where the lane belongs to one person; acoustic
    turns are then not asked for. A lane may get another name; no caption reaches across that.
    """

    def __init__(
        self, lane_name: str | None = None, attribute: Attribute = attribute_by_overlap
    ) -> None:
        self._attribute = attribute
        self._names: deque[tuple[int, str | None]] = deque([(0, lane_name)], NAMES_MAX)
        """(sample, whose the audio is from there on)"""
        self._sent: deque[SentCaption] = deque(maxlen=CAPTIONS_MAX)
        self.named_speakers: set[str] = set()
        """Those who said something while the lane had their name."""

    @property
    def lane_name(self) -> str | None:
        """Whose the newest audio is."""
        return self._names[-1][1]

    def state(self, since: int) -> BookState:
        """What ``resume`` needs; captions that end before sample ``since`` keep their speakers."""
        sent = [caption for caption in self._sent if _ends_after(caption, since)]
        speakers = sorted(self.named_speakers)[:STATE_NAMES_MAX]
        return BookState(tuple(self._names), tuple(speakers), tuple(sent[-STATE_CAPTIONS_MAX:]))

    def resume(self, state: BookState) -> None:
        """Go on with the book whose state it was."""
        self._names.clear()
        self._names.extend(state.names)
        self.named_speakers.update(state.named_speakers)
        self._sent.extend(state.sent)

    def rename(self, name: str | None, at: int) -> None:
        """Audio from sample ``at`` on is this person's; None: as the turns say."""
        if self._names[-1][0] == at:
            self._names.pop()
        self._names.append((at, name))

    def name_at(self, sample: int) -> str | None:
        """Whose the audio at a sample is."""
        return next((name for at, name in reversed(self._names) if at <= sample), None)

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
        name = self.name_at(spans[0].start) if spans else None
        if name is not None and len(self.named_speakers) < SPEAKERS_MAX:
            self.named_speakers.add(name)
        speakers = [word.speaker for word in words]
        self._sent.append(SentCaption(caption_id, spans, speakers, is_named=name is not None))

    def revise(self, turns: Sequence[Turn], *, since: int = 0) -> list[SpeakerChange]:
        """Compare every remembered caption that ends after sample ``since`` with the turns."""
        open_to_turns = (sent for sent in self._sent if not sent.is_named)
        changes = [self._revise_one(s, turns) for s in open_to_turns if _ends_after(s, since)]
        return [change for change in changes if change is not None]

    def _revise_one(self, sent: SentCaption, turns: Sequence[Turn]) -> SpeakerChange | None:
        speakers = self._attribute(sent.words, turns)
        # A name that was given is not taken back for want of evidence: turns age out of memory.
        speakers = [new or old for new, old in zip(speakers, sent.speakers, strict=True)]
        runs = changed_runs(sent.speakers, speakers)
        if not runs:
            return None
        sent.speakers = speakers
        sent.rev += 1
        return SpeakerChange(sent.caption_id, sent.rev, runs)

    def _speakers(self, words: Sequence[Span], turns: Sequence[Turn]) -> list[str | None]:
        name = self.name_at(words[0].start) if words else None
        return self._attribute(words, turns) if name is None else [name] * len(words)


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
