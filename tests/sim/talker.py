"""One client: sends its script at its own pace, loses its connection, comes back.

It follows the protocol: sends no further than the credit it was told of, keeps the place of every
frame, and resumes where the server says. Now and then it does not, and must be told so.
"""

from streaming.errors import CaptiondError, Draining, SessionExpired
from streaming.events import Done, DurableEvent, Event
from streaming.session import Session
from streaming.wire import Ack, Configure, encode_event
from tests.sim import watchers
from tests.sim.host import Host
from tests.sim.readers import Connection
from tests.sim.script import Op
from tests.sim.store import Store
from tests.sim.weather import Fault, Way
from tests.sim.world import MS, SECOND, World

CREDIT_POLL_NS = 100 * MS
PACKET_MS: dict[str, list[float]] = {
    "live": [100],
    "small": [20, 20.1],
    "mixed": [0.01, 10.3, 100, 100, 200, 2_000],
    "large": [2_000, 5_000],
}
"""Anything from a single byte to as much as any credit holds; not always whole frames."""


BAD_FLOATS = b"\x00\x00\xc0\x7f" * 40
"""Not numbers."""
NOTHING = Op("audio")


class Talker:
    """See the module's docstring."""

    def __init__(self, world: World, index: int, host: Host, store: Store) -> None:
        self._world, self._host, self._store = world, host, store
        self._lots = lots = world.lots(f"talker {index}")
        self._script = host.script
        bytes_per_ms = self._script.frame_bytes * self._script.start.audio.sample_rate / 1000
        packets = PACKET_MS[lots.choice(list(PACKET_MS))]
        self._packet_bytes = [max(1, int(ms * bytes_per_ms)) for ms in packets]
        self._flush_share = lots.choice([0.0, 0.0, 0.02])
        self._configure_share = lots.choice([0.0, 0.0, 0.02])
        is_cuttable = self._script.frame_bytes > 1 and not self._script.ops
        self._cuts_last_frame = is_cuttable and lots.random() < 0.1
        self._sent_bytes = self._mutes_sent = 0
        self._ops_sent = 0
        self._credit_frame = 0
        self._connection: Connection | None = None
        self._has_sent_end = False
        self.has_stopped = False
        """It will send no more audio: all is said, or it never comes back."""
        self.name = host.id
        self.is_gone = False
        """It never comes back."""
        self.is_told = False
        """It has read the last event."""
        self.read: list[Event] = []
        """By all connections, in the order in which events came."""
        self._acked_frame = 0

    # Connecting

    def connect(self) -> None:
        """The first connection, or the next one after one that broke."""
        seqs = (event.seq for event in reversed(self.read) if isinstance(event, DurableEvent))
        last_seq = next(seqs, 0)
        connection = Connection(self._world, self._host, self._store, self._lots)
        connection.on_event = lambda event: self._hear(connection, event)
        connection.on_ack = lambda ack: self._hear_ack(connection, ack)
        connection.on_error = lambda error: self._hear_error(connection, error)
        self._connection = connection
        if self._script.drift:
            self._world.note(Fault.DRIFT)
        connection.up(lambda: self._welcomed(connection, last_seq))

    def _welcomed(self, connection: Connection, last_seq: int) -> None:
        """The server answers: where to go on, and how far."""
        if self._host.is_draining:
            connection.fail(Draining("the server is going down; resume on another one"))
            return
        if not self._host.is_there():
            connection.fail(SessionExpired("this session is over; start a new one"))
            return
        seq = min(last_seq, self._host.session.log.stored_seq)
        connection.begin(seq)
        self._host.attach(connection, seq)
        frame = self._host.session.frames_received
        credit = self._host.session.credit_until_frame
        connection.down(lambda: self._begin(connection, frame, credit))

    def _begin(self, connection: Connection, frame: int, credit: int) -> None:
        if connection is not self._connection:
            return
        assert frame >= self._acked_frame, f"resume from {frame}, but {self._acked_frame} was acked"
        self._sent_bytes, self._mutes_sent = self._script.place_of(frame)
        self._ops_sent = self._script.ops_before(frame)
        self._credit_frame = credit
        self._has_sent_end = False
        self._go_on(connection)

    def _hear(self, connection: Connection, event: Event) -> None:
        if connection is self._connection:
            self.read.append(event)
            self._world.log(f"client {self._host.id}", encode_event(event).decode())
            self.is_told = self.is_told or isinstance(event, Done)

    def _hear_ack(self, connection: Connection, ack: Ack) -> None:
        if connection is self._connection:
            self._acked_frame = max(self._acked_frame, ack.stored_through_frame)
            self._credit_frame = max(self._credit_frame, ack.credit_until_frame)
            self._world.log(f"client {self._host.id}", str(ack))

    def _hear_error(self, connection: Connection, error: CaptiondError) -> None:
        if connection is self._connection:
            self._world.log(f"client {self._host.id}", f"{error.code} {error.message}")
            if isinstance(error, SessionExpired):
                self.has_stopped = self.is_gone = True
            else:
                self._come_back_later()

    def _lose(self, connection: Connection) -> None:
        """The network breaks; each side notices in its own time."""
        self._world.note(Fault.LOSS)
        weather, lots = self._world.weather, self._lots
        connection.is_cut_down = True
        if lots.random() < weather.half_open_share:
            self._world.note(Fault.HALF_OPEN)
            notice_ns = 20 * SECOND
        else:
            connection.is_cut_up = lots.random() < 0.7
            notice_ns = lots.randrange(2 * SECOND)
        self._world.after(notice_ns, lambda: self._host.detach(connection))
        self._come_back_later()

    def _come_back_later(self) -> None:
        self._connection = None
        share = self._world.weather.no_return_share
        if self._world.strikes(Fault.NO_RETURN, share, self._lots):
            self.has_stopped = self.is_gone = True
            return
        self._world.go(Way.RESUME)
        self._world.after(self._lots.randrange(5 * SECOND), self.connect)

    # Talking

    def _go_on(self, connection: Connection) -> None:
        """Send the next thing, and set the time for the one after it."""
        if connection is not self._connection or self._has_sent_end:
            return
        if self._ops_sent < len(self._script.ops):
            self._send_op(connection, self._script.ops[self._ops_sent])
            return
        mutes = self._script.mutes[self._mutes_sent :]
        place = self._sent_bytes
        if mutes and mutes[0].at_frame * self._script.frame_bytes == place:
            self._send_mute(connection, mutes[0].ms)
        elif place == len(self._script.data):
            self._send_end(connection)
        else:
            limit = (
                mutes[0].at_frame * self._script.frame_bytes if mutes else len(self._script.data)
            )
            self._send_packet(connection, limit)

    def _later(self, connection: Connection, delay_ns: int) -> None:
        self._world.after(delay_ns, lambda: self._go_on(connection))

    def _up(self, connection: Connection, does: str, op: Op = NOTHING) -> None:
        def act(session: Session, now_ns: int) -> None:
            if does == "audio":
                session.receive_audio(op.data, now_ns)
            elif does == "skip":
                self._host.break_utterance()
                session.skip(op.ms, now_ns, op.lane)
            elif does == "lane" and op.lane is not None:
                session.set_lane(op.lane, op.name)
            elif does == "flush":
                self._host.break_utterance()
                session.flush()
            elif does == "configure":
                self._host.books.is_reconfigured = True
                session.configure(self._new_options())
            else:
                session.end_of_audio(now_ns)

        connection.up(lambda: self._host.take(connection, act))

    def _send_mute(self, connection: Connection, ms: int) -> None:
        self._world.go(Way.MUTE)
        self._mutes_sent += 1
        self._up(connection, "skip", Op("skip", ms=ms))
        self._later(connection, ms * MS if self._lots.random() < 0.5 else 0)

    def _send_end(self, connection: Connection) -> None:
        if self._cuts_last_frame:
            self._world.note(Fault.CUT_FRAME)
            self._cuts_last_frame = False
            self._up(connection, "audio", Op("audio", data=self._script.data[:1]))
        self._has_sent_end = self.has_stopped = True
        self._up(connection, "end")
        self._maybe_lose(connection)

    def _send_packet(self, connection: Connection, limit: int) -> None:
        frame_bytes = self._script.frame_bytes
        end = min(limit, self._sent_bytes + self._lots.choice(self._packet_bytes))
        passed = sum(mute.frames for mute in self._script.mutes[: self._mutes_sent])
        credit_bytes = (self._credit_frame - passed) * frame_bytes
        if end > credit_bytes and not self._is_rash():
            # What fits goes out: a server that took the session over may wait for just that.
            end = credit_bytes
        if end <= self._sent_bytes:
            self._world.go(Way.CREDIT_WAIT)
            self._later(connection, CREDIT_POLL_NS)
            return
        packet = self._script.data[self._sent_bytes : end]
        if self._is_bad_packet_due():
            self._up(connection, "audio", Op("audio", data=BAD_FLOATS))
        self._up(connection, "audio", Op("audio", data=packet))
        self._sent_bytes = end
        self._do_more(connection)
        self._later(connection, self._pause_ns(len(packet) // frame_bytes))
        self._maybe_lose(connection)

    def _send_op(self, connection: Connection, op: Op) -> None:
        """The next message of a tagged meeting; each is taken whole, or not at all."""
        passed = sum(sent.frames for sent in self._script.ops[: self._ops_sent])
        is_beyond = op.kind == "audio" and passed + op.frames > self._credit_frame
        if is_beyond and not self._is_rash():
            self._world.go(Way.CREDIT_WAIT)
            self._later(connection, CREDIT_POLL_NS)
            return
        self._up(connection, op.kind, op)
        self._ops_sent += 1
        self._do_more(connection)
        voices = len(self._script.spoken)
        self._later(connection, self._pause_ns(op.frames // voices) if op.kind == "audio" else 0)
        self._maybe_lose(connection)

    def _is_rash(self) -> bool:
        share = self._world.weather.too_fast_share
        return self._world.strikes(Fault.TOO_FAST, share, self._lots)

    def _is_bad_packet_due(self) -> bool:
        is_at_frame = self._sent_bytes % self._script.frame_bytes == 0
        if self._script.start.audio.encoding != "pcm_f32le" or not is_at_frame:
            return False
        share = self._world.weather.bad_packet_share * 5
        return self._world.strikes(Fault.BAD_PACKET, share, self._lots)

    def _do_more(self, connection: Connection) -> None:
        """Between two packets."""
        if self._lots.random() < self._flush_share:
            self._world.go(Way.FLUSH)
            self._up(connection, "flush")
        if self._lots.random() < self._configure_share:
            self._world.go(Way.CONFIGURE)
            self._up(connection, "configure")

    def _new_options(self) -> Configure:
        if self._lots.random() < 0.5:
            return Configure(prompt="another prompt", keywords=None)
        return Configure(language=self._lots.choice(["fr", None]))

    def _maybe_lose(self, connection: Connection) -> None:
        if not self._world.is_calm and self._lots.random() < self._world.weather.loss_share:
            self._lose(connection)

    def _pause_ns(self, frames: int) -> int:
        rate_hz = self._script.start.audio.sample_rate
        pause_ns = frames * SECOND // rate_hz if self._script.is_live else 0
        pause_ns = int(pause_ns / (1 + self._script.drift))
        if self._world.strikes(Fault.STALL, self._world.weather.stall_share, self._lots):
            pause_ns += self._lots.randrange(4 * SECOND)
        return pause_ns

    # What it must have been told

    def check(self) -> None:
        """It has all that it should, if it came back to the end."""
        if not self.is_told:
            return
        watchers.check_reading(self.read, self._store.events(self._host.id))
