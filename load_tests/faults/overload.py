"""Twice as many people as a server can caption: ``python -m load_tests.faults.overload --quick``.

A real server whose recognizer sleeps instead of working, so that its capacity does not depend on
this machine. First people come until one is refused: those who are in stay for all that follows.
Then calm and rush take turns. In a rush as many people again want in; who is refused comes back
when the server said. What those inside feel in a rush is held against the calm before it.

The bounds: p95 of those inside at most 1.3 times that of calm, none of them closed, no word wrong;
everyone refused is told in 250 ms, with a hint; memory at most 1.1 times that of calm. Time for
which the machine had no processor for this program, or for the server, is not the server's.
"""

import argparse
import asyncio
import random
import statistics
import sys
import tempfile
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import orjson
import psutil

from clients.delays import SentAudio, quantiles
from load_tests.replay import Heard, Target, VirtualUser
from load_tests.report import mistakes_of
from load_tests.workload import CANONICAL, plan_stream
from server.child import ServerChild, run_with_server, running_server
from server.memory import used_bytes

SERVER_OPTIONS = (
    *("--asr", "scripted", "--diarizer", "none", "--sessions-max", "1000"),
    *("--asr-options", "latency_ms=40", "--asr-options", "latency_ms_per_item=40"),
)
"""A window costs 40 ms and a call as much again: about as many sessions as a small server holds."""
ARRIVAL_SECONDS = 0.5
"""Between two who come before the first calm: each is measured a little before the next one."""
REFUSED_IN_A_ROW = 3
REFUSED_PAUSE_SECONDS = 5.0
"""One who is refused while others have hardly begun to speak says little."""
FILL_SECONDS_MAX = 60.0
SESSIONS_MIN, SESSIONS_MAX = 4, 100
SETTLE_SECONDS = 8.0
"""After a change, before it counts: utterances that began before it have ended."""
JITTER_SHARE = 0.25
"""Whoever is refused comes back up to so much later than he was told."""
SAMPLE_SECONDS = 1.0
WATCH_SECONDS = 0.02
STALLS_MAX = 1_000
DELAY_RATIO_MAX = 1.3
MEMORY_RATIO_MAX = 1.1
REFUSAL_SECONDS_MAX = 0.25


@dataclass(frozen=True, slots=True)
class Effort:
    """How long, and how often."""

    rounds: int
    calm_s: float
    rush_s: float
    seed: int

    @property
    def seconds(self) -> float:
        """From the first who comes to the last who may go."""
        return FILL_SECONDS_MAX + self.rounds * (self.calm_s + self.rush_s + 2 * SETTLE_SECONDS)


@dataclass(frozen=True, slots=True)
class Phase:
    """A stretch of time in which nothing is changed; monotonic seconds."""

    is_rush: bool
    begin_s: float
    end_s: float


@dataclass(frozen=True, slots=True)
class Refusal:
    """How one who wanted in was sent away."""

    code: str
    seconds: float
    retry_after_s: float | None
    lost_s: float
    """Of these, this program or the server had no processor."""


@dataclass(slots=True)
class Notes:
    """Everything that was seen."""

    inside: list[Heard] = field(default_factory=list)
    """Those who were in before the first calm."""
    let_in: list[Heard] = field(default_factory=list)
    """Those who got in during a rush."""
    refusals: list[Refusal] = field(default_factory=list)
    phases: list[Phase] = field(default_factory=list)
    memory: list[tuple[float, float]] = field(default_factory=list)
    """When, and MiB of the server's processes."""


Stalls = deque[tuple[float, float]]
"""When each ended, and how long it was; the latest ones."""


def overlap_s(stalls: Stalls, begin_s: float, end_s: float) -> float:
    """Of the time between these moments, what may have been stalls."""
    spans = ((at_s - late_s, at_s) for at_s, late_s in stalls)
    return sum(max(0.0, min(end_s, end) - max(begin_s, begin)) for begin, end in spans)


class Watch:
    """When this program or the server had to wait for a processor: other programs' doing."""

    def __init__(self, server_pid: int) -> None:
        self._figures = Path(f"/proc/{server_pid}/schedstat")
        self._own: Stalls = deque(maxlen=STALLS_MAX)
        self._servers: Stalls = deque(maxlen=STALLS_MAX)

    async def run(self) -> None:
        """Until it is cancelled."""
        waited_s = self._server_waited_s()
        while True:
            due_s = time.monotonic() + WATCH_SECONDS
            await asyncio.sleep(WATCH_SECONDS)
            now_s, before_s = time.monotonic(), waited_s
            waited_s = self._server_waited_s()
            if now_s - due_s > WATCH_SECONDS:
                self._own.append((now_s, now_s - due_s))
            if waited_s - before_s > WATCH_SECONDS / 2:
                self._servers.append((now_s, waited_s - before_s))

    def _server_waited_s(self) -> float:
        """For a processor, since its start, its event loop's thread; 0 where nobody tells."""
        try:
            return int(self._figures.read_text().split()[1]) / 1e9
        except (OSError, ValueError, IndexError):
            return 0.0

    def lost_s(self, begin_s: float, end_s: float) -> float:
        """The larger of the two: they may have waited at the same time."""
        return max(overlap_s(stalls, begin_s, end_s) for stalls in (self._own, self._servers))


