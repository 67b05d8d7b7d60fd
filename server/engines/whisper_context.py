"""How many encoder positions each window is heard with. Pure.

Whisper was trained on 30 s. What is shorter costs less, by more than its share, and a checkpoint
says how short it can go: ``captiond_context_margin_s`` in its generation config is the silence
that it wants behind a window. Checkpoints that say nothing hear partials with 10 s at least, until
a calibration shows that they bear less.
Contexts come in a few sizes, so that windows of many lengths share a batch.
"""

from dataclasses import dataclass
from typing import Any, Self

from streaming.engines import RecognizerProfile, SpeechWindow
from streaming.timeline import SAMPLE_RATE_HZ

POSITIONS_PER_SECOND = 50
SAMPLES_PER_POSITION = SAMPLE_RATE_HZ // POSITIONS_PER_SECOND
CONTEXTS_S = (4, 6, 8, 10, 13, 16, 20, 25, 30)
STOCK_CONTEXT_MIN_S = 10
STOCK_MARGIN_S = 1.0
"""Enough for the end of a word; below ``STOCK_CONTEXT_MIN_S`` there is more anyway."""
MARGIN_KEY = "captiond_context_margin_s"


@dataclass(frozen=True, slots=True)
class Short:
    """The short contexts of one kind of window."""

    margin_s: float
    context_min_s: int = CONTEXTS_S[0]

    @property
    def contexts_s(self) -> tuple[int, ...]:
        return tuple(seconds for seconds in CONTEXTS_S if seconds >= self.context_min_s)

    def positions(self, window_samples: int, widening: int = 0) -> int:
        wanted_s = max(window_samples / SAMPLE_RATE_HZ + self.margin_s, self.context_min_s)
        wanted_s *= 2**widening
        sizes = (seconds for seconds in CONTEXTS_S if seconds >= wanted_s)
        return next(sizes, CONTEXTS_S[-1]) * POSITIONS_PER_SECOND


@dataclass(frozen=True, slots=True)
class Contexts:
    """The contexts of one engine; None is all that the model hears."""

    positions_max: int
    partial: Short | None
    final: Short | None = None

    @classmethod
    def of(
        cls,
        generation_config: Any,
        positions_max: int,
        *,
        fast: bool,
        margin_s: float | None = None,
        final_margin_s: float | None = None,
        measured_margin_s: float | None = None,
    ) -> Self:
        """``margin_s`` and ``final_margin_s`` are the operator's; None is the checkpoint's own
        for partials, and the full context for finals. ``measured_margin_s``: a calibration's,
        for finals; a partial's last word may still be going on, and gets no less than a stock
        checkpoint's."""
        if margin_s is None:
            margin_s = generation_config.to_dict().get(MARGIN_KEY)
        if margin_s is None and measured_margin_s is not None:
            margin_s = max(measured_margin_s, STOCK_MARGIN_S)
        stock = Short(STOCK_MARGIN_S, STOCK_CONTEXT_MIN_S)
        partial = stock if margin_s is None else Short(float(margin_s))
        return cls(
            positions_max,
            partial if fast else None,
            None if final_margin_s is None else Short(final_margin_s),
        )

    def positions(self, window: SpeechWindow) -> int:
        """Of the encoder; never fewer than the window fills."""
        short = self.final if window.is_final else self.partial
        if short is None:
            return self.positions_max
        widening = 0 if window.is_final else window.context_widening
        return min(self.positions_max, short.positions(len(window.samples), widening))

    @property
    def profile(self) -> RecognizerProfile:
        """Finals are charged the most that they can cost."""
        longest = self.positions_max * SAMPLES_PER_POSITION
        short = self.partial.contexts_s if self.partial else ()
        sizes = {min(longest, seconds * SAMPLE_RATE_HZ) for seconds in short} or {longest}
        margin_s = self.partial.margin_s if self.partial else 0.0
        margin = int(margin_s * SAMPLE_RATE_HZ)
        return RecognizerProfile(tuple(sorted(sizes)), longest, margin)
