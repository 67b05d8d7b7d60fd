"""The folder that is trained further, and the one that is written: the same files and names, so
that whatever reads the first reads the second."""

import copy
import shutil
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import WhisperForConditionalGeneration

from tools.demo_whisper.model import LEAN_ATTENTION
from tools.reference_whisper.labels import UnfitCheckpoint

WEIGHTS = "model.safetensors"


def load(folder: Path) -> WhisperForConditionalGeneration:
    """In float32, without dropout; the decoder's attention weights can be seen.

    Raises: UnfitCheckpoint.
    """
    if not (folder / WEIGHTS).exists():
        raise UnfitCheckpoint(f"there is no {WEIGHTS} in {folder}; give --whisper FOLDER")
    whisper = WhisperForConditionalGeneration.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", local_files_only=True
    )
    lean = copy.deepcopy(whisper.config)
    lean._attn_implementation = LEAN_ATTENTION
    for layer in whisper.model.encoder.layers:
        layer.self_attn.config = lean
    # What is heard is new each time: there is nothing to learn by heart.
    return whisper.eval()


def export(whisper: WhisperForConditionalGeneration, source: Path, folder: Path) -> None:
    """``source`` with the weights of ``whisper``, in the number format that it has."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in source.iterdir():
        if path.is_file() and path.name != WEIGHTS:
            shutil.copyfile(path, folder / path.name)
    trained = whisper.state_dict()
    with safe_open(source / WEIGHTS, "pt") as before:
        weights = {
            name: trained[name].detach().to(before.get_tensor(name).dtype).clone().contiguous()
            for name in before.keys()  # noqa: SIM118 - no mapping
        }
        metadata = before.metadata()
    unfinished = folder / f"{WEIGHTS}.new"
    save_file(weights, unfinished, metadata)
    unfinished.chmod(0o644)  # as its neighbours; save_file leaves it to the owner alone
    unfinished.replace(folder / WEIGHTS)
