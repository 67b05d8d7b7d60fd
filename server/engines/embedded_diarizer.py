"""The ``embedded`` diarizer: GE2E embeddings of short chunks, grouped into voices.

Needs no token and no download. One speaker per chunk is assumed, so overlapped speech goes to
whoever dominates it. Nothing is kept between calls.
"""

from collections.abc import Sequence
from typing import Self

import numpy as np

from server.engines.embedded_grouping import group_voices, unit_rows
from server.engines.embedded_merging import Grouping
from server.engines.errors import EngineUnavailable
from server.engines.ge2e import SpeakerEncoder, find_weights
from server.engines.registry import EngineSpec, check_options
from server.engines.torch_setup import prepare_torch
from streaming.engines import (
    ClusterQuestion,
    Clusters,
    DiarizerProfile,
    Observation,
    Samples,
    SpeakerChunk,
)
from streaming.timeline import samples_from_ms

CHUNK_MS = 1_600
"""The length that GE2E was trained on. 2.4 s and 3.2 s mix speakers in quick exchanges."""
HOP_MS = 400
"""With 800, 0.982 of the words of digit conversations got the right speaker; with 400, 0.988."""
CHUNK_MS_MIN = 300
"""Less holds too little voice to tell who it is."""
OPENING_MS = 800
"""Half a chunk: places a change of speaker within 0.2 s."""
assert Grouping().overlap_samples == samples_from_ms(CHUNK_MS)


class EmbeddedDiarizer:
    """Speakers by voice alone."""

    def __init__(self, encoder: SpeakerEncoder) -> None:
        self._encoder = encoder

    @classmethod
    def from_spec(cls, spec: EngineSpec) -> Self:
        """Raises: EngineUnavailable where the weights are not installed."""
        check_options(spec)
        if spec.model is not None:
            raise EngineUnavailable(
                "the embedded diarizer has its own weights; leave --diarizer-model away, or choose "
                "--diarizer pyannote"
            )
        weights = find_weights()
        prepare_torch(spec.threads)
        return cls(SpeakerEncoder(weights))

    @property
    def description(self) -> str:
        return "embedded GE2E"

    profile = DiarizerProfile(
        chunk_samples=samples_from_ms(CHUNK_MS),
        hop_samples=samples_from_ms(HOP_MS),
        chunk_samples_min=samples_from_ms(CHUNK_MS_MIN),
        opening_samples=samples_from_ms(OPENING_MS),
    )

    def warm_up(self) -> None:
        noise = np.random.default_rng(0).normal(0, 1_000, (2, samples_from_ms(CHUNK_MS)))
        chunks = [SpeakerChunk(row) for row in noise.astype(np.int16)]
        embeddings = np.concatenate([found.embeddings for found in self.observe(chunks)])
        self.cluster([ClusterQuestion(embeddings, np.ones(len(chunks), np.float32))])

    def observe(self, chunks: Sequence[SpeakerChunk]) -> list[Observation]:
        stretches: list[Samples] = [chunk.samples for chunk in chunks]
        always = np.ones((1, 1), np.float32)
        wholes, openings = self._encoder.embed_with_openings(
            stretches, self.profile.opening_samples
        )
        return [
            Observation(always, whole[None], opening[None])
            for whole, opening in zip(wholes, openings, strict=True)
        ]

    def cluster(self, questions: Sequence[ClusterQuestion]) -> list[Clusters]:
        return [self.grouped(question) for question in questions]

    @staticmethod
    def grouped(question: ClusterQuestion, grouping: Grouping | None = None) -> Clusters:
        """The answer to one question; needs no weights."""
        items = len(question.embeddings)
        if items < 2:
            return Clusters(np.zeros(items, np.int64))
        groups_min, groups_max = _bounds(question)
        starts = question.starts
        return Clusters(
            group_voices(
                unit_rows(question.embeddings.astype(np.float64)),
                np.arange(items) * samples_from_ms(HOP_MS) if starts is None else starts,
                question.weights_seconds,
                groups_min=groups_min,
                groups_max=groups_max,
                grouping=grouping,
            )
        )


def _bounds(question: ClusterQuestion) -> tuple[int, int]:
    """The hints, as far as they make sense together."""
    items = len(question.embeddings)
    groups_max = max(1, min(question.speakers_max or items, items))
    return min(max(1, question.speakers_min or 1), groups_max), groups_max
