"""When a stage counts as stalled: it was asked, and has answered nobody for too long.

Owns one clock per stage. Knows nothing of jobs, workers or why nothing comes. While a stage is
stalled its jobs fail at once, so that sessions end with explicit gaps instead of waiting for
engines that hang, one after the other; the first answer ends it.

Invariants: H1 the clock runs while something waits for an answer, and only then; H2 every answer
turns it back; H3 a stall ends with an answer, or when nobody is there any more who could ask.
"""


class StallClock:
    """Say what happens to a stage; it says when patience is over."""

    def __init__(self, patience_ns: int) -> None:
        self.patience_ns = patience_ns
        self.is_stalled = False
        self._since_ns: int | None = None
        """Since when something waits and nothing was answered; None while nothing waits."""

    @property
    def due_ns(self) -> int | None:
        """When ``look`` would find it stalled; None where that cannot come by waiting."""
        if self.is_stalled or self._since_ns is None:
            return None
        return self._since_ns + self.patience_ns

    def note_waiting(self, now_ns: int) -> None:
        """Something waits for an answer, from now on or still."""
        if self._since_ns is None:
            self._since_ns = now_ns

    def note_idle(self) -> None:
        """Nothing waits any more: silence means nothing, and past silence says little."""
        self._since_ns = None
        self.is_stalled = False

    def note_answer(self, now_ns: int) -> bool:
        """An engine of the stage said something. True where that ends a stall."""
        was_stalled, self.is_stalled = self.is_stalled, False
        if self._since_ns is not None:
            self._since_ns = now_ns
        return was_stalled

    def look(self, now_ns: int) -> bool:
        """True once, when patience is over."""
        due_ns = self.due_ns
        if due_ns is None or now_ns < due_ns:
            return False
        self.is_stalled = True
        return True