class House:
    """The server, those inside, and those at the door."""

    def __init__(self, child: ServerChild, effort: Effort) -> None:
        self.notes = Notes()
        self._target = Target(child.url, diarize=False)
        self._effort = effort
        self._chance = random.Random(effort.seed)
        self._streams = 0
        self._ends_s = time.monotonic() + effort.seconds
        self._tasks: asyncio.TaskGroup
        self._watch = Watch(child.process.pid)

    async def measure(self) -> None:
        """All phases. Raises: RuntimeError where nobody is refused, or hardly anybody fits."""
        watching = asyncio.create_task(self._watch.run())
        try:
            async with asyncio.TaskGroup() as self._tasks:
                await self._fill()
                for _ in range(self._effort.rounds):
                    await self._phase(self._effort.calm_s, is_rush=False)
                    await self._phase(self._effort.rush_s, is_rush=True)
                self._ends_s = 0.0
        finally:
            watching.cancel()

    async def _fill(self) -> None:
        """Let people in until no more are."""
        gives_up_s, refused = time.monotonic() + FILL_SECONDS_MAX, 0
        while refused < REFUSED_IN_A_ROW:
            if len(self.notes.inside) >= SESSIONS_MAX or time.monotonic() > gives_up_s:
                raise RuntimeError(f"{len(self.notes.inside)} came and the server was never full")
            before = len(self.notes.refusals)
            user = self._user(self._ends_s - time.monotonic())
            self.notes.inside.append(user.heard)
            self._tasks.create_task(self._stay(user, self.notes.inside))
            await asyncio.sleep(ARRIVAL_SECONDS)
            is_in = len(self.notes.refusals) == before
            refused = 0 if is_in else refused + 1
            await asyncio.sleep(0 if is_in else REFUSED_PAUSE_SECONDS)
        if len(self.notes.inside) < SESSIONS_MIN:
            raise RuntimeError(f"only {len(self.notes.inside)} fit")
        self.notes.refusals.clear()

    async def _phase(self, seconds: float, *, is_rush: bool) -> None:
        ends_s = time.monotonic() + SETTLE_SECONDS + seconds
        crowd = len(self.notes.inside) if is_rush else 0
        for _ in range(crowd):
            self._tasks.create_task(self._knock(ends_s))
        await asyncio.sleep(SETTLE_SECONDS)
        self.notes.phases.append(Phase(is_rush, time.monotonic(), ends_s))
        await asyncio.sleep(ends_s - time.monotonic())

    def _user(self, seconds: float) -> VirtualUser:
        self._streams += 1
        plan = plan_stream(CANONICAL, self._streams, seconds=seconds, seed=self._effort.seed)
        return VirtualUser(plan, self._target)

    async def _stay(self, user: VirtualUser, among: list[Heard]) -> Refusal | None:
        """Returns when he has said everything, or was refused."""
        began_s = time.monotonic()
        heard = await user.talk(began_s)
        if heard.refusal is None:
            return None
        ended_s = time.monotonic()
        await asyncio.sleep(2 * WATCH_SECONDS)  # after a stall, whoever sees it may come second
        lost_s = self._watch.lost_s(began_s, ended_s)
        refusal = Refusal(heard.refusal, ended_s - began_s, heard.retry_after_s, lost_s)
        among.remove(heard)
        self.notes.refusals.append(refusal)
        return refusal

    async def _knock(self, ends_s: float) -> None:
        """Wants in until the rush is over, and talks as long as it lasts once he is in."""
        while (left_s := ends_s - time.monotonic()) > 1:
            user = self._user(left_s)
            self.notes.let_in.append(user.heard)
            refusal = await self._stay(user, self.notes.let_in)
            if refusal is None:
                return
            pause_s = (refusal.retry_after_s or 1.0) * (1 + JITTER_SHARE * self._chance.random())
            await asyncio.sleep(min(pause_s, max(0.0, ends_s - time.monotonic())))


