"""Live sessions in virtual time: what the recognizer is asked, and its answers.

The product's own sessions, endpointing and scheduler, in virtual time: packets arrive at the pace
of speech, and the recognizer is asked for everything that waits every half second, as if calls
took that long. So the calls depend on the audio and the answers alone, and can be asked
again for a measurement of time.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from load_tests.bench.speech import Recording, Speech
from server.config import Settings
from server.dispatch import stage_limits
from server.engines.registry import EngineSpec
from server.engines.silero import SileroVoiceActivity
from server.hub import lane_options
from streaming.batching import Batch, Scheduler
from streaming.engines import (
    ActivityWindow,
    Hypothesis,
    ProfiledRecognizer,
    Samples,
    SpeechWindow,
)
from streaming.events import Event, Final, Partial, SessionStage
from streaming.jobs import Job, JobKind
from streaming.session import Session
from streaming.timeline import SAMPLE_RATE_HZ
from streaming.wire import Start

PACKET_MS = 100
CALLS_APART_MS = 500
EVENTS_READ_MAX = 1_000
REST_MS_MAX = 20_000
"""After the end of all audio, until every session has its last final."""
BUFFER_S = 60.0


@dataclass(frozen=True, slots=True)
class Caption:
    """A final, and what stood in its place before."""

    recording: int
    partial: Partial | None
    final: Final


@dataclass(slots=True)
class Played:
    """All that was asked and answered."""

    calls: list[list[SpeechWindow]] = field(default_factory=list)
    answers: list[list[Hypothesis]] = field(default_factory=list)
    captions: list[Caption] = field(default_factory=list)
    stable_words: int = 0
    broken_stable_words: int = 0
    dropped_partials: int = 0
    """A newer question took their place before they were asked."""

    @property
    def windows(self) -> list[SpeechWindow]:
        return [window for call in self.calls for window in call]

    @property
    def finals(self) -> list[SpeechWindow]:
        """With the drafts that they had."""
        return [window for window in self.windows if window.is_final]

    @property
    def final_seconds(self) -> float:
        return sum(len(window.samples) for window in self.finals) / SAMPLE_RATE_HZ


def play(
    speech: Speech, recognizer: ProfiledRecognizer, *, calls_apart_ms: int = CALLS_APART_MS
) -> Played:
    """All recordings at once, from their first packet to their last final."""
    desk = _Desk(recognizer, speech.recordings)
    longest = max(len(recording.samples) for recording in speech.recordings)
    now_ms = 0
    while not desk.is_done or now_ms * SAMPLE_RATE_HZ < longest * 1000:
        now_ms += PACKET_MS
        assert now_ms < longest * 1000 // SAMPLE_RATE_HZ + REST_MS_MAX, "a session does not end"
        desk.hear(now_ms)
        if now_ms % calls_apart_ms == 0:
            desk.recognize(now_ms)
    for talk in desk.talks:
        desk.played.stable_words += talk.session.stats.stable_words
        desk.played.broken_stable_words += talk.session.stats.broken_stable_words
    return desk.played


class _Talk:
    """One recording on its way through a session."""

    def __init__(self, index: int, recording: Recording) -> None:
        start = Start(language="en", diarize=False)
        options = lane_options(Settings(buffer_s=BUFFER_S), None)
        self.session = Session(f"bench-{index}", start, options, seed=index)
        self._index = index
        self._samples: Samples = recording.samples
        self._sent = 0
        self._cursor = self.session.log.cursor()
        self._shown: dict[str, Partial] = {}

    @property
    def is_done(self) -> bool:
        return self._sent == len(self._samples) and self.session.is_quiet

    def hear(self, until: int, now_ns: int) -> None:
        """The audio up to a sample, and its end after the last."""
        if self._sent == len(self._samples):
            return
        packet = self._samples[self._sent : until]
        self._sent += len(packet)
        self.session.receive_audio(packet.tobytes(), now_ns)
        if self._sent == len(self._samples):
            self.session.end_of_audio(now_ns)

    def read(self) -> list[Caption]:
        """As a reader and a store that are never behind."""
        log = self.session.log
        if log.has_unstored:
            log.take_unstored()
        log.mark_stored(log.last_seq)
        events = self._cursor.read(EVENTS_READ_MAX)
        return [caption for event in events if (caption := self._caption(event)) is not None]

    def _caption(self, event: Event) -> Caption | None:
        if isinstance(event, Partial):
            self._shown[event.caption_id] = event
        if not isinstance(event, Final):
            return None
        return Caption(self._index, self._shown.pop(event.caption_id, None), event)


class _Desk:
    """Carries questions to the engines."""

    def __init__(self, recognizer: ProfiledRecognizer, recordings: Sequence[Recording]) -> None:
        self.talks = [_Talk(i, one) for i, one in enumerate(recordings)]
        self.played = Played()
        self._by_id = {talk.session.id: talk for talk in self.talks}
        self._recognizer = recognizer
        self._activity = SileroVoiceActivity.from_spec(EngineSpec(SessionStage.ACTIVITY, "silero"))
        limits = stage_limits(Settings().batch_windows_max, recognizer.profile)
        self._scheduler = Scheduler(limits[SessionStage.RECOGNITION])

    @property
    def is_done(self) -> bool:
        return all(talk.is_done for talk in self.talks)

    def hear(self, now_ms: int) -> None:
        """The next packet of each session."""
        for talk in self.talks:
            talk.hear(now_ms * SAMPLE_RATE_HZ // 1000, now_ms * 1_000_000)
        self._submit(now_ms)

    def recognize(self, now_ms: int) -> None:
        """Everything that waits, and what its answers lead to."""
        while (batch := self._scheduler.schedule(now_ms * 1_000_000)) is not None:
            self._answer(batch, now_ms)
            self._submit(now_ms)

    def _submit(self, now_ms: int) -> None:
        """Questions about words wait; those about speech are answered at once."""
        now_ns = now_ms * 1_000_000
        while True:
            jobs = [job for talk in self.talks for job in talk.session.take_jobs(now_ns)]
            heard = [job for job in jobs if job.kind is JobKind.DETECT]
            for job in jobs:
                if job.kind is JobKind.RECOGNIZE:
                    for lost in self._scheduler.add(job, now_ns):
                        self.played.dropped_partials += 1
                        self._by_id[lost.session_id].session.receive_failure(lost.number)
            if not heard:
                return
            self._detect(heard, now_ns)

    def _detect(self, jobs: list[Job], now_ns: int) -> None:
        windows = [q for job in jobs for q in job.questions if isinstance(q, ActivityWindow)]
        for job, answer in zip(jobs, self._activity.detect(windows), strict=True):
            self._by_id[job.session_id].session.receive_result(job.number, [answer], 0, now_ns)
            self._read(job)

    def _answer(self, batch: Batch, now_ms: int) -> None:
        windows = [q for job in batch.jobs for q in job.questions if isinstance(q, SpeechWindow)]
        answers = self._recognizer.recognize(windows)
        self.played.calls.append(windows)
        self.played.answers.append(answers)
        for job, answer in zip(batch.jobs, answers, strict=True):
            session = self._by_id[job.session_id].session
            session.receive_result(job.number, [answer], 0, now_ms * 1_000_000)
            self._read(job)

    def _read(self, job: Job) -> None:
        self.played.captions += self._by_id[job.session_id].read()
