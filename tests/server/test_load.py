"""What engines have to do: the price of windows, who talks, what is late; nothing without work."""

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.load import (
    AUDIO_UNKNOWN_S,
    RATE_REMEMBERED_S,
    CallSize,
    EngineNeed,
    LoadMeter,
    OpenWork,
    Rate,
    Talkers,
    WindowPrice,
)
from streaming.engines import ActivityWindow, SpeechWindow
from streaming.jobs import PATIENCE_NS, Job, JobKind
from streaming.pacing import THINNING_MAX

MS = 1_000_000
SECOND = 1_000 * MS
SAMPLES = np.zeros(16_000, np.int16)


def job(
    session: str = "a",
    *,
    number: int = 1,
    is_final: bool = True,
    arrived_ns: int = 0,
    kind: JobKind = JobKind.RECOGNIZE,
    lane: int = 0,
    paced_ns: int = 0,
) -> Job:
    window = SpeechWindow(SAMPLES, is_final=is_final)
    question = window if kind is JobKind.RECOGNIZE else ActivityWindow(SAMPLES, b"")
    due_ns = arrived_ns + PATIENCE_NS[kind]
    size = len(SAMPLES)
    return Job(session, number, lane, kind, (question,), size, is_final, due_ns, paced_ns)


@given(
    call_s=st.floats(0, 0.5),
    window_s=st.floats(0.001, 0.5),
    size_max=st.integers(1, 8),
    seed=st.integers(0, 1_000),
)
def test_a_window_costs_what_it_does_in_a_full_call(
    call_s: float, window_s: float, size_max: int, seed: int
) -> None:
    price, chance = WindowPrice(8), random.Random(seed)
    for _ in range(200):
        size = chance.randint(1, size_max)
        price.note(size, call_s + window_s * size)
    in_full_calls = window_s + call_s / 8
    assert in_full_calls - 1e-6 <= price.seconds <= window_s + call_s + 1e-6
    if size_max >= 4:  # calls differ enough to tell
        assert price.seconds == pytest.approx(in_full_calls, rel=1e-3)


def test_calls_of_one_size_tell_nothing_of_fuller_ones() -> None:
    price = WindowPrice(8)
    assert price.seconds == price.call_s == 0.0
    for _ in range(50):
        price.note(2, 0.2)
    assert price.seconds == pytest.approx(0.1)
    assert price.call_s == pytest.approx(0.2)


def test_an_engine_that_slows_down_is_measured_anew() -> None:
    price = WindowPrice(8)
    for slower in (1, 3):
        for size in [1, 4, 8] * 200:
            price.note(size, slower * (0.1 + 0.02 * size))
    assert price.seconds == pytest.approx(3 * (0.1 / 8 + 0.02), rel=0.02)


