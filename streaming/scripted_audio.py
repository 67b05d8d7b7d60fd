"""Audio that spells out its own transcript, for tests and load tests that demand exact words.

A scripted word is ``WORD_SAMPLES`` long: ten header samples whose exact values name it (stream,
number, speaker, checksum), a loud carrier up to ``CARRIER_SAMPLES``, then quiet. It survives
cutting at any sample, but not resampling or a lossy codec: one changed sample and the word is
not found, so a transcript also proves that the audio arrived untouched.
Knows nothing of engines, sessions or time.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streaming.engines import Samples
from streaming.timeline import Span

WORD_SAMPLES = 5_120
"""320 ms, ten activity frames: about the pace of fluent speech."""
CARRIER_SAMPLES = 4_096
"""The span of a word, header included: eight activity frames."""
STREAM_MAX = NUMBER_MAX = 2**32 - 1
SPEAKER_MAX = 2**8 - 1
LOUD_AMPLITUDE = 1_000
"""Any sample at least this loud counts as speech."""

_MARKER = np.array([31_337, -27_182, 31_415], np.int16)
_HEADER_SAMPLES = 10
_CARRIER_AMPLITUDE = 8_000
_CARRIER_PERIOD_SAMPLES = 32
_phase = np.arange(_HEADER_SAMPLES, CARRIER_SAMPLES) % _CARRIER_PERIOD_SAMPLES
# A square wave, so that each single sample of the carrier is loud wherever a frame cuts it.
_CARRIER = np.where(
    _phase < _CARRIER_PERIOD_SAMPLES // 2, _CARRIER_AMPLITUDE, -_CARRIER_AMPLITUDE
).astype(np.int16)


@dataclass(frozen=True, slots=True)
class ScriptedWord:
    """One word found in audio."""

    stream: int
    number: int
    speaker: int
    span: Span
    """Its header and carrier, in samples of the audio that was searched."""

    @property
    def text(self) -> str:
        return word_text(self.stream, self.number)


def word_text(stream: int, number: int) -> str:
    """What a recognizer answers for a scripted word."""
    return f"w{number}.{stream}"


def encode_word(stream: int, number: int, speaker: int = 0) -> Samples:
    """Shape (WORD_SAMPLES,). Raises: ValueError where a number does not fit its field."""
    _check_range("stream", stream, STREAM_MAX)
    _check_range("number", number, NUMBER_MAX)
    _check_range("speaker", speaker, SPEAKER_MAX)
    fields = [stream >> 16, stream & 0xFFFF, number >> 16, number & 0xFFFF, speaker]
    checksum = _checksum(fields)
    payload = np.array([*fields, checksum >> 16, checksum & 0xFFFF], np.uint16)
    word: Samples = np.zeros(WORD_SAMPLES, np.int16)
    word[: len(_MARKER)] = _MARKER
    word[len(_MARKER) : _HEADER_SAMPLES] = payload.view(np.int16)
    word[_HEADER_SAMPLES:CARRIER_SAMPLES] = _CARRIER
    return word


def encode_silence(samples: int) -> Samples:
    return np.zeros(samples, np.int16)


def decode_words(samples: Samples) -> list[ScriptedWord]:
    """Every word of which the header and the whole carrier are inside ``samples``, in order."""
    starts = _marker_starts(samples)
    return [word for start in starts if (word := _word_at(samples, int(start))) is not None]


def loud_frames(samples: Samples, frame_samples: int) -> NDArray[np.bool_]:
    """Which whole frames hold any part of a word, shape (frames,)."""
    frames = samples[: len(samples) // frame_samples * frame_samples].reshape(-1, frame_samples)
    # Widened first: the absolute value of -32768 does not fit int16.
    loud: NDArray[np.bool_] = np.abs(frames.astype(np.int32)).max(axis=1) >= LOUD_AMPLITUDE
    return loud


def _check_range(name: str, value: int, largest: int) -> None:
    if not 0 <= value <= largest:
        raise ValueError(f"{name} must be 0 to {largest}, not {value}")


def _checksum(fields: Iterable[int]) -> int:
    """FNV-1a over 16-bit fields: 32 bits that change with any of them."""
    value = 0x811C9DC5
    for part in fields:
        value = ((value ^ part) * 0x01000193) & 0xFFFFFFFF
    return value


def _marker_starts(samples: Samples) -> NDArray[np.int64]:
    first_to_try = len(samples) - CARRIER_SAMPLES + 1
    if first_to_try <= 0:
        return np.zeros(0, np.int64)
    candidates: NDArray[np.int64] = np.flatnonzero(samples[:first_to_try] == _MARKER[0])
    for offset, value in enumerate(_MARKER[1:], start=1):
        candidates = candidates[samples[candidates + offset] == value]
    return candidates


def _word_at(samples: Samples, start: int) -> ScriptedWord | None:
    header = np.ascontiguousarray(samples[start + len(_MARKER) : start + _HEADER_SAMPLES])
    payload = [int(part) for part in header.view(np.uint16)]
    *fields, checksum_high, checksum_low = payload
    if _checksum(fields) != checksum_high << 16 | checksum_low:
        return None
    span = Span(start, start + CARRIER_SAMPLES)
    if not np.array_equal(samples[start + _HEADER_SAMPLES : span.end], _CARRIER):
        return None
    stream_high, stream_low, number_high, number_low, speaker = fields
    return ScriptedWord(
        stream_high << 16 | stream_low, number_high << 16 | number_low, speaker, span
    )
