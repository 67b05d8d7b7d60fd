"""Chunks of built conversations: who speaks is known for every sample.

A conversation is laid out on a timeline that begins before the chunk, so that a chunk may begin in
the middle of a word. Invariants: 1. at most ``AT_ONCE_MAX`` people speak at a time, and
``SPEAKERS_MAX`` in a chunk; 2. nobody overlaps themselves; 3. activity is that of the dry voice: a
room's echo of it is nobody's speech.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

import numpy as np
import numpy.typing as npt

from tools.demo_whisper.noise import level
from tools.demo_whisper.synthesis import SAMPLE_RATE_HZ, Samples
from tools.segmentation.people import SPEECH_DBFS, Person, Said
from tools.segmentation.rooms import (
    REVERBERATION_S,
    heard_through,
    impulse_response,
    noise_at,
    reverberant,
)

CHUNK_SECONDS = 10
CHUNK_SAMPLES = CHUNK_SECONDS * SAMPLE_RATE_HZ
LEAD_SAMPLES = 6 * SAMPLE_RATE_HZ
ECHO_SAMPLES = int(REVERBERATION_S[1] * SAMPLE_RATE_HZ)
SPEAKERS_MAX, AT_ONCE_MAX = 3, 2
PEOPLE_COUNTS, PEOPLE_WEIGHTS = (0, 1, 2, 3), (5, 17, 40, 38)
KINDS, KIND_WEIGHTS = ("reader", "digits", "synthetic", "any"), (45, 13, 22, 20)
GAIN_DB = (-14.0, 0.0)
NOISE_DB = (-55.0, -2.0)
"""Against speech before gains; most of the draws lie in the quieter half."""
FADE_SAMPLES = 160
SNAP_SAMPLES = 3_200
"""A cut moves to the quietest place within 0.2 s, as people stop between sounds."""
SNAP_FRAME = 160
PIECE_S = (0.4, 7.0)
OVERLAP_CHANCE, OVERLAP_S = 0.38, (0.15, 2.5)
BACKCHANNEL_CHANCE, BACKCHANNEL_S = 0.3, (0.25, 1.0)
ROOM_CHANCE = 0.7
BED_CHANCE = 0.3
"""Of a real room as the noise, where there are recordings of one."""

Activity = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Chunk:
    """Samples at 16 kHz within [-1, 1]; ``activity`` has the shape (people, samples)."""

    samples: Samples
    activity: Activity


@dataclass(slots=True)
class _Timeline:
    """One row per person; the chunk begins at ``LEAD_SAMPLES``."""

    voices: npt.NDArray[np.float32]
    activity: Activity
    occupied: npt.NDArray[np.int8]
    """How many people hold the floor, with their pauses."""
    held_until: list[int]

    @classmethod
    def of(cls, people: int) -> "_Timeline":
        shape = (people, LEAD_SAMPLES + CHUNK_SAMPLES)
        return cls(
            np.zeros(shape, np.float32), np.zeros(shape, np.bool_), np.zeros(shape[1], np.int8), []
        )

    @property
    def length(self) -> int:
        return len(self.occupied)

    def place(self, row: int, start: int, piece: Said) -> bool:
        """Whether there was room for it among those who speak already."""
        end = min(start + len(piece.samples), self.length)
        if start >= end or self.held_until[row] > start:
            return False
        if self.occupied[start:end].max() >= AT_ONCE_MAX:
            return False
        self.voices[row, start:end] += piece.samples[: end - start] / np.float32(32_768)
        for first, last in piece.active:
            self.activity[row, start + first : min(start + last, end)] = True
        self.occupied[start:end] += 1
        self.held_until[row] = end
        return True


def mix(rng: Random, people: Sequence[Person], beds: Sequence[Samples] = ()) -> Chunk:
    """A fresh chunk; people of one kind most of the time. ``beds``: rooms where nobody speaks."""
    noise_rng = np.random.default_rng(rng.getrandbits(64))
    cast = draw_cast(rng, people)
    timeline = converse(rng, cast)
    return _recorded(rng, noise_rng, timeline, beds)


def draw_cast(rng: Random, people: Sequence[Person]) -> list[Person]:
    """Up to three people who can be told apart."""
    count = rng.choices(PEOPLE_COUNTS, PEOPLE_WEIGHTS)[0]
    kind = rng.choices(KINDS, KIND_WEIGHTS)[0]
    fitting = [person for person in people if kind in (person.kind, "any")] or people
    cast: list[Person] = []
    for person in rng.sample(fitting, min(len(fitting), 8 * count)):
        if len(cast) < count and all(person.differs_from(other) for other in cast):
            cast.append(person)
    return cast


def converse(rng: Random, cast: Sequence[Person]) -> _Timeline:
    """Turn after turn until the timeline is full; the first has most of the words."""
    timeline = _Timeline.of(len(cast))
    timeline.held_until = [0] * len(cast)
    if not cast:
        return timeline
    at, row = int(rng.uniform(0, 1.5) * SAMPLE_RATE_HZ), 0
    hurry = rng.random()
    while at < timeline.length:
        longest_s = PIECE_S[0] + (PIECE_S[1] - PIECE_S[0]) * (1 - hurry) * rng.random()
        said = _piece(rng, cast[row], rng.uniform(PIECE_S[0], max(longest_s, 0.8)))
        if timeline.place(row, at, said):
            _backchannel(rng, timeline, cast, row, at, len(said.samples))
            end = at + len(said.samples)
        else:
            end = max(at, timeline.held_until[row]) + SAMPLE_RATE_HZ // 10
        row, at = _next_turn(rng, len(cast), row, end, timeline)
    return timeline


def _next_turn(
    rng: Random, people: int, row: int, end: int, timeline: _Timeline
) -> tuple[int, int]:
    """Who speaks next, and when."""
    following = rng.choice([other for other in range(people) if other != row] or [row])
    if rng.random() < 0.15:
        following = row
    if following != row and rng.random() < OVERLAP_CHANCE:
        at = end - int(rng.uniform(*OVERLAP_S) * SAMPLE_RATE_HZ)
        return following, max(at, timeline.held_until[following])
    chance = rng.random()
    pause_s = rng.uniform(0, 0.3) if chance < 0.35 else rng.uniform(0.2, 1.0)
    if chance > 0.88:
        pause_s = rng.uniform(1.0, 5.0)
    return following, end + int(pause_s * SAMPLE_RATE_HZ)


def _backchannel(
    rng: Random, timeline: _Timeline, cast: Sequence[Person], row: int, start: int, length: int
) -> None:
    """Somebody else says a word while ``row`` goes on."""
    others = [other for other in range(len(cast)) if other != row]
    if not others or rng.random() > BACKCHANNEL_CHANCE:
        return
    other = rng.choice(others)
    word = _piece(rng, cast[other], rng.uniform(*BACKCHANNEL_S))
    timeline.place(other, start + int(rng.random() * length), word)


def _piece(rng: Random, person: Person, seconds: float) -> Said:
    """About ``seconds`` out of something that the person said, cut where it is quiet."""
    said = rng.choice(person.said)
    wanted, total = int(seconds * SAMPLE_RATE_HZ), len(said.samples)
    if total <= wanted * 1.25:
        return said
    # Not in a long pause: what begins there is silence.
    first, last = rng.choice(said.active)
    start = _quietest(said, rng.randint(first, max(first, last - wanted // 2)))
    start = min(start, total - wanted)
    end = min(total, max(_quietest(said, start + wanted), start + 3 * FADE_SAMPLES))
    samples = said.samples[start:end].astype(np.float32)
    fade = np.linspace(0, 1, FADE_SAMPLES, dtype=np.float32)
    samples[:FADE_SAMPLES] *= fade
    samples[-FADE_SAMPLES:] *= fade[::-1]
    active = tuple(
        (max(a, start) - start, min(b, end) - start)
        for a, b in said.active
        if a < end and b > start
    )
    return Said(samples.astype(np.int16), active)


def _quietest(said: Said, at: int) -> int:
    first = max(0, min(at, len(said.samples)) - SNAP_SAMPLES)
    frames = said.samples[first : at + SNAP_SAMPLES]
    frames = frames[: len(frames) // SNAP_FRAME * SNAP_FRAME].reshape(-1, SNAP_FRAME)
    if not len(frames):
        return at
    return first + int(np.abs(frames).max(axis=1).argmin()) * SNAP_FRAME + SNAP_FRAME // 2


def _recorded(
    rng: Random, noise_rng: np.random.Generator, timeline: _Timeline, beds: Sequence[Samples]
) -> Chunk:
    """Through the room and the line, at a random level, with noise."""
    # What was said earlier echoes no longer in the chunk.
    heard_from = LEAD_SAMPLES - ECHO_SAMPLES
    shape = timeline.length - heard_from
    has_room = rng.random() < ROOM_CHANCE
    reverberation_s = rng.uniform(*REVERBERATION_S)
    mixed = np.zeros(shape, np.float32)
    for voice in timeline.voices[:, heard_from:]:
        heard = (
            reverberant(voice, impulse_response(noise_rng, reverberation_s)) if has_room else voice
        )
        mixed += heard * np.float32(10 ** (rng.uniform(*GAIN_DB) / 20))
    quiet_db, loud_db = NOISE_DB
    noise_db = quiet_db + (loud_db - quiet_db) * rng.betavariate(1.6, 2.0)
    if beds and rng.random() < BED_CHANCE:
        mixed += level(_bed(rng, beds, shape), SPEECH_DBFS + noise_db)
    else:
        mixed += noise_at(noise_rng, shape, SPEECH_DBFS + noise_db)
    chunk = finished(rng, noise_rng, mixed[ECHO_SAMPLES:], telephone_chance=0.25)
    return padded(rng, Chunk(chunk, timeline.activity[:, LEAD_SAMPLES:]))


def _bed(rng: Random, beds: Sequence[Samples], length: int) -> Samples:
    """One of them from any point on, again and again."""
    bed = rng.choice(beds)
    return np.resize(np.roll(bed, rng.randrange(len(bed))), length)


def finished(
    rng: Random, noise_rng: np.random.Generator, samples: Samples, *, telephone_chance: float
) -> Samples:
    """What the microphone, the line and the converter make of it."""
    if rng.random() < 0.8:
        samples = heard_through(
            noise_rng, samples, is_telephone=rng.random() < telephone_chance / 0.8
        )
    heard = samples * np.float32(10 ** (rng.uniform(-22, 12) / 20))
    heard += level(noise_rng.standard_normal(len(heard), np.float32), rng.uniform(-92, -66))
    # Sixteen bits, as a live window has.
    rounded: Samples = (np.clip(np.rint(heard * 32_768), -32_768, 32_767) / 32_768).astype(
        np.float32
    )
    return rounded


def padded(rng: Random, chunk: Chunk) -> Chunk:
    """One in eight is short and filled up with zeros, as at the beginning and end of a stream."""
    if rng.random() > 0.125:
        return chunk
    missing = rng.randrange(CHUNK_SAMPLES * 3 // 4)
    part = (
        slice(0, missing) if rng.random() < 0.3 else slice(CHUNK_SAMPLES - missing, CHUNK_SAMPLES)
    )
    chunk.samples[part] = 0
    chunk.activity[:, part] = False
    return chunk
