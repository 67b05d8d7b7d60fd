"""One stream, from its first byte to its last event: lanes, log, credit and the session's states.

    OPEN ──end──▶ ENDING ──every caption committed, stored and read──▶ DONE

The caller feeds bytes, messages, answers and the time, and after each of them takes jobs, events
to store, and an acknowledgement, until there are none. The session never waits, and it outlives
its connections: ``detach`` and ``attach`` tell it of them.

Invariants: S1 decoded, silent and gap samples add up to the received ones when it is DONE; S2
audio beyond the credit is refused before it is decoded; S3 exactly one ``Done``, and nothing
after it; S4 an answer is taken once, a late one is counted and dropped.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto

from streaming.audio import PcmDecoder
from streaming.errors import BadAudio, OutOfOrder, TooFast, UnsupportedOption
from streaming.eventlog import EventLog
from streaming.events import Done, DurableEvent, Event, Final, Lag, Partial
from streaming.jobs import STAGE_OF_KIND, Answer, Job, JobKind
from streaming.lane import PATIENCE_NS, Ask, Lane, LaneOptions
from streaming.publishing import SessionScope, SpeechSettings
from streaming.stats import SessionStats
from streaming.timeline import SAMPLE_RATE_HZ, seconds
from streaming.wire import Ack, AudioFormat, Configure, Start

IDLE_FLUSH_NS = 1_000_000_000
"""Without audio for this long the open utterance is closed: a muted speaker has stopped."""
SPEAKER_GRACE_NS = 15_000_000_000
"""How long the end of a session waits for the diarizer's last pass."""
ACK_SAMPLES = SAMPLE_RATE_HZ
"""Progress that is worth a message."""
BUFFER_MARGIN_SAMPLES = 2 * SAMPLE_RATE_HZ
"""A resampler gives up to a second of audio at once."""
LAG_SECONDS_MIN = 3.0
"""Below this, captions count as live: a hop, a window and a full batch fit in."""
LAG_SECONDS_STEP = 1.0


class SessionState(Enum):
    OPEN = auto()
    ENDING = auto()
    DONE = auto()


@dataclass(frozen=True, slots=True)
class WordDelay:
    """How late one word was written, in seconds after the arrival of its last sample."""

    is_final: bool
    seconds: float


