"""Greedy decoding at any context length, and word error rates; what ``generate`` does, without
its padding."""

from collections.abc import Sequence

import jiwer
import torch
from torch import Tensor
from transformers import WhisperForConditionalGeneration
from transformers.cache_utils import DynamicCache, EncoderDecoderCache

from tools.demo_whisper.batches import bare

TOKENS_MAX = 220


@torch.inference_mode()
def greedy(
    whisper: WhisperForConditionalGeneration,
    states: Tensor,
    given: Sequence[int] | Tensor,
    end: int,
) -> list[list[int]]:
    """Token ids behind ``given``, one for all or (B, L), up to ``end`` for each of (B, T, d_model)
    encoder outputs."""
    count = len(states)
    cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
    ids = given if isinstance(given, Tensor) else torch.tensor([list(given)] * count)
    said: list[list[int]] = [[] for _ in range(count)]
    is_done = torch.zeros(count, dtype=torch.bool)
    for _ in range(TOKENS_MAX):
        out = whisper.model.decoder(
            input_ids=ids, encoder_hidden_states=states, past_key_values=cache, use_cache=True
        )
        best = whisper.proj_out(out.last_hidden_state[:, -1]).argmax(-1)
        is_done |= best == end
        if bool(is_done.all()):
            break
        for row in torch.nonzero(~is_done).flatten().tolist():
            said[row].append(int(best[row]))
        ids = best[:, None]
    return said


def plain(text: str) -> str:
    """Words only: no case, no marks."""
    return " ".join(word for word in (bare(piece) for piece in text.split()) if word)


def wer(references: Sequence[str], hypotheses: Sequence[str]) -> float:
    """Word errors per reference word over all texts, case and marks ignored."""
    return float(
        jiwer.wer([plain(text) for text in references], [plain(text) for text in hypotheses])
    )
