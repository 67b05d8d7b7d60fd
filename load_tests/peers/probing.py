"""N streams at a system, once: started, warmed, spoken to, judged, stopped.

A fresh server each time, so that nothing of an overload is left for the next measurement.
"""

import asyncio
import random
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from clients.delays import quantiles
from load_tests.__main__ import CostMeter
from load_tests.bench.rotated_speech import rotated, speech_seconds
from load_tests.bench.speech import Recording
from load_tests.peers import held
from load_tests.peers.disturbance import family, others_share, read, scheduler_waits_s
from load_tests.peers.held import Level, Probe, shortfalls
from load_tests.peers.system import PeerFailed, Running, System, last_lines
from load_tests.peers.talking import Heard, Talker
from server.cpu_budget import cpu_budget
from server.scoring import WordErrors
from streaming.timeline import SAMPLE_RATE_HZ

WARM_SECONDS = 5.0
"""Of audio, before anything counts: some servers load their model for the first client."""
STAGGER_SECONDS = 4.0
"""Over which streams begin, so that their utterances do not end together."""
METER_SECONDS = 0.5
TRIES = 2


@dataclass(frozen=True, slots=True)
class Conditions:
    """What every stream is given."""

    seconds: float
    seed: int


@dataclass(slots=True)
class Bench:
    """All probes of one system."""

    system: System
    conditions: Conditions
    probes: dict[int, Probe]
    log: str = ""
    """Of the server of the last probe that failed."""

    @property
    def wer_of_one(self) -> float:
        one = self.probes.get(1)
        return 1.0 if one is None or one.wer is None else one.wer

    async def probe(self, streams: int) -> Probe:
        """Measured once for each number of streams; once more on a machine that did other work,
        and the less disturbed one counts. Raises: PeerFailed."""
        if streams in self.probes:
            return self.probes[streams]
        for _ in range(TRIES):
            if streams in self.probes and not self.probes[streams].disturbances:
                break
            with tempfile.TemporaryDirectory(prefix="captiond-probe-") as folder:
                async with self.system.serve(Path(folder), streams) as running:
                    found = await probed(self.system, running, self.conditions, streams)
                    if found.failures:
                        self.log = last_lines(running.log_path)
            print(f"{self.system.name}: {streams} streams: {_told(found)}", flush=True)
            known = self.probes.setdefault(streams, found)
            if found.others_share < known.others_share:
                self.probes[streams] = found
        return self.probes[streams]

    async def most_held(self, level: Level, streams_max: int = held.STREAMS_MAX) -> int:
        """Raises: PeerFailed."""

        async def holds(streams: int) -> bool:
            probe = await self.probe(streams)
            short = shortfalls(probe, level, self.wer_of_one)
            verdict = "holds" if not short else "; ".join(short)
            print(f"  {level.name}: {streams}: {verdict}", flush=True)
            return not short

        return await held.largest(holds, streams_max, self.system.streams_guess)


def _told(probe: Probe) -> str:
    return (
        f"WER {probe.wer}, first shown {probe.first_shown_s}, stable {probe.stable_s}, "
        f"{probe.partials_per_speech_s} partials/s, CPU {probe.cpu_s_per_stream_s} s/s, "
        f"late p99 {probe.lateness_s_p99} s, others {probe.others_share:.1%}, "
        f"failures {list(probe.failures)[:2]}"
    )


async def probed(system: System, running: Running, given: Conditions, streams: int) -> Probe:
    """Everybody once, from the first packet to the last caption."""
    await _warm_up(system, running, given)
    talkers = [
        Talker(recording, running.url, system.dialect())
        for recording in rotated(given.seconds, streams, given.seed)
    ]
    meter, own = CostMeter(running.pid), psutil.Process().cpu_times()
    before, waited_s = read(time.monotonic()), scheduler_waits_s(family(running.pid))
    metering = asyncio.create_task(_meter(meter))
    chance, began_s = random.Random(given.seed), time.monotonic()
    async with asyncio.TaskGroup() as tasks:
        talks = [
            tasks.create_task(talker.talk(began_s + chance.uniform(0, STAGGER_SECONDS)))
            for talker in talkers
        ]
        for talker in talkers:
            await talker.has_spoken.wait()
        # What a server does after the last packet is the same for one stream and for many.
        cost, after = meter.cost(), read(time.monotonic())
        waited_s = scheduler_waits_s(family(running.pid)) - waited_s
        own_s = sum(psutil.Process().cpu_times()[:2]) - sum(own[:2]) + cost.cpu_s
        metering.cancel()
    heards = [talk.result() for talk in talks]
    others = others_share(before, after, own_s, cpu_budget())
    return _judged(heards, given, cost.cpu_s, others, waited_s)


async def _warm_up(system: System, running: Running, given: Conditions) -> None:
    """Raises: PeerFailed where not even this comes back."""
    whole = rotated(given.seconds, 1, given.seed)[0]
    end = round(WARM_SECONDS * SAMPLE_RATE_HZ)
    recording = Recording("warm", whole.samples[:end], whole.words[:1])
    heard = await Talker(recording, running.url, system.dialect()).talk(time.monotonic())
    if heard.failure is not None:
        raise PeerFailed(f"the first stream: {heard.failure}\n{last_lines(running.log_path)}")


async def _meter(meter: CostMeter) -> None:
    while True:
        await asyncio.sleep(METER_SECONDS)
        meter.sample()


def _judged(
    heards: Sequence[Heard], given: Conditions, cpu_s: float, others: float, waited_s: float
) -> Probe:
    all_judged = [heard.judged() for heard in heards]
    errors = sum((judged.errors for judged in all_judged), WordErrors(0, 0, 0, 0))
    shown = [s for judged in all_judged for s in judged.first_shown_s]
    streams = len(heards)
    spoken_s = sum(len(heard.recording.samples) for heard in heards) / SAMPLE_RATE_HZ
    return Probe(
        streams=streams,
        wer=errors.rate,
        first_shown_s=quantiles(shown),
        stable_s=quantiles(s for judged in all_judged for s in judged.stable_s),
        partials_per_speech_s=round(
            sum(heard.updates for heard in heards)
            / (streams * speech_seconds(given.seconds, given.seed)),
            2,
        ),
        gaps=sum(heard.gaps for heard in heards),
        failures=tuple(_failures(heards)),
        cpu_s_per_stream_s=round(cpu_s / spoken_s, 4),
        lateness_s_p99=quantiles(s for heard in heards for s in heard.lateness_s)["p99"],
        others_share=others,
        scheduler_waits_s=round(waited_s, 2),
        words_never_shown=round(1 - len(shown) / max(1, errors.reference), 4),
    )


def _failures(heards: Iterable[Heard]) -> Iterable[str]:
    for heard in heards:
        if heard.failure is not None:
            yield heard.failure
        elif not heard.screen.shown:
            yield "it was done, and no text had come"
