"""Whisper's decoder over a model's weights, with a cache whose rows grow at their own pace.

Owns keys, values and the alignment heads' queries of a batch of rows; each call feeds every row
some tokens behind what it holds. Knows nothing of languages, rules or text. Equals transformers'
decoder and output projection, which a test holds.

Invariants: D1 a row's output depends on its own tokens and encoder states alone; D2 what a row
fed beyond its ``lengths`` (rejected drafts, padding) is overwritten before it is looked at.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from server.engines.whisper_encoder import Feed, Norm, joined, linear

RESCORED = 16
"""With bfloat16 weights: so many best tokens get their logits in float32, as bfloat16 cannot tell
logits of 16 and 16.1 apart."""


@dataclass(slots=True)
class Cache:
    """One batch of rows; the first ``rows`` of every tensor are in use."""

    cross: list[tuple[Tensor, Tensor]]
    """Keys and values of the encoder states, by layer: (rows, heads, positions, head width)."""
    keys: list[Tensor]
    """By layer, shape (rows, heads, length + 1, head width); the last place is for padding."""
    values: list[Tensor]
    queries: dict[int, Tensor]
    """By layer, what its alignment heads asked: shape (rows, heads, length + 1, head width)."""
    aligned: dict[int, list[int]]
    """The alignment heads of those layers."""
    lengths: list[int]
    """Tokens of each row whose keys and values are in place."""

    @property
    def rows(self) -> int:
        return len(self.lengths)

    @property
    def length(self) -> int:
        return self.keys[0].shape[2] - 1

    def drop(self, row: int) -> None:
        """The last row takes the place of ``row``."""
        last = self.rows - 1
        if row != last:
            pairs = [tensor for pair in self.cross for tensor in pair]
            for tensor in (*pairs, *self.keys, *self.values, *self.queries.values()):
                tensor[row].copy_(tensor[last])
        self.lengths[row] = self.lengths[last]
        self.lengths.pop()


class LeanDecoder:
    """transformers' ``WhisperDecoder`` and output projection without their modules' overhead."""

    def __init__(
        self, model: Any, dtype: torch.dtype, heads: Mapping[int, Sequence[int]] | None = None
    ) -> None:
        decoder = model.get_decoder()
        self._dtype = dtype
        self._tokens = decoder.embed_tokens.weight.detach()
        self._positions: Tensor = decoder.embed_positions.weight.detach().float()
        self._scale = float(decoder.embed_scale) if model.config.scale_embedding else 1.0
        self._layers = [
            _DecoderLayer(layer, dtype, list((heads or {}).get(index, ())))
            for index, layer in enumerate(decoder.layers)
        ]
        self._norm = Norm(decoder.layer_norm, torch.float32)
        self._output: Tensor = model.proj_out.weight.detach()
        self._screen = self._output.to(dtype)

    @property
    def positions_max(self) -> int:
        return self._positions.shape[0]

    @property
    def vocabulary(self) -> int:
        return self._output.shape[0]

    def cross(self, states: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Keys and values of encoder states, once for all that is decoded over them."""
        return [layer.cross(states) for layer in self._layers]

    def cache(self, cross: list[tuple[Tensor, Tensor]], length: int) -> Cache:
        """An empty cache for up to ``length`` tokens in each row; it takes ``cross`` over."""
        rows, heads, _, width = cross[0][0].shape
        like = cross[0][0]
        keys, values = (
            [like.new_zeros(rows, heads, length + 1, width) for _ in self._layers] for _ in range(2)
        )
        aligned = {i: layer.aligned for i, layer in enumerate(self._layers) if layer.aligned}
        queries = {
            index: like.new_zeros(rows, len(own), length + 1, width)
            for index, own in aligned.items()
        }
        return Cache(cross, keys, values, queries, aligned, [0] * rows)

    def forward(self, tokens: Sequence[Sequence[int]], cache: Cache) -> Tensor:
        """Feed each row its tokens behind ``cache.lengths``, which the caller then moves on.

        Returns the normed last hidden states, shape (rows, most tokens, width), float32; what
        stands behind a row's own tokens means nothing.
        """
        places = _Places.of(tokens, cache, self._tokens.device)
        longest = max(map(len, tokens))
        padded = [[*row, *[0] * (longest - len(row))] for row in tokens]
        x = functional.embedding(torch.tensor(padded, device=self._tokens.device), self._tokens)
        x = x.float() * self._scale + self._positions[places.embedded]
        for index, layer in enumerate(self._layers):
            x = layer(x, index, cache, places)
        normed: Tensor = self._norm(x)
        return normed

    def logits(self, hidden: Tensor) -> Tensor:
        """(positions, width) to (positions, vocabulary), float32."""
        if self._screen.dtype is torch.float32:
            return functional.linear(hidden, self._screen)
        logits = functional.linear(hidden.to(self._dtype), self._screen).float()
        best = logits.topk(min(RESCORED, logits.shape[1]), dim=1).indices
        exact = torch.einsum("nkw,nw->nk", self._output[best].float(), hidden)
        return logits.scatter_(1, best, exact)


