"""Which token comes next: Whisper's rules over the logits, for many positions of many rows at once.

Owns suppression and the timestamp rules, counted from each row's own begin, so that drafts are
verified on what ``generate`` would have chosen from. Source of the rules: transformers'
``SuppressTokens…``, ``SuppressTokensAtBegin…`` and ``WhisperTimeStampLogitsProcessor``.
Knows nothing of the model, drafts or text.
"""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from server.engines.whisper_tokens import SpecialTokens


@dataclass(frozen=True, slots=True)
class Place:
    """What the rules allow after some tokens of a transcript."""

    is_first: bool
    text_from: int
    """The smallest legal id below the timestamps; none is legal where ``is_first`` holds and the
    transcript has timestamps."""
    stamps_from: int
    """The smallest legal timestamp; beyond the vocabulary where none is."""


@dataclass(frozen=True, slots=True)
class Sampler:
    """Draws instead of taking the best; the same seed draws the same tokens."""

    temperature: float
    random: random.Random


@dataclass(frozen=True, slots=True)
class Choice:
    token: int
    log_probability: float
    """Of the token among all tokens, before any rule."""
    margin: float = math.inf
    """Logits between what decided and what would have decided otherwise: the two best tokens, or
    the timestamps together and the best text."""


@dataclass(frozen=True, slots=True)
class Rules:
    """The rules of one checkpoint."""

    text_end: int
    first_timestamp: int
    vocabulary: int
    timestamps: bool
    """Whether transcripts have timestamps."""
    suppressed: tuple[int, ...]
    suppressed_first: tuple[int, ...]
    first_stamp_max: int | None
    """The largest timestamp that may stand at the begin."""

    @classmethod
    def of(cls, model: Any, ids: SpecialTokens, *, timestamps: bool) -> Self:
        declared = model.generation_config.to_dict()
        index_max = declared.get("max_initial_timestamp_index")
        no_timestamps = (ids.no_timestamps,) if timestamps else ()
        return cls(
            ids.text_end,
            ids.first_timestamp,
            int(model.config.vocab_size),
            timestamps,
            (*(declared.get("suppress_tokens") or ()), *no_timestamps),
            tuple(declared.get("begin_suppress_tokens") or ()),
            None if index_max is None else ids.first_timestamp + int(index_max),
        )

    def is_stamp(self, token: int) -> bool:
        return token >= self.first_timestamp

    def place(self, tokens: Sequence[int]) -> Place:
        """After ``tokens`` of the transcript."""
        if not self.timestamps or not tokens:
            return Place(not tokens, 0, self.first_timestamp)
        is_last = self.is_stamp(tokens[-1])
        is_penultimate = len(tokens) < 2 or self.is_stamp(tokens[-2])
        if is_last and is_penultimate:
            return Place(False, 0, self.vocabulary)
        latest = next((t for t in reversed(tokens) if self.is_stamp(t)), None)
        if is_last:
            return Place(False, self.text_end, tokens[-1])
        return Place(False, 0, self.first_timestamp if latest is None else latest + 1)

    def choose(
        self, logits: Tensor, places: Sequence[Place], samplers: Sequence[Sampler | None]
    ) -> list[Choice]:
        """``logits``: shape (places, vocabulary), float32; changed in place."""
        totals = logits.logsumexp(dim=1)
        margins = self._apply(logits, places)
        best = logits.topk(2, dim=1)
        margins = torch.minimum(margins, best.values[:, 0] - best.values[:, 1])
        tokens = best.indices[:, 0]
        for index, sampler in enumerate(samplers):
            if sampler is not None:
                tokens[index] = _drawn(logits[index], sampler)
        # What was chosen is legal, so its logit is still there.
        chosen = logits.gather(1, tokens[:, None])[:, 0] - totals
        found = zip(tokens.tolist(), chosen.tolist(), margins.tolist(), strict=True)
        return [Choice(*one) for one in found]

    def _apply(self, logits: Tensor, places: Sequence[Place]) -> Tensor:
        """Hides what is not legal; returns by how much text or timestamps won, per place."""
        first = [index for index, place in enumerate(places) if place.is_first]
        if first and self.suppressed_first:
            logits[torch.tensor(first)[:, None], list(self.suppressed_first)] = -torch.inf
        if self.suppressed:
            logits.index_fill_(1, torch.tensor(self.suppressed, device=logits.device), -torch.inf)
        margins = logits.new_full((len(places),), torch.inf)
        if not self.timestamps:
            return margins
        text, stamps = logits[:, : self.first_timestamp], logits[:, self.first_timestamp :]
        for index, place in enumerate(places):
            if place.is_first:
                text[index] = -torch.inf
                if self.first_stamp_max is not None:
                    stamps[index, self.first_stamp_max + 1 - self.first_timestamp :] = -torch.inf
                continue
            if place.text_from:
                text[index, : place.text_from] = -torch.inf
            if place.stamps_from > self.first_timestamp:
                stamps[index, : place.stamps_from - self.first_timestamp] = -torch.inf
        # Timestamps together against the best single text token.
        lead = stamps.logsumexp(dim=1) - text.amax(dim=1)
        text.masked_fill_((lead > 0)[:, None], -torch.inf)
        # Where neither is legal a comparison of nothing with nothing decides nothing.
        return torch.fmin(margins, lead.abs())


def _drawn(logits: Tensor, sampler: Sampler) -> int:
    shares = (logits.double() / sampler.temperature).softmax(dim=0).cumsum(dim=0)
    drawn = int(torch.searchsorted(shares, sampler.random.random(), right=True))
    legal = torch.nonzero(logits > -torch.inf)[:, 0]
    return min(drawn, int(legal[-1]))
