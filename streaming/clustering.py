"""Evidence of speakers: embeddings → global speakers that keep their numbers.

Owns: the bounded store of embeddings, the question put to a clustering engine, the matching of
its answer to the speakers known before, the rule for a new speaker. Knows no audio, times, text.
Invariants: C1 a speaker's number is never given to another; C2 numbers start at 1 and follow the
order of first appearance among speakers that one answer brings; C3 at most ``items_max`` +
``RETAINED_MAX`` embeddings are held, whatever arrives.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from streaming.engines import ClusterQuestion, Clusters

Embedding = NDArray[np.float32]

ITEMS_MAX = 4_800
"""Embeddings at full detail: 32 minutes of speech without a pause at a hop of 0.4 s, in 5 MB."""
RETAINED_MAX = 960
"""Real embeddings kept for all that is older: 80 for each of 12 speakers, 32 s of a voice."""
RETAINED_RUN = 8
"""They are kept in runs of neighbours, which tell an engine more than as many single ones."""
UNKNOWN_START_STEP = 1 << 40
"""Samples between the starts given to evidence from before this lane was taken over."""
NEW_EVIDENCE_FRACTION = 0.1
"""Design §4: cluster again when there is 10 % new evidence, not on a timer."""
NEW_SPEAKER_SECONDS = 4.0
"""Speech that a further speaker must have behind them while a session runs: with less, the first
seconds of one voice are now and then two people. The last answer is taken as it is."""
ELDER_SHARE_MIN = 0.2
"""When two speakers become one, the elder's number stays if it brings a fifth of the younger's
evidence: people who see only S2 and S3 look for S1, but hours of captions are not renamed."""
EARLIER_SHARE_MIN = 0.5
"""When one speaker becomes two, the number stays with the part that was heard first if it is half
as large as the other: whoever opens a meeting stays S1, but hours of captions are not renamed."""
NEAR_COSINE = 0.65
"""An embedding this near to a centroid is provisionally that speaker's. Between the GE2E cosines
of 1.6 s windows to their own (about 0.8) and to other speakers' centroids (about 0.5)."""


@dataclass(slots=True)
class EvidenceItem:
    """One embedding, and the global speaker that it is taken for now."""

    embedding: Embedding
    weight_seconds: float
    speaker: int | None
    start: int
    """First sample of its chunk."""
    alone: float = 1.0
    """Share of its chunk in which nobody else speaks."""


@dataclass(frozen=True, slots=True)
class VoiceState:
    """One speaker as whoever takes a lane over will know them: by the centroid alone."""

    number: int
    weight_seconds: float
    embedding: bytes
    """float16."""


