"""The sessions in memory: opened, adopted, finished, counted.

Owns the table of live sessions and the way a new one is made from settings and engines. Knows no
sockets; admission is ``admission.py``'s decision, and who may come back to a session is for
``resuming.py`` to say.
"""

import asyncio
import contextlib
import secrets
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

import structlog

from server.admission import RETRY_AFTER_LOADING_MS, Admission
from server.auth import hash_resume_token, new_resume_token
from server.config import BUFFER_MARGIN_S, WINDOW_CAP_S_MAX, Settings
from server.dispatch import Dispatcher, Outcome
from server.live import Ending, LiveSession, Services
from server.resuming import Admit, Returns
from server.store import FIRST_EPOCH, Resumable, SessionRecord, StoreError, TranscriptStore
from server.telemetry import Metrics
from streaming.checkpoint import Checkpoint
from streaming.endpointing import EndpointingOptions
from streaming.engines import DiarizerProfile
from streaming.errors import (
    CaptiondError,
    Draining,
    Overloaded,
    UnknownSession,
    UnsupportedOption,
)
from streaming.lane import LaneOptions
from streaming.partials import PartialOptions
from streaming.session import Session
from streaming.timeline import SAMPLE_RATE_HZ, samples_from_seconds
from streaming.tuning import TuningLimits
from streaming.windows import WindowOptions
from streaming.wire import (
    AUDIO_MESSAGE_BYTES_MAX,
    CONTROL_MESSAGE_BYTES_MAX,
    Configure,
    Ready,
    Resume,
    Start,
)

PROTOCOL = "captiond"
"""Label of the native protocol in metrics."""
CLOSE_SECONDS_MAX = 1.0
"""At the end of a drain, for the records of sessions that nobody can come back to."""
STORE_RETRY_AFTER_MS = 3_000
"""A disk is not emptied at once; a lock or a slow sync is over by then."""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class EnginesInUse:
    """What the workers said when they were ready."""

    descriptions: dict[str, str]
    """Stage → engine, as shown to clients."""
    diarizer: DiarizerProfile | None
    languages: tuple[str, ...] | None = None
    """What the recognizer understands; None where it takes any."""
    takes_guidance: bool = True
    """False where prompts, keywords and translation mean nothing to the recognizer."""

    def check_guidance(self, message: Start | Configure) -> None:
        """Raises: UnsupportedOption."""
        asked = {
            "prompt": message.prompt,
            "keywords": message.keywords,
            'task "translate"': isinstance(message, Start) and message.task == "translate",
        }
        given = ", ".join(name for name, value in asked.items() if value)
        if given and not self.takes_guidance:
            raise UnsupportedOption(
                "this server's recognizer writes what it hears and cannot be told more "
                f"({given}); leave that out, or ask the operator for a Whisper checkpoint"
            )

    def check_language(self, language: str | None) -> None:
        """Raises: UnsupportedOption."""
        if language is None or self.languages is None or language in self.languages:
            return
        raise UnsupportedOption(
            f'this server\'s recognizer does not understand "{language}", only '
            f"{', '.join(self.languages)}; leave language out, or ask the operator for a "
            "multilingual checkpoint"
        )


def lane_options(settings: Settings, diarizer: DiarizerProfile | None) -> LaneOptions:
    """What the operator's settings mean for every lane."""
    tail_ms = min(EndpointingOptions().tail_ms, settings.endpointing_ms)
    delay_s_max = min(WINDOW_CAP_S_MAX, settings.buffer_s - BUFFER_MARGIN_S)
    return LaneOptions(
        buffer_samples=samples_from_seconds(settings.buffer_s),
        endpointing=EndpointingOptions(hangover_ms=settings.endpointing_ms, tail_ms=tail_ms),
        windows=WindowOptions(hop_ms=settings.hop_ms, cap_ms=int(settings.window_cap_s * 1000)),
        diarizer=diarizer,
        partial_options=PartialOptions(settings.stability, settings.stable_only),
        limits=TuningLimits(min(settings.hop_ms_min, settings.hop_ms), int(delay_s_max * 1000)),
    )


