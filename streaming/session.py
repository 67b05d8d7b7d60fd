"""One stream, from its first byte to its last event: lanes, log, credit and the session's states.

    OPEN ──end──▶ ENDING ──every caption committed, stored and read──▶ DONE

The caller feeds bytes, messages, answers and the time, and after each of them takes jobs, events
to store, and an acknowledgement, until there are none. The session never waits, and it outlives
its connections: ``detach`` and ``attach`` tell it of them.

Invariants: S1 decoded, silent and gap samples add up to the received ones when it is DONE; S2
audio beyond the credit is refused before it is decoded; S3 exactly one ``Done``, and nothing
after it; S4 an answer is taken once, a late one is counted and dropped.
"""

from collections.abc import Iterator, Sequence
from enum import Enum, auto

from streaming.acking import ACK_SAMPLES, Acknowledgements, Credit
from streaming.asking import Ask
from streaming.checkpoint import VOICES_BYTES_MAX, Checkpoint, encode, first_checkpoint
from streaming.closing import closing_event
from streaming.departure import Departure
from streaming.errors import BadAudio, OutOfOrder, TooFast, UnsupportedOption
from streaming.eventlog import EventLog
from streaming.events import Event, GapReason
from streaming.intake import Piece, TaggedIntake, make_intake
from streaming.jobs import STAGE_OF_KIND, Answer, Job, JobKind
from streaming.keeping import Keeper, SavedPoint
from streaming.lagging import LagNotice, behind_s
from streaming.lane import Lane, LaneOptions
from streaming.naming import Names
from streaming.publishing import SessionScope
from streaming.reading import TalkerReading, WordDelay
from streaming.resting import Rests
from streaming.timeline import SAMPLE_RATE_HZ, Span
from streaming.wire import CHANNELS_MAX, Ack, Configure, Start

SPEAKER_GRACE_NS = 15_000_000_000
"""How long the end of a session waits for the diarizer's last pass."""
BUFFER_MARGIN_SAMPLES = 3 * SAMPLE_RATE_HZ
"""A resampler gives up to a second of audio at once; what comes again after a crash begins with
left context, which is not part of the credit."""
NUMBERS_PER_EPOCH = 1 << 40
"""Job numbers of different owners never meet: a late answer of an earlier one is dropped."""


class SessionState(Enum):
    OPEN = auto()
    ENDING = auto()
    DONE = auto()


