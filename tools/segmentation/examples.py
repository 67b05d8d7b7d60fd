"""Training examples: samples, and who speaks in every frame of the model.

Draws built mixes and, where there are any, excerpts of meetings.
"""

from collections.abc import Sequence
from random import Random

import numpy as np
import numpy.typing as npt

from tools.demo_whisper.noise import level
from tools.demo_whisper.synthesis import SAMPLE_RATE_HZ, Samples
from tools.segmentation.meetings import Excerpt, bed
from tools.segmentation.mixes import (
    AT_ONCE_MAX,
    CHUNK_SAMPLES,
    SPEAKERS_MAX,
    Activity,
    Chunk,
    finished,
    mix,
    padded,
)
from tools.segmentation.people import Person
from tools.segmentation.rooms import impulse_response, noise_at, reverberant

MEETING_SHARE = 0.14
"""Of the examples. There are under three minutes of meetings: a larger share, and excerpts as they
are, are learned by heart within an hour and teach nothing about others."""
OVERLAY_CHANCE = 0.6
OVERLAY_DB = (-16.0, 3.0)
MEETING_ROOM_CHANCE, MEETING_ROOM_S = 0.4, (0.1, 0.5)
HEARD_ONCE_MAX = 96
"""Chunks that wait for their second use: about a hundred megabytes."""
BED_SAMPLES_MIN = 2 * SAMPLE_RATE_HZ


class Examples:
    """Examples on demand; the seed decides every choice."""

    def __init__(
        self,
        seed: str,
        people: Sequence[Person],
        meetings: Sequence[Excerpt],
        centres: npt.NDArray[np.int64],
    ) -> None:
        """``centres``: the sample in the middle of each frame."""
        self._rng = Random(seed)
        self._people = people
        self._meetings = meetings
        self._beds = [room for room in map(bed, meetings) if len(room) >= BED_SAMPLES_MIN]
        self._centres = centres
        self._heard_once: list[Chunk] = []

    def batch(self, size: int, parts: int = 1) -> tuple[Samples, Activity]:
        """Shapes (size, 1, samples) and (size, SPEAKERS_MAX, frames).

        Each chunk gives ``parts`` examples, one behind the other, of a fraction of its length.
        """
        length = CHUNK_SAMPLES // parts
        centres = self._centres[self._centres + self._centres[0] < length]
        samples, activity = [], []
        for number in range(size // parts):
            chunk = self._fresh_or_again(number)
            for start in range(0, parts * length, length):
                samples.append(chunk.samples[start : start + length])
                activity.append(frame_activity(chunk.activity[:, start : start + length], centres))
        return np.stack(samples)[:, None], np.stack(activity)

    def _fresh_or_again(self, number: int) -> Chunk:
        """Every second chunk was used once before: to make one costs as much as to learn it."""
        waiting = self._heard_once
        if number % 2 and len(waiting) >= HEARD_ONCE_MAX:
            return waiting.pop(self._rng.randrange(len(waiting)))
        chunk = self.chunk()
        if len(waiting) < HEARD_ONCE_MAX:
            waiting.append(chunk)
        return chunk

    def chunk(self) -> Chunk:
        if self._meetings and self._rng.random() < MEETING_SHARE:
            chunk = meeting_chunk(self._rng, self._rng.choice(self._meetings))
            return self._with_a_guest(chunk) if self._rng.random() < OVERLAY_CHANCE else chunk
        return mix(self._rng, self._people, self._beds)

    def _with_a_guest(self, meeting: Chunk) -> Chunk:
        """Somebody of the built mixes speaks in the meeting too, where there is room for one."""
        if len(meeting.activity) >= SPEAKERS_MAX:
            return meeting
        guest = mix(self._rng, self._people)
        if len(guest.activity) != 1:
            return meeting
        loudness = _loudness_db(meeting.samples) + self._rng.uniform(*OVERLAY_DB)
        both = meeting.samples + level(guest.samples, loudness)
        return Chunk(np.clip(both, -1, 1), np.concatenate([meeting.activity, guest.activity]))


def _loudness_db(samples: Samples) -> float:
    return float(10 * np.log10(float(np.mean(samples**2)) + 1e-9))


def meeting_chunk(rng: Random, excerpt: Excerpt) -> Chunk:
    """Any ten seconds of it, through another microphone, with more noise half of the time."""
    noise_rng = np.random.default_rng(rng.getrandbits(64))
    start = rng.randint(0, len(excerpt.samples) - CHUNK_SAMPLES)
    samples = excerpt.samples[start : start + CHUNK_SAMPLES].copy()
    if rng.random() < MEETING_ROOM_CHANCE:
        response = impulse_response(noise_rng, rng.uniform(*MEETING_ROOM_S))
        samples = reverberant(samples, response)
    if rng.random() < 0.6:
        noise_db = _loudness_db(samples) + rng.uniform(-25, -4)
        samples += noise_at(noise_rng, len(samples), noise_db)
    heard = finished(rng, noise_rng, samples, telephone_chance=0.15)
    return padded(rng, Chunk(heard, turns_activity(excerpt, start, CHUNK_SAMPLES)))


def turns_activity(excerpt: Excerpt, start: int, length: int) -> Activity:
    """Shape (people, length), of those who have a turn there, the most talkative first."""
    rows: dict[str, Activity] = {}
    for turn in excerpt.turns:
        first, last = max(turn.start - start, 0), min(turn.end - start, length)
        if first < last:
            rows.setdefault(turn.speaker, np.zeros(length, np.bool_))[first:last] = True
    ordered = sorted(rows.values(), key=lambda row: -int(row.sum()))
    return np.stack(ordered) if ordered else np.zeros((0, length), np.bool_)


def frame_activity(activity: Activity, centres: npt.NDArray[np.int64]) -> Activity:
    """Shape (SPEAKERS_MAX, frames): the most talkative people, at most ``AT_ONCE_MAX`` at once."""
    order = np.argsort(-activity.sum(axis=1), kind="stable")[:SPEAKERS_MAX]
    framed = np.zeros((SPEAKERS_MAX, len(centres)), np.bool_)
    framed[: len(order)] = activity[order][:, centres]
    # Of three at once, the least talkative is left out.
    crowd = framed.cumsum(axis=0) > AT_ONCE_MAX
    framed[crowd] = False
    return framed
