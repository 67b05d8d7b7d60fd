"""Whole recordings through ordinary sessions: decoded apart, captioned in the time that is left.

Owns one recording from its first byte to its last event: a decoder process, a session that nobody
talks to live, and the way between the two. Audio goes in as fast as the session's credit allows,
so the engines take it behind everybody who talks now (``streaming/batching.py``). What a client
sent and what it is told are the adapters' matter.

Invariants: F1 nothing is held but the credit's worth of audio and what the decoder's pipes hold;
F2 a recording whose client is gone stops: its session and its text are deleted; F3 a session that
comes to its end is stored like any other.
"""

import asyncio
import contextlib
import time
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import soxr
import structlog

from server.admission import RETRY_AFTER_DRAINING_MS
from server.containers import SECONDS_MAX, ContainerDecoder
from server.hub import PROTOCOL
from server.live import LiveSession
from server.store import StoreError, TranscriptStore
from server.telemetry import Metrics
from streaming.engines import DecodingFigures, Samples
from streaming.errors import CaptiondError, Draining, Overloaded
from streaming.eventlog import Behind, Cursor
from streaming.events import Done, DurableEvent, Event, Final, LanguageDetected
from streaming.exports.transcript import Transcript
from streaming.timeline import SAMPLE_RATE_HZ, SAMPLES_PER_MS, Span
from streaming.wire import AudioFormat, Ready, Start, parse_durable_event

PIECE_BYTES = 64 * 1024
"""Audio is taken in such pieces: in between, the event loop serves those who talk."""
EVENTS_PER_READ = 64
INTRODUCTION_PAUSE_MS = 3_000
"""Longer than any utterance goes on without a word."""
LOOK_SECONDS = 1.0
"""How soon it is noticed that the client has gone."""

UPLOADS_MAX = 16
"""At once, of one protocol: each has a decoder process, and may hold 25 MB until it is whole."""
UPLOADS_RETRY_AFTER_MS = 3_000

_log = structlog.get_logger(__name__)


class Desk(Protocol):
    """Where sessions come from; the hub."""

    @property
    def store(self) -> TranscriptStore: ...

    @property
    def metrics(self) -> Metrics: ...

    @property
    def is_draining(self) -> bool: ...

    def admit(self, tenant: str) -> None: ...

    async def open(
        self, start: Start, tenant: str, *, protocol: str
    ) -> tuple[LiveSession, Ready]: ...

    def drop(self, session_id: str) -> None: ...


class UploadPlaces:
    """Those of one protocol's recordings."""

    def __init__(self) -> None:
        self._taken = 0

    @contextlib.contextmanager
    def take(self) -> Iterator[None]:
        """One, for the block. Raises: Overloaded."""
        if self._taken >= UPLOADS_MAX:
            raise Overloaded(
                f"{UPLOADS_MAX} recordings are being taken already; send it again",
                retry_after_ms=UPLOADS_RETRY_AFTER_MS,
            )
        self._taken += 1
        try:
            yield
        finally:
            self._taken -= 1


class ClientGone(Exception):
    """Nobody waits for the answer any more."""


@dataclass(frozen=True, slots=True)
class Heard:
    """All that was understood of a recording."""

    session_id: str
    transcript: Transcript
    language: str | None
    """What was given or detected; None where the recognizer does not tell."""
    language_probability: float | None
    """Where it was detected."""
    audio_seconds: float
    damaged_packets: int
    figures: Mapping[str, DecodingFigures] = field(default_factory=dict)
    """By caption, where the recognizer told them and they were still at hand."""


