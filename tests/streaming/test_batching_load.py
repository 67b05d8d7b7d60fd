"""The scheduler under load on a virtual clock: finals in time, uploads behind, partials thinned.

Live sessions ask for a final every few seconds and for partials between; uploads ask for the next
final as soon as they have the last one's answer. One engine takes a fixed time per call and some
per second of encoder input.
"""

import random
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streaming.batching import Batch, BatchLimits, Scheduler
from streaming.engines import RecognizerProfile, SpeechWindow
from streaming.jobs import PATIENCE_NS, Job, JobKind
from streaming.pacing import PartialPacer
from streaming.timeline import SAMPLE_RATE_HZ

MS = 1_000_000
SECOND = 1_000 * MS
STEP_NS = 10 * MS
PROFILE = RecognizerProfile((10 * SAMPLE_RATE_HZ,), 30 * SAMPLE_RATE_HZ)
ROWS_MAX = 8
LIMITS = BatchLimits(3 * ROWS_MAX, ROWS_MAX * PROFILE.final_context_samples, profile=PROFILE)
FINAL = SpeechWindow(np.zeros(SAMPLE_RATE_HZ, np.int16))
PARTIAL = SpeechWindow(FINAL.samples, is_final=False)


@dataclass
class Engine:
    """How long a call takes."""

    call_ms: float
    ms_per_second: float

    def call_ns(self, batch: Batch) -> int:
        encoded_s = len(batch.jobs) * (batch.context_samples or 0) / SAMPLE_RATE_HZ
        return round((self.call_ms + self.ms_per_second * encoded_s) * MS)

    @property
    def call_ns_max(self) -> int:
        encoded_s = LIMITS.audio_samples_max / SAMPLE_RATE_HZ
        return round((self.call_ms + self.ms_per_second * encoded_s) * MS)


