"""What the model and Silero VAD hear in a recording, on one grid of frames.

Owns how windows are put together. The model's hard classes are averaged over the windows that see
a frame, as pyannote's pipeline does; Silero's probabilities become speech by a rule of four
numbers. Knows no truth.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from server.engines.segmentation import load_segmentation
from server.engines.silero import SileroVoiceActivity, packaged_model
from streaming.engines import ACTIVITY_FRAME_SAMPLES, ActivityWindow
from tools.demo_whisper.synthesis import SAMPLE_RATE_HZ, Samples
from tools.segmentation.judging import Frames
from tools.segmentation.mixes import CHUNK_SAMPLES
from tools.segmentation.model import frame_centres, powerset_mapping

FRAME_SAMPLES = SAMPLE_RATE_HZ // 100
PIPELINE_HOP_SAMPLES = CHUNK_SAMPLES // 10
"""pyannote's default: every frame is heard ten times."""
BATCH_CHUNKS = 16

Counts = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class SileroRule:
    """Probabilities → speech: hysteresis, then short pauses are bridged."""

    threshold_on: float = 0.5
    threshold_off: float = 0.35
    bridge_ms: int = 0


class Segmenter:
    """The model in a folder, on one thread."""

    def __init__(self, folder: Path) -> None:
        self._model: Any = load_segmentation(folder, threads=1)
        self._mapping = powerset_mapping().bool().numpy()
        self._centres = frame_centres(self._model)

    def local(self, samples: Samples, hop: int = CHUNK_SAMPLES) -> list[tuple[int, Frames]]:
        """Start of each window in frames, and shape (local speakers, frames); the last window may
        be shorter."""
        starts = range(0, max(1, len(samples) - CHUNK_SAMPLES + hop), hop)
        heard: list[tuple[int, Frames]] = []
        for first in range(0, len(starts), BATCH_CHUNKS):
            part = starts[first : first + BATCH_CHUNKS]
            for start, active in zip(part, self._active(samples, part), strict=True):
                frames = -(-min(CHUNK_SAMPLES, len(samples) - start) // FRAME_SAMPLES)
                heard.append((start // FRAME_SAMPLES, active[:, :frames]))
        return heard

    def _active(self, samples: Samples, starts: range) -> Iterator[Frames]:
        windows = np.zeros((len(starts), 1, CHUNK_SAMPLES), np.float32)
        for row, start in zip(windows, starts, strict=True):
            window = samples[start : start + CHUNK_SAMPLES]
            row[0, : len(window)] = window
        with torch.inference_mode():
            classes = self._model(torch.from_numpy(windows)).argmax(2).numpy()
        nearest = _nearest(self._centres)
        for row in classes:
            yield self._mapping[row][nearest].T

    def speakers_at_once(self, samples: Samples, hop: int = PIPELINE_HOP_SAMPLES) -> Counts:
        """How many speak in each frame, averaged over windows."""
        frames = -(-len(samples) // FRAME_SAMPLES)
        totals, windows = np.zeros(frames), np.zeros(frames)
        for start, active in self.local(samples, hop):
            totals[start : start + active.shape[1]] += active.sum(axis=0)
            windows[start : start + active.shape[1]] += 1
        return totals / np.maximum(windows, 1)


def _nearest(centres: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The model's frame that is nearest to each frame of the grid."""
    middles = np.arange(CHUNK_SAMPLES // FRAME_SAMPLES) * FRAME_SAMPLES + FRAME_SAMPLES // 2
    frames = np.round((middles - centres[0]) / (centres[1] - centres[0]))
    return np.asarray(np.clip(frames, 0, len(centres) - 1), np.int64)


class SileroListener:
    """Silero VAD as captiond runs it, on one thread."""

    def __init__(self) -> None:
        self._engine = SileroVoiceActivity(packaged_model(), threads=1)

    def probabilities(self, samples: Samples) -> npt.NDArray[np.float32]:
        """One per 32 ms."""
        pcm = np.clip(np.rint(samples * 32_768), -32_768, 32_767).astype(np.int16)
        pcm = np.pad(pcm, (0, -len(pcm) % ACTIVITY_FRAME_SAMPLES))
        return self._engine.detect([ActivityWindow(pcm, state=None)])[0].probabilities


def silero_speech(
    probabilities: npt.NDArray[np.float32], rule: SileroRule, length: int
) -> npt.NDArray[np.bool_]:
    """Shape (frames,), for ``length`` samples."""
    on, is_speech = np.zeros(len(probabilities), np.bool_), False
    for index, probability in enumerate(probabilities):
        is_speech = probability >= (rule.threshold_off if is_speech else rule.threshold_on)
        on[index] = is_speech
    middles = np.arange(-(-length // FRAME_SAMPLES)) * FRAME_SAMPLES + FRAME_SAMPLES // 2
    framed = on[np.minimum(middles // ACTIVITY_FRAME_SAMPLES, len(on) - 1)]
    return bridged(framed, rule.bridge_ms * SAMPLE_RATE_HZ // 1000 // FRAME_SAMPLES)


def bridged(speech: npt.NDArray[np.bool_], frames_max: int) -> npt.NDArray[np.bool_]:
    """Pauses of at most ``frames_max`` between two stretches of speech are speech."""
    filled = speech.copy()
    loud = np.flatnonzero(speech)
    for before, after in pairwise(loud):
        if after - before - 1 <= frames_max:
            filled[before:after] = True
    return filled