class SpeakerEvidence:
    """All that one lane knows about its voices."""

    def __init__(
        self,
        *,
        new_speaker_seconds: float = NEW_SPEAKER_SECONDS,
        near_cosine: float = NEAR_COSINE,
        items_max: int = ITEMS_MAX,
    ) -> None:
        self._items_max = items_max
        self._new_speaker_seconds = new_speaker_seconds
        self._near_cosine = near_cosine
        self._items: list[EvidenceItem] = []
        self._retained: list[EvidenceItem] = []
        self._asked: list[EvidenceItem] = []
        self._unclustered = 0
        self._is_last_asked = False
        self._speakers: list[int] = []
        self._centroids = np.zeros((0, 0))
        self.last_number = 0
        self.order: tuple[int, ...] = ()
        """The speakers as the engine's last answer numbered them."""

    def __len__(self) -> int:
        return len(self._items) + len(self._retained)

    @property
    def seconds(self) -> float:
        """Speech behind all that is held."""
        return sum(item.weight_seconds for item in (*self._retained, *self._items))

    @property
    def voices(self) -> Sequence[int]:
        """Numbers of the speakers who can be compared with."""
        return self._speakers

    def likeness(self, embeddings: Sequence[NDArray[np.floating]]) -> NDArray[np.float64]:
        """Cosine to each of ``voices`` as it is known by now, shape (embeddings, voices).

        Zero for one of another size than they are.
        """
        rows = np.zeros((len(embeddings), self._centroids.shape[1]))
        for row, embedding in zip(rows, embeddings, strict=True):
            if embedding.shape == row.shape:
                row[:] = embedding
        return _unit(rows) @ self._centroids.T

    def has_room_for(self, items: int) -> bool:
        """False when something must be released before that many are added."""
        return len(self._items) + items <= self._items_max

    @property
    def is_asked(self) -> bool:
        """True while the answer to a question is awaited."""
        return bool(self._asked)

    def fits(self, embedding: Embedding) -> bool:
        """True for a vector that can be compared with those at hand: finite, not zero, as long."""
        same_size = not self._items or embedding.shape == self._items[0].embedding.shape
        return same_size and bool(np.isfinite(embedding).all() and np.any(embedding))

    def add(
        self, embedding: Embedding, weight_seconds: float, start: int = 0, alone: float = 1.0
    ) -> EvidenceItem:
        """Take an embedding that ``fits``; its speaker is provisional until the next answer."""
        assert self.has_room_for(1), "release the oldest items first"
        if self._retained and self._retained[0].embedding.shape != embedding.shape:
            # Voices that another server's diarizer knew: there is no comparing them.
            self._retained, self._speakers, self._centroids = [], [], np.zeros((0, 0))
        nearest = self._nearest(embedding, self._near_cosine)
        item = EvidenceItem(embedding, weight_seconds, nearest, start, alone)
        self._items.append(item)
        self._unclustered += 1
        self._is_last_asked = False
        return item

    def state(self, bytes_max: int) -> tuple[VoiceState, ...]:
        """The speakers, those who said most first, as many as have room."""
        seconds = dict.fromkeys(self._speakers, 0.0)
        for item in (*self._retained, *self._items):
            if item.speaker in seconds:
                seconds[item.speaker] += item.weight_seconds
        rows = zip(self._speakers, self._centroids.astype(np.float16), strict=True)
        voices = [VoiceState(n, round(seconds[n], 3), row.tobytes()) for n, row in rows]
        voices.sort(key=lambda voice: -voice.weight_seconds)
        count = bytes_max // max(1, self._centroids.shape[1] * 2)
        return tuple(voices[:count])

    def resume(self, voices: Sequence[VoiceState], last_number: int) -> None:
        """Know the speakers again; what they said before is one piece of evidence for each."""
        self.last_number = last_number
        self._retained = [
            EvidenceItem(
                np.frombuffer(voice.embedding, np.float16).astype(np.float32),
                voice.weight_seconds,
                voice.number,
                -UNKNOWN_START_STEP * place,
            )
            for place, voice in enumerate(voices, 1)
        ]
        if self._retained:
            self._update_centroids(self._retained)

    def release(self, items: Iterable[EvidenceItem]) -> None:
        """Give up the detail of old items; up to ``RETAINED_MAX`` of them stay as evidence.

        Each speaker keeps an even choice of its own over time. Older ones are passed over again
        at each release, so that a voice is known mostly by its last hour.
        """
        old = {id(item) for item in items}
        self._retained += [item for item in self._items if id(item) in old]
        self._items = [item for item in self._items if id(item) not in old]
        self._retained = _even_choice([i for i in self._retained if i.speaker is not None])

    def forget(self, items: Iterable[EvidenceItem]) -> None:
        """Take back evidence that better evidence stands for now."""
        gone = {id(item) for item in items}
        self._items = [item for item in self._items if id(item) not in gone]

    def question(
        self, *, speakers_min: int | None, speakers_max: int | None, is_last: bool
    ) -> ClusterQuestion | None:
        """What to ask now: None while an answer is awaited or too little is new.

        With ``is_last`` everything is asked about once more, and once more only.
        """
        enough = max(1.0, NEW_EVIDENCE_FRACTION * len(self))
        is_due = not self._is_last_asked if is_last else self._unclustered >= enough
        if self._asked or not len(self) or not is_due:
            return None
        self._asked = sorted((*self._retained, *self._items), key=lambda item: item.start)
        self._unclustered, self._is_last_asked = 0, is_last
        return ClusterQuestion(
            np.stack([item.embedding for item in self._asked]),
            np.array([item.weight_seconds for item in self._asked], np.float32),
            speakers_min,
            speakers_max,
            np.array([item.start for item in self._asked], np.int64),
            np.array([item.alone for item in self._asked], np.float32),
        )

    def abandon_question(self) -> None:
        """The answer will not come. An engine that fails on every question is not asked in a
        circle: the next question waits for new evidence, or for the end."""
        self._asked = []

    def receive(self, clusters: Clusters) -> bool:
        """Name the clusters of the awaited answer.

        False where it does not fit the question (then that is abandoned), or none is awaited.
        After the last question every embedding gets the nearest speaker, however far.
        """
        asked, labels = self._asked, clusters.labels
        if not asked:
            return False
        if labels.shape != (len(asked),) or labels.min() < -1 or labels.max() >= len(asked):
            self.abandon_question()
            return False
        self._asked = []
        named = np.flatnonzero(labels >= 0)
        names = self._name([asked[i] for i in named], labels[named]) if len(named) else {}
        for item, label in zip(asked, labels.tolist(), strict=True):
            item.speaker = names.get(label)
        self.order = tuple(names[label] for label in sorted(names))
        self._update_centroids(asked)
        placed = zip(asked, labels.tolist(), strict=True)
        self._place_the_rest({id(i) for i, label in placed if label < 0 or i.speaker is not None})
        return True

    def _name(self, asked: Sequence[EvidenceItem], labels: NDArray[np.int64]) -> dict[int, int]:
        """Global speaker of each cluster that has one; items of clusters alone."""
        seconds = np.bincount(labels, [item.weight_seconds for item in asked])
        names = match_clusters(labels, [item.speaker for item in asked], seconds_of(asked))
        appearing = [c for c in dict.fromkeys(labels.tolist()) if c not in names]
        seconds_min = 0.0 if self._is_last_asked else self._new_speaker_seconds
        new = [c for c in appearing if seconds[c] >= seconds_min]
        if not names and not new:
            # Somebody is speaking: the first speaker needs no minimum.
            new = [max(appearing, key=lambda c: float(seconds[c]))]
        for cluster in new:
            self.last_number += 1
            names[cluster] = self.last_number
        return names

    def _update_centroids(self, items: Sequence[EvidenceItem]) -> None:
        self._speakers = sorted({item.speaker for item in items if item.speaker is not None})
        if not self._speakers:
            self._centroids = np.zeros((0, 0))
            return
        units = _unit(np.stack([item.embedding for item in items]).astype(np.float64))
        of = np.array([item.speaker or 0 for item in items])
        self._centroids = _unit(np.stack([units[of == s].mean(axis=0) for s in self._speakers]))

    def _place_the_rest(self, placed: set[int]) -> None:
        """Items of clusters too small to be speakers, and those newer than the question."""
        cosine_min = -1.0 if self._is_last_asked else self._near_cosine
        for item in (*self._retained, *self._items):
            if id(item) not in placed:
                item.speaker = self._nearest(item.embedding, cosine_min)

    def _nearest(self, embedding: Embedding, cosine_min: float) -> int | None:
        # Another size: there is no comparing it with voices that an earlier answer was about.
        if not self._speakers or embedding.size != self._centroids.shape[1]:
            return None
        cosines = self._centroids @ _unit(embedding.astype(np.float64)[None])[0]
        best = int(np.argmax(cosines))
        return self._speakers[best] if cosines[best] >= cosine_min else None


