"""Opens a Whisper checkpoint, or says in one line what is wrong with it and what to do.

A folder or a hub id; safetensors by default, because opening a pickle runs what is in it. The
checks that need no torch come first and import none.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from server.engines.errors import EngineUnavailable
from server.engines.hub import hub_errors, unreachable
from server.engines.registry import EngineSpec
from server.engines.selection import hub_cache, is_cached, is_hub_reachable
from server.engines.whisper_options import WhisperOptions

_HUB_ID = re.compile(r"[\w][\w.-]*(/[\w][\w.-]*)?")
_ARCHITECTURE = "WhisperForConditionalGeneration"
_GIVE_ANOTHER = "give --asr-model another folder or hub id"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A loaded model with its own feature extractor and tokenizer."""

    name: str
    model: Any
    features: Any
    tokenizer: Any
    folder: Path | None = None
    """Where its files are."""


def load_checkpoint(spec: EngineSpec) -> Checkpoint:
    """Raises: EngineUnavailable.

    On a processor the weights stay float32 whatever ``dtype`` says: the engine computes in it, and
    compares the likeliest tokens in full.
    """
    options = WhisperOptions.of(spec)
    if spec.model is None:
        raise EngineUnavailable(
            "whisper needs a checkpoint: give --asr-model a folder, or a hub id such as "
            "openai/whisper-base"
        )
    if is_folder_name(spec.model):
        folder = Path(spec.model).expanduser()
        check_folder(folder, allow_pickle=options.allow_pickle)
        return _open(str(folder), folder.resolve().name, spec, is_offline=True)
    is_offline = not is_hub_reachable()
    if is_offline and not is_cached(hub_cache() / f"models--{spec.model.replace('/', '--')}"):
        raise unreachable(spec.model, "--asr-model")
    return _open(spec.model, spec.model, spec, is_offline=is_offline)


def is_folder_name(model: str) -> bool:
    """What exists here, or cannot be a hub id."""
    return Path(model).expanduser().exists() or _HUB_ID.fullmatch(model) is None


def check_folder(folder: Path, *, allow_pickle: bool) -> None:
    """Raises: EngineUnavailable for what can be seen without loading."""
    if not folder.is_dir():
        raise EngineUnavailable(f"there is no folder {folder}; {_GIVE_ANOTHER}")
    config_file = folder / "config.json"
    if not config_file.is_file():
        raise EngineUnavailable(
            f"{folder} has no config.json, so it is no transformers checkpoint; {_GIVE_ANOTHER}"
        )
    try:
        config = json.loads(config_file.read_text(encoding="utf-8"))
        architectures = config.get("architectures") or []
    except (OSError, ValueError, AttributeError) as error:
        raise EngineUnavailable(
            f"{config_file} cannot be read ({_first_line(error)}); copy the checkpoint again"
        ) from error
    if _ARCHITECTURE not in architectures:
        kind = ", ".join(map(str, architectures)) or "an unknown architecture"
        raise EngineUnavailable(f"{folder} holds {kind}, not a Whisper; {_GIVE_ANOTHER}")
    _check_weights(folder, allow_pickle=allow_pickle)


def _check_weights(folder: Path, *, allow_pickle: bool) -> None:
    if any(folder.glob("*.safetensors")):
        return
    if not any(folder.glob("pytorch_model*.bin")):
        raise EngineUnavailable(f"{folder} has no model.safetensors; copy the checkpoint again")
    if not allow_pickle:
        raise EngineUnavailable(
            f"{folder} has pickled weights only, and opening those runs whatever is in them; "
            "convert them to safetensors, or set the whisper option allow_pickle=true if you "
            "trust their source"
        )


def _open(source: str, name: str, spec: EngineSpec, *, is_offline: bool) -> Checkpoint:
    from server.engines.torch_setup import prepare_torch

    prepare_torch(spec.threads)
    import safetensors
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    try:
        with hub_errors(name, "--asr-model"):
            return _from_pretrained(source, name, spec, is_offline=is_offline)
    except safetensors.SafetensorError as error:
        raise EngineUnavailable(
            f"the weights of {name} are corrupt ({_first_line(error)}); copy the checkpoint again"
        ) from error
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise EngineUnavailable(
            f"{name} does not load ({type(error).__name__}: {_first_line(error)}); {_GIVE_ANOTHER}"
        ) from error


def _from_pretrained(source: str, name: str, spec: EngineSpec, *, is_offline: bool) -> Checkpoint:
    import torch
    from transformers import (
        AutoConfig,
        WhisperFeatureExtractor,
        WhisperForConditionalGeneration,
        WhisperTokenizerFast,
    )

    options = WhisperOptions.of(spec)
    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    dtype = "float16" if options.dtype == "auto" else options.dtype
    # A checkpoint of the hub has not been looked at yet, and would be forced into our shape.
    kind = AutoConfig.from_pretrained(source, local_files_only=is_offline).model_type
    if kind != "whisper":
        raise EngineUnavailable(f"{name} is a {kind} model, not a Whisper; {_GIVE_ANOTHER}")
    use_safetensors = None if options.allow_pickle else True
    model, report = WhisperForConditionalGeneration.from_pretrained(
        source,
        dtype=torch.float32 if device == "cpu" else getattr(torch, dtype),
        use_safetensors=use_safetensors,
        local_files_only=is_offline,
        output_loading_info=True,
    )
    # transformers would fill them with random numbers and go on.
    if missing := sorted(report["missing_keys"]):
        raise EngineUnavailable(
            f"{name} lacks weights ({len(missing)}, first {missing[0]}); copy the checkpoint again"
        )
    return Checkpoint(
        name,
        model.to(device).eval(),
        WhisperFeatureExtractor.from_pretrained(source, local_files_only=is_offline),
        WhisperTokenizerFast.from_pretrained(source, local_files_only=is_offline),
        _files_of(source),
    )


def _files_of(source: str) -> Path | None:
    """The folder that was loaded, which for a hub id is a snapshot in the cache."""
    from transformers.utils import cached_file

    found = cached_file(source, "config.json", local_files_only=True)
    return None if found is None else Path(found).parent


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__
