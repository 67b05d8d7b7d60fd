"""Client bytes → 16 kHz int16 samples, one array per channel.

Owns: the encodings, the bytes of an unfinished frame, resampling. Knows nothing of lanes, speech
or sessions. A frame here is one value of every channel at the client's rate.

Invariants:
A1  The samples depend on the audio, and on where it was flushed or skipped, alone; never on how
    it was split into packets.
A2  A decoder started at ``restart_frame(s)`` repeats every sample from ``s`` on, bit for bit.
A3  Sample ``j`` belongs to the frames before its time: ``n`` frames make ``ceil(n * 16000 / rate)``
    samples, and stretches on either side of a skip neither overlap nor leave a hole.

How: a streaming resampler's state cannot be rebuilt without its whole past, so audio is resampled
in blocks on an absolute grid, each in one shot together with a fixed context of neighbouring
frames, whose own output is cut off. A block is the smallest whole number of grid units (the
shortest time that is whole in both rates) of at least 20 ms, and waits for 128 samples of right
context: 48 kHz has 28 ms of latency, 11,025 Hz 52 ms. A rate that shares no factor with 16,000
(44,101 Hz) has a grid unit, and so a latency, of one second. 16 kHz passes untouched, at once.
"""

from bisect import bisect_right
from dataclasses import dataclass
from math import gcd
from typing import TypeGuard

import numpy as np
import soxr
from numpy.typing import NDArray

from streaming.engines import Samples
from streaming.errors import BadAudio
from streaming.timeline import SAMPLE_RATE_HZ
from streaming.wire import (
    CHANNELS_MAX,
    SAMPLE_RATE_HZ_MAX,
    SAMPLE_RATE_HZ_MIN,
    Encoding,
)

Levels = NDArray[np.float32] | NDArray[np.int16]
"""Audio at the client's rate, shape (frames, channels), on the scale of int16."""

INT16_MIN, INT16_MAX = -32_768, 32_767
BLOCK_MS_MIN = 20
"""Shorter blocks cost more per second: the context is resampled again with each."""
CONTEXT_SAMPLES = 128
"""At the lower of the two rates. With 96 and more, white noise at full scale differs from a
one-shot run of soxr HQ by less than 0.06 of an int16 step; with 64 it differs by 15 steps."""
RESAMPLER_QUALITY = "HQ"
STRETCHES_MAX = 4_096
"""Skips and pauses whose places are remembered: one a second for an hour."""


def _mulaw_levels() -> NDArray[np.float32]:
    """ITU-T G.711 mu-law on the 16-bit scale, by code."""
    code = ~np.arange(256, dtype=np.uint8)
    magnitude = (((code & 0x0F).astype(np.int32) << 3) + 0x84) << ((code & 0x70) >> 4)
    return np.where(code & 0x80, 0x84 - magnitude, magnitude - 0x84).astype(np.float32)


def _alaw_levels() -> NDArray[np.float32]:
    """ITU-T G.711 A-law on the 16-bit scale, by code."""
    code = np.arange(256, dtype=np.uint8) ^ 0x55
    mantissa = (code & 0x0F).astype(np.int32) << 4
    exponent = ((code & 0x70) >> 4).astype(np.int32)
    magnitude = np.where(
        exponent == 0, mantissa + 8, (mantissa + 0x108) << np.maximum(exponent - 1, 0)
    )
    return np.where(code & 0x80, magnitude, -magnitude).astype(np.float32)


_ITEM_BYTES: dict[Encoding, int] = {"pcm_s16le": 2, "pcm_f32le": 4, "mulaw": 1, "alaw": 1}
_COMPANDED_LEVELS: dict[Encoding, NDArray[np.float32]] = {
    "mulaw": _mulaw_levels(),
    "alaw": _alaw_levels(),
}


