"""The ``pyannote`` diarizer: a speaker-diarization pipeline of pyannote.audio, window by window.

A chunk is one window of the pipeline's own segmentation model, at the pipeline's own step. What it
says of a chunk is what the pipeline itself finds there: activity of its local speakers, several at
once where they overlap, and an embedding of each. Grouping is the pipeline's own clustering class
with its own hyper-parameters.
Two things differ from the pipeline on a whole recording, because a question carries embeddings
alone: two local speakers of one chunk may fall into one group, and whether an embedding has enough
speech behind it to shape the groups is told from its seconds. Nothing is kept between calls.
Invariant Y1: embeddings are finite; a local speaker without one is left out.
"""

import math
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from server.engines.pyannote_loading import load_pipeline
from server.engines.registry import EngineSpec
from streaming.engines import (
    ClusterQuestion,
    Clusters,
    DiarizerProfile,
    Observation,
    SpeakerChunk,
)
from streaming.timeline import SAMPLE_RATE_HZ, samples_from_ms

CHUNK_MS_MIN = 600
"""Less holds too little voice to tell who it is."""
ACTIVE_FRACTION_MIN = 0.2
"""Of a step: pyannote's own bound for a voice that may shape the groups
(``BaseClustering.filter_embeddings``); others are given to the nearest group."""
_FRAMES = 10
"""Of the activity that clustering is shown per embedding: all, or less than its bound."""


class PyannoteDiarizer:
    """One pipeline, from a folder or the hub."""

    def __init__(self, name: str, pipeline: Any) -> None:
        # Imported here: it takes seconds, and only after ``prepare_torch``.
        import torch
        from pyannote.audio.utils.signal import binarize
        from pyannote.core import SlidingWindow, SlidingWindowFeature

        self._torch, self._binarize = torch, binarize
        self._window, self._feature = SlidingWindow, SlidingWindowFeature
        self._pipeline = pipeline
        segmentation = pipeline._segmentation
        self._is_powerset = bool(segmentation.model.specifications.powerset)
        self._chunk_samples = int(segmentation.model.audio.get_num_samples(segmentation.duration))
        self._hop_samples = max(1, round(segmentation.step * SAMPLE_RATE_HZ))
        self._dimension = int(pipeline._embedding.dimension)
        self.description = f"pyannote {name}"

    @classmethod
    def from_spec(cls, spec: EngineSpec) -> Self:
        """Raises: EngineUnavailable."""
        return cls(*load_pipeline(spec))

    @property
    def profile(self) -> DiarizerProfile:
        return DiarizerProfile(
            chunk_samples=self._chunk_samples,
            hop_samples=self._hop_samples,
            chunk_samples_min=min(self._chunk_samples, samples_from_ms(CHUNK_MS_MIN)),
        )

    def warm_up(self) -> None:
        noise = np.random.default_rng(0).normal(0, 1_000, self._chunk_samples).astype(np.int16)
        self.observe([SpeakerChunk(noise)])
        rows = np.random.default_rng(0).normal(0, 1, (4, self._dimension)).astype(np.float32)
        self.cluster([ClusterQuestion(rows, np.ones(len(rows), np.float32))])

    def observe(self, chunks: Sequence[SpeakerChunk]) -> list[Observation]:
        """Raises: ValueError for a chunk longer than the pipeline's window."""
        return [self._observe(chunk) for chunk in chunks]

    def _observe(self, chunk: SpeakerChunk) -> Observation:
        samples = len(chunk.samples)
        if samples > self._chunk_samples:
            raise ValueError(f"a chunk of {samples} samples; this pipeline's window is shorter")
        file = {"waveform": self._waveform(chunk), "sample_rate": SAMPLE_RATE_HZ, "uri": "chunk"}
        binary = self._active(self._pipeline.get_segmentations(file))
        activity = np.nan_to_num(np.asarray(binary.data[0], np.float32))
        # The pipeline pads a short chunk with silence up to its window.
        frames = max(1, round(len(activity) * samples / self._chunk_samples))
        activity = activity[:frames]
        if not activity.any():
            return Observation(activity[:, :0], np.zeros((0, self._dimension), np.float32))
        exclude_overlap = self._pipeline.embedding_exclude_overlap
        embeddings = np.asarray(
            self._pipeline.get_embeddings(file, binary, exclude_overlap=exclude_overlap)[0],
            np.float32,
        )
        kept = activity.any(axis=0) & np.isfinite(embeddings).all(axis=1)
        return Observation(activity[:, kept], embeddings[kept])

    def _waveform(self, chunk: SpeakerChunk) -> Any:
        """In memory, shape (1, samples): pyannote never opens a file."""
        waveform = np.zeros((1, max(1, len(chunk.samples))), np.float32)
        waveform[0, : len(chunk.samples)] = chunk.samples / np.float32(32768)
        return self._torch.from_numpy(waveform)

    def _active(self, segmentations: Any) -> Any:
        """Zeros and ones, as the pipeline makes them."""
        if self._is_powerset:
            return segmentations
        onset = self._pipeline.segmentation.threshold
        return self._binarize(segmentations, onset=onset, initial_state=False)

    def cluster(self, questions: Sequence[ClusterQuestion]) -> list[Clusters]:
        return [Clusters(self._group(question)) for question in questions]

    def _group(self, question: ClusterQuestion) -> NDArray[np.int64]:
        items = len(question.embeddings)
        if items < 2:
            return np.zeros(items, np.int64)
        shaping = self._shaping(question.weights_seconds)
        groups_min, groups_max = _bounds(question, int(shaping.sum()))
        groups, _, _ = self._pipeline.clustering(
            # A copy, because some classes normalise in place.
            embeddings=question.embeddings.astype(np.float64)[:, None],
            segmentations=self._shown_activity(shaping),
            num_clusters=None,
            min_clusters=groups_min,
            max_clusters=groups_max,
        )
        return np.asarray(np.unique(groups[:, 0], return_inverse=True)[1], np.int64)

    def _shaping(self, weights_seconds: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Which embeddings shape the groups; all of them where there would be too few."""
        seconds_min = ACTIVE_FRACTION_MIN * self._hop_samples / SAMPLE_RATE_HZ
        shaping = np.asarray(weights_seconds >= seconds_min, np.bool_)
        return shaping if shaping.sum() >= 2 else np.ones(len(shaping), np.bool_)

    def _shown_activity(self, shaping: NDArray[np.bool_]) -> Any:
        """One chunk with one speaker per embedding, speaking enough, or too little."""
        frames = np.zeros((len(shaping), _FRAMES, 1))
        frames[:, 0] = 1
        frames[shaping] = 1
        return self._feature(frames, self._window(duration=1.0, step=1.0))


def _bounds(question: ClusterQuestion, shaping: int) -> tuple[int, float]:
    """The hints, as far as they make sense together; infinite where there is no upper one."""
    groups_max = question.speakers_max or math.inf
    groups_min = min(question.speakers_min or 1, groups_max, shaping)
    return max(1, int(groups_min)), max(1, groups_max)
