"""A seeded world: a server with sessions, a network and engines that fail, on an integer clock.

One seed draws everything: what is said, packet splits, jitter, stalls, lost connections, mutes,
the latency and the failures of every engine call, the speed of the store. No asyncio, no threads:
an event heap. Run one seed with ``python -m tests.sim.world --seed N``.
"""

import argparse
import heapq
import random
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from streaming.batching import Batch, BatchLimits, Scheduler
from streaming.endpointing import EndpointingOptions
from streaming.engines import Samples
from streaming.eventlog import Cursor
from streaming.events import Done, DurableEvent, Event, Final, Gap, SessionStage
from streaming.jobs import Job
from streaming.scripted_audio import CARRIER_SAMPLES, encode_word, word_text
from streaming.session import Session, SessionState
from streaming.timeline import SAMPLE_RATE_HZ, Span
from streaming.windows import WindowOptions
from streaming.wire import AudioFormat, Start, encode_event
from tests.fakes import Engines, lane_options
from tests.sim import checkers

MS = 1_000_000
SECOND = 1_000 * MS
CLOSING_SECONDS_MAX = 300
"""Virtual time after the last audio in which every session must have closed."""


@dataclass(frozen=True)
class Weather:
    """How bad this world is; each value a share, or the mean of an exponential draw."""

    fail_share: float
    hang_share: float
    latency_ms: float
    store_ms: float
    jitter_ms: float
    stall_share: float
    drop_share: float
    """Of packets, after which the connection breaks."""

    @classmethod
    def draw(cls, rng: random.Random) -> "Weather":
        return cls(
            fail_share=rng.choice([0.0, 0.0, 0.02, 0.2]),
            hang_share=rng.choice([0.0, 0.0, 0.01]),
            latency_ms=rng.choice([1, 20, 200, 900]),
            store_ms=rng.choice([0, 2, 50, 2_000]),
            jitter_ms=rng.choice([0, 10, 300]),
            stall_share=rng.choice([0.0, 0.02]),
            drop_share=rng.choice([0.0, 0.0, 0.03]),
        )


Spoken = tuple[tuple[str, Span], ...]


@dataclass(frozen=True)
class Script:
    """What one client sends."""

    lanes: tuple[Samples, ...]
    spoken: tuple[Spoken, ...]
    names: tuple[str | None, ...]
    mutes: tuple[tuple[int, int], ...]
    """(frame of the audio, milliseconds skipped before it)"""
    is_live: bool
    """At the pace of speech; otherwise as fast as credit allows."""

    @classmethod
    def draw(cls, rng: random.Random, stream: int) -> "Script":
        count = rng.choice([1, 1, 1, 2, 3])
        samples = rng.randrange(1, 24) * SAMPLE_RATE_HZ + rng.randrange(SAMPLE_RATE_HZ)
        lanes = [_talk(rng, stream * 10 + lane, samples) for lane in range(count)]
        names = [rng.choice([None, None, f"Name {lane}", "S1"]) for lane in range(count)]
        audio, spoken = zip(*lanes, strict=True)
        mutes: list[tuple[int, int]] = []
        if count == 1 and spoken[0] and rng.random() < 0.3:
            spoken, mutes = _muted(rng, spoken[0])
        return cls(audio, spoken, tuple(names), tuple(mutes), rng.random() < 0.7)

    @property
    def start(self) -> Start:
        audio = AudioFormat(channels=len(self.lanes), channel_names=list(self.names))
        return Start(audio=audio)

    @property
    def data(self) -> bytes:
        return np.stack(self.lanes, axis=1).tobytes()


