"""What a session says: one dataclass per event, times in samples of the audio clock.

Durable events carry a ``seq``, gap-free per session, and reach every subscriber exactly once;
the others carry ``after_seq``, the last durable seq before them, and may be dropped or replaced
for a slow reader. Wire formats are made from these, here is none.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from streaming.engines import DecodingFigures
from streaming.timeline import Span


@dataclass(frozen=True, slots=True)
class CaptionWord:
    """A recognized word and who said it."""

    text: str
    span: Span
    """On the lane's audio clock."""
    confidence: float | None
    speaker: str | None
    """None until the diarizer, or the lane's name, tells."""
    is_glued: bool = False
    """True where no space stands before it."""


class GapReason(StrEnum):
    """Why received audio has no words; also the label of the dropped-seconds counter."""

    ENGINE_FAILED = "engine_failed"
    OVERLOAD = "overload"


class SessionStage(StrEnum):
    """The part of the server that a ``degraded`` event is about."""

    ACTIVITY = "vad"
    RECOGNITION = "asr"
    DIARIZATION = "diarizer"


class ServerPart(StrEnum):
    """What else a ``degraded`` event may be about."""

    STORE = "store"


@dataclass(frozen=True, slots=True)
class Final:
    """An utterance, or a cut part of a long one, whose text and times will not change."""

    seq: int
    caption_id: str
    lane: int
    span: Span
    text: str
    language: str | None
    confidence: float | None
    speaker: str | None
    """Who said most of it."""
    words: tuple[CaptionWord, ...]
    figures: DecodingFigures | None = None
    """Of the window that it comes from. Neither on the wire nor in the store."""


@dataclass(frozen=True, slots=True)
class SpeakerRun:
    """Words ``from_word`` up to, not including, ``to_word`` of a caption."""

    from_word: int
    to_word: int
    speaker: str | None


@dataclass(frozen=True, slots=True)
class Revision:
    """New speakers for words of a caption that was sent before."""

    seq: int
    caption_id: str
    rev: int
    """Counts from 1 per caption."""
    runs: tuple[SpeakerRun, ...]


@dataclass(frozen=True, slots=True)
class LanguageDetected:
    """The language that the session has settled on."""

    seq: int
    language: str
    probability: float


@dataclass(frozen=True, slots=True)
class Gap:
    """Received audio that could not be captioned."""

    seq: int
    lane: int
    span: Span
    reason: GapReason


@dataclass(frozen=True, slots=True)
class Quantiles:
    """Seconds; None where nothing was measured."""

    p50: float | None
    p95: float | None


@dataclass(frozen=True, slots=True)
class Done:
    """The last event of a session."""

    seq: int
    audio_seconds: float
    decoded_seconds: float
    """Audio inside utterances that were recognized."""
    silent_seconds: float
    """Audio judged to hold no speech."""
    gap_seconds: float
    rtfx: float | None
    """Audio seconds per second of engine time; None where no engine ran."""
    words: int
    speakers: int
    partial_latency_s: Quantiles
    """First time that a word was shown, after the arrival of its last sample."""
    final_latency_s: Quantiles


@dataclass(frozen=True, slots=True)
class Partial:
    """An open utterance as understood so far; replaces the partial with the same id."""

    after_seq: int
    caption_id: str
    lane: int
    span: Span
    text: str
    stable_words: int
    """Leading words on which the last two hypotheses agree."""
    speaker: str | None
    words: tuple[CaptionWord, ...]


@dataclass(frozen=True, slots=True)
class SpeechStarted:
    after_seq: int
    lane: int
    at: int
    """Sample."""


@dataclass(frozen=True, slots=True)
class SpeechEnded:
    after_seq: int
    lane: int
    at: int
    """Sample."""


@dataclass(frozen=True, slots=True)
class Lag:
    """Captions are this far behind the audio."""

    after_seq: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Degraded:
    """A stage is not working for this session; the others go on."""

    after_seq: int
    stage: SessionStage | ServerPart
    reason: str
    is_over: bool = False
    """True where it works again."""


DurableEvent = Final | Revision | LanguageDetected | Gap | Done
PassingEvent = Partial | SpeechStarted | SpeechEnded | Lag | Degraded
Event = DurableEvent | PassingEvent


def text_of(words: tuple[CaptionWord, ...]) -> str:
    """The words as one line."""
    line = "".join(word.text if word.is_glued else f" {word.text}" for word in words)
    return line.strip()


def main_speaker(words: Sequence[CaptionWord]) -> str | None:
    """Who says most of it, by time; the earlier one on a tie; None where nobody is known."""
    samples: dict[str, int] = {}
    for word in words:
        if word.speaker is not None:
            samples[word.speaker] = samples.get(word.speaker, 0) + max(1, word.span.samples)
    return max(samples, key=lambda speaker: samples[speaker], default=None)