def utc_text(moment: datetime) -> str:
    """ISO 8601 with milliseconds and a Z."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class Hub:
    """All live sessions of one server process."""

    def __init__(self, settings: Settings, store: TranscriptStore, metrics: Metrics) -> None:
        self.store = store
        self.metrics = metrics
        self.is_draining = False
        self._settings = settings
        self._admission = Admission(settings.sessions_max, settings.sessions_per_key_max)
        self._live: dict[str, LiveSession] = {}
        self._engines: EnginesInUse | None = None
        self._services: Services | None = None
        self._thinning = 1.0
        self._returns = Returns(store, self)
        metrics.session_capacity.set(settings.sessions_max)

    def serve_with(self, engines: EnginesInUse, dispatcher: Dispatcher) -> None:
        """The engines are ready: sessions may be opened."""
        self._engines = engines
        self._services = Services(
            dispatcher, self.store, self.metrics, self._settings.resume_window_s, self.forget
        )

    @property
    def is_ready(self) -> bool:
        return self._services is not None and not self.is_draining

    @property
    def engines(self) -> EnginesInUse:
        """Raises: Overloaded while the models load."""
        if self._engines is None:
            raise Overloaded(
                "the server is still loading its models; try again",
                retry_after_ms=RETRY_AFTER_LOADING_MS,
            )
        return self._engines

    @property
    def backlog_seconds(self) -> float:
        """Speech received and not yet captioned, over all sessions."""
        samples = sum(live.session.backlog_samples for live in self._live.values())
        return samples / SAMPLE_RATE_HZ

    @property
    def is_store_refusing(self) -> bool:
        """Captions wait, because the store took none of some session's last ones."""
        return any(live.is_store_refusing for live in self._live.values())

    def drain(self) -> None:
        """The server is about to go away: wind up the sessions that no connection winds up.

        Those that wait for their talkers can be gone on with. Recordings cannot, and nobody waits
        for the end of a sentence: their clients send them again.
        """
        self.is_draining = True
        self.metrics.draining.set(1)
        for live in self.sessions:
            if live.is_attached and not live.is_winding_up:
                live.pause()
            elif not live.is_attached:
                live.wind_up(can_come_back=True)

    def hurry(self) -> None:
        """Half of the time is over: whoever still talks is cut between two words."""
        for live in self.sessions:
            live.hurry()

    async def close(self) -> None:
        """The drain is over: who comes back to a session finds it in the store, on another server
        or the next one. Ends its readers too."""
        lives = tuple(self.sessions)
        for live in lives:
            self.forget(live, "drained", Draining("the server has gone down"))
        records = (live.give_up() for live in lives)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_SECONDS_MAX):
                await asyncio.gather(*records, return_exceptions=True)
        await asyncio.gather(*(live.stop_storing() for live in lives))

    @property
    def is_settled(self) -> bool:
        return all(live.is_settled for live in self._live.values())

    @property
    def sessions(self) -> Iterable[LiveSession]:
        return tuple(self._live.values())

    @property
    def held(self) -> set[str]:
        """Ids of the sessions in memory, those that are being opened included."""
        return set(self._live)

    def admit(self, tenant: str) -> None:
        """Raises: Draining, Overloaded, TooFast where one more session may not start."""
        active = Counter(live.record.tenant for live in self._live.values())
        active += self._returns.coming
        is_loaded = self._services is not None
        try:
            self._admission.admit(tenant, active, is_draining=self.is_draining, is_ready=is_loaded)
        except CaptiondError:
            self.metrics.sessions.labels(PROTOCOL, "refused").inc()
            raise

    def admit_upgrade(self, tenant: str) -> None:
        """Before a client has said whether it starts or resumes. Raises: Draining or Overloaded,
        where neither is possible.
        """
        if not self.is_ready:
            self.admit(tenant)

    def has_waiting(self, tenant: str) -> bool:
        """A session of this tenant has no connection, and somebody may come back to it."""
        return any(
            live.record.tenant == tenant and not live.is_attached and not live.is_expired
            for live in self._live.values()
        )

    async def open(
        self, start: Start, tenant: str, *, protocol: str = PROTOCOL
    ) -> tuple[LiveSession, Ready]:
        """A new session; ``protocol`` is a label of metrics.

        Raises: the errors of ``admit``, UnsupportedOption; Overloaded where the store refuses.
        """
        self.admit(tenant)
        assert self._engines is not None
        assert self._services is not None
        self._engines.check_language(start.language)
        self._engines.check_guidance(start)
        session_id, token = secrets.token_hex(12), new_resume_token()
        session = self._session(session_id, start)
        record = SessionRecord(
            session_id=session_id,
            tenant=tenant,
            created_at=datetime.now(UTC),
            ended_at=None,
            state="open",
            options=start.model_dump(),
            resume_token_hash=hash_resume_token(token),
        )
        live = LiveSession(session, record, self._services, protocol=protocol)
        # In the table before the first wait, so that admission counts it.
        self._live[session_id] = live
        try:
            await self.store.create_session(record)
        except StoreError as error:
            self._live.pop(session_id, None)
            raise Overloaded(
                "the store takes no new session just now; try again or use another server",
                retry_after_ms=STORE_RETRY_AFTER_MS,
            ) from error
        except BaseException:
            self._live.pop(session_id, None)
            raise
        self._count_sessions(protocol)
        _log.info("session opened", session_id=session_id, tenant=tenant)
        return live, self._ready(live, token, seq=0)

    def _session(
        self,
        session_id: str,
        start: Start,
        *,
        epoch: int = FIRST_EPOCH,
        checkpoint: Checkpoint | None = None,
    ) -> Session:
        assert self._engines is not None
        session = Session(
            session_id,
            start,
            lane_options(self._settings, self._engines.diarizer),
            seed=int(session_id[:8], 16),
            epoch=epoch,
            checkpoint=checkpoint,
            keeps_checkpoints=True,
        )
        session.pace_partials(self._thinning)
        return session

    def check_language(self, language: str | None) -> None:
        """Raises: UnsupportedOption where the recognizer does not understand it."""
        assert self._engines is not None
        self._engines.check_language(language)

    def check_guidance(self, message: Configure) -> None:
        """Raises: UnsupportedOption where it means nothing to the recognizer."""
        assert self._engines is not None
        self._engines.check_guidance(message)

    async def resume(
        self, message: Resume, tenant: str, *, admit: Admit | None = None
    ) -> tuple[LiveSession, Ready]:
        """``admit`` is asked where another server's session is to be taken over.

        Raises: Draining, and the errors of ``Returns.find``.
        """
        if self.is_draining:
            raise Draining("the server is going down; start a new session on another one")
        live = await self._returns.find(message, tenant, admit or self.admit)
        _log.info("session resumed", session_id=live.id, was_attached=live.is_attached)
        # Who has read the end is told it again: the close comes behind it.
        seq_max = live.session.log.shown_seq - live.is_over
        return live, self._ready(live, message.resume_token, seq=min(message.last_seq, seq_max))

    def adopt(self, left: Resumable, checkpoint: Checkpoint | None) -> LiveSession:
        """Have a session as its last owner left it."""
        assert self._services is not None
        record = left.record
        start = Start.model_validate(record.options)
        session = self._session(record.session_id, start, epoch=left.epoch, checkpoint=checkpoint)
        live = LiveSession(session, record, self._services, epoch=left.epoch, protocol=PROTOCOL)
        self._live[record.session_id] = live
        self._count_sessions(PROTOCOL)
        return live

    def _ready(self, live: LiveSession, token: str, *, seq: int) -> Ready:
        assert self._engines is not None
        session = live.session
        return Ready(
            session_id=live.id,
            resume_token=token,
            seq=seq,
            resume_from_frame=session.frames_received,
            credit_until_frame=session.credit_until_frame,
            wall_clock=utc_text(live.record.created_at),
            engines=self._engines.descriptions,
            limits={
                "audio_message_bytes_max": AUDIO_MESSAGE_BYTES_MAX,
                "control_message_bytes_max": CONTROL_MESSAGE_BYTES_MAX,
                "packets_per_second_max": self._settings.packets_per_second_max,
                "resume_window_s": int(self._settings.resume_window_s),
            },
        )

    def deliver(self, outcomes: list[Outcome]) -> None:
        """Answers of the engines; those of sessions that are gone are dropped."""
        touched: dict[str, LiveSession] = {}
        for outcome in outcomes:
            live = self._live.get(outcome.job.session_id)
            if live is not None:
                live.receive(outcome)
                touched[live.id] = live
        for live in touched.values():
            live.step()

    def pace_partials(self, thinning: float) -> None:
        """Engine time is short, or is not any more: partials come every ``thinning`` hops."""
        self._thinning = thinning
        self.metrics.partial_thinning.set(thinning)
        for live in self._live.values():
            live.session.pace_partials(thinning)

    def forget(
        self, live: LiveSession, ending: Ending, reason: CaptiondError | None = None
    ) -> None:
        """Take a session out of memory; ``reason`` is for its talker."""
        if self._live.get(live.id) is not live:
            return  # forgotten already; what has its id now goes on
        del self._live[live.id]
        if ending not in ("superseded", "drained"):
            self._returns.note_over(live.id)
        live.close(reason)
        self.metrics.sessions.labels(live.protocol, ending).inc()
        self._count_sessions(live.protocol)
        seconds = live.session.frames_received / live.session.start.audio.sample_rate
        _log.info("session over", session_id=live.id, ending=ending, audio_seconds=seconds)

    def _count_sessions(self, protocol: str) -> None:
        count = sum(live.protocol == protocol for live in self._live.values())
        self.metrics.sessions_active.labels(protocol).set(count)

    def find(self, session_id: str) -> LiveSession | None:
        return self._live.get(session_id)

    def drop(self, session_id: str) -> None:
        """The session was deleted: what it still holds in memory goes too."""
        live = self._live.get(session_id)
        if live is not None:
            self.forget(
                live, "deleted", UnknownSession("this session was deleted; start a new one")
            )
