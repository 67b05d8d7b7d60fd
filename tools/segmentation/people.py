"""The people of the built mixes: readers, digit speakers, synthetic voices, and what they say.

Owns the split of people: those of ``Split.TEST`` are heard in no training run. Everything is
spoken once, into a pool, and drawn from there.
Invariants: 1. a held-out reader, digit speaker or voice variant is in no training pool; 2. digits
of takes that the demo checkpoint tests with are in none; 3. ``active`` spans lie inside their
utterance.
"""

import io
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np
import numpy.typing as npt
import soundfile
import soxr

from tools.conversation_talkers import active_spans
from tools.demo_whisper.corpus import ACCENTS, DigitRecordings, Split, variants
from tools.demo_whisper.noise import level
from tools.demo_whisper.sentences import draw
from tools.demo_whisper.synthesis import SAMPLE_RATE_HZ, Samples, Synthesizer, Voice

DATA_DIR = Path(__file__).resolve().parents[2].parent / "shared" / "data"
HELD_OUT_READERS = ("2414", "3331")
HELD_OUT_DIGIT_SPEAKERS = ("jackson", "yweweler")
SPEECH_DBFS = -23.0
FACTORS = (0.84, 0.92, 1.0, 1.09, 1.18)
"""Played so much slower: pitch and formants move, so that one person sounds like five."""
SAME_PERSON_FACTOR_MIN = 1.2
"""Two ways to play one person differ by at least this much to count as two people."""
FLITE_VOICES = ("awb", "rms", "slt")
"""Made of recordings of three people (CMU Arctic): nearer to a human voice than espeak-ng's."""
OTHER_LANGUAGES = ("fr", "es", "it", "nl", "pl", "pt", "sv", "tr")
"""Their phonemes with German words: nobody needs to understand them."""

Int16 = npt.NDArray[np.int16]


@dataclass(frozen=True, slots=True)
class Said:
    """One utterance at 16 kHz, and in which samples of it there is speech."""

    samples: Int16
    active: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody with at least one utterance."""

    name: str
    kind: str
    """``reader``, ``digits`` or ``synthetic``: people of one kind share microphone and manner."""
    factor: float
    said: tuple[Said, ...]

    def differs_from(self, other: "Person") -> bool:
        """Whether a listener could tell them apart."""
        if self.name != other.name:
            return True
        low, high = sorted((self.factor, other.factor))
        return high / low >= SAME_PERSON_FACTOR_MIN


@dataclass(frozen=True, slots=True)
class PoolSize:
    """How much is spoken in advance."""

    digit_strings: int = 50
    synthetic_people: int = 400
    synthetic_sentences: int = 5
    flite_sentences: int = 25
    factors: tuple[float, ...] = FACTORS


def pool(
    rng: Random, size: PoolSize, data: Path = DATA_DIR, split: Split = Split.TRAIN
) -> list[Person]:
    """The people of a split; recorded ones as far as ``data`` has them. Raises: SynthesisError."""
    people = list(_synthetic(rng, size, split))
    if split is Split.TRAIN:
        people += _flite_voices(rng, size)
    if (data / "fsdd" / "index.csv").exists():
        people += _digit_speakers(rng, size, DigitRecordings(data / "fsdd"), split)
    for folder in sorted((data / "librispeech").glob("*")):
        if folder.is_dir() and (folder.name in HELD_OUT_READERS) == (split is Split.TEST):
            people += _reader(folder, size)
    return people


def said_from(samples: Samples) -> Said:
    """Speech is where a clean recording is loud."""
    levelled = level(samples, SPEECH_DBFS)
    as_int16 = np.clip(levelled * 32_768, -32_768, 32_767).astype(np.int16)
    return Said(as_int16, tuple(active_spans(levelled)))


def slower(samples: Samples, factor: float) -> Samples:
    """Played ``factor`` times slower: pitch and formants move with it."""
    if factor == 1.0:
        return samples
    played: Samples = soxr.resample(samples, SAMPLE_RATE_HZ, SAMPLE_RATE_HZ * factor, quality="MQ")
    return played.astype(np.float32)


def _reader(folder: Path, size: PoolSize) -> Iterator[Person]:
    read = [soundfile.read(path, dtype="float32")[0] for path in sorted(folder.glob("*.flac"))]
    for factor in size.factors:
        said = tuple(said_from(slower(samples, factor)) for samples in read)
        yield Person(folder.name, "reader", factor, said)


def _digit_speakers(
    rng: Random, size: PoolSize, recordings: DigitRecordings, split: Split
) -> Iterator[Person]:
    for name in recordings.speakers(split):
        if (name in HELD_OUT_DIGIT_SPEAKERS) != (split is Split.TEST):
            continue
        for factor in size.factors:
            said = []
            for _ in range(size.digit_strings):
                digits = [rng.randrange(10) for _ in range(rng.randint(2, 9))]
                speech = recordings.say(rng, split, digits, name)
                said.append(said_from(slower(speech.samples, factor)))
            yield Person(name, "digits", factor, tuple(said))


def _flite_voices(rng: Random, size: PoolSize) -> Iterator[Person]:
    """None where flite is not installed (apt install flite)."""
    program = shutil.which("flite")
    if program is None or not size.flite_sentences:
        return
    for name in FLITE_VOICES:
        spoken = [
            _said_by_flite(program, name, f"{draw(rng, 'en').text} {draw(rng, 'en').text}")
            for _ in range(size.flite_sentences)
        ]
        for factor in size.factors:
            said = tuple(said_from(slower(samples, factor)) for samples in spoken)
            yield Person(f"flite-{name}", "reader", factor, said)


def _said_by_flite(program: str, voice: str, text: str) -> Samples:
    words = [program, "-voice", voice, "-t", text, "-o", "/dev/stdout"]
    answer = subprocess.run(words, capture_output=True, check=True)
    # Written to a pipe, the header holds no length: libsndfile reads to the end of the data.
    samples, rate_hz = soundfile.read(io.BytesIO(answer.stdout), dtype="float32")
    assert rate_hz == SAMPLE_RATE_HZ
    return np.asarray(samples, np.float32)


def _synthetic(rng: Random, size: PoolSize, split: Split) -> Iterator[Person]:
    synthesizer = Synthesizer()
    for number in range(size.synthetic_people):
        voice = _voice(rng, split)
        language = "en" if voice.language in ACCENTS["en"] else "de"
        spoken = [
            synthesizer.say(draw(rng, language).text, voice)
            for _ in range(size.synthetic_sentences)
        ]
        said = tuple(said_from(speech.samples) for speech in spoken)
        yield Person(f"{voice.name}-{number}", "synthetic", 1.0, said)


def _voice(rng: Random, split: Split) -> Voice:
    accents = (*ACCENTS["en"], *ACCENTS["de"], *OTHER_LANGUAGES)
    return Voice(
        language=rng.choice(accents),
        variant=rng.choice(variants(split)),
        rate_wpm=rng.randint(120, 220),
        pitch=rng.randint(15, 85),
        pitch_range=rng.randint(25, 75),
    )