@dataclass
class Hall:
    """Sessions, one queue, one engine, and how long every job waited for its answer."""

    engine: Engine
    live: int
    uploads: int = 0
    final_every_s: float = 4.0
    hop_s: float = 1.0
    seed: int = 1
    talks_until_s: float = 1e9
    now_ns: int = 0
    asked_ns: dict[tuple[str, int], int] = field(default_factory=dict)
    final_waits_ns: list[int] = field(default_factory=list)
    partial_waits_ns: list[int] = field(default_factory=list)
    upload_answers: dict[str, int] = field(default_factory=dict)
    thinning: list[float] = field(default_factory=list)
    is_thinned: bool = True
    _numbers: int = 0
    _in_flight: set[tuple[str, bool]] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.queue = Scheduler(LIMITS)
        self.pacer = PartialPacer(1, 0)
        chance = random.Random(self.seed)
        self._final_at = [chance.uniform(0, self.final_every_s) for _ in range(self.live)]
        self._partial_at = [chance.uniform(0, self.hop_s) for _ in range(self.live)]
        self._busy_until_ns = 0
        self._call: tuple[Batch, int] | None = None

    def run(self, seconds: float) -> None:
        end_ns = self.now_ns + round(seconds * SECOND)
        while self.now_ns < end_ns:
            self._talk(self.now_ns / SECOND)
            self._upload()
            self._serve()
            self.thinning.append(self.pacer.thinning)
            self.now_ns += STEP_NS

    def _talk(self, now_s: float) -> None:
        for i in range(self.live if now_s < self.talks_until_s else 0):
            if self._final_at[i] <= now_s and (f"live {i}", True) not in self._in_flight:
                self._final_at[i] = max(self._final_at[i] + self.final_every_s, now_s)
                self._ask(f"live {i}", FINAL, self.now_ns)
            if self._partial_at[i] <= now_s and (f"live {i}", False) not in self._in_flight:
                thinning = self.pacer.thinning if self.is_thinned else 1.0
                self._partial_at[i] = now_s + self.hop_s * thinning
                self._ask(f"live {i}", PARTIAL, self.now_ns)

    def _upload(self) -> None:
        for i in range(self.uploads):
            name = f"upload {i}"
            if (name, True) not in self._in_flight:
                spoken_s = self.upload_answers.get(name, 0) * self.final_every_s
                self._ask(name, FINAL, max(self.now_ns, round(spoken_s * SECOND)))

    def _ask(self, name: str, window: SpeechWindow, spoken_ns: int) -> None:
        self._numbers += 1
        job = Job(
            session_id=name,
            number=self._numbers,
            lane=0,
            kind=JobKind.RECOGNIZE,
            questions=(window,),
            audio_samples=len(window.samples),
            is_final=window.is_final,
            deadline_ns=spoken_ns + PATIENCE_NS[JobKind.RECOGNIZE],
        )
        self._in_flight.add((name, job.is_final))
        self.asked_ns[name, job.number] = self.now_ns
        for lost in self.queue.add(job, self.now_ns):
            assert not lost.is_final
            self._come_back(lost)

    def _serve(self) -> None:
        if self._call is not None and self.now_ns >= self._busy_until_ns:
            served, call_ns = self._call
            self._call = None
            for job in served.jobs:
                self._come_back(job)
            wait_ns = self.queue.partial_wait_ns(self.now_ns)
            self.pacer.note_call(call_ns, served.live_share, wait_ns, self.now_ns)
        if self._call is None and (batch := self.queue.schedule(self.now_ns)) is not None:
            call_ns = self.engine.call_ns(batch)
            self._call, self._busy_until_ns = (batch, call_ns), self.now_ns + call_ns

    def _come_back(self, job: Job) -> None:
        self._in_flight.discard((job.session_id, job.is_final))
        waited_ns = self.now_ns - self.asked_ns.pop((job.session_id, job.number))
        if job.session_id.startswith("upload"):
            self.upload_answers[job.session_id] = self.upload_answers.get(job.session_id, 0) + 1
        elif job.is_final:
            self.final_waits_ns.append(waited_ns)
        else:
            self.partial_waits_ns.append(waited_ns)

    @property
    def final_wait_ns_max(self) -> int:
        """A call in progress, then those of the finals asked for before, at most one per session.

        Twice a step of this world's clock on top for each call.
        """
        calls = 2 + -(-self.live // ROWS_MAX)
        return calls * (self.engine.call_ns_max + 2 * STEP_NS)


@settings(max_examples=25, deadline=None)
@given(
    live=st.integers(1, 30),
    uploads=st.integers(0, 12),
    final_every_s=st.floats(0.5, 6),
    hop_s=st.floats(0.1, 2),
    call_ms=st.floats(0, 100),
    ms_per_second=st.floats(0.1, 10),
    is_thinned=st.booleans(),
)
def test_every_final_is_answered_within_a_bound_that_partials_and_uploads_cannot_move(
    live: int,
    uploads: int,
    final_every_s: float,
    hop_s: float,
    call_ms: float,
    ms_per_second: float,
    is_thinned: bool,
) -> None:
    engine = Engine(call_ms, ms_per_second)
    hall = Hall(engine, live, uploads, final_every_s, hop_s, is_thinned=is_thinned)
    hall.run(15)
    assert max(hall.final_waits_ns, default=0) <= hall.final_wait_ns_max


def test_uploads_cost_live_sessions_at_most_their_share_of_a_call() -> None:
    engine = Engine(call_ms=10, ms_per_second=3)
    alone, beside = Hall(engine, live=6), Hall(engine, live=6, uploads=12)
    beside.upload_answers = {f"upload {i}": 10 for i in range(12)}  # 40 s ahead already
    for hall in (alone, beside):
        hall.run(5)  # until it is known that somebody is live, uploads fill whole calls
        hall.final_waits_ns, hall.partial_waits_ns = [], []
        hall.run(60)
    # A call of uploads in progress, and their share of the call that has the live job.
    more_ns = 2 * (10 * MS + 3 * MS * (ROWS_MAX // 4) * 30) + 4 * STEP_NS
    assert max(beside.final_waits_ns) <= max(alone.final_waits_ns) + more_ns
    assert max(beside.partial_waits_ns) <= max(alone.partial_waits_ns) + 2 * more_ns


def test_uploads_share_what_is_left_and_none_starves() -> None:
    hall = Hall(Engine(call_ms=10, ms_per_second=3), live=6, uploads=10)
    hall.run(60)
    answers = hall.upload_answers.values()
    assert len(answers) == 10
    assert max(answers) - min(answers) <= 1
    paced = 60 / hall.final_every_s
    assert min(answers) > 2 * paced, "faster than speech, because there is time"


def test_an_upload_keeps_the_pace_of_speech_where_live_partials_would_take_everything() -> None:
    engine = Engine(call_ms=200, ms_per_second=10)
    hall = Hall(engine, live=20, uploads=2, final_every_s=20, hop_s=0.1, is_thinned=False)
    hall.run(120)
    paced = 120 // hall.final_every_s
    assert min(hall.upload_answers.values()) >= paced - 1


@pytest.mark.parametrize("live", [10, 20, 40, 60])
def test_partials_thin_out_under_load_and_come_back(live: int) -> None:
    """An engine that 10 talkers keep busy for 65 % of the time, and 20 for all of it, but with
    calls that have room for as many again; 40 and 60 are too many."""
    hall = Hall(Engine(call_ms=30, ms_per_second=1.5), live=live, talks_until_s=90)
    hall.run(90)
    assert max(hall.final_waits_ns) <= hall.final_wait_ns_max
    settled = hall.thinning[60 * 100 :]
    if live <= 20:
        assert max(hall.thinning) == 1.0
    else:
        assert min(settled) > 1.0
        assert max(settled) - min(settled) <= 0.4 * max(settled), "it does not swing"
    for _ in range(60):  # hardly anybody speaks any more
        hall.run(0.5)
        hall._ask("live late", PARTIAL, hall.now_ns)
    assert hall.pacer.thinning == 1.0


def test_thinning_moves_smoothly() -> None:
    hall = Hall(Engine(call_ms=30, ms_per_second=1.5), live=60)
    hall.run(60)
    later = hall.thinning[SECOND // STEP_NS :]
    per_second = max(b / a for a, b in zip(hall.thinning, later, strict=False))
    assert 1.0 < per_second <= 1.7, "half as many at once would be seen"
