"""What the recognizer is measured on: recordings whose words are known, cut into live sessions.

Built anew each time by ``tools.conversations`` (held-out synthetic voices, and held-out recordings
of digits where the data is there); without either, the clip that ships with captiond, repeated.
Says which it was: figures of different speech cannot be compared.
"""

import importlib.resources
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from random import Random
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
import soundfile
from numpy.typing import NDArray

from streaming.engines import Samples
from streaming.timeline import SAMPLE_RATE_HZ, Span, samples_from_seconds

if TYPE_CHECKING:
    from tools.conversation_talkers import Talker

PEOPLE = (2, 3)
"""In every other conversation."""
PAUSE_S = (0.9, 1.8)
"""Behind an utterance: more than the default endpointing needs."""
PAUSE_IN_TURN_S = (0.15, 0.45)
SENTENCES = (1, 2)
"""In one utterance."""
NOISE_RMS = 10 ** (-60 / 20)
"""Full scale is 1; the speech is about 37 dB above it."""
RECORDED_PEOPLE = 6


@dataclass(frozen=True, slots=True)
class SaidWord:
    text: str
    span: Span


@dataclass(frozen=True, slots=True)
class Recording:
    """One session's audio and its words by time."""

    name: str
    samples: Samples
    words: tuple[SaidWord, ...]


@dataclass(frozen=True, slots=True)
class Speech:
    """Recordings that are heard at the same time."""

    description: str
    recordings: tuple[Recording, ...]

    @property
    def seconds(self) -> float:
        return sum(len(recording.samples) for recording in self.recordings) / SAMPLE_RATE_HZ

    @property
    def words(self) -> int:
        return sum(len(recording.words) for recording in self.recordings)


@cache
def mix(seconds: float, sessions: int, seed: int) -> Speech:
    """Sentences and digits in turn, clean, noisy and by telephone, people in each other's words."""
    return _first_of(
        lambda: _conversations(seconds, sessions, ("synthetic", "digits"), 0.2, seed),
        lambda: _conversations(seconds, sessions, ("synthetic",), 0.2, seed),
        lambda: _conversations(seconds, sessions, ("digits",), 0.2, seed),
        lambda: _clips(seconds, sessions),
    )


@cache
def utterances(seconds: float, sessions: int, seed: int) -> Speech:
    """Sentences and digits, each with the pause behind it that a live caption is final after."""
    return _first_of(
        lambda: _separate(seconds, sessions, ("synthetic", "digits"), seed),
        lambda: _separate(seconds, sessions, ("synthetic",), seed),
        lambda: _separate(seconds, sessions, ("digits",), seed),
        lambda: _clips(seconds, sessions),
    )


@cache
def sentences(seconds: float, sessions: int, seed: int) -> Speech:
    """At the pace of talk: more than two words per second of speech."""
    return _first_of(
        lambda: _separate(seconds, sessions, ("synthetic",), seed),
        lambda: _clips(seconds, sessions),
    )


@cache
def digits(seconds: float, sessions: int, seed: int) -> Speech:
    """Recorded people, one string of digits after the other."""
    return _first_of(
        lambda: _separate(seconds, sessions, ("digits",), seed),
        lambda: utterances(seconds, sessions, seed),
    )


def _first_of(*sources: Callable[[], Speech | None]) -> Speech:
    found = next(filter(None, (source() for source in sources)))
    print(f"speech: {found.description}", flush=True)
    return found


def _conversations(
    seconds: float, sessions: int, kinds: Sequence[str], overlap_share: float, seed: int
) -> Speech | None:
    """None where what they are made from is not on this machine."""
    try:
        from tools.conversation_talkers import NotEnoughTalkers
        from tools.conversations import CONDITIONS, Plan, build
        from tools.demo_whisper.synthesis import SynthesisError
    except ImportError:  # an installed package has no tools
        return None
    turns = zip(
        range(1, sessions + 1),
        itertools.cycle(kinds),
        itertools.cycle(PEOPLE * len(kinds) if len(kinds) == 1 else sorted(PEOPLE * len(kinds))),
        itertools.cycle(CONDITIONS),
        strict=False,
    )
    plans = [
        Plan(
            f"{n:02d}-{kind}-{people}-{room}", kind, people, seconds / sessions, room, overlap_share
        )
        for n, kind, people, room in turns
    ]
    try:
        built = [build(plan, seed) for plan in plans]
    except (NotEnoughTalkers, SynthesisError, OSError):
        return None
    recordings = tuple(
        Recording(
            made.name,
            pcm(made.samples),
            tuple(_said(word.text, word.start_s, word.end_s) for _, word in made.words),
        )
        for made in built
    )
    what = " and ".join(kinds)
    return _described(f"tools.conversations, {what}, seed {seed}", recordings)


