"""Recordings whose speakers are known: shared excerpts, pyannote.audio's sample, built mixes.

Owns what is measured on. Mixes are built from a seed and are the same at every run. Truth is turns
alone; of built mixes, pauses inside an utterance belong to the turn.
"""

import importlib.util
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from random import Random

import numpy as np
import soundfile
from numpy.typing import NDArray

from streaming.engines import Samples
from streaming.timeline import SAMPLE_RATE_HZ, Span
from streaming.turns import Turn, merge_turns
from tools.conversation_talkers import active_spans
from tools.conversations import CONDITIONS, DATA_DIR, Plan, build

MIX_SPEAKERS = (2, 3, 5, 7)
MIXES_PER_COUNT = 5
UTTERANCES_PER_READER = (3, 6)
MIX_GAP_S = (0.1, 1.2)
MIX_GAIN_DB = (-8.0, 0.0)
QUICK_PAUSE_S = 0.2
FULL_SCALE = 32_767


class Kind(StrEnum):
    """Kinds differ in everything that shifts embeddings: parameters must hold for all."""

    TELEPHONE = "telephone"
    FAR_FIELD = "far-field"
    MIX = "mix"
    """Readers one after the other."""
    TALK = "talk"
    """Readers who interrupt each other, clean, noisy and through a telephone's band."""
    DIGITS = "digits"
    QUICK = "quick digits"
    """Digits with a pause of 0.2 s after everything."""


@dataclass(frozen=True, slots=True)
class SaidWord:
    """One word: when, and whose."""

    span: Span
    speaker: str
    text: str = ""


@dataclass(frozen=True, slots=True)
class Known:
    """A recording and who speaks when in it."""

    name: str
    kind: Kind
    samples: Samples
    turns: tuple[Turn, ...]
    words: tuple[SaidWord, ...] = ()
    """Empty where nobody knows them."""

    @property
    def speakers(self) -> int:
        return len({turn.speaker for turn in self.turns})


def all_recordings(data: Path = DATA_DIR, seed: int = 1) -> Iterator[Known]:
    """Every recording that the report is about."""
    yield telephone()
    yield from far_field(data / "ami")
    yield from read_mixes(data, seed)
    yield from talks(data, seed)
    yield from digits(data, seed)
    yield from quick_digits(data, seed)


def telephone() -> Known:
    """The sample that pyannote.audio ships: 30 s, two people on a telephone."""
    spec = importlib.util.find_spec("pyannote.audio")
    folder = Path(next(iter(spec.submodule_search_locations or ()))) if spec else Path()
    return _read(folder / "sample" / "sample.wav", Kind.TELEPHONE)


def far_field(folder: Path) -> Iterator[Known]:
    """The AMI excerpts: 30 s each, a far microphone, one to four people, overlap."""
    for path in sorted(folder.glob("*.flac")):
        yield _read(path, Kind.FAR_FIELD)


def read_mixes(data: Path, seed: int) -> Iterator[Known]:
    """Readers one after the other, in random order, each at a level of their own."""
    for count in MIX_SPEAKERS:
        for number in range(MIXES_PER_COUNT):
            yield _read_mix(data / "librispeech", count, Random(f"mix {seed} {count} {number}"))


def long_talks(data: Path, seed: int) -> Iterator[Known]:
    """Five minutes each, for what needs length: clean conversations of three, five and seven."""
    for count in (3, 5, 7):
        plan = Plan(f"long-talk-{count}", "librispeech", count, 310, "clean", 0.2)
        yield _conversation(plan, data, seed)


def talks(data: Path, seed: int) -> Iterator[Known]:
    """Conversations of readers with interruptions, three conditions for each number of people."""
    for count in MIX_SPEAKERS:
        for condition in CONDITIONS:
            name = f"talk-{count}-{condition}"
            yield _conversation(Plan(name, "librispeech", count, 120, condition, 0.2), data, seed)


