"""Settings → what each stage's workers load. Runs in the front process: no torch here."""

from typing import Any

import structlog

from server.config import Settings
from server.cpu_budget import cpu_budget
from server.engines.registry import EngineSpec
from server.engines.selection import choose_recognizer
from streaming.events import SessionStage

NO_DIARIZER = "none"
WHISPER_ENGINES = frozenset({"whisper", "demo"})
"""Those that have encoder contexts; `demo` is a Whisper checkpoint of our own."""

_log = structlog.get_logger(__name__)


def engine_specs(settings: Settings) -> dict[SessionStage, EngineSpec]:
    """What each stage's workers load; a stage without an engine is left out.

    Blocks for at most two seconds, to see whether a model hub can be reached.
    """
    budget = settings.threads or cpu_budget()
    choice = choose_recognizer(settings.asr, settings.asr_model)
    if choice.warning:
        _log.warning(choice.warning)
    specs = {
        SessionStage.ACTIVITY: EngineSpec(
            SessionStage.ACTIVITY,
            _voice_activity(settings.vad, choice.name),
            options=dict(settings.vad_options),
        ),
        SessionStage.RECOGNITION: EngineSpec(
            SessionStage.RECOGNITION,
            choice.name,
            choice.model,
            {**_context_options(settings, choice.name), **settings.asr_options},
            max(1, budget // (settings.asr_workers or 1)),
        ),
    }
    if settings.diarizer != NO_DIARIZER:
        specs[SessionStage.DIARIZATION] = EngineSpec(
            SessionStage.DIARIZATION,
            settings.diarizer,
            settings.diarizer_model,
            dict(settings.diarizer_options),
            max(1, budget // 2),
        )
    return specs


def _voice_activity(vad: str, recognizer: str) -> str:
    if vad != "auto":
        return vad
    return "scripted" if recognizer == "scripted" else "silero"


def _context_options(settings: Settings, recognizer: str) -> dict[str, Any]:
    """Those that are set, for an engine that has them."""
    given = {
        "encoder_context": settings.encoder_context,
        "final_context": settings.final_context,
        "calibration": settings.calibration_file and str(settings.calibration_file.resolve()),
    }
    given = {name: value for name, value in given.items() if value is not None}
    if given and recognizer not in WHISPER_ENGINES:
        _log.warning("options of Whisper alone are ignored", engine=recognizer, options=list(given))
        return {}
    return given
