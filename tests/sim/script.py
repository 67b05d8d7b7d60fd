"""What one client says, and in which format: drawn once, before the world begins to move.

The words are scripted audio, so that what a caption must say is known to the sample. Where the
format changes samples (another rate, a lossy encoding), no word can be read: ``is_exact`` is False
and only the accounting is checked.
"""

import random
from dataclasses import dataclass, replace
from functools import cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from streaming.audio import PcmDecoder
from streaming.engines import Samples
from streaming.scripted_audio import CARRIER_SAMPLES, encode_word, word_text
from streaming.timeline import SAMPLE_RATE_HZ, Span
from streaming.wire import AudioFormat, Encoding, Start

VOICES_MAX = 3
"""Of one lane."""


@dataclass(frozen=True, slots=True)
class SpokenWord:
    """One word, where it lies on its lane's clock."""

    text: str
    span: Span
    speaker: int
    sent_frame: int
    """The client's count when all of it was sent."""


Spoken = tuple[SpokenWord, ...]


@dataclass(frozen=True, slots=True)
class Mute:
    """The client sends no audio for a while, and says so."""

    at_frame: int
    """Of the audio."""
    ms: int
    frames: int


@dataclass(frozen=True, slots=True)
class Op:
    """One message of a client that sends tagged packets."""

    kind: Literal["audio", "skip", "lane"]
    frames: int = 0
    """What it adds to the client's count."""
    data: bytes = b""
    lane: int | None = None
    name: str | None = None
    ms: int = 0


@dataclass(frozen=True, slots=True)
class Script:
    """What one client sends."""

    start: Start
    data: bytes
    """Interleaved audio; empty where there are ``ops``."""
    frame_bytes: int
    spoken: dict[int, Spoken]
    """By lane."""
    names: dict[int, str | None]
    """By lane."""
    is_exact: bool
    is_live: bool
    """At the pace of speech; otherwise as fast as credit allows."""
    drift: float
    """How much faster than the server's clock the client's runs."""
    frames: int
    """All that the client's clock will count, mutes included."""
    samples: int
    """All that the session's lanes will count, together."""
    mutes: tuple[Mute, ...] = ()
    ops: tuple[Op, ...] = ()
    """Tagged audio and all that goes with it."""

    def ops_before(self, frame: int) -> int:
        """How many messages of a tagged meeting brought the client's count to ``frame``.

        Those that count nothing and stand there may have been lost: they are sent again.
        """
        count = 0
        for index, op in enumerate(self.ops):
            if count >= frame:
                return index
            count += op.frames
        return len(self.ops)

    def place_of(self, frame: int) -> tuple[int, int]:
        """(byte of the data, mutes before it) where the client's clock shows ``frame``."""
        if self.ops:
            return 0, 0
        passed = 0
        for count, mute in enumerate(self.mutes):
            if mute.at_frame + passed + mute.frames > frame:
                return (frame - passed) * self.frame_bytes, count
            passed += mute.frames
        return (frame - passed) * self.frame_bytes, len(self.mutes)


