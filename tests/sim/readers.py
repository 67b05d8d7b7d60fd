"""Those who read a session: the talker's connection, and viewers who come when they like.

A reader takes what its cursor gives, in pieces; what has left the log comes from the store. A
slow one holds up only itself. What was written may still be lost on its way.
"""

import random
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from streaming.errors import CaptiondError
from streaming.eventlog import Behind, Cursor
from streaming.events import Done, DurableEvent, Event
from streaming.wire import Ack
from tests.sim import watchers
from tests.sim.store import Store
from tests.sim.weather import Fault, Way
from tests.sim.world import SECOND, World, delay_ns

if TYPE_CHECKING:
    from tests.sim.host import Host

EVENTS_PER_WRITE = 64


class Reader:
    """A cursor that is read as fast as its owner takes what it is given."""

    def __init__(self, world: World, host: "Host", store: Store, lots: random.Random) -> None:
        self._world, self._host, self._store, self._lots = world, host, store, lots
        self._cursor: Cursor | None = None
        self._is_writing = False
        self._begun = 0
        self.was_behind = False
        """Something had left the log: passing events are missing."""

    def begin(self, after_seq: int) -> None:
        """Read what comes after a durable event."""
        self._cursor = self._host.session.log.cursor(after_seq)
        self._is_writing = False
        self._begun += 1

    def wake(self) -> None:
        """There may be something to read."""
        if self._is_writing or self._is_closed or self._cursor is None:
            return
        news = self._news(self._cursor)
        if not news:
            self._after_news()
            return
        watchers.check_stored(news, self._store.rows(self._host.id))
        self._is_writing = True
        is_slow = self._world.strikes(Fault.SLOW_READER, self._world.weather.slow_share, self._lots)
        pause_ns = self._lots.randrange(3 * SECOND) if is_slow else 0
        begun = self._begun
        self._world.after(pause_ns, lambda: self._written(news, begun))

    def _news(self, cursor: Cursor) -> list[Event]:
        try:
            return cursor.read(EVENTS_PER_WRITE)
        except Behind as behind:
            self._world.go(Way.BEHIND)
            self.was_behind = True
            stored = self._store.events(self._host.id)
            cursor.skip_through(behind.through_seq)
            return [*stored[behind.after_seq : behind.through_seq]]

    def _written(self, news: list[Event], begun: int) -> None:
        if begun != self._begun:
            return  # the server that wrote it is dead
        self._is_writing = False
        if not self._is_closed:
            self._send(news)
            self._world.after(0, self.wake)

    @property
    def _is_closed(self) -> bool:
        return False

    def _send(self, news: list[Event]) -> None:
        raise NotImplementedError

    def _after_news(self) -> None:
        """Everything there is has been written."""


class Viewer(Reader):
    """Reads along, and keeps all of it."""

    def __init__(self, world: World, host: "Host", store: Store, lots: random.Random) -> None:
        super().__init__(world, host, store, lots)
        self.after_seq = 0
        self.read: list[Event] = []
        self.since_takeover = 0
        """How much it had read when the present server took the session over."""

    def begin(self, after_seq: int) -> None:
        super().begin(after_seq)
        self.after_seq = after_seq

    def begin_again(self) -> None:
        """On another server; what it has read it does not want again."""
        seqs = (event.seq for event in reversed(self.read) if isinstance(event, DurableEvent))
        self.since_takeover = len(self.read)
        super().begin(next(seqs, self.after_seq))
        self.wake()

    def _send(self, news: list[Event]) -> None:
        self.read += news


class Connection(Reader):
    """The talker's socket. The network keeps the order of each direction, and loses all of what
    is under way when it breaks."""

    def __init__(self, world: World, host: "Host", store: Store, lots: random.Random) -> None:
        super().__init__(world, host, store, lots)
        self.is_dismissed = False
        """The server has let go of it."""
        self.is_cut_up = self.is_cut_down = False
        self.on_event: Callable[[Event], None] = lambda event: None
        self.on_ack: Callable[[Ack], None] = lambda ack: None
        self.on_error: Callable[[CaptiondError], None] = lambda error: None
        self._up_ns = self._down_ns = 0

    @property
    def _is_closed(self) -> bool:
        return self.is_dismissed

    def up(self, action: Callable[[], None]) -> None:
        """To the server."""
        self._up_ns = max(self._up_ns, self._world.now_ns + self._transit_ns())

        def arrive() -> None:
            if not self.is_cut_up:
                action()

        self._world.after(self._up_ns - self._world.now_ns, arrive)

    def down(self, action: Callable[[], None]) -> None:
        """To the client."""
        self._down_ns = max(self._down_ns, self._world.now_ns + self._transit_ns())

        def arrive() -> None:
            if not self.is_cut_down:
                action()

        self._world.after(self._down_ns - self._world.now_ns, arrive)

    def _transit_ns(self) -> int:
        weather = self._world.weather
        jitter_ns = 0
        if weather.jitter_ms and self._world.strikes(Fault.JITTER, 0.1, self._lots):
            jitter_ns = delay_ns(self._lots, weather.jitter_ms)
        return delay_ns(self._lots, weather.network_ms) + jitter_ns

    def fail(self, error: CaptiondError) -> None:
        """The server closes, and says why."""
        self.down(lambda: self.on_error(error))

    def _send(self, news: list[Event]) -> None:
        session = self._host.session
        for event in news:
            session.note_written(event, self._world.now_ns)
            self.down(partial(self.on_event, event))
            if isinstance(event, DurableEvent) and session.is_waiting_for_reader:
                self._world.after(0, self._host.step)
            if isinstance(event, Done):
                self._world.log(self._host.id, "the last event is written")
        self._acknowledge()

    def _after_news(self) -> None:
        self._acknowledge()

    def _acknowledge(self) -> None:
        ack = self._host.session.take_ack()
        if ack is not None:
            self._host.check_ack(ack)
            self.down(partial(self.on_ack, ack))
