"""Training and test clips: utterances with pauses, cut-offs and rooms around them, and their
exact words.

Owns the split: which voices, recorded takes and sentences train, and which are held out.
Invariants: 1. a voice or sentence of the demo clip is never drawn; 2. takes 5 to 9 and the
held-out voices never train; 3. every word of a clip lies inside its samples.
"""

import csv
import enum
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np
import soundfile
import soxr

from tools.demo_whisper import noise
from tools.demo_whisper.sentences import (
    DIGITS,
    Sentence,
    draw,
    draw_named,
    reserved_hashes,
    text_hash,
    words_of,
)
from tools.demo_whisper.synthesis import (
    SAMPLE_RATE_HZ,
    Samples,
    Speech,
    Synthesizer,
    TimedWord,
    Voice,
)

FSDD_DIR = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "fsdd"
ACCENTS = {
    "en": ("en-us", "en", "en-gb-scotland", "en-gb-x-rp", "en-us-nyc", "en-gb-x-gbclan"),
    "de": ("de",),
}
TRAIN_VARIANTS = words_of(
    "m1 m2 m4 m5 m6 m8 f1 f2 f3 f4 klatt klatt2 klatt3 Alex Alicia Andrea Andy Annie Gene Gene2 "
    "Hugo Jacky Lee Marco Mario Michael Nguyen anika antonio aunty belinda david ed edward "
    "gustave iven john marcelo max michel miguel norbert pablo paul quincy rob robert sandro "
    "shelby travis victor"
)
HELD_OUT_VARIANTS = ("m7", "f5", "Mike", "linda", "Denis", "Diogo")
BABBLE_LANGUAGES = ("en-us", "de", "fr", "es", "it", "nl", "pl", "pt", "sv", "tr")
REPEATED_DIGITS_SHARE = 0.2  # of the recorded digit strings
MIN_CUT_S = 0.4  # less of a cut-off utterance is left out: no word could be heard in it


class Split(enum.Enum):
    """Which voices and takes may be heard."""

    TRAIN = "train"
    TEST = "test"


TAKES = {Split.TRAIN: range(10, 50), Split.TEST: range(5, 10)}


@dataclass(frozen=True, slots=True)
class Utterance:
    """One sentence as spoken in a clip; times are seconds from the clip's start."""

    words: tuple[TimedWord, ...]
    start_s: float
    end_s: float | None  # None where the clip ends first
    translation: str | None = None
    phonemes: tuple[TimedWord, ...] = ()

    @property
    def text(self) -> str:
        return " ".join(word.text for word in self.words)


@dataclass(frozen=True, slots=True)
class Clip:
    """Samples at 16 kHz; ``language`` is None where nobody speaks."""

    samples: Samples
    utterances: tuple[Utterance, ...]
    language: str | None

    @property
    def text(self) -> str:
        return " ".join(utterance.text for utterance in self.utterances)


def variants(split: Split) -> tuple[str, ...]:
    """The voice variants of a split, without those of the demo clip."""
    names = TRAIN_VARIANTS if split is Split.TRAIN else HELD_OUT_VARIANTS
    assert not reserved_hashes() & {text_hash(name) for name in names}, (
        "the demo clip's voices may not be heard"
    )
    return tuple(names)


class DigitRecordings:
    """Recorded people saying single digits, from the Free Spoken Digit Dataset."""

    def __init__(self, folder: Path) -> None:
        audio = {
            path.stem: soundfile.read(path, dtype="int16")[0]
            for path in sorted(folder.glob("*.flac"))
        }
        self._takes: dict[tuple[Split, str], dict[int, list[Samples]]] = {}
        with (folder / "index.csv").open() as rows:
            for row in csv.DictReader(rows):
                self._add(row, audio)

    def _add(self, row: dict[str, str], audio: dict[str, Samples]) -> None:
        split = next((s for s in Split if int(row["take"]) in TAKES[s]), None)
        if split is None:
            return
        raw = audio[row["speaker"]][int(row["start_sample"]) : int(row["end_sample"])]
        wide = soxr.resample(raw.astype(np.float32) / 32_768, 8_000, SAMPLE_RATE_HZ)
        peak = max(0.05, float(np.abs(wide).max()))
        by_digit = self._takes.setdefault((split, row["speaker"]), {})
        by_digit.setdefault(int(row["digit"]), []).append((wide * (0.5 / peak)).astype(np.float32))

    def speakers(self, split: Split) -> list[str]:
        """Who has takes in ``split``, sorted."""
        return sorted(name for part, name in self._takes if part is split)

    def say(
        self, rng: Random, split: Split, digits: list[int], speaker: str | None = None
    ) -> Speech:
        """``digits`` by one person, with pauses drawn from running to hesitant."""
        takes = self._takes[split, speaker or rng.choice(self.speakers(split))]
        texts = [DIGITS[digit] for digit in digits]
        texts[0] = texts[0].capitalize()
        texts[-1] += "."
        pieces: list[Samples] = []
        words, at = [], 0
        for text, digit in zip(texts, digits, strict=True):
            if pieces:
                gap = int(
                    SAMPLE_RATE_HZ
                    * (rng.uniform(0, 0.25) if rng.random() < 0.8 else rng.uniform(0.25, 0.6))
                )
                pieces.append(np.zeros(gap, np.float32))
                at += gap
            piece = rng.choice(takes[digit])
            words.append(TimedWord(text, at / SAMPLE_RATE_HZ, (at + len(piece)) / SAMPLE_RATE_HZ))
            pieces.append(piece)
            at += len(piece)
        return Speech(np.concatenate(pieces), tuple(words))


