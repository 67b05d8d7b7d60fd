"""What rooms, microphones and lines do to voices; faster than ``tools.demo_whisper.noise``, which
some of it comes from, because a training step hears minutes of it.

Samples are float32 at 16 kHz; every function takes its random generator.
"""

import numpy as np
from scipy.fft import irfft, rfft
from scipy.signal import oaconvolve

from tools.demo_whisper.noise import clicks, coloured, level, tones, white
from tools.demo_whisper.synthesis import SAMPLE_RATE_HZ, Samples

REVERBERATION_S = (0.15, 0.8)
"""Time in which a sound falls by 60 dB: a furnished office to a bare meeting room."""
DIRECT_TO_REVERBERANT_DB = (-15.0, 9.0)
"""From the far end of a meeting table to a headset."""
TELEPHONE_HZ = (300.0, 3_400.0)
COLOUR_POINTS = 7
COLOUR_DB = 9.0


def impulse_response(rng: np.random.Generator, reverberation_s: float) -> Samples:
    """Direct sound, then noise that dies away; as loud as the direct sound alone."""
    length = int(reverberation_s * SAMPLE_RATE_HZ * 0.7)
    time_s = np.arange(length) / SAMPLE_RATE_HZ
    tail = rng.standard_normal(length) * np.exp(-6.9 * time_s / reverberation_s)
    tail[: int(rng.uniform(0.001, 0.012) * SAMPLE_RATE_HZ)] = 0
    ratio_db = rng.uniform(*DIRECT_TO_REVERBERANT_DB)
    tail *= 10 ** (-ratio_db / 20) / np.sqrt((tail**2).sum())
    tail[0] = 1.0
    response: Samples = (tail / np.sqrt((tail**2).sum())).astype(np.float32)
    return response


def reverberant(samples: Samples, response: Samples) -> Samples:
    """As long as ``samples``; the direct sound stays where it is."""
    wet: Samples = oaconvolve(samples, response)[: len(samples)]
    return wet.astype(np.float32)


def heard_through(rng: np.random.Generator, samples: Samples, *, is_telephone: bool) -> Samples:
    """Through a microphone that colours, and perhaps a telephone line."""
    spectrum = rfft(samples)
    frequencies_hz = np.arange(len(spectrum), dtype=np.float32) * (SAMPLE_RATE_HZ / len(samples))
    # Points are spread evenly over octaves, as hearing is.
    points_hz = np.geomspace(60, SAMPLE_RATE_HZ / 2, COLOUR_POINTS)
    gains_db = rng.uniform(-COLOUR_DB, COLOUR_DB, COLOUR_POINTS) / 2
    coarse_hz = np.geomspace(20, SAMPLE_RATE_HZ / 2, 256)
    gains = 10 ** (np.interp(np.log(coarse_hz), np.log(points_hz), gains_db) / 20)
    spectrum *= np.interp(frequencies_hz, coarse_hz, gains).astype(np.float32)
    if is_telephone:
        low_hz, high_hz = TELEPHONE_HZ
        spectrum *= 1 / (1 + (low_hz / np.maximum(frequencies_hz, 1)) ** 6)
        spectrum *= frequencies_hz < high_hz * rng.uniform(0.95, 1.15)
    heard: Samples = irfft(spectrum, len(samples))
    return heard.astype(np.float32)


def background(rng: np.random.Generator, length: int) -> Samples:
    """Sounds that nobody makes by speaking, at their own level."""
    chance = rng.random()
    if chance < 0.45:
        return coloured(rng, length)
    if chance < 0.65:
        return white(rng, length)
    if chance < 0.85:
        return clicks(rng, length) + level(coloured(rng, length), rng.uniform(-70, -45))
    return tones(rng, length)


def noise_at(rng: np.random.Generator, length: int, dbfs: float) -> Samples:
    """Background at an RMS of ``dbfs``, swelling and falling in half of the cases."""
    sound = level(background(rng, length), dbfs)
    if rng.random() < 0.5:
        points_db = rng.uniform(-6, 6, 6)
        swell_db = np.interp(np.linspace(0, 5, length), np.arange(6), points_db)
        sound = sound * (10 ** (swell_db / 20)).astype(np.float32)
    return sound.astype(np.float32)