def _separate(seconds: float, sessions: int, kinds: Sequence[str], seed: int) -> Speech | None:
    """One person per session, who pauses; None as for ``_conversations``."""
    try:
        from tools.conversation_talkers import NotEnoughTalkers, digit_talkers, synthetic_talkers
        from tools.conversations import DATA_DIR
        from tools.demo_whisper.synthesis import SynthesisError
    except ImportError:
        return None
    rng = Random(seed)
    count = -(-sessions // len(kinds))
    people: dict[str, Sequence[Talker]] = {}
    try:
        if "synthetic" in kinds:
            people["synthetic"] = synthetic_talkers(rng, count)
        if "digits" in kinds:
            talkers = digit_talkers(rng, min(count, RECORDED_PEOPLE), DATA_DIR / "fsdd")
            people["digits"] = [talkers[n % len(talkers)] for n in range(count)]
        recordings = tuple(
            _monologue(rng, f"{kinds[n % len(kinds)]}-{n}", people, n, seconds / sessions)
            for n in range(sessions)
        )
    except (NotEnoughTalkers, SynthesisError, OSError):
        return None
    what = " and ".join(kinds)
    return _described(f"{what} of tools.conversation_talkers with pauses, seed {seed}", recordings)


def _monologue(
    rng: Random, name: str, people: Mapping[str, "Sequence[Talker]"], number: int, seconds: float
) -> Recording:
    kind = list(people)[number % len(people)]
    talker = people[kind][number // len(people) % len(people[kind])]
    pieces, words, at = [], [], 0
    left = 0
    while left or at < seconds * SAMPLE_RATE_HZ:
        pause_s = rng.uniform(*(PAUSE_IN_TURN_S if left else PAUSE_S))
        left = (left or rng.randint(*SENTENCES)) - 1
        pause = np.zeros(round(pause_s * SAMPLE_RATE_HZ), np.float32)
        said = talker.speak(rng)
        at += len(pause)
        offset_s = at / SAMPLE_RATE_HZ
        words += [_said(w.text, w.start_s + offset_s, w.end_s + offset_s) for w in said.words]
        pieces += [pause, said.samples]
        at += len(said.samples)
    samples = np.concatenate([*pieces, np.zeros(SAMPLE_RATE_HZ, np.float32)])
    noise = np.random.default_rng(number).normal(0, NOISE_RMS, len(samples))
    return Recording(name, pcm(samples + noise), tuple(words))


def _clips(seconds: float, sessions: int) -> Speech:
    """The demo's clip: as often as it takes, the same in each session."""
    with importlib.resources.as_file(
        importlib.resources.files("server.assets") / "demo_clip"
    ) as clip:
        samples, rate = soundfile.read(clip / "clip.flac", dtype="int16")
        truth = orjson.loads((clip / "reference.json").read_bytes())
    assert rate == SAMPLE_RATE_HZ
    words = [_said(word["word"], word["start"], word["end"]) for word in truth["words"]]
    times = max(1, round(seconds / sessions * SAMPLE_RATE_HZ / len(samples)))
    shifts = [number * len(samples) for number in range(times)]
    repeated = tuple(
        SaidWord(word.text, word.span.shifted(shift)) for shift in shifts for word in words
    )
    one = np.tile(samples, times)
    recordings = tuple(Recording(f"clip-{n}", one, repeated) for n in range(1, sessions + 1))
    return _described("the demo's clip, repeated", recordings)


def pcm(samples: NDArray[np.floating[Any]]) -> Samples:
    """From full scale 1."""
    made: Samples = np.clip(np.round(samples * 32_768), -32_768, 32_767).astype(np.int16)
    return made


def _described(source: str, recordings: tuple[Recording, ...]) -> Speech:
    speech = Speech("", recordings)
    sizes = f"{speech.seconds:.0f} s in {len(recordings)} sessions, {speech.words} words"
    return Speech(f"{source}: {sizes}", recordings)


def _said(text: str, start_s: float, end_s: float) -> SaidWord:
    return SaidWord(text, Span(samples_from_seconds(start_s), samples_from_seconds(end_s)))
