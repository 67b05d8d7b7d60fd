"""Sounds that are not words, and what a room and a line do to words that are.

Every function takes its random generator and lengths in samples at 16 kHz; levels are dB of full
scale (RMS).
"""

from collections.abc import Callable

import numpy as np
import soxr

from tools.demo_whisper.synthesis import SAMPLE_RATE_HZ, Samples, Speech

Sound = Callable[[np.random.Generator, int], Samples]


def level(samples: Samples, dbfs: float) -> Samples:
    """``samples`` at an RMS of ``dbfs``; silence stays silence."""
    rms = float(np.sqrt(np.mean(samples**2))) if len(samples) else 0.0
    return (samples * (10 ** (dbfs / 20) / rms)).astype(np.float32) if rms > 0 else samples


def silence(rng: np.random.Generator, length: int) -> Samples:
    """Digital silence, or a noise floor of a few steps of 16 bits."""
    if rng.random() < 0.5:
        return np.zeros(length, np.float32)
    return level(white(rng, length), rng.uniform(-95, -75))


def white(rng: np.random.Generator, length: int) -> Samples:
    """White noise from faint to loud."""
    return level(rng.standard_normal(length, np.float32), rng.uniform(-70, -15))


def coloured(rng: np.random.Generator, length: int) -> Samples:
    """Noise whose power falls with frequency (pink to brown), as of fans and traffic."""
    spectrum = np.fft.rfft(rng.standard_normal(length))
    bins = np.maximum(np.arange(len(spectrum)), 1.0)
    shaped = np.fft.irfft(spectrum / bins ** rng.uniform(0.3, 1.0), length).astype(np.float32)
    return level(shaped, rng.uniform(-65, -18))


def tones(rng: np.random.Generator, length: int) -> Samples:
    """One to four steady or sweeping tones, with or without a ringing rhythm and a noise floor."""
    time_s = np.arange(length) / SAMPLE_RATE_HZ
    mix = np.zeros(length)
    for _ in range(rng.integers(1, 5)):
        low_hz, high_hz = rng.uniform(50, 3800, 2)
        glide_hz = (high_hz - low_hz) if rng.random() < 0.3 else 0.0
        phase = low_hz * time_s + glide_hz * time_s**2 / (2 * max(time_s[-1], 1e-3))
        mix += np.sin(2 * np.pi * phase) * rng.uniform(0.2, 1)
    if rng.random() < 0.5:
        mix *= np.sin(2 * np.pi * rng.uniform(0.2, 4) * time_s + rng.uniform(0, 6)) > rng.uniform(
            -0.7, 0.7
        )
    floor = rng.standard_normal(length) * 10 ** (rng.uniform(-80, -45) / 20)
    return (level(mix.astype(np.float32), rng.uniform(-45, -12)) + floor).astype(np.float32)


def clicks(rng: np.random.Generator, length: int) -> Samples:
    """Short decaying bursts: keyboards, doors, taps on the microphone."""
    track = np.zeros(length, np.float32)
    for _ in range(rng.integers(1, 12)):
        burst_length = int(rng.integers(80, 3_000))
        burst = rng.standard_normal(burst_length) * np.exp(
            -np.arange(burst_length) / rng.uniform(20, 600)
        )
        first = int(rng.integers(0, max(length - burst_length, 1)))
        room = min(burst_length, length - first)
        track[first : first + room] += burst[:room].astype(np.float32)
    return level(track, rng.uniform(-50, -22)) + level(white(rng, length), rng.uniform(-80, -50))


def babble(rng: np.random.Generator, length: int, voices: list[Speech]) -> Samples:
    """``voices`` talking over one another all the time, none of them in front."""
    mix = np.zeros(length, np.float32)
    for voice in voices:
        track = np.tile(level(voice.samples, -20), length // len(voice.samples) + 2)
        first = int(rng.integers(0, len(voice.samples)))
        mix += track[first : first + length] * rng.uniform(0.7, 1.0)
    return level(mix, rng.uniform(-50, -18))


def echo(rng: np.random.Generator, samples: Samples) -> Samples:
    """A few decaying reflections within 120 ms, the direct sound first."""
    wet = samples.copy()
    for _ in range(rng.integers(1, 5)):
        delay = int(rng.integers(80, 1_900))
        wet[delay:] += samples[:-delay] * np.float32(rng.uniform(0.05, 0.35))
    return wet


def telephone(samples: Samples) -> Samples:
    """What is left after 8 kHz, as in the recorded digits."""
    narrow = soxr.resample(samples, SAMPLE_RATE_HZ, 8_000, quality="MQ")
    wide = soxr.resample(narrow, 8_000, SAMPLE_RATE_HZ, quality="MQ")
    return np.resize(wide, len(samples)).astype(np.float32)


def recorded(rng: np.random.Generator, samples: Samples) -> Samples:
    """``samples`` through a random line and room, at a random level, never clipped."""
    heard = samples
    if rng.random() < 0.15:
        heard = telephone(heard)
    if rng.random() < 0.3:
        heard = echo(rng, heard)
    heard = heard * np.float32(10 ** (rng.uniform(-14, 4) / 20))
    chance = rng.random()
    if chance < 0.6:
        heard = heard + rng.standard_normal(len(heard), np.float32) * np.float32(
            10 ** (rng.uniform(-80, -40) / 20)
        )
    elif chance < 0.8:
        heard = heard + level(coloured(rng, len(heard)), rng.uniform(-75, -38))
    return np.clip(heard, -1, 1).astype(np.float32)
