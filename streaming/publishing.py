"""What one lane says: committed and uncommitted text becomes events of the session's log.

Owns the wording of a lane's events and the language lock. Decides no word and no speaker: words
come from ``recognition``, speakers from ``captions``.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import isfinite

from streaming.captions import BookState, CaptionBook, mean_confidence
from streaming.engines import Hypothesis
from streaming.eventlog import EventLog
from streaming.events import (
    Degraded,
    Final,
    Gap,
    LanguageDetected,
    Partial,
    Revision,
    SessionStage,
    main_speaker,
    text_of,
)
from streaming.guards import named
from streaming.recognition import FinalText, LostText, PartialText
from streaming.stats import SessionStats
from streaming.timeline import Span
from streaming.turns import Turn

_LANGUAGE = re.compile("[a-z]{2,3}")
"""What the wire allows: an engine's word for it is not trusted."""


LOCK_PROBABILITY_MIN = 0.5
"""A language that is likelier than all others together; the bound of faster-whisper."""
UNSURE_FINALS_MAX = 3
"""After so many finals the session settles on what was likeliest over all of them: a language that
changes from caption to caption reads worse than a wrong one, and ``configure`` can set it right."""


@dataclass(slots=True)
class SpeechSettings:
    """How recognizers are to hear this session; ``configure`` changes it between windows."""

    language: str | None
    """None until it is given or settled."""
    task: str
    prompt: str | None
    keywords: tuple[str, ...]
    seed: int
    unsure: list[tuple[str, float]] = field(default_factory=list)
    """Languages of finals that were not sure enough to settle it, with their probabilities."""


@dataclass(frozen=True, slots=True)
class SessionScope:
    """What the lanes of one session share."""

    log: EventLog
    stats: SessionStats
    speech: SpeechSettings
    new_caption_id: Callable[[], str]
    new_speaker_name: Callable[[], str]


class Publisher:
    """One lane's voice in the log."""

    def __init__(self, lane: int, lane_name: str | None, scope: SessionScope) -> None:
        self._lane = lane
        self._scope = scope
        self._book = CaptionBook(lane_name)

    @property
    def lane_name(self) -> str | None:
        """Whose the audio is that comes now; None where the diarizer decides."""
        return self._book.lane_name

    @property
    def named_speakers(self) -> set[str]:
        """Those who said something while the lane had their name."""
        return self._book.named_speakers

    def name_at(self, sample: int) -> str | None:
        """Whose the audio at a sample is; None where the diarizer decides."""
        return self._book.name_at(sample)

    def rename(self, name: str | None, at: int) -> None:
        """Audio from sample ``at`` on is this person's."""
        self._book.rename(name, at)

    def state(self, since: int) -> BookState:
        """See ``CaptionBook.state``."""
        return self._book.state(since)

    def resume(self, state: BookState) -> None:
        """See ``CaptionBook.resume``."""
        self._book.resume(state)

    def partial(self, text: PartialText, turns: Sequence[Turn]) -> None:
        """Show uncommitted words."""
        log = self._scope.log
        words = self._book.attributed(text.words, turns)
        log.post(
            Partial(
                after_seq=log.last_seq,
                caption_id=text.caption_id,
                lane=self._lane,
                span=text.span,
                text=text_of(words),
                stable_words=text.stable_words,
                speaker=main_speaker(words),
                words=words,
            )
        )
        self._scope.stats.partials += 1

    def final(self, text: FinalText, turns: Sequence[Turn]) -> None:
        """Commit words; where there are none, withdraw what a partial showed."""
        stats = self._scope.stats
        stats.decoded_samples += text.span.samples
        stats.stable_words += text.stable_words
        stats.broken_stable_words += text.broken_stable_words
        stats.guards_fired.update(guard.value for guard in named(text.hypothesis.guards))
        if text.words:
            self._settle_language(text.hypothesis)
            self._append_final(text, turns)
        elif text.was_shown:
            self._withdraw(text.caption_id, text.span)

    def _append_final(self, text: FinalText, turns: Sequence[Turn]) -> None:
        log = self._scope.log
        words = self._book.attributed(text.words, turns)
        log.append(
            Final(
                seq=log.next_seq,
                caption_id=text.caption_id,
                lane=self._lane,
                span=Span(words[0].span.start, max(word.span.end for word in words)),
                text=text_of(words),
                language=_language_of(text.hypothesis) or self._scope.speech.language,
                confidence=mean_confidence(words),
                speaker=main_speaker(words),
                words=words,
                figures=text.hypothesis.figures,
            )
        )
        self._book.remember(text.caption_id, words)
        self._scope.stats.finals += 1
        self._scope.stats.words += len(words)

    def gap(self, lost: LostText) -> None:
        """Own up to audio without words."""
        log = self._scope.log
        log.append(Gap(log.next_seq, self._lane, lost.span, lost.reason))
        self._scope.stats.gap_samples[lost.reason] += lost.span.samples
        if lost.was_shown:
            self._withdraw(lost.caption_id, lost.span)

    def revise(self, turns: Sequence[Turn], *, since: int) -> None:
        """Tell readers which words changed speaker, in captions that end after ``since``."""
        log = self._scope.log
        for change in self._book.revise(turns, since=since):
            log.append(Revision(log.next_seq, change.caption_id, change.rev, change.runs))
            self._scope.stats.revisions += 1
            self._scope.stats.revised_words += sum(r.to_word - r.from_word for r in change.runs)

    def degraded(self, stage: SessionStage, reason: str) -> None:
        """Say once per session that a stage does not work."""
        if stage not in self._scope.stats.degraded_stages:
            self._scope.stats.degraded_stages.add(stage)
            self._scope.log.post(Degraded(self._scope.log.last_seq, stage, reason))

    def _withdraw(self, caption_id: str, span: Span) -> None:
        self.partial(PartialText(caption_id, span, (), 0), ())

    def _settle_language(self, hypothesis: Hypothesis) -> None:
        """Lock the session to the language of its first words.

        Finals alone decide: which partials came in time may not change what is committed.
        """
        speech, log = self._scope.speech, self._scope.log
        language, probability = _language_of(hypothesis), hypothesis.language_probability
        if speech.language is not None:
            speech.unsure.clear()
        elif language is not None and probability is not None:
            settled = _settled([*speech.unsure, (language, _share(probability))])
            if settled is None:
                speech.unsure.append((language, _share(probability)))
            else:
                speech.language = settled[0]
                speech.unsure.clear()
                log.append(LanguageDetected(log.next_seq, settled[0], round(settled[1], 3)))


def _settled(heard: Sequence[tuple[str, float]]) -> tuple[str, float] | None:
    """The language that the newest of ``heard`` is sure of, or the likeliest of enough, with its
    mean probability; None while they are too few."""
    newest = heard[-1]
    if newest[1] >= LOCK_PROBABILITY_MIN:
        return newest
    if len(heard) < UNSURE_FINALS_MAX:
        return None
    totals = dict.fromkeys((language for language, _ in heard), 0.0)
    for language, probability in heard:
        totals[language] += probability
    likeliest = max(totals, key=totals.__getitem__)
    return likeliest, totals[likeliest] / len(heard)


def _share(probability: float) -> float:
    return min(1.0, max(0.0, float(probability))) if isfinite(probability) else 0.0


def _language_of(hypothesis: Hypothesis) -> str | None:
    language = hypothesis.language
    return language if language is not None and _LANGUAGE.fullmatch(language) else None
