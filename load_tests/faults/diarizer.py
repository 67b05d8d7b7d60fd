"""Take the diarizer away while people talk, and time their captions:
``python -m load_tests.faults.diarizer --rounds 3 --sessions 3``.

Real servers with their worker processes, the client library, scripted words and voices. In each
round the same people say the same three times: ``calm``, where nothing happens; ``killed``, where
the diarizer's process is killed whenever it has come up, until three quarters are said; ``late``,
where each call of it takes ``--late-s``. Then the lines stay open until every word has a speaker,
or for a time.

The bounds: words are shown, and final, at most 1.1 times as late as in calm (medians over words,
then over rounds); every word comes once, unchanged, and in place; words whose final had no speaker
get one by a revision, in every session unless all had theirs in time, and where words have one it
is the right one; every session ends on its first connection.
Calm and late talk at the same time, because neither costs the other any processor time; killed
talks alone, because starting processes does.
"""

import argparse
import asyncio
import contextlib
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from clients.delays import SentAudio
from clients.errors import CaptionStreamError
from clients.stream import CaptionStream
from load_tests.faults.hangs import restarts_of
from load_tests.oracle import FinalWord, Mistakes, find_mistakes
from load_tests.workload import CANONICAL, StreamPlan, packets_of, plan_stream
from server.child import ServerChild, run_with_server, running_server
from streaming.events import Event, Final, Gap, Partial, Revision
from streaming.timeline import SAMPLE_RATE_HZ
from streaming.wire import Start

CALM, KILLED, LATE = "calm", "killed", "late"
SERVER_OPTIONS = (
    *("--asr", "scripted", "--vad", "scripted", "--diarizer", "scripted"),
    *("--sessions-max", "1000"),
)
DELAY_RATIO_MAX = 1.1
RIGHT_SHARE_MIN = 0.95
"""Of the words that have a speaker: while a session runs, the first seconds of a voice may be
somebody else's."""
KILL_SECONDS = 0.4
"""Between two looks whether there is a process to kill."""
KILLED_SHARE = 0.75
"""Of the talk: the diarizer that comes back has something left to hear."""
CALLS_AFTER_TALK = 8
"""That may be needed before the last word has a speaker: what waits, in parts, and the groups."""
BACK_SECONDS_MAX = 40.0
"""A process that was killed often comes back after a pause of up to half a minute."""
END_SECONDS_MAX = 40.0


@dataclass(frozen=True, slots=True)
class Effort:
    """How many talk for how long, how often, and how late the diarizer is then."""

    rounds: int
    sessions: int
    talk_s: float
    late_s: float
    seed: int

    def hold_s(self, scene: str) -> float:
        """For so long a line stays open after the talk where words have no speaker."""
        return CALLS_AFTER_TALK * self.late_s if scene == LATE else BACK_SECONDS_MAX


