"""Which engines exist, and where: the only list of them.

Names map to ``module:factory`` strings, so that the front process can read the list without
importing torch; a module is imported only inside the worker process that builds its engine.
A factory takes the ``EngineSpec`` and returns an engine that satisfies ``Engine`` and its stage's
protocol in ``streaming/engines.py``.
"""

import importlib
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Protocol, cast

from server.engines.errors import EngineUnavailable
from streaming.events import SessionStage

OptionValue = str | int | float | bool


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """All that a worker process needs to build its engine."""

    stage: SessionStage
    name: str
    model: str | None = None
    """A folder or a hub id; None is the engine's own default."""
    options: dict[str, OptionValue] = field(default_factory=dict)
    threads: int = 1


class Engine(Protocol):
    """What every engine offers beside its stage's protocol."""

    @property
    def description(self) -> str:
        """For people, e.g. ``whisper whisper-tiny-ref float32``."""

    def warm_up(self) -> None:
        """Answers one small question, so that the first real one is not the slow one."""


METHODS: dict[SessionStage, tuple[str, ...]] = {
    SessionStage.ACTIVITY: ("detect",),
    SessionStage.RECOGNITION: ("recognize",),
    SessionStage.DIARIZATION: ("observe", "cluster"),
}
"""The only methods that a worker calls for the front process."""

_FACTORIES: dict[SessionStage, dict[str, str]] = {
    SessionStage.ACTIVITY: {
        "scripted": "server.engines.scripted:voice_activity",
        "silero": "server.engines.silero:SileroVoiceActivity.from_spec",
    },
    SessionStage.RECOGNITION: {
        "ctc": "server.engines.ctc:CtcRecognizer.from_spec",
        "demo": "server.engines.demo_whisper:from_spec",
        "pocketsphinx": "server.engines.pocketsphinx:PocketSphinxRecognizer.from_spec",
        "scripted": "server.engines.scripted:recognizer",
        "whisper": "server.engines.whisper:WhisperRecognizer.from_spec",
    },
    SessionStage.DIARIZATION: {
        "embedded": "server.engines.embedded_diarizer:EmbeddedDiarizer.from_spec",
        "pyannote": "server.engines.pyannote_pipeline:PyannoteDiarizer.from_spec",
        "scripted": "server.engines.scripted:diarizer",
    },
}


_WITHOUT_GUIDANCE = frozenset({"ctc", "pocketsphinx"})
"""Recognizers that write what they hear: no prompt, no keywords, no translation."""


def takes_guidance(recognizer: str) -> bool:
    """Whether prompts, keywords and the task mean anything to it."""
    return recognizer not in _WITHOUT_GUIDANCE


def names(stage: SessionStage) -> tuple[str, ...]:
    return tuple(sorted(_FACTORIES[stage]))


def check_options(spec: EngineSpec, known: Collection[str] = ()) -> None:
    """Raises: EngineUnavailable for an option that the engine does not have."""
    if unknown := sorted(set(spec.options) - set(known)):
        has = f"it has: {', '.join(sorted(known))}" if known else "it has none"
        raise EngineUnavailable(f"{spec.name} has no option {', '.join(unknown)}; {has}")


def build(spec: EngineSpec) -> Engine:
    """Imports and loads an engine. Raises: EngineUnavailable."""
    path = _FACTORIES[spec.stage].get(spec.name)
    if path is None:
        known = ", ".join(names(spec.stage))
        raise EngineUnavailable(
            f'there is no {spec.stage.value} engine "{spec.name}"; choose one of: {known}'
        )
    module_name, _, attribute_path = path.partition(":")
    try:
        factory = importlib.import_module(module_name)
    except ImportError as error:
        raise EngineUnavailable(
            f'the {spec.stage.value} engine "{spec.name}" cannot be imported ({error}); '
            "install captiond's dependencies again: pip install captiond"
        ) from error
    for attribute in attribute_path.split("."):
        factory = getattr(factory, attribute)
    return cast("Engine", factory(spec))  # type: ignore[operator]
