"""The offline reference: a whole recording in one packet through a session, nothing else.

The same session, schedulers and engine processes as the server's, without sockets, store, or the
passing of time: what the captions would be if the engines were infinitely fast. Time stands
still, so there are no delays to report.
"""

import contextlib
import time
from collections.abc import AsyncIterator

from clients.audio_source import AudioSourceError, FileSource
from server.config import Settings
from server.dispatch import call_seconds_max
from server.engine_specs import engine_specs
from server.evaluation.heard import Heard
from server.evaluation.manifest import EvaluationError, Recording
from server.evaluation.run import Progress
from server.hub import lane_options
from server.workers import CallFailed, CallTimeout, EngineWorker, WorkerDied
from streaming.batching import Batch, BatchLimits, Scheduler
from streaming.eventlog import Behind
from streaming.events import Event, SessionStage
from streaming.session import Session, SessionState
from streaming.wire import Start

NOW_NS = 0
SEED = 1
EVENTS_READ_MAX = 1_000


class OfflineEngines:
    """One process per stage, for any number of recordings one after the other."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._workers: dict[SessionStage, EngineWorker] = {}

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator["OfflineEngines"]:
        """Raises: EngineUnavailable."""
        try:
            for stage, spec in engine_specs(self._settings).items():
                self._workers[stage] = EngineWorker(spec)
                await self._workers[stage].start()
            yield self
        finally:
            for worker in self._workers.values():
                await worker.close()

    @property
    def descriptions(self) -> dict[str, str]:
        """What each stage's engine says of itself."""
        ready = {stage: worker.ready for stage, worker in self._workers.items()}
        return {stage.value: said.description for stage, said in ready.items() if said}

    async def caption(self, recording: Recording, progress: Progress) -> Heard:
        """Raises: EvaluationError."""
        try:
            source = FileSource(recording.audio)
            rate = source.audio.sample_rate
            audio = b"".join([packet async for packet in source.packets(rate)])
        except AudioSourceError as error:
            raise EvaluationError(str(error)) from None
        start = Start(audio=source.audio, language=recording.language, partials=False)
        session = self._session(start, source.frames / rate)
        desk = _Desk(session, self._workers, self._settings.call_timeout_s)
        started_s = time.monotonic()
        try:
            await desk.caption(audio)
        except (CallFailed, CallTimeout, WorkerDied) as error:
            raise EvaluationError(f"an engine failed: {error}") from None
        heard = desk.heard
        heard.engines = self.descriptions
        engine_ns = desk.session.stats.engine_ns
        heard.engine_s = {stage.value: engine_ns[stage] / 1e9 for stage in self._workers}
        heard.wall_s = time.monotonic() - started_s
        progress(source.frames / rate)
        return heard

    def _session(self, start: Start, audio_s: float) -> Session:
        """With credit for the whole recording."""
        diarizer = self._workers.get(SessionStage.DIARIZATION)
        ready = diarizer.ready if diarizer else None
        buffer_s = max(self._settings.buffer_s, audio_s + 1)
        settings = self._settings.model_copy(update={"buffer_s": buffer_s})
        return Session(
            "offline", start, lane_options(settings, ready.profile if ready else None), seed=SEED
        )


class _Desk:
    """Carries one session's jobs to the engines, one batch at a time."""

    def __init__(
        self, session: Session, workers: dict[SessionStage, EngineWorker], call_timeout_s: float
    ) -> None:
        self.session = session
        self._call_timeout_s = call_timeout_s
        self.heard = Heard(delays=None)
        self._workers = workers
        self._schedulers = {stage: Scheduler(BatchLimits(1)) for stage in workers}
        self._cursor = session.log.cursor()

    async def caption(self, audio: bytes) -> None:
        self.session.receive_audio(audio, NOW_NS)
        self.session.end_of_audio(NOW_NS)
        while self.session.state is not SessionState.DONE or self._cursor.has_more:
            self._submit()
            worked = [await self._work(stage) for stage in self._workers]
            news = self._read_events()
            if not news and not any(worked):
                self._give_up_waiting()

    def _give_up_waiting(self) -> None:
        """Nobody is at work: only a deadline can bring the end of the session."""
        deadline_ns = self.session.deadline_ns
        assert deadline_ns is not None, "the session waits for nothing"
        self.session.handle_deadline(deadline_ns)

    def _submit(self) -> None:
        for job in self.session.take_jobs(NOW_NS):
            for lost in self._schedulers[job.stage].add(job, NOW_NS):
                self.session.receive_failure(lost.number)

    async def _work(self, stage: SessionStage) -> bool:
        """One batch of the stage; False where none waits."""
        batch = self._schedulers[stage].schedule(NOW_NS)
        if batch is not None:
            await self._answer(self._workers[stage], batch)
        return batch is not None

    async def _answer(self, worker: EngineWorker, batch: Batch) -> None:
        timeout_s = call_seconds_max(batch, self._call_timeout_s)
        for job in batch.jobs:
            answers, elapsed_ns = await worker.call(
                job.kind.value, job.questions, timeout_s=timeout_s
            )
            self.session.receive_result(job.number, answers, elapsed_ns, NOW_NS)

    def _read_events(self) -> int:
        """As a store and a reader that are never behind; returns how many there were."""
        log = self.session.log
        stored = log.take_unstored() if log.has_unstored else []
        log.mark_stored(log.last_seq)
        news: list[Event]
        try:
            news = self._cursor.read(EVENTS_READ_MAX)
        except Behind as behind:
            news = [e for e in stored if behind.after_seq < e.seq <= behind.through_seq]
            self._cursor.skip_through(behind.through_seq)
        for event in news:
            self.heard.receive(event, 0.0)
            self.session.note_written(event, NOW_NS)
        return len(news)
