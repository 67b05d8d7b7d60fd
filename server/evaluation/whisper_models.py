"""Checkpoints to measure the Whisper engine with, and what transformers alone would take.

For benchmarks: which trained checkpoints this machine has, one of random weights where it has
none of the shape that is wanted, and windows through ``generate`` in batches.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from server.engines.demo_whisper import demo_checkpoint
from server.engines.errors import EngineUnavailable
from server.engines.registry import EngineSpec, OptionValue
from server.engines.whisper_checkpoint import Checkpoint, load_checkpoint
from server.engines.whisper_tokens import SpecialTokens
from streaming.engines import Samples
from streaming.events import SessionStage
from streaming.timeline import SAMPLE_RATE_HZ

TINY_REFERENCE = Path(__file__).parents[2].parent / "shared" / "models" / "whisper-tiny-ref"
"""Of whisper-tiny's shape; beside a source tree that has the reference data."""
TINY_SHAPE = {
    "d_model": 384,
    "encoder_layers": 4,
    "decoder_layers": 4,
    "encoder_attention_heads": 6,
    "decoder_attention_heads": 6,
    "encoder_ffn_dim": 1536,
    "decoder_ffn_dim": 1536,
}


def trained_checkpoint(threads: int) -> Checkpoint:
    """The demo's. Raises: EngineUnavailable in a build without it."""
    folder = demo_checkpoint()
    if folder is None:
        raise EngineUnavailable("this build of captiond has no demo checkpoint")
    return _loaded(folder, threads)


def tiny_checkpoint(given: str | None, threads: int) -> Checkpoint | None:
    """A trained one of whisper-tiny's shape: the folder that was given, or the reference."""
    folder = Path(given) if given else TINY_REFERENCE
    return _loaded(folder, threads) if given or folder.is_dir() else None


def random_tiny_checkpoint(threads: int) -> Checkpoint:
    """Random weights of whisper-tiny's shape, but for the demo's smaller vocabulary."""
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    trained = trained_checkpoint(threads)
    torch.manual_seed(0)
    config = WhisperConfig(**trained.model.config.to_dict() | TINY_SHAPE)
    model = WhisperForConditionalGeneration(config).eval()
    with torch.no_grad():
        # As transformers draws them, every window would say the same.
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    model.generation_config = trained.model.generation_config
    return replace(trained, name="random weights", model=model, folder=None)


def _loaded(folder: Path, threads: int) -> Checkpoint:
    options: dict[str, OptionValue] = {"device": "cpu"}
    spec = EngineSpec(SessionStage.RECOGNITION, "whisper", str(folder), options, threads)
    return load_checkpoint(spec)


class BatchedGenerate:
    """Windows through transformers' ``generate``, one per row and padded to 30 s."""

    def __init__(self, checkpoint: Checkpoint, *, timestamps: bool) -> None:
        self._model, self._features = checkpoint.model, checkpoint.features
        self._ids = SpecialTokens.of(checkpoint)
        self._timestamps = timestamps
        self._ids.complete(self._model.generation_config)

    def __call__(self, windows: Sequence[Samples], language: str, tokens_max: int) -> int:
        """Returns how many tokens came; greedy, no thresholds, as finals are held to."""
        options: dict[str, Any] = {}
        if self._ids.languages:
            options |= {"language": language, "task": "transcribe"}
        inputs = self._features(
            [samples.astype(np.float32) / 32768 for samples in windows],
            sampling_rate=SAMPLE_RATE_HZ,
            return_tensors="pt",
            return_attention_mask=True,
        )
        with torch.inference_mode():
            found = self._model.generate(
                input_features=inputs.input_features,
                attention_mask=inputs.attention_mask,
                return_timestamps=self._timestamps,
                force_unique_generate_call=True,
                do_sample=False,
                num_beams=1,
                temperature=0.0,
                max_new_tokens=tokens_max,
                **options,
            )
        return int((found < self._ids.text_end).sum())
