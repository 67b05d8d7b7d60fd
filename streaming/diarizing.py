"""One lane's work for its diarizer: which chunks and questions go out, and what comes back.

Owns the chunks that wait and the names of the lane's speakers. Who speaks when is the tracker's to
know, which caption that changes the lane's.

Invariants: N1 text never waits for a speaker: chunks that waited too long are dropped, counted. A
recording that is sent faster than it was spoken may wait for some seconds, for room in its buffer.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from streaming.asking import Ask
from streaming.buffer import SampleBuffer
from streaming.engines import Clusters, DiarizerProfile, Observation, SpeakerChunk
from streaming.grid_speakers import GridTracker
from streaming.jobs import PATIENCE_NS, JobKind
from streaming.publishing import SessionScope
from streaming.speakers import SpeakerTracker, TrackerState, numbered
from streaming.timeline import SAMPLE_RATE_HZ, Span
from streaming.tuning import SpeakerHints
from streaming.turns import Turn

CHUNKS_PER_ASK_MAX = 16
SLOW_NS = 5_000_000_000
"""An engine that takes longer for chunks may never have heard all that waits: groups are then asked
for beside them, or nobody would have a name before the end."""
STATE_NAMES_MAX = 64


@dataclass(frozen=True, slots=True)
class SpeakersState:
    """What whoever takes a lane over must know of its speakers."""

    tracker: TrackerState | None
    names: tuple[tuple[int, str], ...]
    heard: tuple[str, ...]
    """Everybody who had a turn."""


Tracker = SpeakerTracker | GridTracker
"""Of a diarizer that looks at speech, or at all audio."""
DueNs = Callable[[JobKind, int, int], int]
"""When the answer about audio up to a sample is due: (kind, sample, now_ns)."""


def tracker_for(
    profile: DiarizerProfile,
    hints: SpeakerHints | None = None,
    *,
    name_of: Callable[[int], str] = numbered,
) -> Tracker:
    """The one that the diarizer's way of looking needs."""
    hints = hints or SpeakerHints()
    least, most = hints.speakers_min, hints.speakers_max
    if profile.grid is None:
        return SpeakerTracker(profile, name_of=name_of, speakers_min=least, speakers_max=most)
    return GridTracker(
        profile, profile.grid, name_of=name_of, speakers_min=least, speakers_max=most
    )


