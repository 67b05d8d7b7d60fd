"""Opens a Wav2Vec2-style checkpoint with a CTC head, or says in one line what is wrong with it.

A folder or a hub id; safetensors by default, because opening a pickle runs what is in it.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from server.engines.ctc_words import Vocabulary
from server.engines.errors import EngineUnavailable
from server.engines.hub import ModelSource, find_source
from server.engines.hub_files import check_weights, load_errors, read_architectures
from server.engines.registry import EngineSpec, check_options
from streaming.timeline import SAMPLE_RATE_HZ

FLAG = "--asr-model"
FAMILIES = frozenset(
    {
        *("data2vec-audio", "hubert", "unispeech", "unispeech-sat", "wav2vec2", "wav2vec2-bert"),
        *("wav2vec2-conformer", "wavlm"),
    }
)
"""Their outputs lie on one fixed grid of frames, by which words get their times."""
OPTIONS = {"allow_pickle", "device", "dtype", "language"}
_DTYPES = ("float32", "bfloat16", "float16")
_LANGUAGE = re.compile("[a-z]{2,3}")
_UNTRAINED = re.compile(r"(^|\.)masked_spec_embed$")
"""Used in training only; many published checkpoints leave it out."""
_EXAMPLE = "facebook/wav2vec2-base-960h"


@dataclass(frozen=True, slots=True)
class CtcCheckpoint:
    """A loaded model with its own feature extractor and vocabulary."""

    name: str
    model: Any
    features: Any
    vocabulary: Vocabulary
    language: str | None
    """What it was trained to hear, as far as the operator says: checkpoints do not."""


def load_checkpoint(spec: EngineSpec) -> CtcCheckpoint:
    """Raises: EngineUnavailable.

    Options: ``language``, ``device`` (``cpu``, ``cuda``; by default what there is), ``dtype`` (by
    default float32), ``allow_pickle``.
    """
    check_options(spec, OPTIONS)
    if spec.model is None:
        raise EngineUnavailable(
            f"ctc needs a checkpoint: give {FLAG} a folder, or a hub id such as {_EXAMPLE}"
        )
    language = _language(spec)
    source = find_source(spec.model, FLAG)
    if source.is_folder:
        check_folder(Path(source.location), allow_pickle=bool(spec.options.get("allow_pickle")))
    model, features, tokenizer = _open(source, spec)
    vocabulary = vocabulary_of(source.name, tokenizer, model.config.vocab_size)
    return CtcCheckpoint(source.name, model, features, vocabulary, language)


def check_folder(folder: Path, *, allow_pickle: bool) -> None:
    """Raises: EngineUnavailable for what can be seen without loading."""
    architectures = read_architectures(folder, FLAG)
    if not any(name.endswith("ForCTC") for name in architectures):
        kind = ", ".join(architectures) or "an unknown architecture"
        raise EngineUnavailable(
            f"{folder} holds {kind}, not a model with a CTC head; give {FLAG} another folder or "
            "hub id"
        )
    check_weights(folder, "ctc", allow_pickle=allow_pickle)


def vocabulary_of(name: str, tokenizer: Any, outputs: int) -> Vocabulary:
    """Of a CTC tokenizer; special tokens other than the delimiter write nothing."""
    blank = tokenizer.pad_token_id
    if blank is None or blank >= outputs:
        raise EngineUnavailable(
            f"the tokenizer of {name} has no blank among the model's {outputs} outputs; copy the "
            "checkpoint again, with its vocab.json and tokenizer_config.json"
        )
    texts = [str(text) for text in tokenizer.convert_ids_to_tokens(list(range(outputs)))]
    delimiter = tokenizer.word_delimiter_token
    silent = set(tokenizer.all_special_tokens)
    return Vocabulary(
        tuple("" if text in silent else text for text in texts),
        blank,
        texts.index(delimiter) if delimiter in texts else None,
        bool(tokenizer.do_lower_case),
    )


def _language(spec: EngineSpec) -> str | None:
    language = spec.options.get("language")
    if language is not None and not _LANGUAGE.fullmatch(str(language)):
        raise EngineUnavailable(
            f"the ctc option language={language} is no ISO 639 code; give one such as en"
        )
    return None if language is None else str(language)


def _open(source: ModelSource, spec: EngineSpec) -> tuple[Any, Any, Any]:
    from server.engines.torch_setup import prepare_torch

    prepare_torch(spec.threads)
    with load_errors(source):
        return _from_pretrained(source, spec)


def _from_pretrained(source: ModelSource, spec: EngineSpec) -> tuple[Any, Any, Any]:
    import torch
    from transformers import (
        AutoConfig,
        AutoFeatureExtractor,
        AutoModelForCTC,
        AutoTokenizer,
        Wav2Vec2CTCTokenizer,
    )

    where: dict[str, Any] = {"local_files_only": source.is_offline}
    kind = AutoConfig.from_pretrained(source.location, **where).model_type
    if kind not in FAMILIES:
        raise EngineUnavailable(
            f"{source.name} is a {kind} model; ctc takes {', '.join(sorted(FAMILIES))}"
        )
    tokenizer = AutoTokenizer.from_pretrained(source.location, **where)
    if not isinstance(tokenizer, Wav2Vec2CTCTokenizer):
        raise EngineUnavailable(
            f"{source.name} writes with a {type(tokenizer).__name__}, not with a "
            f"Wav2Vec2CTCTokenizer; give {FLAG} a checkpoint that writes letters or characters"
        )
    features = AutoFeatureExtractor.from_pretrained(source.location, **where)
    if features.sampling_rate != SAMPLE_RATE_HZ:
        raise EngineUnavailable(
            f"{source.name} hears audio at {features.sampling_rate} Hz, not at {SAMPLE_RATE_HZ}; "
            f"give {FLAG} another folder or hub id"
        )
    device, dtype = _device_and_dtype(spec, is_cuda=torch.cuda.is_available())
    model, report = AutoModelForCTC.from_pretrained(
        source.location,
        dtype=getattr(torch, dtype),
        use_safetensors=None if spec.options.get("allow_pickle") else True,
        output_loading_info=True,
        **where,
    )
    _check_loaded(source, report)
    return model.to(device).eval(), features, tokenizer


def _device_and_dtype(spec: EngineSpec, *, is_cuda: bool) -> tuple[str, str]:
    device = str(spec.options.get("device", "cuda" if is_cuda else "cpu"))
    dtype = str(spec.options.get("dtype", "float32"))
    if dtype not in _DTYPES:
        raise EngineUnavailable(f"dtype {dtype} is not one of: {', '.join(_DTYPES)}")
    return device, dtype


def _check_loaded(source: ModelSource, report: Any) -> None:
    """transformers would fill what is missing with random numbers and go on."""
    missing = sorted(key for key in report["missing_keys"] if not _UNTRAINED.search(key))
    if missing:
        raise EngineUnavailable(
            f"{source.name} lacks weights ({len(missing)}, first {missing[0]}): it was not trained "
            f"to write, or is not complete; give {FLAG} a checkpoint that was fine-tuned with CTC"
        )