def _talk(rng: random.Random, stream: int, samples: int) -> tuple[Samples, Spoken]:
    audio = np.zeros(samples, np.int16)
    spoken = []
    position, number, speaker = rng.randrange(8_000), 0, 0
    pauses = rng.choice([[0], [0, 0, 0, 4_000], [0, 12_000, 40_000]])
    while position + CARRIER_SAMPLES <= samples:
        word = encode_word(stream, number, speaker)[:CARRIER_SAMPLES]
        audio[position : position + CARRIER_SAMPLES] = word
        spoken.append((word_text(stream, number), Span(position, position + CARRIER_SAMPLES)))
        position += CARRIER_SAMPLES + rng.choice([0, 1_024]) + rng.choice(pauses)
        number += 1
        if rng.random() < 0.05:
            speaker = rng.randrange(3)
    return audio, tuple(spoken)


def _muted(rng: random.Random, spoken: Spoken) -> tuple[tuple[Spoken, ...], list[tuple[int, int]]]:
    """Before some words a mute: those after it come that much later."""
    mutes, shifted, shift = [], [], 0
    for text, span in spoken:
        if rng.random() < 0.1:
            mutes.append((span.start, rng.choice([1, 400, 20_000])))
            shift += mutes[-1][1] * SAMPLE_RATE_HZ // 1000
        shifted.append((text, span.shifted(shift)))
    return (tuple(shifted),), mutes


@dataclass
class World:
    """The heap, the clock, the log of all that clients read."""

    seed: int
    now_ns: int = 0
    lines: list[str] = field(default_factory=list)
    _heap: list[tuple[int, int, Callable[[], None]]] = field(default_factory=list)
    _count: int = 0

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        self.weather = Weather.draw(self.rng)
        self.is_fair = False
        """From now on nothing fails."""
        self.engines = {stage: Stage(stage, self) for stage in SessionStage}
        count = self.rng.choice([1, 1, 2, 4])
        self.sessions = [Client(self, i) for i in range(count)]

    def after(self, delay_ns: float, action: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._heap, (self.now_ns + max(0, int(delay_ns)), self._count, action))

    def delay_ns(self, mean_ms: float) -> int:
        return int(self.rng.expovariate(1 / mean_ms) * MS) if mean_ms else 0

    def run(self) -> None:
        """Until every session has closed and all its events are read."""
        for client in self.sessions:
            self.after(self.rng.randrange(SECOND), client.send)
        limit_ns = 0
        while self._heap:
            self.now_ns, _, action = heapq.heappop(self._heap)
            action()
            if not self.is_fair and all(client.has_ended for client in self.sessions):
                self.is_fair, limit_ns = True, self.now_ns + CLOSING_SECONDS_MAX * SECOND
            assert not limit_ns or self.now_ns <= limit_ns, "a session does not close"
        for client in self.sessions:
            client.check()


class Stage:
    """One engine and its queue."""

    def __init__(self, stage: SessionStage, world: World) -> None:
        self._world = world
        self._scheduler = Scheduler(BatchLimits(world.rng.choice([1, 4, 8])))
        self._engines = Engines()
        self._is_busy = False

    def add(self, job: Job) -> None:
        for lost in self._scheduler.add(job, self._world.now_ns):
            self._world.sessions[int(lost.session_id)].session.receive_failure(lost.number)
        self._world.after(0, self._serve)

    def _serve(self) -> None:
        batch = None if self._is_busy else self._scheduler.schedule(self._world.now_ns)
        if batch is None:
            return
        self._is_busy = True
        weather, rng = self._world.weather, self._world.rng
        latency_ns = self._world.delay_ns(weather.latency_ms)
        is_failed = not self._world.is_fair and rng.random() < weather.fail_share
        if not self._world.is_fair and rng.random() < weather.hang_share:
            latency_ns, is_failed = 30 * SECOND, True
        self._world.after(latency_ns, lambda: self._answer(batch, is_failed, latency_ns))

    def _answer(self, batch: Batch, is_failed: bool, engine_ns: int) -> None:
        self._is_busy = False
        for job in batch.jobs:
            client = self._world.sessions[int(job.session_id)]
            answers = None if is_failed else self._engines.answer(job)
            if answers is None:
                client.session.receive_failure(job.number)
            else:
                client.session.receive_result(job.number, answers, engine_ns, self._world.now_ns)
            client.step()
        self._world.after(0, self._serve)