async def note_memory(child: ServerChild, notes: Notes) -> None:
    """Until it is cancelled."""
    while True:
        server = psutil.Process(child.process.pid)
        pids = [server.pid, *(process.pid for process in server.children(recursive=True))]
        used = await asyncio.to_thread(used_bytes, pids)
        notes.memory.append((time.monotonic(), used / 2**20))
        await asyncio.sleep(SAMPLE_SECONDS)


async def run(effort: Effort) -> Notes:
    """Raises: RuntimeError, as ``House.measure``."""
    with tempfile.TemporaryDirectory(prefix="captiond-overload-") as folder:
        async with running_server(SERVER_OPTIONS, Path(folder), hears_keyboard=False) as child:
            house = House(child, effort)
            sampling = asyncio.create_task(note_memory(child, house.notes))
            try:
                await house.measure()
            except* RuntimeError as group:
                raise group.exceptions[0] from None
            finally:
                sampling.cancel()
    return house.notes


def delays_s(heards: Sequence[Heard], phase: Phase, *, of_partials: bool) -> Iterator[float]:
    """Of the words that were said in a phase: until they were shown first, or, after the end of
    their utterance, final."""
    for heard in heards:
        sent = SentAudio.in_equal_packets(heard.plan.packet_samples, heard.sent_s)
        received_s = heard.shown_s if of_partials else {w.text: w.received_s for w in heard.finals}
        for word in heard.plan.words:
            end, at_s = word.end if of_partials else word.utterance_end, received_s.get(word.text)
            delay_s = None if at_s is None else sent.delay_s(end, at_s)
            if at_s is None or delay_s is None:
                continue
            if phase.begin_s <= at_s - delay_s < phase.end_s:
                yield delay_s


def median_by_phase(
    notes: Notes, *, is_rush: bool, of_partials: bool, heards: Sequence[Heard]
) -> float:
    """Of the phases' p95 delays, in seconds."""
    p95s = [
        quantiles(delays_s(heards, phase, of_partials=of_partials))["p95"]
        for phase in notes.phases
        if phase.is_rush == is_rush
    ]
    return statistics.median(p95 for p95 in p95s if p95 is not None)


def memory_of(notes: Notes, *, is_rush: bool) -> float:
    """The median of the phases' peaks, in MiB."""
    peaks = [
        max(used for at_s, used in notes.memory if phase.begin_s <= at_s < phase.end_s)
        for phase in notes.phases
        if phase.is_rush == is_rush
    ]
    return statistics.median(peaks)


def wrong_words(heards: Sequence[Heard]) -> dict[str, int]:
    wrong: Counter[str] = Counter()
    for heard in heards:
        wrong += Counter(asdict(mistakes_of(heard)))  # which leaves out what is 0
    return dict(wrong)


