"""What virtual users noted → figures as JSON and Markdown, with the machine that made them.

Per word: ``first_shown_s`` and ``final_s`` are seconds from sending the packet with the word's
last sample to receiving it in a partial or final; ``final_after_utterance_s`` counts from the
last sample of the word's utterance instead, since no final can come before a pause.
Invariant: ``ratios`` hold nothing that depends on how fast the machine's clock ticks alone, so
that bounds on them mean the same on every machine.
"""

import importlib.metadata
import os
import platform
import subprocess
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import psutil

from clients.delays import SentAudio, quantiles
from load_tests.oracle import Mistakes, find_mistakes
from load_tests.replay import Heard

FINAL_SECONDS_TARGET = 1.5
"""After the end of a word's utterance, for 95 of 100 words."""
LATE_PACKET_SECONDS = 0.1
"""Load that is later than a packet is no longer the load that was asked for."""
VERSIONS_OF = ("captiond", "aiohttp", "numpy", "torch", "transformers", "uvloop", "websockets")
NOT_CODE = ":(top,exclude)docs/benchmarks"

Figures = dict[str, Any]


@dataclass(frozen=True, slots=True)
class ServerCost:
    """What the server and its workers used during the load."""

    cpu_s: float
    peak_memory_mb: float
    """Resident, summed over its processes: pages that they share count more than once."""


@dataclass(frozen=True, slots=True)
class Conditions:
    """What was run, where."""

    workload: str
    seed: int
    streams: int
    seconds: float
    server_options: tuple[str, ...] | None
    """None where the server was there before."""


def make_report(
    heards: Sequence[Heard], cost: ServerCost | None, conditions: Conditions
) -> Figures:
    """All figures of one run, ready for JSON."""
    mistakes = sum(map(mistakes_of, heards), Mistakes())
    words = sum(len(heard.plan.words) for heard in heards)
    audio_s = sum(heard.done["audio_seconds"] for heard in heards if heard.done)
    speech_s = sum(heard.plan.speech_seconds for heard in heards)
    after_utterance = [s for heard in heards for s in _final_delays(heard, of_utterance=True)]
    lateness = [s for heard in heards for s in heard.lateness_s]
    figures: Figures = {
        "streams": conditions.streams,
        "seconds": conditions.seconds,
        "workload": conditions.workload,
        "seed": conditions.seed,
        "words": words,
        **{f"words_{kind}": count for kind, count in asdict(mistakes).items()},
        "first_shown_s": quantiles(s for heard in heards for s in _shown_delays(heard)),
        "final_s": quantiles(s for heard in heards for s in _final_delays(heard)),
        "final_after_utterance_s": quantiles(after_utterance),
        "lateness_s": {**quantiles(lateness), "max": round(max(lateness), 4) if lateness else None},
        "credit_waits": sum(heard.credit_waits for heard in heards),
        "audio_seconds": round(audio_s, 3),
        "rtfx": _rtfx(heards),
        "server_cpu_s": cost and round(cost.cpu_s, 2),
        "peak_memory_mb": cost and round(cost.peak_memory_mb, 1),
        "partials_per_speech_second": _share(sum(h.partials for h in heards), speech_s),
        "gaps": sum(heard.gaps for heard in heards),
        "refusals": Counter(heard.refusal for heard in heards if heard.refusal),
        "errors": sum((heard.errors for heard in heards), Counter()),
    }
    figures["ratios"] = {
        "words_wrong": _share(sum(asdict(mistakes).values()), words),
        "finals_late": _share(
            sum(s > FINAL_SECONDS_TARGET for s in after_utterance), len(after_utterance)
        ),
        "packets_late": _share(sum(s > LATE_PACKET_SECONDS for s in lateness), len(lateness)),
        "refused": _share(sum(figures["refusals"].values()), conditions.streams),
        "server_cpu_per_audio_second": cost and _share(cost.cpu_s, audio_s),
    }
    return {**figures, "server_options": conditions.server_options, **provenance()}


def mistakes_of(heard: Heard) -> Mistakes:
    """A refused user said nothing, so it lost nothing."""
    if heard.refusal is not None:
        return Mistakes()
    expected = [(word.text, word.start) for word in heard.plan.words]
    return find_mistakes(heard.plan.stream, expected, heard.finals, heard.shown_s)


def _shown_delays(heard: Heard) -> Iterable[float]:
    sent = _sent(heard)
    for word in heard.plan.words:
        if word.text in heard.shown_s:
            delay_s = sent.delay_s(word.end, heard.shown_s[word.text])
            if delay_s is not None:
                yield delay_s


