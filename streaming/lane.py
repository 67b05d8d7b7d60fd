"""One lane of a session: its audio, its words, its speakers, wired together.

Data flows one way: listener → recognition → captions, with the speaker tracker beside it. The
lane turns what they want into asks for the engines, and what the engines answer into events of
the session's log. It contains no signal processing and no text rules of its own.

Invariants: N1 text never waits for a speaker; N2 a sample leaves the buffer only when no stage
can ask for it again; N3 decoded, silent and gap samples add up to what was received.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeGuard

import numpy as np

from streaming.captions import REVISION_HORIZON_SAMPLES
from streaming.delays import ArrivalClock, WordDelays
from streaming.endpointing import EndpointingOptions, Onset
from streaming.engines import (
    Activity,
    Clusters,
    DiarizerProfile,
    Hypothesis,
    Observation,
    Samples,
    SpeakerChunk,
    SpeechWindow,
)
from streaming.events import SessionStage, SpeechEnded, SpeechStarted
from streaming.jobs import Answer, JobKind, Question
from streaming.listening import Listener, SpeechEdge
from streaming.publishing import Publisher, SessionScope
from streaming.recognition import (
    FinalText,
    LostText,
    Outcome,
    PartialText,
    Recognition,
    Request,
)
from streaming.speakers import SpeakerTracker
from streaming.speech_times import within_speech
from streaming.timeline import SAMPLE_RATE_HZ, Span
from streaming.turns import Turn
from streaming.windows import WindowOptions

DIARIZER_BACKLOG_SAMPLES_MAX = 30 * SAMPLE_RATE_HZ
"""Chunks that waited longer for a diarizer (or for half of the buffer, where that is less) are
dropped: text must not wait for their audio."""
CHUNKS_PER_ASK_MAX = 16
LOCAL_SPEAKERS_MAX = 16
"""Far more than a diarizer tells apart in one chunk (pyannote's models: three)."""
ARRIVALS_KEPT_SAMPLES = 60 * SAMPLE_RATE_HZ
"""Delays of words that a slow reader gets up to a minute late are still true."""

PATIENCE_NS = {
    JobKind.DETECT: 100_000_000,
    JobKind.RECOGNIZE: 1_000_000_000,
    JobKind.OBSERVE: 2_000_000_000,
    JobKind.CLUSTER: 3_000_000_000,
}
"""How long after the arrival of its audio an answer is still in time, by kind."""


@dataclass(frozen=True, slots=True)
class LaneOptions:
    """What the operator and the client chose, for every lane of a session."""

    buffer_samples: int
    endpointing: EndpointingOptions
    windows: WindowOptions
    diarizer: DiarizerProfile | None
    """None: no speakers are looked for."""
    partials: bool = True


@dataclass(frozen=True, slots=True)
class Ask:
    """Questions for an engine, before the session gives them a number."""

    kind: JobKind
    questions: tuple[Question, ...]
    audio_samples: int
    is_final: bool
    deadline_ns: int
    subject: Request | tuple[Span, ...] | None = None
    """What the answer is about, where the kind does not tell."""


class Lane:
    """One speaker's microphone, or one channel with several speakers."""

    def __init__(
        self, index: int, name: str | None, options: LaneOptions, scope: SessionScope
    ) -> None:
        self.index = index
        self._scope = scope
        self._listener = Listener(options.buffer_samples, options.endpointing)
        self._recognition = Recognition(
            options.windows, scope.new_caption_id, partials=options.partials
        )
        self._publisher = Publisher(index, name, scope)
        self._tracker = self._new_tracker(None if name is not None else options.diarizer)
        self._speaker_names: dict[int, str] = {}
        self._chunks: deque[Span] = deque()
        self._speech: deque[Span] = deque()
        """Speech of ended utterances that is not dealt with yet."""
        self._chunk_age_max = min(DIARIZER_BACKLOG_SAMPLES_MAX, options.buffer_samples // 2)
        self._observing = False
        self._arrivals = ArrivalClock()
        self.delays = WordDelays(self._arrivals)
        self._progress: deque[tuple[int, int]] = deque()
        """(durable seq, sample): audio before the sample is dealt with once the seq is stored."""
        self._dealt_with = self._stored_through = 0
        self._is_ending = False
        self._had_last_question = False
        self._has_given_up_speakers = False

    def _new_tracker(self, profile: DiarizerProfile | None) -> SpeakerTracker | None:
        return None if profile is None else SpeakerTracker(profile, name_of=self._speaker_name)

    def _speaker_name(self, number: int) -> str:
        """Lanes share one series of names: the same number is another person elsewhere."""
        if number not in self._speaker_names:
            self._speaker_names[number] = self._scope.new_speaker_name()
        return self._speaker_names[number]

    # Audio in

    @property
    def received(self) -> int:
        """Samples on this lane's clock so far."""
        return self._listener.buffer.end

    @property
    def stored_samples(self) -> int:
        """Samples that are held in memory."""
        return self._listener.buffer.stored_samples

    @property
    def backlog_samples(self) -> int:
        """Received, and neither captioned, found silent nor given up."""
        return self.received - self._dealt_with

    @property
    def silent_samples(self) -> int:
        return self._listener.silent_samples

    @property
    def has_open_speech(self) -> bool:
        """True while more audio could change an utterance, or some was never judged."""
        return not self._listener.is_idle

    def receive(self, samples: Samples, now_ns: int) -> None:
        """Take audio; ``take_asks`` says what it leads to."""
        self._listener.receive(samples)
        self._arrivals.note(self.received, now_ns)

    def end_utterance(self) -> None:
        """Close what is open at the last sample received."""
        self._listener.end_here()

    def skip(self, samples: int, now_ns: int) -> None:
        """Time passes without audio."""
        self._listener.skip(samples)
        self._arrivals.note(self.received, now_ns)

    def end(self) -> None:
        """No audio will follow."""
        self.end_utterance()
        self._is_ending = True

    # Asks out

    def take_asks(self, now_ns: int) -> list[Ask]:
        """What the engines should answer now."""
        self._hear(self._listener.take_edges())
        asks = [
            self._ask_activity(now_ns),
            self._ask_words(now_ns),
            self._ask_speakers(now_ns),
            self._ask_clusters(now_ns),
        ]
        self._note_progress()
        return [ask for ask in asks if ask is not None]

    def _due_ns(self, kind: JobKind, sample: int, now_ns: int) -> int:
        arrival = self._arrivals.arrival_ns(sample)
        return (now_ns if arrival is None else arrival) + PATIENCE_NS[kind]

    def _ask_activity(self, now_ns: int) -> Ask | None:
        window = self._listener.take_window()
        if window is None:
            return None
        due_ns = self._due_ns(JobKind.DETECT, self._listener.judged, now_ns)
        return Ask(JobKind.DETECT, (window,), len(window.samples), True, due_ns)

    def _ask_words(self, now_ns: int) -> Ask | None:
        listener = self._listener
        request = self._recognition.take_request(listener.judged, listener.speech_end)
        if request is None:
            return None
        span, speech = request.window.span, self._scope.speech
        question = SpeechWindow(
            samples=self._listener.buffer.read(span),
            language=speech.language,
            task=speech.task,
            prompt=speech.prompt,
            keywords=speech.keywords,
            is_final=request.is_final,
            draft=request.draft,
            seed=speech.seed + span.start,
        )
        due_ns = self._due_ns(JobKind.RECOGNIZE, span.end, now_ns)
        return Ask(JobKind.RECOGNIZE, (question,), span.samples, request.is_final, due_ns, request)

    def _ask_speakers(self, now_ns: int) -> Ask | None:
        if self._tracker is None or self._has_given_up_speakers:
            return None
        self._chunks += self._tracker.take_chunks()
        self._drop_late_chunks()
        if self._observing or not self._chunks:
            return None
        self._observing = True
        count = min(len(self._chunks), CHUNKS_PER_ASK_MAX)
        chunks = tuple(self._chunks.popleft() for _ in range(count))
        questions = tuple(SpeakerChunk(self._listener.buffer.read(chunk)) for chunk in chunks)
        due_ns = self._due_ns(JobKind.OBSERVE, chunks[0].end, now_ns)
        samples = sum(chunk.samples for chunk in chunks)
        return Ask(JobKind.OBSERVE, questions, samples, True, due_ns, chunks)

    def _drop_late_chunks(self) -> None:
        oldest = self._listener.judged - self._chunk_age_max
        while self._observing and self._chunks and self._chunks[0].start < oldest:
            self._chunks.popleft()
            self._scope.stats.dropped_chunks += 1

    def _ask_clusters(self, now_ns: int) -> Ask | None:
        if self._tracker is None or self._has_given_up_speakers:
            return None
        if self._observing or self._chunks:
            return None
        is_last = self._is_ending and self.is_text_done
        self._had_last_question = is_last and not self._tracker.is_asked
        question = self._tracker.question(is_last=is_last)
        if question is None:
            return None
        due_ns = now_ns + PATIENCE_NS[JobKind.CLUSTER]
        return Ask(JobKind.CLUSTER, (question,), 0, True, due_ns)

    # Answers in

    def receive_activity(self, activity: Activity | None) -> None:
        """Speech probabilities; None where the engine failed."""
        if activity is None:
            self._publisher.degraded(
                SessionStage.ACTIVITY, "audio is taken for speech until it recovers"
            )
        self._hear(self._listener.receive_activity(activity))

    def _hear(self, edges: Sequence[SpeechEdge]) -> None:
        log = self._scope.log
        for edge in edges:
            if isinstance(edge, Onset):
                self._recognition.open(edge)
                log.post(SpeechStarted(log.last_seq, self.index, edge.at))
            else:
                withdrawal = self._recognition.close(edge.span.end)
                if withdrawal is not None:
                    self._publish(withdrawal)
                self._speech += edge.speech
                heard = Span(edge.speech[0].start, edge.speech[-1].end)
                self._tell_tracker(heard, is_open=False)
                log.post(SpeechEnded(log.last_seq, self.index, edge.at))
        open_speech = self._listener.open_speech
        if open_speech is not None:
            self._tell_tracker(open_speech, is_open=True)

    def _tell_tracker(self, span: Span, *, is_open: bool) -> None:
        """Speech without pre-roll, hangover and tail: a voice has no say in silence."""
        if self._tracker is not None:
            self._tracker.receive_speech(span, is_open=is_open)

    def receive_words(self, request: Request, hypothesis: Hypothesis | None) -> None:
        """A hypothesis; None where the engine failed, or a partial lost its place."""
        outcome = self._recognition.receive(request, hypothesis)
        if outcome is None:
            self._scope.stats.superseded_results += 1
        else:
            self._publish(outcome)

    def receive_speakers(
        self, chunks: Sequence[Span], observations: Sequence[Observation] | None
    ) -> None:
        """Observations of chunks; None where the diarizer failed."""
        self._observing = False
        if self._has_given_up_speakers:
            return
        if observations is None:
            self._scope.stats.dropped_chunks += len(chunks)
            self._publisher.degraded(
                SessionStage.DIARIZATION, "captions go on without new speakers"
            )
        elif self._tracker is not None:
            self._tracker.receive_observations(chunks, observations)
            self._revise()

    def receive_clusters(self, clusters: Clusters | None) -> None:
        """Speakers of all evidence; None where the diarizer failed."""
        if self._tracker is None or self._has_given_up_speakers:
            return
        if clusters is None:
            self._tracker.abandon_question()
            self._publisher.degraded(
                SessionStage.DIARIZATION, "speakers are not regrouped until it recovers"
            )
        else:
            self._tracker.receive_clusters(clusters)
            self._revise()

    def give_up_speakers(self) -> None:
        """The session ends and the diarizer does not answer."""
        if not self._is_speaker_work_done:
            self._publisher.degraded(
                SessionStage.DIARIZATION, "it did not answer in time at the end"
            )
            # What is known of the speakers stays; only nothing more is asked or taken.
            self._has_given_up_speakers = True
            self._chunks.clear()

    def answer(self, ask: Ask, answers: Sequence[Answer] | None) -> None:
        """Route the answers of an ask; None where there are none to be had.

        An answer of the wrong kind or shape is as good as none.
        """
        first = answers[0] if answers else None
        if ask.kind is JobKind.DETECT:
            self.receive_activity(first if isinstance(first, Activity) else None)
        elif ask.kind is JobKind.RECOGNIZE:
            assert isinstance(ask.subject, Request)
            self.receive_words(ask.subject, first if isinstance(first, Hypothesis) else None)
        elif ask.kind is JobKind.OBSERVE:
            assert isinstance(ask.subject, tuple)
            self.receive_speakers(ask.subject, _sound_observations(ask.subject, answers or ()))
        else:
            self.receive_clusters(first if _is_sound_clusters(first) else None)

    # Events out

    def _publish(self, outcome: Outcome) -> None:
        if isinstance(outcome, LostText):
            self._publisher.gap(outcome)
            return
        outcome = replace(outcome, words=within_speech(outcome.words, self._speech_in(outcome)))
        if isinstance(outcome, PartialText):
            self._publisher.partial(outcome, self._turns())
        else:
            self._publisher.final(outcome, self._turns())

    def _speech_in(self, text: PartialText | FinalText) -> list[Span]:
        parts = (*self._speech, *self._listener.open_parts)
        return [part for part in parts if part.overlap_samples(text.span)]

    def _revise(self) -> None:
        is_last = self._is_ending and self.is_text_done
        since = 0 if is_last else max(0, self.received - REVISION_HORIZON_SAMPLES)
        self._publisher.revise(self._turns(), since=since)

    def _turns(self) -> Sequence[Turn]:
        return () if self._tracker is None else self._tracker.turns()

    # What is done, and what may be forgotten

    @property
    def is_text_done(self) -> bool:
        """Every word of the audio received is committed."""
        return self._listener.is_idle and self._recognition.is_idle

    @property
    def _is_speaker_work_done(self) -> bool:
        if self._tracker is None or self._has_given_up_speakers:
            return True
        is_quiet = not self._chunks and not self._observing and not self._tracker.is_asked
        return is_quiet and self._had_last_question

    @property
    def is_text_finished(self) -> bool:
        """No word will be added: the audio has ended and is committed."""
        return self._is_ending and self.is_text_done

    @property
    def is_finished(self) -> bool:
        """The lane has nothing more to say."""
        return self.is_text_finished and self._is_speaker_work_done

    @property
    def speaker_names(self) -> set[str]:
        """Everybody who said something here, as far as it is known."""
        named = self._publisher.lane_speakers
        return named if named is not None else {turn.speaker for turn in self._turns()}

    def stored_through(self) -> int:
        """Audio before this sample is silent, committed and stored, or reported as a gap."""
        while self._progress and self._progress[0][0] <= self._scope.log.stored_seq:
            self._stored_through = self._progress.popleft()[1]
        return self._stored_through

    def _note_progress(self) -> None:
        uncommitted = self._recognition.uncommitted_from
        dealt_with = self._listener.settled if uncommitted is None else uncommitted
        self._dealt_with = dealt_with
        while self._speech and self._speech[0].end <= dealt_with:
            self._speech.popleft()
        seq = self._scope.log.last_seq
        if self._progress and self._progress[-1][0] == seq:
            self._progress[-1] = (seq, dealt_with)
        else:
            self._progress.append((seq, dealt_with))
        self._release(dealt_with)

    def _release(self, dealt_with: int) -> None:
        needed = [dealt_with, self._listener.judged]
        if self._recognition.earliest_needed is not None:
            needed.append(self._recognition.earliest_needed)
        if self._tracker is not None and self._tracker.earliest_needed is not None:
            needed.append(self._tracker.earliest_needed)
        if self._chunks:
            needed.append(self._chunks[0].start)
        start = min(needed)
        self._listener.buffer.release(start)
        self._arrivals.forget(max(0, start - ARRIVALS_KEPT_SAMPLES))


def _sound_observations(
    chunks: Sequence[Span], answers: Sequence[Answer]
) -> Sequence[Observation] | None:
    """One usable observation per chunk, or None."""
    sound = [answer for answer in answers if _is_sound_observation(answer)]
    return sound if len(sound) == len(answers) == len(chunks) else None


def _is_sound_observation(answer: Answer) -> TypeGuard[Observation]:
    """Activity and embeddings tell of the same local speakers. Embeddings are the tracker's to
    judge one by one."""
    if not isinstance(answer, Observation) or answer.activity.ndim != 2:
        return False
    frames, speakers = answer.activity.shape
    is_whole = frames > 0 and answer.embeddings.ndim == 2 and len(answer.embeddings) == speakers
    return is_whole and speakers <= LOCAL_SPEAKERS_MAX and bool(np.isfinite(answer.activity).all())


def _is_sound_clusters(answer: Answer | None) -> TypeGuard[Clusters]:
    return isinstance(answer, Clusters) and np.issubdtype(answer.labels.dtype, np.integer)
