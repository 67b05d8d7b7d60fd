"""Which closes are tried again, when, and how often."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clients.reconnect import FATAL_CODES, Fate, Retry, RetryBudget, fate_of

SECOND_NS = 1_000_000_000


def tries(code: int, *, is_opening: bool = False, policy: Retry | None = None) -> int:
    """How often a code is tried again when nothing ever gets better."""
    budget = RetryBudget(policy or Retry())
    now_ns = count = 0
    while (delay_ms := budget.next_delay_ms(code, now_ns, 0.5, is_opening=is_opening)) is not None:
        now_ns += round(delay_ms * 1e6)
        count += 1
    return count


@pytest.mark.parametrize("code", sorted(FATAL_CODES))
def test_fatal_codes_are_never_tried_again(code: int) -> None:
    assert tries(code) == 0


@pytest.mark.parametrize("code", [1001, 1005, 1006, 1012, 1013, 4408])
def test_passing_trouble_is_tried_ten_times(code: int) -> None:
    assert tries(code) == 10


@pytest.mark.parametrize("code", [1011, 4429, 4500])
def test_a_fault_of_the_server_is_tried_a_few_times(code: int) -> None:
    assert fate_of(code) is Fate.FEW_TRIES
    assert tries(code) == 3


def test_the_first_opening_is_tried_a_few_times() -> None:
    assert tries(1006, is_opening=True) == 3


def test_time_bounds_the_tries_too() -> None:
    assert 1 <= tries(1006, policy=Retry(tries_max=10_000)) < 20


def test_progress_starts_the_count_anew() -> None:
    budget = RetryBudget(Retry(tries_max=2))
    for second in range(100):
        assert budget.next_delay_ms(1006, second * SECOND_NS, 0.5, is_opening=False) is not None
        budget.progressed()
    assert budget.tries == 0


@given(st.integers(0, 50), st.floats(0, 1, exclude_max=True))
def test_delays_stay_within_jitter_and_cap(number: int, chance: float) -> None:
    policy = Retry()
    delay_ms = policy.delay_ms(number, chance)
    assert 0.5 * policy.first_delay_ms <= delay_ms <= 1.5 * policy.delay_ms_max


@given(st.integers(0, 50), st.floats(0, 1, exclude_max=True), st.integers(0, 100_000))
def test_the_servers_wish_is_never_undercut(number: int, chance: float, wish_ms: int) -> None:
    assert Retry().delay_ms(number, chance, wish_ms) >= wish_ms
