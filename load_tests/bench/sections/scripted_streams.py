"""How many streams of exact words the front process holds when models cost nothing.

Scripted engine and scripted voice activity: server and worker share one processor, the load has
another, so the figure is that of the program alone. **Added** is what many streams add to the
delays of a few: of first words, or of finals after their utterance, whichever grew more.
"""

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import uvloop

from load_tests.bench.section import Effort, Figures, SectionSkipped, section
from load_tests.report import Figures as LoadFigures

STREAMS, SECONDS = 300, 120.0
SEARCH_SECONDS = 30.0
SEARCH_STEP = 50
FEW_STREAMS = 10
QUICK_STREAMS, QUICK_SECONDS = 4, 4.0
ADDED_S_MAX = 0.15
LATENESS_S_MAX = 0.02
OTHERS_SHARE_MAX = 0.05
OPTIONS = ("--asr", "scripted", "--vad", "scripted", "--diarizer", "none")


@dataclass(frozen=True, slots=True)
class Load:
    """One run; seconds."""

    figures: LoadFigures
    others_share: float
    """Of both processors, for programs that are no part of this."""

    @property
    def words_wrong(self) -> int:
        wrong = (v for k, v in self.figures.items() if k.startswith("words_"))
        failed = sum(self.figures["errors"].values()) + sum(self.figures["refusals"].values())
        return int(sum(wrong) + failed)

    @property
    def is_void(self) -> bool:
        late_s = self.figures["lateness_s"]["p99"]
        is_late = late_s is None or late_s > LATENESS_S_MAX
        return bool(is_late or self.others_share > OTHERS_SHARE_MAX)

    def added_s(self, few: "Load") -> float:
        """To the delays of a few streams: p95 against p95."""
        kinds = ("first_shown_s", "final_after_utterance_s")
        return float(max(self.figures[kind]["p95"] - few.figures[kind]["p95"] for kind in kinds))

    def holds(self, few: "Load") -> bool:
        return not self.words_wrong and self.added_s(few) <= ADDED_S_MAX


@section(
    "scripted streams",
    bounds={
        "scripted_words_wrong": 0,
        "scripted_added_p95_s": ADDED_S_MAX,
        "scripted_runs_void": 0,
        "scripted_streams_held": None,
    },
)
def measure(effort: Effort) -> Figures:
    """Words that went wrong count streams that failed, too."""
    if len(os.sched_getaffinity(0)) < 2:
        raise SectionSkipped("server and load need a processor each")
    return uvloop.run(_measure(effort))


async def _measure(effort: Effort) -> Figures:
    from load_tests.peers.held import largest

    quick = effort.is_quick
    few = await _load(FEW_STREAMS // 5 if quick else FEW_STREAMS, _seconds(effort), effort.seed)
    streams, seconds = (QUICK_STREAMS, QUICK_SECONDS) if quick else (STREAMS, SECONDS)
    many = await _load(streams, seconds, effort.seed)
    runs = [few, many]

    async def holds(steps: int) -> bool:
        runs.append(await _load(steps * SEARCH_STEP, SEARCH_SECONDS, effort.seed))
        return runs[-1].holds(few)

    most = streams if quick else await largest(holds) * SEARCH_STEP
    if not quick and many.holds(few):
        most = max(most, STREAMS)
    return {
        "scripted_words_wrong": many.words_wrong,
        "scripted_added_p95_s": round(many.added_s(few), 4),
        "scripted_runs_void": sum(run.is_void for run in runs[:2]),
        "scripted_streams_held": most,
        "scripted_of": {
            "streams": streams,
            "seconds": seconds,
            "words": many.figures["words"],
            "first shown p95 s": many.figures["first_shown_s"]["p95"],
            "final after utterance p95 s": many.figures["final_after_utterance_s"]["p95"],
            "of a few: first shown p95 s": few.figures["first_shown_s"]["p95"],
            "of a few: final after utterance p95 s": few.figures["final_after_utterance_s"]["p95"],
            "load late p99 s": many.figures["lateness_s"]["p99"],
            "others' share of the machine": many.others_share,
            "server CPU s per stream-second": many.figures["ratios"]["server_cpu_per_audio_second"],
            "void runs in the search": sum(run.is_void for run in runs[2:]),
        },
    }


def _seconds(effort: Effort) -> float:
    return QUICK_SECONDS if effort.is_quick else SEARCH_SECONDS


async def _load(streams: int, seconds: float, seed: int) -> Load:
    from load_tests.__main__ import CostMeter, parse_arguments, put_load
    from load_tests.peers.disturbance import others_share, read
    from load_tests.replay import Target
    from load_tests.report import Conditions, make_report
    from server.child import running_server

    options = (*OPTIONS, "--sessions-max", str(2 * streams))
    words = ["--streams", str(streams), "--seconds", str(seconds), "--seed", str(seed)]
    with tempfile.TemporaryDirectory(prefix="captiond-scripted-") as folder, _two() as (a, b):
        os.sched_setaffinity(0, {a})  # children inherit it
        async with running_server(options, Path(folder)) as server:
            os.sched_setaffinity(0, {b})
            meter, own_s = CostMeter(server.process.pid), _own_s()
            before = read(time.monotonic())
            target = Target(server.url, diarize=False)
            heards = await put_load(parse_arguments(words), target, meter)
            after, cost, own_s = read(time.monotonic()), meter.cost(), _own_s() - own_s
    figures = make_report(heards, cost, Conditions("canonical", seed, streams, seconds, options))
    print(
        f"{streams} scripted streams: late p99 {figures['lateness_s']['p99']} s, first shown "
        f"{figures['first_shown_s']}, errors {dict(figures['errors'])}",
        flush=True,
    )
    cores = os.cpu_count() or 1
    return Load(figures, others_share(before, after, own_s + cost.cpu_s, cores))


def _own_s() -> float:
    return float(sum(psutil.Process().cpu_times()[:2]))


@contextmanager
def _two() -> Iterator[tuple[int, int]]:
    """Two processors of ours; all of them again at the end."""
    allowed = os.sched_getaffinity(0)
    first, second, *_ = sorted(allowed)
    try:
        yield first, second
    finally:
        os.sched_setaffinity(0, allowed)
