"""What it means to hold N streams, and the search for the largest N."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from load_tests.peers.held import FINENESS, STRICT, USUAL, Probe, largest, shortfalls

GOOD = Probe(
    streams=4,
    wer=0.1,
    first_shown_s={"p50": 0.5, "p95": 1.4, "p99": 2.0},
    stable_s={"p50": 2.0, "p95": 3.9, "p99": 5.0},
    partials_per_speech_s=0.9,
    gaps=0,
    failures=(),
    cpu_s_per_stream_s=0.1,
    lateness_s_p99=0.01,
    others_share=0.01,
)


def test_a_good_probe_holds_at_both_levels() -> None:
    assert shortfalls(GOOD, USUAL, 0.1) == shortfalls(GOOD, STRICT, 0.1) == ()
    assert GOOD.disturbances == ()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"failures": ("closed: 1011", "closed: 1011")}, "closed: 1011"),
        ({"gaps": 2}, "2 gaps"),
        ({"lateness_s_p99": 0.2}, "the load was late: p99 0.2 s"),
        ({"lateness_s_p99": None}, "the load was late: p99 None s"),
        ({"first_shown_s": {"p50": 1.0, "p95": 4.1, "p99": 5.0}}, "first shown p95 4.1 s"),
        ({"stable_s": {"p50": 1.0, "p95": 6.1, "p99": 7.0}}, "stable p95 6.1 s"),
        ({"stable_s": {"p50": None, "p95": None, "p99": None}}, "stable p95 None s"),
        ({"partials_per_speech_s": 0.79}, "0.79 partials a second"),
        ({"wer": 0.13}, "WER 0.13"),
        ({"wer": None}, "WER None"),
    ],
)
def test_each_condition_can_fail_alone(change: dict[str, object], told: str) -> None:
    (short,) = shortfalls(replace(GOOD, **change), USUAL, 0.1)  # type: ignore[arg-type]
    assert told in short


def test_the_strict_level_is_stricter() -> None:
    slow = replace(GOOD, first_shown_s={"p50": 0.5, "p95": 1.6, "p99": 2.0})
    assert shortfalls(slow, USUAL, 0.1) == ()
    assert "above 1.5" in shortfalls(slow, STRICT, 0.1)[0]


def test_a_disturbed_machine_is_told() -> None:
    (told,) = replace(GOOD, others_share=0.5).disturbances
    assert "50%" in told


@given(st.integers(0, 300), st.integers(1, 256), st.integers(2, 64))
async def test_the_search_finds_the_largest(held: int, streams_max: int, guess: int) -> None:
    asked = list[int]()

    async def holds(streams: int) -> bool:
        asked.append(streams)
        return streams <= held

    found, most = await largest(holds, streams_max, guess), min(held, streams_max)
    assert found <= most <= found + found // FINENESS
    assert len(asked) == len(set(asked)) <= 18
    assert max(asked) <= streams_max