class SpeakerWork:
    """What is asked about the voices of one lane."""

    def __init__(
        self,
        profile: DiarizerProfile | None,
        scope: SessionScope,
        chunk_age_samples_max: int,
        hints: SpeakerHints | None = None,
    ) -> None:
        self._profile = profile
        self._hints = hints or SpeakerHints()
        self._scope = scope
        self._chunk_age_max = chunk_age_samples_max
        self._tracker: Tracker | None = None
        self._names: dict[int, str] = {}
        self._chunks: deque[Span] = deque()
        self._taken_ns: deque[int] = deque()
        """Since when each of them waits."""
        self._observing: tuple[Span, ...] = ()
        self._observing_since_ns: int | None = None
        """When the last chunks were asked about; None once it was seen how long that took."""
        self._is_slow = False
        self._heard: set[str] = set()
        """Who had a turn before this object was made."""
        self._had_last_question = False
        self.has_given_up = False
        """Nothing more is asked or taken; what is known of the speakers stays."""

    def begin(self) -> None:
        """From now on the lane's voices are to be told apart; idempotent."""
        if self._tracker is None and self._profile is not None:
            self._tracker = tracker_for(self._profile, self._hints, name_of=self._name)

    def _name(self, number: int) -> str:
        """Lanes share one series of names: the same number is another person elsewhere."""
        if number not in self._names:
            self._names[number] = self._scope.new_speaker_name()
        return self._names[number]

    @property
    def turns(self) -> Sequence[Turn]:
        return () if self._tracker is None else self._tracker.turns()

    @property
    def speaker_names(self) -> set[str]:
        """Everybody who has a turn."""
        return self._heard | {turn.speaker for turn in self.turns}

    def state(self, since: int, bytes_max: int) -> SpeakersState:
        """What ``resume`` needs; see ``SpeakerTracker.state``."""
        tracker = self._tracker
        return SpeakersState(
            tracker=None if tracker is None else tracker.state(since, bytes_max),
            names=tuple(self._names.items())[-STATE_NAMES_MAX:],
            heard=tuple(sorted(self.speaker_names)[:STATE_NAMES_MAX]),
        )

    def resume(self, state: SpeakersState) -> None:
        """Know the same people by the same names."""
        self._names, self._heard = dict(state.names), set(state.heard)
        if state.tracker is not None:
            self.begin()
        if self._tracker is not None and state.tracker is not None:
            self._tracker.resume(state.tracker)

    @property
    def restart(self) -> int | None:
        """Audio before this sample will not be looked at again; None where none will be."""
        if self._tracker is None:
            return None
        waiting = [*self._observing[:1], *([self._chunks[0]] if self._chunks else [])]
        starts = [self._tracker.restart_of(chunk) for chunk in waiting]
        if self._tracker.unseen_from is not None:
            starts.append(self._tracker.unseen_from)
        return min(starts, default=None)

    @property
    def earliest_needed(self) -> int | None:
        """Samples before it will not be asked about; None where none will."""
        needed = [self._chunks[0].start] if self._chunks else []
        if self._tracker is not None and self._tracker.earliest_needed is not None:
            needed.append(self._tracker.earliest_needed)
        return min(needed, default=None)

    @property
    def is_done(self) -> bool:
        """Everything is asked and answered, the last question too."""
        if self._tracker is None or self.has_given_up:
            return True
        is_quiet = not self._chunks and not self._observing and not self._tracker.is_asked
        return is_quiet and self._had_last_question

    def receive_speech(self, span: Span, *, is_open: bool) -> None:
        """Speech without pre-roll, hangover and tail: a voice has no say in silence."""
        if self._tracker is not None:
            self._tracker.receive_speech(span, is_open=is_open)

    def take_asks(
        self, buffer: SampleBuffer, judged: int, now_ns: int, due_ns: DueNs, *, is_last: bool
    ) -> list[Ask]:
        """What the diarizer should answer now; ``is_last``: no speech will follow."""
        if self._tracker is None or self.has_given_up:
            return []
        held = Span(buffer.start, max(buffer.start, min(judged, buffer.end)))
        self._tracker.receive_audio(held, is_last=is_last)
        self._note_pace(now_ns)
        asks = [
            self._ask_chunks(self._tracker, buffer, judged, now_ns, due_ns),
            self._ask_clusters(self._tracker, now_ns, is_last=is_last),
        ]
        return [ask for ask in asks if ask is not None]

    def _note_pace(self, now_ns: int) -> None:
        if self._observing_since_ns is not None and not self._observing:
            self._is_slow = now_ns - self._observing_since_ns > SLOW_NS
            self._observing_since_ns = None

    def _ask_chunks(
        self,
        tracker: Tracker,
        buffer: SampleBuffer,
        judged: int,
        now_ns: int,
        due_ns: DueNs,
    ) -> Ask | None:
        # Nobody speaks where there is no audio: muted for an hour, a lane asks nothing.
        self._chunks += [chunk for chunk in tracker.take_chunks() if buffer.has_audio(chunk)]
        self._taken_ns += [now_ns] * (len(self._chunks) - len(self._taken_ns))
        self._drop_late_chunks(judged - self._chunk_age_max, now_ns)
        if self._observing or not self._chunks:
            return None
        count = min(len(self._chunks), CHUNKS_PER_ASK_MAX)
        self._observing_since_ns = now_ns
        self._observing = chunks = tuple(self._take_chunk() for _ in range(count))
        questions = tuple(SpeakerChunk(buffer.read(chunk)) for chunk in chunks)
        samples = sum(chunk.samples for chunk in chunks)
        due = due_ns(JobKind.OBSERVE, chunks[0].end, now_ns)
        return Ask(JobKind.OBSERVE, questions, samples, True, due, chunks)

    def _take_chunk(self) -> Span:
        self._taken_ns.popleft()
        return self._chunks.popleft()

    def _drop_late_chunks(self, oldest: int, now_ns: int) -> None:
        """Those that are too far behind the audio, and have waited for half of that in time: a
        recording that is sent faster than it was spoken leaves everything behind it at once."""
        since_ns = now_ns - self._chunk_age_max * 500_000_000 // SAMPLE_RATE_HZ
        while self._observing and self._chunks and self._chunks[0].start < oldest:
            if self._taken_ns[0] > since_ns:
                return
            self._take_chunk()
            self._scope.stats.dropped_chunks += 1

    def _ask_clusters(self, tracker: Tracker, now_ns: int, *, is_last: bool) -> Ask | None:
        has_more = bool(self._observing or self._chunks)
        if has_more and not self._is_slow:
            return None
        is_last = is_last and not has_more
        self._had_last_question = is_last and not tracker.is_asked
        question = tracker.question(is_last=is_last)
        if question is None:
            return None
        return Ask(JobKind.CLUSTER, (question,), 0, True, now_ns + PATIENCE_NS[JobKind.CLUSTER])

    def receive_observations(
        self, chunks: Sequence[Span], observations: Sequence[Observation] | None
    ) -> str | None:
        """Observations of chunks; None where the diarizer failed. Returns what to tell of that."""
        self._observing = ()
        if observations is None:
            self._scope.stats.dropped_chunks += len(chunks)
            return "captions go on without new speakers"
        if self._tracker is not None:
            self._tracker.receive_observations(chunks, observations)
        return None

    def receive_clusters(self, clusters: Clusters | None) -> str | None:
        """Speakers of all evidence; None where the diarizer failed. Returns what to tell of it."""
        if self._tracker is None:
            return None
        if clusters is None:
            self._tracker.abandon_question()
            return "speakers are not regrouped until it recovers"
        self._tracker.receive_clusters(clusters)
        return None

    def give_up(self) -> None:
        """The diarizer does not answer, and the session cannot wait any longer."""
        self.has_given_up = True
        self._chunks.clear()
        self._taken_ns.clear()