def find_recordings(folder: Path = FSDD_DIR) -> DigitRecordings | None:
    """The recorded digits, or None where they are not on this machine."""
    return DigitRecordings(folder) if (folder / "index.csv").exists() else None


@dataclass(frozen=True, slots=True)
class ClipPlan:
    """What a clip shall be like."""

    context_s: float
    content_s: float  # speech ends before; the rest of the context is the room
    language: str | None
    digits_share: float = 0.35  # of the English utterances, where recordings are present
    cut_start: bool = False
    augment: bool = True
    names_share: float = 0.0  # of the synthetic sentences, made to hold a name with two spellings


class Corpus:
    """Clips on demand: the seed decides every choice (espeak-ng's breath noise is its own)."""

    def __init__(self, split: Split, seed: str, recordings: DigitRecordings | None) -> None:
        self.split = split
        self.rng = Random(seed)
        self.noise_rng = np.random.default_rng(self.rng.getrandbits(64))
        self.synthesizer = Synthesizer()
        self.recordings = recordings
        self._variants = variants(split)

    def voice(self, language: str) -> Voice:
        """A random voice of the split."""
        rng = self.rng
        return Voice(
            language=rng.choice(ACCENTS.get(language, (language,))),
            variant=rng.choice(self._variants),
            rate_wpm=rng.randint(130, 210),
            pitch=rng.randint(22, 78),
            pitch_range=rng.randint(25, 75),
        )

    def sentence(self, language: str, *, named: bool = False) -> tuple[Speech, Sentence]:
        """One synthetic sentence; ``named`` asks for a name that has two spellings."""
        sentence = (draw_named if named else draw)(self.rng, language)
        return self.spoken(sentence.text, language), sentence

    def spoken(self, text: str, language: str) -> Speech:
        """``text`` in a random voice."""
        return self.synthesizer.say(text, self.voice(language))

    def utterance(self, plan: ClipPlan, language: str) -> tuple[Speech, str | None]:
        """One utterance and its translation (None for English)."""
        rng = self.rng
        if language == "en" and self.recordings and rng.random() < plan.digits_share:
            speech = self.recordings.say(rng, self.split, self._digits())
            translation = None
        else:
            named = plan.names_share > 0 and rng.random() < plan.names_share
            speech, sentence = self.sentence(language, named=named)
            translation = sentence.translation
        if self.split is Split.TRAIN and rng.random() < 0.5:
            speech = stretched(speech, rng.uniform(0.88, 1.13))
        return speech, translation

    def _digits(self) -> list[int]:
        """A random string; in training, some repeat each digit, which few sentences do."""
        rng = self.rng
        digits = [rng.randrange(10) for _ in range(rng.randint(1, 8))]
        if self.split is Split.TRAIN and rng.random() < REPEATED_DIGITS_SHARE:
            digits = [digit for digit in digits[:3] for _ in range(rng.randint(2, 8))]
        return digits

    def clip(self, plan: ClipPlan) -> Clip:
        """One clip as planned; where ``plan.language`` is None, sounds without words."""
        length = int(plan.context_s * SAMPLE_RATE_HZ)
        if plan.language is None:
            sound = self.rng.choice(
                (noise.silence, noise.white, noise.coloured, noise.tones, noise.clicks, self.babble)
            )
            return Clip(
                self._in_window(
                    sound(self.noise_rng, int(plan.content_s * SAMPLE_RATE_HZ)), length
                ),
                (),
                None,
            )
        samples, utterances = self._speech(plan)
        heard = noise.recorded(self.noise_rng, samples) if plan.augment else samples
        if (
            self.rng.random() < 0.3
        ):  # live windows are padded with exact zeros, others with the room
            heard[int(plan.content_s * SAMPLE_RATE_HZ) :] = 0
        return Clip(heard, tuple(utterances), plan.language if utterances else None)

    def babble(self, rng: np.random.Generator, length: int) -> Samples:
        """Six to ten people of many languages at once."""
        speeches = []
        for _ in range(self.rng.randint(6, 10)):
            language = self.rng.choice(BABBLE_LANGUAGES)
            text = draw(self.rng, "de" if language == "de" else "en").text
            speeches.append(self.spoken(text, language))
        return noise.babble(rng, length, speeches)

    def _in_window(self, sound: Samples, length: int) -> Samples:
        window = np.zeros(length, np.float32)
        window[: min(len(sound), length)] = sound[:length]
        return window

    def _speech(self, plan: ClipPlan) -> tuple[Samples, list[Utterance]]:
        rng = self.rng
        assert plan.language is not None
        samples = np.zeros(int(plan.context_s * SAMPLE_RATE_HZ), np.float32)
        utterances: list[Utterance] = []
        at_s = rng.uniform(0, 0.5) if rng.random() < 0.9 else rng.uniform(0.4, plan.content_s / 2)
        while at_s < plan.content_s - MIN_CUT_S:
            speech, translation = self.utterance(plan, plan.language)
            if plan.cut_start and not utterances:
                speech, at_s, translation = without_start(speech, rng.uniform(0.1, 0.7)), 0.0, None
            fits = at_s + speech.duration_s <= plan.content_s
            # A second utterance that does not fit ends the clip, or is cut off in every third clip.
            if not fits and utterances and rng.random() > 0.35:
                break
            utterances += placed(
                samples, speech, at_s, plan.content_s, translation, rng.uniform(-8, 0)
            )
            if not fits:
                break
            at_s += speech.duration_s + (
                rng.uniform(0.15, 0.9) if rng.random() < 0.9 else rng.uniform(0.9, 2.5)
            )
        return samples, utterances