@dataclass(slots=True)
class Account:
    """What one session said, and was told."""

    plan: StreamPlan
    sent: SentAudio = field(default_factory=SentAudio)
    shown_s: dict[str, float] = field(default_factory=dict)
    """When each text was shown first; monotonic."""
    finals: list[FinalWord] = field(default_factory=list)
    gaps: int = 0
    captions: dict[str, list[str]] = field(default_factory=dict)
    """Texts of each caption's words."""
    speaker_of: dict[str, str | None] = field(default_factory=dict)
    """By text, as it is known now."""
    revised: set[str] = field(default_factory=set)
    """Texts that had no speaker in their final and have one by a revision."""
    connections: int = 0
    failure: str | None = "not finished in time"
    """Why there was no ``done``; None where there was."""

    def note(self, event: Event, now_s: float) -> None:
        if isinstance(event, Partial | Final):
            for word in event.words:
                self.shown_s.setdefault(word.text, now_s)
        if isinstance(event, Final):
            self.captions[event.caption_id] = [word.text for word in event.words]
            self.speaker_of.update((word.text, word.speaker) for word in event.words)
            self.finals += [
                FinalWord(w.text, w.span.start / SAMPLE_RATE_HZ, now_s) for w in event.words
            ]
        elif isinstance(event, Revision):
            self._revise(event)
        elif isinstance(event, Gap):
            self.gaps += 1

    def _revise(self, event: Revision) -> None:
        texts = self.captions[event.caption_id]
        for run in event.runs:
            for text in texts[run.from_word : run.to_word]:
                if self.speaker_of[text] is None and run.speaker is not None:
                    self.revised.add(text)
                self.speaker_of[text] = run.speaker

    @property
    def mistakes(self) -> Mistakes:
        said = [(word.text, word.start) for word in self.plan.words]
        return find_mistakes(self.plan.stream, said, self.finals, self.shown_s)

    @property
    def is_named(self) -> bool:
        """Every word has a speaker, but for those said alone: too short to tell whose they are."""
        beside = Counter(word.utterance_end for word in self.plan.words)
        said = (word for word in self.plan.words if beside[word.utterance_end] > 1)
        return all(self.speaker_of.get(word.text) for word in said)

    @property
    def named(self) -> int:
        return sum(speaker is not None for speaker in self.speaker_of.values())

    @property
    def named_right(self) -> int:
        """Words whose speaker is mostly this person, where no other one's name is the same."""
        said_by = {word.text: word.speaker for word in self.plan.words}
        names = Counter(
            (name, said_by[text])
            for text, name in self.speaker_of.items()
            if name is not None and text in said_by
        )
        pairs: dict[str, int] = {}
        for (name, person), _ in names.most_common():
            if name not in pairs and person not in pairs.values():
                pairs[name] = person
        return sum(names[pair] for pair in pairs.items())

    def delays_s(self, *, of_finals: bool) -> Iterator[float]:
        """Until each word was shown first, or until it was final after its utterance's end."""
        final_s = {word.text: word.received_s for word in self.finals}
        for word in self.plan.words:
            at_s = (final_s if of_finals else self.shown_s).get(word.text)
            if at_s is not None:
                end = word.utterance_end if of_finals else word.end
                delay_s = self.sent.delay_s(end, at_s)
                assert delay_s is not None, "a word of the plan was not sent"
                yield delay_s


@dataclass(frozen=True, slots=True)
class Round:
    """One scene of one round."""

    accounts: tuple[Account, ...]
    restarts: float = 0.0
    """Of engine processes, while it lasted."""

    def delay_s(self, *, of_finals: bool) -> float:
        """The median over words; infinite where there are none."""
        found = [s for one in self.accounts for s in one.delays_s(of_finals=of_finals)]
        return statistics.median(found) if found else float("inf")


@dataclass(frozen=True, slots=True)
class SceneFigures:
    """All rounds of one scene."""

    scene: str
    rounds: tuple[Round, ...]

    @property
    def accounts(self) -> list[Account]:
        return [account for one in self.rounds for account in one.accounts]

    @property
    def restarts(self) -> float:
        return sum(one.restarts for one in self.rounds)

    @property
    def words(self) -> int:
        return self._sum(lambda account: len(account.plan.words))

    @property
    def named(self) -> int:
        return self._sum(lambda account: account.named)

    @property
    def named_right(self) -> int:
        return self._sum(lambda account: account.named_right)

    @property
    def revised(self) -> int:
        return self._sum(lambda account: len(account.revised))

    def delay_s(self, *, of_finals: bool) -> float:
        return statistics.median(one.delay_s(of_finals=of_finals) for one in self.rounds)

    def faults(self) -> Iterator[str]:
        """What is wrong with the words, the speakers or the sessions."""
        accounts = self.accounts
        if not self.words:
            yield "nobody talked"
        wrong = [one for one in accounts if one.mistakes != Mistakes() or one.gaps]
        if wrong:
            yield f"words went wrong in {len(wrong)} sessions, first {wrong[0].mistakes}"
        closed = [one.failure or "more than one connection" for one in accounts if _is_bad(one)]
        if closed:
            yield f"{len(closed)} sessions did not end in good order: {closed[0]}"
        nameless = sum(not one.revised and not one.is_named for one in accounts)
        if nameless:
            yield f"in {nameless} sessions words have no speaker, and none came by a revision"
        if self.scene != CALM and not self.revised:
            yield "no speaker came by a revision"
        if self.named_right < RIGHT_SHARE_MIN * self.named:
            yield f"{self.named - self.named_right} of {self.named} words have a wrong speaker"
        if self.scene == KILLED and not self.restarts:
            yield "nothing was killed"

    def line(self, calm: "SceneFigures") -> str:
        first, last = self.delay_s(of_finals=False), self.delay_s(of_finals=True)
        return (
            f"{self.scene}: {len(self.accounts)} sessions, {self.words} words; first shown after "
            f"{first:.3f} s ({first / calm.delay_s(of_finals=False):.2f} times calm), final after "
            f"{last:.3f} s ({last / calm.delay_s(of_finals=True):.2f} times calm), medians; "
            f"speakers of {self.named} words in the end, {self.revised} of them by a revision, "
            f"{self.named_right} right; {self.restarts:.0f} restarts"
        )

    def _sum(self, value: Callable[[Account], int]) -> int:
        return sum(value(account) for account in self.accounts)


