"""Log-mel features and Whisper's encoder at any context: a lean forward over a model's weights.

Owns what happens to audio before the decoder. A context shorter than 30 s is heard by cutting the
sinusoidal positions; each row is filled up with its own silence, as the 30 s are in transformers.
Knows nothing of tokens. At 30 s it equals transformers' encoder, which a test holds.
The residual stream stays float32 whatever the weights are: bfloat16 is for the multiplications.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from streaming.engines import Samples

LOG_FLOOR = -10.0
"""log10 of the smallest energy that the features know."""
LOG_RANGE = 8.0
"""Quieter than the window's maximum by more than this is silence."""
QUERIES_PER_BLOCK = 250
"""In bfloat16: the scores of one block stay in a core's cache."""


class LogMel:
    """Features as of transformers' ``WhisperFeatureExtractor``, at any context."""

    def __init__(self, extractor: Any, device: torch.device) -> None:
        self._fft, self._hop = int(extractor.n_fft), int(extractor.hop_length)
        self._samples_max = int(extractor.n_samples)
        self._window = torch.hann_window(self._fft, device=device)
        filters = torch.from_numpy(extractor.mel_filters).to(device, torch.float32)
        self._filters = filters.T.contiguous()

    def __call__(self, windows: Sequence[Samples], frames: int) -> Tensor:
        """Shape (windows, mels, frames), float32; no window is longer than ``frames``."""
        longest = max(map(len, windows))
        # Zeros behind the end, so that what the transform mirrors there is silence too.
        length = -(-(longest + self._fft) // self._hop) * self._hop
        audio = np.zeros((len(windows), min(length, self._samples_max)), np.float32)
        for row, samples in zip(audio, windows, strict=True):
            row[: len(samples)] = samples.astype(np.float32) / 32768
        heard = self._energies(audio)[..., :frames]
        # Each window is clamped by its own maximum, so neighbours change nothing.
        floor = heard.amax(dim=(1, 2), keepdim=True) - LOG_RANGE
        silence = heard.new_full((*heard.shape[:2], frames - heard.shape[2]), LOG_FLOOR)
        return (torch.maximum(torch.cat([heard, silence], dim=2), floor) + 4.0) / 4.0

    def _energies(self, audio: np.ndarray[Any, np.dtype[np.float32]]) -> Tensor:
        waves = torch.from_numpy(audio).to(self._window.device)
        spectrum = torch.stft(waves, self._fft, self._hop, window=self._window, return_complex=True)
        powers = (spectrum[..., :-1].abs() ** 2).contiguous()
        return (self._filters @ powers).clamp(min=10**LOG_FLOOR).log10()


class Norm:
    """A layer norm in float32 that hands on the dtype of the weights behind it."""

    def __init__(self, module: Any, dtype: torch.dtype) -> None:
        self._weight, self._bias = module.weight.float(), module.bias.float()
        self._shape, self._epsilon, self._dtype = module.normalized_shape, module.eps, dtype

    def __call__(self, x: Tensor) -> Tensor:
        normed = functional.layer_norm(x, self._shape, self._weight, self._bias, self._epsilon)
        return normed.to(self._dtype)


Linear = tuple[Tensor, Tensor | None]
"""Weight and bias, as ``torch.nn.functional.linear`` takes them."""


def linear(module: Any, dtype: torch.dtype, scale: float = 1.0) -> Linear:
    weight, bias = module.weight.detach(), module.bias
    if scale != 1.0:
        weight, bias = weight * scale, None if bias is None else bias.detach() * scale
    return weight.to(dtype), None if bias is None else bias.detach().to(dtype)


def joined(*parts: Linear) -> Linear:
    """Several projections of one input as one; a missing bias is zero."""
    weights = torch.cat([weight for weight, _ in parts])
    biases = [w.new_zeros(w.shape[0]) if b is None else b for w, b in parts]
    return weights, torch.cat(biases)


class Feed:
    """The two-layer part of a transformer layer, with its norm."""

    def __init__(self, layer: Any, dtype: torch.dtype) -> None:
        self._norm = Norm(layer.final_layer_norm, dtype)
        self._up, self._down = linear(layer.fc1, dtype), linear(layer.fc2, dtype)
        self._activation = layer.activation_fn

    def __call__(self, x: Tensor) -> Tensor:
        raised = self._activation(functional.linear(self._norm(x), *self._up))
        return x + functional.linear(raised, *self._down)


class LeanEncoder:
    """transformers' ``WhisperEncoder`` without its modules' overhead, at any context."""

    def __init__(self, encoder: Any, dtype: torch.dtype) -> None:
        self._dtype = dtype
        self._convolutions = [
            (conv.weight.to(dtype), conv.bias.to(dtype), conv.stride[0])
            for conv in (encoder.conv1, encoder.conv2)
        ]
        self._positions: Tensor = encoder.embed_positions.weight.detach().float()
        self.layers = [EncoderLayer(layer, dtype) for layer in encoder.layers]
        self._norm = Norm(encoder.layer_norm, dtype)

    @property
    def device(self) -> torch.device:
        return self._positions.device

    @property
    def positions_max(self) -> int:
        return self._positions.shape[0]

    def __call__(self, features: Tensor) -> Tensor:
        """(rows, mels, frames) to (rows, frames / 2, width), in the weights' dtype."""
        x = self.embedded(features)
        for layer in self.layers:
            x = layer(x)
        return self.normed(x)

    def embedded(self, features: Tensor, first: int = 0) -> Tensor:
        """What the layers read, float32, for features whose frames begin at position ``first``."""
        x = features.to(self._dtype)
        for weight, bias, stride in self._convolutions:
            x = functional.gelu(functional.conv1d(x, weight, bias, stride=stride, padding=1))
        x = x.transpose(1, 2).float()
        return x + self._positions[first : first + x.shape[1]]

    def normed(self, x: Tensor) -> Tensor:
        """What the decoder reads, from the last layer's output."""
        return self._norm(x)


class EncoderLayer:
    """One layer, in the number format of its weights; the residual stream is float32."""

    def __init__(self, layer: Any, dtype: torch.dtype) -> None:
        attention = layer.self_attn
        self._norm = Norm(layer.self_attn_layer_norm, dtype)
        query = linear(attention.q_proj, dtype, attention.scaling)
        key, value = linear(attention.k_proj, dtype), linear(attention.v_proj, dtype)
        self._inputs, self._output = joined(query, key, value), linear(attention.out_proj, dtype)
        self._heads = attention.num_heads
        self._feed = Feed(layer, dtype)

    def __call__(self, x: Tensor) -> Tensor:
        query, key, value = self.asked(x)
        return self.answered(x, attend(query, key, value))

    def asked(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Query, key and value, each of shape (rows, heads, positions, head width)."""
        rows, positions, width = x.shape
        projected = functional.linear(self._norm(x), *self._inputs)
        split = projected.view(rows, positions, 3, self._heads, width // self._heads)
        query, key, value = split.permute(2, 0, 3, 1, 4)
        return query, key, value

    def answered(self, x: Tensor, attended: Tensor) -> Tensor:
        """The layer's output, from its input and what its heads found."""
        merged = attended.transpose(1, 2).reshape(x.shape)
        return self._feed(x + functional.linear(merged, *self._output))


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Over all keys; each of shape (rows, heads, positions, head width)."""
    if query.dtype is not torch.bfloat16 or query.device.type != "cpu":
        return functional.scaled_dot_product_attention(query, key, value, scale=1.0)
    # torch's fused kernel multiplies bfloat16 no faster than float32; plain products do.
    heads = zip(query.flatten(0, 1), key.flatten(0, 1), value.flatten(0, 1), strict=True)
    return torch.stack([_attend_in_blocks(*head) for head in heads]).view(query.shape)


def _attend_in_blocks(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """One head; each of shape (positions, head width). Softmax in float32."""
    keys, values = key.T.contiguous(), value.contiguous()
    blocks: tuple[Tensor, ...] = torch.split(query, QUERIES_PER_BLOCK)
    found = [(b @ keys).softmax(-1, torch.float32).to(values.dtype) @ values for b in blocks]
    return torch.cat(found)
