"""Latency quantiles and session counters."""

import math
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streaming.events import GapReason, Quantiles, SessionStage
from streaming.stats import BUCKET_GROWTH, LatencyStats, SessionStats

LATENCIES = st.lists(st.floats(0.002, 900), min_size=1, max_size=60)


def stats_of(latencies: list[float]) -> LatencyStats:
    stats = LatencyStats()
    for latency in latencies:
        stats.add(latency)
    return stats


@given(LATENCIES, st.floats(0.01, 1.0))
def test_a_quantile_is_close_to_the_exact_one(latencies: list[float], share: float) -> None:
    exact = sorted(latencies)[max(1, math.ceil(share * len(latencies))) - 1]
    found = stats_of(latencies).quantile(share)
    assert found == pytest.approx(exact, rel=math.sqrt(BUCKET_GROWTH) - 1, abs=0.0006)


@given(LATENCIES, st.randoms(use_true_random=False))
def test_the_order_of_arrival_changes_nothing(latencies: list[float], random: Random) -> None:
    shuffled = random.sample(latencies, len(latencies))
    assert stats_of(shuffled).quantiles() == stats_of(latencies).quantiles()


def test_nothing_measured_is_nothing_told() -> None:
    assert LatencyStats().quantiles() == Quantiles(None, None)


def test_one_measurement_is_its_own_quantile() -> None:
    stats = stats_of([0.25])
    assert stats.count == 1
    assert stats.quantiles() == Quantiles(0.25, 0.25)


def test_extremes_are_bounded_not_lost() -> None:
    stats = stats_of([-3.0, 0.0, 1e9])
    assert stats.count == 3
    assert stats.quantile(0.3) == pytest.approx(0.001, abs=0.0002)
    assert stats.quantile(1.0) == pytest.approx(1_000, rel=0.06)


def test_every_received_sample_is_accounted_for() -> None:
    stats = SessionStats(received_samples=100, decoded_samples=40, silent_samples=30)
    stats.gap_samples[GapReason.OVERLOAD] += 20
    stats.gap_samples[GapReason.ENGINE_FAILED] += 5
    assert stats.gap_samples_total == 25
    assert stats.unaccounted_samples == 5


def test_rtfx_is_audio_time_over_engine_time() -> None:
    stats = SessionStats(received_samples=160_000)
    assert stats.rtfx() is None
    stats.add_engine_time(SessionStage.RECOGNITION, 500_000_000)
    stats.add_engine_time(SessionStage.RECOGNITION, 300_000_000)
    stats.add_engine_time(SessionStage.ACTIVITY, 200_000_000)
    assert stats.rtfx() == 10.0
    assert stats.rtfx(SessionStage.RECOGNITION) == 12.5
    assert stats.rtfx(SessionStage.DIARIZATION) is None
    assert stats.engine_calls[SessionStage.RECOGNITION] == 2
