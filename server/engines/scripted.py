"""Engines whose answers are written into the audio itself: exact words with no model.

For tests and load tests. They can also be slow, fail, crash and hang on demand; each option of
``Faults`` counts this process's calls, so a restarted worker counts from one again.
The audio's format is ``streaming/scripted_audio.py``.
"""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Self

import numpy as np

from server.engines.errors import EngineUnavailable
from server.engines.registry import EngineSpec, check_options
from streaming.engines import (
    ACTIVITY_FRAME_SAMPLES,
    Activity,
    ActivityWindow,
    ClusterQuestion,
    Clusters,
    DiarizerProfile,
    Hypothesis,
    Observation,
    Samples,
    SpeakerChunk,
    SpeechWindow,
    Word,
)
from streaming.scripted_audio import (
    SPEAKER_MAX,
    WORD_SAMPLES,
    ScriptedWord,
    decode_words,
    loud_frames,
)
from streaming.timeline import samples_from_ms

HANG_SECONDS = 3_600.0
"""Longer than any deadline."""
HANG_LOOK_SECONDS = 0.05
CRASH_STATUS = 86


@dataclass(frozen=True, slots=True)
class Faults:
    """What goes wrong, and when; 0 is never, 1 is every call."""

    latency_ms: float = 0.0
    """Per call."""
    latency_ms_per_item: float = 0.0
    fail_every: int = 0
    crash_every: int = 0
    hang_every: int = 0
    hang_s: float = HANG_SECONDS
    """How long a call hangs that does; then it is answered."""
    hang_file: str = ""
    """While there is a file of this name every call hangs, replacements' calls too."""
    memory_every: int = 0
    """Raises MemoryError."""
    fail_stream: int = -1
    """Raises whenever a word of this stream number is in the batch; so do the next two."""
    crash_stream: int = -1
    hang_stream: int = -1
    unstable_tail: bool = False
    """The last word of a partial is misheard until a word's length of audio follows it."""
    load_error: str = ""
    """Refuses to load, with this message."""

    @classmethod
    def from_spec(cls, spec: EngineSpec) -> Self:
        """Raises: EngineUnavailable, for an unknown option too."""
        known = {field.name for field in fields(cls)}
        check_options(spec, known)
        faults = cls(**spec.options)  # type: ignore[arg-type]
        if faults.load_error:
            raise EngineUnavailable(faults.load_error)
        return faults


class _Scripted:
    """What the three engines share: a call counter and the faults."""

    description = "scripted"

    def __init__(self, faults: Faults | None = None) -> None:
        self._faults = faults or Faults()
        self._calls = 0

    def warm_up(self) -> None:
        """Nothing to warm; not a call, so faults count real ones only."""

    def _begin_call(self, batch: Sequence[Samples]) -> list[list[ScriptedWord]]:
        """Decodes the batch's words, then sleeps or misbehaves as told."""
        self._calls += 1
        words = [decode_words(samples) for samples in batch]
        faults = self._faults
        latency_ms = faults.latency_ms + faults.latency_ms_per_item * len(batch)
        if latency_ms:  # even a sleep of nothing gives the processor away
            time.sleep(latency_ms / 1000)
        streams = {word.stream for found in words for word in found}
        if self._is_due(faults.crash_every) or faults.crash_stream in streams:
            os._exit(CRASH_STATUS)
        if self._is_due(faults.hang_every) or faults.hang_stream in streams:
            time.sleep(faults.hang_s)
        elif faults.hang_file:
            self._hang_while_there_is(faults.hang_file)
        if self._is_due(faults.memory_every):
            raise MemoryError("scripted")
        if self._is_due(faults.fail_every) or faults.fail_stream in streams:
            raise ValueError("scripted failure")
        return words

    def _hang_while_there_is(self, file: str) -> None:
        give_up_s = time.monotonic() + self._faults.hang_s
        while os.path.exists(file) and time.monotonic() < give_up_s:
            time.sleep(HANG_LOOK_SECONDS)

    def _is_due(self, every: int) -> bool:
        return every > 0 and self._calls % every == 0


