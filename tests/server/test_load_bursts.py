"""A burst is one sender's haste, no lateness: real sessions, queue and meter on a virtual clock."""

from dataclasses import dataclass, field

import numpy as np
import pytest

from server.admission import Load, LoadGate, OverloadReason
from server.load import LoadMeter
from streaming.batching import Batch, BatchLimits, Scheduler
from streaming.engines import Samples
from streaming.events import Final
from streaming.jobs import Job, JobKind
from streaming.session import Session
from streaming.wire import Start
from tests.fakes import Engines, lane_options, of_type, silence, speech

MS = 1_000_000
SECOND = 1_000 * MS
STEP_NS = 100 * MS
PACKET_SAMPLES = 1_600
LOOK_NS = SECOND // 2
UTTERANCE_WORDS = 10


def talk(utterances: int) -> Samples:
    """4.2 s each."""
    parts = [
        part
        for number in range(utterances)
        for part in (
            speech(range(number * UTTERANCE_WORDS, (number + 1) * UTTERANCE_WORDS)),
            silence(1.0),
        )
    ]
    return np.concatenate(parts)


@dataclass
class Server:
    """One recognizer that takes so long for a window; voice activity takes no time."""

    window_s: float
    now_ns: int = 0
    lates_s: list[float] = field(default_factory=list)
    closed: list[bool] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._sessions: dict[str, tuple[Session, Samples]] = {}
        self._queue = Scheduler(BatchLimits(1))
        self._engines = Engines()
        self._meter = LoadMeter(1, 1, 1.0, 0)
        self._gate = LoadGate()
        self._call: tuple[Batch, int] | None = None

    def hear(self, name: str, audio: Samples, *, at_once: bool = False) -> Session:
        """Somebody talks from now on, or sends a recording at full speed."""
        session = Session(name, Start(partials=False, diarize=False), lane_options(), seed=1)
        self._sessions[name] = (session, audio)
        while at_once and len(self._sessions[name][1]):
            self._send(name)
        return session

    def _send(self, name: str) -> None:
        session, rest = self._sessions[name]
        packet, rest = rest[:PACKET_SAMPLES], rest[PACKET_SAMPLES:]
        session.receive_audio(packet.tobytes(), self.now_ns)
        self._sessions[name] = (session, rest)

    def run(self, seconds: float) -> None:
        end_ns = self.now_ns + round(seconds * SECOND)
        while self.now_ns < end_ns:
            self.now_ns += STEP_NS
            for name, (_, rest) in self._sessions.items():
                if len(rest):
                    self._send(name)
            self._serve()
            if self.now_ns % LOOK_NS == 0:
                self._look()

    def _serve(self) -> None:
        self._ask()
        if self._call is not None and self.now_ns >= self._call[1]:
            answered, self._call = self._call[0], None
            self._meter.note_answers(answered.jobs, [], self.window_s, self.now_ns)
            self._answer(answered.jobs)
            self._ask()
        if self._call is None and (batch := self._queue.schedule(self.now_ns)) is not None:
            self._call = (batch, self.now_ns + round(self.window_s * SECOND))

    def _ask(self) -> None:
        while jobs := [j for s, _ in self._sessions.values() for j in s.take_jobs(self.now_ns)]:
            self._meter.note_asked(jobs, self.now_ns)
            heard = [job for job in jobs if job.kind is JobKind.DETECT]
            self._meter.note_answers(heard, [], 0.0, self.now_ns)
            self._answer(heard)
            for job in jobs:
                if job.kind is JobKind.RECOGNIZE:
                    assert self._queue.add(job, self.now_ns) == []

    def _answer(self, jobs: list[Job] | tuple[Job, ...]) -> None:
        for job in jobs:
            session, answers = self._sessions[job.session_id][0], self._engines.answer(job)
            assert answers is not None
            session.receive_result(job.number, answers, MS, self.now_ns)

    def _look(self) -> None:
        late_s = self._meter.work.late_s(self.now_ns)
        self._gate.note(Load(0.0, late_s, self._meter.need.price.call_s, 0.0))
        self.lates_s.append(late_s)
        self.closed.append(OverloadReason.BACKLOG in self._gate.reasons)


def words(session: Session) -> int:
    session.log.mark_stored(session.log.last_seq)
    finals = of_type(Final, session.log.cursor().read(10_000))
    return sum(len(final.words) for final in finals)


def test_a_recording_at_full_speed_closes_no_door_while_it_is_dealt_with_faster_than_spoken() -> (
    None
):
    server = Server(window_s=2.0)
    session = server.hear("burst", talk(7), at_once=True)
    server.run(20)
    assert words(session) == 7 * UTTERANCE_WORDS
    assert not any(server.closed)
    assert max(server.lates_s) < 2.0


def test_one_that_cannot_be_followed_at_the_pace_of_speech_does() -> None:
    server = Server(window_s=8.0)
    server.hear("burst", talk(7), at_once=True)
    server.run(60)
    assert any(server.closed)


@pytest.mark.parametrize("bursts", [0, 3])
def test_talkers_who_are_captioned_late_close_it_beside_bursts_too(bursts: int) -> None:
    server = Server(window_s=2.0)
    for number in range(bursts):
        server.hear(f"burst {number}", talk(7), at_once=True)
    for number in range(4):
        server.hear(f"talker {number}", talk(7))
    server.run(20)
    assert any(server.closed)


def test_who_talks_on_after_a_burst_is_a_talker_again() -> None:
    """A stall of the network gives nobody's captions leave to be late for ever."""
    server = Server(window_s=0.5)
    server.hear("stalled", talk(40))
    for _ in range(250):
        server._send("stalled")
    server.run(60)
    assert not any(server.closed)
    server.window_s = 9.0
    server.run(40)
    assert any(server.closed)