def _is_bad(account: Account) -> bool:
    return account.failure is not None or account.connections != 1


def slower(scene: SceneFigures, calm: SceneFigures) -> Iterator[str]:
    """Where text came too late for want of speakers."""
    for of_finals, name in ((False, "first shown"), (True, "final")):
        delay_s, calm_s = (one.delay_s(of_finals=of_finals) for one in (scene, calm))
        if delay_s > DELAY_RATIO_MAX * calm_s:
            yield f"{name} after {delay_s:.3f} s, in calm after {calm_s:.3f} s"


def report(scenes: Sequence[SceneFigures]) -> tuple[list[str], bool]:
    """Lines to print, and whether every bound is met."""
    calm = next(scene for scene in scenes if scene.scene == CALM)
    lines = [scene.line(calm) for scene in scenes]
    failed = [
        f"FAILED {scene.scene}: {fault}"
        for scene in scenes
        for fault in (*scene.faults(), *slower(scene, calm))
    ]
    return [*lines, *failed], not failed


async def caption(url: str, plan: StreamPlan, hold_s: float) -> Account:
    """Says everything at the pace of speech, waits for the speakers, and ends."""
    account, is_named = Account(plan), asyncio.Event()
    stream = CaptionStream.open(url, Start())
    seconds_max = plan.samples / SAMPLE_RATE_HZ + hold_s + END_SECONDS_MAX
    try:
        async with asyncio.timeout(seconds_max), stream, asyncio.TaskGroup() as tasks:
            tasks.create_task(_speak(stream, account, is_named, hold_s))
            async for event in stream:
                account.note(event, time.monotonic())
                if account.is_named:
                    is_named.set()
        account.failure = None
    except* TimeoutError:
        pass
    except* CaptionStreamError as errors:
        account.failure = str(errors.exceptions[0])
    account.connections = stream.connections
    return account


async def _speak(
    stream: CaptionStream, account: Account, is_named: asyncio.Event, hold_s: float
) -> None:
    plan = account.plan
    packet_s = plan.packet_samples / SAMPLE_RATE_HZ
    began_s = time.monotonic()
    for number, packet in enumerate(packets_of(plan), start=1):
        await asyncio.sleep(max(0.0, began_s + number * packet_s - time.monotonic()))
        await stream.send(packet)
        account.sent.packet_sent(number * plan.packet_samples, time.monotonic())
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(hold_s):
            await is_named.wait()
    await stream.end()