@dataclass(frozen=True, slots=True)
class Figures:
    """What came out; delays are p95 in seconds, medians over the phases of a kind."""

    rounds: int
    inside: int
    let_in: int
    words: int
    words_wrong: dict[str, int]
    """By what is wrong with them."""
    closed: int
    """Sessions that were inside, at any time, and had no ``done``."""
    final_calm_s: float
    final_rush_s: float
    shown_calm_s: float
    shown_rush_s: float
    memory_calm_mb: float
    memory_rush_mb: float
    refusals: int
    refusals_without_hint: int
    refusal_p50_s: float
    refusal_max_s: float
    refusal_max_with_stalls_s: float
    own_delay_max_s: float
    """The latest packet of all: how late this program itself was."""

    @classmethod
    def of(cls, notes: Notes) -> "Figures":
        everyone = [*notes.inside, *notes.let_in]
        seconds = [refusal.seconds for refusal in notes.refusals] or [0.0]
        own_s = [refusal.seconds - refusal.lost_s for refusal in notes.refusals] or [0.0]
        p95 = {
            (of_partials, is_rush): median_by_phase(
                notes, is_rush=is_rush, of_partials=of_partials, heards=notes.inside
            )
            for of_partials in (False, True)
            for is_rush in (False, True)
        }
        return cls(
            rounds=sum(phase.is_rush for phase in notes.phases),
            inside=len(notes.inside),
            let_in=len(notes.let_in),
            words=sum(len(heard.plan.words) for heard in everyone),
            words_wrong=wrong_words(everyone),
            closed=sum(heard.done is None for heard in everyone),
            final_calm_s=p95[False, False],
            final_rush_s=p95[False, True],
            shown_calm_s=p95[True, False],
            shown_rush_s=p95[True, True],
            memory_calm_mb=memory_of(notes, is_rush=False),
            memory_rush_mb=memory_of(notes, is_rush=True),
            refusals=len(notes.refusals),
            refusals_without_hint=sum(not refusal.retry_after_s for refusal in notes.refusals),
            refusal_p50_s=statistics.median(seconds),
            refusal_max_s=max(own_s),
            refusal_max_with_stalls_s=max(seconds),
            own_delay_max_s=max(s for heard in everyone for s in heard.lateness_s),
        )

    def bounds(self) -> list[tuple[str, bool]]:
        """Each with whether it is met."""
        final = self.final_rush_s / self.final_calm_s
        shown = self.shown_rush_s / self.shown_calm_s
        memory = self.memory_rush_mb / self.memory_calm_mb
        return [
            (
                f"final p95 {self.final_calm_s:.2f} s calm, {self.final_rush_s:.2f} s rush: "
                f"{final:.2f} (at most {DELAY_RATIO_MAX})",
                final <= DELAY_RATIO_MAX,
            ),
            (
                f"first shown p95 {self.shown_calm_s:.2f} s calm, {self.shown_rush_s:.2f} s rush: "
                f"{shown:.2f} (at most {DELAY_RATIO_MAX})",
                shown <= DELAY_RATIO_MAX,
            ),
            (
                f"admitted {self.inside} before and {self.let_in} in rushes, {self.closed} closed, "
                f"{self.words_wrong or 'none'} of {self.words} words wrong (none)",
                self.closed == 0 and not self.words_wrong,
            ),
            (
                f"refused {self.refusals}, {self.refusals_without_hint} without a hint (some, all "
                "with one)",
                self.refusals > 0 and self.refusals_without_hint == 0,
            ),
            (
                f"told in {self.refusal_p50_s * 1000:.0f} ms, at most "
                f"{self.refusal_max_s * 1000:.0f} ms (at most {REFUSAL_SECONDS_MAX * 1000:.0f}; "
                f"{self.refusal_max_with_stalls_s * 1000:.0f} with what the machine took)",
                self.refusal_max_s <= REFUSAL_SECONDS_MAX,
            ),
            (
                f"memory {self.memory_calm_mb:.0f} MiB calm, {self.memory_rush_mb:.0f} MiB rush: "
                f"{memory:.3f} (at most {MEMORY_RATIO_MAX})",
                memory <= MEMORY_RATIO_MAX,
            ),
        ]

    @property
    def is_met(self) -> bool:
        return all(is_met for _, is_met in self.bounds())


def report(figures: Figures) -> str:
    lines = [f"overload: {line}, {'met' if ok else 'MISSED'}" for line, ok in figures.bounds()]
    return "\n".join([*lines, f"this program was late by {figures.own_delay_max_s:.2f} s once"])


QUICK = Effort(rounds=1, calm_s=15, rush_s=30, seed=1)
FULL = Effort(rounds=5, calm_s=60, rush_s=180, seed=1)


def parse(words: Sequence[str] | None) -> tuple[Effort, Path | None]:
    """Exits with a usage message where they are wrong."""
    parser = argparse.ArgumentParser(prog="python -m load_tests.faults.overload")
    parser.add_argument("--quick", action="store_true", help="one short round; a minute or two")
    parser.add_argument("--rounds", type=int, help=f"calm, then rush [{FULL.rounds}]")
    parser.add_argument("--calm-s", type=float, help=f"of each calm [{FULL.calm_s}]")
    parser.add_argument("--rush-s", type=float, help=f"of each rush [{FULL.rush_s}]")
    parser.add_argument("--seed", type=int, default=1, help="of what is said [1]")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    given = parser.parse_args(words)
    plain = QUICK if given.quick else FULL
    effort = Effort(
        plain.rounds if given.rounds is None else given.rounds,
        plain.calm_s if given.calm_s is None else given.calm_s,
        plain.rush_s if given.rush_s is None else given.rush_s,
        given.seed,
    )
    if effort.rounds < 1 or min(effort.calm_s, effort.rush_s) < SAMPLE_SECONDS * 2:
        parser.error("--rounds must be at least 1, --calm-s and --rush-s at least 2")
    return effort, given.json


def main(words: Sequence[str] | None = None) -> int:
    """Print the figures; 1 where a bound is missed."""
    effort, json_path = parse(words)
    try:
        figures = Figures.of(run_with_server(run(effort)))
    except RuntimeError as error:
        print(f"overload: could not be measured: {error}", flush=True)
        return 1
    print(report(figures), flush=True)
    if json_path is not None:
        content: dict[str, Any] = {"effort": asdict(effort), "figures": asdict(figures)}
        json_path.write_bytes(orjson.dumps(content, option=orjson.OPT_INDENT_2) + b"\n")
    return 0 if figures.is_met else 1


if __name__ == "__main__":
    sys.exit(main())
