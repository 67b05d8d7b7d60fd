"""A session's durable events, folded into captions with their final speakers.

Owns: what a transcript is, its passages (one per run of words by one speaker) and what a name or a
word may hold in one. Used by the server over stored events and by clients over received ones.
Formats are the neighbouring files' matter.

Invariants:
X1  Folding the same events again, or a replayed part of them, changes nothing.
X2  A cue has text and lasts at least a millisecond; a passage has words, and each has text.
X3  Text and names in a cue are one line without control characters or direction overrides; so are
    a passage's words, which hold no space either.
"""

import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, groupby, pairwise

from streaming.events import (
    CaptionWord,
    Done,
    DurableEvent,
    Final,
    Gap,
    Revision,
    main_speaker,
    text_of,
)
from streaming.timeline import SAMPLES_PER_MS, Span

_REMOVED_CATEGORIES = frozenset({"Cc", "Cs"})
"""Controls, and lone surrogates, which UTF-8 cannot hold."""
_DIRECTION_CONTROLS = frozenset(map(chr, (*range(0x202A, 0x202F), *range(0x2066, 0x206A))))
"""They would turn around the text that follows theirs."""


@dataclass(frozen=True, slots=True)
class Caption:
    """One final with the speakers that its revisions gave it."""

    caption_id: str
    lane: int
    span: Span
    text: str
    language: str | None
    confidence: float | None
    speaker: str | None
    words: tuple[CaptionWord, ...]
    """Empty where the client asked for no words; then the caption has one speaker."""
    rev: int = 0

    def revised(self, revision: Revision) -> "Caption":
        """With the revision's speakers, unless it is already known."""
        if revision.rev <= self.rev:
            return self
        words = list(self.words)
        for run in revision.runs:
            for index in range(max(0, run.from_word), min(run.to_word, len(words))):
                words[index] = replace(words[index], speaker=run.speaker)
        speaker = main_speaker(words) if words else _longest_run(revision, self.speaker)
        return replace(self, words=tuple(words), speaker=speaker, rev=revision.rev)

    def named(self, names: Mapping[str, str]) -> "Caption":
        """With people's names in place of speakers that have one."""
        words = (replace(w, speaker=names.get(w.speaker or "", w.speaker)) for w in self.words)
        speaker = names.get(self.speaker or "", self.speaker)
        return replace(self, speaker=speaker, words=tuple(words))

    def passages(self) -> Iterator["Passage"]:
        """One per speaker run, in word order."""
        whole = CaptionWord(self.text, self.span, self.confidence, self.speaker)
        for speaker, run in groupby(self.words or (whole,), key=lambda word: word.speaker):
            words = tuple(_plain_words(run))
            if words:
                yield Passage(self.caption_id, self.lane, plain_name(speaker), words, self.language)

    def cues(self) -> Iterator["Cue"]:
        """One per passage."""
        for passage in self.passages():
            start_ms = passage.span.start // SAMPLES_PER_MS
            end_ms = max(start_ms + 1, -(-passage.span.end // SAMPLES_PER_MS))
            yield Cue(start_ms, end_ms, passage.speaker, passage.text)


@dataclass(frozen=True, slots=True)
class Passage:
    """Successive words of one caption by one speaker."""

    caption_id: str
    lane: int
    speaker: str | None
    words: tuple[CaptionWord, ...]
    """With times shared out by length where a caption has none, or a word holds spaces."""
    language: str | None

    @property
    def span(self) -> Span:
        start = min(word.span.start for word in self.words)
        return Span(start, max(word.span.end for word in self.words))

    @property
    def text(self) -> str:
        return text_of(self.words)


@dataclass(frozen=True, slots=True)
class Cue:
    """A line to show, by one speaker."""

    start_ms: int
    end_ms: int
    speaker: str | None
    text: str


@dataclass(frozen=True, slots=True)
class Transcript:
    """All captions in order of time, and what could not be captioned."""

    captions: tuple[Caption, ...]
    gaps: tuple[Gap, ...]
    audio_seconds: float | None
    """None while the session goes on."""

    @staticmethod
    def from_events(events: Iterable[DurableEvent]) -> "Transcript":
        """Fold events in order of ``seq``; a revision of an unknown caption changes nothing."""
        captions: dict[str, Caption] = {}
        gaps: dict[int, Gap] = {}
        audio_seconds = None
        for event in events:
            if isinstance(event, Final):
                captions.setdefault(event.caption_id, _caption(event))
            elif isinstance(event, Revision) and event.caption_id in captions:
                captions[event.caption_id] = captions[event.caption_id].revised(event)
            elif isinstance(event, Gap):
                gaps[event.seq] = event
            elif isinstance(event, Done):
                audio_seconds = event.audio_seconds
        in_order = sorted(captions.values(), key=lambda c: (c.span.start, c.span.end, c.lane))
        return Transcript(tuple(in_order), tuple(gaps.values()), audio_seconds)

    def named(self, names: Mapping[str, str]) -> "Transcript":
        """With people's names in place of speakers that have one."""
        return replace(self, captions=tuple(caption.named(names) for caption in self.captions))

    @property
    def speakers(self) -> tuple[str, ...]:
        """Whoever says a word, in order of appearance."""
        named = (passage.speaker for passage in self.passages())
        return tuple(dict.fromkeys(speaker for speaker in named if speaker))

    def passages(self) -> list[Passage]:
        """Every caption's passages, by start."""
        found = [passage for caption in self.captions for passage in caption.passages()]
        return sorted(found, key=lambda passage: passage.span.start)

    def cues(self) -> list[Cue]:
        """Every passage as a line, by start."""
        found = [cue for caption in self.captions for cue in caption.cues()]
        return sorted(found, key=lambda cue: cue.start_ms)


def plain(text: str) -> str:
    """The text as one inert line: no controls, no line breaks, single spaces."""
    return " ".join(_without_controls(text).split())


def plain_name(speaker: str | None) -> str | None:
    return plain(speaker or "") or None


def share_out(span: Span, parts: Sequence[str]) -> list[Span]:
    """The time of each part of a word, by length: the best guess where nothing better is known."""
    ends = list(accumulate((len(part) for part in parts), initial=0))
    cuts = [span.start + span.samples * end // max(1, ends[-1]) for end in ends]
    return [Span(start, end) for start, end in pairwise(cuts)]


def rounded_ms(sample: int) -> int:
    """The nearest millisecond, so that spans which touch still do."""
    return (sample + SAMPLES_PER_MS // 2) // SAMPLES_PER_MS


def _plain_words(words: Iterable[CaptionWord]) -> Iterator[CaptionWord]:
    """The words of ``plain(text_of(words))``: those that hold spaces divided, empty ones gone."""
    is_spaced = False
    for word in words:
        text = _without_controls(word.text)
        is_spaced = is_spaced or not word.is_glued or text[:1] == " "
        parts = text.split()
        for part, span in zip(parts, share_out(word.span, parts), strict=True):
            yield replace(word, text=part, span=span, is_glued=not is_spaced)
            is_spaced = True
        is_spaced = text[-1:] == " " if parts else is_spaced or text != ""


def _without_controls(text: str) -> str:
    spaced = "".join(" " if c.isspace() else c for c in text)
    return "".join(c for c in spaced if _is_kept(c))


def _is_kept(character: str) -> bool:
    is_removed = unicodedata.category(character) in _REMOVED_CATEGORIES
    return not is_removed and character not in _DIRECTION_CONTROLS


def _caption(final: Final) -> Caption:
    return Caption(
        caption_id=final.caption_id,
        lane=final.lane,
        span=final.span,
        text=final.text,
        language=final.language,
        confidence=final.confidence,
        speaker=final.speaker,
        words=final.words,
    )


def _longest_run(revision: Revision, otherwise: str | None) -> str | None:
    if not revision.runs:
        return otherwise
    return max(revision.runs, key=lambda run: run.to_word - run.from_word).speaker