class Recording:
    """One recording; iterate over ``events`` once."""

    def __init__(
        self,
        desk: Desk,
        tenant: str,
        start: Start,
        *,
        is_mixed: bool = True,
        is_gone: Callable[[], bool] = lambda: False,
        seconds_max: float = SECONDS_MAX,
        introductions: Sequence[Samples] = (),
        protocol: str = PROTOCOL,
    ) -> None:
        """``start.audio`` is replaced by what the recording is. ``is_mixed``: all channels are
        heard as one; else each is a lane. ``is_gone`` says that the client is.

        ``introductions``: voices that are heard before a mixed recording, a pause behind each.
        ``protocol``: label of metrics.
        """
        assert is_mixed or not introductions
        self._desk = desk
        self._tenant = tenant
        self._protocol = protocol
        self._start = start
        self._is_mixed = is_mixed
        self._is_gone = is_gone
        self._introductions = introductions
        self.introduced_spans: list[Span] = []
        """Where they lie, pauses included; known with the first event."""
        self._decoder = ContainerDecoder(seconds_max=seconds_max)
        self._live: LiveSession | None = None
        self._cursor: Cursor | None = None
        self._audio_received_seconds = desk.metrics.audio_received_seconds.labels(protocol)
        self._words = desk.metrics.words.labels("final")
        self._news = asyncio.Event()
        self._failure: CaptiondError | None = None
        self._is_done = False

    @property
    def session_id(self) -> str | None:
        """None before the first audio."""
        return None if self._live is None else self._live.id

    @property
    def damaged_packets(self) -> int:
        return self._decoder.damaged_packets

    @property
    def channels(self) -> int:
        """As recorded; known with the first audio."""
        return self._decoder.channels

    @property
    def container(self) -> str | None:
        return self._decoder.container

    async def events(self, pieces: AsyncIterator[bytes]) -> AsyncGenerator[Event]:
        """The session's events up to and with ``Done``, as they come.

        ``pieces`` are the recording's bytes. To be closed by ``contextlib.aclosing``.
        Raises: what ``pieces`` raises; CaptiondError; ClientGone.
        """
        self._desk.admit(self._tenant)
        async with self._decoder:
            tasks = [
                asyncio.create_task(self._feed(pieces), name="recording feed"),
                asyncio.create_task(self._talk(), name="recording talk"),
            ]
            for task in tasks:
                task.add_done_callback(lambda _: self._news.set())
            try:
                async for event in self._read(tasks):
                    yield event
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                await self._leave()

    def heard(self, events: Iterable[DurableEvent]) -> Heard:
        """What all of its durable events say together."""
        assert self._live is not None
        durable = list(events)
        transcript = Transcript.from_events(durable)
        detected = next((e for e in durable if isinstance(e, LanguageDetected)), None)
        told = (caption.language for caption in transcript.captions)
        return Heard(
            self._live.id,
            transcript,
            self._start.language or (detected.language if detected else next(told, None)),
            detected.probability if detected else None,
            transcript.audio_seconds or 0.0,
            self.damaged_packets,
            {e.caption_id: e.figures for e in durable if isinstance(e, Final) and e.figures},
        )

    # In

    async def _feed(self, pieces: AsyncIterator[bytes]) -> None:
        async for piece in pieces:
            await self._decoder.feed(piece)
        await self._decoder.finish()

    async def _talk(self) -> None:
        async for block in self._decoder:
            live = self._live or await self._open()
            await self._push(
                live, mixed(block, self._decoder.channels) if self._is_mixed else block
            )
        if self._live is not None:
            self._live.session.end_of_audio_quietly(time.monotonic_ns())
            self._live.step()

    async def _open(self) -> LiveSession:
        channels = 1 if self._is_mixed else self._decoder.channels
        audio = AudioFormat(sample_rate=self._decoder.sample_rate_hz, channels=channels)
        start = self._start.model_copy(update={"audio": audio})
        live, _ = await self._desk.open(start, self._tenant, protocol=self._protocol)
        self._live = live
        self._cursor = live.session.log.cursor()
        live.listen(self._news.set)
        live.attach(self._dismiss, 0)
        # A recording has no pauses of a talker: waiting for credit or for a slow upload ends no
        # utterance.
        live.session.detach()
        self._news.set()
        for samples in self._introductions:
            await self._introduce(live, samples)
        return live

    async def _introduce(self, live: LiveSession, samples: Samples) -> None:
        start = self.introduced_spans[-1].end if self.introduced_spans else 0
        end = start + len(samples) + INTRODUCTION_PAUSE_MS * SAMPLES_PER_MS
        self.introduced_spans.append(Span(start, end))
        rate_hz = live.session.start.audio.sample_rate
        await self._push(live, resampled(samples, SAMPLE_RATE_HZ, rate_hz).tobytes())
        live.session.skip(INTRODUCTION_PAUSE_MS, time.monotonic_ns())
        live.step()

    def is_introduction(self, event: Event) -> bool:
        """A caption of what comes before the recording itself."""
        end = self.introduced_spans[-1].end if self.introduced_spans else 0
        return isinstance(event, Final) and event.span.start < end

    async def _push(self, live: LiveSession, pcm: bytes) -> None:
        session = live.session
        frame_bytes = 2 * session.start.audio.channels
        view = memoryview(pcm)
        while view:
            if self._desk.is_draining:
                # The session was paused, in the middle of a word if it must be.
                raise Draining(
                    "the server is going down; send the recording again",
                    retry_after_ms=RETRY_AFTER_DRAINING_MS,
                )
            room = (session.credit_until_frame - session.frames_received) * frame_bytes
            size = min(len(view), room, PIECE_BYTES // frame_bytes * frame_bytes)
            if size == 0:
                await self._credit(live)
                continue
            live.receive_audio(bytes(view[:size]))
            frames = size // frame_bytes
            self._audio_received_seconds.inc(frames / session.start.audio.sample_rate)
            view = view[size:]
            await asyncio.sleep(0)

    async def _credit(self, live: LiveSession) -> None:
        """Returns when there may be more of it."""
        news = asyncio.Event()
        live.listen(news.set)
        try:
            if live.session.credit_until_frame == live.session.frames_received:
                async with asyncio.timeout(LOOK_SECONDS):
                    await news.wait()
        except TimeoutError:
            pass
        finally:
            live.unlisten(news.set)

    def _dismiss(self, error: CaptiondError) -> None:
        self._failure = self._failure or error
        self._news.set()

    # Out

    async def _read(self, tasks: list[asyncio.Task[None]]) -> AsyncGenerator[Event]:
        while not self._is_done:
            events = await self._new_events()
            for event in events:
                self._is_done = self._is_done or isinstance(event, Done)
                if isinstance(event, Final):
                    self._words.inc(len(event.words))
                yield event
            if not events and not self._is_done:
                self._raise_failure(tasks)
                await self._wait()

    def _raise_failure(self, tasks: list[asyncio.Task[None]]) -> None:
        for task in tasks:
            if task.done() and (error := task.exception()) is not None:
                raise error
        if self._failure is not None:
            raise self._failure

    async def _wait(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LOOK_SECONDS):
                await self._news.wait()
        self._news.clear()
        if self._is_gone():
            raise ClientGone

    async def _new_events(self) -> list[Event]:
        if self._live is None or self._cursor is None:
            return []
        self._live.session.take_ack()  # nobody is to be told; while it is due, readers are woken
        try:
            return self._cursor.read(EVENTS_PER_READ)
        except Behind as behind:
            limit = min(EVENTS_PER_READ, behind.through_seq - behind.after_seq)
            stored = await self._desk.store.events(
                self._live.id, after_seq=behind.after_seq, limit=limit
            )
            self._cursor.skip_through(behind.after_seq + len(stored))
            return [parse_durable_event(fields) for fields in stored]

    async def _leave(self) -> None:
        """The session is over, or of no use to anybody."""
        live = self._live
        if live is None:
            return
        live.unlisten(self._news.set)
        if self._is_done:
            live.detach(self._dismiss, is_delivered=True)
            return
        self._desk.drop(live.id)
        try:
            await self._desk.store.delete_session(live.id)
        except StoreError as error:
            _log.warning("a session stays that nobody wants", reason=error.message)


def mixed(block: bytes, channels: int) -> bytes:
    """Interleaved PCM16 as mono."""
    if channels == 1:
        return block
    samples = np.frombuffer(block, "<i2").reshape(-1, channels)
    mean = samples.mean(axis=1, dtype=np.float32).round()
    return bytes(mean.astype("<i2").tobytes())


def resampled(samples: Samples, rate_hz: int, wanted_hz: int) -> Samples:
    """At another rate; the resampler would change even those that need none."""
    if rate_hz == wanted_hz:
        return samples
    found: Samples = soxr.resample(samples, rate_hz, wanted_hz)
    return found


async def heard(recording: Recording, pieces: AsyncIterator[bytes]) -> Heard:
    """The whole of it. Raises: as ``Recording.events``."""
    async with contextlib.aclosing(recording.events(pieces)) as events:
        durable = [event async for event in events if isinstance(event, DurableEvent)]
    return recording.heard(durable)
