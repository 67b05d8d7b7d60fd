"""Packets against the clock, and captions against packets."""

from hypothesis import given
from hypothesis import strategies as st

from clients.latency import DELAYS_KEPT, PACKETS_KEPT, LatencyMeter
from clients.pacing import Pace, Pacer, packet_frames

SECOND_NS = 1_000_000_000


def test_real_time_sends_a_packet_when_its_last_frame_is_spoken() -> None:
    pacer = Pacer(Pace.REALTIME, 16_000, started_ns=5 * SECOND_NS)
    assert pacer.due_ns(16_000) == 6 * SECOND_NS
    assert pacer.wait_s(16_000, now_ns=5 * SECOND_NS) == 1.0


def test_a_late_packet_does_not_delay_the_next() -> None:
    pacer = Pacer(Pace.REALTIME, 8_000, started_ns=0)
    assert pacer.wait_s(8_000, now_ns=3 * SECOND_NS) == 0
    assert pacer.wait_s(32_000, now_ns=3 * SECOND_NS) == 1.0


@given(st.integers(0, 10**9))
def test_at_full_speed_nothing_waits(frame: int) -> None:
    assert Pacer(Pace.MAX, 16_000, started_ns=0).wait_s(frame, now_ns=0) == 0


@given(st.integers(1, 1000), st.integers(4_000, 384_000))
def test_packets_have_whole_frames_and_at_least_one(packet_ms: int, rate: int) -> None:
    frames = packet_frames(packet_ms, rate)
    assert frames == max(1, packet_ms * rate // 1000)


def test_a_captions_delay_counts_from_the_packet_that_holds_its_end() -> None:
    meter = LatencyMeter()
    for index in range(10):
        meter.packet_sent((index + 1) / 10, now_ns=index * SECOND_NS)
    assert meter.caption_came(0.25, now_ns=7 * SECOND_NS) == 5.0
    assert meter.caption_came(0.3, now_ns=2 * SECOND_NS) == 0.0
    assert meter.caption_came(9.9, now_ns=10 * SECOND_NS) == 1.0
    assert (meter.quantile_s(0.0), meter.quantile_s(0.5), meter.quantile_s(1.0)) == (0, 1, 5)


def test_nothing_measured_is_none() -> None:
    meter = LatencyMeter()
    assert meter.caption_came(1.0, now_ns=0) is None
    assert meter.quantile_s(0.5) is None
    assert meter.rtfx(1.0, now_ns=5) is None
    assert meter.audio_seconds == 0


def test_rtfx_is_captioned_audio_per_waiting() -> None:
    meter = LatencyMeter()
    meter.packet_sent(0.1, now_ns=SECOND_NS)
    assert meter.rtfx(10.0, now_ns=3 * SECOND_NS) == 5.0


def test_memory_is_bounded_and_forgotten_packets_give_no_delay() -> None:
    meter = LatencyMeter()
    for index in range(PACKETS_KEPT + 10):
        meter.packet_sent(float(index), now_ns=index)
    assert meter.caption_came(3.0, now_ns=0) is None
    for _ in range(DELAYS_KEPT):
        meter.caption_came(1e6, now_ns=PACKETS_KEPT + 9)
    meter.caption_came(1e6, now_ns=10**12)
    assert meter.quantile_s(0.5) == 0