class ScriptedVoiceActivity(_Scripted):
    """Speech wherever a scripted word, whole or cut, is loud."""

    def detect(self, windows: Sequence[ActivityWindow]) -> list[Activity]:
        self._begin_call([window.samples for window in windows])
        return [
            Activity(
                loud_frames(window.samples, ACTIVITY_FRAME_SAMPLES).astype(np.float32), state=b""
            )
            for window in windows
        ]


class ScriptedRecognizer(_Scripted):
    """Reads the words that are wholly inside a window."""

    languages: tuple[str, ...] | None = None
    """Any: the words are the same in all of them."""

    def recognize(self, windows: Sequence[SpeechWindow]) -> list[Hypothesis]:
        found = self._begin_call([window.samples for window in windows])
        return [
            self._hypothesis(window, words) for window, words in zip(windows, found, strict=True)
        ]

    def _hypothesis(self, window: SpeechWindow, found: list[ScriptedWord]) -> Hypothesis:
        words = [Word(word.text, word.span, confidence=1.0) for word in found]
        if words and self._is_tail_unstable(window, words[-1]):
            words[-1] = Word(f"?{words[-1].text}", words[-1].span, confidence=0.5)
        language = window.language or "en"
        probability = None if window.language else 1.0
        return Hypothesis(tuple(words), language, probability)

    def _is_tail_unstable(self, window: SpeechWindow, last: Word) -> bool:
        is_open = not window.is_final and self._faults.unstable_tail
        return is_open and len(window.samples) - last.span.end < WORD_SAMPLES


class ScriptedDiarizer(_Scripted):
    """Tells speakers apart by the speaker number in each word."""

    profile = DiarizerProfile(
        chunk_samples=samples_from_ms(1_600),
        hop_samples=samples_from_ms(800),
        chunk_samples_min=WORD_SAMPLES,
    )

    def observe(self, chunks: Sequence[SpeakerChunk]) -> list[Observation]:
        found = self._begin_call([chunk.samples for chunk in chunks])
        return [
            _observation(len(chunk.samples), words)
            for chunk, words in zip(chunks, found, strict=True)
        ]

    def cluster(self, questions: Sequence[ClusterQuestion]) -> list[Clusters]:
        self._begin_call([])
        return [_clusters(question) for question in questions]


def _observation(samples: int, words: list[ScriptedWord]) -> Observation:
    """One local speaker per speaker with a whole word in the chunk, who has most of it first."""
    frames = max(1, samples // ACTIVITY_FRAME_SAMPLES)
    speakers = sorted(
        {word.speaker for word in words},
        key=lambda speaker: (-sum(word.speaker == speaker for word in words), speaker),
    )
    activity = np.zeros((frames, len(speakers)), np.float32)
    for word in words:
        first = word.span.start * frames // samples
        end = -(-word.span.end * frames // samples)
        activity[first:end, speakers.index(word.speaker)] = 1
    return Observation(activity, np.eye(SPEAKER_MAX + 1, dtype=np.float32)[speakers])


def _clusters(question: ClusterQuestion) -> Clusters:
    """Equal embeddings are one speaker, numbered by first appearance, up to ``speakers_max``."""
    label_of: dict[bytes, int] = {}
    labels = [label_of.setdefault(row.tobytes(), len(label_of)) for row in question.embeddings]
    label_max = (question.speakers_max or len(label_of)) - 1
    return Clusters(np.minimum(np.array(labels, np.int64), max(0, label_max)))


def voice_activity(spec: EngineSpec) -> ScriptedVoiceActivity:
    return ScriptedVoiceActivity(Faults.from_spec(spec))


def recognizer(spec: EngineSpec) -> ScriptedRecognizer:
    return ScriptedRecognizer(Faults.from_spec(spec))


def diarizer(spec: EngineSpec) -> ScriptedDiarizer:
    return ScriptedDiarizer(Faults.from_spec(spec))
