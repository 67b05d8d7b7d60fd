"""One lane's speakers: plans chunks, keeps bounded evidence, asks for clustering, holds turns.

Owns: which audio a diarizer is to look at, and who is thought to speak when. Knows no samples, no
words, no engine; ``session.py`` carries questions and answers.

    receive_speech → take_chunks → (engine) → receive_observations → question → (engine)
                                            → receive_clusters → turns

Invariants: P1 the chunks of an utterance depend on its start and end only, not on how often it
was reported; P2 each chunk is taken once; P3 nothing grows without bound: evidence by
``clustering.ITEMS_MAX``, utterances by ``UTTERANCES_MAX``, old turns by ``SETTLED_TURNS_MAX``.
"""

from abc import ABC, abstractmethod
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeGuard

import numpy as np
from numpy.typing import NDArray

from streaming.clustering import (
    NEAR_COSINE,
    NEW_SPEAKER_SECONDS,
    Embedding,
    EvidenceItem,
    SpeakerEvidence,
    VoiceState,
)
from streaming.engines import ClusterQuestion, Clusters, DiarizerProfile, Observation
from streaming.placing import Likeness, NamedChunk, place_turns
from streaming.timeline import SAMPLE_RATE_HZ, Span
from streaming.turns import LabelledChunk, Turn, turns_in_speech

UTTERANCES_MAX = 4_000
"""More than an hour of utterances of one second; past it the oldest are settled."""
UTTERANCES_SETTLED = UTTERANCES_MAX // 10
"""Settling goes in steps, because each one looks at all evidence."""
LOCAL_SPEAKERS_MAX = 16
"""Far more than a diarizer tells apart in one chunk (pyannote's models: three)."""
SETTLED_TURNS_MAX = 10_000
"""Turns too old to change: several hours of talk. Past it the oldest are forgotten; the captions
that they named keep their speakers."""

SECONDS_PER_SPEAKER_MIN = 30.0
"""Speech for each of the least number of speakers, before so many are asked for while a session
runs: earlier, some have hardly spoken, and one voice would be taken for several."""


def numbered(number: int) -> str:
    """``S1``, ``S2`` …"""
    return f"S{number}"


@dataclass(slots=True)
class _Chunk:
    """A chunk that came back, with one piece of evidence per local speaker heard in it."""

    span: Span
    activity: NDArray[np.float32]
    items: tuple[EvidenceItem | None, ...]
    opening: NDArray[np.float16] | None
    """Embedding of its opening, where it is told; then there is one local speaker."""

    def labelled(self, name_of: Callable[[int], str]) -> LabelledChunk:
        names = tuple(
            None if item is None or item.speaker is None else name_of(item.speaker)
            for item in self.items
        )
        return LabelledChunk(self.span, self.activity, names)


@dataclass(slots=True)
class _Utterance:
    span: Span
    is_open: bool
    next_start: int
    """Where its next chunk on the grid starts."""
    taken_until: int
    chunks: list[_Chunk] = field(default_factory=list)
    turns: list[Turn] | None = None
    """None when they must be worked out again."""


@dataclass(frozen=True, slots=True)
class TrackerState:
    """What whoever takes a lane over must know of its voices."""

    voices: tuple[VoiceState, ...]
    last_number: int
    utterances: tuple[Span, ...]
    """Ended ones whose audio will come again."""


