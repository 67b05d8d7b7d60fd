"""Recordings in every container that is taken, made here, so that no file need be shipped."""

import io
import struct
import tempfile
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import soundfile
from numpy.typing import NDArray

CODECS = {
    "wav": ("wav", "pcm_s16le", {}),
    "aiff": ("aiff", "pcm_s16be", {}),
    "ogg": ("ogg", "libopus", {}),
    "ogg-vorbis": ("ogg", "vorbis", {}),
    "webm": ("webm", "libopus", {}),
    "flac": ("flac", "flac", {}),
    "mp3": ("mp3", "libmp3lame", {}),
    "aac": ("adts", "aac", {}),
    "mp4": ("mp4", "aac", {}),
    "mp4-index-first": ("mp4", "aac", {"movflags": "faststart"}),
    "mp4-fragments": ("mp4", "aac", {"movflags": "frag_keyframe+empty_moov"}),
    "caf": ("caf", "pcm_s16le", {}),
}
"""Our names → FFmpeg's container, codec, options."""

MP3_BITS_PER_SECOND = 64_000
"""FFmpeg's own choice for such sound; the library's is 24,000, which nobody would send."""

Samples = NDArray[np.int16]
"""Shape (frames,) or (frames, channels)."""


def written(name: str, samples: Samples, rate_hz: int = 16_000) -> bytes:
    """The samples as a file."""
    if name == "ogg-vorbis":  # FFmpeg's own encoder is an experiment
        return _sound(samples, rate_hz, "OGG", "VORBIS")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "recording"
        _write(str(path), name, samples, rate_hz)
        return path.read_bytes()


def _write(path: str, name: str, samples: Samples, rate_hz: int) -> None:
    container, codec, options = CODECS[name]
    pcm = np.atleast_2d(samples.T)
    layout = "mono" if len(pcm) == 1 else "stereo"
    with av.open(path, "w", format=container, options=options) as output:
        stream: Any = output.add_stream(codec, rate=48_000 if codec == "libopus" else rate_hz)
        stream.layout = layout
        if codec == "libmp3lame":
            stream.bit_rate = MP3_BITS_PER_SECOND
        resampler = av.AudioResampler(stream.format, layout, stream.rate, frame_size=960)
        frame = av.AudioFrame.from_ndarray(pcm.T.reshape(1, -1), "s16", layout)
        frame.sample_rate = rate_hz
        frame.time_base = Fraction(1, rate_hz)
        for part in (*resampler.resample(frame), *resampler.resample(None)):
            output.mux(stream.encode(part))
        output.mux(stream.encode(None))


def wav(samples: Samples, rate_hz: int = 16_000, subtype: str = "PCM_16") -> bytes:
    """By another library than the one that reads it."""
    return _sound(samples, rate_hz, "WAV", subtype)


def _sound(samples: Samples, rate_hz: int, container: str, subtype: str) -> bytes:
    file = io.BytesIO()
    # As floats: of integers it would take the numbers, not the loudness.
    soundfile.write(file, samples / 32_768, rate_hz, format=container, subtype=subtype)
    return file.getvalue()


def opus_packets(samples: Samples) -> list[bytes]:
    """20 ms each, of mono at 48 kHz."""
    codec = av.CodecContext.create("libopus", "w")
    codec.sample_rate, codec.layout, codec.format = 48_000, "mono", "s16"
    codec.time_base = Fraction(1, 48_000)
    codec.open()
    packets = []
    for start in range(0, len(samples) - 959, 960):
        frame = av.AudioFrame.from_ndarray(samples[None, start : start + 960], "s16", "mono")
        frame.sample_rate, frame.pts = 48_000, start
        packets += [bytes(packet) for packet in codec.encode(frame)]
    return packets


def flac_bomb(seconds: int) -> bytes:
    """Silence: 140 bytes hold a second of 48 kHz."""
    return _sound(np.zeros(seconds * 48_000, np.int16), 48_000, "FLAC", "PCM_16")


def endless_wav(samples: Samples) -> bytes:
    """As a program writes it that does not know yet how long it will go on."""
    head, data = wav(samples)[:40], wav(samples)[44:]
    return head + struct.pack("<I", 0xFFFFFFFF) + data


def tone(seconds: float, rate_hz: int = 16_000) -> Samples:
    times = np.arange(int(seconds * rate_hz)) / rate_hz
    return (8_000 * np.sin(2 * np.pi * 440 * times)).astype(np.int16)
