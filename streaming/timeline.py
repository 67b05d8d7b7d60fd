"""The audio clock: integer sample indexes at 16 kHz, and their conversion to other units.

Owns: the sample rate, half-open spans, rounding. Knows nothing of audio data, words or wall time.
Invariants: T1 a span never ends before it starts; T2 no span is negative.
"""

from dataclasses import dataclass

SAMPLE_RATE_HZ = 16_000
SAMPLES_PER_MS = SAMPLE_RATE_HZ // 1000


@dataclass(frozen=True, slots=True, order=True)
class Span:
    """Samples ``start`` up to, not including, ``end``, counted from the start of a lane."""

    start: int
    end: int

    def __post_init__(self) -> None:
        if not 0 <= self.start <= self.end:
            raise ValueError(f"not a span: {self.start}..{self.end}")

    @property
    def samples(self) -> int:
        return self.end - self.start

    @property
    def seconds(self) -> float:
        return seconds(self.samples)

    @property
    def middle(self) -> int:
        return (self.start + self.end) // 2

    def overlap_samples(self, other: "Span") -> int:
        return max(0, min(self.end, other.end) - max(self.start, other.start))

    def distance_samples(self, other: "Span") -> int:
        """The silence between two spans; 0 where they touch or overlap."""
        return max(0, other.start - self.end, self.start - other.end)

    def shifted(self, samples: int) -> "Span":
        return Span(self.start + samples, self.end + samples)

    def clamped(self, bounds: "Span") -> "Span":
        """The part of this span inside ``bounds``; empty at the nearer edge where there is none."""
        start = min(max(self.start, bounds.start), bounds.end)
        return Span(start, min(max(self.end, start), bounds.end))


def seconds(samples: int) -> float:
    """Seconds with three decimals, as every time on the wire."""
    return round(samples / SAMPLE_RATE_HZ, 3)


def samples_from_seconds(value: float) -> int:
    """Rounded to the nearest sample, halves away from zero for the positive times we have."""
    return int(value * SAMPLE_RATE_HZ + 0.5)


def samples_from_ms(value: float) -> int:
    return samples_from_seconds(value / 1000)
