"""Sessions that are in memory: their engines' answers, their store, their present connection.

A ``LiveSession`` carries one ``streaming.Session`` through waiting: after each input it sends the
jobs out, the durable events to the store and word to the readers. A session outlives its
connection for the resume window. Nothing here decides words, speakers or admission.

Invariants: V1 events reach the store in order, one write at a time per session; V2 at most one
talker is attached, and a newer one supersedes it; V3 a session leaves memory only when its last
event was delivered, when the resume window has passed and everything received is stored, when it
was deleted, or when it is broken; V4 what breaks in one session stays in it.
"""

import asyncio
import contextlib
import itertools
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Literal, Protocol

import structlog

from server.deadlines import DeadlineTimer, Probe
from server.dispatch import Dispatcher, Outcome
from server.spool import SessionSpool, Spool
from server.store import (
    FIRST_EPOCH,
    SessionRecord,
    SessionState,
    StaleOwner,
    StoreError,
    TranscriptStore,
)
from server.telemetry import Metrics
from streaming.errors import CaptiondError, InternalError, Superseded, UnknownSession
from streaming.events import (
    Degraded,
    DurableEvent,
    Event,
    Final,
    Partial,
    ServerPart,
    SpeechStarted,
)
from streaming.keeping import SavedPoint
from streaming.session import Session
from streaming.session import SessionState as Phase
from streaming.timeline import SAMPLE_RATE_HZ
from streaming.wire import event_fields

STORE_RETRY_SECONDS = 1.0
"""A store that refused a write is asked again; until then captions are shown as not durable."""

Ending = Literal["done", "expired", "deleted", "failed", "drained", "superseded"]
"""How a session left memory; a label of ``captiond_sessions_total``."""
Dismiss = Callable[[CaptiondError], None]
"""Tells a connection that the session has nothing more to say to it, and why."""

_log = structlog.get_logger(__name__)


class Forget(Protocol):
    """Takes a session out of memory; ``reason`` is for its talker."""

    def __call__(
        self, live: "LiveSession", ending: Ending, reason: CaptiondError | None = None
    ) -> None: ...


@dataclass(frozen=True, slots=True)
class Services:
    """What every session uses."""

    dispatcher: Dispatcher
    store: TranscriptStore
    metrics: Metrics
    resume_window_s: float
    forget: Forget
    spool: Spool = field(default_factory=Spool)


