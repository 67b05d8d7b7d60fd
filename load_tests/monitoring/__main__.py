"""``make monitoring-test``: a real Prometheus reads a real server under load, and must be right.

In this order: promtool checks the deployed files; 20 streams talk; every query of the dashboard and
of the rules must have an answer; what Prometheus says of delays and speed must be what the load
generator says; faults must fire their alerts, and their ends resolve them; the metrics must not
cost more than they may. Time passes ``FACTOR`` times as fast in the copy of the rules that is
used, and scrapes are as much closer together. The exit status is 1 where anything is not so.
"""

import argparse
import asyncio
import contextlib
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from pathlib import Path

from load_tests.__main__ import Arguments as Load
from load_tests.__main__ import put_load
from load_tests.monitoring import agreement, breaking, dashboard, picture, rules
from load_tests.monitoring.prometheus import (
    Prometheus,
    configuration,
    missing_programs,
    running_prometheus,
)
from load_tests.replay import Heard, Target
from load_tests.report import Conditions, Figures, make_report
from server.child import ServerChild, run_with_server, running_server
from server.metrics.delays import FINAL_BUCKETS_S
from server.telemetry import LATENCY_BUCKETS_S

FACTOR = 15
"""Then five minutes of a rule are 20 s, and a scrape comes every second."""
KEYS = ("meetings:monitoring-test-key-1", "bots:monitoring-test-key-2")
PRELUDE_SECONDS = 5.0
"""Of two sessions that end before the others begin: outcomes and first results are there."""
SETTLE_SECONDS = 3.0
"""Until the last scrape has seen the last session's end."""
QUERIES_AT = 0.7
"""Of the load: by then every rule has a whole range of scrapes behind it."""


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is done."""

    streams: int
    seconds: float
    picture: Path | None
    cost_streams: int
    """0: the cost is not measured."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """One thing that must be so."""

    name: str
    is_so: bool
    lines: tuple[str, ...] = ()

    def text(self) -> str:
        mark = "met   " if self.is_so else "MISSED"
        return "\n".join([f"{mark}  {self.name}", *(f"        {line}" for line in self.lines)])


def server_arguments(folder: Path) -> list[str]:
    """Scripted engines, slow enough to be measured, and told apart by key."""
    engines = ["--asr", "scripted", "--vad", "scripted", "--diarizer", "scripted"]
    options = ["--asr-options", f"hang_file={folder / 'hang'}", "--asr-options", "latency_ms=20"]
    keys = [word for key in KEYS for word in ("--api-keys", key)]
    return [*engines, *options, *keys, "--usage-metrics", "--thinning-admitted", "8"]


async def talk(
    server: ServerChild, streams: int, seconds: float, seed: int, key: str
) -> list[Heard]:
    """So many virtual users with one key, to their end."""
    load = Load(
        streams,
        seconds,
        "canonical",
        seed,
        server.url,
        None,
        None,
        {},
        (),
    )
    return await put_load(load, Target(server.url, key.partition(":")[2]), None)


def files() -> Verdict:
    """What can be said without a server."""
    complaints = rules.promtool_complaints() + dashboard.complaints(dashboard.load())
    count = f"{len(rules.rules_in())} rules, {len(dashboard.queries_of(dashboard.load()))} queries"
    return Verdict(
        f"deployed files: promtool and conventions, {count}", not complaints, tuple(complaints)
    )


async def queries(prometheus: Prometheus) -> list[Verdict]:
    """Every query has an answer while people talk."""
    asked = dashboard.queries_of(dashboard.load())
    empty = [
        f"{query.title}: {query.expression}"
        for query in asked
        if not await prometheus.query(query.asked(picture.RATE_INTERVAL))
    ]
    every = rules.rules_in()
    silent = []
    for rule in every:
        names = rules.metrics_in(rule.expression) if rule.is_alert else {rule.name}
        silent += [f"{rule.name}: {n}" for n in sorted(names) if not await prometheus.query(n)]
    return [
        Verdict(f"{len(asked)} queries of the dashboard return data", not empty, tuple(empty)),
        Verdict(f"{len(every)} rules have data", not silent, tuple(silent)),
    ]


async def figures(prometheus: Prometheus, report: Figures) -> Verdict:
    """Both sides measured the same; nothing is left out of either."""
    pairs: list[agreement.Pair] = []
    for name, metric, bounds_s in (
        ("first_shown_s", "captiond_partial_latency_seconds", LATENCY_BUCKETS_S),
        ("final_s", "captiond_final_latency_seconds", FINAL_BUCKETS_S),
    ):
        there = {
            share: await prometheus.value(query)
            for share, query in agreement.delay_queries(metric).items()
        }
        pairs += agreement.delay_pairs(name, report[name], there, bounds_s)
    received = "sum(captiond_audio_received_seconds_total)"
    spent = "sum(captiond_inference_duration_seconds_sum)"
    told = (
        "sum(captiond_audio_captioned_seconds_total) + sum(captiond_audio_silent_seconds_total) "
        "+ sum(captiond_audio_dropped_seconds_total)"
    )
    keys = "sum(captiond_key_audio_seconds_total)"
    sums = agreement.AUDIO_DIFFERENCE_MAX
    audio_s = report["audio_seconds"]
    ratios = (
        ("RTFx", report["rtfx"], f"{received} / {spent}", agreement.RTFX_DIFFERENCE_MAX),
        ("audio received, s", audio_s, received, sums),
        ("audio captioned, silent or lost, s", audio_s, told, sums),
        ("audio by key, s", audio_s, keys, sums),
    )
    for name, here, query, most in ratios:
        pairs.append(agreement.ratio_pair(name, here, await prometheus.value(query), most))
    lines = tuple(pair.line() for pair in pairs)
    return Verdict("figures agree with the load generator's", all(p.agrees for p in pairs), lines)


async def faults(prometheus: Prometheus, server: ServerChild, folder: Path) -> Verdict:
    """One after the other, while a few people talk."""
    talking = asyncio.create_task(_talk_on(server))
    try:
        await asyncio.sleep(SETTLE_SECONDS)
        store = folder / "captiond.db"
        watched = [
            await breaking.watch(prometheus, alert, fault, how)
            for alert, fault, how in breaking.faults_of(server.process.pid, store, folder / "hang")
        ]
    finally:
        talking.cancel()
        await asyncio.gather(talking, return_exceptions=True)
    lines = tuple(one.line() for one in watched)
    return Verdict(
        "faults fire their alerts, their ends resolve them", all(o.is_good for o in watched), lines
    )


async def _talk_on(server: ServerChild) -> None:
    """Five people, again and again; what becomes of their words is not judged here."""
    seed = 100
    while True:
        seed += 1
        await talk(server, 5, 30.0, seed, KEYS[0])


async def watched_load(effort: Effort, folder: Path) -> AsyncGenerator[Verdict, None]:
    """All that needs a server and a Prometheus."""
    async with running_server(server_arguments(folder), folder) as server:
        copies = rules.faster(rules.RULE_FILES, FACTOR, folder)
        config = configuration(server.url, copies, rules.SCRAPE_S / FACTOR)
        async with running_prometheus(config, folder) as prometheus:
            began_s = time.time()
            heards = await talk(server, 2, PRELUDE_SECONDS, 1, KEYS[1])
            loading = asyncio.create_task(talk(server, effort.streams, effort.seconds, 2, KEYS[0]))
            await asyncio.sleep(effort.seconds * QUERIES_AT)
            for verdict in await queries(prometheus):
                yield verdict
            heards += await loading
            ended_s = time.time() - SETTLE_SECONDS
            await asyncio.sleep(SETTLE_SECONDS)
            conditions = Conditions("canonical", 2, effort.streams, effort.seconds, None)
            report = make_report(heards, None, conditions)
            yield heard_well(report)
            yield await figures(prometheus, report)
            if effort.picture is not None:
                await draw(prometheus, effort, began_s, ended_s)
            yield await faults(prometheus, server, folder)


def heard_well(report: Figures) -> Verdict:
    """The load itself went as it should, or the rest means nothing."""
    wrong = report["ratios"]["words_wrong"]
    line = (
        f"{report['words']} words, {wrong:.2%} wrong, errors {dict(report['errors']) or 'none'}, "
        f"packets at most {report['lateness_s']['max']} s late"
    )
    return Verdict("the load was captioned", wrong == 0 and not report["errors"], (line,))


async def draw(prometheus: Prometheus, effort: Effort, began_s: float, ended_s: float) -> None:
    assert effort.picture is not None
    board = dashboard.load()
    drawn = await picture.answers(prometheus, board, began_s, ended_s)
    title = (
        f"captiond's dashboard, drawn from a Prometheus beside a server with {effort.streams} "
        f"scripted streams; seconds below, scrapes and ranges {FACTOR} times as close as deployed"
    )
    picture.draw(board, drawn, title, effort.picture)


async def cost_of(streams: int) -> Verdict:
    """In a process of its own: the server must be alone in it."""
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "load_tests.monitoring.cost", "--streams", str(streams)),
        stdout=asyncio.subprocess.PIPE,
    )
    told, _ = await child.communicate()
    return Verdict(
        f"cost at {streams} streams", child.returncode == 0, tuple(told.decode().splitlines())
    )


async def run(effort: Effort) -> bool:
    """Everything; each verdict is printed as soon as it is there."""
    verdicts = [files()]
    _say(verdicts[0])
    with tempfile.TemporaryDirectory(prefix="captiond-monitoring-") as folder:
        async with contextlib.aclosing(watched_load(effort, Path(folder))) as watched:
            async for verdict in watched:
                verdicts.append(verdict)
                _say(verdict)
    if effort.cost_streams:
        verdicts.append(await cost_of(effort.cost_streams))
        _say(verdicts[-1])
    return all(verdict.is_so for verdict in verdicts)


def _say(verdict: Verdict) -> None:
    print(verdict.text(), flush=True)


def parse(words: Sequence[str] | None) -> Effort:
    """Exits with a usage message where they are wrong."""
    parser = argparse.ArgumentParser(prog="python -m load_tests.monitoring")
    parser.add_argument("--streams", type=int, default=20, help="that talk [20]")
    parser.add_argument("--seconds", type=float, default=60.0, help="audio of each [60]")
    parser.add_argument("--picture", type=Path, metavar="PNG", help="draw the dashboard there")
    parser.add_argument(
        "--cost-streams", type=int, default=300, help="for the metrics' cost; 0 leaves it out [300]"
    )
    given = parser.parse_args(words)
    if given.streams < 1 or given.seconds < 30 or given.cost_streams < 0:
        parser.error("at least one stream, and thirty seconds")
    return Effort(given.streams, given.seconds, given.picture, given.cost_streams)


def main(words: Sequence[str] | None = None) -> int:
    """Returns the exit status."""
    effort = parse(words)
    if missing := missing_programs():
        print(f"monitoring: {', '.join(missing)} not found; Debian's package is prometheus")
        return 1
    return 0 if run_with_server(run(effort)) else 1


if __name__ == "__main__":
    sys.exit(main())
