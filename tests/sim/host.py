"""One session on the server: what the waiting half does for it, on the virtual clock.

Jobs out, durable events to the store one write at a time, deadlines, the connection that the
talker has at present, the resume window. Also keeps the books that checkers need: what was
asked, what failed, what was lied about. Decides nothing that a session decides.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from streaming.checkpoint import decode
from streaming.endpointing import EndpointingOptions
from streaming.engines import DiarizerProfile, FrameGrid, Hypothesis, SpeechWindow
from streaming.errors import BadAudio, ClientError, Draining, InternalError, ServerError
from streaming.eventlog import ENTRIES_MAX
from streaming.events import Gap, SessionStage
from streaming.jobs import Answer, Job, JobKind
from streaming.keeping import SavedPoint
from streaming.recognition import Request
from streaming.session import Session, SessionState
from streaming.timeline import SAMPLE_RATE_HZ, SAMPLES_PER_MS, Span
from streaming.windows import WindowOptions
from streaming.wire import Ack
from tests.fakes import lane_options
from tests.sim import watchers
from tests.sim.engines import Stage
from tests.sim.readers import Connection, Viewer
from tests.sim.script import VOICES_MAX, Script
from tests.sim.store import Store
from tests.sim.weather import Fault, Way
from tests.sim.world import SECOND, World

GRIDS = (
    DiarizerProfile(25_600, 6_400, 4_800, grid=FrameGrid(1.6, 0.4, 0.032, 0.032, 0.0)),
    DiarizerProfile(51_200, 6_400, 4_800, grid=FrameGrid(3.2, 0.4, 0.032, 0.032, 0.1)),
)
"""Of diarizers that look at all audio; a frame is as long as one of the scripted diarizer's."""


@dataclass
class Books:
    """What really happened to a session, for the watchers."""

    breaks: dict[int, list[int]] = field(default_factory=dict)
    """Per lane, samples at which open utterances were closed, in the middle of a word or not."""
    lost_finals: Counter[int] = field(default_factory=Counter)
    """Per lane, windows whose words no engine could tell."""
    lies: dict[int, list[Span]] = field(default_factory=dict)
    """Per lane, windows whose words are nonsense."""
    has_odd_speakers: bool = False
    """The diarizer lied, failed or was not asked about something."""
    chunks: dict[int, set[Span]] = field(default_factory=dict)
    """Per lane, what the diarizer was asked about since the last crash."""
    stale_answers: int = 0
    in_flight: dict[int, Job] = field(default_factory=dict)
    is_reconfigured: bool = False
    drained_frames: int | None = None
    """As far as a server had received that was told to go away; None where none was."""
    frames_heard_before: int = 0
    """As far as servers that died had received."""
    rows_before: int = 0
    """Events that they left in the store."""

    def cuts(self, lane: int) -> list[Span]:
        """The breaks, as what a word cannot lie across."""
        return [Span(sample - 1, sample + 1) for sample in self.breaks.get(lane, ()) if sample]

    def excuses(self, lane: int) -> list[Span]:
        """Where words may be missing, or others stand."""
        return [*self.cuts(lane), *self.lies.get(lane, ())]