class PcmDecoder:
    """Decodes one connection's interleaved audio, in order.

    ``start_frame`` is the frame, at the client's rate, that the first byte belongs to; what comes
    before it counts as silence. The wire has already checked the format, so a wrong one is our bug.
    """

    frames_received: int
    """Whole frames accepted so far, those before ``start_frame`` and skipped ones included."""

    def __init__(
        self, encoding: Encoding, sample_rate_hz: int, channels: int, start_frame: int = 0
    ) -> None:
        if not SAMPLE_RATE_HZ_MIN <= sample_rate_hz <= SAMPLE_RATE_HZ_MAX:
            raise ValueError(f"sample rate out of range: {sample_rate_hz}")
        if not 1 <= channels <= CHANNELS_MAX:
            raise ValueError(f"channel count out of range: {channels}")
        self.frames_received = start_frame
        self._encoding = encoding
        self._channels = channels
        self.frame_bytes = _ITEM_BYTES[encoding] * channels
        self._carry = b""
        self._dropped_bytes = 0
        self._resampler = (
            _Passthrough(channels, start_frame)
            if sample_rate_hz == SAMPLE_RATE_HZ
            else _BlockResampler(_Grid.of(sample_rate_hz), channels, start_frame)
        )

    @property
    def samples_produced(self) -> int:
        """Position of the next output sample on the 16 kHz clock."""
        return self._resampler.samples_produced

    @property
    def dangling_bytes(self) -> int:
        """Bytes of a frame that has not arrived whole, or that ``finish`` had to drop."""
        return len(self._carry) or self._dropped_bytes

    @property
    def has_tail(self) -> bool:
        """Samples of frames received wait for the frames after them; see ``flush``."""
        return not self._resampler.is_flushed(self.frames_received)

    def check(self, data: bytes | memoryview) -> None:
        """Raises: BadAudio where ``decode`` of whole frames would."""
        self._levels(memoryview(data))

    def decode(self, data: bytes | memoryview) -> list[Samples]:
        """One array per channel, of equal length, empty while a block is incomplete.

        Raises: BadAudio, and then nothing of ``data`` was accepted.
        """
        whole = self._carry + bytes(data) if self._carry else data
        frames = len(whole) // self.frame_bytes
        levels = self._levels(memoryview(whole)[: frames * self.frame_bytes])
        self._carry = bytes(whole[frames * self.frame_bytes :])
        self.frames_received += frames
        return _by_channel(self._resampler.resample(levels))

    def finish(self) -> list[Samples]:
        """The rest of the samples; a partial frame is dropped and stays in ``dangling_bytes``."""
        self._dropped_bytes = self.dangling_bytes
        self._carry = b""
        return _by_channel(self._flush())

    def flush(self) -> list[Samples]:
        """The samples that waited for more; what follows is decoded as after silence.

        For a source that has paused: what it said must not wait until it speaks again.
        """
        return _by_channel(self._flush())

    def drop_partial_frame(self) -> None:
        """The connection broke inside a frame: the client sends it again from its first byte."""
        self._carry = b""
        self._dropped_bytes = 0

    def skip(self, frames: int) -> list[Samples]:
        """The rest of the samples before ``frames`` of no audio; decoding continues after them.

        ``samples_produced`` then already stands behind the skipped time.
        Raises: BadAudio inside a frame.
        """
        if self._carry:
            raise BadAudio(
                f"skip came inside a frame ({len(self._carry)} of {self.frame_bytes} bytes); "
                "send whole frames before it"
            )
        flushed = self._flush()
        self.frames_received += frames
        self._resampler.start_at(self.frames_received)
        return _by_channel(flushed)

    def restart_frame(self, sample: int) -> int:
        """The largest frame from which a new decoder repeats ``sample`` and all after it.

        It lies one left context before the sample's block. The new decoder starts there as if in
        silence, so what it makes of the samples before ``sample`` is to be discarded. The client
        must repeat the skips after that frame too; where ``flush`` was called after it, samples
        next to that place may differ by what lies within the resampler's context.
        """
        return self._resampler.restart_frame(sample)

    def _flush(self) -> Samples:
        flushed = self._resampler.flush(self.frames_received)
        self._resampler.start_at(self.frames_received)
        return flushed

    def _levels(self, data: memoryview) -> Levels:
        if self._encoding == "pcm_s16le":
            # A view of the packet: at 16 kHz its only copy is the one into the lane's buffer.
            whole = np.frombuffer(data, dtype="<i2").astype(np.int16, copy=False)
            return whole.reshape(-1, self._channels)
        if self._encoding == "pcm_f32le":
            flat = self._float_levels(np.frombuffer(data, dtype="<f4"))
        else:
            flat = _COMPANDED_LEVELS[self._encoding][np.frombuffer(data, dtype=np.uint8)]
        return flat.reshape(-1, self._channels)

    def _float_levels(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        finite = np.isfinite(values)
        if not finite.all():
            frame = self.frames_received + int(np.argmin(finite)) // self._channels
            raise BadAudio(
                f"frame {frame} holds NaN or infinity; send finite float32 values from -1 to 1"
            )
        scaled = np.clip(values, -1.0, 1.0) * np.float32(-INT16_MIN)
        return scaled.astype(np.float32, copy=False)


@dataclass(frozen=True, slots=True)
class _Grid:
    """How frames of the client's rate and output samples are cut into blocks of equal time."""

    rate_hz: int
    unit_frames: int
    block_frames: int
    block_samples: int
    left_frames: int
    """Whole grid units, so that the context's own output is a whole number of samples."""
    left_samples: int
    right_frames: int

    @staticmethod
    def of(rate_hz: int) -> "_Grid":
        common = gcd(rate_hz, SAMPLE_RATE_HZ)
        unit_frames, unit_samples = rate_hz // common, SAMPLE_RATE_HZ // common
        units = _ceil_div(BLOCK_MS_MIN * rate_hz, 1000 * unit_frames)
        context_frames = _ceil_div(CONTEXT_SAMPLES * rate_hz, min(rate_hz, SAMPLE_RATE_HZ))
        left_units = _ceil_div(context_frames, unit_frames)
        return _Grid(
            rate_hz=rate_hz,
            unit_frames=unit_frames,
            block_frames=units * unit_frames,
            block_samples=units * unit_samples,
            left_frames=left_units * unit_frames,
            left_samples=left_units * unit_samples,
            right_frames=context_frames,
        )

    @property
    def window_frames(self) -> int:
        return self.left_frames + self.block_frames + self.right_frames

    def first_sample(self, frame: int) -> int:
        """The first sample at or after a frame's time."""
        return _ceil_div(frame * SAMPLE_RATE_HZ, self.rate_hz)


class _BlockResampler:
    """Resamples stretches of uninterrupted audio, block by block on the absolute grid.

    Holds at most one window (left context, block, right context) and one packet.
    """

    def __init__(self, grid: _Grid, channels: int, start_frame: int) -> None:
        self._grid = grid
        self._channels = channels
        self._stretches: list[tuple[int, int]] = []
        """(sample, frame) where each stretch began; as many as unstored audio may need."""
        self.start_at(start_frame)

    def start_at(self, frame: int) -> None:
        """A new stretch; what comes before it is silence to the filter."""
        grid = self._grid
        block = frame // grid.block_frames
        self.samples_produced = grid.first_sample(frame)
        self._stretches.append((self.samples_produced, frame))
        if len(self._stretches) > STRETCHES_MAX:
            del self._stretches[: STRETCHES_MAX // 2]
        self._block_start_sample = block * grid.block_samples
        silence = frame - (block * grid.block_frames - grid.left_frames)
        self._pending: NDArray[np.float32] = np.zeros((silence, self._channels), np.float32)

    def resample(self, levels: Levels) -> Samples:
        """Shape (samples, channels): all blocks that are now complete."""
        self._pending = np.concatenate((self._pending, levels), dtype=np.float32)
        blocks = [self._empty()]
        while len(self._pending) >= self._grid.window_frames:
            blocks.append(self._next_block())
        return np.concatenate(blocks)

    def flush(self, end_frame: int) -> Samples:
        """The samples up to the end of the stretch, with silence for the missing context."""
        end_sample = self._grid.first_sample(end_frame)
        blocks = [self._empty()]
        while self.samples_produced < end_sample:
            missing = self._grid.window_frames - len(self._pending)
            self._pending = np.pad(self._pending, ((0, max(0, missing)), (0, 0)))
            surplus = max(0, self._block_start_sample + self._grid.block_samples - end_sample)
            block = self._next_block()
            blocks.append(block[: len(block) - surplus])
        return np.concatenate(blocks)

    def is_flushed(self, end_frame: int) -> bool:
        return self.samples_produced >= self._grid.first_sample(end_frame)

    def restart_frame(self, sample: int) -> int:
        block = sample // self._grid.block_samples
        frame = max(0, block * self._grid.block_frames - self._grid.left_frames)
        at = bisect_right(self._stretches, sample, key=lambda stretch: stretch[0]) - 1
        # Nothing before its stretch was heard in a sample; there may be skipped time there.
        return max(frame, self._stretches[at][1]) if at >= 0 else frame

    def _next_block(self) -> Samples:
        grid = self._grid
        window = self._pending[: grid.window_frames]
        output = soxr.resample(window, grid.rate_hz, SAMPLE_RATE_HZ, RESAMPLER_QUALITY)
        block = output[grid.left_samples : grid.left_samples + grid.block_samples]
        fresh = block[self.samples_produced - self._block_start_sample :]
        self._pending = self._pending[grid.block_frames :]
        self._block_start_sample += grid.block_samples
        self.samples_produced = self._block_start_sample
        return _rounded(fresh)

    def _empty(self) -> Samples:
        return np.zeros((0, self._channels), np.int16)


class _Passthrough:
    """Stands in for the resampler at 16 kHz, where frames are samples."""

    def __init__(self, channels: int, start_frame: int) -> None:
        self._channels = channels
        self.samples_produced = start_frame

    def start_at(self, frame: int) -> None:
        self.samples_produced = frame

    def resample(self, levels: Levels) -> Samples:
        self.samples_produced += len(levels)
        return levels if _is_int16(levels) else _rounded(levels)

    def flush(self, end_frame: int) -> Samples:
        return np.zeros((end_frame - self.samples_produced, self._channels), np.int16)

    def is_flushed(self, end_frame: int) -> bool:
        return self.samples_produced >= end_frame

    def restart_frame(self, sample: int) -> int:
        return sample


def _is_int16(levels: Levels) -> TypeGuard[Samples]:
    """They are samples as they come."""
    return levels.dtype == np.int16


def _rounded(levels: Levels) -> Samples:
    return np.clip(np.rint(levels), INT16_MIN, INT16_MAX).astype(np.int16)


def _by_channel(samples: Samples) -> list[Samples]:
    return list(samples.T)


def _ceil_div(dividend: int, divisor: int) -> int:
    return -(-dividend // divisor)
