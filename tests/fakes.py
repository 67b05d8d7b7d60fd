"""A whole captiond in one thread: sessions, a scheduler per stage, scripted engines, no clock.

The engines are the ones that workers run, called directly, so nothing here can drift from them.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from server.engines.scripted import ScriptedDiarizer, ScriptedRecognizer, ScriptedVoiceActivity
from streaming.batching import BatchLimits, Scheduler
from streaming.endpointing import EndpointingOptions
from streaming.engines import Samples
from streaming.eventlog import Behind
from streaming.events import Done, DurableEvent, Event, Final, Revision, SessionStage
from streaming.jobs import Answer, Job, JobKind
from streaming.keeping import SavedPoint
from streaming.lane import LaneOptions
from streaming.reading import WordDelay
from streaming.scripted_audio import encode_word, word_text
from streaming.session import Session
from streaming.timeline import SAMPLE_RATE_HZ
from streaming.windows import WindowOptions
from streaming.wire import Ack, AudioFormat, Start

MS = 1_000_000
E = TypeVar("E")


def lane_options(**changes: object) -> LaneOptions:
    """Defaults of the server, with scripted speakers."""
    options: dict[str, object] = {
        "buffer_samples": 120 * SAMPLE_RATE_HZ,
        "endpointing": EndpointingOptions(),
        "windows": WindowOptions(),
        "diarizer": ScriptedDiarizer().profile,
    }
    return LaneOptions(**{**options, **changes})  # type: ignore[arg-type]


def silence(seconds: float) -> Samples:
    return np.zeros(round(seconds * SAMPLE_RATE_HZ), np.int16)


def speech(numbers: Iterable[int], *, stream: int = 1, speaker: int = 0) -> Samples:
    """Scripted words, one after the other."""
    return np.concatenate([encode_word(stream, number, speaker) for number in numbers])


def word_texts(numbers: Iterable[int], *, stream: int = 1) -> list[str]:
    return [word_text(stream, number) for number in numbers]


@dataclass
class Engines:
    """Answers jobs at once; ``fails`` says which job gets no answer, ``changes`` what becomes of
    an answer."""

    fails: Callable[[Job], bool] = lambda job: False
    changes: Callable[[Job, list[Answer]], list[Answer]] = lambda job, answers: answers
    asked: list[Job] = field(default_factory=list)
    _activity: ScriptedVoiceActivity = field(default_factory=ScriptedVoiceActivity)
    _recognizer: ScriptedRecognizer = field(default_factory=ScriptedRecognizer)
    _diarizer: ScriptedDiarizer = field(default_factory=ScriptedDiarizer)

    def answer(self, job: Job) -> list[Answer] | None:
        self.asked.append(job)
        if self.fails(job):
            return None
        method = {
            JobKind.DETECT: self._activity.detect,
            JobKind.RECOGNIZE: self._recognizer.recognize,
            JobKind.OBSERVE: self._diarizer.observe,
            JobKind.CLUSTER: self._diarizer.cluster,
        }[job.kind]
        answers: list[Answer] = list(method(job.questions))  # type: ignore[operator]
        return self.changes(job, answers)


@dataclass
class Desk:
    """Drives one session as the server would, on a virtual clock."""

    session: Session
    engines: Engines = field(default_factory=Engines)
    now_ns: int = 0
    events: list[Event] = field(default_factory=list)
    acks: list[Ack] = field(default_factory=list)
    delays: list[WordDelay] = field(default_factory=list)
    is_storing: bool = True
    is_reading: bool = True
    holds: Callable[[Job], bool] = lambda job: False
    """Jobs whose answers wait in ``held`` until ``answer_held``."""
    held: list[Job] = field(default_factory=list)
    stored: list[DurableEvent] = field(default_factory=list)
    """By all owners of the session."""
    point: SavedPoint | None = None
    """The checkpoint that is stored."""
    _schedulers: dict[SessionStage, Scheduler] = field(
        default_factory=lambda: {stage: Scheduler(BatchLimits(8)) for stage in SessionStage}
    )

    def __post_init__(self) -> None:
        self._cursor = self.session.log.cursor(len(self.stored))

    def play(self, audio: Samples, packet_ms: float = 100.0) -> None:
        """Send audio at its own pace."""
        size = max(1, round(packet_ms * SAMPLE_RATE_HZ / 1000))
        for start in range(0, len(audio), size):
            packet = audio[start : start + size]
            self.now_ns += len(packet) * 1_000_000_000 // SAMPLE_RATE_HZ
            self.send(packet.tobytes())

    def send(self, data: bytes) -> None:
        """One packet, now."""
        self.session.receive_audio(data, self.now_ns)
        self.settle()

    def wait(self, seconds: float) -> None:
        """Nothing comes for a while; deadlines are met on time."""
        end_ns = self.now_ns + round(seconds * 1e9)
        while (due_ns := self.session.deadline_ns) is not None and due_ns <= end_ns:
            self.now_ns = max(self.now_ns, due_ns)
            self.session.handle_deadline(self.now_ns)
            self.settle()
            assert self.session.deadline_ns != due_ns, "it would wake for ever"
        self.now_ns = end_ns

    def answer_held(self, *, newest_first: bool = False) -> None:
        """The withheld answers come after all."""
        jobs, self.held = self.held, []
        for job in reversed(jobs) if newest_first else jobs:
            self._answer(job)
        self.settle()

    @property
    def texts(self) -> list[str]:
        """The finals' texts, in order."""
        return [final.text for final in of_type(Final, self.events)]

    @property
    def durable(self) -> list[DurableEvent]:
        return [event for event in self.events if isinstance(event, DurableEvent)]

    def end(self) -> list[Event]:
        self.session.end_of_audio(self.now_ns)
        self.settle()
        return self.events

    def settle(self) -> None:
        """Work until nothing is left to do."""
        while self._step():
            pass

    def _step(self) -> bool:
        jobs = self.session.take_jobs(self.now_ns)
        for job in jobs:
            for lost in self._schedulers[job.stage].add(job, self.now_ns):
                self.session.receive_failure(lost.number)
        worked = [self._run(stage) for stage in SessionStage]
        return self._deliver() or any(worked) or bool(jobs)

    def _run(self, stage: SessionStage) -> bool:
        batch = self._schedulers[stage].schedule(self.now_ns)
        for job in batch.jobs if batch else ():
            if self.holds(job):
                self.held.append(job)
            else:
                self._answer(job)
        return batch is not None

    def _answer(self, job: Job) -> None:
        answers = self.engines.answer(job)
        if answers is None:
            self.session.receive_failure(job.number)
        else:
            self.session.receive_result(job.number, answers, 1 * MS, self.now_ns)

    def _deliver(self) -> bool:
        if self.is_storing:
            self._store()
        news = self._news() if self.is_reading else []
        for event in news:
            self.delays += self.session.note_written(event, self.now_ns)
        self.events += news
        ack = self.session.take_ack()
        if ack is not None:
            self.acks.append(ack)
        return bool(news)

    def _store(self) -> None:
        """Events and checkpoint go together, as in one transaction."""
        log = self.session.log
        if not log.has_unstored and not self.session.is_checkpoint_due:
            return
        self.stored += log.take_unstored()
        point = self.session.checkpoint()
        if point is not None:
            self.point = point
            self.session.note_kept(point)
        log.mark_stored(log.last_seq)

    def _news(self) -> list[Event]:
        try:
            return self._cursor.read(1_000)
        except Behind as behind:
            self._cursor.skip_through(behind.through_seq)
            return [*self.stored[behind.after_seq : behind.through_seq]]