@dataclass(frozen=True, slots=True)
class _Places:
    """Where the tokens of one call go, and what they may look at."""

    rows: Tensor
    """Shape (rows, 1)."""
    stored: Tensor
    """Position of each token in the cache, shape (rows, tokens)."""
    embedded: Tensor
    """The same, within the position embeddings."""
    mask: Tensor | None
    """Added to the scores, shape (rows, 1, tokens, seen); None where everything seen is allowed."""
    seen: int

    @classmethod
    def of(cls, tokens: Sequence[Sequence[int]], cache: Cache, device: torch.device) -> "_Places":
        longest = max(map(len, tokens))
        seen = max(cache.lengths) + longest
        start = torch.tensor(cache.lengths, device=device)[:, None]
        order = torch.arange(longest, device=device)[None]
        position = start + order
        own = torch.tensor([len(row) for row in tokens], device=device)[:, None]
        # Padding is written to a place that nobody looks at.
        stored = torch.where(order < own, position, cache.length)
        seen = min(seen, cache.length)
        is_even = longest == 1 and len(set(cache.lengths)) == 1
        mask = None
        if not is_even:
            hidden = torch.arange(seen, device=device) > position[..., None]
            mask = torch.zeros(hidden.shape, device=device).masked_fill_(hidden, -torch.inf)
            mask = mask[:, None]
        rows = torch.arange(len(tokens), device=device)[:, None]
        return cls(rows, stored, position.clamp(max=cache.length - 1), mask, seen)


class _DecoderLayer:
    def __init__(self, layer: Any, dtype: torch.dtype, aligned: list[int]) -> None:
        own, other = layer.self_attn, layer.encoder_attn
        self.aligned = aligned
        self._heads = own.num_heads
        self._norm = Norm(layer.self_attn_layer_norm, dtype)
        query = linear(own.q_proj, dtype, own.scaling)
        self._inputs = joined(query, linear(own.k_proj, dtype), linear(own.v_proj, dtype))
        self._output = linear(own.out_proj, dtype)
        self._cross_norm = Norm(layer.encoder_attn_layer_norm, dtype)
        self._cross_query = linear(other.q_proj, dtype, other.scaling)
        self._cross_inputs = joined(linear(other.k_proj, dtype), linear(other.v_proj, dtype))
        self._cross_output = linear(other.out_proj, dtype)
        self._feed = Feed(layer, dtype)

    def cross(self, states: Tensor) -> tuple[Tensor, Tensor]:
        projected = functional.linear(states, *self._cross_inputs)
        split = projected.view(*states.shape[:2], 2, self._heads, -1).permute(2, 0, 3, 1, 4)
        # In this order a step reads each head's keys in one go, and no product copies them.
        return split[0].contiguous(), split[1].contiguous()

    def __call__(self, x: Tensor, index: int, cache: Cache, places: _Places) -> Tensor:
        rows, tokens, _ = x.shape
        projected = functional.linear(self._norm(x), *self._inputs)
        query, key, value = projected.view(rows, tokens, 3, self._heads, -1).unbind(2)
        keys, values = cache.keys[index], cache.values[index]
        keys[places.rows, :, places.stored] = key
        values[places.rows, :, places.stored] = value
        seen = places.seen
        attended = attend(query, keys[:rows, :, :seen], values[:rows, :, :seen], places.mask)
        x = x + functional.linear(attended, *self._output)
        query = functional.linear(self._cross_norm(x), *self._cross_query)
        query = query.view(rows, tokens, self._heads, -1)
        if self.aligned:
            cache.queries[index][places.rows, :, places.stored] = query[:, :, self.aligned]
        keys, values = cache.cross[index]
        attended = attend(query, keys[:rows], values[:rows], None)
        return self._feed(x + functional.linear(attended, *self._cross_output))


def attend(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
    """Plain products: for a few queries they are faster than torch's fused kernel.

    ``query``: (rows, tokens, heads, head width); keys and values: (rows, heads, seen, head width);
    returns (rows, tokens, width).
    """
    scores = query.transpose(1, 2) @ keys.transpose(2, 3)
    if mask is not None:
        scores = scores + mask
    weights = scores.softmax(-1, torch.float32).to(values.dtype)
    return (weights @ values).transpose(1, 2).flatten(2)
