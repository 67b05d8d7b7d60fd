"""Kill a captiond that captions, and count every word:
``python -m load_tests.faults.kills --server-kills 5 --sessions 5 --seed 1``.

A real server with its worker processes, the client library, scripted words. While people talk, the
server is killed (and started again on its port and store), or a worker of it, or their lines are
cut at random bytes, before one server or two over one store. Afterwards each session's finals are
held against its script.

The seed fixes what is said and which faults come; when they strike is up to the machine.
"""

import argparse
import asyncio
import random
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import orjson

from load_tests.faults.crowd import Crowd, Tally
from load_tests.faults.proxy import Cut, Direction, Ending, FaultProxy, Line
from load_tests.faults.victim import Victim
from server.child import run_with_server

SERVER_LIVES_S = (0.0, 2.0)
"""From the return of all clients to the next kill."""
EARLY_SHARE = 0.2
"""So many kills do not wait for their return, and strike while they are coming back."""
AT_END_SHARE = 0.2
"""So many strike while somebody waits for the last finals and ``done``."""
END_LASTS_S = (0.0, 0.5)
MACHINE_SHARE = 0.5
"""So many take the lines along, as when the machine dies: what was under way is lost."""
FAR_LATENCY_MS_MAX = 100
BACK_SECONDS_MAX = 20.0
WORKERS_LIVE_S = (0.3, 2.0)
"""From all workers being there to the next kill. A batch that dies twice is a gap by promise: it
has been asked again, and answered, before this."""
CUT_AFTER_BYTES_MAX = {Direction.UP: 100_000, Direction.DOWN: 6_000}
"""From inside the handshake to some seconds of audio, or some finals."""
ENDINGS = (*[Ending.RESET] * 8, Ending.SLOW_CLOSE, Ending.BLACK_HOLE)
HOLD_MS_MAX = {Ending.RESET: 1, Ending.SLOW_CLOSE: 500, Ending.BLACK_HOLE: 3_000}
"""A black hole may last for longer than what would be a pause on a line that works."""
LATENCY_MS_MAX = (0, 0, 5)
PIECE_BYTES_MAX = (None, None, 500)
FINISH_SECONDS_MAX = 180.0
"""When nothing breaks any more, everybody must come to an end."""


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is to be broken, and before how many."""

    server_kills: int
    worker_kills: int
    cuts: int
    moves: int
    sessions: int
    seed: int
    speed: float
    """Audio per second of time."""
    store: str | None = None
    """URL of the servers' store; None: an SQLite of each part's own."""
    keep: str | None = None
    """A folder in which stores and logs stay; None: they go."""


@dataclass(slots=True)
class Blows:
    """Faults that were made, and whom they met."""

    made: int = 0
    sessions_met: int = 0
    """Sessions with a connection at that moment, over all faults."""
    orphans: int = 0
    """Worker processes that outlived a killed server."""

    def note(self, sessions: int) -> None:
        self.made += 1
        self.sessions_met += sessions


@dataclass(frozen=True, slots=True)
class PartFigures:
    """What one kind of fault led to."""

    part: str
    wanted: int
    blows: Blows
    tally: Tally
    seconds: float

    @property
    def is_met(self) -> bool:
        is_whole = self.blows.made >= self.wanted and self.blows.orphans == 0
        return is_whole and self.tally.is_clean

    def row(self) -> list[str]:
        tally = self.tally
        counts = [tally.sessions, tally.resumes, tally.words, tally.mistakes.lost]
        counts += [tally.mistakes.doubled, tally.misplaced, tally.cut, tally.gaps]
        counts.append(len(tally.failures))
        faults = f"{self.blows.made}/{self.wanted}"
        met = f"{self.blows.sessions_met / max(1, self.blows.made):.1f}"
        return [self.part, faults, met, *(f"{count:,}" for count in counts), f"{self.seconds:.0f}"]

    def fields(self) -> dict[str, Any]:
        own = {"misplaced": self.tally.misplaced, "is_met": self.is_met}
        return {**asdict(self), **own}


COLUMNS = (
    *("part", "faults", "met", "sessions", "resumes", "words"),
    *("lost", "doubled", "misplaced", "cut", "gaps", "failed", "seconds"),
)


@dataclass(frozen=True, slots=True)
class Scene:
    """Who talks to whom, over which lines, while what is done to them."""

    effort: Effort
    victim: Victim
    proxy: FaultProxy
    crowd: Crowd
    blows: Blows

    def note_blow(self) -> None:
        self.blows.note(self.crowd.connected_since(self.victim.began_s))


def tell(fault: str, made: int, wanted: int) -> None:
    """Now and then, for whoever waits; the figures are told at the end."""
    if made % max(1, wanted // 10) == 0:
        print(f"… {made} of {wanted} {fault}", file=sys.stderr, flush=True)


async def kill_servers(scene: Scene) -> None:
    chance = random.Random(scene.effort.seed)
    for number in range(1, scene.effort.server_kills + 1):
        await _choose_a_moment(scene, chance)
        scene.note_blow()
        if chance.random() < MACHINE_SHARE:
            scene.proxy.reset_all()
        scene.blows.orphans += await scene.victim.die()
        await scene.victim.rise()
        tell("server kills", number, scene.effort.server_kills)


async def _choose_a_moment(scene: Scene, chance: random.Random) -> None:
    lot = chance.random()
    if lot < EARLY_SHARE:
        await asyncio.sleep(chance.uniform(*SERVER_LIVES_S))
        return
    await scene.crowd.back_since(scene.victim.began_s, BACK_SECONDS_MAX)
    if lot < EARLY_SHARE + AT_END_SHARE:
        scene.crowd.end_said.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(BACK_SECONDS_MAX):
                await scene.crowd.end_said.wait()
        await asyncio.sleep(chance.uniform(*END_LASTS_S))
    else:
        await asyncio.sleep(chance.uniform(*SERVER_LIVES_S))


async def kill_workers(scene: Scene) -> None:
    chance = random.Random(scene.effort.seed)
    for number in range(1, scene.effort.worker_kills + 1):
        await scene.victim.workers_are_there()
        await asyncio.sleep(chance.uniform(*WORKERS_LIVE_S))
        scene.note_blow()
        await scene.victim.lose_worker(chance)
        tell("worker kills", number, scene.effort.worker_kills)
    await scene.victim.workers_are_there()


def far_line(_: random.Random) -> Line:
    """Whole, but long: what a server has sent is not there yet."""
    return Line(latency_ms_max=FAR_LATENCY_MS_MAX)


class Weather:
    """Cuts every line somewhere, until there have been enough cuts; each leads to any server."""

    def __init__(self, servers: int = 1) -> None:
        self._servers = servers
        self.is_calm = False

    def __call__(self, chance: random.Random) -> Line:
        way = chance.choice(list(Direction))
        after_bytes = chance.randint(1, CUT_AFTER_BYTES_MAX[way])
        ending = chance.choice(ENDINGS)
        cut = Cut(way, after_bytes, ending, hold_ms=chance.randint(1, HOLD_MS_MAX[ending]))
        latency_ms, piece = chance.choice(LATENCY_MS_MAX), chance.choice(PIECE_BYTES_MAX)
        server = chance.randrange(self._servers)
        return Line(latency_ms, piece, None if self.is_calm else cut, server)

    async def rage(self, proxy: FaultProxy, cuts: int) -> None:
        while proxy.cuts.total() < cuts:
            proxy.cut_made.clear()
            await proxy.cut_made.wait()
            tell("cuts", proxy.cuts.total(), cuts)
        self.is_calm = True


Killer = Callable[[Scene], Awaitable[None]]


async def talk_through(crowd: Crowd, break_things: Callable[[], Awaitable[None]]) -> float:
    """Everybody talks while things break, and finishes afterwards; seconds that it took."""

    async def break_when_all_talk() -> None:
        await crowd.is_full.wait()
        await break_things()

    began_s = time.monotonic()
    talk, faults = asyncio.create_task(crowd.talk()), asyncio.create_task(break_when_all_talk())
    try:
        done, _ = await asyncio.wait({talk, faults}, return_when=asyncio.FIRST_COMPLETED)
        crowd.enough()
        if faults in done:
            faults.result()  # raises where it was the harness that broke
        # Where nobody gets through any more, there is nothing left to break.
        faults.cancel()
        await asyncio.wait({talk}, timeout=FINISH_SECONDS_MAX)
    finally:
        talk.cancel()
        faults.cancel()
        outcomes = await asyncio.gather(talk, faults, return_exceptions=True)
    for outcome in outcomes:
        if isinstance(outcome, Exception):
            raise outcome
    return time.monotonic() - began_s


def _crowd(url: str, effort: Effort) -> Crowd:
    return Crowd(url, talkers=effort.sessions, seed=effort.seed, speed=effort.speed)


async def server_kills(effort: Effort, folder: Path) -> PartFigures:
    return await _kills("server kills", effort.server_kills, kill_servers, effort, folder)


async def worker_kills(effort: Effort, folder: Path) -> PartFigures:
    return await _kills("worker kills", effort.worker_kills, kill_workers, effort, folder)


async def _kills(name: str, wanted: int, kill: Killer, effort: Effort, folder: Path) -> PartFigures:
    blows = Blows()
    async with (
        Victim.alive(folder, effort.store) as victim,
        FaultProxy.running(victim.port, lines=far_line, seed=effort.seed) as proxy,
    ):
        crowd = _crowd(proxy.url, effort)
        scene = Scene(effort, victim, proxy, crowd, blows)
        seconds = await talk_through(crowd, partial(kill, scene))
    return PartFigures(name, wanted, blows, Tally.of(crowd.heard), seconds)


async def client_cuts(effort: Effort, folder: Path) -> PartFigures:
    async with Victim.alive(folder, effort.store) as victim:
        return await _cuts("client cuts", effort.cuts, [victim], effort)


async def server_moves(effort: Effort, folder: Path) -> PartFigures:
    """Two servers over one store: whoever comes back may come to the one that knows nothing."""
    store = effort.store
    async with Victim.alive(folder, store) as one, Victim.alive(folder, store) as other:
        return await _cuts("server moves", effort.moves, [one, other], effort)


async def _cuts(name: str, wanted: int, servers: Sequence[Victim], effort: Effort) -> PartFigures:
    weather, ports = Weather(len(servers)), [server.port for server in servers]
    async with FaultProxy.running(*ports, lines=weather, seed=effort.seed) as proxy:
        crowd = _crowd(proxy.url, effort)
        seconds = await talk_through(crowd, partial(weather.rage, proxy, wanted))
        blows = Blows(proxy.cuts.total(), proxy.cuts.total())
    return PartFigures(name, wanted, blows, Tally.of(crowd.heard), seconds)


async def measure(effort: Effort) -> list[PartFigures]:
    """The parts that are asked for, one after the other, each with a server of its own."""
    parts = [
        (effort.server_kills, server_kills),
        (effort.worker_kills, worker_kills),
        (effort.cuts, client_cuts),
        (effort.moves, server_moves),
    ]
    figures = []
    for wanted, part in parts:
        if wanted:
            with folder_of(part.__name__, effort.keep) as folder:
                figures.append(await part(effort, folder))
    return figures


@contextmanager
def folder_of(part: str, keep: str | None) -> Iterator[Path]:
    """For the stores and logs of one part."""
    if keep is not None:
        folder = Path(keep, part)
        folder.mkdir(parents=True)
        yield folder
    else:
        with tempfile.TemporaryDirectory(prefix="captiond-faults-") as name:
            yield Path(name)


def report(figures: Sequence[PartFigures]) -> str:
    """A table, and below it what went wrong."""
    rows = [list(COLUMNS), *(part.row() for part in figures)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(COLUMNS))]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows
    ]
    for part in figures:
        wrong = (*part.tally.failures, *part.tally.damages)
        lines += [f"FAILED {part.part}: {one}" for one in wrong]
        if part.tally.cut:
            lines.append(
                f"{part.part}: {part.tally.cut} words were cut by their talker, who stood still: "
                "the machine is too busy"
            )
        if part.tally.errors:
            lines.append(f"errors told in {part.part}: {part.tally.errors}")
        if part.blows.orphans:
            lines.append(f"FAILED {part.part}: {part.blows.orphans} workers outlived the server")
        if part.tally.broken_seqs:
            lines.append(f"FAILED {part.part}: {part.tally.broken_seqs} events out of turn")
    return "\n".join(lines)


def parse(words: Sequence[str] | None) -> tuple[Effort, Path | None]:
    """Exits with a usage message where they are wrong."""
    parser = argparse.ArgumentParser(prog="python -m load_tests.faults.kills")
    parser.add_argument("--server-kills", type=int, default=0, help="kill -9 of the server [0]")
    parser.add_argument("--worker-kills", type=int, default=0, help="kill -9 of a worker [0]")
    parser.add_argument("--cuts", type=int, default=0, help="lines cut at random bytes [0]")
    parser.add_argument("--moves", type=int, default=0, help="cuts, before two servers [0]")
    parser.add_argument("--sessions", type=int, default=5, help="that talk at any moment [5]")
    parser.add_argument("--seed", type=int, default=1, help="of what is said and broken [1]")
    parser.add_argument("--speed", type=float, default=4.0, help="times real time [4]")
    parser.add_argument("--store", metavar="URL", help="of the servers; an SQLite of their own")
    parser.add_argument("--keep", metavar="FOLDER", help="leave stores and logs there")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    given = parser.parse_args(words)
    effort = Effort(
        given.server_kills,
        given.worker_kills,
        given.cuts,
        given.moves,
        given.sessions,
        given.seed,
        given.speed,
        given.store,
        given.keep,
    )
    faults = (effort.server_kills, effort.worker_kills, effort.cuts, effort.moves)
    if min(faults) < 0 or not any(faults):
        parser.error("say what to break: --server-kills, --worker-kills, --cuts or --moves")
    if effort.sessions < 1 or effort.speed <= 0:
        parser.error("--sessions must be at least 1, and --speed above 0")
    return effort, given.json


def main(words: Sequence[str] | None = None) -> int:
    """Print the figures; 1 where a word, a session or a fault is missing."""
    effort, json_path = parse(words)
    figures = run_with_server(measure(effort))
    print(report(figures), flush=True)
    if json_path is not None:
        content = {"effort": asdict(effort), "parts": [part.fields() for part in figures]}
        json_path.write_bytes(orjson.dumps(content, option=orjson.OPT_INDENT_2) + b"\n")
    return 0 if all(part.is_met for part in figures) else 1


if __name__ == "__main__":
    sys.exit(main())
