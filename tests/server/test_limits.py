"""Token buckets: exact over any spacing of calls, indifferent to a clock that stands or jumps."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.limits import NS_PER_S, PACKET_BURST_S, PacketGate, TokenBucket
from streaming.errors import TooFast


def test_a_full_bucket_gives_its_burst_then_its_rate() -> None:
    bucket = TokenBucket(rate_per_s=10, burst=5)
    assert [bucket.take(1, 0) for _ in range(6)] == [True] * 5 + [False]
    assert not bucket.take(1, NS_PER_S // 10 - 1)
    assert bucket.take(1, NS_PER_S // 10)


def test_a_refused_take_takes_nothing() -> None:
    bucket = TokenBucket(rate_per_s=1, burst=5)
    assert not bucket.take(6, 0)
    assert bucket.take(5, 0)


def test_time_that_goes_back_gives_nothing() -> None:
    bucket = TokenBucket(rate_per_s=1, burst=1)
    assert bucket.take(1, 10 * NS_PER_S)
    assert not bucket.take(1, 0)
    assert not bucket.take(1, 10 * NS_PER_S)
    assert bucket.take(1, 11 * NS_PER_S)


@pytest.mark.parametrize(("rate", "burst"), [(0, 1), (1, 0)])
def test_a_bucket_that_never_gives_is_refused(rate: int, burst: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        TokenBucket(rate, burst)


@given(
    rate=st.integers(1, 10_000),
    burst=st.integers(1, 10_000),
    steps_ns=st.lists(st.integers(0, NS_PER_S), max_size=50),
)
def test_never_more_than_burst_plus_rate_times_time(
    rate: int, burst: int, steps_ns: list[int]
) -> None:
    bucket, now_ns, taken = TokenBucket(rate, burst), 0, 0
    for step_ns in steps_ns:
        now_ns += step_ns
        while taken <= burst + rate * 60 and bucket.take(max(1, burst // 7), now_ns):
            taken += max(1, burst // 7)
        assert taken <= burst + rate * now_ns / NS_PER_S


@given(rate=st.integers(1, 1000), splits=st.integers(1, 1000))
def test_many_small_steps_fill_as_one_large_step(rate: int, splits: int) -> None:
    bucket = TokenBucket(rate, burst=rate)
    assert bucket.take(rate, 0)
    for step in range(1, splits):
        bucket.take(rate + 1, step * NS_PER_S // splits)  # refused, but fills
    assert bucket.take(rate, NS_PER_S)


def send_for_a_second(gate: PacketGate, *, packets: int, start_ns: int = 0) -> None:
    for packet in range(packets):
        gate.receive_packet(start_ns + packet * NS_PER_S // packets)


def test_live_packets_pass_for_ever_and_a_flood_does_not() -> None:
    gate = PacketGate(per_second_max=500)
    for second in range(10):
        send_for_a_second(gate, packets=500, start_ns=second * NS_PER_S)

    with pytest.raises(TooFast, match="500 messages per second") as caught:
        send_for_a_second(PacketGate(per_second_max=500), packets=10_000)
    assert caught.value.retry_after_ms == 1000


def test_a_stalled_client_may_catch_up() -> None:
    gate = PacketGate(per_second_max=50)
    for _ in range(50 * PACKET_BURST_S):
        gate.receive_packet(0)
    with pytest.raises(TooFast):
        gate.receive_packet(0)
