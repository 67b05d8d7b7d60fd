"""Too many talkers on a virtual clock: the real queue, pacer, meter, gate and shedding, by seeds.

People talk in utterances with pauses, each asks for partials and finals; one engine takes a time
per call and one per window. People want in, are refused, come back; the newest are sent away and
come back too.
"""

import random
from dataclasses import dataclass, field

import numpy as np
import pytest

from server.admission import (
    RETRY_AFTER_OVERLOAD_MS,
    RETRY_AFTER_SHED_MS,
    SHED_LATE_S,
    Load,
    LoadGate,
    OverloadReason,
    Shedding,
)
from server.load import LoadMeter
from streaming.batching import Batch, BatchLimits, Scheduler
from streaming.engines import SpeechWindow
from streaming.jobs import PATIENCE_NS, Job, JobKind
from streaming.lagging import LAG_SECONDS_MIN
from streaming.pacing import PartialPacer

MS = 1_000_000
SECOND = 1_000 * MS
STEP_NS = 20 * MS
LOOK_NS = SECOND // 2
WINDOWS_MAX = 8
CALL_NS = WINDOW_NS = 40 * MS
HANGOVER_NS = SECOND // 2
FINAL = SpeechWindow(np.zeros(0, np.int16))
PARTIAL = SpeechWindow(FINAL.samples, is_final=False)


@dataclass
class Person:
    """One who talks, or wants to."""

    number: int
    chance: random.Random
    came_ns: int | None = None
    """When he got in; None: outside."""
    knocks_ns: int | None = None
    begins_ns: int = 0
    ends_ns: int = 0
    partial_ns: int = 0
    open_ns: list[int] = field(default_factory=list)
    """Beginnings of utterances whose finals are not there yet."""

    def enter(self, now_ns: int) -> None:
        self.came_ns, self.knocks_ns = now_ns, None
        self.pause(now_ns)

    def pause(self, now_ns: int) -> None:
        self.begins_ns = now_ns + round(self.chance.uniform(0.3, 2.0) * SECOND)
        self.ends_ns = self.begins_ns + round(self.chance.uniform(1, 4) * SECOND)
        self.partial_ns = self.begins_ns + SECOND

    def done_ns(self, now_ns: int) -> int:
        """Audio before it needs no more work."""
        return min([now_ns, self.begins_ns, *self.open_ns])


