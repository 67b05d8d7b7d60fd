"""How much a window is heard with, by its kind, its length and what the checkpoint bears."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.engines.whisper_context import MARGIN_KEY, Contexts
from streaming.engines import SpeechWindow
from streaming.timeline import SAMPLE_RATE_HZ

POSITIONS_MAX = 1_500


def contexts(declared: float | None = None, *, fast: bool = True, **options: Any) -> Contexts:
    values = {} if declared is None else {MARGIN_KEY: declared}
    config = SimpleNamespace(to_dict=lambda: values)
    return Contexts.of(config, POSITIONS_MAX, fast=fast, **options)


def window(seconds: float, *, is_final: bool = False, widening: int = 0) -> SpeechWindow:
    samples = np.zeros(int(seconds * SAMPLE_RATE_HZ), np.int16)
    return SpeechWindow(samples, is_final=is_final, context_widening=widening)


@pytest.mark.parametrize(
    ("declared", "seconds", "heard_s"),
    [(None, 1, 10), (None, 9, 10), (None, 9.5, 13), (2.0, 1, 4), (2.0, 4.1, 8), (2.0, 29, 30)],
)
def test_partials_are_heard_with_a_margin(
    declared: float | None, seconds: float, heard_s: int
) -> None:
    assert contexts(declared).positions(window(seconds)) == heard_s * 50


def test_finals_are_heard_in_full_unless_calibrated() -> None:
    assert contexts(2.0).positions(window(1, is_final=True)) == POSITIONS_MAX
    calibrated = contexts(2.0, final_margin_s=3.0)
    assert calibrated.positions(window(2, is_final=True)) == 6 * 50


def test_an_operator_may_set_the_margin() -> None:
    assert contexts(margin_s=1.0).positions(window(2)) == 4 * 50
    assert contexts(2.0, margin_s=10.0).positions(window(2)) == 13 * 50


def test_exact_partials_are_heard_as_finals() -> None:
    assert contexts(2.0, fast=False).positions(window(1)) == POSITIONS_MAX


def test_each_widening_doubles() -> None:
    heard = [contexts().positions(window(1, widening=n)) for n in range(4)]
    assert heard == [500, 1_000, 1_500, 1_500]


@given(st.floats(0, 30), st.integers(0, 8), st.booleans(), st.sampled_from([None, 0.0, 2.0]))
def test_no_window_is_longer_than_its_context(
    seconds: float, widening: int, is_final: bool, declared: float | None
) -> None:
    asked = window(seconds, is_final=is_final, widening=widening)
    found = contexts(declared, final_margin_s=0.0)
    assert len(asked.samples) <= found.positions(asked) * 320 <= 30 * SAMPLE_RATE_HZ


def test_the_profile_names_every_context_in_samples() -> None:
    profile = contexts().profile
    assert profile.final_context_samples == 30 * SAMPLE_RATE_HZ
    assert profile.partial_contexts_samples[0] == 10 * SAMPLE_RATE_HZ
    assert profile.partial_contexts_samples[-1] == 30 * SAMPLE_RATE_HZ
    exact = contexts(fast=False).profile
    assert exact.partial_contexts_samples == (exact.final_context_samples,)


@given(st.floats(0, 30), st.integers(0, 4), st.booleans(), st.sampled_from([None, 0.0, 2.0]))
def test_a_scheduler_is_told_what_is_really_heard(
    seconds: float, widening: int, is_final: bool, declared: float | None
) -> None:
    asked = window(seconds, is_final=is_final, widening=widening)
    for found in (contexts(declared), contexts(declared, fast=False)):
        assert found.profile.context_samples(asked) == found.positions(asked) * 320
