"""People who can be put into a conversation: synthetic voices, recorded digits, recorded readers.

Owns: what each says when asked, and exactly when. Knows nothing of turns between people, rooms or
files. Synthetic sentences, voices and digit takes are those that training leaves out.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Protocol

import numpy as np
import soundfile

from tools.demo_whisper.corpus import ACCENTS, DigitRecordings, Split, variants
from tools.demo_whisper.noise import level
from tools.demo_whisper.sentences import draw
from tools.demo_whisper.synthesis import (
    SAMPLE_RATE_HZ,
    Samples,
    Speech,
    Synthesizer,
    TimedWord,
    Voice,
)

DIGITS_IN_UTTERANCE = (3, 7)
SPEECH_DBFS = -23.0
"""Level of everybody before gains; leaves room for two at once."""

FRAME_SAMPLES = SAMPLE_RATE_HZ // 100
SPEECH_BELOW_PEAK_DB = 35.0
"""A frame of a recorded reader that is quieter than this below the loudest is a pause."""
PAUSE_FRAMES_MIN = 30
"""Shorter silences, of stops and commas, belong to the turn."""
MARGIN_FRAMES = 2


class NotEnoughTalkers(Exception):
    """The data or voices do not have so many people; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Said:
    """One utterance: samples at 16 kHz, its words, and the seconds in which there is speech."""

    samples: Samples
    words: tuple[TimedWord, ...]
    """Empty where nobody knows them."""
    active_s: tuple[tuple[float, float], ...]


class Talker(Protocol):
    """One person."""

    @property
    def name(self) -> str: ...

    def speak(self, rng: Random) -> Said:
        """The next utterance."""
        ...


@dataclass(frozen=True, slots=True)
class SyntheticTalker:
    """A voice of espeak-ng that no checkpoint was trained on."""

    name: str
    voice: Voice
    synthesizer: Synthesizer

    def speak(self, rng: Random) -> Said:
        return _with_words(self.synthesizer.say(draw(rng, "en").text, self.voice))


@dataclass(frozen=True, slots=True)
class DigitTalker:
    """A person of the Free Spoken Digit Dataset, by takes that no checkpoint was trained on."""

    name: str
    recordings: DigitRecordings

    def speak(self, rng: Random) -> Said:
        digits = [rng.randrange(10) for _ in range(rng.randint(*DIGITS_IN_UTTERANCE))]
        return _with_words(self.recordings.say(rng, Split.TEST, digits, self.name))


@dataclass(slots=True)
class ReadingTalker:
    """A reader of LibriSpeech, utterance after utterance in random order; words unknown."""

    name: str
    paths: list[Path]
    _left: list[Path]

    def speak(self, rng: Random) -> Said:
        if not self._left:
            self._left = rng.sample(self.paths, len(self.paths))
        samples, rate = soundfile.read(self._left.pop(), dtype="float32")
        assert rate == SAMPLE_RATE_HZ
        spans = list(active_spans(samples))
        first, last = spans[0][0], spans[-1][1]
        active = tuple(
            ((start - first) / SAMPLE_RATE_HZ, (end - first) / SAMPLE_RATE_HZ)
            for start, end in spans
        )
        return Said(level(samples[first:last], SPEECH_DBFS), (), active)


def _with_words(speech: Speech) -> Said:
    active = ((speech.words[0].start_s, speech.words[-1].end_s),)
    return Said(level(speech.samples, SPEECH_DBFS), speech.words, active)


def active_spans(samples: Samples) -> Iterator[tuple[int, int]]:
    """Samples of a clean recording in which there is speech, by its level."""
    frames = len(samples) // FRAME_SAMPLES
    power = (samples[: frames * FRAME_SAMPLES].reshape(frames, -1) ** 2).mean(axis=1)
    loud = np.flatnonzero(power > power.max() * 10 ** (-SPEECH_BELOW_PEAK_DB / 10)).tolist()
    breaks = [(a, b) for a, b in pairwise(loud) if b - a > PAUSE_FRAMES_MIN]
    starts = [loud[0], *(b for _, b in breaks)]
    ends = [*(a for a, _ in breaks), loud[-1]]
    for start, end in zip(starts, ends, strict=True):
        first = max(0, start - MARGIN_FRAMES) * FRAME_SAMPLES
        yield first, min(len(samples), (end + 1 + MARGIN_FRAMES) * FRAME_SAMPLES)


def synthetic_talkers(rng: Random, count: int) -> list[Talker]:
    """Voices that differ in variant as long as there are variants. Raises: SynthesisError."""
    synthesizer = Synthesizer()
    names = list(variants(Split.TEST))
    rng.shuffle(names)
    accents = list(ACCENTS["en"])
    rng.shuffle(accents)
    if count > len(names) * len(accents):
        raise NotEnoughTalkers(f"at most {len(names) * len(accents)} synthetic people")
    made: list[Talker] = []
    for number in range(count):
        variant = names[number % len(names)]
        accent = accents[(number + number // len(names)) % len(accents)]
        voice = Voice(accent, variant, rng.randint(140, 195), rng.randint(25, 75), 50)
        made.append(SyntheticTalker(f"{variant}_{accent}", voice, synthesizer))
    return made


def digit_talkers(rng: Random, count: int, folder: Path) -> list[Talker]:
    if not (folder / "index.csv").exists():
        raise NotEnoughTalkers(f"no recorded digits in {folder}; give --data, or another --kind")
    recordings = DigitRecordings(folder)
    names = recordings.speakers(Split.TEST)
    return [DigitTalker(name, recordings) for name in _drawn(rng, names, count, "recorded digits")]


def reading_talkers(rng: Random, count: int, folder: Path) -> list[Talker]:
    people = sorted(path.name for path in folder.glob("*") if path.is_dir())
    paths = {name: sorted((folder / name).glob("*.flac")) for name in people}
    drawn = _drawn(rng, people, count, f"readers in {folder}")
    return [ReadingTalker(name, paths[name], []) for name in drawn]


def _drawn(rng: Random, names: list[str], count: int, what: str) -> list[str]:
    if count > len(names):
        raise NotEnoughTalkers(
            f"{count} people asked for, but {what} have {len(names)}; "
            "ask for fewer with --speakers, or for another --kind"
        )
    return rng.sample(names, count)