class EvidenceTracker(ABC):
    """What trackers of either kind do with their evidence: ask about it, and believe the answer."""

    def __init__(
        self,
        evidence: SpeakerEvidence,
        name_of: Callable[[int], str],
        speakers_min: int | None,
        speakers_max: int | None,
    ) -> None:
        """``name_of`` turns a speaker's number, from 1, into a name: always the same for it."""
        self._evidence, self._name_of = evidence, name_of
        self._speakers_min, self._speakers_max = speakers_min, speakers_max
        self._settled_turns: deque[Turn] = deque(maxlen=SETTLED_TURNS_MAX)
        self._turns: tuple[Turn, ...] | None = ()
        """None when they must be worked out again."""
        self.embeddings_dropped = 0
        """Unusable ones (not finite, zero, of another size) and those whose speech is settled."""
        self.answers_dropped = 0
        """Clusterings that did not fit their question."""

    @property
    def is_asked(self) -> bool:
        """True while the answer to a question is awaited."""
        return self._evidence.is_asked

    def question(self, *, is_last: bool = False) -> ClusterQuestion | None:
        """Evidence to be clustered, when there is 10 % more of it; at the end, all of it, once.

        None while an answer is awaited: each question ends in ``receive_clusters`` or
        ``abandon_question``.
        """
        least = self._speakers_min
        if least is not None and not is_last:
            least = least if self._evidence.seconds >= least * SECONDS_PER_SPEAKER_MIN else None
        return self._evidence.question(
            speakers_min=least, speakers_max=self._speakers_max, is_last=is_last
        )

    def abandon_question(self) -> None:
        """The engine failed on it; the evidence stays."""
        self._evidence.abandon_question()

    def receive_clusters(self, clusters: Clusters) -> None:
        """Relabel all evidence. An answer that does not fit its question is dropped, counted."""
        if self._evidence.receive(clusters):
            self._forget_turns()
        else:
            self.answers_dropped += 1

    def turns(self) -> Sequence[Turn]:
        """All turns, sorted by start; those of different speakers may overlap."""
        if self._turns is None:
            self._turns = (*self._settled_turns, *sorted(self._live_turns()))
        return self._turns

    @property
    def speaker_count(self) -> int:
        """Speakers who have a turn."""
        return len({turn.speaker for turn in self.turns()})

    def _take_evidence(
        self, embedding: Embedding, weight_seconds: float, start: int, alone: float = 1.0
    ) -> EvidenceItem | None:
        if not self._evidence.fits(embedding):
            self.embeddings_dropped += 1
            return None
        if weight_seconds <= 0:
            return None  # a local speaker who is never active is none
        return self._evidence.add(embedding, weight_seconds, start, alone)

    @abstractmethod
    def _live_turns(self) -> Iterable[Turn]:
        """Those that may change, in any order."""

    @abstractmethod
    def _forget_turns(self) -> None:
        """Labels have changed: none of those that may change is known any more."""


