"""Speech with exact word times, from espeak-ng's C library.

Owns the one handle of the process.  Knows nothing of sentences, noise or training. A fresh
process gives the same samples for the same calls; within one, espeak-ng's noise source runs on.
"""

import ctypes
import ctypes.util
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import soxr

SAMPLE_RATE_HZ = 16_000
REMEDY = "apt install libespeak-ng1 espeak-ng-data"
Samples = npt.NDArray[np.float32]

_AUDIO_OUTPUT_SYNCHRONOUS = 2
_CHARS_UTF8 = 1
_EVENT_LIST_END = 0
_EVENT_WORD = 1
_EVENT_PHONEME = 7
_WITH_PHONEME_EVENTS = 1
_RATE, _PITCH, _PITCH_RANGE = 1, 3, 4
_AUDIBLE = 0.004  # of full scale: the tail below it is espeak's own fade-out
_TAIL_SAMPLES = 480  # kept after the last audible sample, so that a final consonant is not clipped


class SynthesisError(RuntimeError):
    """espeak-ng is missing, does not know the voice, or gave no sound."""


@dataclass(frozen=True, slots=True)
class Voice:
    """One way to speak; names as in ``espeak-ng --voices`` and ``--voices=variant``."""

    language: str
    variant: str
    rate_wpm: int = 170
    pitch: int = 50  # 0 to 99
    pitch_range: int = 50  # 0 to 99

    @property
    def name(self) -> str:
        """What espeak-ng calls the voice, without rate and pitch."""
        return f"{self.language}+{self.variant}"


@dataclass(frozen=True, slots=True)
class TimedWord:
    """A written word and when it is spoken."""

    text: str
    start_s: float
    end_s: float

    def shifted(self, offset_s: float) -> "TimedWord":
        """The same word, ``offset_s`` later."""
        return TimedWord(self.text, self.start_s + offset_s, self.end_s + offset_s)


@dataclass(frozen=True, slots=True)
class Speech:
    """Samples at 16 kHz within [-1, 1], and the words in them in order.

    ``phonemes`` are espeak-ng's, pauses included; recorded speech has none.
    """

    samples: Samples
    words: tuple[TimedWord, ...]
    phonemes: tuple[TimedWord, ...] = ()

    @property
    def duration_s(self) -> float:
        """Length of the samples."""
        return len(self.samples) / SAMPLE_RATE_HZ


class _Event(ctypes.Structure):
    """espeak_EVENT: ``text_position`` counts characters from 1, ``audio_position`` is in ms."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", ctypes.c_char * 8),
    )


_CALLBACK = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event)
)


class Synthesizer:
    """espeak-ng as a function from text to samples."""

    def __init__(self) -> None:
        self._library, self._rate_hz = _initialised_library()
        self._pieces: list[npt.NDArray[np.int16]] = []
        self._starts_s: dict[int, float] = {}
        self._phonemes: list[tuple[str, float]] = []
        # The library keeps the pointer: without this reference Python would free the callback.
        self._callback = _CALLBACK(self._collect)

    def _collect(self, wav: Any, count: int, events: Any) -> int:
        if wav and count > 0:
            self._pieces.append(np.ctypeslib.as_array(wav, (count,)).copy())
        index = 0
        while events[index].type != _EVENT_LIST_END:
            event = events[index]
            if event.type == _EVENT_WORD:
                self._starts_s[event.text_position - 1] = event.audio_position / 1000
            elif event.type == _EVENT_PHONEME:
                self._phonemes.append((event.id.decode(), event.audio_position / 1000))
            index += 1
        return 0

    def say(self, text: str, voice: Voice) -> Speech:
        """Speak ``text``; every whitespace-separated piece of it becomes one timed word.

        Raises: SynthesisError for an unknown voice or silence.
        """
        self._pieces.clear()
        self._starts_s.clear()
        self._phonemes.clear()
        # The library has one callback for the whole process: each of us takes it anew.
        self._library.espeak_SetSynthCallback(self._callback)
        self._select(voice)
        raw = text.encode() + b"\0"
        self._library.espeak_Synth(raw, len(raw), 0, 1, 0, _CHARS_UTF8, None, None)
        self._library.espeak_Synchronize()
        if not self._pieces:
            raise SynthesisError(f"espeak-ng gave no sound for {text!r}")
        native = np.concatenate(self._pieces).astype(np.float32) / 32_768
        samples = _trim_tail(soxr.resample(native, self._rate_hz, SAMPLE_RATE_HZ))
        duration_s = len(samples) / SAMPLE_RATE_HZ
        words = _timed_words(text, self._starts_s, duration_s)
        return Speech(samples, words, _timed_phonemes(self._phonemes, duration_s))

    def _select(self, voice: Voice) -> None:
        if self._library.espeak_SetVoiceByName(voice.name.encode()) != 0:
            raise SynthesisError(f"espeak-ng does not know the voice {voice.name!r}")
        settings = (
            (_RATE, voice.rate_wpm),
            (_PITCH, voice.pitch),
            (_PITCH_RANGE, voice.pitch_range),
        )
        for parameter, value in settings:
            self._library.espeak_SetParameter(parameter, value, 0)


@cache
def _initialised_library() -> tuple[ctypes.CDLL, int]:
    """The library, once per process, and the rate in Hz of what it gives."""
    try:
        library = ctypes.CDLL(ctypes.util.find_library("espeak-ng") or "libespeak-ng.so.1")
    except OSError as error:
        raise SynthesisError(f"espeak-ng is missing: {REMEDY}") from error
    rate_hz: int = library.espeak_Initialize(
        _AUDIO_OUTPUT_SYNCHRONOUS, 0, None, _WITH_PHONEME_EVENTS
    )
    if rate_hz <= 0:
        raise SynthesisError(f"espeak-ng found no voice data: {REMEDY}")
    return library, rate_hz


def _trim_tail(samples: npt.NDArray[Any]) -> Samples:
    audible = np.nonzero(np.abs(samples) > _AUDIBLE)[0]
    if not len(audible):
        raise SynthesisError("espeak-ng gave silence")
    return samples[: int(audible[-1]) + _TAIL_SAMPLES].astype(np.float32)


def _timed_phonemes(starts: list[tuple[str, float]], duration_s: float) -> tuple[TimedWord, ...]:
    """Each phoneme lasts until the next."""
    ends_s = [*(start_s for _, start_s in starts[1:]), duration_s]
    return tuple(
        TimedWord(name, start_s, max(start_s, min(end_s, duration_s)))
        for (name, start_s), end_s in zip(starts, ends_s, strict=True)
        if start_s < duration_s
    )


def _timed_words(text: str, starts_s: dict[int, float], duration_s: float) -> tuple[TimedWord, ...]:
    """Each word lasts until the next; one without an event starts with its forerunner."""
    pieces, starts, search_from, start_s = text.split(), [], 0, 0.0
    for piece in pieces:
        position = text.index(piece, search_from)
        search_from = position + len(piece)
        start_s = starts_s.get(position, start_s)
        starts.append(start_s)
    ends = [*starts[1:], duration_s]
    return tuple(map(TimedWord, pieces, starts, ends))
