"""The ``pyannote`` diarizer: a speaker-diarization pipeline of pyannote.audio, chunk by chunk.

Chunks are the windows of the pipeline's own segmentation model on the pipeline's own grid over all
audio, so that each second goes through the models as often as in the pipeline on a file, and no
more. What it says of a chunk is what the pipeline finds there: activity of its local speakers,
several at once where they overlap, and an embedding of each. Grouping is the pipeline's own
clustering class with its own hyper-parameters, given the same numbers in the same order. The
session stitches the answers as the pipeline does. Nothing is kept between calls.
Where it differs: pipelines without powerset segmentation stitch probabilities, we zeros and ones.
Invariant Y1: embeddings are finite; a local speaker without one is left out.
"""

import math
from collections.abc import Sequence
from typing import Any, Protocol, Self, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from server.engines.pyannote_loading import load_pipeline
from server.engines.registry import EngineSpec
from streaming.engines import (
    ClusterQuestion,
    Clusters,
    DiarizerProfile,
    FrameGrid,
    Observation,
    SpeakerChunk,
)
from streaming.timeline import SAMPLE_RATE_HZ, samples_from_ms

BATCH_CHUNKS = 16
CHUNK_MS_MIN = 600
"""Less holds too little voice to tell who it is."""
ALONE_SHARE_MIN = 0.2
"""Of a chunk: pyannote's own bound for a voice that may shape the groups
(``BaseClustering.filter_embeddings``); others are given to the nearest group."""
_FRAMES_PER_SPEAKER = 10
"""Of the activity that clustering is shown: it looks at shares alone, a tenth is fine enough."""


@runtime_checkable
class _TwoStepModel(Protocol):
    """An embedding model that can look at a chunk once, for all that speak in it."""

    def forward_frames(self, waveforms: Any) -> Any: ...

    def forward_embedding(self, frames: Any, weights: Any) -> Any: ...