@dataclass
class World:
    """A server and everybody who knows of it."""

    seed: int
    slowness: float = 1.0
    now_ns: int = 0
    waits_ns: list[int] = field(default_factory=list)
    """Of finals that were answered, since it was last emptied."""
    late_s: list[float] = field(default_factory=list)
    sent_away: list[int] = field(default_factory=list)
    gate_changes: int = 0
    story: list[str] = field(default_factory=list)
    """What happened for the first time, in that order."""

    def __post_init__(self) -> None:
        self.people: list[Person] = []
        self.queue = Scheduler(BatchLimits(WINDOWS_MAX))
        self.pacer, self.meter = PartialPacer(1, 0), LoadMeter(1, WINDOWS_MAX, 1.0, 0)
        self.gate, self.shedding = LoadGate(), Shedding(0)
        self._chance = random.Random(self.seed)
        self._numbers = self._counted = 0
        self._partials: set[str] = set()
        self._call: tuple[Batch, int] | None = None

    @property
    def inside(self) -> list[Person]:
        """In the order in which they came first."""
        return [person for person in self.people if person.came_ns is not None]

    def arrive(self, count: int, *, within_s: int) -> None:
        """So many want in, one after the other."""
        for _ in range(count):
            person = Person(len(self.people), random.Random(f"{self.seed} {len(self.people)}"))
            person.knocks_ns = self.now_ns + self._chance.randrange(within_s * SECOND)
            self.people.append(person)

    def give_up(self) -> None:
        """Nobody outside wants in any more."""
        for person in self.people:
            person.knocks_ns = None

    def run(self, seconds: float) -> None:
        end_ns = self.now_ns + round(seconds * SECOND)
        while self.now_ns < end_ns:
            for person in self.people:
                self._step(person)
            self._serve()
            if self.now_ns % LOOK_NS == 0:
                self._look()
            self.now_ns += STEP_NS

    def _load(self, more: int) -> Load:
        need = self.meter.need
        unknown = max(0, len(self.inside) - self._counted)
        share = need.share(2.0, unknown + more)
        return Load(share, self.meter.work.late_s(self.now_ns), need.price.call_s, 0.0)

    def _step(self, person: Person) -> None:
        if person.came_ns is not None:
            self._talk(person, str(person.number))
        elif person.knocks_ns is not None and person.knocks_ns <= self.now_ns:
            self._knock(person)

    def _knock(self, person: Person) -> None:
        if person.number not in self.sent_away:
            self.gate.note(self._load(more=1))
            if self.gate.refusal() is not None:
                share = 1 + self._chance.random() / 4
                person.knocks_ns = self.now_ns + round(RETRY_AFTER_OVERLOAD_MS * MS * share)
                return
        person.enter(self.now_ns)

    def _talk(self, person: Person, name: str) -> None:
        if self.now_ns >= person.ends_ns + HANGOVER_NS:
            person.open_ns.append(person.begins_ns)
            self._ask(name, FINAL, person.ends_ns)
            person.pause(self.now_ns)
        elif person.partial_ns <= min(self.now_ns, person.ends_ns) and name not in self._partials:
            person.partial_ns = self.now_ns + round(SECOND * self.pacer.thinning)
            self._partials.add(name)
            self._ask(name, PARTIAL, self.now_ns)

    def _ask(self, name: str, window: SpeechWindow, arrived_ns: int) -> None:
        self._numbers += 1
        due_ns = arrived_ns + PATIENCE_NS[JobKind.RECOGNIZE]
        kind, number = JobKind.RECOGNIZE, self._numbers
        job = Job(name, number, 0, kind, (window,), 0, window.is_final, due_ns)
        self.meter.note_asked([job], self.now_ns)
        for lost in self.queue.add(job, self.now_ns):
            self._partials.discard(lost.session_id)

    def _serve(self) -> None:
        if self._call is not None and self.now_ns >= self._call[1]:
            answered, _ = self._call
            self._call = None
            self._answer(answered)
        if self._call is None and (batch := self.queue.schedule(self.now_ns)) is not None:
            self._call = (batch, self.now_ns + self._call_ns(batch))

    def _call_ns(self, batch: Batch) -> int:
        return round((CALL_NS + WINDOW_NS * len(batch.jobs)) * self.slowness)

    def _answer(self, batch: Batch) -> None:
        call_ns = self._call_ns(batch)
        self.meter.note_answers(batch.jobs, [], call_ns / 1e9, self.now_ns)
        for job in batch.jobs:
            if job.is_final:
                self.waits_ns.append(self.now_ns - job.deadline_ns + PATIENCE_NS[job.kind])
                self.people[int(job.session_id)].open_ns.pop(0)
            else:
                self._partials.discard(job.session_id)
        wait_ns = self.queue.partial_wait_ns(self.now_ns)
        if self.pacer.note_call(call_ns, batch.live_share, wait_ns, self.now_ns):
            self.meter.thinning = self.pacer.thinning

    def _look(self) -> None:
        people, was_closed = self.inside, bool(self.gate.reasons)
        self._counted = len(people)
        heard_s = {str(p.number): self.now_ns / 1e9 for p in people}
        done_s = {str(p.number): p.done_ns(self.now_ns) / 1e9 for p in people}
        self.meter.need.note_audio(heard_s, done_s, self.now_ns)
        late_s, busy = self.meter.work.late_s(self.now_ns), self.meter.thinnest_share(self.now_ns)
        left = self.meter.left_share(self.now_ns)
        count = self.shedding.count(late_s, busy, left, len(people), self.now_ns)
        for person in people[len(people) - count :]:
            person.came_ns = None
            person.knocks_ns = self.now_ns + RETRY_AFTER_SHED_MS * MS
            self.sent_away.append(person.number)
        self.gate.note(self._load(more=1))
        self.gate_changes += was_closed != bool(self.gate.reasons)
        self.late_s.append(late_s)
        self._tell(late_s)

    def _tell(self, late_s: float) -> None:
        states = {
            "thinned": self.pacer.thinning > 1.0,
            "closed": bool(self.gate.reasons),
            "lag": late_s >= LAG_SECONDS_MIN,
            "sent away": bool(self.sent_away),
        }
        self.story += [name for name, is_so in states.items() if is_so and name not in self.story]

    def p95_s(self) -> float:
        """Of the finals since it was last asked."""
        waits_ns, self.waits_ns = self.waits_ns, []
        return float(np.percentile(waits_ns, 95)) / 1e9


SEEDS = range(4)


@pytest.mark.parametrize("seed", SEEDS)
def test_who_fits_gets_in_at_once(seed: int) -> None:
    """About half of what the engine can do."""
    world = World(seed)
    world.arrive(12, within_s=5)
    world.run(90)
    assert len(world.inside) == 12
    assert world.story == []


@pytest.mark.parametrize("seed", SEEDS)
def test_twice_as_many_as_fit_change_nothing_for_those_inside(seed: int) -> None:
    world = World(seed)
    world.arrive(80, within_s=60)
    world.run(70)
    world.give_up()
    before = len(world.inside)
    assert 15 <= before <= 45
    world.run(10)
    world.p95_s()
    world.run(60)
    calm_s, changes = world.p95_s(), world.gate_changes
    world.arrive(before, within_s=1)
    world.run(90)
    assert world.p95_s() <= 1.3 * calm_s
    assert len(world.inside) <= 1.2 * before
    assert world.sent_away == []
    assert world.gate_changes - changes <= 12, "it does not flap"


@pytest.mark.parametrize("seed", SEEDS)
def test_an_engine_that_slows_down_costs_the_newest_and_only_for_a_while(seed: int) -> None:
    world = World(seed)
    world.arrive(24, within_s=30)
    world.run(60)
    assert len(world.inside) == 24
    world.story.clear()
    world.slowness = 6.0
    world.run(60)
    assert [what for what in world.story if what != "thinned"] == ["closed", "lag", "sent away"]
    assert max(world.late_s) <= 2.5 * SHED_LATE_S
    assert min(world.sent_away) >= 8, "who came first stays, at a third of what is needed"
    world.slowness = 1.0
    world.run(60)
    assert len(world.inside) == 24, "those who were sent away are back"
    assert OverloadReason.BACKLOG not in world.gate.reasons
    assert world.pacer.thinning == 1.0
    assert max(world.late_s[-20:]) < 1.5


def test_the_same_seed_tells_the_same_story() -> None:
    worlds = [World(7), World(7)]
    for world in worlds:
        world.arrive(60, within_s=20)
        world.run(40)
    assert worlds[0].waits_ns == worlds[1].waits_ns