class Session:
    """See the module's docstring for the order of calls."""

    def __init__(self, session_id: str, start: Start, options: LaneOptions, *, seed: int) -> None:
        """``options.buffer_samples`` is the credit: audio that may be sent ahead of captions.

        Raises: UnsupportedOption, BadAudio.
        """
        _check_offered(start.audio)
        self.id = session_id
        self.start = start
        self.state = SessionState.OPEN
        self.log = EventLog()
        self.stats = SessionStats()
        self._credit_samples = options.buffer_samples
        audio = start.audio
        self._decoder = PcmDecoder(audio.encoding, audio.sample_rate, audio.channels)
        self.speech = SpeechSettings(
            start.language, start.task, start.prompt, tuple(start.keywords), seed
        )
        scope = SessionScope(
            self.log, self.stats, self.speech, self._new_caption_id, self._new_speaker_name
        )
        names = audio.channel_names or [None] * audio.channels
        lane_options = LaneOptions(
            buffer_samples=options.buffer_samples + BUFFER_MARGIN_SAMPLES,
            endpointing=options.endpointing,
            windows=options.windows,
            diarizer=options.diarizer if start.diarize else None,
            partials=options.partials and start.partials,
        )
        self._lanes = [Lane(i, name, lane_options, scope) for i, name in enumerate(names)]
        self._pending: dict[int, tuple[Lane, Ask]] = {}
        self._last_number = 0
        self._captions = 0
        self._speakers = 0
        self._is_attached = True
        self._last_audio_ns = 0
        self._speaker_deadline_ns: int | None = None
        self._written_seq = self._read_seq = 0
        """Written to any connection; and to the present one, which may have to read again."""
        self._credit_frame = 0
        self._acked_frame = self._acked_credit = 0
        self._lag_s = 0.0

    # From the client

    def receive_audio(self, data: bytes, now_ns: int) -> None:
        """Take a packet of any size.

        Raises: OutOfOrder after ``end``; TooFast beyond the credit; BadAudio for bytes that are
        not what was announced. In each case nothing of the packet was taken.
        """
        if self.state is not SessionState.OPEN:
            raise OutOfOrder("audio after end; start a new session for more audio")
        bytes_held = self._decoder.dangling_bytes
        frames = (bytes_held + len(data)) // self._decoder.frame_bytes
        if self.frames_received + frames > self.credit_until_frame:
            raise TooFast(
                f"audio beyond frame {self.credit_until_frame}; wait for an ack with a higher "
                "credit_until_frame, then resume and send on from resume_from_frame"
            )
        for lane, samples in zip(self._lanes, self._decoder.decode(data), strict=True):
            lane.receive(samples, now_ns)
        self._last_audio_ns = now_ns

    def flush(self) -> None:
        """Close the open utterances at the audio received so far."""
        for lane in self._lanes:
            lane.end_utterance()

    def skip(self, ms: int, now_ns: int) -> None:
        """Time passed without audio. Raises: OutOfOrder after ``end``."""
        if self.state is not SessionState.OPEN:
            raise OutOfOrder("skip after end; leave it out")
        tails = self._decoder.skip(ms * self.start.audio.sample_rate // 1000)
        for lane, tail in zip(self._lanes, tails, strict=True):
            lane.receive(tail, now_ns)
            lane.skip(self._decoder.samples_produced - lane.received, now_ns)

    def configure(self, message: Configure) -> None:
        """Change what the message names; it holds for windows that are asked for later."""
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
        dangling_bytes = self._decoder.dangling_bytes
        for lane, tail in zip(self._lanes, self._decoder.finish(), strict=True):
            lane.receive(tail, now_ns)
            lane.end()
        if dangling_bytes:
            raise BadAudio(
                f"the audio ended with {dangling_bytes} of {self._decoder.frame_bytes} bytes of a "
                "frame; they were dropped, everything before them is captioned"
            )

    def end_of_audio_quietly(self, now_ns: int) -> None:
        """As ``end_of_audio`` where nobody is there to hear of a dangling byte."""
        self._decoder.drop_partial_frame()
        self.end_of_audio(now_ns)

    def pause(self, now_ns: int) -> None:
        """Commit everything received: the server is about to go away."""
        if self.state is SessionState.OPEN:
            self._decoder.drop_partial_frame()
            self.skip(0, now_ns)

    def detach(self) -> None:
        """The connection is gone; the session waits for the next one."""
        self._is_attached = False
        self._decoder.drop_partial_frame()

    def attach(self, now_ns: int, last_seq: int) -> None:
        """A connection is there; its reader holds the durable events up to ``last_seq``."""
        self._is_attached = True
        self._last_audio_ns = now_ns
        self._read_seq = last_seq

    # From the engines and the store

    def receive_result(
        self, number: int, answers: Sequence[Answer], engine_ns: int, now_ns: int
    ) -> None:
        """The answers of a job and its share of the engine's time."""
        pending = self._pending.pop(number, None)
        if pending is None:
            self.stats.superseded_results += 1
            return
        lane, ask = pending
        self.stats.add_engine_time(STAGE_OF_KIND[ask.kind], engine_ns)
        lane.answer(ask, answers)
        if ask.kind is JobKind.RECOGNIZE:
            self._note_lag((now_ns - ask.deadline_ns + PATIENCE_NS[ask.kind]) / 1e9)

    def receive_failure(self, number: int) -> None:
        """No answer will come for a job: every try failed, or it lost its place."""
        pending = self._pending.pop(number, None)
        if pending is not None:
            lane, ask = pending
            lane.answer(ask, None)

    def note_written(self, event: Event, now_ns: int) -> list[WordDelay]:
        """The talker's connection wrote an event; returns the delays of its words."""
        is_again = isinstance(event, DurableEvent) and event.seq <= self._written_seq
        if isinstance(event, DurableEvent):
            self._read_seq = max(self._read_seq, event.seq)
            self._written_seq = max(self._written_seq, event.seq)
        if is_again or not isinstance(event, Partial | Final):
            return []
        return self._delays(event, now_ns)

    def _delays(self, event: Partial | Final, now_ns: int) -> list[WordDelay]:
        delays = self._lanes[event.lane].delays
        spans = [word.span for word in event.words]
        found = [WordDelay(False, s) for s in delays.first_shown_s(spans, now_ns)]
        if isinstance(event, Final):
            found += [WordDelay(True, s) for s in delays.of(spans, now_ns)]
        for delay in found:
            stats = self.stats.final_latency if delay.is_final else self.stats.partial_latency
            stats.add(delay.seconds)
        return found

    # To the engines and the client

    def take_jobs(self, now_ns: int) -> list[Job]:
        """What the engines should do now. Call it after everything else that may lead to work."""
        jobs = [self._job(lane, ask) for lane in self._lanes for ask in lane.take_asks(now_ns)]
        self._finish(now_ns)
        return jobs

    def _job(self, lane: Lane, ask: Ask) -> Job:
        self._last_number += 1
        self._pending[self._last_number] = (lane, ask)
        return Job(
            session_id=self.id,
            number=self._last_number,
            lane=lane.index,
            kind=ask.kind,
            questions=ask.questions,
            audio_samples=ask.audio_samples,
            is_final=ask.is_final,
            deadline_ns=ask.deadline_ns,
        )

    @property
    def deadline_ns(self) -> int | None:
        """When ``handle_deadline`` must be called; None where nothing is awaited."""
        if self.state is SessionState.OPEN:
            is_waiting = self._is_attached and any(lane.has_open_speech for lane in self._lanes)
            return self._last_audio_ns + IDLE_FLUSH_NS if is_waiting else None
        return self._speaker_deadline_ns if self.state is SessionState.ENDING else None

    def handle_deadline(self, now_ns: int) -> None:
        """The deadline has come; harmless when it has not."""
        deadline_ns = self.deadline_ns
        if deadline_ns is None or now_ns < deadline_ns:
            return
        if self.state is SessionState.OPEN:
            self.flush()
            self._last_audio_ns = now_ns
        else:
            # The deadline is over: a session that waits for its reader only must not wake again.
            self._speaker_deadline_ns = None
            for lane in self._lanes:
                lane.give_up_speakers()

    @property
    def is_quiet(self) -> bool:
        """Every word of the audio received is committed."""
        return all(lane.is_text_done for lane in self._lanes)

    @property
    def is_waiting_for_reader(self) -> bool:
        """True where reading an event may bring the last one about."""
        return self.state is SessionState.ENDING

    @property
    def backlog_samples(self) -> int:
        """Received audio that is not dealt with yet."""
        return sum(lane.backlog_samples for lane in self._lanes)

    @property
    def held_samples(self) -> int:
        """Audio in memory, of the lane that has most."""
        return max(lane.stored_samples for lane in self._lanes)

    @property
    def is_read(self) -> bool:
        """The talker's connection has written every durable event so far."""
        return self._read_seq >= self.log.last_seq

    @property
    def silent_samples(self) -> int:
        return sum(lane.silent_samples for lane in self._lanes)

    @property
    def frames_received(self) -> int:
        """Frames of the client's own rate, skipped ones included."""
        return self._decoder.frames_received

    @property
    def credit_until_frame(self) -> int:
        """Audio before this frame may be sent; it never goes down."""
        room = self._credit_samples - self.held_samples
        if self.log.is_congested:
            # The store takes nothing: captions of more audio would have to wait in memory.
            room = 0
        frames = max(0, room) * self.start.audio.sample_rate // SAMPLE_RATE_HZ
        self._credit_frame = max(self._credit_frame, self.frames_received + frames)
        return self._credit_frame

    @property
    def stored_through_frame(self) -> int:
        """Audio before this frame will never be needed again."""
        sample = min(lane.stored_through() for lane in self._lanes)
        return self._decoder.restart_frame(sample)

    def take_ack(self) -> Ack | None:
        """What to tell the client of its audio, when there is enough news."""
        stored, credit = self.stored_through_frame, self.credit_until_frame
        frames_min = ACK_SAMPLES * self.start.audio.sample_rate // SAMPLE_RATE_HZ
        moved = max(stored - self._acked_frame, credit - self._acked_credit)
        if moved < (1 if self.state is SessionState.ENDING else frames_min):
            return None
        self._acked_frame, self._acked_credit = stored, credit
        return Ack(stored, credit)

    # Its own affairs

    def _new_caption_id(self) -> str:
        self._captions += 1
        return f"c{self._captions}"

    def _new_speaker_name(self) -> str:
        """The next of S1, S2 … that no lane has as its given name."""
        given = set(self.start.audio.channel_names or ())
        self._speakers += 1
        while f"S{self._speakers}" in given:
            self._speakers += 1
        return f"S{self._speakers}"

    def _note_lag(self, behind_s: float) -> None:
        lag_s = round(behind_s, 1) if behind_s >= LAG_SECONDS_MIN else 0.0
        if abs(lag_s - self._lag_s) >= LAG_SECONDS_STEP:
            self._lag_s = lag_s
            self.log.post(Lag(self.log.last_seq, lag_s))

    def _finish(self, now_ns: int) -> None:
        """Move on from ENDING: first the words, then the speakers, then the last event."""
        if self.state is not SessionState.ENDING:
            return
        if all(lane.is_finished for lane in self._lanes):
            if self._is_all_delivered:
                self._append_done()
        elif all(lane.is_text_finished for lane in self._lanes):
            self._speaker_deadline_ns = self._speaker_deadline_ns or now_ns + SPEAKER_GRACE_NS

    @property
    def _is_all_delivered(self) -> bool:
        """``Done`` reports the delays of all words: the last ones must be out."""
        is_stored = self.log.stored_seq == self.log.last_seq
        return is_stored and (not self._is_attached or self.is_read)

    def _append_done(self) -> None:
        self.state = SessionState.DONE
        stats, lanes = self.stats, self._lanes
        stats.received_samples = sum(lane.received for lane in lanes)
        stats.silent_samples = sum(lane.silent_samples for lane in lanes)
        assert stats.unaccounted_samples == 0, "invariant S1"
        names = set().union(*(lane.speaker_names for lane in lanes))
        self.log.append(
            Done(
                seq=self.log.next_seq,
                audio_seconds=seconds(stats.received_samples),
                decoded_seconds=seconds(stats.decoded_samples),
                silent_seconds=seconds(stats.silent_samples),
                gap_seconds=seconds(stats.gap_samples_total),
                rtfx=stats.rtfx(),
                words=stats.words,
                speakers=len(names),
                partial_latency_s=stats.partial_latency.quantiles(),
                final_latency_s=stats.final_latency.quantiles(),
            )
        )


def _check_offered(audio: AudioFormat) -> None:
    if audio.tagged:
        raise UnsupportedOption(
            "audio.tagged is not offered yet; send one channel per speaker, interleaved"
        )
    names = audio.channel_names
    if names is not None and len(names) != audio.channels:
        raise UnsupportedOption(
            f"audio.channel_names has {len(names)} names for {audio.channels} channels; "
            "name each channel, null for one without a name"
        )
