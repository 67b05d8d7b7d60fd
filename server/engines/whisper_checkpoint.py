"""Opens a Whisper checkpoint, or says in one line what is wrong with it and what to do.

A folder or a hub id; safetensors by default, because opening a pickle runs what is in it. The
checks that need no torch come first and import none.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from server.engines.errors import EngineUnavailable
from server.engines.hub import ModelSource, find_source
from server.engines.hub_files import check_weights, load_errors, read_architectures
from server.engines.registry import EngineSpec
from server.engines.whisper_options import WhisperOptions

FLAG = "--asr-model"
_ARCHITECTURE = "WhisperForConditionalGeneration"
_GIVE_ANOTHER = f"give {FLAG} another folder or hub id"


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
            f"whisper needs a checkpoint: give {FLAG} a folder, or a hub id such as "
            "openai/whisper-base"
        )
    source = find_source(spec.model, FLAG)
    if source.is_folder:
        check_folder(Path(source.location), allow_pickle=options.allow_pickle)
    return _open(source, spec)


def check_folder(folder: Path, *, allow_pickle: bool) -> None:
    """Raises: EngineUnavailable for what can be seen without loading."""
    architectures = read_architectures(folder, FLAG)
    if _ARCHITECTURE not in architectures:
        kind = ", ".join(architectures) or "an unknown architecture"
        raise EngineUnavailable(f"{folder} holds {kind}, not a Whisper; {_GIVE_ANOTHER}")
    check_weights(folder, "whisper", allow_pickle=allow_pickle)


def _open(source: ModelSource, spec: EngineSpec) -> Checkpoint:
    from server.engines.torch_setup import prepare_torch

    prepare_torch(spec.threads)
    with load_errors(source):
        return _from_pretrained(source, spec)


def _from_pretrained(source: ModelSource, spec: EngineSpec) -> Checkpoint:
    import torch
    from transformers import (
        AutoConfig,
        WhisperFeatureExtractor,
        WhisperForConditionalGeneration,
        WhisperTokenizerFast,
    )

    name, location = source.name, source.location
    where: dict[str, Any] = {"local_files_only": source.is_offline}
    options = WhisperOptions.of(spec)
    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    dtype = "float16" if options.dtype == "auto" else options.dtype
    # A checkpoint of the hub has not been looked at yet, and would be forced into our shape.
    kind = AutoConfig.from_pretrained(location, **where).model_type
    if kind != "whisper":
        raise EngineUnavailable(f"{name} is a {kind} model, not a Whisper; {_GIVE_ANOTHER}")
    use_safetensors = None if options.allow_pickle else True
    model, report = WhisperForConditionalGeneration.from_pretrained(
        location,
        dtype=torch.float32 if device == "cpu" else getattr(torch, dtype),
        use_safetensors=use_safetensors,
        output_loading_info=True,
        **where,
    )
    # transformers would fill them with random numbers and go on.
    if missing := sorted(report["missing_keys"]):
        raise EngineUnavailable(
            f"{name} lacks weights ({len(missing)}, first {missing[0]}); copy the checkpoint again"
        )
    return Checkpoint(
        name,
        model.to(device).eval(),
        WhisperFeatureExtractor.from_pretrained(location, **where),
        WhisperTokenizerFast.from_pretrained(location, **where),
        _files_of(location),
    )


def _files_of(location: str) -> Path | None:
    """The folder that was loaded, which for a hub id is a snapshot in the cache."""
    from transformers.utils import cached_file

    found = cached_file(location, "config.json", local_files_only=True)
    return None if found is None else Path(found).parent
