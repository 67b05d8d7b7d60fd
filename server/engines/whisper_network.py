"""A checkpoint's encoder, decoder and decoding loop in one number format.

Owns which formats partials and finals are computed in. Knows nothing of windows and words.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import torch

from server.engines.whisper_decoder import LeanDecoder
from server.engines.whisper_dtype import compute_dtype
from server.engines.whisper_encoder import LeanEncoder
from server.engines.whisper_greedy import Loop, Timing
from server.engines.whisper_mixed import MixedEncoder
from server.engines.whisper_options import WhisperOptions
from server.engines.whisper_rules import Rules


@dataclass(frozen=True, slots=True, eq=False)
class Network:
    """Float32 weights are the model's own; every other format is a copy."""

    dtype: torch.dtype
    encoder: LeanEncoder
    decoder: LeanDecoder
    loop: Loop

    @classmethod
    def of(
        cls, model: Any, dtype: torch.dtype, rules: Rules, no_speech: int, timing: Timing
    ) -> Self:
        decoder = LeanDecoder(model, dtype, _alignment_heads(model))
        encoder = LeanEncoder(model.get_encoder(), dtype)
        return cls(dtype, encoder, decoder, Loop(decoder, rules, no_speech, timing))

    @property
    def dtype_name(self) -> str:
        return str(self.dtype).removeprefix("torch.")


@dataclass(frozen=True, slots=True)
class Networks:
    """The same object twice where both kinds of windows are computed alike."""

    partial: Network
    final: Network
    timing: Timing
    """Of both."""
    mixed: MixedEncoder | None = None
    """For finals, before the encoder of ``final``: where that alone is float32."""

    @classmethod
    def of(cls, model: Any, options: WhisperOptions, rules: Rules, no_speech: int) -> Self:
        dtype, timing = compute_dtype(options.dtype, model), Timing()
        partial = Network.of(model, dtype, rules, no_speech, timing)
        wanted = final_dtype(options, dtype)
        if wanted is dtype:
            return cls(partial, partial, timing)
        final = Network.of(model, wanted, rules, no_speech, timing)
        is_mixed = (dtype, wanted) == (torch.bfloat16, torch.float32)
        mixed = MixedEncoder(final.encoder, partial.encoder) if is_mixed else None
        return cls(partial, final, timing, mixed)

    @property
    def dtype_names(self) -> str:
        """For people."""
        if self.partial is self.final:
            return self.partial.dtype_name
        return f"{self.partial.dtype_name}, finals {self.final.dtype_name}"


def final_dtype(options: WhisperOptions, dtype: torch.dtype) -> torch.dtype:
    """Exact finals are not left to bfloat16, whose 8 bits turn near ties: ``make bench`` counts
    them. A calibration has measured what it costs, as part of what a short context costs."""
    if options.final_dtype != "auto":
        found: torch.dtype = getattr(torch, options.final_dtype)
        return found
    is_exact = options.final_context == "exact"
    return torch.float32 if is_exact and dtype is torch.bfloat16 else dtype


def _alignment_heads(model: Any) -> Mapping[int, list[int]]:
    """Heads by decoder layer; all of the last half where the checkpoint names none.

    The default is that of openai/whisper.
    """
    named = model.generation_config.to_dict().get("alignment_heads")
    if not named:
        layers, heads = model.config.decoder_layers, model.config.decoder_attention_heads
        named = [(layer, head) for layer in range(layers // 2, layers) for head in range(heads)]
    by_layer: dict[int, list[int]] = {}
    for layer, head in named:
        by_layer.setdefault(int(layer), []).append(int(head))
    return by_layer
