"""Builds conversations whose words and turns are known exactly, ready for ``captiond eval``.

    python -m tools.conversations OUT --minutes 10 --speakers 2,3,5,7 --kind mixed --seed 1

Writes one recording per number of speakers, its truth as RTTM, STM, CTM and text, and
``manifest.jsonl``. Kinds: ``synthetic`` (espeak-ng voices: words and turns), ``digits`` (recorded
people, at most 6: words and turns), ``librispeech`` (recorded readers, at most 7: turns alone),
and ``mixed``, which alternates them. People pause, interrupt each other and differ in loudness;
the conditions (clean, noise, telephone) alternate too. The same arguments give the same files,
from the same espeak-ng in a fresh process.
"""

import argparse
import itertools
import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random

import numpy as np

from tools.conversation_files import Conversation, Utterance, write_conversation
from tools.conversation_talkers import (
    NotEnoughTalkers,
    Said,
    Talker,
    digit_talkers,
    reading_talkers,
    synthetic_talkers,
)
from tools.demo_whisper.noise import coloured, level, telephone
from tools.demo_whisper.synthesis import SAMPLE_RATE_HZ, Samples, SynthesisError

DATA_DIR = Path(__file__).resolve().parents[1].parent / "shared" / "data"
KINDS = ("digits", "librispeech", "synthetic", "mixed")
MIXED = ("synthetic", "digits", "librispeech")
CONDITIONS = ("clean", "noise", "telephone")

MS_SAMPLES = SAMPLE_RATE_HZ // 1000
LEAD_S, TAIL_S = 0.5, 1.0
PAUSE_S, LONG_PAUSE_S = (0.2, 1.2), (1.5, 4.0)
LONG_PAUSE_SHARE = 0.1
PAUSE_IN_TURN_S = (0.15, 0.6)
OVERLAP_S = (0.2, 1.2)
OWN_PAUSE_S = 0.2
"""Nobody interrupts themselves: between two turns of one person there is at least this."""
UTTERANCES_IN_TURN = (1, 3)
GAIN_DB = (-10.0, 0.0)
NOISE_DBFS = {"clean": (-75.0, -65.0), "noise": (-48.0, -40.0), "telephone": (-58.0, -48.0)}
"""Against speech at -23 dBFS before gains: about 50, 20 and 30 dB."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a conversation shall be like."""

    name: str
    kind: str
    speakers: int
    seconds: float
    condition: str
    overlap_share: float
    """Of the changes of speaker: how many happen before the last one has finished."""
    pause_s: tuple[float, float] | None = field(default=None, repr=False)
    """Bounds of every pause, in turns and between them; None: of several kinds. Not in the text
    that seeds the lots, so that it changes pauses alone."""


@dataclass(frozen=True, slots=True)
class Placed:
    """An utterance and its place, in samples from the start of the recording."""

    speaker: str
    start: int
    said: Said

    @property
    def end(self) -> int:
        return self.start + len(self.said.samples)


def plans(
    kind: str, speakers: Sequence[int], minutes: float, overlap_share: float = 0.2
) -> list[Plan]:
    """One conversation per number of speakers, of equal length."""
    kinds = itertools.cycle(MIXED if kind == "mixed" else (kind,))
    conditions = itertools.cycle(CONDITIONS)
    seconds = minutes * 60 / len(speakers)
    return [
        Plan(f"{number:02d}-{k}-{count}-{c}", k, count, seconds, c, overlap_share)
        for number, (count, k, c) in enumerate(zip(speakers, kinds, conditions, strict=False), 1)
    ]


def build(plan: Plan, seed: int, data: Path = DATA_DIR) -> Conversation:
    """Raises: NotEnoughTalkers, SynthesisError."""
    rng = Random(f"{seed} {plan}")
    placed = converse(rng, plan, _talkers(rng, plan, data))
    gains = {p.speaker: rng.uniform(*GAIN_DB) for p in placed}
    samples = _mixed(placed, gains, round(plan.seconds * SAMPLE_RATE_HZ))
    noise_rng = np.random.default_rng(rng.getrandbits(64))
    heard = _recorded(noise_rng, samples, plan.condition)
    utterances = tuple(_utterance(p) for p in sorted(placed, key=lambda p: (p.start, p.end)))
    return Conversation(plan.name, heard, utterances)


def _talkers(rng: Random, plan: Plan, data: Path) -> list[Talker]:
    if plan.kind == "digits":
        return digit_talkers(rng, plan.speakers, data / "fsdd")
    if plan.kind == "librispeech":
        return reading_talkers(rng, plan.speakers, data / "librispeech")
    return synthetic_talkers(rng, plan.speakers)