class Client:
    """One talker, its connection, and the part of the server that waits for it."""

    def __init__(self, world: World, index: int) -> None:
        self._world, self._index = world, index
        self.script = Script.draw(world.rng, index + 1)
        cap_ms = world.rng.choice([4_000, 20_000])
        self._buffer_samples = world.rng.choice([20, 60]) * SAMPLE_RATE_HZ
        options = lane_options(
            buffer_samples=self._buffer_samples,
            windows=WindowOptions(cap_ms=cap_ms),
            endpointing=EndpointingOptions(hangover_ms=world.rng.choice([300, 600])),
        )
        self.session = Session(str(index), self.script.start, options, seed=world.seed)
        self._data = self.script.data
        self._sent = 0
        self._frame_bytes = 2 * len(self.script.lanes)
        self._is_storing = False
        self._cursor: Cursor | None = self.session.log.cursor()
        self._connection = 0
        self.read: list[Event] = []
        """By every connection; what was read twice counts once."""
        self.has_ended = False
        self._acked_frame = self._credit_frame = 0
        self._deadline_ns: int | None = None
        self._mutes = {at * self._frame_bytes: ms for at, ms in self.script.mutes}
        self._skipped_frames = 0
        self.breaks: list[int] = []
        """Samples at which open utterances were closed, in the middle of a word or not."""

    # The talker

    def send(self) -> None:
        """The next packet or mute, or the end."""
        if self._sent == len(self._data):
            self.has_ended = True
            self.session.end_of_audio(self._world.now_ns)
            self.step()
        elif (ms := self._mutes.pop(self._sent, None)) is not None:
            self.session.skip(ms, self._world.now_ns)
            self._skipped_frames += ms * SAMPLE_RATE_HZ // 1000
            self._go_on(after_ns=0)
        else:
            self._send_packet()

    def _send_packet(self) -> None:
        rng = self._world.rng
        size = rng.choice([1, 333, 3_200, 6_400, 64_001])
        end = min([self._sent + size, *(at for at in self._mutes if at > self._sent)])
        packet = self._data[self._sent : end]
        if self._skipped_frames + end // self._frame_bytes > self.session.credit_until_frame:
            self._go_on(after_ns=100 * MS)
            return
        self.session.receive_audio(packet, self._world.now_ns)
        self._sent += len(packet)
        if rng.random() < 0.02:
            self.breaks.append(self.session.frames_received)
            self.session.flush()
        self._go_on(after_ns=self._pause_ns(len(packet) // self._frame_bytes))
        if rng.random() < self._world.weather.drop_share:
            self._later(self._world.delay_ns(200), self._disconnect)

    def _pause_ns(self, frames: int) -> int:
        rng, weather = self._world.rng, self._world.weather
        pause_ns = frames * SECOND // SAMPLE_RATE_HZ if self.script.is_live else 0
        if rng.random() < 0.1:
            pause_ns += self._world.delay_ns(weather.jitter_ms)
        if rng.random() < weather.stall_share:
            pause_ns += rng.randrange(4 * SECOND)
        return pause_ns

    def _go_on(self, *, after_ns: int) -> None:
        self.step()
        self._later(after_ns, self.send)

    def _later(self, delay_ns: int, action: Callable[[], None]) -> None:
        """Unless the connection has broken until then, or all is said."""
        connection = self._connection

        def act() -> None:
            if connection == self._connection and not self.has_ended:
                action()

        self._world.after(delay_ns, act)

    def _disconnect(self) -> None:
        self._connection += 1
        self._cursor = None
        self.session.detach()
        self.step()
        self._later(self._world.rng.randrange(5 * SECOND), self._resume)

    def _resume(self) -> None:
        """The last events may have been lost on the way: they are asked for again."""
        seqs = [event.seq for event in self.read if isinstance(event, DurableEvent)]
        seq = max(0, (seqs[-1] if seqs else 0) - self._world.rng.randrange(3))
        kept = [isinstance(e, DurableEvent) and e.seq > seq for e in self.read]
        del self.read[kept.index(True) if True in kept else len(kept) :]
        self.session.attach(self._world.now_ns, seq)
        self._cursor = self.session.log.cursor(seq)
        self._sent = (self.session.frames_received - self._skipped_frames) * self._frame_bytes
        self._go_on(after_ns=0)

    # The server

    def step(self) -> None:
        """After each input: jobs out, events to the store, word to the reader, bounds checked."""
        now_ns = self._world.now_ns
        while jobs := self.session.take_jobs(now_ns):
            for job in jobs:
                self._world.engines[job.stage].add(job)
        self._store()
        self._deliver()
        self._check_bounds()
        self._arm()

    def _store(self) -> None:
        if self._is_storing or not self.session.log.has_unstored:
            return
        self._is_storing = True
        events = self.session.log.take_unstored()
        delay_ns = self._world.delay_ns(self._world.weather.store_ms)
        self._world.after(delay_ns, lambda: self._stored(events))

    def _stored(self, events: list[DurableEvent]) -> None:
        for event in events:
            is_safe = not isinstance(event, Final | Gap) or (
                self.session.stored_through_frame <= event.span.start
            )
            assert is_safe, f"{event} was called stored too early"
        self._is_storing = False
        self.session.log.mark_stored(events[-1].seq)
        self.step()

    def _deliver(self) -> None:
        if self._cursor is None:
            return
        news = self._cursor.read(1_000)
        for event in news:
            self.session.note_written(event, self._world.now_ns)
            self._world.lines.append(f"{self._world.now_ns} {self._index} {_text(event)}")
        self.read += news
        ack = self.session.take_ack()
        if ack is not None:
            assert ack.stored_through_frame >= self._acked_frame, "an ack went back"
            assert ack.credit_until_frame >= self._credit_frame, "credit went down"
            self._acked_frame, self._credit_frame = ack.stored_through_frame, ack.credit_until_frame
            self._world.lines.append(f"{self._world.now_ns} {self._index} {ack}")
        if news:
            self._world.after(0, self.step)

    def _arm(self) -> None:
        due_ns = self.session.deadline_ns
        if due_ns is not None and due_ns != self._deadline_ns:
            self._deadline_ns = due_ns
            self._world.after(due_ns - self._world.now_ns, self._on_deadline)

    def _on_deadline(self) -> None:
        self._deadline_ns = None
        due_ns = self.session.deadline_ns
        if due_ns is not None and due_ns <= self._world.now_ns:
            self.breaks.append(self.session.frames_received)
        self.session.handle_deadline(self._world.now_ns)
        self.step()

    # What must hold

    def _check_bounds(self) -> None:
        bound = self._buffer_samples + 2 * SAMPLE_RATE_HZ
        assert self.session.held_samples <= bound, f"{self.session.held_samples} samples held"
        assert self.session.stored_through_frame <= self.session.frames_received

    def check(self) -> None:
        """The session has closed, and its reader has all that it should."""
        assert self.session.state is SessionState.DONE, f"session {self._index} has not closed"
        assert isinstance(self.read[-1], Done), "the closing event was not delivered"
        checkers.check_all(self.read)
        checkers.check_speakers(self.read, self.script.names)
        for lane, spoken in enumerate(self.script.spoken):
            checkers.check_words(self.read, lane, spoken, self.breaks)


def _text(event: Event) -> str:
    return encode_event(event).decode()


def run(seed: int) -> Sequence[str]:
    """Everything that clients read in the world of this seed."""
    world = World(seed)
    world.run()
    return world.lines


def main() -> None:
    """Replays one seed and shows its log."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, required=True)
    world = World(parser.parse_args().seed)
    try:
        world.run()
    finally:
        sys.stdout.write("\n".join(world.lines) + "\n")
        sys.stdout.write(f"{world.weather}\n")


if __name__ == "__main__":
    main()
