"""When audio came, or would have at the pace of speech, and how late words are."""

from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streaming import delays
from streaming.delays import (
    BURST_NS,
    CATCH_UP_PACE,
    EARLY_NS,
    MARK_NS,
    MARK_SAMPLES,
    MARKS_MAX,
    ArrivalClock,
    CatchUpPace,
    SpeechPace,
    WordDelays,
)
from streaming.timeline import Span

MS = 1_000_000
PACKETS = st.lists(st.tuples(st.integers(0, 700), st.integers(0, 60 * MS)), min_size=1, max_size=60)


def clock(*marks: tuple[int, int]) -> ArrivalClock:
    arrivals = ArrivalClock()
    for end, now_ns in marks:
        arrivals.note(end, now_ns)
    return arrivals


def test_before_any_audio_nothing_has_arrived() -> None:
    arrivals = clock()
    assert arrivals.arrival_ns(1) is None
    assert arrivals.latest_sample == 0
    arrivals.forget(10)
    assert WordDelays(arrivals).of([Span(0, 5)], 9) == []


def test_a_sample_arrived_with_its_packet() -> None:
    arrivals = clock((1_600, 100), (3_200, 200))
    assert [arrivals.arrival_ns(s) for s in (0, 1, 1_600, 1_601, 3_200)] == [
        100,
        100,
        100,
        200,
        200,
    ]
    assert arrivals.arrival_ns(9_999) == 200
    assert arrivals.latest_sample == 3_200


def test_packets_without_audio_leave_no_mark() -> None:
    assert clock((1_600, 100), (1_600, 900)).arrival_ns(1_600) == 100


@given(packets=PACKETS, asked=st.lists(st.integers(1, 40_000), max_size=20))
def test_an_arrival_is_never_early_and_at_most_one_mark_late(
    packets: list[tuple[int, int]], asked: list[int]
) -> None:
    ends = list(accumulate(samples for samples, _ in packets))
    times = list(accumulate(pause for _, pause in packets))
    arrivals = clock(*zip(ends, times, strict=True))
    for sample in asked:
        if sample <= ends[-1]:
            exact = next(t for end, t in zip(ends, times, strict=True) if end >= sample)
            found = arrivals.arrival_ns(sample)
            assert found is not None
            assert 0 <= found - exact <= MARK_NS


@given(packets=PACKETS, before=st.integers(0, 50_000), asked=st.integers(1, 50_000))
def test_forgetting_changes_no_later_arrival(
    packets: list[tuple[int, int]], before: int, asked: int
) -> None:
    ends = list(accumulate(samples for samples, _ in packets))
    times = list(accumulate(pause for _, pause in packets))
    arrivals = clock(*zip(ends, times, strict=True))
    asked = max(asked, before)
    expected = arrivals.arrival_ns(asked)
    arrivals.forget(before)
    assert arrivals.arrival_ns(asked) == expected


def test_marks_stay_bounded_in_a_storm_of_tiny_packets(monkeypatch: pytest.MonkeyPatch) -> None:
    arrivals = ArrivalClock()
    for end in range(1, 4 * MARK_SAMPLES):
        arrivals.note(end, end)
    # One in 20 ms and the two at the ends.
    assert arrivals.marks <= 6
    monkeypatch.setattr(delays, "MARKS_MAX", 8)
    slow = ArrivalClock()
    for packet in range(1, 400):
        slow.note(packet * 100, packet * 10 * MARK_NS)
        assert slow.marks <= 8
    assert slow.arrival_ns(39_900) == 399 * 10 * MARK_NS
    assert MARKS_MAX * MARK_SAMPLES > 180 * 16_000


SECOND_NS = 1_000 * MS


def test_live_audio_is_never_ahead_of_its_pace_whatever_the_network_does() -> None:
    pace = SpeechPace()
    pace.note(5 * 16_000, 0)  # recorded before the connection was there
    for second in range(1, 60):
        pace.note(16_000, second * SECOND_NS)
        assert pace.spoken_ns(0) <= second * SECOND_NS
    pace.note(20 * 16_000, 80 * SECOND_NS)  # what a stall of 20 s held back
    assert pace.spoken_ns(0) <= 80 * SECOND_NS


def test_an_upload_is_as_far_ahead_as_it_is_longer_than_the_time_it_took() -> None:
    pace = SpeechPace()
    pace.note(3_600 * 16_000, 10 * SECOND_NS)
    end_ns = 10 * SECOND_NS + 3_600 * SECOND_NS - BURST_NS
    assert pace.spoken_ns(0) == end_ns
    assert pace.spoken_ns(16_000) == end_ns - SECOND_NS


def test_a_pause_gives_no_more_than_a_burst() -> None:
    pace = SpeechPace()
    pace.note(16_000, 0)
    pace.note(100 * 16_000, 10_000 * SECOND_NS)
    assert pace.spoken_ns(0) == 10_100 * SECOND_NS - BURST_NS


def test_live_audio_is_due_when_it_comes_and_a_burst_as_it_would_have_been_spoken() -> None:
    pace = CatchUpPace()
    for second in range(1, 60):
        pace.note(16_000, second * SECOND_NS)
        assert pace.due_ns(0) <= second * SECOND_NS
    pace.note(20 * 16_000, 80 * SECOND_NS)  # what a stall of 20 s held back
    for second in range(20):
        assert pace.due_ns((20 - second) * 16_000) == (80 + second) * SECOND_NS - EARLY_NS


@given(burst_s=st.integers(2, 30), packet_ms=st.sampled_from([20, 100, 1_000]))
def test_who_talks_on_after_a_burst_is_live_again_in_a_bounded_time(
    burst_s: int, packet_ms: int
) -> None:
    pace = CatchUpPace()
    pace.note(burst_s * 16_000, 0)
    live_s = (burst_s - EARLY_NS / 1e9) / (CATCH_UP_PACE - 1)
    ahead_s = []
    for now_ms in range(packet_ms, round(2_000 * burst_s), packet_ms):
        pace.note(packet_ms * 16, now_ms * MS)
        ahead_s.append((pace.due_ns(0) - now_ms * MS) / 1e9)
        if now_ms / 1_000 > live_s + packet_ms / 500:
            assert ahead_s[-1] <= 0
    assert ahead_s == sorted(ahead_s, reverse=True), "never further ahead than it was"


def test_an_upload_stays_ahead_of_its_pace() -> None:
    pace = CatchUpPace()
    for second in range(10):
        pace.note(60 * 16_000, second * SECOND_NS)
    assert pace.due_ns(0) > 500 * SECOND_NS


def test_a_word_is_shown_for_the_first_time_once() -> None:
    shown = WordDelays(clock((16_000, 1_000 * MS), (32_000, 2_000 * MS)))
    words = [Span(0, 8_000), Span(8_000, 16_000), Span(16_000, 32_000)]
    assert shown.first_shown_s(words[:2], 1_500 * MS) == [0.5, 0.5]
    assert shown.first_shown_s(words[:2], 1_700 * MS) == []
    assert shown.first_shown_s(words, 2_250 * MS) == [0.25]
    assert shown.of(words, 3_000 * MS) == [2.0, 2.0, 1.0]


def test_no_word_is_shown_before_it_came() -> None:
    assert WordDelays(clock((100, 50))).of([Span(0, 100)], 20) == [0.0]
