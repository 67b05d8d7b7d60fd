"""One lane's speakers, for a diarizer that looks at all audio: chunks on one grid, stitched.

The counterpart of ``speakers.SpeakerTracker`` for profiles with a ``FrameGrid``, used the same way.
At the end its turns are those of the same diarizer on the whole recording, up to renaming, as long
as nothing was settled or dropped.

    receive_audio → take_chunks → (engine) → receive_observations → question → (engine)
                                           → receive_clusters → turns

Until a whole chunk has been heard, shorter ones from the start give first labels; each is forgotten
when the next one comes.
Invariants: G1 each chunk of the grid is taken once, and a last one that reaches the end; G2 no
evidence of a provisional chunk outlives it; G3 nothing grows without bound: chunks by
``CHUNKS_MAX``, evidence by ``ITEMS_MAX``, old turns by ``SETTLED_TURNS_MAX``.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streaming.clustering import NEAR_COSINE, NEW_SPEAKER_SECONDS, EvidenceItem, SpeakerEvidence
from streaming.engines import DiarizerProfile, FrameGrid, Observation
from streaming.speakers import EvidenceTracker, TrackerState, numbered
from streaming.stitching import (
    GridChunk,
    first_frame,
    frames_of,
    joined,
    middle_sample,
    runs_of,
    stitch,
)
from streaming.timeline import SAMPLE_RATE_HZ, Span, samples_from_ms
from streaming.turns import Turn

CHUNKS_MAX = 2_100
"""35 minutes at a hop of 1 s, of which five are settled at once: half an hour is always open."""
CHUNKS_SETTLED = CHUNKS_MAX // 7
ITEMS_MAX = 2 * CHUNKS_MAX
"""Two voices in each chunk of 10 s, all the time; with more, less than half an hour is open."""
PROVISIONAL_SAMPLES = samples_from_ms(2_000)
"""A first label within 4 s: 2 s of audio, and as much again for the engine."""


@dataclass(slots=True)
class _Seen:
    """A chunk that came back; eight frames of its activity in a byte."""

    number: int
    span: Span
    shape: tuple[int, int]
    packed: NDArray[np.uint8]
    items: tuple[EvidenceItem | None, ...]

    @property
    def activity(self) -> NDArray[np.float32]:
        frames, speakers = self.shape
        flat = np.unpackbits(self.packed, count=frames * speakers)
        return flat.reshape(self.shape).astype(np.float32)

    @property
    def evidence(self) -> list[EvidenceItem]:
        return [item for item in self.items if item is not None]

    @property
    def speakers(self) -> list[int | None]:
        return [None if item is None else item.speaker for item in self.items]


class GridTracker(EvidenceTracker):
    """Who speaks when in one lane, as far as it is known."""

    def __init__(
        self,
        profile: DiarizerProfile,
        grid: FrameGrid,
        *,
        name_of: Callable[[int], str] = numbered,
        speakers_min: int | None = None,
        speakers_max: int | None = None,
        new_speaker_seconds: float = NEW_SPEAKER_SECONDS,
        near_cosine: float = NEAR_COSINE,
    ) -> None:
        """``name_of`` turns a speaker's number, from 1, into a name: always the same for it."""
        evidence = SpeakerEvidence(
            new_speaker_seconds=new_speaker_seconds, near_cosine=near_cosine, items_max=ITEMS_MAX
        )
        super().__init__(evidence, name_of, speakers_min, speakers_max)
        self._profile, self._grid = profile, grid
        self._overlap = -(-profile.chunk_samples // profile.hop_samples)
        """Chunks that cover one frame."""
        self._held = Span(0, 0)
        self._is_ended = False
        self._next = 0
        """Number of the next chunk on the grid."""
        self._taken_until: int | None = None
        """Where whole chunks, and the last one, have reached; None before the first."""
        self._last_taken: Span | None = None
        self._provisional_samples = PROVISIONAL_SAMPLES
        self._provisional_taken: Span | None = None
        """The newest of them."""
        self._provisional: _Seen | None = None
        self._chunks: list[_Seen] = []
        self._settled_chunk = 0
        """Frames before it are settled. Chunks that reach over it are kept, their evidence not."""
        self._columns: tuple[int, ...] = ()
        """Speakers in the order in which ties are broken."""
        self._runs: list[list[Span]] = []
        """Of each column, for the frames from the settled ones up to those of ``_dirty``."""
        self._dirty = 0
        """Number of the first chunk whose frames must be stitched again."""

    @property
    def settled_until(self) -> int:
        """Turns before this sample will not change any more."""
        return self._start_of(self._settled_chunk)

    def state(self, since: int, bytes_max: int) -> TrackerState:
        """What ``resume`` needs. ``since`` does not matter: speech is found again."""
        return TrackerState(self._evidence.state(bytes_max), self._evidence.last_number, ())

    def resume(self, state: TrackerState) -> None:
        """Know the same voices again. Turns of what does not come again are not known."""
        self._evidence.resume(state.voices, state.last_number)

    def restart_of(self, chunk: Span) -> int:
        """Audio before this sample was looked at before the chunk was."""
        return max(chunk.start, chunk.end - self._profile.hop_samples)

    def receive_speech(self, span: Span, *, is_open: bool) -> None:
        """Of no use here: the diarizer finds speech by itself."""

    def receive_audio(self, held: Span, *, is_last: bool) -> None:
        """Audio that can be read by now; ``is_last``: no more will come."""
        # When the lane was taken over, the grid goes on where there is audio again.
        self._next = max(self._next, -(-held.start // self._profile.hop_samples))
        self._held, self._is_ended = held, is_last

    def take_chunks(self) -> list[Span]:
        """Chunks whose audio is complete and that were not taken before."""
        profile, end = self._profile, self._held.end
        chunks = []
        while self._next_start + profile.chunk_samples <= end:
            chunks.append(Span(self._next_start, self._next_start + profile.chunk_samples))
            self._taken_until = chunks[-1].end
            self._next += 1
        return chunks + (self._take_last() if self._is_ended else self._take_provisional())

    @property
    def earliest_needed(self) -> int | None:
        """Samples before it will not be in a chunk any more; None where none are awaited."""
        return None if self._is_ended else self._next_start

    @property
    def unseen_from(self) -> int | None:
        """Where audio begins that is in no chunk yet, and will be; None where there is none."""
        if self._is_ended:
            return None
        return self._next_start if self._taken_until is None else self._taken_until

    def receive_observations(
        self, chunks: Sequence[Span], observations: Sequence[Observation]
    ) -> None:
        """Take what the engine found in chunks that were taken, in any order."""
        for span, observation in zip(chunks, observations, strict=True):
            is_whole = span.samples == self._profile.chunk_samples or span == self._last_taken
            if span.start // self._profile.hop_samples < self._settled_chunk or (
                self._chunks and not is_whole
            ):
                self.embeddings_dropped += len(observation.embeddings)
                continue
            self._make_room(len(observation.embeddings))
            self._forget_provisional()
            self._observe(span, observation, is_whole=is_whole)

    @property
    def _next_start(self) -> int:
        return self._next * self._profile.hop_samples

    def _start_of(self, chunk: int) -> int:
        """Where turns of the frames from a chunk on begin."""
        return middle_sample(self._grid, first_frame(self._grid, chunk)) if chunk else 0

    def _take_last(self) -> list[Span]:
        """What no whole chunk reached."""
        end = self._held.end
        taken = self._next_start if self._taken_until is None else self._taken_until
        least = self._profile.chunk_samples_min if self._taken_until is None else 1
        if self._last_taken is not None or end - taken < least:
            return []
        self._last_taken = last = Span(self._next_start, end)
        self._taken_until = end
        if last != self._provisional_taken:
            return [last]
        if self._provisional is not None and self._provisional.span == last:
            self._chunks, self._provisional = [self._provisional], None
        return []  # it was looked at already, or is being

    def _take_provisional(self) -> list[Span]:
        samples = self._held.end - self._next_start
        if self._taken_until is not None or samples < self._provisional_samples:
            return []
        self._provisional_samples = samples + PROVISIONAL_SAMPLES
        self._provisional_taken = Span(self._next_start, self._held.end)
        return [self._provisional_taken]

    def _observe(self, span: Span, observation: Observation, *, is_whole: bool) -> None:
        number = span.start // self._profile.hop_samples
        at = bisect_left(self._chunks, number, key=lambda chunk: chunk.number)
        before = self._chunks[at - 1].span.end if at else span.start
        # Chunks overlap: each is evidence for what it adds, so that seconds add up to speech.
        added_seconds = max(0, span.end - max(before, span.start)) / SAMPLE_RATE_HZ
        activity = observation.activity > 0.5
        is_alone = activity & (activity.sum(axis=1, keepdims=True) == 1)
        items = tuple(
            self._take_evidence(row, float(spoken) * added_seconds, span.start, float(alone))
            for row, spoken, alone in zip(
                observation.embeddings, activity.mean(axis=0), is_alone.mean(axis=0), strict=True
            )
        )
        shape = (activity.shape[0], activity.shape[1])
        seen = _Seen(number, span, shape, np.packbits(activity), items)
        if is_whole:
            self._chunks.insert(at, seen)
        else:
            self._provisional = seen
        self._stitch_again_from(number)

    def _forget_provisional(self) -> None:
        if self._provisional is not None:
            self._evidence.forget(self._provisional.evidence)
            self._provisional = None

    def _make_room(self, embeddings: int) -> None:
        """Settle the oldest chunks when there are too many, or too much evidence in them."""
        if len(self._chunks) >= CHUNKS_MAX or not self._evidence.has_room_for(embeddings):
            live = [c.number for c in self._chunks if c.number >= self._settled_chunk]
            self._settle(live[min(CHUNKS_SETTLED, len(live) - 1)])

    def _settle(self, number: int) -> None:
        """Let the turns before a chunk be as they are and give up the evidence behind them."""
        until = Span(0, self._start_of(number))
        live = self.turns()[len(self._settled_turns) :]
        before = [turn for turn in live if turn.span.start < until.end]
        self._settled_turns += [Turn(turn.span.clamped(until), turn.speaker) for turn in before]
        old = [c for c in self._chunks if self._settled_chunk <= c.number < number]
        self._evidence.release(item for chunk in old for item in chunk.evidence)
        self._chunks = [c for c in self._chunks if c.number >= number - self._overlap]
        self._settled_chunk = number
        self._stitch_again_from(number)

    def _live_turns(self) -> Iterable[Turn]:
        self._stitch()
        return (
            Turn(span, self._name_of(number))
            for number, runs in zip(self._columns, self._runs, strict=True)
            for span in runs
        )

    def _forget_turns(self) -> None:
        self._stitch_again_from(self._settled_chunk)

    def _stitch_again_from(self, number: int) -> None:
        self._dirty = max(self._settled_chunk, min(self._dirty, number))
        self._turns = None

    def _stitch(self) -> None:
        """Bring ``_runs`` up to date."""
        chunks = self._chunks or ([self._provisional] if self._provisional else [])
        columns = self._named(chunks)
        if columns != self._columns or self._dirty == self._settled_chunk:
            self._columns, self._runs = columns, [[] for _ in columns]
            self._dirty = self._settled_chunk
        if not chunks or not columns:
            return
        frames_end = frames_of(self._grid, chunks[-1].number + 1)
        frames = Span(min(first_frame(self._grid, self._dirty), frames_end), frames_end)
        near = [self._labelled(c) for c in chunks if c.number >= self._dirty - self._overlap]
        active = stitch(near, self._grid, frames, len(columns), self._speakers_max)
        since = self._start_of(self._dirty)
        for column, runs in enumerate(self._runs):
            found = runs_of(active[:, column], self._grid, frames.start)
            self._runs[column] = joined([*_cut(runs, since), *found], self._grid)
        self._dirty = chunks[-1].number + 1

    def _named(self, chunks: Sequence[_Seen]) -> tuple[int, ...]:
        heard = {speaker for chunk in chunks for speaker in chunk.speakers if speaker is not None}
        order = self._evidence.order
        return (*order, *sorted(heard - set(order)))

    def _labelled(self, chunk: _Seen) -> GridChunk:
        columns = [-1 if s is None else self._columns.index(s) for s in chunk.speakers]
        return GridChunk(chunk.number, chunk.activity, tuple(columns))


def _cut(runs: Sequence[Span], end: int) -> list[Span]:
    """What lies before a sample."""
    return [Span(run.start, min(run.end, end)) for run in runs if run.start < end]
