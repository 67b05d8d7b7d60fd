"""The folder that users load: weights and the shape beside them, no pickle."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from server.engines.segmentation import CONFIG_FILE, WEIGHTS_FILE
from tools.segmentation.model import CONFIG

WEIGHTS_MAX_BYTES = 8_000_000


class TooLarge(Exception):
    """The weights would be larger than what we ship."""


def export(weights: dict[str, torch.Tensor], folder: Path) -> None:
    """Writes ``folder``. Raises: TooLarge."""
    folder.mkdir(parents=True, exist_ok=True)
    stored = {name: value.detach().clone().contiguous() for name, value in weights.items()}
    size_bytes = sum(value.numel() * value.element_size() for value in stored.values())
    if size_bytes > WEIGHTS_MAX_BYTES:
        raise TooLarge(f"{size_bytes / 1e6:.1f} MB of weights; we ship {WEIGHTS_MAX_BYTES / 1e6}")
    save_file(stored, folder / WEIGHTS_FILE)
    # The library leaves it to its owner alone; whoever runs the server must read it.
    (folder / WEIGHTS_FILE).chmod(0o644)
    (folder / CONFIG_FILE).write_text(json.dumps(CONFIG, indent=2) + "\n", encoding="utf-8")
