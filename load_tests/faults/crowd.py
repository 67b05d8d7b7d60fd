"""People who talk on while things break, and what became of each of their words.

Owns: sessions through the client library, which resumes by itself, and the account of what was
received against what was said. Knows nothing of what is broken, or how.
Invariants: T1 whoever has finished a session begins another one until it is enough, so that the
same number talks at any moment; T2 every session that was begun is judged, also one that failed;
T3 a final counts as the user of the library got it, so a word that is yielded twice is doubled; T4
a word counts as cut, and not as lost, only where this program itself stood still at that time: a
talker who says nothing for a second has paused, and may do so in the middle of a word.
"""

import asyncio
import itertools
import random
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from operator import add
from typing import Self

import orjson

from clients.errors import CaptionStreamError
from clients.reconnect import Retry
from clients.stream import CaptionStream
from load_tests.oracle import FinalWord, Mistakes, find_mistakes
from load_tests.workload import CANONICAL, StreamPlan, packets_of, plan_stream
from streaming.events import DurableEvent, Final, Gap
from streaming.timeline import SAMPLE_RATE_HZ
from streaming.wire import Start

AUDIO_SECONDS = (15.0, 120.0)
"""Of one session: the short ones so that beginnings and ends are met as well, the long ones to be
met several times."""
WORDS_NAMED_MAX = 20
LOOK_SECONDS = 0.05
STALL_SECONDS = 0.5
"""Half of what a server takes for a pause; the line adds to it."""
STALL_REACH_SECONDS = 2.0
"""So long before its words came a stall may have cut them off."""
FAILURES_MAX = 3
"""Of one talker, one after the other; then nobody listens any more."""
RETRY = Retry(
    first_delay_ms=50,
    delay_ms_max=400,
    tries_max=100_000,
    time_ms_max=600_000,
    few_tries_max=100_000,
)
"""As stubborn as can be: what is measured is whether words are lost, not whether one gives up."""


Stall = tuple[float, float]
"""From when to when this program stood still; monotonic seconds."""


@dataclass(slots=True)
class Heard:
    """What came back from one session."""

    plan: StreamPlan
    stalls: Sequence[Stall] = ()
    finals: list[FinalWord] = field(default_factory=list)
    last_seq: int = 0
    broken_seqs: int = 0
    """Durable events that were not the next one."""
    gaps: int = 0
    connections: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    """Error messages by code, those included that the client got over."""
    ready_s: float = 0.0
    """When its newest connection was made; monotonic."""
    session_id: str = ""
    places: list[tuple[int, int]] = field(default_factory=list)
    """Of each connection: the seq and the frame from which it went on."""
    is_over: bool = False
    failure: str | None = "not finished in time"
    """Why there was no ``done``; None where there was."""

    def note_event(self, event: DurableEvent) -> None:
        self.broken_seqs += event.seq != self.last_seq + 1
        self.last_seq = event.seq
        self.gaps += isinstance(event, Gap)
        if isinstance(event, Final):
            now_s = time.monotonic()
            self.finals += [
                FinalWord(word.text, word.span.start / SAMPLE_RATE_HZ, now_s)
                for word in event.words
            ]

    def note_message(self, text: str) -> bool:
        """True where it opens a connection."""
        message = orjson.loads(text)
        if message["type"] == "error":
            self.errors[message["code"]] += 1
        if message["type"] != "ready":
            return False
        self.connections += 1
        self.session_id = message["session_id"]
        self.places.append((message["seq"], message["resume_from_frame"]))
        self.ready_s = time.monotonic()
        return True

    @property
    def mistakes(self) -> Mistakes:
        """Without the words that were cut."""
        said = [(word.text, word.start) for word in self.plan.words]
        found = find_mistakes(self.plan.stream, said, self.finals)
        return replace(found, lost=found.lost - len(self.cut))

    @property
    def cut(self) -> list[str]:
        """Words that are missing because their talker stood still inside them (T4)."""
        came = {word.text: word.received_s for word in self.finals}
        words = [came.get(word.text) for word in self.plan.words]
        return [
            word.text
            for before, word, time_s, after in zip(
                words, self.plan.words[1:], words[1:], words[2:], strict=False
            )
            if time_s is None and before is not None and after is not None
            if any(a < after and before - STALL_REACH_SECONDS < b for a, b in self.stalls)
        ]

    @property
    def damage(self) -> str | None:
        """Which words went wrong, and where the session was gone on with; None where none did."""
        if self.mistakes == Mistakes():
            return None
        came = Counter(word.text for word in self.finals) + Counter(self.cut)
        lost = [f"{w.text} at {w.start}" for w in self.plan.words if not came[w.text]]
        doubled = [w.text for w in self.plan.words if came[w.text] > 1]
        return (
            f"session {self.session_id}, stream {self.plan.stream} of {self.plan.samples} samples: "
            f"lost {lost[:WORDS_NAMED_MAX]}, doubled {doubled[:WORDS_NAMED_MAX]}, "
            f"connections from (seq, frame) {self.places}"
        )


