"""What captiond asks of a model: three protocols, their questions and their answers.

No implementation lives here, and none may be imported: engines are in ``server/engines/`` and run
in worker processes. A question carries everything that its answer depends on (engines are
stateless), so any worker can answer it, and can answer it again after a crash.
Samples travel as int16; an engine turns them into float32 itself. Times in answers are samples
counted from the first sample of the question.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from streaming.timeline import Span

Samples = NDArray[np.int16]
"""Mono audio at 16 kHz, shape (samples,)."""

ACTIVITY_FRAME_SAMPLES = 512
"""32 ms: the frame that Silero VAD was trained on at 16 kHz."""


@dataclass(frozen=True, slots=True)
class Word:
    """One recognized word with its punctuation."""

    text: str
    """Stripped, never empty."""
    span: Span
    confidence: float | None = None
    """0 to 1, or None where the engine has no measure of it."""
    is_glued: bool = False
    """True where no space stands before it (languages written without spaces)."""


@dataclass(frozen=True, slots=True)
class ActivityWindow:
    """Consecutive whole frames of one lane."""

    samples: Samples
    """Shape (frames * ACTIVITY_FRAME_SAMPLES,)."""
    state: bytes | None
    """What the previous window's answer returned; None at the start of a lane."""


@dataclass(frozen=True, slots=True)
class Activity:
    probabilities: NDArray[np.float32]
    """Speech probability, shape (frames,)."""
    state: bytes
    """Opaque to all but the engine."""


@dataclass(frozen=True, slots=True)
class SpeechWindow:
    """One utterance, or the part of it that has arrived."""

    samples: Samples
    language: str | None = None
    """ISO 639-1 code; None asks the engine to detect it."""
    task: str = "transcribe"
    """``transcribe`` or ``translate`` (to English)."""
    prompt: str | None = None
    keywords: tuple[str, ...] = ()
    is_final: bool = True
    """A partial may be cheaper and less exact than a final."""
    draft: tuple[int, ...] = ()
    """Tokens of the previous hypothesis of the same utterance, for engines that verify drafts."""
    seed: int = 0
    """Makes whatever sampling an engine does repeatable for this window."""
    context_widening: int = 0
    """How often this session's partials turned out too different from their finals: each time an
    engine that hears partials with a short context should double it."""


@dataclass(frozen=True, slots=True)
class DecodingFigures:
    """How a window was decoded, as Whisper's own tools tell it."""

    mean_log_probability: float
    """Over all tokens, the end mark included."""
    no_speech_probability: float
    temperature: float
    """0 for greedy decoding."""


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """One engine's words for one window, in time order."""

    words: tuple[Word, ...]
    language: str | None = None
    language_probability: float | None = None
    """Given only where the engine detected the language."""
    tokens: tuple[int, ...] = ()
    """A draft for the next window of the same utterance."""
    guards: tuple[str, ...] = ()
    """Guards that fired (names of ``streaming.guards``): the words are then not what plain greedy
    decoding gives."""
    figures: DecodingFigures | None = None
    """None where the engine has none."""


@dataclass(frozen=True, slots=True)
class RecognizerProfile:
    """What a window costs, in samples of encoder input, where that is not its own length."""

    partial_contexts_samples: tuple[int, ...]
    """Ascending; a partial is heard in the first that holds it, or in the last."""
    final_context_samples: int
    """Every final is padded to it."""
    partial_margin_samples: int = 0
    """Silence that a partial's context must hold behind it."""

    def context_samples(self, window: SpeechWindow) -> int:
        """What the encoder is given for a window: windows with equal contexts share a call."""
        if window.is_final:
            return self.final_context_samples
        contexts = self.partial_contexts_samples
        wanted = max(len(window.samples) + self.partial_margin_samples, contexts[0])
        wanted <<= window.context_widening
        return next((context for context in contexts if context >= wanted), contexts[-1])


@dataclass(frozen=True, slots=True)
class SpeakerChunk:
    """A stretch of audio in which a diarizer looks for speakers."""

    samples: Samples


@dataclass(frozen=True, slots=True)
class Observation:
    """Who could be told apart inside one chunk; local speakers mean nothing outside of it."""

    activity: NDArray[np.float32]
    """Per-frame probability of each local speaker, shape (frames, local speakers); the frames
    divide the chunk evenly."""
    embeddings: NDArray[np.float32]
    """Shape (local speakers, dimensions), finite."""
    openings: NDArray[np.float32] | None = None
    """The same by the chunk's opening alone (``DiarizerProfile.opening_samples``), for diarizers
    that do not tell by activity where one speaker ends and the next begins."""


@dataclass(frozen=True, slots=True)
class ClusterQuestion:
    """All evidence of one session that is to be grouped by speaker."""

    embeddings: NDArray[np.float32]
    """Shape (items, dimensions)."""
    weights_seconds: NDArray[np.float32]
    """Speech behind each embedding, shape (items,)."""
    speakers_min: int | None = None
    speakers_max: int | None = None
    starts: NDArray[np.int64] | None = None
    """First sample of the chunk behind each embedding, shape (items,): neighbours are mostly one
    voice, and local speakers of one chunk are not. None where it is not known."""
    alone: NDArray[np.float32] | None = None
    """Share of its chunk in which the local speaker speaks and nobody else, shape (items,)."""


@dataclass(frozen=True, slots=True)
class Clusters:
    labels: NDArray[np.int64]
    """Cluster of each embedding, shape (items,), numbered from 0 without gaps; -1 for one that is
    nobody's, because others of its chunk fit all clusters better."""


@dataclass(frozen=True, slots=True)
class FrameGrid:
    """Chunks and frames of a diarizer that looks at all audio, in its own exact seconds."""

    chunk_seconds: float
    hop_seconds: float
    frame_seconds: float
    frame_hop_seconds: float
    pause_seconds_max: float
    """Shorter pauses belong to a turn."""


@dataclass(frozen=True, slots=True)
class DiarizerProfile:
    """How a diarizer wants its chunks cut."""

    chunk_samples: int
    hop_samples: int
    chunk_samples_min: int
    """Speech shorter than this gets no observation of its own."""
    opening_samples: int = 0
    """How much of a chunk ``Observation.openings`` are about; 0 where there are none."""
    grid: FrameGrid | None = None
    """Where chunks lie on one grid over all audio, whoever speaks: the activity of a shorter one
    is that of the whole chunk, with silence behind it. None where they lie in speech."""


class VoiceActivity(Protocol):
    """Tells speech from everything else, frame by frame."""

    def detect(self, windows: Sequence[ActivityWindow]) -> list[Activity]: ...


class Recognizer(Protocol):
    """Turns speech into words. One answer per window, in order; neighbours change nothing."""

    def recognize(self, windows: Sequence[SpeechWindow]) -> list[Hypothesis]: ...


@runtime_checkable
class ProfiledRecognizer(Recognizer, Protocol):
    """A recognizer whose windows do not cost what they are long."""

    @property
    def profile(self) -> RecognizerProfile: ...


class Diarizer(Protocol):
    """Embeds chunks, and groups a session's embeddings by speaker."""

    @property
    def profile(self) -> DiarizerProfile: ...

    def observe(self, chunks: Sequence[SpeakerChunk]) -> list[Observation]: ...

    def cluster(self, questions: Sequence[ClusterQuestion]) -> list[Clusters]: ...
