"""The model's shape, and the loss that does not care which speaker comes first.

Powerset classes (Plaquet and Bredin 2023): none, each speaker, each pair, in pyannote's order.
"""

from itertools import permutations
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from server.engines.segmentation import ARCHITECTURE, build_segmentation
from tools.segmentation.mixes import AT_ONCE_MAX, CHUNK_SAMPLES, CHUNK_SECONDS, SPEAKERS_MAX

CONFIG: dict[str, Any] = {
    "architecture": ARCHITECTURE,
    "sample_rate_hz": 16_000,
    "chunk_seconds": CHUNK_SECONDS,
    "speakers_max": SPEAKERS_MAX,
    "speakers_at_once_max": AT_ONCE_MAX,
    # Twice pyannote's stride: a frame every 33.75 ms, about Silero's, at half the cost.
    "sincnet": {"stride": 20},
    "lstm": {"hidden_size": 128, "num_layers": 2, "bidirectional": True, "dropout": 0.0},
    "linear": {"hidden_size": 64, "num_layers": 2},
}


def build() -> Any:
    """An untrained model; ``torch.manual_seed`` decides its weights."""
    return build_segmentation(CONFIG)


def frame_centres(model: Any) -> npt.NDArray[np.int64]:
    """The sample in the middle of each frame of a chunk."""
    frames = int(model.num_frames(CHUNK_SAMPLES))
    return np.array([round(model.receptive_field_center(frame)) for frame in range(frames)])


def powerset_mapping() -> torch.Tensor:
    """Shape (classes, speakers), of zeros and ones."""
    from pyannote.audio.utils.powerset import Powerset

    mapping: torch.Tensor = Powerset(SPEAKERS_MAX, AT_ONCE_MAX).mapping
    return mapping


def classes_of(activity: torch.Tensor, mapping: torch.Tensor) -> torch.Tensor:
    """Class of each frame. Shapes (batch, speakers, frames) and (batch, frames)."""
    powers = 2 ** torch.arange(activity.shape[1])
    lookup = torch.zeros(2 ** activity.shape[1], dtype=torch.long)
    lookup[(mapping.long() * powers).sum(1)] = torch.arange(len(mapping))
    return lookup[(activity.long() * powers[None, :, None]).sum(1)]


def permuted_loss(
    scores: torch.Tensor, activity: torch.Tensor, mapping: torch.Tensor
) -> torch.Tensor:
    """Mean cross-entropy per frame under the best order of speakers of each chunk.

    ``scores``: log-probabilities (batch, frames, classes); ``activity`` (batch, speakers, frames).
    """
    orders = permutations(range(activity.shape[1]))
    losses = []
    for order in orders:
        target = classes_of(activity[:, list(order)], mapping)
        chosen = scores.gather(2, target[:, :, None])[:, :, 0]
        losses.append(-chosen.mean(1))
    return torch.stack(losses).amin(0).mean()