def draw_script(lots: random.Random, stream: int) -> Script:
    """One client's script; ``stream`` is its own, so that no other client says its words."""
    count = lots.choice([1, 1, 1, 2, 3])
    seconds = lots.choice([lots.randrange(1, 8), lots.randrange(4, 30), lots.randrange(4, 30)])
    if lots.random() < 0.05:
        seconds = 90 // count
    samples = seconds * SAMPLE_RATE_HZ + lots.randrange(SAMPLE_RATE_HZ)
    lanes = [talk(lots, stream * 10 + lane, samples) for lane in range(count)]
    names = [lots.choice([None, None, f"Name {lane}", "S1"]) for lane in range(count)]
    names = lots.choice([names, [None] * count])
    encoding, rate_hz = draw_format(lots)
    audio = AudioFormat(encoding=encoding, sample_rate=rate_hz, channels=count, channel_names=names)
    spoken = [spoken for _, spoken in lanes]
    mutes = _draw_mutes(lots, spoken[0], rate_hz) if lots.random() < 0.3 else ()
    data = encoded(np.stack([lane for lane, _ in lanes], axis=1), audio)
    frame_bytes = ITEM_BYTES[encoding] * count
    frames = len(data) // frame_bytes + sum(mute.frames for mute in mutes)
    return Script(
        start=draw_start(lots, audio),
        data=data,
        frame_bytes=frame_bytes,
        spoken={i: _on_the_clock(words, mutes) for i, words in enumerate(spoken)},
        names=dict(enumerate(names)),
        is_exact=rate_hz == SAMPLE_RATE_HZ and encoding in ("pcm_s16le", "pcm_f32le"),
        is_live=lots.random() < 0.7,
        drift=draw_drift(lots),
        frames=frames,
        samples=count * -(-frames * SAMPLE_RATE_HZ // rate_hz),
        mutes=mutes,
    )


def draw_drift(lots: random.Random) -> float:
    """Most clocks are good."""
    return lots.choice([0.0, 0.0, 1e-4, -1e-4, 0.02, -0.02, 0.3])


def draw_format(lots: random.Random) -> tuple[Encoding, int]:
    """Mostly what keeps the words readable."""
    encodings: list[Encoding] = ["pcm_f32le", "mulaw", "alaw", "pcm_s16le"]
    if lots.random() < 0.75:
        return lots.choice(encodings[:1] + encodings[3:] * 5), SAMPLE_RATE_HZ
    return lots.choice(encodings), lots.choice([8_000, 16_000, 22_050, 44_100, 44_101, 48_000])


def draw_start(lots: random.Random, audio: AudioFormat) -> Start:
    """What the client asks for."""
    return Start(
        audio=audio,
        language=lots.choice([None, None, "en", "de"]),
        task=lots.choice(["transcribe", "transcribe", "transcribe", "translate"]),
        prompt=lots.choice([None, "a prompt"]),
        keywords=lots.choice([[], ["captiond"]]),
        diarize=lots.random() < 0.85,
        partials=lots.random() < 0.85,
        partial_interval_ms=lots.choice([None, None, 100, 500, 1_500]),
        endpointing_ms=lots.choice([None, None, 100, 2_000]),
        max_delay_ms=lots.choice([None, None, 3_000, 8_000]),
        stability=lots.choice([None, None, 1, 5]),
        stable_only=lots.choice([None, None, True]),
    )


def draw_hints(lots: random.Random, start: Start) -> Start:
    """How many people the client says there are, right or wrong; mostly nothing."""
    least, most = lots.choice([(1, 1), (1, 2), (2, 2), (2, 3), (3, 8), (None, 3), (2, None)])
    hints: dict[str, int | None] = lots.choice(
        [
            {},
            {},
            {},
            {"speakers": lots.randrange(1, 5)},
            {"speakers_min": least, "speakers_max": most},
        ]
    )
    return start.model_copy(update=hints)


ITEM_BYTES: dict[Encoding, int] = {"pcm_s16le": 2, "pcm_f32le": 4, "mulaw": 1, "alaw": 1}


def talk(lots: random.Random, stream: int, samples: int) -> tuple[Samples, Spoken]:
    """Words with rests between them, and where they are."""
    audio = np.zeros(samples, np.int16)
    spoken = []
    position, number, speaker = lots.randrange(8_000), 0, 0
    rests = [[0], [0, 0, 0, 4_000], [0, 0, 0, 0, 12_000], [0, 12_000, 40_000], [samples]]
    (pauses,) = lots.choices(rests, [4, 4, 4, 2, 1])
    while position + CARRIER_SAMPLES <= samples:
        word = encode_word(stream, number, speaker)[:CARRIER_SAMPLES]
        span = Span(position, position + CARRIER_SAMPLES)
        audio[span.start : span.end] = word
        spoken.append(SpokenWord(word_text(stream, number), span, speaker, span.end))
        position = span.end + lots.choice([0, 1_024]) + lots.choice(pauses)
        number += 1
        if lots.random() < 0.05:
            speaker = lots.randrange(VOICES_MAX)
    return audio, tuple(spoken)


def _draw_mutes(lots: random.Random, lane: Spoken, rate_hz: int) -> tuple[Mute, ...]:
    """Before some words of one lane, wherever that is in the others."""
    mutes: list[Mute] = []
    for word in lane:
        if lots.random() < 0.1:
            ms = lots.choice([1, 400, 20_000])
            frame = word.span.start * rate_hz // SAMPLE_RATE_HZ
            mutes.append(Mute(frame, ms, ms * rate_hz // 1000))
    return tuple(mutes)


def _on_the_clock(lane: Spoken, mutes: tuple[Mute, ...]) -> Spoken:
    """The words that no mute cuts in two, where the mutes have moved them to; right at 16 kHz,
    where words are checked."""
    moved = []
    for word in lane:
        if not any(word.span.start < mute.at_frame < word.span.end for mute in mutes):
            passed = sum(mute.ms for mute in mutes if mute.at_frame <= word.span.start)
            span = word.span.shifted(passed * SAMPLE_RATE_HZ // 1000)
            moved.append(replace(word, span=span, sent_frame=span.end))
    return tuple(moved)


def encoded(lanes: Samples, audio: AudioFormat) -> bytes:
    """Shape (samples, lanes) in the client's format; another rate by repeating samples."""
    if audio.sample_rate != SAMPLE_RATE_HZ:
        frames = len(lanes) * audio.sample_rate // SAMPLE_RATE_HZ
        lanes = lanes[np.arange(frames) * SAMPLE_RATE_HZ // audio.sample_rate]
    if audio.encoding == "pcm_s16le":
        return lanes.tobytes()
    if audio.encoding == "pcm_f32le":
        levels_f32: NDArray[np.float32] = (lanes / np.float32(32_768)).astype("<f4")
        return levels_f32.tobytes()
    levels, codes = _companding(audio.encoding)
    at = np.searchsorted(levels, lanes.ravel()).clip(0, len(levels) - 1)
    return bytes(codes[at])


@cache
def _companding(encoding: Encoding) -> tuple[Samples, NDArray[np.uint8]]:
    """Every level of a lossy encoding, ascending, and the byte for it."""
    (levels,) = PcmDecoder(encoding, SAMPLE_RATE_HZ, 1).decode(bytes(range(256)))
    order = np.argsort(levels, kind="stable")
    return levels[order], order.astype(np.uint8)
