"""The ``embedded`` diarizer: GE2E embeddings of short chunks, grouped by pyannote's clustering.

Needs no token and no download. One speaker per chunk is assumed, so overlapped speech goes to
whoever dominates it. Nothing is kept between calls.

Grouping has two steps. pyannote's agglomerative clustering cuts the evidence into groups that are
too many but pure. Then the two least separate groups are merged until all are well separated.
Separation is the mean cosine distance between two groups over that inside them: telephone, far
microphones and read speech differ in both (GE2E medians: 0.20 inside and 0.33 between speakers on
a telephone, 0.25 and 0.56 in read speech), less in their quotient. A fixed distance does not carry
over: 0.3 splits single readers, 0.35 makes one speaker of two on a telephone.
"""

from collections.abc import Sequence
from typing import Self

import numpy as np
from numpy.typing import NDArray

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
HOP_MS = 800
"""With half of it the evidence is clustered at four times the cost; DER fell by 0.02 on a telephone
recording of quick exchanges, and nowhere else."""
CHUNK_MS_MIN = 600
"""Less holds too little voice to tell who it is."""

# Chosen together, one set for all, by sweeps over a telephone recording, the demo clip, nine
# far-field excerpts and built mixes of 1 to 7 readers, each with its chunks shifted by up to 0.3 s.
# The telephone recording (30 s, ten turns) is the least certain: where the chunks fall decides.
SEED_METHOD = "ward"
SEED_THRESHOLD = 1.05
"""Euclidean height between unit vectors, low enough to keep speakers apart everywhere."""
SEED_ITEMS_MIN = 5
"""Smaller groups are joined to the nearest larger one by pyannote (fewer where evidence is short:
a tenth of all)."""
SEPARATION_MIN = 1.5
"""Splits of one voice are mostly below 1.45, two voices on a telephone about 1.55, two readers 2.2
and more."""
CORE_FRACTION = 0.6
"""Part of a group, nearest to its centre, that is compared: the others may hold two voices."""
SPREAD_PRIOR = 0.22
SPREAD_PRIOR_PAIRS = 10
"""What is assumed of the distances inside a group until it has many: that of most voices."""
EVIDENCE_SECONDS_MIN = 4.0
EVIDENCE_FRACTION_MIN = 0.15
"""A group with less speech than both is no speaker of its own."""


class EmbeddedDiarizer:
    """Speakers by voice alone."""

    def __init__(self, encoder: SpeakerEncoder) -> None:
        # Imported here: it takes seconds, and only after ``prepare_torch``.
        from pyannote.audio.pipelines.clustering import AgglomerativeClustering

        self._encoder = encoder
        self._seeding = AgglomerativeClustering(metric="cosine").instantiate(
            {
                "method": SEED_METHOD,
                "threshold": SEED_THRESHOLD,
                "min_cluster_size": SEED_ITEMS_MIN,
            }
        )

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

    @property
    def profile(self) -> DiarizerProfile:
        return DiarizerProfile(
            chunk_samples=samples_from_ms(CHUNK_MS),
            hop_samples=samples_from_ms(HOP_MS),
            chunk_samples_min=samples_from_ms(CHUNK_MS_MIN),
        )

    def warm_up(self) -> None:
        noise = np.random.default_rng(0).normal(0, 1_000, (2, samples_from_ms(CHUNK_MS)))
        chunks = [SpeakerChunk(row) for row in noise.astype(np.int16)]
        embeddings = np.concatenate([found.embeddings for found in self.observe(chunks)])
        self.cluster([ClusterQuestion(embeddings, np.ones(len(chunks), np.float32))])

    def observe(self, chunks: Sequence[SpeakerChunk]) -> list[Observation]:
        stretches: list[Samples] = [chunk.samples for chunk in chunks]
        always = np.ones((1, 1), np.float32)
        return [Observation(always, row[None]) for row in self._encoder.embed(stretches)]

    def cluster(self, questions: Sequence[ClusterQuestion]) -> list[Clusters]:
        return [Clusters(self._group(question)) for question in questions]

    def _group(self, question: ClusterQuestion) -> NDArray[np.int64]:
        units = _units(question.embeddings.astype(np.float64))
        if len(units) < 2:
            return np.zeros(len(units), np.int64)
        groups_min, groups_max = _bounds(question)
        # A copy, because the class normalises in place. Its hint goes no further than the seeds.
        seeds = self._seeding.cluster(units.copy(), groups_min, len(units), None)
        labels = _renumbered(np.asarray(seeds, np.int64))
        return merge_groups(units, labels, question.weights_seconds, groups_min, groups_max)