def test_talkers_count_as_far_as_they_talk() -> None:
    talkers = Talkers()
    audio_s = {"talks": 0.0, "mute": 0.0, "uploads": 0.0}
    talkers.note(audio_s, 0)
    assert talkers.count == 3, "nothing is known of any"
    for tick in range(1, 121):
        audio_s = {"talks": tick / 2, "mute": 0.0, "uploads": tick * 30.0}
        talkers.note(audio_s, tick * SECOND // 2)
    assert talkers.count == pytest.approx(2.0, abs=0.01)
    talkers.note({"mute": 0.0}, 61 * SECOND)
    assert talkers.count < 0.01


def need(engines: int = 1) -> EngineNeed:
    """Ten talkers for two minutes, each with a final and two later partials every four seconds."""
    measured = EngineNeed(engines, windows_max=8, partial_windows=1.0)
    for tick in range(240):
        audio_s = {str(i): tick / 2 for i in range(10)}
        measured.note_audio(audio_s, audio_s, tick * SECOND // 2)
        if tick % 8 == 7:
            for _ in range(10):
                measured.note_call(CallSize(1, 1, 2), seconds=0.2, thinning=1.0)
    return measured


def test_the_need_is_talkers_times_windows_times_price() -> None:
    measured = need()
    per_window_s = 0.2 / 8  # all calls are of one size, half of a full one
    assert measured.price.seconds == pytest.approx(2 * per_window_s)
    for thinning, windows in ((1.0, 4.0), (2.0, 3.0), (THINNING_MAX, 2.25)):
        expected = 10 * windows / 4 * measured.price.seconds
        assert measured.share(thinning) == pytest.approx(expected, rel=0.05)
    assert measured.share(1.0, more_talkers=10) == pytest.approx(2 * measured.share(1.0))
    assert need(engines=2).share(1.0) == pytest.approx(measured.share(1.0) / 2)


def test_what_thinning_left_out_is_needed_all_the_same() -> None:
    thinned = EngineNeed(1, 8, 1.0)
    thinned.note_call(CallSize(4, 4, 1), 0.5, thinning=8.0)
    plain = EngineNeed(1, 8, 1.0)
    plain.note_call(CallSize(4, 4, 8), 0.5 / 9 * 16, thinning=1.0)
    for measured in (thinned, plain):
        measured.note_audio({"a": 0.0}, {"a": 0.0}, 0)
        measured.note_audio({"a": 30.0}, {"a": 30.0}, SECOND)
    assert thinned.share(1.0) == pytest.approx(plain.share(1.0), rel=0.01)


def test_a_first_call_says_little_of_what_sessions_cost() -> None:
    measured = EngineNeed(1, 8, 1.0)
    measured.note_audio({"a": 0.0}, {"a": 0.0}, 0)
    measured.note_call(CallSize(first_partials=1), seconds=1.0, thinning=1.0)
    measured.note_audio({"a": 1.0}, {"a": 1.0}, SECOND)
    assert measured.share(1.0) < 1.2 / AUDIO_UNKNOWN_S


def test_without_talkers_there_is_no_need() -> None:
    measured = need()
    measured.note_audio({}, {}, 200 * SECOND)
    assert measured.share(1.0, more_talkers=1) == 0.0


def test_a_rate_is_that_of_the_last_seconds() -> None:
    rate, now_ns = Rate(0), 0
    for _ in range(100):
        now_ns += SECOND
        rate.note(2.0, now_ns)
    assert rate.per_second(now_ns) == pytest.approx(2.0, rel=0.12)
    assert rate.per_second(now_ns + int(5 * RATE_REMEMBERED_S * SECOND)) < 0.02


def test_what_is_left_is_asked_for_and_not_answered() -> None:
    meter = LoadMeter(1, 8, 1.0, 0)
    assert meter.left_share(0) == 0.0
    for second in range(60):
        now_ns = second * SECOND
        finals = [job(str(i), number=second, arrived_ns=now_ns - SECOND) for i in range(4)]
        uploads = [job("u", number=second, arrived_ns=now_ns + 90 * SECOND)]
        partials = [job(str(i), number=-second, is_final=False) for i in range(4)]
        meter.note_asked([*finals, *uploads, *partials], now_ns)
        meter.note_answers([*finals[:3], *uploads, *partials], [], 1.0, now_ns)
    assert meter.left_share(60 * SECOND) == pytest.approx(0.25, abs=0.01)


def test_late_is_the_live_final_that_has_waited_longest() -> None:
    work = OpenWork()
    assert work.late_s(SECOND) == 0.0
    upload = job("d", arrived_ns=50 * SECOND)
    partial = job("c", is_final=False)
    speakers = job("e", kind=JobKind.OBSERVE)
    first, second = job("a", arrived_ns=SECOND), job("b", arrived_ns=2 * SECOND)
    heard = job("b", number=2, kind=JobKind.DETECT, arrived_ns=3 * SECOND)
    work.note_asked([upload, partial, speakers, first, second, heard], 3 * SECOND)
    assert work.late_s(5 * SECOND) == 4.0
    work.note_answered([first, first])
    assert work.late_s(5 * SECOND) == 3.0
    work.note_answered([second])
    assert work.late_s(5 * SECOND) == 2.0
    work.forget("b")
    assert work.late_s(5 * SECOND) == 0.0


def test_a_burst_is_late_when_it_would_have_been_spoken() -> None:
    work = OpenWork()
    burst = [job("a", number=n, arrived_ns=0, paced_ns=n * 4 * SECOND) for n in range(1, 8)]
    work.note_asked(burst, SECOND)
    assert work.late_s(3 * SECOND) == 0.0
    assert work.late_s(6 * SECOND) == 2.0
    work.note_answered(burst[:3])
    assert work.late_s(16 * SECOND) == 0.0
    work.note_asked([job("b", arrived_ns=10 * SECOND, paced_ns=9 * SECOND)], 10 * SECOND)
    assert work.late_s(13 * SECOND) == 3.0, "who talks is late since his audio came"


def test_the_first_partial_of_an_utterance_is_told_from_later_ones() -> None:
    work = OpenWork()
    final, partial = job(), job(is_final=False)
    work.note_asked([final], 0)
    assert work.sized([partial, partial, final]) == CallSize(1, 1, 1)
    assert work.sized([partial, job(is_final=False, lane=1)]) == CallSize(0, 2, 0)
    assert work.sized([partial]) == CallSize(0, 0, 1)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["ask", "answer", "forget"]))))
def test_nothing_is_kept_of_sessions_that_are_gone(steps: list[tuple[str, str]]) -> None:
    work = OpenWork()
    for session, step in steps:
        if step == "ask":
            work.note_asked([job(session), job(session, is_final=False)], 0)
        elif step == "answer":
            work.note_answered([job(session)])
            work.sized([job(session), job(session, is_final=False)])
        else:
            work.forget(session)
    for session in "abc":
        work.forget(session)
        work.sized([job(session, is_final=False)])
    assert not work._open
    assert not work._shown


def test_the_share_that_thinning_cannot_save() -> None:
    meter = LoadMeter(1, 8, 1.0, 0)
    finals = [job(str(i), number=i) for i in range(4)]
    partials = [job(str(i), number=9, is_final=False) for i in range(4)]
    meter.work.note_asked([*finals, *partials], 0)
    for second in range(60):
        now_ns = second * SECOND
        meter.note_answers(finals[:1], [], 0.3, now_ns)
        meter.note_answers(partials[1:2], finals[1:], 0.6, now_ns)
    assert 0.3 < meter.thinnest_share(60 * SECOND) < 0.5
    meter.thinning = THINNING_MAX
    assert meter.thinnest_share(60 * SECOND) == pytest.approx(0.9, abs=0.15)
    for second in range(60, 120):
        meter.note_answers([job(kind=JobKind.DETECT)], [], 1.2, second * SECOND)
    assert meter.thinnest_share(120 * SECOND) > 1.0, "voice activity is too slow"
