"""A meeting in tagged packets: lanes that join, rest, skip and are named while it runs.

Also the arithmetic of where each word must end up: a lane joins at the furthest lane's time, and
one that has fallen behind it by more than a second is moved up when it speaks again.
"""

import random
from dataclasses import dataclass, field, replace

import numpy as np

from streaming.timeline import SAMPLE_RATE_HZ
from streaming.wire import CHANNELS_MAX, AudioFormat
from tests.sim.script import (
    ITEM_BYTES,
    Op,
    Script,
    SpokenWord,
    draw_drift,
    draw_format,
    draw_start,
    encoded,
    talk,
)

LAG_SECONDS_MAX = 1
PACKET_MS = (20, 100, 200)


@dataclass
class _Voice:
    """One lane: what it will say, and where its clock stands."""

    lane: int
    audio: bytes
    spoken: tuple[SpokenWord, ...]
    joined_frame: int
    clock_frame: int
    said_frames: int = 0
    is_talking: bool = True
    packets: list[tuple[int, int, int, int]] = field(default_factory=list)
    """(first frame said, one past the last, clock at the first, client's count after it)"""


class _Meeting:
    """Writes the operations down, and keeps the clocks as the protocol says."""

    def __init__(self, lots: random.Random, audio: AudioFormat, stream: int, rounds: int) -> None:
        self._lots, self._audio, self._stream = lots, audio, stream
        self._item_bytes = ITEM_BYTES[audio.encoding]
        self._packet_frames = lots.choice(PACKET_MS) * audio.sample_rate // 1000
        self._samples = rounds * self._packet_frames * SAMPLE_RATE_HZ // audio.sample_rate
        self._furthest = 0
        self.count = 0
        self.ops: list[Op] = []
        self.voices: list[_Voice] = []
        self._numbers = lots.sample(range(CHANNELS_MAX), 4)

    def join(self) -> None:
        if not self._numbers:
            return
        lane, lots = self._numbers.pop(), self._lots
        samples, spoken = talk(lots, self._stream * 10 + len(self.voices), self._samples)
        audio = encoded(samples[:, np.newaxis], self._audio)
        self.ops.append(Op("lane", lane=lane, name=lots.choice([None, f"Name {lane}"])))
        self.voices.append(_Voice(lane, audio, spoken, self._furthest, self._furthest))

    def say(self, voice: _Voice) -> None:
        start, item = voice.said_frames, self._item_bytes
        data = voice.audio[start * item : (start + self._packet_frames) * item]
        frames = len(data) // item
        if not frames:
            return
        lag = self._furthest - (voice.clock_frame + frames)
        if lag > LAG_SECONDS_MAX * self._audio.sample_rate:
            voice.clock_frame += lag
        self.count += frames
        self.ops.append(Op("audio", frames, bytes([voice.lane]) + data))
        voice.packets.append((start, start + frames, voice.clock_frame, self.count))
        voice.said_frames += frames
        voice.clock_frame += frames
        self._furthest = max(self._furthest, voice.clock_frame)

    def skip(self, ms: int, voice: _Voice | None) -> None:
        frames = ms * self._audio.sample_rate // 1000
        for one in self.voices if voice is None else [voice]:
            one.clock_frame += frames
        if voice is None:
            self._furthest += frames
        else:
            self._furthest = max(self._furthest, voice.clock_frame)
        self.count += frames
        lane = None if voice is None else voice.lane
        self.ops.append(Op("skip", frames, lane=lane, ms=ms))

    def spoken_of(self, voice: _Voice) -> tuple[SpokenWord, ...]:
        """Words that lie whole on the lane's clock; right at 16 kHz, where words are checked."""
        found = []
        for word in voice.spoken:
            parts = [p for p in voice.packets if p[0] < word.span.end and p[1] > word.span.start]
            shifts = {clock - start for start, _, clock, _ in parts}
            if len(shifts) == 1 and parts[-1][1] >= word.span.end:
                (shift,) = shifts
                span = word.span.shifted(shift)
                found.append(replace(word, span=span, sent_frame=parts[-1][3]))
        return tuple(found)

    def samples_of(self, voice: _Voice) -> int:
        """What the lane must have counted at the end."""
        rate_hz = self._audio.sample_rate
        first, last = (
            -(-frame * SAMPLE_RATE_HZ // rate_hz)
            for frame in (voice.joined_frame, voice.clock_frame)
        )
        return last - first


def draw_tagged(lots: random.Random, stream: int) -> Script:
    """One meeting's script."""
    encoding, rate_hz = draw_format(lots)
    audio = AudioFormat(encoding=encoding, sample_rate=rate_hz, tagged=True)
    rounds = lots.randrange(10, 150)
    meeting = _Meeting(lots, audio, stream, rounds)
    meeting.join()
    for _ in range(rounds):
        _have_a_round(lots, meeting)
    return Script(
        start=draw_start(lots, audio),
        data=b"",
        frame_bytes=ITEM_BYTES[encoding],
        spoken={voice.lane: meeting.spoken_of(voice) for voice in meeting.voices},
        names={op.lane: op.name for op in meeting.ops if op.kind == "lane" and op.lane is not None},
        is_exact=rate_hz == SAMPLE_RATE_HZ and encoding in ("pcm_s16le", "pcm_f32le"),
        is_live=lots.random() < 0.7,
        drift=draw_drift(lots),
        ops=tuple(meeting.ops),
        frames=meeting.count,
        samples=sum(meeting.samples_of(voice) for voice in meeting.voices),
    )


def _have_a_round(lots: random.Random, meeting: _Meeting) -> None:
    if lots.random() < 0.02:
        meeting.join()
    if lots.random() < 0.01:
        meeting.skip(lots.choice([1, 400, 5_000]), lots.choice([None, *meeting.voices]))
    for voice in meeting.voices:
        if lots.random() < 0.03:
            voice.is_talking = not voice.is_talking
        if voice.is_talking:
            meeting.say(voice)
