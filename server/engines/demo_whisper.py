"""The Whisper checkpoint that ships with captiond, through the code that loads any other.

Small and of a closed domain (its model card says which): for the demo and for tests.
"""

import importlib.resources
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from server.engines.errors import EngineUnavailable
from server.engines.registry import EngineSpec

if TYPE_CHECKING:
    from server.engines.whisper import WhisperRecognizer


def demo_checkpoint() -> Path | None:
    """Its folder; None in a build without it."""
    folder = Path(str(importlib.resources.files("server.assets"))) / "demo_whisper"
    return folder if (folder / "model.safetensors").is_file() else None


def from_spec(spec: EngineSpec) -> "WhisperRecognizer":
    """Raises: EngineUnavailable."""
    if spec.model is not None:
        raise EngineUnavailable(
            "the demo engine has its own checkpoint; leave --asr-model away, or choose "
            "--asr whisper"
        )
    folder = demo_checkpoint()
    if folder is None:
        raise EngineUnavailable(
            "this build of captiond has no demo checkpoint; choose --asr pocketsphinx, or "
            "--asr whisper with --asr-model"
        )
    # The front process asks for the folder alone, and must not load torch for it.
    from server.engines.whisper import WhisperRecognizer

    return WhisperRecognizer.from_spec(replace(spec, model=str(folder)))
