"""All metrics of one recording against its truth, as counts that add up over recordings.

A metric whose part of the truth is absent is None: unknown, never zero.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache

from server.evaluation.heard import Heard
from server.evaluation.manifest import Recording
from server.evaluation.speaker_words import (
    Attribution,
    SpeakerWordErrors,
    attribution,
    cp_errors,
    hypothesis_words,
    reference_words,
    tcp_errors,
)
from server.evaluation.truth import Truth
from server.scoring import (
    TurnErrors,
    WordErrors,
    character_errors,
    normalized,
    turn_errors,
    turns_of_words,
    word_errors,
)

ENGLISH = "en"


@dataclass(frozen=True, slots=True)
class TextScores:
    """What is right in the text, whoever said it."""

    words: WordErrors
    characters: WordErrors
    words_whisper_norm: WordErrors


@dataclass(frozen=True, slots=True)
class SpeakerTextScores:
    """What is right in the text of each speaker."""

    cp: SpeakerWordErrors
    tcp: SpeakerWordErrors
    attribution: Attribution


@dataclass(frozen=True, slots=True)
class Timing:
    """When things came, in seconds, and how long the engines worked."""

    first_shown_s: tuple[float, ...] | None = None
    """Per word; None offline."""
    final_s: tuple[float, ...] | None = None
    revision_ages_s: tuple[float, ...] | None = None
    engine_s: dict[str, float] | None = None
    rtfx: float | None = None
    """As the server says in ``done``."""
    wall_s: float | None = None


@dataclass(frozen=True, slots=True)
class Scores:
    """One recording."""

    name: str
    audio_s: float
    gap_s: float
    words: int
    speakers: int | None
    """None where nobody was asked to tell them apart."""
    reference_speakers: int | None
    revisions: int
    text: TextScores | None
    speaker_text: SpeakerTextScores | None
    turns: TurnErrors | None
    turns_first_label: TurnErrors | None
    timing: Timing = field(default_factory=Timing)


def score(recording: Recording, truth: Truth, heard: Heard) -> Scores:
    """Blocks for seconds: tcpWER of ten minutes of talk is a large alignment."""
    language = recording.language or heard.fold.language or ENGLISH
    has_speakers = heard.has_speakers
    turns = truth.turns if has_speakers else None
    done = heard.done
    return Scores(
        name=recording.name,
        audio_s=done.audio_seconds,
        gap_s=done.gap_seconds,
        words=done.words,
        speakers=done.speakers if has_speakers else None,
        reference_speakers=None if turns is None else len({turn.speaker for turn in turns}),
        revisions=heard.revisions,
        text=None if truth.text is None else _text_scores(truth.text, heard.text, language),
        speaker_text=_speaker_text_scores(truth, heard) if has_speakers else None,
        turns=None if turns is None else turn_errors(turns, turns_of_words(heard.words)),
        turns_first_label=None
        if turns is None
        else turn_errors(turns, turns_of_words(heard.words_as_first_sent)),
        timing=_timing(heard),
    )


def _text_scores(truth: str, said: str, language: str) -> TextScores:
    whisper = whisper_normalizer(language)
    plain_truth, plain_said = normalized(truth), normalized(said)
    return TextScores(
        word_errors(plain_truth, plain_said),
        character_errors(plain_truth, plain_said),
        word_errors(whisper(truth), whisper(said)),
    )


@cache
def whisper_normalizer(language: str) -> Callable[[str], str]:
    """Whisper's own, as transformers ships it; loads no model.

    English without the table of British spellings, which comes with a checkpoint only.
    """
    from transformers.models.whisper.english_normalizer import (
        BasicTextNormalizer,
        EnglishTextNormalizer,
    )

    made = EnglishTextNormalizer({}) if language == ENGLISH else BasicTextNormalizer()
    return lambda text: str(made(text)).strip()


def _speaker_text_scores(truth: Truth, heard: Heard) -> SpeakerTextScores | None:
    if truth.segments is None:
        return None
    reference, hypothesis = reference_words(truth.segments), hypothesis_words(heard.words)
    return SpeakerTextScores(
        cp_errors(reference, hypothesis),
        tcp_errors(reference, hypothesis),
        attribution(reference, hypothesis),
    )


def _timing(heard: Heard) -> Timing:
    timing = Timing(engine_s=heard.engine_s, rtfx=heard.done.rtfx, wall_s=heard.wall_s)
    if heard.delays is None:
        return timing
    return replace(
        timing,
        first_shown_s=tuple(word.first_shown_s for word in heard.delays.words),
        final_s=tuple(word.final_s for word in heard.delays.words),
        revision_ages_s=tuple(heard.revision_ages_s),
    )
