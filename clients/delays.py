"""How late each word came, as the client sees it. Pure: whoever sends and reads hands in the time.

This is the definition that ``captiond eval`` and the load generator share (docs/operations.md):
the clock of a word starts when the packet with its last sample was sent, and stops when a message
that holds the word was received. ``first shown`` is the first message with that text in that
place, a partial or the final; ``final`` is its final.
Bounds: as long as the recording; made for recordings, not for endless streams.
"""

import string
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from streaming.events import CaptionWord, Event, Final, Partial
from streaming.timeline import Span

PLACE_TOLERANCE_SAMPLES = 8_000
"""0.5 s: a partial and the final may disagree by this much on where the same word lies."""


def quantiles(values: Iterable[float]) -> dict[str, float | None]:
    """p50, p95, p99; None where nothing was measured."""
    ordered = np.fromiter(values, np.float64)
    return {
        f"p{percent}": round(float(np.percentile(ordered, percent)), 4) if len(ordered) else None
        for percent in (50, 95, 99)
    }


class SentAudio:
    """Which packet carried a sample, and when it was sent."""

    def __init__(self) -> None:
        self._ends: list[int] = []
        self._times_s: list[float] = []

    @classmethod
    def in_equal_packets(cls, packet_samples: int, times_s: Sequence[float]) -> "SentAudio":
        """Packets of one size, each sent at the given time."""
        sent = cls()
        for number, time_s in enumerate(times_s, 1):
            sent.packet_sent(number * packet_samples, time_s)
        return sent

    def packet_sent(self, end: int, now_s: float) -> None:
        """Everything before sample ``end`` of the audio clock has been sent by now."""
        self._ends.append(end)
        self._times_s.append(now_s)

    def delay_s(self, end: int, received_s: float) -> float | None:
        """From sending the last sample before ``end`` to ``received_s``.

        None where that sample was not sent: no recording ends with a word that is not in it.
        """
        packet = bisect_left(self._ends, end)
        return received_s - self._times_s[packet] if packet < len(self._ends) else None


MARKS = string.punctuation + string.whitespace + "…“”„«»‘’–—"
"""A final may close with a full stop what a partial showed without one."""


@dataclass(frozen=True, slots=True)
class WordDelay:
    """Both delays of one word of a final, in seconds."""

    first_shown_s: float
    final_s: float


@dataclass(slots=True)
class DelayMeter:
    """Pairs words with the packets that held them and the messages that showed them."""

    sent: SentAudio = field(default_factory=SentAudio)
    words: list[WordDelay] = field(default_factory=list)
    _shown: dict[int, list[tuple[str, Span, float]]] = field(default_factory=dict)
    """By lane: words of partials since the lane's last final, and when each first came."""

    def received(self, event: Event, now_s: float) -> None:
        """Take one event at the time at which it came."""
        if isinstance(event, Partial):
            shown = self._shown.setdefault(event.lane, [])
            news = [word for word in event.words if _first_shown(shown, word) is None]
            shown += [(_spoken(word.text), word.span, now_s) for word in news]
        elif isinstance(event, Final):
            self._take_final(event, now_s)

    def _take_final(self, final: Final, now_s: float) -> None:
        shown = self._shown.get(final.lane, [])
        for word in final.words:
            first_s = _first_shown(shown, word)
            first = self.sent.delay_s(word.span.end, now_s if first_s is None else first_s)
            last = self.sent.delay_s(word.span.end, now_s)
            if first is not None and last is not None:
                # A word that an engine places too late may seem to be shown before it was said.
                self.words.append(WordDelay(max(0.0, first), max(0.0, last)))
        self._shown[final.lane] = [entry for entry in shown if entry[1].end > final.span.end]


def _spoken(text: str) -> str:
    return text.strip(MARKS).casefold()


def _first_shown(shown: Sequence[tuple[str, Span, float]], word: CaptionWord) -> float | None:
    """When this text was first shown in this place; case and marks around it do not matter."""
    wanted = _spoken(word.text)
    times = (
        time_s
        for text, span, time_s in shown
        if text == wanted and span.distance_samples(word.span) <= PLACE_TOLERANCE_SAMPLES
    )
    return min(times, default=None)
