"""What the segmentation model can do beside Silero VAD, measured: prints Markdown.

    python -m tools.segmentation.report [--folder FOLDER] [--seed SEED] [--quick]

Everything is held out from training, but for what Silero's second rule is chosen on. Another seed
gives other conversations and mixes of the same held-out people.
"""

import argparse
import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from server.engines.segmentation import WEIGHTS_FILE
from tools.demo_whisper.synthesis import SAMPLE_RATE_HZ
from tools.segmentation import material
from tools.segmentation.hearing import (
    PIPELINE_HOP_SAMPLES,
    Segmenter,
    SileroListener,
    SileroRule,
    silero_speech,
)
from tools.segmentation.judging import Frames, Tally, judge
from tools.segmentation.material import Recording
from tools.segmentation.mixes import CHUNK_SAMPLES
from tools.segmentation.people import DATA_DIR

SHIPPED = Path(__file__).resolve().parents[2] / "server" / "assets" / "segmentation"
THRESHOLDS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
HYSTERESIS = 0.15
BRIDGES_MS = (0, 100, 200, 300, 500)
COLUMNS = (
    *("set", "minutes", "Silero", "Silero, rule chosen", "ours"),
    *("local error, Silero", "local error, ours", "overlap precision", "overlap recall"),
)


@dataclass(frozen=True, slots=True)
class Row:
    """One set: detection by three, and who speaks where within chunks."""

    name: str
    seconds: float
    silero: Tally
    chosen: Tally
    ours: Tally
    silero_local: Tally
    ours_local: Tally

    def cells(self) -> list[str]:
        return [
            self.name,
            f"{self.seconds / 60:.1f}",
            f"{self.silero.detection_error:.3f}",
            f"{self.chosen.detection_error:.3f}",
            f"{self.ours.detection_error:.3f}",
            f"{self.silero_local.local_error:.3f}",
            f"{self.ours_local.local_error:.3f}",
            f"{self.ours.overlap_precision:.2f}",
            f"{self.ours.overlap_recall:.2f}",
        ]


class Listeners:
    """Both models, and what they hear of a recording."""

    def __init__(self, folder: Path) -> None:
        self.segmenter = Segmenter(folder)
        self.silero = SileroListener()

    def row(self, name: str, recordings: Sequence[Recording], chosen: SileroRule) -> Row:
        tallies = [self._tallies(recording, chosen) for recording in recordings]
        silero, by_rule, ours, silero_local, ours_local = (
            sum(column, Tally()) for column in zip(*tallies, strict=True)
        )
        seconds = sum(len(recording.samples) for recording in recordings) / SAMPLE_RATE_HZ
        return Row(name, seconds, silero, by_rule, ours, silero_local, ours_local)

    def _tallies(self, recording: Recording, chosen: SileroRule) -> tuple[Tally, ...]:
        truth, length = recording.truth, len(recording.samples)
        probabilities = self.silero.probabilities(recording.samples)
        plain = silero_speech(probabilities, SileroRule(), length)[None]
        by_rule = silero_speech(probabilities, chosen, length)[None]
        at_once = self.segmenter.speakers_at_once(recording.samples)
        ours = np.stack([at_once >= 0.5, at_once >= 1.5])
        local = self.segmenter.local(recording.samples)
        # Silero knows no speakers: to it, all speech of a chunk is one person's.
        one_voice = [(start, by_rule[:, start : start + a.shape[1]]) for start, a in local]
        return (
            *(judge(truth, found) for found in (plain, by_rule, ours)),
            *(_by_chunk(truth, chunks) for chunks in (one_voice, local)),
        )


def _by_chunk(truth: Frames, chunks: Sequence[tuple[int, Frames]]) -> Tally:
    return sum(
        (judge(truth[:, start : start + c.shape[1]], c) for start, c in chunks if c.size), Tally()
    )


def choose_rule(silero: SileroListener, recordings: Sequence[Recording]) -> SileroRule:
    """That with the least detection error on them."""
    heard = [(r, silero.probabilities(r.samples)) for r in recordings]

    def error(rule: SileroRule) -> float:
        tallies = (
            judge(r.truth, silero_speech(probabilities, rule, len(r.samples))[None])
            for r, probabilities in heard
        )
        return sum(tallies, Tally()).detection_error

    rules = itertools.starmap(
        lambda on, bridge: SileroRule(on, round(max(0.02, on - HYSTERESIS), 2), bridge),
        itertools.product(THRESHOLDS, BRIDGES_MS),
    )
    return min(rules, key=error)


def sets(seed: int, count: int, data: Path) -> list[tuple[str, list[Recording]]]:
    """Name and recordings of each set."""
    people = material.held_out_people(f"held out {seed}", data)
    built = [(f"conversations, {k}", material.conversations(k, seed, data)) for k in material.KINDS]
    return [
        ("mixes of held-out people", material.mixes(count, f"held out {seed}", people)),
        *built,
        *((f"AMI {recording.name}", [recording]) for recording in material.meetings(data)),
        ("AMI, held-out excerpts", material.meetings(data)),
        ("telephone (sample.wav)", [material.telephone_sample()]),
        ("demo clip", [material.demo_clip()]),
    ]


def cpu_share(hear: Callable[[], object], seconds: float) -> float:
    """CPU seconds per second of audio, the best of three."""
    costs = []
    for _ in range(3):
        began_s = time.process_time()
        hear()
        costs.append(time.process_time() - began_s)
    return min(costs) / seconds


def costs(listeners: Listeners) -> list[str]:
    samples = np.random.default_rng(1).normal(0, 0.05, 6 * CHUNK_SAMPLES).astype(np.float32)
    seconds = len(samples) / SAMPLE_RATE_HZ
    segmenter = listeners.segmenter
    shares = {
        "Silero VAD, one lane": cpu_share(lambda: listeners.silero.probabilities(samples), seconds),
        "ours, each second once": cpu_share(lambda: segmenter.local(samples), seconds),
        "ours, each second ten times (pyannote's hop)": cpu_share(
            lambda: segmenter.local(samples, PIPELINE_HOP_SAMPLES), seconds
        ),
    }
    return [f"| {name} | {share:.5f} |" for name, share in shares.items()]


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tools.segmentation.report")
    parser.add_argument("--folder", type=Path, default=SHIPPED)
    parser.add_argument("--seed", type=int, default=2026)
    parser.add_argument("--data", type=Path, default=DATA_DIR, help="with ami, fsdd, librispeech")
    parser.add_argument("--quick", action="store_true", help="a quarter of the mixes")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    given = parse(arguments)
    listeners = Listeners(given.folder)
    rule = choose_rule(listeners.silero, list(material.practice(given.data)))
    print(f"weights: {(given.folder / WEIGHTS_FILE).stat().st_size / 1e6:.2f} MB")
    print(f"Silero's rule as the server has it: {SileroRule()}; chosen: {rule}\n")
    print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}")
    for name, recordings in sets(given.seed, 30 if given.quick else 120, given.data):
        print(f"| {' | '.join(listeners.row(name, recordings, rule).cells())} |", flush=True)
    print("\n| heard | CPU seconds per second of audio, one thread |\n|---|---|")
    print("\n".join(costs(listeners)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
