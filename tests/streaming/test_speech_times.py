"""Word times are trimmed to speech, and to nothing else."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from streaming.engines import Word
from streaming.speech_times import OVERLAP_SAMPLES_MIN, within_speech
from streaming.timeline import Span

LITTLE, MUCH = OVERLAP_SAMPLES_MIN - 1, OVERLAP_SAMPLES_MIN

SPANS = st.builds(
    lambda start, size: Span(start, start + size), st.integers(0, 9_000), st.integers(0, 9_000)
)


def trimmed(*spans: tuple[int, int], speech: list[tuple[int, int]]) -> list[tuple[int, int]]:
    words = [Word(f"w{number}", Span(*span)) for number, span in enumerate(spans)]
    found = within_speech(words, [Span(*part) for part in speech])
    assert [word.text for word in found] == [word.text for word in words]
    return [(word.span.start, word.span.end) for word in found]


def test_a_word_after_a_pause_starts_with_its_speech() -> None:
    speech = [(0, 20_000), (40_000, 60_000)]
    assert trimmed((20_000, 50_000), speech=speech) == [(40_000, 50_000)]


def test_the_last_word_before_a_pause_ends_with_its_speech() -> None:
    assert trimmed((10_000, 39_000), speech=[(0, 20_000), (40_000, 60_000)]) == [(10_000, 20_000)]


def test_a_little_of_the_speech_before_is_not_the_words_own() -> None:
    speech = [(0, 20_000), (40_000, 60_000)]
    assert trimmed((20_000 - LITTLE, 50_000), speech=speech) == [(40_000, 50_000)]
    assert trimmed((20_000 - MUCH, 50_000), speech=speech) == [(20_000 - MUCH, 50_000)]


def test_a_word_with_only_little_speech_keeps_the_most_of_it() -> None:
    speech = [(0, 20_000), (40_000, 60_000)]
    assert trimmed((19_900, 40_500), speech=speech) == [(40_000, 40_500)]


def test_a_word_that_nobody_speaks_stays_as_it_is() -> None:
    assert trimmed((21_000, 30_000), speech=[(0, 20_000)]) == [(21_000, 30_000)]
    assert trimmed((5, 5), speech=[(0, 20_000)]) == [(5, 5)]
    assert trimmed((5, 50), speech=[]) == [(5, 50)]


def test_words_that_overlap_keep_their_order() -> None:
    speech = [(0, 2_000), (40_000, 60_000)]
    found = trimmed((1_500, 50_000), (1_600, 2_000), speech=speech)
    assert found == [(1_600, 50_000), (1_600, 2_000)]


@given(st.lists(SPANS, max_size=8), st.lists(SPANS, max_size=8))
def test_trimming_stays_inside_and_in_order(spans: list[Span], parts: list[Span]) -> None:
    words = [Word("w", span) for span in sorted(spans)]
    found = within_speech(words, sorted(parts))
    for word, old in zip(found, words, strict=True):
        assert word.span.clamped(old.span) == word.span
    assert all(a.span.start <= b.span.start for a, b in pairwise(found))
