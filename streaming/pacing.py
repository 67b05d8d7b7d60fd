"""How far apart partials are while the recognizer is short of time: thinned out first, smoothly.

Owns one number for all sessions, the thinning: a session asks for a partial every ``hop`` times
it. Finals are never thinned. Pure: measurements and the time are arguments.

The rule: while the engines are busy for more than ``BUSY_SHARE`` of the time with calls that leave
partials behind, or these wait for longer than the calls in progress explain, thinning grows; below,
it falls back to 1. A call that took all that waited had room for more: engines that are busy with
such calls lose no time by them, and rarer partials would only make them smaller. It moves by a
share of itself per second that is proportional to how far off it is: a change of load by half
takes seconds to answer, and a single slow call nothing. ``1 / RATE_PER_S`` is above the longest
thinned hop's delay over pi / 2, beyond which such a loop would swing.

Invariants: P1 1 <= thinning <= ``THINNING_MAX``; P2 it moves no faster than by ``RATE_PER_S`` times
``PRESSURE_MAX - 1`` of itself per second; P3 without load it is 1 again in a bounded time.
"""

from math import exp

THINNING_MAX = 8.0
"""A partial every 8 s at the default hop: rarer than most utterances end."""
THINNING_STEP = 0.25
"""Sessions are told of changes of at least this."""
BUSY_SHARE = 0.8
"""The rest absorbs finals that come together."""
BUSY_MEMORY_S = 5.0
WAIT_S_MIN = 0.5
"""Half a hop: a partial that waited longer is late, whatever the engine's pace."""
WAIT_CALLS = 2.0
"""A job that just missed a call waits for that one, and may wait for the finals' next one."""
RATE_PER_S = 0.1
PRESSURE_MAX = 4.0
STEP_S_MAX = 2.0
"""Nothing is known of the time between two calls but that no more was asked: no reason to thin."""


class PartialPacer:
    """Measures calls of the recognizer, says how much partials are to be thinned out."""

    def __init__(self, engines: int, now_ns: int) -> None:
        self._engines = engines
        self._busy_share = 0.0
        """Of all engines' time, with calls that were full, over about ``BUSY_MEMORY_S``."""
        self._call_s = 0.0
        """How long a call takes, lately."""
        self._seen_ns = now_ns
        self._exact = 1.0
        self.thinning = 1.0
        """As sessions are told."""

    def note_call(
        self, engine_ns: int, live_share: float, partial_wait_ns: int, now_ns: int
    ) -> bool:
        """A call has ended, and a partial has been waiting. True where ``thinning`` changed.

        Only the ``live_share`` of a call counts: uploads take all the time that is left, and cost
        nobody a partial.
        """
        passed_s = max(0, now_ns - self._seen_ns) / 1e9
        self._seen_ns = now_ns
        call_s = engine_ns / 1e9
        self._call_s += (call_s - self._call_s) / 4
        self._busy_share *= exp(-passed_s / BUSY_MEMORY_S)
        if partial_wait_ns > engine_ns:  # it was there when the call began, and had no place
            self._busy_share += live_share * call_s / (self._engines * BUSY_MEMORY_S)
        self._move(self._pressure(partial_wait_ns / 1e9), passed_s)
        return self._publish()

    def _pressure(self, wait_s: float) -> float:
        """1 where all is well used and nothing late."""
        wait_max_s = max(WAIT_S_MIN, WAIT_CALLS * self._call_s)
        return min(PRESSURE_MAX, max(self._busy_share / BUSY_SHARE, wait_s / wait_max_s))

    def _move(self, pressure: float, passed_s: float) -> None:
        if pressure > 1:
            passed_s = min(passed_s, STEP_S_MAX)
        moved = self._exact * exp(RATE_PER_S * (pressure - 1) * passed_s)
        self._exact = min(THINNING_MAX, max(1.0, moved))

    def _publish(self) -> bool:
        is_news = abs(self._exact - self.thinning) >= THINNING_STEP
        is_over = self._exact == 1.0 and self.thinning != 1.0
        if is_news or is_over:
            self.thinning = round(self._exact / THINNING_STEP) * THINNING_STEP
        return is_news or is_over
