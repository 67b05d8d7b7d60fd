"""Sessions that change hands: a client that keeps its audio, and one owner after the other.

Each owner is a ``Desk``; it dies without a word, and the next one has what was stored.
"""

import random
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from streaming.checkpoint import decode
from streaming.endpointing import (
    EndpointingOptions,
)
from streaming.engines import Hypothesis, Samples, SpeechWindow, Word
from streaming.events import Done, DurableEvent, Final, Gap, Revision
from streaming.jobs import Answer, Job, JobKind
from streaming.scripted_audio import loud_frames
from streaming.session import Session
from streaming.timeline import SAMPLE_RATE_HZ, Span
from streaming.windows import WindowOptions
from streaming.wire import Configure, Encoding, Start
from tests.fakes import Desk, Engines, lane_options, of_type, silence, speech
from tests.sim.checkers import check_captions, check_order

OPTIONS = lane_options(
    buffer_samples=20 * SAMPLE_RATE_HZ,
    endpointing=EndpointingOptions(hangover_ms=300),
    windows=WindowOptions(cap_ms=4_000, hop_ms=300),
)
BEAT_SAMPLES = 1_600
HEARD_AFTER_SAMPLES = 8_000
"""A tagged lane sends so much silence after speech, enough to end an utterance, and no more."""


def talk(*utterances: int, pause_s: float = 0.8, stream: int = 1) -> Samples:
    """Utterances of so many words, by two speakers in turn."""
    parts = [silence(0.3)]
    number = 0
    for turn, words in enumerate(utterances):
        parts.append(speech(range(number, number + words), stream=stream, speaker=turn % 2))
        parts.append(silence(pause_s))
        number += words
    return np.concatenate(parts)


def fingerprints(job: Job, answers: list[Answer]) -> list[Answer]:
    """Each word is the hash of the very samples under it: what is not bit for bit the same shows.

    Words lie on the beats of the lane's clock, so that every window finds the same ones.
    """
    if job.kind is not JobKind.RECOGNIZE:
        return answers
    (window,) = job.questions
    assert isinstance(window, SpeechWindow)
    start = window.seed - SEED
    words = [
        _beat(window.samples, at)
        for at in range(-start % BEAT_SAMPLES, len(window.samples) - BEAT_SAMPLES, BEAT_SAMPLES)
    ]
    return [Hypothesis(tuple(word for word in words if word is not None), "en", 0.9)]


def _beat(samples: Samples, at: int) -> Word | None:
    beat = samples[at : at + BEAT_SAMPLES]
    if len(beat) < BEAT_SAMPLES or not loud_frames(beat, BEAT_SAMPLES).any():
        return None
    return Word(f"{zlib.crc32(beat.tobytes()):08x}", Span(at, at + BEAT_SAMPLES), 0.5)


SEED = 7


@dataclass
class Client:
    """Keeps its audio, and sends it from wherever it is asked to; skips are part of it."""

    start: Start
    data: bytes
    skips: dict[int, int] = field(default_factory=dict)
    """Frame of the audio → milliseconds without any, before it."""
    options: dict[str, object] = field(default_factory=dict)
    changes: str = ""

    def __post_init__(self) -> None:
        size = {"pcm_s16le": 2, "pcm_f32le": 4, "mulaw": 1, "alaw": 1}
        self.frame_bytes = size[self.start.audio.encoding] * self.start.audio.channels
        self.frames = len(self.data) // self.frame_bytes

    def desk(self, last: Desk | None = None, epoch: int = 1) -> Desk:
        """The next owner of the session."""
        point = last.point if last else None
        session = Session(
            "s1",
            self.start,
            OPTIONS,
            seed=SEED,
            epoch=epoch,
            checkpoint=decode(point.body) if point else None,
            keeps_checkpoints=True,
        )
        engines = Engines(changes=fingerprints) if self.changes == "fingerprints" else Engines()
        desk = Desk(session, engines, stored=[*last.stored] if last else [], point=point)
        assert session.log.last_seq == len(desk.stored)
        return desk

    def send(self, desk: Desk, until: int, packet_frames: int) -> None:
        """From where the session is to a frame of the audio, within its credit."""
        while (place := self._place(desk.session.frames_received)) < until:
            if place in self.skips and self._is_before_skip(desk.session.frames_received, place):
                desk.session.skip(self.skips[place], desk.now_ns)
                desk.settle()
                continue
            limit = min([until, *(at for at in self.skips if at > place)])
            room = desk.session.credit_until_frame - desk.session.frames_received
            end = min(limit, place + packet_frames, place + max(0, room))
            if end == place:
                assert desk.held or not desk.is_storing, "no credit, and nothing to wait for"
                return
            desk.now_ns += 1_000_000
            desk.send(self.data[place * self.frame_bytes : end * self.frame_bytes])

    def _skipped_before(self, place: int, *, inclusive: bool) -> int:
        rate = self.start.audio.sample_rate
        return sum(
            ms * rate // 1000
            for at, ms in self.skips.items()
            if at < place or (inclusive and at == place)
        )

    def _place(self, frame: int) -> int:
        """The frame of the audio that stands at a frame of the session's counting."""
        for place in sorted(self.skips):
            begins = place + self._skipped_before(place, inclusive=False)
            if frame <= begins:
                break
            ends = place + self._skipped_before(place, inclusive=True)
            if frame < ends:
                raise AssertionError(f"asked for frame {frame}, inside skipped time")
        else:
            place = self.frames + 1
        return frame - self._skipped_before(place, inclusive=False)

    def _is_before_skip(self, frame: int, place: int) -> bool:
        return frame == place + self._skipped_before(place, inclusive=False)


