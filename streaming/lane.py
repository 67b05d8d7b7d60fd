"""One lane of a session: its audio, its words, its speakers, wired together.

Data flows one way: listener → recognition → captions, with the speaker tracker beside it. The
lane turns what they want into asks for the engines, and what the engines answer into events of
the session's log. It contains no signal processing and no text rules of its own.

Invariants: N1 text never waits for a speaker; N2 a sample leaves the buffer only when no stage
can ask for it again; N3 decoded, silent and gap samples add up to what was received.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from streaming import tuning
from streaming.asking import Ask
from streaming.captions import REVISION_HORIZON_SAMPLES, BookState
from streaming.delays import ArrivalClock, CatchUpPace, SpeechPace, WordDelays
from streaming.diarizing import SpeakersState, SpeakerWork
from streaming.endpointing import EndpointingOptions, Onset, latest_spans
from streaming.engines import (
    Activity,
    Clusters,
    DiarizerProfile,
    Hypothesis,
    Observation,
    Samples,
    SpeechWindow,
)
from streaming.events import GapReason, SessionStage, SpeechEnded, SpeechStarted
from streaming.handover import LaneHandover
from streaming.jobs import PATIENCE_NS, Answer, Job, JobKind
from streaming.listening import Listener, ListenerState, SpeechEdge
from streaming.partials import PartialOptions
from streaming.publishing import Publisher, SessionScope
from streaming.recognition import (
    FinalText,
    LostText,
    Outcome,
    PartialText,
    Recognition,
    Request,
    UtteranceState,
)
from streaming.speakers import is_sound_clusters, sound_observations
from streaming.speech_times import within_speech
from streaming.timeline import SAMPLE_RATE_HZ, Span
from streaming.tuning import SpeakerHints, TuningLimits
from streaming.windows import WindowOptions
from streaming.wire import Start

DIARIZER_BACKLOG_SAMPLES_MAX = 30 * SAMPLE_RATE_HZ
"""Chunks that waited longer for a diarizer (or for half of the buffer, where that is less) are
dropped: text must not wait for their audio."""
ARRIVALS_KEPT_SAMPLES = 60 * SAMPLE_RATE_HZ
"""Delays of words that a slow reader gets up to a minute late are still true."""


@dataclass(frozen=True, slots=True)
class LaneOptions:
    """What the operator and the client chose, for every lane of a session."""

    buffer_samples: int
    endpointing: EndpointingOptions
    windows: WindowOptions
    diarizer: DiarizerProfile | None
    """None: no speakers are looked for."""
    partials: bool = True
    partial_options: PartialOptions = field(default_factory=PartialOptions)
    limits: TuningLimits = field(default_factory=TuningLimits)
    """What a client may change of these for its own session."""
    speaker_hints: SpeakerHints = field(default_factory=SpeakerHints)

    def tuned(self, start: Start, buffer_samples: int) -> "LaneOptions":
        """As one session has asked for them. Raises: UnsupportedOption."""
        return replace(
            self,
            buffer_samples=buffer_samples,
            endpointing=tuning.tuned_endpointing(self.endpointing, start),
            windows=tuning.tuned_windows(self.windows, start, self.limits),
            diarizer=self.diarizer if start.diarize else None,
            partials=self.partials and start.partials,
            partial_options=tuning.tuned_partials(self.partial_options, start),
            speaker_hints=tuning.hinted_speakers(start),
        )


@dataclass(frozen=True, slots=True)
class LaneState:
    """What whoever takes a session over must know of one lane."""

    index: int
    start: int
    listener: ListenerState
    utterances: tuple[UtteranceState, ...]
    speech: tuple[Span, ...]
    """Of ended utterances that are not committed."""
    book: BookState
    speakers: SpeakersState


class Lane:
    """One speaker's microphone, or one channel with several speakers."""

    def __init__(
        self, index: int, name: str | None, options: LaneOptions, scope: SessionScope
    ) -> None:
        self.index = index
        self._scope = scope
        self._listener = Listener(options.buffer_samples, options.endpointing)
        self._recognition = Recognition(
            options.windows,
            scope.new_caption_id,
            partials=options.partials,
            partial_options=options.partial_options,
        )
        self.handover = LaneHandover(self._listener, self._recognition)
        self._publisher = Publisher(index, name, scope)
        chunk_age_max = min(DIARIZER_BACKLOG_SAMPLES_MAX, options.buffer_samples // 2)
        self._speakers = SpeakerWork(options.diarizer, scope, chunk_age_max, options.speaker_hints)
        if name is None:
            self._speakers.begin()
        self._speech: deque[Span] = deque()
        """Speech of ended utterances that is not dealt with yet."""
        self._arrivals = ArrivalClock()
        self._pace = SpeechPace()
        self._catch_up = CatchUpPace()
        self.delays = WordDelays(self._arrivals)
        self._progress: deque[tuple[int, int]] = deque()
        """(durable seq, sample): audio before the sample is dealt with once the seq is stored."""
        self._dealt_with = self._stored_through = 0
        self.start = 0
        """Where on the session's clock the lane joined."""
        self.last_audio_ns = 0
        self._is_ending = False

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
    def backlog(self) -> Span:
        """Received, and neither captioned, found silent nor given up."""
        return Span(min(self._dealt_with, self.received), self.received)

    @property
    def backlog_samples(self) -> int:
        return self.backlog.samples

    @property
    def audio_samples(self) -> int:
        """Samples since it joined, skipped ones included."""
        return self.received - self.start

    @property
    def silent_samples(self) -> int:
        return self._listener.silent_samples - self.start

    @property
    def is_settled(self) -> bool:
        """False while more audio could change an utterance, or some was never judged."""
        return self._listener.is_settled

    def join_at(self, sample: int) -> None:
        """A session's clock had come so far when the lane was added; call it first."""
        self._listener.skip(sample)
        self._listener.take_edges()
        self.start = self._dealt_with = self._stored_through = sample

    def rename(self, name: str | None) -> None:
        """The audio that follows is this person's; None: whose it is the diarizer finds."""
        if name == self._publisher.lane_name:
            return
        self.end_utterance()
        self._publisher.rename(name, self.received)
        if name is None:
            self._speakers.begin()

    @property
    def given_names(self) -> set[str | None]:
        """The lane's present name, and those under which something was said."""
        return {self._publisher.lane_name, *self._publisher.named_speakers}

    def receive(self, samples: Samples, now_ns: int) -> None:
        """Take audio; ``take_asks`` says what it leads to."""
        self._listener.receive(samples)
        self._arrivals.note(self.received, now_ns)
        self._pace.note(len(samples), now_ns)
        self._catch_up.note(len(samples), now_ns)

    def end_utterance(self) -> None:
        """Close what is open at the last sample received."""
        self._listener.end_here()

    def skip(self, samples: int, now_ns: int) -> None:
        """Time passes without audio."""
        self._listener.skip(samples)
        self._arrivals.note(self.received, now_ns)

    def end(self) -> None:
        """No audio will follow; what has not come again never will."""
        self._listener.give_up_missing()
        self.end_utterance()
        self.handover.cancel()
        self._is_ending = True

    # Going on after a crash

    @property
    def restart(self) -> int:
        """Audio before this sample will not be asked for by a lane that goes on from ``state``."""
        needed = [self._listener.restart]
        uncommitted = self._recognition.restart
        needed.append(self._listener.settled if uncommitted is None else uncommitted)
        if self._speakers.restart is not None:
            needed.append(self._speakers.restart)
        return min(needed)

    def state(self, voices_bytes_max: int) -> LaneState:
        """What ``resume`` needs, where audio comes again from ``restart`` on."""
        since = self.restart
        speech = [part for part in self._speech if part.end > since]
        return LaneState(
            index=self.index,
            start=self.start,
            listener=self._listener.state(since),
            utterances=self._recognition.state(),
            speech=latest_spans(speech, since) if speech else (),
            book=self._publisher.state(since),
            speakers=self._speakers.state(since, voices_bytes_max),
        )

    def resume(self, state: LaneState, first_sample: int) -> None:
        """Go on as the lane whose state it was; audio comes again from ``first_sample`` on."""
        self.start = state.start
        self._listener.resume(state.listener, first_sample)
        self._recognition.resume(state.utterances)
        self._speech.extend(state.speech)
        self._publisher.resume(state.book)
        self._speakers.resume(state.speakers)
        self._tell_tracker_of_open_speech()  # before any of its audio may be released (N2)
        self._dealt_with = self._stored_through = first_sample

    @property
    def is_catching_up(self) -> bool:
        """Audio that was received before has not all come again: nothing is asked meanwhile."""
        return self._listener.is_catching_up

    def pace_partials(self, thinning: float) -> None:
        """See ``Session.pace_partials``."""
        self._recognition.thinning = thinning

    # Asks out

    def take_asks(self, now_ns: int) -> list[Ask]:
        """What the engines should answer now."""
        if self.is_catching_up:
            self._release(self.restart)
            return []
        self._hear(self._listener.take_edges())
        asks = [self._ask_activity(now_ns), self._ask_words(now_ns)]
        found = [ask for ask in asks if ask is not None]
        listener, is_last = self._listener, self._is_ending and self.is_text_done
        found += self._speakers.take_asks(
            listener.buffer, listener.judged, now_ns, self._due_ns, is_last=is_last
        )
        self._note_progress()
        return found

    def take_activity_ask(self, now_ns: int) -> Ask | None:
        """What audio alone leads to; everything else waits for an answer or for time."""
        return self._ask_activity(now_ns)

    def _due_ns(self, kind: JobKind, sample: int, now_ns: int) -> int:
        arrival = self._arrivals.arrival_ns(sample)
        if arrival is None:
            return now_ns + PATIENCE_NS[kind]
        # An upload that is far ahead of real time must not stand before those who talk.
        return max(arrival, self._pace.spoken_ns(self.received - sample)) + PATIENCE_NS[kind]

    def _ask_activity(self, now_ns: int) -> Ask | None:
        window = None if self.handover.is_deaf else self._listener.take_window()
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
            context_widening=request.context_widening,
        )
        due_ns = self._due_ns(JobKind.RECOGNIZE, span.end, now_ns)
        return Ask(JobKind.RECOGNIZE, (question,), span.samples, request.is_final, due_ns, request)

    def job(self, ask: Ask, session_id: str, number: int) -> Job:
        """An ask that was just given, as a scheduler wants it."""
        request = ask.subject
        end = request.window.span.end if isinstance(request, Request) else self._listener.judged
        return Job(
            session_id=session_id,
            number=number,
            lane=self.index,
            kind=ask.kind,
            questions=ask.questions,
            audio_samples=ask.audio_samples,
            is_final=ask.is_final,
            deadline_ns=ask.deadline_ns,
            paced_ns=self._catch_up.due_ns(self.received - end),
        )

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
        self._tell_tracker_of_open_speech()

    def _tell_tracker_of_open_speech(self) -> None:
        open_speech = self._listener.open_speech
        if open_speech is not None:
            self._tell_tracker(open_speech, is_open=True)

    def _tell_tracker(self, span: Span, *, is_open: bool) -> None:
        if self._publisher.name_at(span.start) is None:
            self._speakers.receive_speech(span, is_open=is_open)

    def receive_words(
        self, request: Request, hypothesis: Hypothesis | None, reason: GapReason
    ) -> None:
        """A hypothesis; None, for a reason, where there is none to be had."""
        outcome = self._recognition.receive(request, hypothesis, reason)
        if outcome is None:
            self._scope.stats.superseded_results += 1
        else:
            self._publish(outcome)

    def receive_speakers(
        self, chunks: Sequence[Span], observations: Sequence[Observation] | None
    ) -> None:
        """Observations of chunks; None where the diarizer failed."""
        if not self._speakers.has_given_up:
            self._tell_or_revise(self._speakers.receive_observations(chunks, observations))

    def receive_clusters(self, clusters: Clusters | None) -> None:
        """Speakers of all evidence; None where the diarizer failed."""
        if not self._speakers.has_given_up:
            self._tell_or_revise(self._speakers.receive_clusters(clusters))

    def _tell_or_revise(self, trouble: str | None) -> None:
        if trouble is None:
            self._revise()
        else:
            self._publisher.degraded(SessionStage.DIARIZATION, trouble)

    def give_up_speakers(self) -> None:
        """The session ends and the diarizer does not answer."""
        if not self._speakers.is_done:
            self._publisher.degraded(
                SessionStage.DIARIZATION, "it did not answer in time at the end"
            )
            self._speakers.give_up()

    def answer(
        self,
        ask: Ask,
        answers: Sequence[Answer] | None,
        reason: GapReason = GapReason.ENGINE_FAILED,
    ) -> None:
        """Route the answers of an ask; None, for a reason, where there are none to be had.

        An answer of the wrong kind or shape is as good as none.
        """
        first = answers[0] if answers else None
        if ask.kind is JobKind.DETECT:
            self.receive_activity(first if isinstance(first, Activity) else None)
        elif ask.kind is JobKind.RECOGNIZE:
            assert isinstance(ask.subject, Request)
            words = first if isinstance(first, Hypothesis) else None
            self.receive_words(ask.subject, words, reason)
        elif ask.kind is JobKind.OBSERVE:
            assert isinstance(ask.subject, tuple)
            self.receive_speakers(ask.subject, sound_observations(ask.subject, answers or ()))
        else:
            self.receive_clusters(first if is_sound_clusters(first) else None)

    # Events out

    def _publish(self, outcome: Outcome) -> None:
        if isinstance(outcome, LostText):
            self._publisher.gap(outcome)
            return
        outcome = replace(outcome, words=within_speech(outcome.words, self._speech_in(outcome)))
        if isinstance(outcome, PartialText):
            self._publisher.partial(outcome, self._speakers.turns)
        else:
            self._publisher.final(outcome, self._speakers.turns)

    def _speech_in(self, text: PartialText | FinalText) -> list[Span]:
        parts = (*self._speech, *self._listener.open_parts)
        return [part for part in parts if part.overlap_samples(text.span)]

    def _revise(self) -> None:
        is_last = self._is_ending and self.is_text_done
        since = 0 if is_last else max(0, self.received - REVISION_HORIZON_SAMPLES)
        self._publisher.revise(self._speakers.turns, since=since)

    # What is done, and what may be forgotten

    @property
    def is_text_done(self) -> bool:
        """Every word of the audio received is committed."""
        is_heard = self._listener.is_idle and self._recognition.is_idle
        # What comes again is not lost if it does not: it was never acknowledged.
        return is_heard or self.is_catching_up

    @property
    def is_text_finished(self) -> bool:
        """No word will be added: the audio has ended and is committed."""
        return self._is_ending and self.is_text_done

    @property
    def is_finished(self) -> bool:
        """The lane has nothing more to say."""
        return self.is_text_finished and self._speakers.is_done

    @property
    def speaker_names(self) -> set[str]:
        """Everybody who said something here, as far as it is known."""
        return self._publisher.named_speakers | self._speakers.speaker_names

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
        if self._speakers.earliest_needed is not None:
            needed.append(self._speakers.earliest_needed)
        start = min(needed)
        self._listener.buffer.release(start)
        self._arrivals.forget(max(0, start - ARRIVALS_KEPT_SAMPLES))
