"""GE2E speaker embeddings as a model of pyannote.audio, so that its pipelines can use them.

The frames in which a speaker is active are put one behind the other, as Resemblyzer does with
speech; windows of the length that GE2E was trained on are embedded, and their mean is the answer.
Import after ``prepare_torch``.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from pyannote.audio import Model
from pyannote.audio.core.task import Problem, Resolution, Specifications

from server.engines.ge2e import DIMENSIONS, SpeakerEncoder, mel_spectrogram

WINDOW_FRAMES = 160
WINDOW_HOP_FRAMES = 80
"""Of 10 ms: 1.6 s every 0.8 s."""


class Ge2eModel(Model):  # type: ignore[misc]
    """Waveforms and one mask per speaker → embeddings of length 1, NaN where nobody is heard.

    A few frames get one too, however little it tells: pyannote's agglomerative clustering gives
    whoever has none to its first group.
    """

    def __init__(self, encoder: SpeakerEncoder) -> None:
        super().__init__(sample_rate=16_000, num_channels=1)
        self._encoder = encoder
        self.specifications = Specifications(
            problem=Problem.REPRESENTATION, resolution=Resolution.CHUNK, duration=10.0
        )

    @property
    def dimension(self) -> int:
        return DIMENSIONS

    def forward(self, waveforms: Any, weights: Any = None) -> Any:
        """Shapes (batch, 1, samples), (batch, frames) → (batch, dimensions)."""
        frames = self.forward_frames(waveforms)
        if weights is None:
            weights = torch.ones(len(frames), 1)
        return self.forward_embedding(frames, weights[:, None])[:, 0]

    def forward_frames(self, waveforms: Any) -> Any:
        """Shape (batch, frames, bands)."""
        return mel_spectrogram(waveforms[:, 0])

    def forward_embedding(self, frames: Any, weights: Any) -> Any:
        """Shapes (batch, frames, bands), (batch, speakers, frames) → (batch, speakers,
        dimensions); the two kinds of frames may differ in number."""
        active = torch.nn.functional.interpolate(weights, size=frames.shape[1]) > 0.5
        windows: list[Any] = []
        owners: list[int] = []
        for owner, mask in enumerate(active.flatten(0, 1)):
            heard = frames[owner // active.shape[1]][mask]
            for window in _windows(heard):
                windows.append(window)
                owners.append(owner)
        found = torch.full((active.shape[0] * active.shape[1], DIMENSIONS), float("nan"))
        if windows:
            units = self._encoder.embed_frames(windows)
            index = torch.from_numpy(np.array(owners))
            sums = torch.zeros_like(found).index_add_(0, index, units)
            spoken = torch.unique(index)
            found[spoken] = torch.nn.functional.normalize(sums[spoken], dim=1)
        return found.reshape(active.shape[0], active.shape[1], DIMENSIONS)


def _windows(heard: Any) -> Iterator[Any]:
    count = len(heard)
    if not count:
        return
    last = max(0, count - WINDOW_FRAMES)
    for start in sorted({*range(0, last, WINDOW_HOP_FRAMES), last}):
        yield heard[start : start + WINDOW_FRAMES]