class Session:
    """See the module's docstring for the order of calls."""

    def __init__(
        self,
        session_id: str,
        start: Start,
        options: LaneOptions,
        *,
        seed: int,
        epoch: int = 1,
        checkpoint: Checkpoint | None = None,
        keeps_checkpoints: bool = False,
    ) -> None:
        """``options.buffer_samples`` is the credit: audio that may be sent ahead of captions.

        ``epoch`` counts the owners of the session, this one included; ``checkpoint`` is what the
        last one left. ``keeps_checkpoints``: the caller stores what ``checkpoint`` gives, and
        nothing is acknowledged that another owner might need.
        Raises: UnsupportedOption, BadAudio.
        """
        held = checkpoint or first_checkpoint(start, seed)
        self._intake = make_intake(start.audio, held.frame, held.intake)
        self.id = session_id
        self.start = start
        self.state = SessionState.DONE if held.is_done else SessionState.OPEN
        self.log = EventLog(stored_seq=held.seq)
        self.stats = held.stats
        audio = start.audio
        self.speech = held.speech
        self._names = Names(held.captions, held.speakers)
        self._scope = SessionScope(
            self.log, self.stats, self.speech, self._names.new_caption, self._new_speaker_name
        )
        # The credit of a tagged session is one for all its lanes: one of them may use all of it.
        lanes_max = CHANNELS_MAX if audio.tagged else 1
        self._lane_options = options.tuned(
            start, options.buffer_samples * lanes_max + BUFFER_MARGIN_SAMPLES
        )
        self._lanes: dict[int, Lane] = {}
        self._thinning = 1.0
        self._stirred: dict[int, Lane] = {}
        """Lanes that something happened to since they had nothing to ask; a packet is one's."""
        self._rests = Rests(self._intake, self._lanes, self._stirred)
        self._departure = Departure(self._lanes, self._rests)
        if not audio.tagged:
            for index, name in enumerate(audio.channel_names or [None] * audio.channels):
                self._new_lane(index, name)
        for state in held.lanes:
            index, name = state.index, state.book.names[-1][1]
            lane = self._lanes.get(index) or self._new_lane(index, name)
            lane.resume(state, self._intake.samples_produced(state.index))
        self._pending: dict[int, tuple[Lane, Ask]] = {}
        self._last_number = epoch * NUMBERS_PER_EPOCH
        self._is_attached = True
        self._speaker_deadline_ns: int | None = None
        self._reading = TalkerReading(
            self.stats, lambda index: self._lanes[index].delays, written_seq=held.seq
        )
        self._credit = Credit(audio, options.buffer_samples, held.credit_frame)
        self._keeps_checkpoints = keeps_checkpoints
        self._keeper = Keeper(self._intake, self._lanes, held.frame, held.heard_frames)
        self._acks = Acknowledgements(ACK_SAMPLES * audio.sample_rate // SAMPLE_RATE_HZ)
        self._lag = LagNotice(self.log)

    # From the client

    def receive_audio(self, data: bytes, now_ns: int) -> None:
        """Take a packet of any size; a deaf session takes none.

        Raises: OutOfOrder after ``end``; TooFast beyond the credit; BadAudio for bytes that are
        not what was announced. In each case nothing of the packet was taken.
        """
        if self.state is not SessionState.OPEN:
            raise OutOfOrder("audio after end; start a new session for more audio")
        if self.is_deaf:
            return
        frames = self._intake.frames_in(data)
        end = self._intake.frames_received + frames
        # Credit never goes down: what was given before is enough to know of most packets.
        if end > self._credit.frame and end > self.credit_until_frame:
            raise TooFast(
                f"audio beyond frame {self.credit_until_frame}; wait for an ack with a higher "
                "credit_until_frame, then resume and send on from resume_from_frame"
            )
        pieces = self._intake.decode(data)
        if frames:  # a packet that only keeps the connection is no sign that somebody speaks
            self._take(pieces, now_ns)

    def _take(self, pieces: Sequence[Piece], now_ns: int) -> None:
        for piece in pieces:
            lane = self._lanes[piece.lane]
            lane.receive(piece.samples, now_ns)
            if piece.skipped_samples:
                lane.skip(piece.skipped_samples, now_ns)
            lane.last_audio_ns = now_ns
            self._stirred[lane.index] = lane
        if self._keeper.ends_replay():
            self._rests.flush_missing()

    def set_lane(self, index: int, name: str | None) -> None:
        """Add a lane of tagged audio, or say whose its audio is from now on; idempotent.

        Raises: UnsupportedOption where the audio is not tagged.
        """
        if not isinstance(self._intake, TaggedIntake):
            raise UnsupportedOption(
                "lane messages are for tagged audio; start with audio.tagged, or name the "
                "channels in audio.channel_names"
            )
        if self.state is not SessionState.OPEN:
            return  # no audio can follow
        if index in self._lanes:
            if not self._keeper.is_replay:
                self._lanes[index].rename(name)
                self._stirred[index] = self._lanes[index]
        else:
            self._new_lane(index, name).join_at(self._intake.add(index))

    def _new_lane(self, index: int, name: str | None) -> Lane:
        lane = self._lanes[index] = Lane(index, name, self._lane_options, self._scope)
        lane.pace_partials(self._thinning)
        return lane

    def flush(self) -> None:
        """Close the open utterances at the audio received so far."""
        if self._keeper.is_replay:
            return
        for lane in self._lanes.values():
            lane.end_utterance()
        self._stirred.update(self._lanes)

    def skip(self, ms: int, now_ns: int, lane: int | None = None) -> None:
        """Time passed without audio; in one lane of tagged audio, or in all.

        Raises: OutOfOrder after ``end``, and as ``Intake.skip``.
        """
        if self.state is not SessionState.OPEN:
            raise OutOfOrder("skip after end; leave it out")
        self._take(self._intake.skip(ms, lane), now_ns)

    def configure(self, message: Configure) -> None:
        """Change what the message names; it holds for windows that are asked for later."""
        if self._keeper.is_replay:
            return
        given = message.model_fields_set
        if "language" in given:
            self.speech.language = message.language
        if "prompt" in given:
            self.speech.prompt = message.prompt
        if "keywords" in given:
            self.speech.keywords = tuple(message.keywords or ())

    def end_of_audio(self, now_ns: int) -> None:
        """No more audio will come; idempotent.

        Raises: BadAudio when the audio ended inside a frame; the session has ended all the same.
        """
        if self.state is not SessionState.OPEN:
            return
        self.state = SessionState.ENDING
        dangling_bytes = self._intake.dangling_bytes
        self._take(self._intake.finish(), now_ns)
        for lane in self._lanes.values():
            lane.end()
        self._stirred.update(self._lanes)
        if dangling_bytes:
            raise BadAudio(
                f"the audio ended with {dangling_bytes} of {self._intake.frame_bytes} bytes of a "
                "frame; they were dropped, everything before them is captioned"
            )

    def end_of_audio_quietly(self, now_ns: int) -> None:
        """As ``end_of_audio`` where nobody is there to hear of a dangling byte."""
        self._intake.drop_partial_frame()
        self.end_of_audio(now_ns)

    def pause(self) -> None:
        """Commit everything received, at once."""
        if self.state is SessionState.OPEN:
            self._rests.rest_all()

    def wind_up(self, *, is_last: bool) -> None:
        """The server is about to go away: stop listening as soon as nobody is in the middle of
        anything. ``is_last``: nobody can go on with the session. See ``departure.py``."""
        if self.state is SessionState.OPEN:
            self._departure.begin(is_last=is_last)
            self._stirred.update(self._lanes)

    def hurry(self) -> None:
        """And it goes soon: what is open is cut between two words."""
        self._departure.hurry()

    @property
    def is_deaf(self) -> bool:
        """Whatever the client sends is for the next server: it must not be given to this one."""
        return self._departure.is_deaf

    def detach(self) -> None:
        """The connection is gone; the session waits for the next one."""
        self._is_attached = False
        self._intake.drop_partial_frame()

    def attach(self, now_ns: int, last_seq: int) -> None:
        """A connection is there; its reader holds the durable events up to ``last_seq``."""
        self._is_attached = True
        for lane in self._lanes.values():
            lane.last_audio_ns = now_ns
        self._reading.attach(last_seq)

    # From the engines and the store

    def receive_result(
        self, number: int, answers: Sequence[Answer], engine_ns: int, now_ns: int
    ) -> None:
        """The answers of a job and its share of the engine's time."""
        pending = self._pending.pop(number, None)
        if pending is None or self.state is SessionState.DONE:
            self.stats.superseded_results += 1
            return
        lane, ask = pending
        self.stats.add_engine_time(STAGE_OF_KIND[ask.kind], engine_ns)
        lane.answer(ask, answers)
        self._stirred[lane.index] = lane
        if ask.kind is JobKind.RECOGNIZE:
            self._lag.note(behind_s([ask, *self._unanswered], now_ns), now_ns)

    def receive_failure(self, number: int, reason: GapReason = GapReason.ENGINE_FAILED) -> None:
        """No answer will come for a job: every try failed, or it lost its place."""
        pending = self._pending.pop(number, None)
        if pending is not None:
            lane, ask = pending
            lane.answer(ask, None, reason)
            self._stirred[lane.index] = lane

    def look(self, now_ns: int) -> None:
        """To be called now and then: tells of captions that wait for an engine."""
        if self.state is not SessionState.DONE:
            self._lag.look(behind_s(self._unanswered, now_ns), now_ns)

    @property
    def _unanswered(self) -> Iterator[Ask]:
        return (ask for _, ask in self._pending.values())

    def note_written(self, event: Event, now_ns: int) -> list[WordDelay]:
        """The talker's connection wrote an event; returns the delays of its words."""
        return self._reading.note_written(event, now_ns)

    # To the engines and the client

    def take_jobs(self, now_ns: int) -> list[Job]:
        """What the engines should do now. Call it after everything else that may lead to work."""
        jobs = self._take_asked(now_ns)
        is_open = self.state is SessionState.OPEN
        if is_open and self._departure.look(is_attached=self._is_attached):
            self._stirred.update(self._lanes)
            jobs += self._take_asked(now_ns)
        self._finish(now_ns)
        return jobs

    def _take_asked(self, now_ns: int) -> list[Job]:
        jobs: list[Job] = []
        for lane in [*self._stirred.values()]:
            asks = lane.take_asks(now_ns)
            jobs += [self._job(lane, ask) for ask in asks]
            if not asks:
                del self._stirred[lane.index]
        return jobs

    def take_activity_jobs(self, now_ns: int) -> list[Job]:
        """As ``take_jobs``, where nothing has happened since but ``receive_audio``: far cheaper."""
        asks = ((lane, lane.take_activity_ask(now_ns)) for lane in self._stirred.values())
        return [self._job(lane, ask) for lane, ask in asks if ask is not None]

    def pace_partials(self, thinning: float) -> None:
        """Partials come every ``thinning`` hops from now on: engine time is short, or is not."""
        self._thinning = thinning
        for lane in self._lanes.values():
            lane.pace_partials(thinning)
        self._stirred.update(self._lanes)

    def _job(self, lane: Lane, ask: Ask) -> Job:
        self._last_number += 1
        self._pending[self._last_number] = (lane, ask)
        return lane.job(ask, self.id, self._last_number)

    @property
    def deadline_ns(self) -> int | None:
        """When ``handle_deadline`` must be called; None where nothing is awaited."""
        if self.state is SessionState.OPEN:
            return self._rests.due_ns if self._is_attached and not self.is_deaf else None
        return self._speaker_deadline_ns if self.state is SessionState.ENDING else None

    def handle_deadline(self, now_ns: int) -> None:
        """The deadline has come; harmless when it has not."""
        deadline_ns = self.deadline_ns
        if deadline_ns is None or now_ns < deadline_ns:
            return
        if self.state is SessionState.OPEN:
            self._rests.rest_idle(now_ns)
        else:
            # The deadline is over: a session that waits for its reader only must not wake again.
            self._speaker_deadline_ns = None
            for lane in self._lanes.values():
                lane.give_up_speakers()

    @property
    def is_quiet(self) -> bool:
        """Every word of the audio received is committed."""
        return all(lane.is_text_done for lane in self._lanes.values())

    @property
    def is_settled(self) -> bool:
        """Every word is committed that this server is to commit, if it goes away."""
        is_open, is_quiet = self.state is SessionState.OPEN, self.is_quiet
        return self._departure.is_complete(is_quiet=is_quiet) if is_open else is_quiet

    @property
    def is_waiting_for_reader(self) -> bool:
        """True where reading an event may bring the last one about."""
        return self.state is SessionState.ENDING

    @property
    def backlog_samples(self) -> int:
        """Received audio that is not dealt with yet."""
        return sum(lane.backlog_samples for lane in self._lanes.values())

    def backlog(self, lane: int) -> Span:
        """What a lane has received, and neither captioned, found silent nor given up."""
        return self._lanes[lane].backlog

    @property
    def held_samples(self) -> int:
        """Audio in memory, of the lane that has most."""
        return max((lane.stored_samples for lane in self._lanes.values()), default=0)

    @property
    def is_read(self) -> bool:
        """The talker's connection has written every durable event so far."""
        return self._reading.read_seq >= self.log.last_seq

    @property
    def silent_samples(self) -> int:
        return sum(lane.silent_samples for lane in self._lanes.values())

    @property
    def frames_received(self) -> int:
        """Frames of the client's own rate, skipped ones included; of all lanes where tagged."""
        return self._intake.frames_received

    @property
    def credit_until_frame(self) -> int:
        """Audio before this frame may be sent; it never goes down."""
        held = [lane.stored_samples for lane in self._lanes.values()]
        # The store takes nothing: captions of more audio would have to wait in memory.
        is_halted = self.log.is_congested
        return self._credit.until(self.frames_received, held, is_halted=is_halted)

    @property
    def stored_through_frame(self) -> int:
        """Audio before this frame will never be needed again."""
        if self._keeps_checkpoints:
            return self._keeper.kept_frame
        stored = {index: lane.stored_through() for index, lane in self._lanes.items()}
        return self._intake.stored_through(stored)

    @property
    def has_ack(self) -> bool:
        """True where ``take_ack`` would give one: only answers and the store bring that about."""
        return self._ack_news() is not None

    def take_ack(self) -> Ack | None:
        """What to tell the client of its audio, when there is enough news."""
        news = self._ack_news()
        if news is None:
            return None
        self._acks.told(news)
        return news

    def _ack_news(self) -> Ack | None:
        if self.state is SessionState.DONE:
            return None  # the last event says as much
        return self._acks.news(
            self.stored_through_frame,
            self.credit_until_frame,
            is_ending=self.state is SessionState.ENDING,
        )

    # For whoever goes on with it after a crash

    @property
    def is_checkpoint_due(self) -> bool:
        """Enough audio was dealt with, without any event, that it need not be sent again."""
        return self._keeps_checkpoints and self._keeper.is_due(self.start.audio.sample_rate)

    def checkpoint(self) -> SavedPoint | None:
        """What is to be stored with the events taken so far; None where nothing is kept."""
        if not self._keeps_checkpoints:
            return None
        keeper, lanes = self._keeper, self._lanes.values()
        is_done = self.state is SessionState.DONE
        keeper.taken_frame = self.frames_received if is_done else keeper.restart_frame
        voices_bytes_max = VOICES_BYTES_MAX // max(1, len(lanes))
        held = Checkpoint(
            seq=self.log.last_seq,
            frame=keeper.taken_frame,
            heard_frames=keeper.heard_frames,
            credit_frame=self._credit.frame,
            is_done=is_done,
            captions=self._names.captions,
            speakers=self._names.speakers,
            speech=self.speech,
            stats=self.stats,
            intake=self._intake.state(keeper.taken_frame),
            lanes=() if is_done else tuple(lane.state(voices_bytes_max) for lane in lanes),
        )
        return SavedPoint(held.frame, encode(held))

    def note_kept(self, point: SavedPoint) -> None:
        """A checkpoint is stored, and with it every event taken before it."""
        self._keeper.note_kept(point)

    # Its own affairs

    def _new_speaker_name(self) -> str:
        """The next of S1, S2 … that no lane has, or spoke under, as its given name."""
        given = (lane.given_names for lane in self._lanes.values())
        return self._names.new_speaker(set[str | None]().union(*given))

    def _finish(self, now_ns: int) -> None:
        """Move on from ENDING: first the words, then the speakers, then the last event."""
        if self.state is not SessionState.ENDING:
            return
        if all(lane.is_finished for lane in self._lanes.values()):
            if self._is_all_delivered:
                self._append_done()
        elif all(lane.is_text_finished for lane in self._lanes.values()):
            self._speaker_deadline_ns = self._speaker_deadline_ns or now_ns + SPEAKER_GRACE_NS

    @property
    def _is_all_delivered(self) -> bool:
        """``Done`` reports the delays of all words: the last ones must be out."""
        is_stored = self.log.stored_seq == self.log.last_seq
        return is_stored and (not self._is_attached or self.is_read)

    def _append_done(self) -> None:
        self.state = SessionState.DONE
        self.log.append(closing_event(self.log.next_seq, self.stats, self._lanes.values()))
