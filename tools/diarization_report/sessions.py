"""Conversations of digits through whole sessions: who said which word, from audio to last event.

Voice activity, endpointing, windows, cuts, attribution with its clamping and hysteresis, revisions
and the last pass are the product's, with its default settings; audio comes at the pace of speech
and answers at once. Two recognizers: one that knows what was said and when, so that every error is
the diarizer's or the attribution's, and the checkpoint that ships with captiond.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from server.config import Settings
from server.engines.demo_whisper import from_spec as demo_recognizer
from server.engines.embedded_diarizer import EmbeddedDiarizer
from server.engines.registry import EngineSpec
from server.engines.silero import SileroVoiceActivity
from server.evaluation.heard import Heard
from server.evaluation.speaker_words import SpokenWord, attribution, cp_errors
from server.hub import lane_options
from server.scoring import word_errors
from streaming.attribution import attribute_by_overlap, attribute_by_segment
from streaming.engines import (
    Hypothesis,
    Observation,
    Recognizer,
    SpeakerChunk,
    SpeechWindow,
    VoiceActivity,
    Word,
)
from streaming.events import CaptionWord, SessionStage
from streaming.jobs import Answer, Job, JobKind
from streaming.session import Session, SessionState
from streaming.timeline import SAMPLE_RATE_HZ, Span, samples_from_ms
from streaming.turns import Turn
from streaming.wire import Start
from tools.diarization_report.cached import CachedEmbeddings
from tools.diarization_report.recordings import Known
from tools.diarization_report.tables import ATTRIBUTION_MIN, Promise, table

CPWER_OVER_WER_MAX = 0.02
PACKET_SAMPLES = samples_from_ms(100)
SEED = 1
EVENTS_READ_MAX = 1_000

Attribute = Callable[[Sequence[Span], Sequence[Turn]], Sequence[str | None]]


def _without_hysteresis(words: Sequence[Span], turns: Sequence[Turn]) -> Sequence[str | None]:
    return attribute_by_overlap(words, turns, margin_samples_max=-1)


RULES: Mapping[str, tuple[Attribute, bool]] = {
    "overlap": (attribute_by_overlap, True),
    "overlap, no hysteresis": (_without_hysteresis, True),
    "overlap, no clamping": (attribute_by_overlap, False),
    "segment": (attribute_by_segment, True),
    "segment, no clamping": (attribute_by_segment, False),
}
"""The rule, and whether words are clamped to speech before. The first is the product's."""


@dataclass(frozen=True, slots=True)
class Told:
    """What a client holds at the end of one conversation."""

    reference: tuple[SpokenWord, ...]
    words: tuple[CaptionWord, ...]
    first: tuple[str | None, ...]
    """The first speaker that each word had."""
    unclamped: tuple[Span, ...]
    """Where the recognizer had placed each word."""
    turns: tuple[Turn, ...]
    revisions: int

    def said(self, speakers: Sequence[str | None]) -> list[SpokenWord]:
        pairs = zip(self.words, speakers, strict=True)
        return [SpokenWord(word.text, word.span, speaker) for word, speaker in pairs]

    def said_by(self, rule: Attribute, *, is_clamped: bool) -> list[SpokenWord]:
        """With the speakers that a rule gives, of the turns that are known at the end."""
        spans = [word.span for word in self.words] if is_clamped else self.unclamped
        return self.said(list(rule(spans, self.turns)))

    @property
    def held(self) -> list[SpokenWord]:
        return self.said([word.speaker for word in self.words])


@dataclass(frozen=True, slots=True)
class SessionScores:
    """All conversations with one recognizer; errors per word of the reference."""

    recognizer: str
    words: int
    wer: float
    cpwer: float
    cpwer_first: float
    revisions: int
    attributed: float
    """Share of the recognized words whose speaker is right in the end."""
    by_rule: dict[str, float] = field(default_factory=dict)
    """The same, where each rule is given the turns of the end."""