def placed(
    samples: Samples,
    speech: Speech,
    at_s: float,
    limit_s: float,
    translation: str | None,
    gain_db: float,
) -> list[Utterance]:
    """Mix ``speech`` into ``samples`` up to ``limit_s``; nothing is said if no word is left."""
    first = int(at_s * SAMPLE_RATE_HZ)
    room = min(len(speech.samples), int(limit_s * SAMPLE_RATE_HZ) - first, len(samples) - first)
    samples[first : first + room] += speech.samples[:room] * np.float32(10 ** (gain_db / 20))
    is_cut = room < len(speech.samples)
    # A word of which only the last few milliseconds are missing is still heard.
    kept = [
        word.shifted(at_s) for word in speech.words if word.end_s <= room / SAMPLE_RATE_HZ + 0.04
    ]
    if not kept:
        return []
    end_s = None if is_cut else at_s + speech.duration_s
    phonemes = tuple(
        TimedWord(p.text, at_s + p.start_s, min(at_s + p.end_s, limit_s))
        for p in speech.phonemes
        if at_s + p.start_s < limit_s
    )
    return [Utterance(tuple(kept), at_s, end_s, None if is_cut else translation, phonemes)]


def stretched(speech: Speech, factor: float) -> Speech:
    """``speech`` played ``factor`` times slower: pitch and formants move with it."""
    count = int(len(speech.samples) * factor)
    positions = np.arange(count, dtype=np.float32) / np.float32(factor)
    samples = np.interp(positions, np.arange(len(speech.samples)), speech.samples).astype(
        np.float32
    )

    def slower(timed: tuple[TimedWord, ...]) -> tuple[TimedWord, ...]:
        return tuple(TimedWord(t.text, t.start_s * factor, t.end_s * factor) for t in timed)

    return Speech(samples, slower(speech.words), slower(speech.phonemes))


def without_start(speech: Speech, cut_s: float) -> Speech:
    """``speech`` from ``cut_s`` on with its later words, or all of it if there are none."""
    kept = [word for word in speech.words if word.start_s >= cut_s - 0.02]
    if not kept:
        return speech
    first = int(cut_s * SAMPLE_RATE_HZ)

    def earlier(timed: Iterable[TimedWord]) -> tuple[TimedWord, ...]:
        moved = (t.shifted(-cut_s) for t in timed if t.end_s > cut_s)
        return tuple(TimedWord(t.text, max(0.0, t.start_s), t.end_s) for t in moved)

    return Speech(speech.samples[first:], earlier(kept), earlier(speech.phonemes))


def excluded_from_training(texts: Iterable[str], variant_names: Iterable[str]) -> bool:
    """Whether every one of the sentences and voice variants is reserved."""
    return all(text_hash(item) in reserved_hashes() for item in [*texts, *variant_names])
