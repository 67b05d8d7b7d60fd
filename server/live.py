"""Sessions that are in memory: their engines' answers, their store, their present connection.

A ``LiveSession`` carries one ``streaming.Session`` through waiting: after each input it sends the
jobs out, the durable events to the store and word to the readers. A session outlives its
connection for the resume window. Nothing here decides words, speakers or admission.

Invariants: V1 events reach the store in order, one write at a time per session; V2 at most one
talker is attached, and a newer one supersedes it; V3 a session leaves memory only when its last
event was delivered, or the resume window has passed and everything received is stored.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

import structlog

from server.dispatch import Dispatcher, Outcome
from server.store import SessionRecord, StoreError, TranscriptStore
from server.telemetry import Metrics
from streaming.errors import CaptiondError, Superseded, UnknownSession
from streaming.events import DurableEvent, Event, Final, Partial
from streaming.session import Session, SessionState
from streaming.timeline import SAMPLE_RATE_HZ
from streaming.wire import event_fields

STORE_RETRY_SECONDS = 1.0
"""A store that refused a write is asked again; captions wait, and nothing is lost meanwhile."""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Services:
    """What every session uses."""

    dispatcher: Dispatcher
    store: TranscriptStore
    metrics: Metrics
    resume_window_s: float
    forget: Callable[["LiveSession"], None]
    """Takes a session out of memory."""


class LiveSession:
    """One session and all that waits for it."""

    def __init__(self, session: Session, record: SessionRecord, services: Services) -> None:
        self.session = session
        self.record = record
        self._services = services
        self._listeners: set[Callable[[], None]] = set()
        self._on_lost: Callable[[CaptiondError], None] | None = None
        self._storing: asyncio.Task[None] | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._expiry: asyncio.TimerHandle | None = None
        self._is_delivered = False
        self.is_gone = False
        """Out of memory: nothing will follow."""

    @property
    def id(self) -> str:
        return self.session.id

    @property
    def is_attached(self) -> bool:
        return self._on_lost is not None

    @property
    def is_settled(self) -> bool:
        """Every word of the audio received is committed and stored."""
        log = self.session.log
        return self.session.is_quiet and log.stored_seq == log.last_seq

    # Readers

    def listen(self, wake: Callable[[], None]) -> None:
        """``wake`` is called whenever there may be something to read."""
        self._listeners.add(wake)

    def unlisten(self, wake: Callable[[], None]) -> None:
        self._listeners.discard(wake)

    def attach(self, on_lost: Callable[[CaptiondError], None], last_seq: int) -> None:
        """A connection takes the session over; the one before it is told.

        ``on_lost`` gets the reason when the session is no longer the connection's.
        """
        if self._on_lost is not None:
            self._on_lost(Superseded("another connection has taken this session over"))
            self.session.detach()
        self._on_lost = on_lost
        if self._expiry is not None:
            self._expiry.cancel()
            self._expiry = None
        self.session.attach(time.monotonic_ns(), last_seq)

    def detach(self, on_lost: Callable[[CaptiondError], None]) -> None:
        """The connection is gone; does nothing where it had lost the session before."""
        if self._on_lost != on_lost:
            return
        self._on_lost = None
        self.session.detach()
        if self._is_delivered:
            self._services.forget(self)
            return
        loop = asyncio.get_running_loop()
        self._expiry = loop.call_later(self._services.resume_window_s, self._expire)
        self.step()

    def mark_delivered(self) -> None:
        """The client has the last event: nobody will come back."""
        self._is_delivered = True

    def _expire(self) -> None:
        """The resume window is over: finish what was received and let go."""
        self._expiry = None
        self.session.end_of_audio_quietly(time.monotonic_ns())
        self._is_delivered = True
        self.step()

    # Work

    def step(self) -> None:
        """Do whatever the last input made possible. Never waits."""
        if self.is_gone:
            return
        now_ns = time.monotonic_ns()
        while jobs := self.session.take_jobs(now_ns):
            for lost in self._services.dispatcher.submit(jobs):
                self.session.receive_failure(lost.number)
        if self._storing is None and self.session.log.has_unstored:
            self._storing = asyncio.create_task(self._store(), name=f"store {self.id}")
        self._arm(now_ns)
        self._wake()
        if self._is_delivered and not self.is_attached and self._is_over:
            self._services.forget(self)

    @property
    def _is_over(self) -> bool:
        log = self.session.log
        return self.session.state is SessionState.DONE and log.stored_seq == log.last_seq

    def _wake(self) -> None:
        for wake in tuple(self._listeners):
            wake()

    def receive(self, outcome: Outcome) -> None:
        """A job came back."""
        if outcome.answers is None:
            self.session.receive_failure(outcome.job.number)
        else:
            self.session.receive_result(
                outcome.job.number, outcome.answers, outcome.engine_ns, time.monotonic_ns()
            )

    def _arm(self, now_ns: int) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        deadline_ns = self.session.deadline_ns
        if deadline_ns is not None:
            delay_s = max(0, deadline_ns - now_ns) / 1e9
            self._deadline = asyncio.get_running_loop().call_later(delay_s, self._on_deadline)

    def _on_deadline(self) -> None:
        self._deadline = None
        self.session.handle_deadline(time.monotonic_ns())
        self.step()

    async def _store(self) -> None:
        log = self.session.log
        try:
            while events := log.take_unstored():
                await self._store_until_done(events)
                log.mark_stored(events[-1].seq)
                self._wake()
        except Exception as error:  # noqa: BLE001  task boundary
            _log.error("storing stopped by a bug", session=self.id, exc_info=error)
        finally:
            self._storing = None
        await self._finish_record()
        self.step()

    async def _store_until_done(self, events: list[DurableEvent]) -> None:
        fields = [event_fields(event) for event in events]
        while not self.is_gone:
            try:
                return await self._services.store.append(self.id, fields)
            except StoreError as error:
                _log.error("store refused events", session=self.id, reason=error.message)
                await asyncio.sleep(STORE_RETRY_SECONDS)

    async def _finish_record(self) -> None:
        if self._is_over and self.record.ended_at is None:
            try:
                await self._services.store.finish_session(self.id, "done", datetime.now(UTC))
            except StoreError as error:
                _log.error("store refused the end", session=self.id, reason=error.message)

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

    def close(self) -> None:
        """Out of memory: no timer may call back, and a talker that is still there is told."""
        self.is_gone = True
        if self._on_lost is not None:
            self._on_lost(UnknownSession("this session was deleted; start a new one"))
            self._on_lost = None
        for timer in (self._deadline, self._expiry):
            if timer is not None:
                timer.cancel()
        self._services.dispatcher.forget(self.id)
        self._count_at_the_end()
        self._wake()

    def _count_at_the_end(self) -> None:
        stats, metrics = self.session.stats, self._services.metrics
        metrics.audio_silent_seconds.inc(self.session.silent_samples / SAMPLE_RATE_HZ)
        metrics.results_superseded.inc(stats.superseded_results)
        metrics.stable_words_changed.inc(stats.broken_stable_words)
        for reason, samples in stats.gap_samples.items():
            metrics.audio_dropped_seconds.labels(reason.value).inc(samples / SAMPLE_RATE_HZ)