class SpeakerTracker(EvidenceTracker):
    """Who speaks when in one lane, as far as it is known."""

    def __init__(
        self,
        profile: DiarizerProfile,
        *,
        name_of: Callable[[int], str] = numbered,
        speakers_min: int | None = None,
        speakers_max: int | None = None,
        new_speaker_seconds: float = NEW_SPEAKER_SECONDS,
        near_cosine: float = NEAR_COSINE,
    ) -> None:
        """``name_of`` turns a speaker's number, from 1, into a name: always the same for it."""
        evidence = SpeakerEvidence(new_speaker_seconds=new_speaker_seconds, near_cosine=near_cosine)
        super().__init__(evidence, name_of, speakers_min, speakers_max)
        self._profile = profile
        self._utterances: list[_Utterance] = []
        self._untaken: list[_Utterance] = []
        self._settled_until = 0

    @property
    def settled_until(self) -> int:
        """Turns before this sample will not change any more."""
        return self._settled_until

    def state(self, since: int, bytes_max: int) -> TrackerState:
        """What ``resume`` needs, where audio from sample ``since`` on will come again."""
        spans = [u.span for u in self._utterances if u.span.end > since and not u.is_open]
        cut = tuple(Span(max(span.start, since), span.end) for span in spans)
        voices = self._evidence.state(bytes_max)
        return TrackerState(voices, self._evidence.last_number, cut)

    def resume(self, state: TrackerState) -> None:
        """Know the same voices again. Turns of what does not come again are not known."""
        self._evidence.resume(state.voices, state.last_number)
        for span in state.utterances:
            self.receive_speech(span, is_open=False)

    def restart_of(self, chunk: Span) -> int:
        """Audio before this sample was looked at before the chunk was."""
        return chunk.start

    def receive_audio(self, held: Span, *, is_last: bool) -> None:
        """Of no use here: chunks lie in speech."""

    def receive_speech(self, span: Span, *, is_open: bool) -> None:
        """Hear of an utterance: as far as it goes by now, or, with ``is_open`` false, all of it.

        From the first frame of speech to the last, pauses between included; not pre-roll, hangover
        or tail: turns fill the span, and what an open one held beyond the closed one's end may
        or may not have been taken as a chunk by then.
        Reports of one utterance share their start. One that starts later closes the one before;
        one that starts no later than a closed one is old news.
        """
        last = self._utterances[-1] if self._utterances else None
        if last is not None and last.is_open and span.start == last.span.start:
            last.span, last.is_open = span, is_open
            self._forget_turns_of(last)
        elif last is None or span.start > last.span.start:
            if last is not None:
                last.is_open = False
            self._append(_Utterance(span, is_open, span.start, span.start))

    def take_chunks(self) -> list[Span]:
        """Chunks whose audio is complete and that were not taken before."""
        chunks = [chunk for utterance in self._untaken for chunk in self._take(utterance)]
        self._untaken = [utterance for utterance in self._untaken if utterance.is_open]
        return chunks

    @property
    def earliest_needed(self) -> int | None:
        """Samples before it will not be in a chunk any more; None where none are awaited.

        An utterance that has not been reported yet may start earlier than this.
        """
        size = self._profile.chunk_samples
        return min(
            # The last chunk of an utterance is aligned to its end, which is no earlier than now.
            (max(u.span.start, min(u.next_start, u.span.end - size)) for u in self._untaken),
            default=None,
        )

    @property
    def unseen_from(self) -> int | None:
        """Where audio begins that is in no chunk yet, and will be; None where there is none."""
        return self.earliest_needed

    def receive_observations(
        self, chunks: Sequence[Span], observations: Sequence[Observation]
    ) -> None:
        """Take what the engine found in chunks that were taken, in any order."""
        for span, observation in zip(chunks, observations, strict=True):
            self._make_room(len(observation.embeddings))
            at = bisect_right(self._utterances, span.start, key=lambda u: u.span.start) - 1
            if at < 0 or span.start < self._settled_until:
                self.embeddings_dropped += len(observation.embeddings)
            else:
                self._observe(self._utterances[at], span, observation)

    def _append(self, utterance: _Utterance) -> None:
        if len(self._utterances) >= UTTERANCES_MAX:
            self._settle(self._utterances[UTTERANCES_SETTLED].span.start)
        self._utterances.append(utterance)
        self._untaken.append(utterance)

    def _take(self, utterance: _Utterance) -> list[Span]:
        profile, end = self._profile, utterance.span.end
        chunks = []
        while utterance.next_start + profile.chunk_samples <= end:
            start = utterance.next_start
            chunks.append(Span(start, start + profile.chunk_samples))
            utterance.next_start += profile.hop_samples
            utterance.taken_until = chunks[-1].end
        if not utterance.is_open and utterance.taken_until < end:
            start = max(utterance.span.start, end - profile.chunk_samples)
            utterance.taken_until = end
            if end - start >= profile.chunk_samples_min:
                chunks.append(Span(start, end))
                if profile.opening_samples and end - profile.opening_samples > start:
                    chunks.append(Span(end - profile.opening_samples, end))
        return chunks

    def _observe(self, utterance: _Utterance, span: Span, observation: Observation) -> None:
        at = bisect_right(utterance.chunks, span, key=lambda chunk: chunk.span)
        before = utterance.chunks[at - 1].span.end if at else span.start
        # Chunks overlap: each is evidence for what it adds, so that seconds add up to speech.
        added_seconds = max(0, span.end - max(before, span.start)) / SAMPLE_RATE_HZ
        seconds = observation.activity.mean(axis=0) * added_seconds
        items = tuple(
            self._take_evidence(embedding, weight, span.start)
            for embedding, weight in zip(observation.embeddings, seconds.tolist(), strict=True)
        )
        opening = _opening(observation)
        utterance.chunks.insert(at, _Chunk(span, observation.activity, items, opening))
        self._forget_turns_of(utterance)

    def _make_room(self, embeddings: int) -> None:
        """Settle the oldest tenth of the chunks when the evidence is full."""
        if not self._evidence.has_room_for(embeddings):
            chunks = [chunk for utterance in self._utterances for chunk in utterance.chunks]
            self._settle(chunks[len(chunks) // 10 + 1].span.start)

    def _settle(self, until: int) -> None:
        """Let the turns before a sample be as they are and give up the detail behind them."""
        before = Span(0, until)
        for utterance in self._utterances:
            turns = [turn for turn in self._turns_of(utterance) if turn.span.start < until]
            self._settled_turns += [Turn(t.span.clamped(before), t.speaker) for t in turns]
            old = [chunk for chunk in utterance.chunks if chunk.span.start < until]
            self._evidence.release(item for c in old for item in c.items if item is not None)
            utterance.chunks = utterance.chunks[len(old) :]
            self._forget_turns_of(utterance)
        self._utterances = [u for u in self._utterances if u.span.end > until]
        self._untaken = [u for u in self._untaken if u.span.end > until]
        self._settled_until = until

    def _turns_of(self, utterance: _Utterance) -> list[Turn]:
        if utterance.turns is None:
            speech = Span(max(utterance.span.start, self._settled_until), utterance.span.end)
            has_openings = any(chunk.opening is not None for chunk in utterance.chunks)
            turns_of = self._placed if has_openings else self._voted
            utterance.turns = turns_of(speech, utterance.chunks)
        return utterance.turns

    def _voted(self, speech: Span, chunks: Sequence[_Chunk]) -> list[Turn]:
        return turns_in_speech(speech, [chunk.labelled(self._name_of) for chunk in chunks])

    def _placed(self, speech: Span, chunks: Sequence[_Chunk]) -> list[Turn]:
        """By what chunks and their openings are like, of which each has one voice."""
        voices = self._evidence.voices
        heard = [(c.span, item) for c in chunks for item in c.items if item is not None]
        named = [
            NamedChunk(span, voices.index(item.speaker))
            for span, item in heard
            if item.speaker in voices
        ]
        if not named:
            return []
        openings = [(c.span, c.opening) for c in chunks if c.opening is not None]
        wholes = [(span, item.embedding) for span, item in heard]
        likenesses = (
            self._likeness(openings, self._profile.opening_samples),
            self._likeness(wholes),
        )
        return place_turns(speech, named, likenesses, [self._name_of(n) for n in voices])

    def _likeness(
        self, heard: Sequence[tuple[Span, NDArray[np.floating]]], samples_max: int | None = None
    ) -> Likeness:
        middles = [
            span.start + min(span.samples, samples_max or span.samples) // 2 for span, _ in heard
        ]
        return Likeness(np.array(middles), self._evidence.likeness([row for _, row in heard]))

    def _live_turns(self) -> Iterable[Turn]:
        return (turn for utterance in self._utterances for turn in self._turns_of(utterance))

    def _forget_turns(self) -> None:
        for utterance in self._utterances:
            self._forget_turns_of(utterance)

    def _forget_turns_of(self, utterance: _Utterance) -> None:
        utterance.turns = None
        self._turns = None


def _opening(observation: Observation) -> NDArray[np.float16] | None:
    """Half as large as evidence: it is only compared."""
    if observation.openings is None or len(observation.openings) != 1:
        return None
    return np.asarray(observation.openings[0], np.float16)


def sound_observations(
    chunks: Sequence[Span], answers: Sequence[object]
) -> Sequence[Observation] | None:
    """One usable observation per chunk, or None."""
    sound = [answer for answer in answers if _is_sound_observation(answer)]
    return sound if len(sound) == len(answers) == len(chunks) else None


def _is_sound_observation(answer: object) -> TypeGuard[Observation]:
    """Activity and embeddings tell of the same local speakers. Embeddings are the tracker's to
    judge one by one."""
    if not isinstance(answer, Observation) or answer.activity.ndim != 2:
        return False
    frames, speakers = answer.activity.shape
    is_whole = frames > 0 and answer.embeddings.ndim == 2 and len(answer.embeddings) == speakers
    if not is_whole or speakers > LOCAL_SPEAKERS_MAX or not np.isfinite(answer.activity).all():
        return False
    openings = answer.openings
    return openings is None or (
        openings.shape == answer.embeddings.shape and bool(np.isfinite(openings).all())
    )


def is_sound_clusters(answer: object) -> TypeGuard[Clusters]:
    """Labels are whole numbers; that they fit the question is the tracker's to see."""
    return isinstance(answer, Clusters) and np.issubdtype(answer.labels.dtype, np.integer)
