"""Let every engine hang, and demand an end: ``python -m load_tests.faults.hangs --sessions 20``.

Three scenes, each on a real server with its worker processes and scripted words. ``always``: every
call of every engine hangs for a minute, those of replacements too. ``outage``: engines work, hang
while people talk, and work again. ``poison``: the recognizer hangs whenever it hears one of those
who talk. All the while every client pings. Everybody must come to ``done`` in bounded time, with
each word in a final or in a gap that was told; those beside the poisonous one, and those who come
after the outage, lose nothing at all.
"""

import argparse
import asyncio
import contextlib
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import aiohttp
import psutil
from prometheus_client.parser import text_string_to_metric_families

from load_tests.faults.pinging import Told, caption, longest_pong_s
from load_tests.faults.victim import survivors
from load_tests.oracle import Mistakes
from load_tests.workload import CANONICAL, plan_stream
from server.child import ServerChild, run_with_server, running_server
from server.dispatch import CALL_SECONDS_BASE, stall_seconds
from server.workers import RESTARTS_PER_MINUTE_MAX
from streaming.events import SessionStage
from streaming.session import SPEAKER_GRACE_NS

HANG_S = 60.0
AUDIO_S = 20.0
QUIET_BEFORE_S = 8.0
"""Of the outage: so long everything works."""
MARGIN_S = 15.0
"""Beyond the promised bound: starting processes on a slow machine."""
RECOVERY_S_MAX = 60.0
"""From the end of an outage until words come again: above the longest pause before a restart."""
PROBE_AUDIO_S = 3.0
GONE_SECONDS_MAX = 10.0
STAGES = ("asr", "vad", "diarizer")


@dataclass(frozen=True, slots=True)
class Effort:
    """How many are to talk, and how patient the server is."""

    sessions: int
    seed: int
    call_timeout_s: float

    @property
    def end_to_done_s_max(self) -> float:
        """The bound of docs/limits.md: voice activity, then words, then speakers give up."""
        stages = (SessionStage.ACTIVITY, SessionStage.RECOGNITION)
        waits = sum(stall_seconds(stage, 0.0, self.call_timeout_s) for stage in stages)
        return waits + SPEAKER_GRACE_NS / 1e9 + MARGIN_S


@dataclass(frozen=True, slots=True)
class SceneFigures:
    """What one scene led to."""

    scene: str
    effort: Effort
    told: tuple[Told, ...]
    restarts: float
    orphans: int
    seconds: float
    spared: tuple[Told, ...] | None = None
    """Those who may lose nothing: who came after an outage, or talked beside a poisonous one."""

    @property
    def longest_end_s(self) -> float:
        return max((one.end_to_done_s for one in self.told), default=0.0)

    @property
    def restarts_max(self) -> float:
        return len(STAGES) * RESTARTS_PER_MINUTE_MAX * (1 + self.seconds / 60)

    @property
    def faults(self) -> list[str]:
        """Why the bound is missed."""
        bad = sum(not one.is_good for one in self.told)
        found = {
            f"{bad} of {len(self.told)} sessions did not end in good order": bad > 0,
            "nobody talked": not any(one.plan.words for one in self.told),
            f"end to done took {self.longest_end_s:.0f} s, {self.effort.end_to_done_s_max:.0f} s "
            "allowed": self.longest_end_s > self.effort.end_to_done_s_max,
            f"{self.restarts:.0f} restarts are a storm": self.restarts > self.restarts_max,
            f"{self.orphans} workers outlived the server": self.orphans > 0,
            "no hang had any effect": not any(one.words_in_gaps for one in self.told),
            "words of those were lost who should lose none": self.spared is not None
            and not (self.spared and _is_whole(self.spared)),
        }
        return [text for text, is_so in found.items() if is_so]

    def lines(self) -> list[str]:
        told, mistakes = self.told, Mistakes()
        for one in told:
            mistakes += one.mistakes
        done = sum(one.is_done for one in told)
        words = sum(len(one.plan.words) for one in told)
        in_gaps, pings = sum(one.words_in_gaps for one in told), sum(one.pings for one in told)
        pongs = sum(len(one.pongs_s) for one in told)
        codes = sorted({str(one.close_code) for one in told})
        lines = [
            f"{self.scene}: {done} of {len(told)} sessions done, close codes {', '.join(codes)}, "
            f"{words} words: {words - in_gaps - mistakes.lost} in finals, {in_gaps} in gaps, "
            f"{mistakes.lost} unexplained",
            f"{self.scene}: end to done {self.longest_end_s:.1f} s at most "
            f"({self.effort.end_to_done_s_max:.0f} s allowed); {pongs} of {pings} pings answered, "
            f"in {longest_pong_s(told) * 1000:.0f} ms at most; {self.restarts:.0f} restarts; "
            f"{self.seconds:.0f} s",
        ]
        if self.spared is not None:
            whole = sum(_is_whole([one]) for one in self.spared)
            lines.append(f"{self.scene}: {whole} of {len(self.spared)} others lost nothing")
        return lines + [f"FAILED {self.scene}: {fault}" for fault in self.faults]


def _is_whole(told: Sequence[Told]) -> bool:
    return all(one.is_good and not one.gaps and one.finals for one in told)