@dataclass(frozen=True, slots=True)
class Tally:
    """What many sessions add up to."""

    sessions: int
    resumes: int
    words: int
    """That were said."""
    mistakes: Mistakes
    broken_seqs: int
    gaps: int
    errors: dict[str, int]
    failures: tuple[str, ...]
    """One for each session that had no ``done``."""
    damages: tuple[str, ...] = ()
    """One for each session in which words went wrong."""
    cut: int = 0
    """Words that this program broke off itself, because it had no processor."""

    @classmethod
    def of(cls, heard: Sequence[Heard]) -> Self:
        return cls(
            sessions=len(heard),
            resumes=sum(max(0, one.connections - 1) for one in heard),
            words=sum(len(one.plan.words) for one in heard),
            mistakes=_sum(one.mistakes for one in heard),
            broken_seqs=sum(one.broken_seqs for one in heard),
            gaps=sum(one.gaps for one in heard),
            errors=dict(sum((one.errors for one in heard), Counter())),
            failures=tuple(
                f"stream {one.plan.stream}: {one.failure}" for one in heard if one.failure
            ),
            damages=tuple(damage for one in heard if (damage := one.damage)),
            cut=sum(len(one.cut) for one in heard),
        )

    @property
    def misplaced(self) -> int:
        """Words that are somebody else's, nobody's, out of order or at the wrong time."""
        wrong = self.mistakes
        return wrong.misrouted + wrong.out_of_order + wrong.changed + wrong.mistimed

    @property
    def is_clean(self) -> bool:
        """Something was said, all of it came once and in place, and every session ended."""
        is_exact = self.mistakes == Mistakes() and self.broken_seqs == 0
        return self.words > 0 and is_exact and not self.failures


def _sum(mistakes: Iterable[Mistakes]) -> Mistakes:
    total = Mistakes()
    for one in mistakes:
        total = add(total, one)
    return total


class Crowd:
    """So many talkers at once, each at its own place in its own script."""

    def __init__(self, url: str, *, talkers: int, seed: int, speed: float) -> None:
        self._url = url
        self._talkers = talkers
        self._seed, self._speed = seed, speed
        self._numbers = itertools.count(1)
        self._is_enough = asyncio.Event()
        self._connected = asyncio.Event()
        """Set at each new connection; whoever waits clears it."""
        self.end_said = asyncio.Event()
        """Set whenever somebody has said everything; whoever waits clears it."""
        self._opened = 0
        self.is_full = asyncio.Event()
        """So many sessions have been opened as there are talkers."""
        self.heard: list[Heard] = []
        self._stalls: list[Stall] = []

    async def talk(self) -> None:
        """Returns when it is enough and everybody has finished, or when nobody gets through."""
        watch = asyncio.create_task(self._note_stalls())
        try:
            async with asyncio.TaskGroup() as tasks:
                for _ in range(self._talkers):
                    tasks.create_task(self._talk_on())
        finally:
            watch.cancel()

    async def _note_stalls(self) -> None:
        while True:
            before_s = time.monotonic()
            await asyncio.sleep(LOOK_SECONDS)
            now_s = time.monotonic()
            if now_s - before_s > STALL_SECONDS:
                self._stalls.append((before_s, now_s))

    def enough(self) -> None:
        """What is begun is said to its end, as fast as the server takes it."""
        self._is_enough.set()

    def connected_since(self, moment_s: float) -> int:
        """Sessions under way whose connection was made after this moment."""
        return sum(one.ready_s > moment_s and not one.is_over for one in self.heard)

    async def back_since(self, moment_s: float, seconds_max: float) -> None:
        """Waits until as many are connected as there are talkers, or for so long."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds_max):
                while self.connected_since(moment_s) < self._talkers:
                    self._connected.clear()
                    await self._connected.wait()

    async def _talk_on(self) -> None:
        failures = 0
        while not self._is_enough.is_set() and failures < FAILURES_MAX:
            number = next(self._numbers)
            seconds = random.Random(f"{self._seed} {number}").uniform(*AUDIO_SECONDS)
            plan = plan_stream(CANONICAL, number, seconds=seconds, seed=self._seed)
            heard = Heard(plan, self._stalls)
            self.heard.append(heard)
            await self._caption(heard)
            failures = failures + 1 if heard.failure else 0

    async def _caption(self, heard: Heard) -> None:
        def note(text: str) -> None:
            if heard.note_message(text):
                self._connected.set()

        stream = CaptionStream.open(self._url, Start(), retry=RETRY, on_message=note)
        try:
            async with stream, asyncio.TaskGroup() as tasks:
                self._note_opening()
                tasks.create_task(self._speak(stream, heard.plan))
                async for event in stream:
                    if isinstance(event, DurableEvent):
                        heard.note_event(event)
            heard.failure = None
        except CaptionStreamError as error:
            heard.failure = str(error)
        except BaseExceptionGroup as group:
            mine, rest = group.split(CaptionStreamError)
            if rest is not None or mine is None:
                raise
            heard.failure = str(mine.exceptions[0])
        finally:
            heard.is_over = True

    def _note_opening(self) -> None:
        self._opened += 1
        if self._opened >= self._talkers:
            self.is_full.set()

    async def _speak(self, stream: CaptionStream, plan: StreamPlan) -> None:
        """By its own clock, ``speed`` times as fast as people talk, whatever the line does."""
        packet_s = plan.packet_samples / SAMPLE_RATE_HZ / self._speed
        began_s = time.monotonic()
        for number, packet in enumerate(packets_of(plan), start=1):
            await self._pause_until(began_s + number * packet_s)
            await stream.send(packet)
        await stream.end()
        self.end_said.set()

    async def _pause_until(self, due_s: float) -> None:
        with_pause = not self._is_enough.is_set()
        await asyncio.sleep(max(0.0, due_s - time.monotonic()) if with_pause else 0)