class LiveSession:
    """One session and all that waits for it."""

    def __init__(
        self,
        session: Session,
        record: SessionRecord,
        services: Services,
        *,
        protocol: str,
        epoch: int = FIRST_EPOCH,
    ) -> None:
        """``epoch`` is this server's turn at the session: the store takes nothing of another."""
        self.session = session
        self.protocol = protocol
        self.epoch = epoch
        self.record = record
        self._services = services
        self._listeners: set[Callable[[], None]] = set()
        self._dismiss: Dismiss | None = None
        """The present talker's; None while there is none."""
        self._storing: asyncio.Task[None] | None = None
        self._spool = SessionSpool(session.log, services.spool)
        self._is_degraded = False
        """Readers were told that captions are not stored, and not yet that they are again."""
        self._deadline = DeadlineTimer(session, self._on_deadline)
        self._expiry: asyncio.TimerHandle | None = None
        self._seen_end = 0
        """Of the log, when the readers were last woken."""
        self._speech_shown_ns: int | None = None
        self._has_shown_words = False
        self._is_repeated = self._is_recorded = record.state != "open"
        """It had ended before this server had it; the store was told of the end."""
        self._was_deaf = False
        """Readers were told that nothing more is heard."""
        self.is_winding_up = False
        """The server goes down, and waits for what is being said to come to an end."""
        self.is_store_refusing = False
        """The last write failed and is tried again."""
        self.is_expired = False
        """The resume window is over: only what is to be stored is waited for."""
        self.is_gone = False
        """Out of memory: nothing will follow."""

    @property
    def id(self) -> str:
        return self.session.id

    @property
    def is_attached(self) -> bool:
        return self._dismiss is not None

    @property
    def is_settled(self) -> bool:
        """Every word is stored that this server is to commit, if it goes away."""
        return self.session.is_settled and self._is_stored

    @property
    def is_over(self) -> bool:
        """The last event is stored."""
        return self.session.state is Phase.DONE and self._is_stored

    @property
    def _is_stored(self) -> bool:
        log = self.session.log
        return log.stored_seq == log.last_seq

    # Readers

    def listen(self, wake: Callable[[], None]) -> None:
        """``wake`` is called whenever there may be something to read."""
        self._listeners.add(wake)

    def unlisten(self, wake: Callable[[], None]) -> None:
        self._listeners.discard(wake)

    def attach(self, dismiss: Dismiss, last_seq: int, probe: Probe | None = None) -> None:
        """A connection takes the session over; the one before it is told."""
        if self._dismiss is not None:
            self._dismiss(Superseded("another connection has taken this session over"))
            self.session.detach()
        self._dismiss = dismiss
        if self._expiry is not None:
            self._expiry.cancel()
            self._expiry = None
        self.session.attach(time.monotonic_ns(), last_seq)
        self._deadline.use(probe, has_come_back=self.session.frames_received > 0)

    def detach(
        self, dismiss: Dismiss, *, is_delivered: bool = False, is_known: bool = True
    ) -> None:
        """The connection is gone; does nothing where a newer one has taken over.

        ``is_delivered``: the client has the last event. ``is_known``: it has the session's id. In
        neither case will anybody come back.
        """
        if self._dismiss != dismiss:
            return
        self._dismiss = None
        self.session.detach()
        self._deadline.use(None, has_come_back=False)
        if is_delivered:
            self._services.forget(self, "done")
        elif is_known:
            loop = asyncio.get_running_loop()
            self._expiry = loop.call_later(self._services.resume_window_s, self._expire)
            self.step()
        else:
            self._expire()

    def _expire(self) -> None:
        """The resume window is over: finish what was received and let go."""
        self._expiry = None
        self.is_expired = True
        with self._contained():
            self.session.end_of_audio_quietly(time.monotonic_ns())
        self.step()

    # Going down

    def wind_up(self, *, can_come_back: bool) -> None:
        """The server goes down: stop listening once nobody is in the middle of anything.

        ``can_come_back``: the talker, to another server, which goes on with what is not committed.
        """
        self.is_winding_up = True
        self.session.wind_up(is_last=not can_come_back)
        self.step()

    def hurry(self) -> None:
        """And it goes soon."""
        self.session.hurry()
        self.step()

    def pause(self) -> None:
        """Commit at once what was received."""
        self.session.pause()
        self.step()

    # Work

    def step(self) -> None:
        """Do whatever the last input made possible. Never waits, never raises."""
        if self.is_gone:
            return
        with self._contained():
            self._advance()

    def receive_audio(self, data: bytes) -> None:
        """Take a packet, and ask voice activity about it where that is due.

        Nothing else can follow from audio alone, so a packet costs no full step. After the last
        event there is nothing that audio could be for: a resumed client's half frame, say.
        Raises: the errors of ``Session.receive_audio``.
        """
        if self.is_gone or self.is_over:
            return
        now_ns = time.monotonic_ns()
        self.session.receive_audio(data, now_ns)
        with self._contained():
            lost = self._services.dispatcher.submit(self.session.take_activity_jobs(now_ns))
            self._tell_of_lost(lost)
            self._deadline.note_audio(now_ns)
            if lost:
                self._advance()

    def _advance(self) -> None:
        now_ns = time.monotonic_ns()
        # A session asks for all it can at once: only what lost its place may lead to more.
        while lost := self._services.dispatcher.submit(self.session.take_jobs(now_ns)):
            self._tell_of_lost(lost)
        self._store_news()
        self._deadline.arm(now_ns)
        self._wake_for_news()
        if self.is_expired and self.is_over:
            self._services.forget(self, "expired")

    def look(self, now_ns: int) -> None:
        """To be called now and then: readers hear of captions that wait for an engine."""
        if not self.is_gone:
            with self._contained():
                self.session.look(now_ns)
                self._wake_for_news()

    def _tell_of_lost(self, outcomes: Iterable[Outcome]) -> None:
        for outcome in outcomes:
            self.session.receive_failure(outcome.job.number, outcome.reason)

    @contextlib.contextmanager
    def _contained(self) -> Iterator[None]:
        """A bug that shows in this session ends it; the others never notice (V4)."""
        try:
            yield
        except Exception as error:  # noqa: BLE001  task boundary
            _log.error("session broken by a bug", session_id=self.id, exc_info=error)
            reason = InternalError("this session met a bug of the server; start a new one")
            self._services.forget(self, "failed", reason)

    def _wake_for_news(self) -> None:
        """A reader that is woken for nothing costs as much as a packet."""
        visible_end, is_deaf = self.session.log.visible_end, self.session.is_deaf
        is_news = visible_end != self._seen_end or is_deaf != self._was_deaf
        if is_news or self.session.has_ack:
            self._seen_end, self._was_deaf = visible_end, is_deaf
            self._wake()

    def _wake(self) -> None:
        for wake in tuple(self._listeners):
            wake()

    def receive(self, outcome: Outcome) -> None:
        """A job came back; call ``step`` when all of them are told."""
        with self._contained():
            if outcome.answers is None:
                self._tell_of_lost([outcome])
            else:
                self.session.receive_result(
                    outcome.job.number, outcome.answers, outcome.engine_ns, time.monotonic_ns()
                )

    def _on_deadline(self, now_ns: int) -> None:
        with self._contained():
            self.session.handle_deadline(now_ns)
        self.step()

    # Storing

    def _store_news(self) -> None:
        is_due = self.session.log.has_unstored or self.session.is_checkpoint_due
        if self._storing is None and (is_due or (self.is_over and not self._is_recorded)):
            self._storing = asyncio.create_task(self._store(), name=f"store {self.id}")
        if self.is_store_refusing:
            self._spool.show()
            self._count_spool()

    def is_durable(self, event: Event) -> bool:
        """False for an event that will be stored, and is not yet."""
        return not isinstance(event, DurableEvent) or event.seq <= self.session.log.stored_seq

    async def _store(self) -> None:
        with self._contained():
            await self._store_events()
            if self.is_over:
                state: SessionState = "expired" if self.is_expired else "done"
                await self._persist(self._finish(state, datetime.now(UTC)))
                self._is_recorded = True
        self._storing = None
        self.step()

    async def _store_events(self) -> None:
        log = self.session.log
        while (events := log.take_unstored()) or self.session.is_checkpoint_due:
            # Nothing may come between the two: the checkpoint is that of these events.
            point = self.session.checkpoint()
            if not await self._persist(self._append(events, point)):
                return
            if point is not None:
                self.session.note_kept(point)
            if events:
                log.mark_stored(events[-1].seq)
            self._spool.settle()
            self._wake()
        self._tell_of_recovery()

    def _append(
        self, events: list[DurableEvent], point: SavedPoint | None
    ) -> Callable[[], Awaitable[None]]:
        fields = [event_fields(event) for event in events]
        body = None if point is None else point.body
        tries = itertools.count()
        append = partial(self._services.store.append, self.id, fields, epoch=self.epoch)
        return lambda: append(checkpoint=body, is_retry=next(tries) > 0)

    def _finish(self, state: SessionState, ended_at: datetime) -> Callable[[], Awaitable[None]]:
        finish = partial(self._services.store.finish_session, self.id, state, ended_at)
        window = timedelta(seconds=self._services.resume_window_s)

        def write() -> Awaitable[None]:
            # The talker may not have read the end when this server dies.
            until = datetime.now(UTC) + window if state == "done" else None
            return finish(epoch=self.epoch, resumable_until=until)

        return write

    async def give_up(self) -> None:
        """The server goes down: where nobody can come back to the session, it ends here.

        Raises: StoreError.
        """
        if self.is_expired and not self.is_over:
            await self._finish("expired", datetime.now(UTC))()

    async def _persist(self, write: Callable[[], Awaitable[None]]) -> bool:
        """Try until it is done; False where the session is not this server's any more."""
        while True:
            try:
                await write()
            except StaleOwner:
                taken = Superseded("another server has taken this session over")
                self._services.forget(self, "superseded", taken)
                return False
            except StoreError as error:
                if await self._is_deleted():
                    self.note_deleted()
                    return False
                self._note_refusal(error.message)
                await asyncio.sleep(STORE_RETRY_SECONDS)
            else:
                self._note_refusal(None)
                return True

    async def stop_storing(self) -> None:
        """The store is about to close: what it has not taken by now goes with this process."""
        if self._storing is not None:
            self._storing.cancel()
            await asyncio.gather(self._storing, return_exceptions=True)
        if not self._is_stored:
            log = self.session.log
            missing = log.last_seq - log.stored_seq
            _log.error("events lost: the store took none", session_id=self.id, events=missing)

    def note_deleted(self) -> None:
        """The store has its events no more: somebody deleted it through another server."""
        reason = UnknownSession("this session was deleted; start a new one")
        self._services.forget(self, "deleted", reason)

    async def _is_deleted(self) -> bool:
        try:
            return await self._services.store.session(self.id) is None
        except StoreError:
            return False

    def _note_refusal(self, reason: str | None) -> None:
        """Logs when it begins and when it ends, not each try."""
        was_refusing, self.is_store_refusing = self.is_store_refusing, reason is not None
        if was_refusing and reason is None:
            _log.info("store takes a session's events again", session_id=self.id)
        elif reason is not None and not was_refusing:
            _log.error("store refuses a session's events", session_id=self.id, reason=reason)
            self._tell_of_refusal()
            self.step()

    def _tell_of_refusal(self) -> None:
        if not self._is_degraded and self.session.state is not Phase.DONE:
            self._is_degraded = True
            self._tell("captions are shown before they are stored: the store takes none just now")

    def _tell_of_recovery(self) -> None:
        """Everything up to here is stored; where it is not, the next write's end tells of it."""
        if self._is_degraded and self._is_stored and not self.is_store_refusing:
            self._is_degraded = False
            self._tell("every caption up to here is stored", is_over=True)
            self._count_spool()

    def _tell(self, reason: str, *, is_over: bool = False) -> None:
        log = self.session.log
        log.post(Degraded(log.last_seq, ServerPart.STORE, reason, is_over))

    def _count_spool(self) -> None:
        self._services.metrics.spool_events.set(self._services.spool.events)

    # Figures

    def note_written(self, event: Event) -> None:
        """The talker's connection wrote an event."""
        now_ns, metrics = time.monotonic_ns(), self._services.metrics
        for delay in self.session.note_written(event, now_ns):
            if delay.is_final:
                metrics.final_latency_seconds.observe(delay.seconds)
            else:
                metrics.partial_latency_seconds.observe(delay.seconds)
        if isinstance(event, Final | Partial):
            kind = "final" if isinstance(event, Final) else "partial"
            metrics.words.labels(kind).inc(len(event.words))
        self._note_first_result(event, now_ns)

    def _note_first_result(self, event: Event, now_ns: int) -> None:
        if self._has_shown_words:
            return
        if isinstance(event, SpeechStarted) and self._speech_shown_ns is None:
            self._speech_shown_ns = now_ns
        elif isinstance(event, Final | Partial) and event.words:
            self._has_shown_words = True
            if self._speech_shown_ns is not None:
                seconds = (now_ns - self._speech_shown_ns) / 1e9
                self._services.metrics.first_result_seconds.observe(seconds)

    def close(self, reason: CaptiondError | None) -> None:
        """Out of memory: no timer calls back, no reader waits; what is not stored still will be."""
        self.is_gone = True
        self._deadline.cancel()
        if self._expiry is not None:
            self._expiry.cancel()
        self._services.dispatcher.forget(self.id)
        self._store_news()
        self._spool.close()
        self._count_spool()
        dismiss, self._dismiss = self._dismiss, None
        if dismiss is not None and reason is not None:
            dismiss(reason)
        self._count_at_the_end()
        self._wake()

    def _count_at_the_end(self) -> None:
        if self._is_repeated:
            return  # it was counted where it ended
        stats, metrics = self.session.stats, self._services.metrics
        metrics.audio_silent_seconds.inc(self.session.silent_samples / SAMPLE_RATE_HZ)
        metrics.results_superseded.inc(stats.superseded_results)
        metrics.stable_words_changed.inc(stats.broken_stable_words)
        for guard, finals in stats.guards_fired.items():
            metrics.guards_fired.labels(guard).inc(finals)
        for reason, samples in stats.gap_samples.items():
            metrics.audio_dropped_seconds.labels(reason.value).inc(samples / SAMPLE_RATE_HZ)
