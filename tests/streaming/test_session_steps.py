"""What a session asks for after each input: all of it at once, and after audio only activity.

The server stands on both: it does not ask again, and a packet costs it no full step.
"""

from collections.abc import Callable

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from streaming.jobs import Job, JobKind
from streaming.session import Session
from streaming.wire import AudioFormat, Start
from tests.fakes import Engines, channels, conversation, new_session, silence, speech

MS = 1_000_000


class Server:
    """Answers jobs late, and checks what the session asks for around each input."""

    def __init__(self, session: Session, answers_after: int) -> None:
        self.session = session
        self.now_ns = 0
        self._answers_after = answers_after
        self._waiting: list[tuple[int, Job]] = []
        self._engines = Engines()
        self._inputs = 0

    def hear(self, packet: bytes) -> None:
        self.now_ns += 10 * MS
        self.session.receive_audio(packet, self.now_ns)
        jobs = self.session.take_activity_jobs(self.now_ns)
        assert {job.kind for job in jobs} <= {JobKind.DETECT}
        self._submit(jobs)
        assert self.session.take_jobs(self.now_ns) == [], "audio alone led to more"
        self._answer()

    def do(self, action: Callable[[], object]) -> None:
        action()
        self._step()

    def _step(self) -> None:
        self._submit(self.session.take_jobs(self.now_ns))
        assert self.session.take_jobs(self.now_ns) == [], "it did not ask for everything at once"
        if self.session.log.has_unstored:
            self.session.log.take_unstored()
            self.session.log.mark_stored(self.session.log.last_seq)
            self._step()

    def _submit(self, jobs: list[Job]) -> None:
        self._waiting += [(self._inputs + self._answers_after, job) for job in jobs]

    def _answer(self) -> None:
        self._inputs += 1
        while self._waiting and self._waiting[0][0] <= self._inputs:
            _, job = self._waiting.pop(0)
            answers = self._engines.answer(job)
            assert answers is not None
            self.session.receive_result(job.number, answers, MS, self.now_ns)
            self._step()

    def end(self) -> None:
        self.do(lambda: self.session.end_of_audio(self.now_ns))
        while self._waiting:
            self._answer()


@settings(deadline=None, max_examples=20)
@given(
    answers_after=st.integers(0, 30),
    packet_ms=st.sampled_from([7, 20, 100, 700]),
    diarize=st.booleans(),
)
def test_one_step_is_enough(answers_after: int, packet_ms: int, diarize: bool) -> None:
    audio = np.concatenate([conversation(words=16), speech(range(20, 50)), silence(1)])
    start, audio = channels(audio, audio[::-1].copy())
    server = Server(new_session(start.model_copy(update={"diarize": diarize})), answers_after)
    server.do(lambda: None)
    data, size = audio.tobytes(), packet_ms * 64
    for at in range(0, len(data), size):
        server.hear(data[at : at + size])
        if at // size % 40 == 39:
            server.do(server.session.flush)
            server.do(lambda: server.session.skip(300, server.now_ns))
    server.end()
    assert server.session.is_quiet


def test_lanes_that_join_later_are_thinned_out_too() -> None:
    session = new_session(Start(audio=AudioFormat(tagged=True)))
    session.pace_partials(3.0)
    session.set_lane(0, "Alice")
    now_ns, asked = 0, 0
    audio = speech(range(60))
    for at in range(0, len(audio), 1_600):
        now_ns += 100 * MS
        session.receive_audio(b"\0" + audio[at : at + 1_600].tobytes(), now_ns)
        jobs = session.take_jobs(now_ns)
        while jobs:
            asked += sum(job.kind is JobKind.RECOGNIZE and not job.is_final for job in jobs)
            for job in jobs:
                session.receive_result(job.number, Engines().answer(job) or [], MS, now_ns)
            jobs = session.take_jobs(now_ns)
    seconds = len(audio) / 16_000
    assert seconds / 3 - 2 <= asked <= seconds / 3 + 1


def asked_by(*, seconds_per_second: int) -> list[tuple[bool, Job]]:
    """Whether each job was ahead when it was asked for, of a minute sent at a multiple of its
    pace."""
    session, now_ns, asked = new_session(Start(diarize=False)), 0, list[tuple[bool, Job]]()
    audio = speech(range(60 * 16_000 // len(speech([0]))))
    for at in range(0, len(audio), 16_000):
        session.receive_audio(audio[at : at + 16_000].tobytes(), now_ns)
        while jobs := session.take_jobs(now_ns):
            asked += [(job.is_ahead(now_ns), job) for job in jobs]
            for job in jobs:
                session.receive_result(job.number, Engines().answer(job) or [], MS, now_ns)
        now_ns += 1_000 * MS // seconds_per_second
    return asked


def test_only_an_upload_is_ahead_of_real_time_and_only_behind_its_burst() -> None:
    assert not any(is_ahead for is_ahead, _ in asked_by(seconds_per_second=1))
    upload = [is_ahead for is_ahead, _ in asked_by(seconds_per_second=20)]
    assert not any(upload[: len(upload) // 3]), "the first 30 s count as live"
    assert all(upload[-len(upload) // 3 :])