class Observes(Protocol):
    """The half of a diarizer that hears."""

    def observe(self, chunks: Sequence[SpeakerChunk]) -> Sequence[Observation]: ...


class KnowsTheWords:
    """A recognizer that was told what is said: words whose middle a window holds."""

    def __init__(self, known: Known) -> None:
        self._words = [Word(word.text, word.span, 1.0) for word in known.words]

    def recognize(self, windows: Sequence[SpeechWindow]) -> list[Hypothesis]:
        return [self._hypothesis(window) for window in windows]

    def _hypothesis(self, window: SpeechWindow) -> Hypothesis:
        place = _place_of(window)
        held = [w for w in self._words if place.start <= _middle(w.span) < place.end]
        words = (replace(w, span=w.span.clamped(place).shifted(-place.start)) for w in held)
        return Hypothesis(tuple(words), "en")


def _middle(span: Span) -> int:
    return (span.start + span.end) // 2


def _place_of(window: SpeechWindow) -> Span:
    """On the lane: a window's seed is the session's, moved by its start."""
    start = window.seed - SEED
    return Span(start, start + len(window.samples))


class Desk:
    """One session's engines, in this process, on a clock of its own."""

    def __init__(
        self, activity: VoiceActivity, recognizer: Recognizer, embeddings: Observes
    ) -> None:
        options = lane_options(Settings(), EmbeddedDiarizer.profile)
        # Partials change no final, and cost most.
        self._session = Session("report", Start(language="en", partials=False), options, seed=SEED)
        self._activity, self._recognizer = activity, recognizer
        self._embeddings = embeddings
        self._cursor = self._session.log.cursor()
        self._heard = Heard(delays=None)
        self._placed: list[Word] = []
        """Words of finals as they were recognized, on the session's clock."""

    def caption(self, known: Known) -> Told:
        """All of one conversation."""
        session, now_ns = self._session, 0
        for start in range(0, len(known.samples), PACKET_SAMPLES):
            packet = known.samples[start : start + PACKET_SAMPLES]
            now_ns += len(packet) * 1_000_000_000 // SAMPLE_RATE_HZ
            session.receive_audio(packet.tobytes(), now_ns)
            self._settle(now_ns)
        session.end_of_audio(now_ns)
        self._settle(now_ns)
        assert session.state is SessionState.DONE, "somebody is still waited for"
        words = tuple(self._heard.words)
        return Told(
            reference=tuple(SpokenWord(w.text, w.span, w.speaker) for w in known.words),
            words=words,
            first=tuple(word.speaker for word in self._heard.words_as_first_sent),
            unclamped=tuple(map(self._unclamped, words)),
            turns=tuple(session._lanes[0]._speakers.turns),
            revisions=self._heard.revisions,
        )

    def _settle(self, now_ns: int) -> None:
        while (jobs := self._session.take_jobs(now_ns)) or self._read(now_ns):
            for job in jobs:
                self._session.receive_result(job.number, self._answers(job), 0, now_ns)

    def _answers(self, job: Job) -> list[Answer]:
        questions = list(job.questions)
        if job.kind is JobKind.DETECT:
            return [*self._activity.detect(questions)]  # type: ignore[arg-type]
        if job.kind is JobKind.OBSERVE:
            return [*self._embeddings.observe(questions)]  # type: ignore[arg-type]
        if job.kind is JobKind.CLUSTER:
            return [EmbeddedDiarizer.grouped(question) for question in questions]  # type: ignore[arg-type]
        found = self._recognizer.recognize(questions)  # type: ignore[arg-type]
        for question, hypothesis in zip(questions, found, strict=True):
            assert isinstance(question, SpeechWindow)
            start = _place_of(question).start
            self._placed += [replace(w, span=w.span.shifted(start)) for w in hypothesis.words]
        return [*found]

    def _read(self, now_ns: int) -> bool:
        """As a store and a reader that are never behind."""
        log = self._session.log
        if log.has_unstored:
            log.take_unstored()
        log.mark_stored(log.last_seq)
        news = self._cursor.read(EVENTS_READ_MAX)
        for event in news:
            self._heard.receive(event, now_ns / 1e9)
            self._session.note_written(event, now_ns)
        return bool(news)

    def _unclamped(self, word: CaptionWord) -> Span:
        """Words are only ever trimmed; the last one that was placed around it is meant."""
        around = (
            placed.span
            for placed in reversed(self._placed)
            if placed.text == word.text
            and placed.span.start <= word.span.start
            and word.span.end <= placed.span.end
        )
        return next(around, word.span)


