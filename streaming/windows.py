"""Which span of an open utterance to decode next.

Owns: the hop between partials, the cap on an open window, the left context after a cut. Never
touches samples, words or a model.

Invariants:
W1  What is planned depends on audio time alone (but for early cuts): asked late, one window is
    planned, at the latest hop boundary that has passed.
W2  No window is longer than the cap, if every cut is made before the utterance is closed.
W3  The contents of an utterance's cut and final windows tile it: no sample twice, none left out.
"""

from dataclasses import dataclass

from streaming.timeline import Span, samples_from_ms


@dataclass(frozen=True, slots=True)
class WindowOptions:
    """How often, and how much, is decoded."""

    hop_ms: int = 1000
    """Between two partials of one utterance."""
    first_ms: int = 600
    """Audio wanted before the first partial of an utterance, and of what follows a cut."""
    cap_ms: int = 20_000
    """Longest window; Whisper hears 30 s."""
    left_context_ms: int = 1000
    """Heard again before a cut, so that the first word after it is not heard out of nothing."""

    def __post_init__(self) -> None:
        if self.hop_ms <= 0 or self.first_ms < 0 or self.left_context_ms < 0:
            raise ValueError("hop_ms must be positive, first_ms and left_context_ms not negative")
        if self.cap_ms <= self.left_context_ms + max(self.hop_ms, self.first_ms):
            raise ValueError("cap_ms must exceed left_context_ms and a hop, or nothing fits")


@dataclass(frozen=True, slots=True)
class Window:
    """A span to decode."""

    span: Span
    """What the engine hears."""
    content: Span
    """Words whose middle lies in it are kept; what is heard before it is left context."""


@dataclass(frozen=True, slots=True)
class OpenWindowState:
    """Where the windows of an utterance stand; a cut that is planned is planned again."""

    start: int
    content_start: int
    first_boundary: int
    earliest_boundary: int


class WindowPlanner:
    """Plans one lane's utterances, one after the other.

    Order of calls: ``open``, then any of ``next_partial``, ``next_cut`` and ``next_early_cut``,
    each planned cut answered by ``cut`` or ``keep``, and ``close`` when ``next_cut`` has nothing
    left to cut.
    """

    def __init__(self, options: WindowOptions) -> None:
        self._hop_samples = samples_from_ms(options.hop_ms)
        self._first_samples = samples_from_ms(options.first_ms)
        self._cap_samples = samples_from_ms(options.cap_ms)
        self._left_context_samples = samples_from_ms(options.left_context_ms)
        self._open: _OpenWindow | None = None

    @property
    def content_start(self) -> int | None:
        """The first sample whose words are not committed; None between utterances."""
        return self._open.content_start if self._open else None

    @property
    def earliest_needed(self) -> int | None:
        """The first sample that a coming window will hear; None between utterances."""
        return self._open.start if self._open else None

    @property
    def state(self) -> OpenWindowState | None:
        """What ``resume`` needs; None between utterances."""
        window = self._open
        if window is None:
            return None
        return OpenWindowState(
            window.start, window.content_start, window.first_boundary, window.earliest_boundary
        )

    def resume(self, state: OpenWindowState) -> None:
        """Plan on as the planner whose state it was would have."""
        self._open = _OpenWindow(state.start, state.first_boundary)
        self._open.content_start = state.content_start
        self._open.earliest_boundary = state.earliest_boundary

    def open(self, start: int, speech_start: int | None = None) -> None:
        """An utterance begins; hops count from ``speech_start`` where it is known."""
        if self._open:
            raise ValueError("an utterance is open; close it first")
        origin = start if speech_start is None else speech_start
        self._open = _OpenWindow(start, origin + self._first_samples)

    def next_partial(self, end: int, thinning: float = 1.0) -> Window | None:
        """What to decode for a partial, given audio up to ``end``, every ``thinning`` hops.

        None before the next hop boundary, while a cut is awaited, and where the cap is reached.
        """
        window = self._required()
        if window.is_cut_planned:
            return None
        last = min(end, window.start + self._cap_samples - 1)
        hop_samples = round(self._hop_samples * thinning)
        hops = (last - window.first_boundary) // hop_samples
        boundary = window.first_boundary + hops * hop_samples
        if hops < 0 or boundary < window.earliest_boundary:
            return None
        # Where the thinning changes, the next boundary of the new grid may be very near.
        window.earliest_boundary = boundary + hop_samples // 2 + 1
        return window.until(boundary)

    def next_cut(self, end: int) -> Window | None:
        """The window that must be cut, once, when audio up to ``end`` fills the cap."""
        window = self._required()
        cap = window.start + self._cap_samples
        if window.is_cut_planned or end < cap:
            return None
        window.is_cut_planned = True
        return window.until(cap)

    def next_early_cut(self, end: int, samples_min: int) -> Window | None:
        """The window up to ``end`` that must be cut now; None where less content is there than
        ``samples_min``."""
        window = self._required()
        end = min(end, window.start + self._cap_samples)
        if end - window.content_start < samples_min:
            return None
        window.is_cut_planned = True
        return window.until(end)

    def keep(self) -> None:
        """The planned cut is not made: nothing of its window is committed."""
        self._required().is_cut_planned = False

    def cut(self, at: int) -> None:
        """What the planned cut window said before ``at`` is committed: content starts there now."""
        window = self._required()
        if not window.is_cut_planned:
            raise ValueError("no cut is planned")
        if not window.content_start < at <= window.start + self._cap_samples:
            raise ValueError(f"{at} is not inside the content that is to be cut")
        window.content_start = at
        window.start = max(window.start, at - self._left_context_samples)
        window.earliest_boundary = at + self._first_samples
        window.is_cut_planned = False

    def close(self, end: int) -> Window:
        """The utterance has ended at ``end``: its last window, empty if all of it was cut.

        A cut that was planned and not made is forgotten: its content is in this window.
        """
        window = self._required()
        self._open = None
        return window.until(max(end, window.content_start))

    def _required(self) -> "_OpenWindow":
        if self._open is None:
            raise ValueError("no utterance is open")
        return self._open


class _OpenWindow:
    """The part of the open utterance that is not committed, with its left context."""

    def __init__(self, start: int, first_boundary: int) -> None:
        self.start = self.content_start = start
        self.first_boundary = first_boundary
        self.earliest_boundary = first_boundary
        self.is_cut_planned = False

    def until(self, end: int) -> Window:
        return Window(Span(self.start, end), Span(self.content_start, end))
