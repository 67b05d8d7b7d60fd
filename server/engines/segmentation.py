"""Opens a speaker segmentation model (pyannote.audio's PyanNet) from safetensors and JSON.

pyannote's own loader unpickles (``weights_only=False``), which runs whatever is in the file; here
the shape comes from ``config.json`` and the numbers from ``model.safetensors``. What comes out is
what ``Model.from_pretrained`` gives, ready for pyannote's ``Inference`` and pipelines.
"""

import importlib.resources
import json
from pathlib import Path
from typing import Any

from server.engines.errors import EngineUnavailable
from server.engines.torch_setup import prepare_torch

CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"
ARCHITECTURE = "PyanNet"
_SHAPE = ("sincnet", "lstm", "linear")
_REMEDY = "install captiond again, or give another folder"


def shipped_segmentation() -> Path | None:
    """The folder of captiond's own model; None in a build without it. Loads no torch."""
    folder = Path(str(importlib.resources.files("server.assets"))) / "segmentation"
    return folder if (folder / WEIGHTS_FILE).is_file() else None


def load_segmentation(folder: Path, *, threads: int | None = None) -> Any:
    """The model, in evaluation mode. Raises: EngineUnavailable."""
    config = read_config(folder)
    prepare_torch(threads)
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        model = build_segmentation(config)
        weights = {name: value.float() for name, value in load_file(folder / WEIGHTS_FILE).items()}
        model.load_state_dict(weights)
    except (OSError, SafetensorError, RuntimeError, TypeError, KeyError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise EngineUnavailable(
            f"{folder} does not hold the {ARCHITECTURE} that its {CONFIG_FILE} describes "
            f"({reason}); {_REMEDY}"
        ) from error
    return model.eval()


def read_config(folder: Path) -> dict[str, Any]:
    """Raises: EngineUnavailable for a folder without a config of this architecture."""
    file = folder / CONFIG_FILE
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise EngineUnavailable(f"{file} cannot be read ({error}); {_REMEDY}") from error
    if not isinstance(config, dict) or config.get("architecture") != ARCHITECTURE:
        raise EngineUnavailable(f"{file} describes no {ARCHITECTURE}; {_REMEDY}")
    return config


def build_segmentation(config: dict[str, Any]) -> Any:
    """An untrained model of that shape. Call ``prepare_torch`` first. Raises: KeyError,
    TypeError."""
    # Imported here: it takes seconds, and only after ``prepare_torch``.
    from pyannote.audio.core.task import Problem, Resolution, Specifications
    from pyannote.audio.models.segmentation import PyanNet

    model = PyanNet(**{name: dict(config[name]) for name in _SHAPE})
    model.specifications = Specifications(
        problem=Problem.MONO_LABEL_CLASSIFICATION,
        resolution=Resolution.FRAME,
        duration=float(config["chunk_seconds"]),
        classes=[f"speaker#{number + 1}" for number in range(config["speakers_max"])],
        powerset_max_classes=int(config["speakers_at_once_max"]),
        permutation_invariant=True,
    )
    # Adds the classifier, whose width follows from the specifications.
    model.setup()
    return model