def new_session(start: Start | None = None, **options: object) -> Session:
    return Session("s1", start or Start(), lane_options(**options), seed=7)


def speakers_of(events: Iterable[Event]) -> dict[str, list[str | None]]:
    """Caption → speaker of each word, as a reader that folds in the revisions has it."""
    speakers: dict[str, list[str | None]] = {}
    for event in events:
        if isinstance(event, Final):
            speakers[event.caption_id] = [word.speaker for word in event.words]
        elif isinstance(event, Revision):
            for run in event.runs:
                count = run.to_word - run.from_word
                speakers[event.caption_id][run.from_word : run.to_word] = [run.speaker] * count
    return speakers


def desk(start: Start | None = None, *, engines: Engines | None = None, **options: object) -> Desk:
    return Desk(new_session(start, **options), engines or Engines())


def conversation(*, words: int = 12, pause_s: float = 1.0) -> Samples:
    """Two speakers, a pause between them and after them."""
    first = speech(range(words // 2))
    second = speech(range(words // 2, words), speaker=1)
    return np.concatenate([first, silence(pause_s), second, silence(pause_s)])


def words_of(events: list[Event], lane: int = 0) -> list[str]:
    finals = [final for final in of_type(Final, events) if final.lane == lane]
    return [word.text for final in finals for word in final.words]


def done(events: list[Event]) -> Done:
    (event,) = of_type(Done, events)
    return event


def channels(*lanes: Samples, names: list[str | None] | None = None) -> tuple[Start, Samples]:
    """Interleaved audio and the start message for it."""
    samples = max(len(lane) for lane in lanes)
    padded = [np.pad(lane, (0, samples - len(lane))) for lane in lanes]
    audio = AudioFormat(channels=len(lanes), channel_names=names)
    return Start(audio=audio), np.stack(padded, axis=1).ravel()


def of_type(kind: type[E], events: Iterable[Event]) -> list[E]:
    return [event for event in events if isinstance(event, kind)]