def _final_delays(heard: Heard, *, of_utterance: bool = False) -> Iterable[float]:
    sent = _sent(heard)
    received_s = {word.text: word.received_s for word in heard.finals}
    for word in heard.plan.words:
        if word.text in received_s:
            end = word.utterance_end if of_utterance else word.end
            delay_s = sent.delay_s(end, received_s[word.text])
            if delay_s is not None:
                yield delay_s


def _sent(heard: Heard) -> SentAudio:
    return SentAudio.in_equal_packets(heard.plan.packet_samples, heard.sent_s)


def _rtfx(heards: Sequence[Heard]) -> float | None:
    """Audio seconds per second of engine time, by the server's own ``done`` messages."""
    dones = [heard.done for heard in heards if heard.done and heard.done["rtfx"]]
    engine_s = sum(done["audio_seconds"] / done["rtfx"] for done in dones)
    return round(sum(done["audio_seconds"] for done in dones) / engine_s, 2) if engine_s else None


def _share(part: float, whole: float) -> float | None:
    return round(part / whole, 4) if whole else None


def provenance() -> Figures:
    return {
        "commit": _commit(),
        "machine": {
            "cpu": _cpu_name(),
            "cores": os.cpu_count(),
            "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
            "system": platform.platform(),
        },
        "versions": {"python": platform.python_version(), **dict(_versions())},
    }


def _commit() -> str | None:
    """Of the working tree that this file lies in, with ``-dirty`` where it was changed."""
    return commit_of(Path(__file__).parent)


def commit_of(folder: Path) -> str | None:
    """What benchmarks write about themselves does not count as a change: they would make each
    other's later figures look as if they came from other code."""
    described = _git(folder, "describe", "--always", "--abbrev=12")
    changed = _git(
        folder, "status", "--porcelain", "--untracked-files=no", "--", ":(top)", NOT_CODE
    )
    if described is None or changed is None:
        return None
    return described + ("-dirty" if changed else "")


def _git(folder: Path, *words: str) -> str | None:
    """Its output; None where there is no repository, or no git."""
    try:
        found = subprocess.run(
            ["git", *words], cwd=folder, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return found.stdout.strip()


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _versions() -> Iterable[tuple[str, str | None]]:
    for name in VERSIONS_OF:
        try:
            yield name, importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            yield name, None


def is_wrong(figures: Figures) -> bool:
    """A word is not exact, once, in order, in its place and at its own client."""
    return any(figures[f"words_{field.name}"] for field in fields(Mistakes))


def broken_bounds(figures: Figures, bounds: dict[str, float]) -> list[str]:
    """One line per ratio above its bound. Raises: ValueError for a ratio that is not there."""
    ratios = figures["ratios"]
    if unknown := sorted(set(bounds) - set(ratios)):
        raise ValueError(f"no ratio {', '.join(unknown)}; there are: {', '.join(ratios)}")
    return [
        f"{name} is {ratios[name]}, above {bound}"
        for name, bound in bounds.items()
        if ratios[name] is None or ratios[name] > bound
    ]


def as_markdown(figures: Figures) -> str:
    """A summary for people."""
    title = (
        f"## {figures['streams']} streams × {figures['seconds']:g} s, {figures['workload']} "
        f"workload, seed {figures['seed']}"
    )
    return "\n".join(
        [title, "", *_words_table(figures), "", *_delays_table(figures), "", *_rest(figures)]
    )


def _words_table(figures: Figures) -> list[str]:
    kinds = ["lost", "doubled", "misrouted", "out_of_order", "changed", "mistimed"]
    names = ["said", *(kind.replace("_", " ") for kind in kinds)]
    counts = [figures["words"], *(figures[f"words_{kind}"] for kind in kinds)]
    return [_row(["words", *names]), _row(["---"] * 8), _row(["", *counts])]


def _delays_table(figures: Figures) -> list[str]:
    names = ["first_shown_s", "final_s", "final_after_utterance_s", "lateness_s"]
    header = [_row(["seconds", "p50", "p95", "p99"]), _row(["---"] * 4)]
    return header + [_row([name, *list(figures[name].values())[:3]]) for name in names]


def _rest(figures: Figures) -> list[str]:
    machine = figures["machine"]
    lines = [
        f"{name.replace('_', ' ')}: {figures[name]}"
        for name in (
            "rtfx",
            "server_cpu_s",
            "peak_memory_mb",
            "partials_per_speech_second",
            "credit_waits",
            "gaps",
        )
    ]
    lines += [f"{name}: {dict(figures[name]) or 'none'}" for name in ("refusals", "errors")]
    lines.append(f"latest packet: {figures['lateness_s']['max']} s")
    lines.append(f"commit {figures['commit']}, {machine['cores']} × {machine['cpu']}")
    return [f"- {line}" for line in lines]


def _row(cells: Iterable[object]) -> str:
    return f"| {' | '.join('–' if cell is None else str(cell) for cell in cells)} |"
