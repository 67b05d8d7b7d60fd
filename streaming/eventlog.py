"""A session's events in order, with one read cursor per subscriber.

Durable events become visible when the store has them (``mark_stored``), or, while the store
refuses, when the server lets them be seen all the same (``show_unstored``); passing events wait
behind the durable ones that came before them, so every reader sees one order. A newer partial
replaces an unread older one of its lane, but never the news that another caption was withdrawn.
Pure: the server moves events between log, store and sockets.

Invariants: L1 durable seqs are gap-free from 1; L2 nothing is visible before it is stored or
shown; L3 a cursor yields each durable event once, in order; L4 stored entries beyond
``entries_max`` leave memory, oldest first, and a cursor that still needed one says so by
``Behind``. What is not stored stays: ``is_congested`` says when to take no more audio.
"""

from collections.abc import Iterator

from streaming.events import DurableEvent, Event, Partial, PassingEvent

ENTRIES_MAX = 1_024
"""About half an hour of lively talk; a resuming client needs two minutes."""


class Behind(Exception):
    """The cursor's next durable events have left memory: read them from the store."""

    def __init__(self, after_seq: int, through_seq: int) -> None:
        super().__init__(f"events {after_seq + 1}..{through_seq} are in the store only")
        self.after_seq = after_seq
        self.through_seq = through_seq


class EventLog:
    """Append at the end, read by cursors, forget at the front."""

    def __init__(self, *, entries_max: int = ENTRIES_MAX, stored_seq: int = 0) -> None:
        """``stored_seq``: the last event that another log had stored when this one took over."""
        self._entries: list[Event | None] = []
        self._base = 0
        """Position of the first entry in memory; None marks a replaced partial."""
        self._entries_max = entries_max
        self._unstored: list[tuple[int, int]] = []
        """(position, seq) of durable entries that the store does not have yet."""
        self._taken_seq = stored_seq
        self._forgotten_seq = stored_seq
        self._partial_of_lane: dict[int, int] = {}
        self.last_seq = stored_seq
        self.stored_seq = stored_seq
        self.shown_seq = stored_seq
        """Readers may see the durable events up to this one; never below ``stored_seq``."""

    @property
    def next_seq(self) -> int:
        return self.last_seq + 1

    def append(self, event: DurableEvent) -> None:
        """Raises: ValueError when the seq is not the next one."""
        if event.seq != self.next_seq:
            raise ValueError(f"seq {event.seq} after {self.last_seq}")
        self.last_seq = event.seq
        self._unstored.append((self._end, event.seq))
        self._entries.append(event)

    def post(self, event: PassingEvent) -> None:
        """Add an event that readers may miss."""
        if isinstance(event, Partial):
            self._replace_partial(event)
        self._entries.append(event)
        self._trim()

    def _replace_partial(self, partial: Partial) -> None:
        at = self._partial_of_lane.get(partial.lane, -1) - self._base
        previous = self._entries[at] if at >= 0 else None
        if isinstance(previous, Partial):
            is_withdrawal = not previous.words and previous.caption_id != partial.caption_id
            self._entries[at] = previous if is_withdrawal else None
        self._partial_of_lane[partial.lane] = self._end

    @property
    def is_congested(self) -> bool:
        """More waits for the store than the log would keep of what is stored."""
        return self._end - self._stored_end > self._entries_max

    @property
    def has_unstored(self) -> bool:
        """True where ``take_unstored`` would give something."""
        return self.last_seq > self._taken_seq

    def take_unstored(self) -> list[DurableEvent]:
        """Durable events for the store, each once, in order; then call ``mark_stored``."""
        fresh = [position for position, seq in self._unstored if seq > self._taken_seq]
        self._taken_seq = self.last_seq
        return [self._durable_at(position) for position in fresh]

    def mark_stored(self, seq: int) -> None:
        """The store has every event up to ``seq``: readers may see them."""
        self.stored_seq = max(self.stored_seq, seq)
        self.shown_seq = max(self.shown_seq, seq)
        self._unstored = [entry for entry in self._unstored if entry[1] > seq]
        self._trim()

    @property
    def hidden(self) -> Iterator[DurableEvent]:
        """Durable events that readers may not see yet, oldest first."""
        places = range(self._shown, len(self._unstored))
        return (self._durable_at(self._unstored[place][0]) for place in places)

    def show_unstored(self, seq: int) -> None:
        """Readers may see the durable events up to ``seq``, though the store has not got them."""
        self.shown_seq = max(self.shown_seq, min(seq, self.last_seq))

    def cursor(self, after_seq: int = 0) -> "Cursor":
        """A reader that has seen the durable events up to ``after_seq``."""
        return Cursor(self, after_seq)

    @property
    def _end(self) -> int:
        return self._base + len(self._entries)

    @property
    def visible_end(self) -> int:
        """One past the last place that readers may see: it grows with whatever there is to read."""
        shown = self._shown
        return self._unstored[shown][0] if shown < len(self._unstored) else self._end

    @property
    def _shown(self) -> int:
        """How many of the unstored events may be seen."""
        return self.shown_seq - self.stored_seq

    @property
    def _stored_end(self) -> int:
        return self._unstored[0][0] if self._unstored else self._end

    def _durable_at(self, position: int) -> DurableEvent:
        event = self._entries[position - self._base]
        assert event is not None
        assert not isinstance(event, PassingEvent)
        return event

    def _trim(self) -> None:
        surplus = len(self._entries) - self._entries_max
        surplus = min(surplus, self._stored_end - self._base)
        if surplus <= 0:
            return
        for event in self._entries[:surplus]:
            if event is not None and not isinstance(event, PassingEvent):
                self._forgotten_seq = event.seq
        del self._entries[:surplus]
        self._base += surplus


class Cursor:
    """One subscriber's place in the log."""

    def __init__(self, log: EventLog, after_seq: int) -> None:
        self._log = log
        self._position = log._base
        self.seq = after_seq
        """The last durable event that this reader has been given."""
        self.missed_partials = 0
        """Partials that newer ones replaced before this reader came to them."""

    @property
    def has_more(self) -> bool:
        return self._position < self._log.visible_end

    def read(self, limit: int) -> list[Event]:
        """Up to ``limit`` events, oldest first; empty when there is nothing new.

        Raises: Behind when durable events must be fetched from the store first.
        """
        log = self._log
        if self.seq < log._forgotten_seq:
            raise Behind(self.seq, log._forgotten_seq)
        self._position = max(self._position, log._base)
        events: list[Event] = []
        while len(events) < limit and self._position < log.visible_end:
            event = log._entries[self._position - log._base]
            self._position += 1
            if event is None:
                self.missed_partials += 1
            elif self._is_news(event):
                events.append(event)
        return events

    def skip_through(self, seq: int) -> None:
        """The events up to ``seq`` reached the reader from the store."""
        self.seq = max(self.seq, seq)

    def _is_news(self, event: Event) -> bool:
        if isinstance(event, PassingEvent):
            return event.after_seq >= self.seq
        if event.seq <= self.seq:
            return False
        self.seq = event.seq
        return True
