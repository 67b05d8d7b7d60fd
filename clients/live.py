"""Events folded into what a viewer should see now. Pure.

Owns: the order of captions, which partials are still open, and which speaker each word has.
Invariants: V1 a final's text never changes; V2 an open line disappears when its final, or a later
caption of its lane, has come; V3 folding the same events in any split gives the same view; V4 what
a server had shown, lost and makes anew is seen once: the view is then as if the lost events had
never come.
Bounds: ``captions_max`` finals (the oldest go first), one open line per caption id and
``OPEN_PER_LANE_MAX`` per lane, ``NOTICES_MAX`` notices, ``UNDOABLE_MAX`` events to be undone.
"""

from collections import deque
from collections.abc import Callable
from functools import partial as bound

from streaming.events import (
    Degraded,
    Done,
    DurableEvent,
    Event,
    Final,
    Gap,
    Lag,
    LanguageDetected,
    Partial,
    Revision,
)
from streaming.exports import Caption, Transcript

CAPTIONS_MAX = 10_000
"""A working day of talk; a viewer shows far fewer."""
OPEN_PER_LANE_MAX = 4
NOTICES_MAX = 100
UNDOABLE_MAX = 1_024
"""A server shows at most 512 events of a session that its store has not taken."""


def keep_event(events: list[DurableEvent], event: DurableEvent) -> None:
    """Add to a session's events; it takes the place of those that the server lost and makes anew.

    Such an event is one whose ``seq`` is not above that of the one before.
    """
    while events and events[-1].seq >= event.seq:
        events.pop()
    events.append(event)


class CaptionFold:
    """The captions, open lines and state of one session, kept current event by event."""

    def __init__(self, *, captions_max: int = CAPTIONS_MAX) -> None:
        self._captions_max = captions_max
        self._captions: dict[str, Caption] = {}
        self._open: dict[str, Partial] = {}
        self.notices: deque[Gap | Degraded] = deque(maxlen=NOTICES_MAX)
        self.language: str | None = None
        self.lag_seconds: float | None = None
        self.done: Done | None = None
        self._last_seq = 0
        self._undo: deque[tuple[int, Callable[[], None]]] = deque(maxlen=UNDOABLE_MAX)
        """How to take the newest durable events back."""

    @property
    def captions(self) -> list[Caption]:
        """In the order in which they became final."""
        return list(self._captions.values())

    @property
    def open_lines(self) -> list[Partial]:
        """By lane, then by time."""
        return sorted(self._open.values(), key=lambda line: (line.lane, line.span.start))

    def caption(self, caption_id: str) -> Caption | None:
        return self._captions.get(caption_id)

    def apply(self, event: Event) -> None:
        """Take one event; those of no interest to a viewer change nothing."""
        if isinstance(event, DurableEvent):
            if event.seq <= self._last_seq:
                self.forget_after(event.seq - 1)
            self._last_seq = event.seq
        match event:
            case Partial():
                self._apply_partial(event)
            case Final():
                self._apply_final(event)
            case Revision():
                self._apply_revision(event)
            case LanguageDetected():
                self._apply_language(event)
            case Lag():
                self.lag_seconds = event.seconds
            case Gap() | Degraded():
                self._apply_notice(event)
            case Done():
                self._open.clear()
                self.done = event
            case _:
                pass

    def forget_after(self, seq: int) -> None:
        """The server died before it could store what came after this event (V4).

        ``apply`` does it by itself at the first event that comes again.
        """
        if seq >= self._last_seq:
            return
        while self._undo and self._undo[-1][0] > seq:
            _, undo = self._undo.pop()
            undo()
        self._open.clear()
        self._last_seq = seq

    def _apply_partial(self, partial: Partial) -> None:
        if partial.caption_id in self._captions or self.done is not None:
            return
        if not partial.text:
            self._open.pop(partial.caption_id, None)
            return
        self._open[partial.caption_id] = partial
        in_lane = [line for line in self.open_lines if line.lane == partial.lane]
        for line in in_lane[:-OPEN_PER_LANE_MAX]:
            del self._open[line.caption_id]

    def _apply_final(self, final: Final) -> None:
        self._close_lines(final.lane, final.span.start + 1)
        self._open.pop(final.caption_id, None)
        [caption] = Transcript.from_events([final]).captions
        if self._captions.setdefault(final.caption_id, caption) is caption:
            self._undo.append((final.seq, bound(self._put_back, final.caption_id, None)))
        while len(self._captions) > self._captions_max:
            del self._captions[next(iter(self._captions))]

    def _apply_revision(self, revision: Revision) -> None:
        caption = self._captions.get(revision.caption_id)
        if caption is not None:
            self._captions[revision.caption_id] = caption.revised(revision)
            self._undo.append((revision.seq, bound(self._put_back, caption.caption_id, caption)))

    def _put_back(self, caption_id: str, before: Caption | None) -> None:
        if before is None:
            self._captions.pop(caption_id, None)
        elif caption_id in self._captions:
            self._captions[caption_id] = before

    def _apply_language(self, event: LanguageDetected) -> None:
        self._undo.append((event.seq, bound(self._put_back_language, self.language)))
        self.language = event.language

    def _put_back_language(self, before: str | None) -> None:
        self.language = before

    def _apply_notice(self, notice: Gap | Degraded) -> None:
        self.notices.append(notice)
        if isinstance(notice, Gap):
            self._close_lines(notice.lane, notice.span.end)
            self._undo.append((notice.seq, bound(self._take_back, notice)))

    def _take_back(self, gap: Gap) -> None:
        if gap in self.notices:
            self.notices.remove(gap)

    def _close_lines(self, lane: int, before: int) -> None:
        """Open lines that start before a sample will not become final any more."""
        stale = [
            line.caption_id
            for line in self._open.values()
            if line.lane == lane and line.span.start < before
        ]
        for caption_id in stale:
            del self._open[caption_id]