def _recognizers() -> Iterator[tuple[str, Callable[[Known], Recognizer]]]:
    yield "reference words", KnowsTheWords
    demo = demo_recognizer(EngineSpec(SessionStage.RECOGNITION, "demo", threads=1))
    yield "demo checkpoint", lambda _: demo


def through_sessions(
    known: Sequence[Known],
    cache: CachedEmbeddings,
    parts: list[str],
    promises: list[Promise],
) -> None:
    """Adds its section to the report, and what must be reached to what is judged."""
    text, further = section(sessions(known, cache))
    parts.append(text)
    promises += further


def sessions(known: Sequence[Known], cache: CachedEmbeddings) -> list[SessionScores]:
    """Of the recordings whose words are known."""
    activity = SileroVoiceActivity.from_spec(EngineSpec(SessionStage.ACTIVITY, "silero", threads=1))
    return [
        scored(name, [Desk(activity, make(one), cache).caption(one) for one in known if one.words])
        for name, make in _recognizers()
    ]


def scored(recognizer: str, told: Sequence[Told]) -> SessionScores:
    """Errors pooled over conversations."""
    words = sum(len(one.reference) for one in told)
    errors = [word_errors(_text(one.reference), _text(one.held)) for one in told]
    wrong = sum(e.substitutions + e.deletions + e.insertions for e in errors)
    return SessionScores(
        recognizer=recognizer,
        words=words,
        wer=wrong / words,
        cpwer=sum(cp_errors(one.reference, one.held).errors for one in told) / words,
        cpwer_first=sum(cp_errors(one.reference, one.said(one.first)).errors for one in told)
        / words,
        revisions=sum(one.revisions for one in told),
        attributed=_share_right(told, lambda one: one.held),
        by_rule={
            name: _share_right(told, lambda one, r=rule, c=clamps: one.said_by(r, is_clamped=c))  # type: ignore[misc]
            for name, (rule, clamps) in RULES.items()
        },
    )


def _share_right(told: Sequence[Told], said: Callable[[Told], list[SpokenWord]]) -> float:
    found = [attribution(one.reference, said(one)) for one in told]
    return sum(one.right for one in found) / max(1, sum(one.recognized for one in found))


def _text(words: Sequence[SpokenWord]) -> str:
    return " ".join(word.text for word in words)


def section(scores: Sequence[SessionScores]) -> tuple[str, list[Promise]]:
    """Markdown, and what must be reached."""
    head = ("recognizer", "words", "WER", "cpWER", "cpWER of first labels", "revisions")
    rows = [
        (
            s.recognizer,
            f"{s.words}",
            *(f"{rate:.3f}" for rate in (s.wer, s.cpwer, s.cpwer_first)),
            f"{s.revisions}",
            f"{s.attributed:.3f}",
        )
        for s in scores
    ]
    rules = [(s.recognizer, *(f"{share:.3f}" for share in s.by_rule.values())) for s in scores]
    text = (
        f"## Digits through whole sessions\n\n{table((*head, 'words attributed'), rows)}\n"
        "Recognized words with the right speaker, by rule, given the turns of the end:\n\n"
        f"{table(('recognizer', *RULES), rules)}"
    )
    promises = []
    for s in scores:
        name = f"digits, {s.recognizer}"
        promises += [
            Promise(f"cpWER less WER, {name}", s.cpwer - s.wer, CPWER_OVER_WER_MAX),
            Promise(f"words attributed, {name}", s.attributed, ATTRIBUTION_MIN, is_most=False),
        ]
    return text, promises
