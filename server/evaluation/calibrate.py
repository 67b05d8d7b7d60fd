"""How short a context finals may be heard with: word errors on an operator's own recordings.

The recordings go through sessions offline, once as ever and once per margin, in the same engine
processes as a server's. Where a recording's text is not known, what is heard with the full
context stands for it: a short context then loses what it changes.
"""

import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from server.config import Settings
from server.engine_specs import WHISPER_ENGINES
from server.engines.demo_whisper import demo_checkpoint
from server.engines.errors import EngineUnavailable
from server.engines.hub import checkpoint_folder
from server.engines.selection import RecognizerChoice, choose_recognizer
from server.engines.whisper_calibration import Calibration, fingerprint, write_calibration
from server.evaluation.manifest import Recording
from server.evaluation.offline import OfflineEngines
from server.evaluation.truth import read_truth
from server.scoring import WordErrors, normalized, word_errors
from server.settings_sources import settings_of_command_line
from streaming.events import SessionStage

MARGINS_S = (0.5, 1.0, 2.0, 3.0, 5.0, 8.0, 12.0)
"""Silence behind a window. What 12 s do not hold costs about as much as the full context."""

Progress = Callable[[str, float], None]
"""Told which context is heard, and how many seconds of audio since the last call."""


@dataclass(frozen=True, slots=True)
class Trial:
    """All recordings, heard with one context."""

    margin_s: float | None
    """None is the full context."""
    errors: WordErrors
    changed: WordErrors
    """Against what the full context gave."""
    engine_s: float
    audio_s: float

    @property
    def name(self) -> str:
        return "full" if self.margin_s is None else f"window + {self.margin_s:g} s"

    @property
    def wer(self) -> float:
        return _share(self.errors)

    @property
    def is_empty(self) -> bool:
        """Nothing was said, by the truth or by the recognizer."""
        return not self.errors.reference


def check_engine(settings: Settings) -> RecognizerChoice:
    """Which recognizer these settings mean. Raises: EngineUnavailable for one without contexts."""
    choice = choose_recognizer(settings.asr, settings.asr_model)
    if choice.name not in WHISPER_ENGINES:
        raise EngineUnavailable(
            f"{choice.name} has no encoder context; calibrate is for --asr whisper, or demo"
        )
    return choice


def whisper_folder(settings: Settings) -> Path:
    """Where the weights are that these settings load; of the hub, once they are in its cache.

    Raises: EngineUnavailable.
    """
    choice = check_engine(settings)
    folder = demo_checkpoint() if choice.model is None else checkpoint_folder(choice.model)
    if folder is None:
        raise EngineUnavailable(f"no weights of {choice.model or choice.name} on this machine")
    return folder


async def trials(
    recordings: Sequence[Recording],
    words: Sequence[str],
    progress: Progress,
    margins_s: Sequence[float] = MARGINS_S,
) -> AsyncIterator[Trial]:
    """First the full context, then each margin; ``words`` are options of ``captiond serve``.

    Raises: EngineUnavailable, EvaluationError, ConfigError.
    """
    truths = [read_truth(recording).text for recording in recordings]
    exact = await _heard(recordings, [*words, "--final-context", "exact"], "full", progress)
    references = [
        normalized(text if truth is None else truth)
        for truth, text in zip(truths, exact.texts, strict=True)
    ]
    yield _trial(None, exact, exact, references)
    with tempfile.TemporaryDirectory(prefix="captiond-calibrate-") as folder:
        path = Path(folder) / "trial.json"
        weights = fingerprint(whisper_folder(settings_of_command_line(words)))
        options = [*words, "--final-context", "calibrated", "--calibration-file", str(path)]
        for margin_s in margins_s:
            write_calibration(path, Calibration(weights, margin_s, 0.0, 0.0, 0.0, "trial"))
            name = f"window + {margin_s:g} s"
            yield _trial(
                margin_s, await _heard(recordings, options, name, progress), exact, references
            )


def loss(exact: Trial, short: Trial) -> float:
    """Word error rate that the short context adds; below 0 where it hears better."""
    return short.wer - exact.wer


def calibration_of(exact: Trial, short: Trial, folder: Path) -> Calibration:
    """What a server needs to know to hear finals so."""
    assert short.margin_s is not None
    return Calibration(
        checkpoint_sha256=fingerprint(folder),
        context_margin_s=short.margin_s,
        wer_exact=round(exact.wer, 5),
        wer_short=round(short.wer, 5),
        recordings_s=round(exact.audio_s, 1),
        measured_on=datetime.now(UTC).date().isoformat(),
    )


@dataclass(frozen=True, slots=True)
class _Heard:
    texts: tuple[str, ...]
    engine_s: float
    audio_s: float


async def _heard(
    recordings: Sequence[Recording], words: Sequence[str], name: str, progress: Progress
) -> _Heard:
    texts, engine_s, audio_s = [], 0.0, 0.0
    async with OfflineEngines(settings_of_command_line(words)).running() as engines:
        for recording in recordings:
            heard = await engines.caption(recording, lambda seconds: progress(name, seconds))
            assert heard.engine_s is not None
            texts.append(heard.text)
            engine_s += heard.engine_s[SessionStage.RECOGNITION.value]
            audio_s += heard.done.audio_seconds
    return _Heard(tuple(texts), engine_s, audio_s)


def _trial(
    margin_s: float | None, heard: _Heard, exact: _Heard, references: Sequence[str]
) -> Trial:
    said = [normalized(text) for text in heard.texts]
    return Trial(
        margin_s,
        _total(references, said),
        _total([normalized(text) for text in exact.texts], said),
        heard.engine_s,
        heard.audio_s,
    )


def _total(references: Sequence[str], texts: Sequence[str]) -> WordErrors:
    found = (word_errors(one, other) for one, other in zip(references, texts, strict=True))
    return sum(found, WordErrors(0, 0, 0, 0))


def _share(errors: WordErrors) -> float:
    wrong = errors.substitutions + errors.deletions + errors.insertions
    return wrong / max(1, errors.reference)