async def talk(child: ServerChild, effort: Effort, scene: str) -> Round:
    """All sessions at once. In each round and scene they say the same."""
    plans = [
        plan_stream(CANONICAL, number, seconds=effort.talk_s, seed=effort.seed)
        for number in range(1, effort.sessions + 1)
    ]
    before = await restarts_of(child)
    accounts = await asyncio.gather(*(caption(child.url, p, effort.hold_s(scene)) for p in plans))
    return Round(tuple(accounts), await restarts_of(child) - before)


async def talk_and_kill(child: ServerChild, effort: Effort) -> Round:
    """The same, and the diarizer's process is killed whenever there is one."""

    async def kill() -> None:
        while True:
            child.process.send_signal(signal.SIGUSR1)
            await asyncio.sleep(KILL_SECONDS)

    talking = asyncio.create_task(talk(child, effort, KILLED))
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(KILLED_SHARE * effort.talk_s):
            await kill()
    return await talking


@contextlib.asynccontextmanager
async def servers(
    effort: Effort, only: Sequence[str] = (CALM, KILLED, LATE)
) -> AsyncIterator[dict[str, ServerChild]]:
    """One for each scene, for all rounds: a server that nobody talks to costs nothing."""
    late = ("--diarizer-options", f"latency_ms={1000 * effort.late_s:g}")
    patient = ("--call-timeout-s", f"{effort.late_s + 15:g}")
    options: dict[str, tuple[str, ...]] = {LATE: (*late, *patient)}
    async with contextlib.AsyncExitStack() as stack:

        async def start(scene: str) -> ServerChild:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="captiond-diarizer-"))
            return await stack.enter_async_context(
                running_server(
                    (*SERVER_OPTIONS, *options.get(scene, ())),
                    Path(folder),
                    hears_keyboard=False,
                    program="load_tests.faults.killable",
                )
            )

        started = await asyncio.gather(*map(start, only))
        children = dict(zip(only, started, strict=True))
        # The first signal looks for the process, which takes a while: not while anybody talks.
        if KILLED in children:
            children[KILLED].process.send_signal(signal.SIGUSR1)
        yield children


async def measure(effort: Effort) -> list[SceneFigures]:
    """All rounds. Every other one begins with the other half, so that a machine that becomes
    busier favours none."""
    rounds: dict[str, list[Round]] = {CALM: [], KILLED: [], LATE: []}
    async with servers(effort) as children:

        async def with_kills() -> None:
            rounds[KILLED].append(await talk_and_kill(children[KILLED], effort))

        async def without() -> None:
            both = await asyncio.gather(*(talk(children[s], effort, s) for s in (CALM, LATE)))
            for scene, found in zip((CALM, LATE), both, strict=True):
                rounds[scene].append(found)

        for number in range(effort.rounds):
            for part in (without, with_kills) if number % 2 else (with_kills, without):
                await part()
    return [SceneFigures(scene, tuple(found)) for scene, found in rounds.items()]


def parse(words: Sequence[str] | None) -> Effort:
    """Exits with a usage message where they are wrong."""
    parser = argparse.ArgumentParser(prog="python -m load_tests.faults.diarizer")
    parser.add_argument("--rounds", type=int, default=3, help="of all three scenes [3]")
    parser.add_argument("--sessions", type=int, default=3, help="that talk at once [3]")
    parser.add_argument("--talk-s", type=float, default=30.0, help="of each session [30]")
    parser.add_argument("--late-s", type=float, default=60.0, help="of each late call [60]")
    parser.add_argument("--seed", type=int, default=1, help="of what is said [1]")
    given = parser.parse_args(words)
    if min(given.rounds, given.sessions) < 1 or given.talk_s < 5 or given.late_s <= 0:
        parser.error("at least a round, a session, five seconds of talk, and some lateness")
    return Effort(given.rounds, given.sessions, given.talk_s, given.late_s, given.seed)


def main(words: Sequence[str] | None = None) -> int:
    """Print the figures; 1 where a bound is missed."""
    lines, is_met = report(run_with_server(measure(parse(words))))
    print("\n".join(lines), flush=True)
    return 0 if is_met else 1


if __name__ == "__main__":
    sys.exit(main())