class PyannoteDiarizer:
    """One pipeline, from a folder or the hub."""

    def __init__(self, name: str, pipeline: Any) -> None:
        # Imported here: it takes seconds, and only after ``prepare_torch``.
        import torch
        from pyannote.audio.pipelines.speaker_verification import (
            PyannoteAudioPretrainedSpeakerEmbedding,
        )
        from pyannote.audio.utils.signal import binarize
        from pyannote.core import SlidingWindow, SlidingWindowFeature

        self._torch, self._binarize = torch, binarize
        self._window, self._feature = SlidingWindow, SlidingWindowFeature
        self._pipeline = pipeline
        segmentation = pipeline._segmentation
        self._is_powerset = bool(segmentation.model.specifications.powerset)
        self._chunk_samples = int(segmentation.model.audio.get_num_samples(segmentation.duration))
        self._frames = segmentation.model.receptive_field
        embedding = pipeline._embedding
        is_own = isinstance(embedding, PyannoteAudioPretrainedSpeakerEmbedding)
        # Models of other toolkits are asked once per speaker.
        self._embedding_model = embedding.model_ if is_own else None
        self._embedding_samples_min: int | None = None
        self._hop_samples = max(1, round(segmentation.step * SAMPLE_RATE_HZ))
        self._dimension = int(pipeline._embedding.dimension)
        self.description = f"pyannote {name}"

    @classmethod
    def from_spec(cls, spec: EngineSpec) -> Self:
        """Raises: EngineUnavailable."""
        return cls(*load_pipeline(spec))

    @property
    def profile(self) -> DiarizerProfile:
        segmentation, frames = self._pipeline._segmentation, self._frames
        return DiarizerProfile(
            chunk_samples=self._chunk_samples,
            hop_samples=self._hop_samples,
            chunk_samples_min=min(self._chunk_samples, samples_from_ms(CHUNK_MS_MIN)),
            grid=FrameGrid(
                chunk_seconds=float(segmentation.duration),
                hop_seconds=float(segmentation.step),
                frame_seconds=float(frames.duration),
                frame_hop_seconds=float(frames.step),
                pause_seconds_max=float(self._pipeline.segmentation.min_duration_off),
            ),
        )

    def warm_up(self) -> None:
        noise = np.random.default_rng(0).normal(0, 1_000, self._chunk_samples).astype(np.int16)
        self.observe([SpeakerChunk(noise)])
        rows = np.random.default_rng(0).normal(0, 1, (4, self._dimension)).astype(np.float32)
        self.cluster([ClusterQuestion(rows, np.ones(len(rows), np.float32))])

    def observe(self, chunks: Sequence[SpeakerChunk]) -> list[Observation]:
        """Raises: ValueError for a chunk longer than the pipeline's window."""
        longest = max((len(chunk.samples) for chunk in chunks), default=0)
        if longest > self._chunk_samples:
            raise ValueError(f"a chunk of {longest} samples; this pipeline's window is shorter")
        found: list[Observation] = []
        for start in range(0, len(chunks), BATCH_CHUNKS):
            found += self._observe_batch(chunks[start : start + BATCH_CHUNKS])
        return found

    def _observe_batch(self, chunks: Sequence[SpeakerChunk]) -> list[Observation]:
        waveforms = self._waveforms(chunks)
        segmentation = self._pipeline._segmentation
        activities = self._active(segmentation.infer(waveforms))
        embeddings = self._embeddings(waveforms, self._masks(activities))
        return [_observation(*found) for found in zip(activities, embeddings, strict=True)]

    def _waveforms(self, chunks: Sequence[SpeakerChunk]) -> Any:
        """In memory, shape (chunks, 1, samples), silence behind short ones."""
        waveforms = np.zeros((len(chunks), 1, self._chunk_samples), np.float32)
        for waveform, chunk in zip(waveforms, chunks, strict=True):
            waveform[0, : len(chunk.samples)] = chunk.samples / np.float32(32768)
        return self._torch.from_numpy(waveforms)

    def _active(self, scores: NDArray[np.float32]) -> NDArray[np.float32]:
        """Zeros and ones, shape (chunks, frames, local speakers), as the pipeline makes them."""
        if not self._is_powerset:
            segmentation = self._pipeline._segmentation
            window = self._window(duration=segmentation.duration, step=segmentation.step)
            onset = self._pipeline.segmentation.threshold
            shown = self._feature(np.nan_to_num(scores), window)
            scores = self._binarize(shown, onset=onset, initial_state=False).data
        return np.nan_to_num(np.asarray(scores, np.float32))

    def _masks(self, activities: NDArray[np.float32]) -> NDArray[np.float32]:
        """Which frames an embedding is made of, shape (chunks, local speakers, frames).

        As ``SpeakerDiarization.get_embeddings``: those without overlap, if there are enough.
        """
        masks = activities.transpose(0, 2, 1)
        if not self._pipeline.embedding_exclude_overlap:
            return np.ascontiguousarray(masks)
        clean = masks * (activities.sum(axis=2) < 2)[:, None]
        is_enough = clean.sum(axis=2) > self._clean_frames_min(masks.shape[2])
        return np.asarray(np.where(is_enough[:, :, None], clean, masks), np.float32)

    def _clean_frames_min(self, frames: int) -> int:
        if self._embedding_samples_min is None:
            self._embedding_samples_min = int(self._pipeline._embedding.min_num_samples)
        seconds = float(self._pipeline._segmentation.duration)
        samples = seconds * float(self._pipeline._embedding.sample_rate)
        return math.ceil(frames * self._embedding_samples_min / samples)

    def _embeddings(self, waveforms: Any, masks: NDArray[np.float32]) -> NDArray[np.float32]:
        """Shape (chunks, local speakers, dimensions); only of those who speak, others are zero."""
        rows = np.zeros((*masks.shape[:2], self._dimension), np.float32)
        chunks = np.flatnonzero(masks.any(axis=(1, 2)))
        if not len(chunks):
            return rows
        model = self._pipeline._embedding
        weights = self._torch.from_numpy(masks)
        if isinstance(self._embedding_model, _TwoStepModel):
            with self._torch.inference_mode():
                frames = self._embedding_model.forward_frames(waveforms[chunks].to(model.device))
                found = self._embedding_model.forward_embedding(
                    frames, weights[chunks].to(model.device)
                )
            rows[chunks] = found.cpu().numpy()
            return rows
        spoken, local = np.nonzero(masks.any(axis=2))
        rows[spoken, local] = model(waveforms[spoken], masks=weights[spoken, local])
        return rows

    def cluster(self, questions: Sequence[ClusterQuestion]) -> list[Clusters]:
        return [Clusters(self._group(question)) for question in questions]

    def _group(self, question: ClusterQuestion) -> NDArray[np.int64]:
        items = len(question.embeddings)
        if items < 2:
            return np.zeros(items, np.int64)
        chunk, local = _places(question)
        shaping = _shaping(question)
        groups_min, groups_max = _bounds(question, int(shaping.sum()))
        embeddings = _by_chunk(question.embeddings, chunk, local)
        groups, _, _ = self._pipeline.clustering(
            embeddings=embeddings,
            segmentations=self._shown_activity(chunk, local, shaping),
            num_clusters=None,
            min_clusters=groups_min,
            max_clusters=groups_max,
        )
        return _numbered(np.asarray(groups[chunk, local], np.int64))

    def _shown_activity(
        self, chunk: NDArray[np.int64], local: NDArray[np.int64], shaping: NDArray[np.bool_]
    ) -> Any:
        """Activity in which those who shape the groups speak alone for long enough, others less."""
        speakers = int(local.max()) + 1
        frames = _FRAMES_PER_SPEAKER * speakers
        activity = np.zeros((int(chunk.max()) + 1, frames, speakers))
        used = np.zeros(len(activity), np.int64)
        long = math.ceil(ALONE_SHARE_MIN * frames)
        for c, s, is_shaping in zip(chunk.tolist(), local.tolist(), shaping, strict=True):
            first = min(int(used[c]), frames - 1)
            used[c] = first + (long if is_shaping else 1)
            activity[c, first : used[c], s] = 1
        return self._feature(activity, self._window(duration=1.0, step=1.0))