def finals(events: Sequence[DurableEvent]) -> list[tuple[object, ...]]:
    """All that must be the same, by lane."""
    said = [event for event in events if isinstance(event, Final | Gap)]
    said.sort(key=lambda event: event.lane)
    return [
        (e.lane, e.span, e.text, e.language, [(w.text, w.span) for w in e.words])
        if isinstance(e, Final)
        else (e.lane, e.span)
        for e in said
    ]


def undisturbed(client: Client, packet_frames: int = 1_600) -> Desk:
    desk = client.desk()
    client.send(desk, client.frames, packet_frames)
    desk.end()
    return desk


def sometimes(lots: random.Random) -> Callable[[Job], bool]:
    share = lots.choice([0, 0.3, 1])
    return lambda job: lots.random() < share


def crash_at(
    client: Client, cuts: Sequence[int], lots: random.Random, packet_frames: int = 1_600
) -> Desk:
    """The session's owner dies at each of these frames; whatever was not stored goes with it."""
    desk = client.desk()
    for epoch, cut in enumerate(cuts, start=2):
        client.send(desk, cut // 2, packet_frames)
        desk.is_storing = lots.random() < 0.7
        desk.holds = sometimes(lots)
        client.send(desk, cut, packet_frames)
        kept = desk.session.stored_through_frame
        desk = client.desk(desk, epoch)
        assert desk.session.frames_received >= kept, "audio that was acknowledged is asked for"
        packet_frames = lots.choice([160, 1_600, 5_000])
    client.send(desk, client.frames, packet_frames)
    desk.end()
    return desk


def check_same(desk: Desk, reference: Desk) -> None:
    check_order(desk.stored)
    check_captions(desk.stored)
    assert finals(desk.stored) == finals(reference.stored)
    ours, theirs = (of_type(Done, d.stored)[0] for d in (desk, reference))
    assert ours.audio_seconds == theirs.audio_seconds
    assert ours.decoded_seconds == theirs.decoded_seconds
    assert ours.silent_seconds == theirs.silent_seconds
    assert ours.words == theirs.words


def encoded(lanes: Sequence[Samples], rate_hz: int, encoding: Encoding) -> bytes:
    """Each sample repeated: what comes of it is for the resampler to say."""
    frames: NDArray[np.int16] = np.stack(lanes, axis=1).repeat(rate_hz // 16_000 or 1, axis=0)
    if encoding == "pcm_f32le":
        return (frames / np.float32(32_768)).astype("<f4").tobytes()
    return frames.tobytes()


def tagged(*lanes: Samples, packet_samples: int = 1_600) -> list[tuple[int, bytes]]:
    """Packets of the lanes in turns, each lane beginning where it first has something to say."""
    found = []
    for at in range(0, max(map(len, lanes)), packet_samples):
        for lane, audio in enumerate(lanes):
            packet = audio[at : at + packet_samples]
            if audio[max(0, at - HEARD_AFTER_SAMPLES) : at + packet_samples].any():
                found.append((lane, packet.tobytes()))
    return found


@dataclass
class Meeting:
    """A client with tagged lanes; it may put packets of one lane together when it sends again."""

    packets: list[tuple[int, bytes]]

    def play(self, desk: Desk, until: int, *, together: bool) -> None:
        for lane in range(2):
            desk.session.set_lane(lane, f"Name {lane}")
        index, place = 0, 0
        while place < desk.session.frames_received:
            place += len(self.packets[index][1]) // 2
            index += 1
        assert place == desk.session.frames_received, "in the middle of a packet"
        while index < until:
            lane, content = self.packets[index]
            index += 1
            while together and index < until and self.packets[index][0] == lane:
                content += self.packets[index][1]
                index += 1
            desk.now_ns += 1_000_000
            desk.send(bytes([lane]) + content)


def named(desk: Desk) -> list[str | None]:
    """Who said each caption, after all revisions."""
    speakers = {final.caption_id: final.speaker for final in of_type(Final, desk.stored)}
    for revision in of_type(Revision, desk.stored):
        speakers[revision.caption_id] = revision.runs[0].speaker
    return [*speakers.values()]


def half_answered(client: Client) -> Desk:
    """The next owner of a session that died with two utterances heard and one of them stored."""
    desk = client.desk()
    desk.holds = lambda job: job.kind is JobKind.RECOGNIZE and job.is_final
    client.send(desk, client.frames * 3 // 4, 1_600)
    desk.session.configure(Configure(language="de", prompt="kept"))
    desk._answer(desk.held.pop(0))
    desk.settle()
    assert desk.point is not None
    heard = decode(desk.point.body).heard_frames
    desk = client.desk(desk, 2)
    assert desk.session.frames_received < heard
    return desk


def desk_texts(desk: Desk) -> list[str]:
    return [final.text for final in of_type(Final, desk.stored)]