def server_arguments(effort: Effort, *options: str) -> list[str]:
    """Scripted engines, all with these options."""
    arguments = ["--asr", "scripted", "--diarizer", "scripted", "--vad", "scripted"]
    arguments += ["--call-timeout-s", str(effort.call_timeout_s)]
    for stage in STAGES:
        for option in options:
            arguments += [f"--{stage}-options", option]
    return arguments


async def talk(
    url: str, effort: Effort, seconds: float = AUDIO_S, *, first: int = 1, sessions: int = 0
) -> list[Told]:
    """So many sessions at once, all of them if no number is given."""
    streams = range(first, first + (sessions or effort.sessions))
    plans = [plan_stream(CANONICAL, n, seconds=seconds, seed=effort.seed) for n in streams]
    seconds_max = seconds + effort.end_to_done_s_max + MARGIN_S
    return await asyncio.gather(*(caption(url, plan, seconds_max) for plan in plans))


async def always(effort: Effort, folder: Path) -> SceneFigures:
    arguments = server_arguments(effort, "hang_every=1", f"hang_s={HANG_S:g}")
    began_s = time.monotonic()
    async with running_server(arguments, folder, hears_keyboard=False) as child:
        told = await talk(child.url, effort)
        restarts, orphans = await restarts_of(child), await orphans_of(child)
    seconds = time.monotonic() - began_s
    return SceneFigures("always", effort, tuple(told), restarts, orphans, seconds)


async def outage(effort: Effort, folder: Path) -> SceneFigures:
    sign = folder / "hang"
    arguments = server_arguments(effort, f"hang_file={sign}")
    began_s = time.monotonic()
    async with running_server(arguments, folder, hears_keyboard=False) as child:
        talking = asyncio.create_task(talk(child.url, effort))
        await asyncio.sleep(QUIET_BEFORE_S)
        sign.touch()
        told = await talking
        sign.unlink()
        recovered = await after_recovery(child.url, effort)
        restarts, orphans = await restarts_of(child), await orphans_of(child)
    seconds = time.monotonic() - began_s
    return SceneFigures("outage", effort, tuple(told), restarts, orphans, seconds, tuple(recovered))


async def poison(effort: Effort, folder: Path) -> SceneFigures:
    arguments = server_arguments(effort)
    began_s = time.monotonic()
    arguments += ["--asr-options", "hang_stream=1", "--asr-options", f"hang_s={HANG_S:g}"]
    async with running_server(arguments, folder, hears_keyboard=False) as child:
        told = await talk(child.url, effort)
        restarts, orphans = await restarts_of(child), await orphans_of(child)
    seconds = time.monotonic() - began_s
    return SceneFigures("poison", effort, tuple(told), restarts, orphans, seconds, tuple(told[1:]))


async def after_recovery(url: str, effort: Effort) -> list[Told]:
    """One after the other until one gets all its words, then as many as before at once."""
    give_up_s, number = time.monotonic() + RECOVERY_S_MAX, effort.sessions
    while time.monotonic() < give_up_s:
        number += 1
        if _is_whole(await talk(url, effort, PROBE_AUDIO_S, first=number, sessions=1)):
            return await talk(url, effort, PROBE_AUDIO_S, first=number + 1)
    return []


async def restarts_of(child: ServerChild) -> float:
    async with aiohttp.ClientSession() as http, http.get(f"{child.url}/metrics") as answer:
        page = await answer.text()
    samples = (s for family in text_string_to_metric_families(page) for s in family.samples)
    return sum(s.value for s in samples if s.name == "captiond_worker_restarts_total")


async def orphans_of(child: ServerChild) -> int:
    """``kill -9`` while engines hang; how many of them outlive it."""
    workers = psutil.Process(child.process.pid).children(recursive=True)
    child.kill()
    await child.process.wait()
    return await survivors(workers, GONE_SECONDS_MAX)


async def measure(effort: Effort) -> list[SceneFigures]:
    """All scenes at once: what they do is wait."""
    async with contextlib.AsyncExitStack() as stack:
        folders = [
            Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="captiond-hangs-")))
            for _ in SCENES
        ]
        figures = await asyncio.gather(
            *(scene(effort, folder) for scene, folder in zip(SCENES, folders, strict=True))
        )
    print("\n".join(line for one in figures for line in one.lines()), flush=True)
    return figures


SCENES = (always, outage, poison)


def parse(words: Sequence[str] | None) -> Effort:
    """Exits with a usage message where they are wrong."""
    parser = argparse.ArgumentParser(prog="python -m load_tests.faults.hangs")
    parser.add_argument("--sessions", type=int, default=20, help="that talk and ping [20]")
    parser.add_argument("--seed", type=int, default=1, help="of what is said [1]")
    parser.add_argument(
        "--call-timeout-s",
        type=float,
        default=CALL_SECONDS_BASE,
        help=f"the server's setting, which its bound follows [{CALL_SECONDS_BASE:g}]",
    )
    given = parser.parse_args(words)
    if given.sessions < 2 or given.call_timeout_s < 1:
        parser.error("at least two sessions, and a second for a call")
    return Effort(given.sessions, given.seed, given.call_timeout_s)


def main(words: Sequence[str] | None = None) -> int:
    """Print the figures; 1 where a bound is missed."""
    figures = run_with_server(partial(measure, parse(words))())
    return int(any(scene.faults for scene in figures))


if __name__ == "__main__":
    sys.exit(main())