def converse(rng: Random, plan: Plan, talkers: Sequence[Talker]) -> list[Placed]:
    """Turn after turn until the time is over; everybody has one before anyone has a third."""
    length = round(plan.seconds * SAMPLE_RATE_HZ)
    placed: list[Placed] = []
    own_end: dict[str, int] = {}
    for talker in _order(rng, talkers):
        start = _next_start(rng, placed, own_end.get(talker.name), plan)
        turn = list(_turn(rng, talker, start, plan.pause_s or PAUSE_IN_TURN_S))
        if turn[-1].end + TAIL_S * SAMPLE_RATE_HZ > length and len(own_end) == len(talkers):
            break
        placed += turn
        own_end[talker.name] = turn[-1].end
    return placed


def _order(rng: Random, talkers: Sequence[Talker]) -> Iterable[Talker]:
    """Rounds in which each speaks once, in a new order, nobody twice in a row."""
    last = None
    while True:
        turn_order = rng.sample(talkers, len(talkers))
        if turn_order[0] is last and len(turn_order) > 1:
            turn_order.append(turn_order.pop(0))
        yield from turn_order
        last = turn_order[-1]


def _next_start(rng: Random, placed: Sequence[Placed], own_end: int | None, plan: Plan) -> int:
    if not placed:
        return _whole_ms(LEAD_S)
    end = max(p.end for p in placed)
    if own_end != end and rng.random() < plan.overlap_share:
        start = end - _whole_ms(rng.uniform(*OVERLAP_S))
        # Two at once are enough: wait for everyone but the last to finish.
        others = sorted(p.end for p in placed)[:-1]
        start = max([start, *others[-1:]])
    else:
        long = rng.random() < LONG_PAUSE_SHARE
        pause_s = plan.pause_s or (LONG_PAUSE_S if long else PAUSE_S)
        start = end + _whole_ms(rng.uniform(*pause_s))
    return max(start, (own_end or 0) + _whole_ms(OWN_PAUSE_S))


def _turn(
    rng: Random, talker: Talker, start: int, pause_s: tuple[float, float]
) -> Iterable[Placed]:
    for _ in range(rng.randint(*UTTERANCES_IN_TURN)):
        said = _whole_said(talker.speak(rng))
        yield Placed(talker.name, start, said)
        start += len(said.samples) + _whole_ms(rng.uniform(*pause_s))


def _whole_said(said: Said) -> Said:
    """Padded with silence to whole milliseconds, so that all times have three exact decimals."""
    missing = -len(said.samples) % MS_SAMPLES
    return replace(said, samples=np.pad(said.samples, (0, missing)))


def _whole_ms(seconds: float) -> int:
    return round(seconds * 1000) * MS_SAMPLES


def _mixed(placed: Sequence[Placed], gains: dict[str, float], length_min: int) -> Samples:
    length = max(length_min, max(p.end for p in placed) + _whole_ms(TAIL_S))
    track = np.zeros(length, np.float32)
    for p in placed:
        track[p.start : p.end] += p.said.samples * np.float32(10 ** (gains[p.speaker] / 20))
    return track


def _recorded(rng: np.random.Generator, samples: Samples, condition: str) -> Samples:
    """Through the room and the line; never clipped."""
    room = level(coloured(rng, len(samples)), rng.uniform(*NOISE_DBFS[condition]))
    heard = samples + room
    if condition == "telephone":
        heard = telephone(heard)
    return np.asarray(heard / max(1.0, float(np.abs(heard).max()) / 0.98), np.float32)


def _utterance(placed: Placed) -> Utterance:
    at_s = placed.start / SAMPLE_RATE_HZ
    return Utterance(
        placed.speaker,
        at_s,
        placed.end / SAMPLE_RATE_HZ,
        tuple(word.shifted(at_s) for word in placed.said.words),
        tuple((at_s + start, at_s + end) for start, end in placed.said.active_s),
    )


def _counts(text: str) -> list[int]:
    counts = [int(part) for part in text.split(",")]
    if min(counts) < 1:
        raise argparse.ArgumentTypeError("at least one speaker")
    return counts


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tools.conversations",
        description="Build conversations whose words and turns are known exactly.",
    )
    parser.add_argument("out", type=Path, help="folder to write to")
    parser.add_argument("--minutes", type=float, default=10.0, help="of all together [10]")
    parser.add_argument("--speakers", type=_counts, default=[2, 3, 5, 7], metavar="2,3,5,7")
    parser.add_argument("--kind", choices=KINDS, default="mixed")
    parser.add_argument("--overlap", type=float, default=0.2, help="share of turn changes [0.2]")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--data", type=Path, default=DATA_DIR, help="with fsdd and librispeech")
    given = parser.parse_args(words)
    try:
        lines = [
            write_conversation(build(plan, given.seed, given.data), given.out)
            for plan in plans(given.kind, given.speakers, given.minutes, given.overlap)
        ]
    except (NotEnoughTalkers, SynthesisError) as error:
        print(f"conversations: {error}", file=sys.stderr)
        return 1
    manifest = "".join(json.dumps(line) + "\n" for line in lines)
    (given.out / "manifest.jsonl").write_text(manifest)
    print(f"{len(lines)} conversations, described in {given.out / 'manifest.jsonl'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
