"""Recordings with truth that the model is judged by, and those that rules are chosen on.

Owns the truth on the grid of frames. What is held out from training (people, takes, voices,
meetings) makes up the sets; ``practice`` alone is what training heard. Conversations come from
``tools.conversations``, which training has no part of, rooms and all from ``mixes``.
"""

import csv
import importlib.util
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np
import soundfile
import soxr

from tools.conversation_files import Conversation
from tools.conversations import CONDITIONS, Plan, build
from tools.demo_whisper.corpus import Split
from tools.demo_whisper.synthesis import SAMPLE_RATE_HZ, Samples
from tools.segmentation.hearing import FRAME_SAMPLES
from tools.segmentation.judging import Frames
from tools.segmentation.meetings import (
    HELD_OUT_EXCERPTS,
    TRAIN_EXCERPTS,
    Excerpt,
    read_excerpt,
    read_rttm,
)
from tools.segmentation.mixes import mix
from tools.segmentation.people import (
    HELD_OUT_DIGIT_SPEAKERS,
    HELD_OUT_READERS,
    Person,
    PoolSize,
    pool,
)

DEMO_CLIP = Path(__file__).resolve().parents[2] / "server" / "assets" / "demo_clip"
KINDS = ("librispeech", "digits", "synthetic")
CONVERSATION_S = 60.0
TEST_POOL = PoolSize(digit_strings=20, synthetic_people=40, synthetic_sentences=6, factors=(1.0,))


@dataclass(frozen=True, slots=True)
class Recording:
    """Samples at 16 kHz; ``truth`` has the shape (people, frames)."""

    name: str
    samples: Samples
    truth: Frames


def conversations(kind: str, seed: int, data: Path) -> list[Recording]:
    """Of two held-out people each, in every condition."""
    with tempfile.TemporaryDirectory() as folder:
        held_out_folder(data, Path(folder))
        made = [
            build(Plan(f"{kind}-{name}", kind, 2, CONVERSATION_S, name, 0.3), seed, Path(folder))
            for name in CONDITIONS
        ]
    return [_of_conversation(conversation) for conversation in made]


def held_out_folder(data: Path, folder: Path) -> None:
    """Fills ``folder`` with the held-out people alone, laid out as ``data`` is."""
    (folder / "librispeech").mkdir()
    for name in HELD_OUT_READERS:
        (folder / "librispeech" / name).symlink_to((data / "librispeech" / name).resolve())
    (folder / "fsdd").mkdir()
    for name in HELD_OUT_DIGIT_SPEAKERS:
        (folder / "fsdd" / f"{name}.flac").symlink_to((data / "fsdd" / f"{name}.flac").resolve())
    with (
        (data / "fsdd" / "index.csv").open() as every,
        (folder / "fsdd" / "index.csv").open("w", newline="") as own,
    ):
        rows = csv.DictReader(every)
        chosen = csv.DictWriter(own, rows.fieldnames or ())
        chosen.writeheader()
        chosen.writerows(row for row in rows if row["speaker"] in HELD_OUT_DIGIT_SPEAKERS)


def mixes(count: int, seed: str, people: Sequence[Person]) -> list[Recording]:
    """Chunks of ten seconds with rooms, noise up to loud, gains, overlap and telephone lines."""
    rng = Random(seed)
    return [_of_activity(f"mix-{number}", *_drawn(rng, people)) for number in range(count)]


def _drawn(rng: Random, people: Sequence[Person]) -> tuple[Samples, Frames]:
    chunk = mix(rng, people)
    return chunk.samples, chunk.activity


def held_out_people(seed: str, data: Path) -> list[Person]:
    return pool(Random(seed), TEST_POOL, data, Split.TEST)


def training_people(seed: str, data: Path) -> list[Person]:
    return pool(Random(seed), TEST_POOL, data, Split.TRAIN)


def meetings(data: Path) -> list[Recording]:
    """Held-out excerpts."""
    return [_of_excerpt(read_excerpt(data / "ami", name)) for name in HELD_OUT_EXCERPTS]


def heard_meetings(data: Path) -> list[Recording]:
    """Excerpts that training heard."""
    return [_of_excerpt(read_excerpt(data / "ami", name)) for name in TRAIN_EXCERPTS]


def demo_clip() -> Recording:
    return _of_files(DEMO_CLIP / "clip.flac", DEMO_CLIP / "reference.rttm")


def telephone_sample() -> Recording:
    """pyannote.audio's own example: two people, thirty seconds."""
    spec = importlib.util.find_spec("pyannote.audio")
    assert spec is not None
    assert spec.submodule_search_locations
    folder = Path(spec.submodule_search_locations[0]) / "sample"
    return _of_files(folder / "sample.wav", folder / "sample.rttm")


def _of_files(audio: Path, rttm: Path) -> Recording:
    samples, rate_hz = soundfile.read(audio, dtype="float32")
    if rate_hz != SAMPLE_RATE_HZ:
        samples = soxr.resample(samples, rate_hz, SAMPLE_RATE_HZ)
    return _of_excerpt(Excerpt(audio.stem, samples, read_rttm(rttm)))


def _of_excerpt(excerpt: Excerpt) -> Recording:
    spans = [(turn.speaker, turn.start, turn.end) for turn in excerpt.turns]
    return Recording(excerpt.name, excerpt.samples, framed(spans, len(excerpt.samples)))


def _of_conversation(conversation: Conversation) -> Recording:
    spans = [
        (said.speaker, round(start_s * SAMPLE_RATE_HZ), round(end_s * SAMPLE_RATE_HZ))
        for said in conversation.utterances
        for start_s, end_s in said.active_s
    ]
    truth = framed(spans, len(conversation.samples))
    return Recording(conversation.name, conversation.samples, truth)


def _of_activity(name: str, samples: Samples, activity: Frames) -> Recording:
    return Recording(name, samples, activity[:, FRAME_SAMPLES // 2 :: FRAME_SAMPLES])


def framed(spans: Sequence[tuple[str, int, int]], length: int) -> Frames:
    """Shape (people, frames): who speaks in the middle of each frame. Spans are in samples."""
    people = sorted({speaker for speaker, _, _ in spans})
    truth = np.zeros((len(people), -(-length // FRAME_SAMPLES)), np.bool_)
    half = FRAME_SAMPLES // 2
    for speaker, start, end in spans:
        first, last = -(-(start - half) // FRAME_SAMPLES), -(-(end - half) // FRAME_SAMPLES)
        truth[people.index(speaker), max(first, 0) : max(last, 0)] = True
    return truth


def practice(data: Path) -> Iterator[Recording]:
    """What Silero's rule is chosen on: training people and meetings."""
    yield from mixes(80, "practice", training_people("practice", data))
    yield from heard_meetings(data)
