"""Spans and the conversion of times."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streaming.timeline import (
    SAMPLE_RATE_HZ,
    SAMPLES_PER_MS,
    Span,
    samples_from_ms,
    samples_from_seconds,
    seconds,
)

SPANS = st.tuples(st.integers(0, 10_000), st.integers(0, 10_000)).map(
    lambda pair: Span(min(pair), max(pair))
)


def test_a_span_knows_its_size() -> None:
    span = Span(16_000, 24_000)
    assert (span.samples, span.seconds, span.middle) == (8_000, 0.5, 20_000)
    assert span.shifted(-16_000) == Span(0, 8_000)
    assert Span(1, 2) < span


@pytest.mark.parametrize(("start", "end"), [(-1, 5), (5, 4)])
def test_what_ends_before_it_starts_is_no_span(start: int, end: int) -> None:
    with pytest.raises(ValueError, match="not a span"):
        Span(start, end)


@given(SPANS, SPANS)
def test_two_spans_overlap_or_lie_apart(a: Span, b: Span) -> None:
    assert a.overlap_samples(b) == b.overlap_samples(a)
    assert a.distance_samples(b) == b.distance_samples(a)
    assert not (a.overlap_samples(b) and a.distance_samples(b))
    common = set(range(a.start, a.end)) & set(range(b.start, b.end))
    assert a.overlap_samples(b) == len(common)


@given(SPANS, SPANS)
def test_clamped_is_the_common_part(span: Span, bounds: Span) -> None:
    inside = span.clamped(bounds)
    assert bounds.start <= inside.start <= inside.end <= bounds.end
    assert inside.samples == span.overlap_samples(bounds)


def test_a_span_beyond_its_bounds_becomes_the_nearer_edge() -> None:
    assert Span(50, 60).clamped(Span(10, 20)) == Span(20, 20)
    assert Span(0, 5).clamped(Span(10, 20)) == Span(10, 10)


@given(st.integers(0, 10**9))
def test_milliseconds_survive_the_way_to_seconds_and_back(ms: int) -> None:
    samples = ms * SAMPLES_PER_MS
    assert samples_from_seconds(seconds(samples)) == samples
    assert samples_from_ms(ms) == samples


def test_times_are_rounded_to_the_nearest() -> None:
    assert seconds(SAMPLE_RATE_HZ // 3) == 0.333
    assert samples_from_seconds(0.5 / SAMPLE_RATE_HZ) == 1
    assert samples_from_seconds(0.49 / SAMPLE_RATE_HZ) == 0