def match_clusters(
    labels: NDArray[np.int64], speakers: Sequence[int | None], seconds: NDArray[np.float64]
) -> dict[int, int]:
    """The one-to-one naming of clusters by known speakers that shares most seconds of evidence.

    Items are in order of time. Clusters that share nothing with a free speaker are left out.
    Source: the Hungarian method, as diart and pyannote.audio match local to global speakers.
    Differs: where two speakers turn out to be one, the lower number stays unless it had far less to
    say; where one turns out to be two, it stays with the part that was heard first unless that is
    far smaller.
    """
    known = sorted({speaker for speaker in speakers if speaker is not None})
    if not known:
        return {}
    shared = np.zeros((int(labels.max()) + 1, len(known)))
    for label, speaker, second in zip(labels.tolist(), speakers, seconds.tolist(), strict=True):
        if speaker is not None:
            shared[label, known.index(speaker)] += second
    rows, columns = linear_sum_assignment(shared, maximize=True)
    pairs = {int(r): int(c) for r, c in zip(rows, columns, strict=True) if shared[r, c] > 0}
    for column in sorted(set(range(len(known))) - set(pairs.values())):
        row = int(shared[:, column].argmax())
        taken = pairs.get(row, column)
        if column < taken and shared[row, column] >= ELDER_SHARE_MIN * shared[row, taken]:
            pairs[row] = column
    order = list(dict.fromkeys(labels.tolist()))
    for row, column in list(pairs.items()):
        least = EARLIER_SHARE_MIN * shared[row, column]
        before = order[: order.index(row)]
        parts = [c for c in before if c not in pairs and shared[c, column] >= least]
        pairs[next(iter(parts), row)] = pairs.pop(row)
    return {row: known[column] for row, column in pairs.items()}


def seconds_of(items: Sequence[EvidenceItem]) -> NDArray[np.float64]:
    return np.array([item.weight_seconds for item in items])


def _even_choice(items: list[EvidenceItem]) -> list[EvidenceItem]:
    """Up to ``RETAINED_MAX`` items in their order, in runs spread evenly over each speaker's."""
    by_speaker: dict[int | None, list[int]] = {}
    for i, item in enumerate(items):
        by_speaker.setdefault(item.speaker, []).append(i)
    share = max(1, RETAINED_MAX // RETAINED_RUN // max(1, len(by_speaker)))
    chosen: set[int] = set()
    for indexes in by_speaker.values():
        runs = [indexes[i : i + RETAINED_RUN] for i in range(0, len(indexes), RETAINED_RUN)]
        step = max(1.0, len(runs) / share)
        chosen.update(j for i in range(min(share, len(runs))) for j in runs[int(i * step)])
    return [items[i] for i in sorted(chosen)][-RETAINED_MAX:]


def _unit(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    norms: NDArray[np.float64] = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.maximum(norms, 1e-12)