def _observation(activity: NDArray[np.float32], embeddings: NDArray[np.float32]) -> Observation:
    kept = activity.any(axis=0) & np.isfinite(embeddings).all(axis=1)
    return Observation(activity[:, kept], embeddings[kept])


def _places(question: ClusterQuestion) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Chunk and local speaker of each item: those that start together are of one chunk."""
    items = np.arange(len(question.embeddings))
    if question.starts is None:
        return items, np.zeros_like(items)
    is_first = np.diff(question.starts, prepend=question.starts[0] - 1) != 0
    chunk = np.cumsum(is_first) - 1
    return chunk, items - np.flatnonzero(is_first)[chunk]


def _shaping(question: ClusterQuestion) -> NDArray[np.bool_]:
    """Which embeddings shape the groups; all of them where there would be too few."""
    if question.alone is None:
        return np.ones(len(question.embeddings), np.bool_)
    shaping = np.asarray(question.alone >= np.float32(ALONE_SHARE_MIN), np.bool_)
    return shaping if shaping.sum() >= 2 else np.ones(len(shaping), np.bool_)


def _by_chunk(
    rows: NDArray[np.float32], chunk: NDArray[np.int64], local: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Shape (chunks, local speakers, dimensions).

    Places of nobody hold the chunk's first row: they count as inactive, and must be finite, or
    VBx's distances are not.
    """
    placed = np.empty((int(chunk.max()) + 1, int(local.max()) + 1, rows.shape[1]))
    placed[:] = rows[local == 0][:, None]
    placed[chunk, local] = rows
    return placed


def _numbered(groups: NDArray[np.int64]) -> NDArray[np.int64]:
    """From 0 without gaps in the pipeline's order; -1 for those that it leaves out (-2)."""
    numbers = np.full(len(groups), -1, np.int64)
    numbers[groups >= 0] = np.unique(groups[groups >= 0], return_inverse=True)[1]
    return numbers


def _bounds(question: ClusterQuestion, shaping: int) -> tuple[int, float]:
    """The hints, as far as they make sense together; infinite where there is no upper one."""
    groups_max = question.speakers_max or math.inf
    groups_min = min(question.speakers_min or 1, groups_max, shaping)
    return max(1, int(groups_min)), max(1, groups_max)