class Host:
    """See the module's docstring."""

    def __init__(
        self,
        world: World,
        index: int,
        script: Script,
        stages: dict[SessionStage, Stage],
        store: Store,
    ) -> None:
        self.id = str(index)
        self.script = script
        self.books = Books()
        self._world, self._stages, self._store = world, stages, store
        lots = world.lots(f"host {index}")
        self.buffer_samples = lots.choice([20, 60]) * SAMPLE_RATE_HZ
        cap_ms = lots.choice([4_000, 20_000])
        self._cap_ms = script.start.max_delay_ms or cap_ms
        self._options = lane_options(
            buffer_samples=self.buffer_samples,
            windows=WindowOptions(cap_ms=cap_ms, hop_ms=lots.choice([200, 300, 1_000])),
            endpointing=EndpointingOptions(hangover_ms=lots.choice([300, 600])),
        )
        diarizer = world.lots(f"diarizer {index}").choice([None, *GRIDS])
        self.has_grid = diarizer is not None
        if diarizer is not None:
            self._options = replace(self._options, diarizer=diarizer)
        self._epoch = 0
        self.session = self._new_session()
        # A short session would never come to the bound that a long one has.
        entries_max = lots.choice([8, 64, ENTRIES_MAX, ENTRIES_MAX])
        self.session.log._entries_max = self._entries_max = entries_max
        self.has_long_log = entries_max == ENTRIES_MAX
        self._resume_window_ns = lots.choice([10, 120]) * SECOND
        self._expiry = 0
        self._is_storing = False
        self._timer_ns: int | None = None
        self._credit_when_congested: int | None = None
        self._acks = watchers.Acknowledgements(script)
        self.has_expired = False
        self.is_down = False
        """Its server died, and no other one has taken it over."""
        self.crashes = 0
        self._crashed_ns = 0
        self.is_draining = False
        """Its server is told to go away, and lets nobody in."""
        self.connection: Connection | None = None
        self.viewers: list[Viewer] = []

    def _new_session(self) -> Session:
        point = self._store.point(self.id)
        self._epoch += 1
        return Session(
            self.id,
            self.script.start,
            self._options,
            seed=self._world.seed,
            epoch=self._epoch,
            checkpoint=None if point is None else decode(point.body),
            keeps_checkpoints=True,
        )

    @property
    def is_exact(self) -> bool:
        """Its words can be read from its audio."""
        return self.script.is_exact

    @property
    def is_well_diarized(self) -> bool:
        """The diarizer was asked about everything, and told the truth."""
        is_asked = self.script.start.diarize and not self.session.stats.dropped_chunks
        return is_asked and not self.books.has_odd_speakers

    @property
    def has_too_few_voices(self) -> bool:
        """The client has said that there are fewer people than may speak, or just as many."""
        start = self.script.start
        return (start.speakers or start.speakers_max or VOICES_MAX) < VOICES_MAX

    @property
    def hop_samples(self) -> int:
        """From chunk to chunk of a grid."""
        assert self._options.diarizer is not None
        return self._options.diarizer.hop_samples

    @property
    def chunk_samples(self) -> int | None:
        """What its diarizer is shown of each chunk, silence behind a shorter one; None where that
        is the chunk as it is."""
        profile = self._options.diarizer
        return profile.chunk_samples if self.has_grid and profile is not None else None

    @property
    def is_over(self) -> bool:
        """The last event is stored."""
        log = self.session.log
        return self.session.state is SessionState.DONE and log.stored_seq == log.last_seq

    # Crashes

    def crash(self) -> None:
        """Its server is gone from one moment to the next, with all that it had in memory."""
        if not self.is_down and not self.has_expired:
            self._lose_server(InternalError("the server is gone; resume on another one"))

    def _lose_server(self, reason: ServerError) -> None:
        self.is_down, self._crashed_ns = True, self._world.now_ns
        self.is_draining = False
        self.crashes += 1
        self._store.lose_server(self.id)
        connection, self.connection = self.connection, None
        if connection is not None:
            connection.is_dismissed = True
            connection.fail(reason)
        self._timer_ns = None
        self._is_storing = False
        self._expiry += 1
        self._acks.forget_credit()
        # What the dead one found out and did not store, the next one finds out for itself.
        stored = self._store.events(self.id)
        frames = max(self.books.frames_heard_before, self.session.frames_received)
        self.books.frames_heard_before, self.books.rows_before = frames, len(stored)
        gaps = Counter(event.lane for event in stored if isinstance(event, Gap))
        self.books.lost_finals = gaps
        self.books.in_flight.clear()
        self.books.chunks.clear()
        self.books.has_odd_speakers = True

    def is_there(self) -> bool:
        """Somebody comes for the session: another server takes it over, if there is still time."""
        if self.is_down and self._world.now_ns - self._crashed_ns > self._resume_window_ns:
            self.has_expired = True
        if self.is_down and not self.has_expired:
            self._world.go(Way.TAKEN_OVER)
            self.session = self._new_session()
            self.session.log._entries_max = self._entries_max
            self.books.stale_answers = self.session.stats.superseded_results
            self._credit_when_congested = None
            self.is_down = False
            for viewer in self.viewers:
                viewer.begin_again()
        return not self.has_expired

    # Connections

    def attach(self, connection: Connection, last_seq: int) -> None:
        """A connection takes the session over."""
        if self.connection is not None:
            self._world.go(Way.TAKEOVER)
            self.connection.is_dismissed = True
            self.session.detach()
        self.connection = connection
        self._expiry += 1
        self.session.attach(self._world.now_ns, last_seq)
        self.step()

    def detach(self, connection: Connection) -> None:
        """The server notices that a connection is gone; a newer one does not mind."""
        connection.is_dismissed = True
        if self.connection is not connection:
            return
        self.connection = None
        self.session.detach()
        self._expiry += 1
        expiry = self._expiry
        self._world.after(self._resume_window_ns, lambda: self._expire(expiry))
        self.step()

    def _expire(self, expiry: int) -> None:
        if expiry != self._expiry or self.is_down or self.session.state is not SessionState.OPEN:
            return
        self._world.go(Way.EXPIRY)
        self.has_expired = True
        self.break_utterance()
        self.session.end_of_audio_quietly(self._world.now_ns)
        self.step()

    # From the client

    def take(self, connection: Connection, action: Callable[[Session, int], None]) -> None:
        """A message of the client arrives. Its errors close the connection, not the session."""
        if connection.is_dismissed:
            self._world.note(Fault.STALE_PACKET)
            return
        if self.session.is_deaf:
            return
        was_open = self.session.state is SessionState.OPEN
        try:
            action(self.session, self._world.now_ns)
        except ClientError as error:
            has_ended = was_open and self.session.state is not SessionState.OPEN
            if not (has_ended and isinstance(error, BadAudio)):  # but for a cut frame at the end
                connection.fail(error)
                self.detach(connection)
        self.step()

    def drain(self, seconds: float) -> None:
        """Its server goes away, after so long at the latest; another one goes on."""
        if self.session.state is not SessionState.OPEN or self.is_down:
            return
        self._world.go(Way.DRAIN)
        self.is_draining = True
        session = self.session
        # What comes again from before is the next server's as well.
        is_replay = session._keeper.is_replay
        self.books.drained_frames = None if is_replay else session.frames_received
        session.wind_up(is_last=False)
        self._world.after(seconds / 2 * SECOND, lambda: self._hurry(session))
        self._world.after(seconds * SECOND, lambda: self._leave(session))
        self.step()

    def _hurry(self, session: Session) -> None:
        if self._is_leaving(session):
            self._world.go(Way.DRAIN_OF_A_TALKER)
            self.books.drained_frames = None
            session.hurry()
            self.step()

    def _leave(self, session: Session) -> None:
        if self._is_leaving(session):
            self._lose_server(Draining("the server is going down; resume on another one"))

    def _is_leaving(self, session: Session) -> bool:
        is_open = session.state is SessionState.OPEN
        return self.is_draining and self.session is session and is_open

    def _look_if_drained(self) -> None:
        session = self.session
        is_stored = session.log.stored_seq == session.log.last_seq and not self._is_storing
        if self._is_leaving(session) and session.is_settled and is_stored:
            if self.books.drained_frames is not None:
                self._acks.check_drained(
                    self.books.drained_frames, self._store.events(self.id), self.books.excuses
                )
            self._leave(session)

    def break_utterance(self) -> None:
        """Whatever is open ends here."""
        for index, lane in self.session._lanes.items():
            self.books.breaks.setdefault(index, []).append(lane.received)

    # From the engines

    def receive(self, job: Job, answers: Sequence[Answer] | None, engine_ns: int) -> None:
        if self.is_down:
            return
        if self.books.in_flight.pop(job.number, None) is None:
            self.books.stale_answers += answers is not None
        else:
            self._note_answer(job, answers)
        if answers is None:
            self.session.receive_failure(job.number)
        else:
            self.session.receive_result(job.number, answers, engine_ns, self._world.now_ns)
        if job.kind is JobKind.OBSERVE:
            watchers.check_evidence(self.session)
        self.step()

    def receive_again(self, job: Job, answers: Sequence[Answer]) -> None:
        """An answer that was killed, or was given before."""
        self.receive(job, answers, 0)

    def _note_answer(self, job: Job, answers: Sequence[Answer] | None) -> None:
        is_told = bool(answers) and isinstance(answers[0] if answers else None, Hypothesis)
        if job.kind is JobKind.RECOGNIZE and job.is_final and not is_told:
            subject = self.session._pending[job.number][1].subject
            # What an early cut would have committed is left to the next server.
            is_early = isinstance(subject, Request) and subject.early_cut is not None
            self.books.lost_finals[job.lane] += not is_early
        if job.kind in (JobKind.OBSERVE, JobKind.CLUSTER) and answers is None:
            self.books.has_odd_speakers = True

    def note_lie(self, job: Job) -> None:
        if job.kind is not JobKind.RECOGNIZE:
            self.books.has_odd_speakers = True
        elif job.is_final:
            self.books.lies.setdefault(job.lane, []).append(self._span_of(job))

    def _span_of(self, job: Job) -> Span:
        """Where a window lies on its lane: a window's seed is the session's, moved by its start."""
        (window,) = job.questions
        assert isinstance(window, SpeechWindow)
        start = window.seed - self._world.seed
        return Span(start, start + len(window.samples))

    # Work

    def step(self) -> None:
        """After each input: jobs out, events to the store, word to the readers, bounds checked."""
        if self.is_down:
            return
        while jobs := self.session.take_jobs(self._world.now_ns):
            for job in jobs:
                self._ask(job)
        self._put_away()
        if self.connection is not None:
            self.connection.wake()
        for viewer in self.viewers:
            viewer.wake()
        self._check()
        self._arm()
        self._look_if_drained()

    def _ask(self, job: Job) -> None:
        watchers.check_question(job, self.script.start, self._cap_ms * SAMPLES_PER_MS)
        if job.kind is JobKind.RECOGNIZE and job.is_final:
            (window,) = job.questions
            if (
                isinstance(window, SpeechWindow)
                and len(window.samples) >= self._cap_ms * SAMPLES_PER_MS
            ):
                self._world.go(Way.CUT)
        if job.kind is JobKind.OBSERVE:
            chunks = self.session._pending[job.number][1].subject
            assert isinstance(chunks, tuple)
            watchers.check_chunks(self.books.chunks.setdefault(job.lane, set()), chunks)
        self.books.in_flight[job.number] = job
        watchers.check_in_flight(self.books.in_flight.values())
        self._stages[job.stage].add(job)

    def _put_away(self) -> None:
        session = self.session
        is_due = session.log.has_unstored or session.is_checkpoint_due
        if self._is_storing or not is_due:
            return
        self._is_storing = True
        events, point = session.log.take_unstored(), session.checkpoint()
        self._store.append(self.id, events, point, lambda: self._stored(session, point))

    def _stored(self, session: Session, point: SavedPoint | None) -> None:
        self._is_storing = False
        if point is not None:
            session.note_kept(point)
        session.log.mark_stored(len(self._store.rows(self.id)))
        self.step()

    def check_ack(self, ack: Ack) -> None:
        events = self._store.events(self.id)
        self._acks.check(ack, self.session.frames_received, events, self.books.excuses)

    def _check(self) -> None:
        watchers.check_bounds(self.session, self.buffer_samples)
        if watchers.is_congested(self.session):
            self._world.go(Way.CONGESTION)
            before, self._credit_when_congested = (
                self._credit_when_congested,
                self.session.credit_until_frame,
            )
            frames = self.session.frames_received
            watchers.check_congestion(before, self._credit_when_congested, frames)
        else:
            self._credit_when_congested = None

    def _arm(self) -> None:
        """A timer that comes too early only looks again: packets move the deadline all the time."""
        due_ns = self.session.deadline_ns
        if due_ns is None or (self._timer_ns is not None and self._timer_ns <= due_ns):
            return
        self._timer_ns = due_ns
        self._world.after(due_ns - self._world.now_ns, lambda: self._on_timer(due_ns))

    def _on_timer(self, timer_ns: int) -> None:
        if timer_ns != self._timer_ns:
            return  # an earlier one took its place
        self._timer_ns = None
        due_ns = self.session.deadline_ns
        if due_ns is not None and due_ns <= self._world.now_ns:
            self._note_deadline()
        self.session.handle_deadline(self._world.now_ns)
        self.step()

    def _note_deadline(self) -> None:
        if self.session.state is SessionState.OPEN:
            self._world.go(Way.IDLE_FLUSH)
            self.break_utterance()
        else:
            self._world.go(Way.NO_LAST_PASS)
            self.books.has_odd_speakers = True
