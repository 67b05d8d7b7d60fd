"""Which number format the encoder computes in: bfloat16 where a measurement says that it pays.

Owns the start-up measurement. Processors without bfloat16 units emulate it at a fraction of
float32's speed, and no flag tells how fast the rest are.
"""

import time
from typing import Any

import torch

from server.engines.whisper_encoder import LeanEncoder

SPEEDUP_MIN = 1.25
"""Less could be noise, and the answer should be the same at every start."""
POSITIONS = 500
ROUNDS = 3
SECONDS_MAX = 1.0
"""Of the whole measurement, as long as a single round does not take longer."""


def compute_dtype(wanted: str, model: Any) -> torch.dtype:
    """The dtype of that name; ``auto`` is measured on a processor, float16 on a GPU."""
    if wanted != "auto":
        found: torch.dtype = getattr(torch, wanted)
        return found
    if model.device.type != "cpu":
        return torch.float16
    return torch.bfloat16 if _speedup(model) >= SPEEDUP_MIN else torch.float32


def _speedup(model: Any) -> float:
    """How much faster the model's own encoder is in bfloat16, the best round of each counting."""
    positions = min(POSITIONS, model.config.max_source_positions)
    features = torch.zeros(1, model.config.num_mel_bins, 2 * positions)
    until = time.perf_counter() + SECONDS_MAX
    encoders = [LeanEncoder(model.get_encoder(), t) for t in (torch.float32, torch.bfloat16)]
    best = [float("inf"), float("inf")]
    with torch.inference_mode():
        # The first round warms up, and counts only where there is no time for another.
        for round_ in range(1 + ROUNDS):
            if round_ > 1 and time.perf_counter() > until:
                break
            for index, encoder in enumerate(encoders):
                started = time.perf_counter()
                encoder(features)
                taken = time.perf_counter() - started
                best[index] = taken if round_ == 0 else min(best[index], taken)
    return best[0] / best[1]