def digits(data: Path, seed: int) -> Iterator[Known]:
    """Two people who say strings of digits."""
    for number, condition in enumerate((*CONDITIONS, *CONDITIONS)):
        plan = Plan(f"digits-2-{condition}-{number}", "digits", 2, 90, condition, 0.0)
        yield _conversation(plan, data, seed)


def quick_digits(data: Path, seed: int) -> Iterator[Known]:
    """The same with one pause only, ``QUICK_PAUSE_S``: two utterances are hardly told apart."""
    for number, condition in enumerate((*CONDITIONS, *CONDITIONS)):
        name = f"quick-digits-2-{condition}-{number}"
        pause_s = (QUICK_PAUSE_S, QUICK_PAUSE_S)
        plan = Plan(name, "digits", 2, 90, condition, 0.0, pause_s=pause_s)
        yield _conversation(plan, data, seed)


def _read(path: Path, kind: Kind) -> Known:
    samples, rate = soundfile.read(path, dtype="int16")
    assert rate == SAMPLE_RATE_HZ, path
    turns = read_rttm(path.with_suffix(".rttm").read_text().splitlines())
    return Known(path.stem, kind, samples, tuple(turns))


def read_rttm(lines: Iterable[str]) -> list[Turn]:
    """The turns of one recording, sorted."""
    fields = [line.split() for line in lines if line.startswith("SPEAKER")]
    return sorted(_turn(f[7], float(f[3]), float(f[3]) + float(f[4])) for f in fields)


def _read_mix(folder: Path, count: int, rng: Random) -> Known:
    readers = rng.sample(sorted(path.name for path in folder.iterdir()), count)
    said = [
        (reader, path)
        for reader in readers
        for path in rng.sample(
            sorted((folder / reader).glob("*.flac")), rng.randint(*UTTERANCES_PER_READER)
        )
    ]
    rng.shuffle(said)
    gains = {reader: 10 ** (rng.uniform(*MIX_GAIN_DB) / 20) for reader in readers}
    parts: list[Samples] = []
    turns: list[Turn] = []
    at = 0
    for reader, path in said:
        silence = _silence(rng)
        spoken = _trimmed(soundfile.read(path, dtype="float32")[0]) * gains[reader]
        samples: Samples = np.round(spoken * FULL_SCALE).astype(np.int16)
        parts += [silence, samples]
        at += len(silence) + len(samples)
        turns.append(Turn(Span(at - len(samples), at), reader))
    name = f"mix-{count}-{rng.randrange(10**6):06d}"
    return Known(name, Kind.MIX, np.concatenate(parts), tuple(merge_turns(turns, 0)))


def _trimmed(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """From the first speech to the last; the pauses between stay."""
    spans = list(active_spans(samples))
    return samples[spans[0][0] : spans[-1][1]]


def _silence(rng: Random) -> Samples:
    """Not digital: of the recordings' own order of magnitude."""
    noise = np.random.default_rng(rng.randrange(2**32))
    return noise.normal(0, 3, round(rng.uniform(*MIX_GAP_S) * SAMPLE_RATE_HZ)).astype(np.int16)


def _conversation(plan: Plan, data: Path, seed: int) -> Known:
    made = build(plan, seed, data)
    samples = np.clip(np.round(made.samples * FULL_SCALE), -FULL_SCALE, FULL_SCALE)
    turns = sorted(_turn(u.speaker, u.start_s, u.end_s) for u in made.utterances)
    kind = Kind.TALK
    if plan.kind == "digits":
        kind = Kind.QUICK if plan.pause_s else Kind.DIGITS
    words = [SaidWord(_span(w.start_s, w.end_s), speaker, w.text) for speaker, w in made.words]
    return Known(plan.name, kind, samples.astype(np.int16), tuple(turns), tuple(words))


def _turn(speaker: str, start_s: float, end_s: float) -> Turn:
    return Turn(_span(start_s, end_s), speaker)


def _span(start_s: float, end_s: float) -> Span:
    return Span(round(start_s * SAMPLE_RATE_HZ), round(end_s * SAMPLE_RATE_HZ))
