"""SampleBuffer against a plain array that forgets nothing."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streaming.buffer import CHUNK_SAMPLES, BufferFull, SampleBuffer
from streaming.engines import Samples
from streaming.timeline import Span

STEP = st.tuples(
    st.sampled_from(["append", "skip", "release"]),
    st.integers(0, 3 * CHUNK_SAMPLES),
)


def ramp(samples: int, start: int = 1) -> Samples:
    return (np.arange(start, start + samples) % 30_000 + 1).astype(np.int16)


@given(st.lists(STEP, max_size=20), st.integers(0, 5_000))
def test_it_reads_as_what_was_appended(steps: list[tuple[str, int]], start: int) -> None:
    buffer = SampleBuffer(samples_max=10**9, start=start)
    mirror = np.zeros(start, np.int16)
    for kind, amount in steps:
        if kind == "append":
            buffer.append(ramp(amount, mirror.size))
            mirror = np.concatenate((mirror, ramp(amount, mirror.size)))
        elif kind == "skip":
            buffer.skip(amount)
            mirror = np.concatenate((mirror, np.zeros(amount, np.int16)))
        else:
            buffer.release(buffer.start + amount)
        assert buffer.end == mirror.size
        held = buffer.read(Span(buffer.start, buffer.end))
        np.testing.assert_array_equal(held, mirror[buffer.start :])
        assert np.count_nonzero(held) <= buffer.stored_samples <= held.size


@given(st.lists(st.integers(0, 5_000), max_size=12))
def test_what_was_stored_is_freed_by_releasing_it(sizes: list[int]) -> None:
    buffer = SampleBuffer(samples_max=10**6)
    for size in sizes:
        buffer.append(ramp(size))
    assert buffer.stored_samples == sum(sizes)
    buffer.release(sum(sizes) // 2)
    assert buffer.stored_samples == sum(sizes) - sum(sizes) // 2
    buffer.release(sum(sizes) // 2)
    buffer.release(0)
    assert (buffer.start, buffer.stored_samples) == (sum(sizes) // 2, sum(sizes) - sum(sizes) // 2)
    buffer.release(10**9)
    assert (buffer.start, buffer.stored_samples) == (sum(sizes), 0)


def test_what_does_not_fit_is_refused_whole() -> None:
    buffer = SampleBuffer(samples_max=100)
    buffer.append(ramp(90))
    with pytest.raises(BufferFull, match="11 samples do not fit beside 90"):
        buffer.append(ramp(11))
    assert (buffer.end, buffer.stored_samples) == (90, 90)
    buffer.append(ramp(10))
    buffer.release(50)
    buffer.append(ramp(50))
    assert buffer.stored_samples == 100


def test_a_short_hole_that_takes_memory_counts() -> None:
    buffer = SampleBuffer(samples_max=100)
    buffer.append(ramp(10))
    buffer.skip(80)
    assert buffer.stored_samples == 10
    with pytest.raises(BufferFull):
        buffer.append(ramp(11))
    buffer.append(ramp(10))
    assert buffer.stored_samples == 100


@pytest.mark.parametrize("span", [Span(9, 20), Span(20, 41), Span(0, 0), Span(50, 50)])
def test_samples_that_are_not_held_cannot_be_read(span: Span) -> None:
    buffer = SampleBuffer(samples_max=100)
    buffer.append(ramp(40))
    buffer.release(10)
    with pytest.raises(LookupError, match=r"10\.\.40 are held"):
        buffer.read(span)


def test_a_copy_stays_as_it_was_read() -> None:
    buffer = SampleBuffer(samples_max=100)
    buffer.append(ramp(10))
    copy = buffer.read(Span(0, 10))
    copy[:] = 0
    assert buffer.read(Span(0, 10)).all()


def test_a_negative_hole_is_refused() -> None:
    with pytest.raises(ValueError, match="-1 samples"):
        SampleBuffer(samples_max=1).skip(-1)


def memory_bytes(packets: list[int], holes: int) -> int:
    """What a buffer takes after these packets, each followed by a hole."""
    tracemalloc.start()
    buffer = SampleBuffer(samples_max=10**7)
    for size in packets:
        buffer.append(np.ones(size, np.int16))
        buffer.skip(holes)
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return taken


@pytest.mark.parametrize("packet", [1, 7, 320, 5_000])
def test_memory_follows_the_samples_whatever_the_packets(packet: int) -> None:
    samples = 20_000
    assert memory_bytes([packet] * (samples // packet), 0) < 1.25 * 2 * samples


def test_a_day_without_audio_takes_no_memory() -> None:
    assert memory_bytes([100], 24 * 3600 * 16_000) < 2 * 2 * CHUNK_SAMPLES