def merge_groups(
    units: NDArray[np.float64],
    labels: NDArray[np.int64],
    weights_seconds: NDArray[np.float32],
    groups_min: int,
    groups_max: int,
) -> NDArray[np.int64]:
    """Merge the least separate groups until all are separate, large enough, and few enough.

    ``units`` has shape (items, dimensions), rows of length 1, in order of time.
    """
    seconds_min = min(EVIDENCE_SECONDS_MIN, EVIDENCE_FRACTION_MIN * float(weights_seconds.sum()))
    while True:
        labels = _to_nearest(units, labels)
        count = int(labels.max()) + 1
        if count <= groups_min:
            return labels
        separations = _separations(units, labels)
        small = np.bincount(labels, weights_seconds) < seconds_min
        # Small groups go first, whoever they are nearest to.
        separations[small[:, None] | small[None, :]] *= 1e-3
        first, second = np.unravel_index(int(separations.argmin()), separations.shape)
        if count <= groups_max and separations[first, second] >= SEPARATION_MIN:
            return labels
        labels = _renumbered(np.where(labels == second, first, labels))


def _separations(units: NDArray[np.float64], labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """Distance between the cores of two groups over that inside them; infinite to oneself."""
    core = _core(units, labels)
    sizes, sums = core.sum(axis=0), core.T @ units
    # Neighbours in time overlap and sound alike, whoever speaks: their pairs are left out.
    both = core[:-1].T @ core[1:]
    gaps = 1 - np.einsum("id,id->i", units[:-1], units[1:])
    near = core[:-1].T @ (core[1:] * gaps[:, None])
    pairs = np.outer(sizes, sizes) - np.diag(sizes) - both - both.T
    totals = np.outer(sizes, sizes) - sums @ sums.T - near - near.T
    np.fill_diagonal(totals, np.diag(totals) - (sizes - np.square(units).sum(axis=1) @ core))
    inside = (np.diag(totals) + SPREAD_PRIOR * SPREAD_PRIOR_PAIRS) / (
        np.diag(pairs) + SPREAD_PRIOR_PAIRS
    )
    separations: NDArray[np.float64] = (totals / np.maximum(pairs, 1)) / (
        (inside[:, None] + inside[None, :]) / 2
    )
    np.fill_diagonal(separations, np.inf)
    return separations


def _core(units: NDArray[np.float64], labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """1 for the items of each group that are nearest to its centre, shape (items, groups)."""
    count = int(labels.max()) + 1
    likeness = (units @ _centres(units, labels).T)[np.arange(len(units)), labels]
    core = np.zeros((len(units), count))
    for group in range(count):
        items = np.flatnonzero(labels == group)
        kept = max(3, int(np.ceil(CORE_FRACTION * len(items))))
        core[items[np.argsort(-likeness[items], kind="stable")][:kept], group] = 1
    return core


def _to_nearest(units: NDArray[np.float64], labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Each item in the group whose centre it is nearest to."""
    return _renumbered(np.argmax(units @ _centres(units, labels).T, axis=1))


def _centres(units: NDArray[np.float64], labels: NDArray[np.int64]) -> NDArray[np.float64]:
    return _units(np.stack([units[labels == g].sum(axis=0) for g in range(labels.max() + 1)]))


def _bounds(question: ClusterQuestion) -> tuple[int, int]:
    """The hints, as far as they make sense together."""
    items = len(question.embeddings)
    groups_max = max(1, min(question.speakers_max or items, items))
    return min(max(1, question.speakers_min or 1), groups_max), groups_max


def _renumbered(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Without gaps, from 0."""
    return np.asarray(np.unique(labels, return_inverse=True)[1], np.int64)


def _units(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    norms: NDArray[np.float64] = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.maximum(norms, 1e-12)
