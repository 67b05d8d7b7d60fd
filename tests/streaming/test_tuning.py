"""What ``start`` may change of the server's options, and what it is told when it may not."""

from typing import Any

import pytest

from streaming.endpointing import EndpointingOptions
from streaming.errors import UnsupportedOption
from streaming.events import Final, Partial
from streaming.partials import PartialOptions
from streaming.timeline import SAMPLE_RATE_HZ
from streaming.tuning import (
    SpeakerHints,
    TuningLimits,
    hinted_speakers,
    tuned_endpointing,
    tuned_partials,
    tuned_windows,
)
from streaming.windows import WindowOptions
from streaming.wire import Start
from tests.fakes import desk, of_type, silence, speech, words_of

ENDPOINTING = EndpointingOptions(hangover_ms=700, tail_ms=200)
WINDOWS = WindowOptions(hop_ms=800, cap_ms=15_000)
PARTIALS = PartialOptions(stability=3, stable_only=True)
LIMITS = TuningLimits(partial_interval_ms_min=250, max_delay_ms_max=20_000)


def test_what_is_left_out_changes_nothing() -> None:
    assert tuned_endpointing(ENDPOINTING, Start()) == ENDPOINTING
    assert tuned_windows(WINDOWS, Start(), LIMITS) == WINDOWS
    assert tuned_partials(PARTIALS, Start()) == PARTIALS


def test_what_is_given_is_taken() -> None:
    start = Start(
        endpointing_ms=1_200,
        partial_interval_ms=250,
        max_delay_ms=20_000,
        stability=1,
        stable_only=False,
    )
    assert tuned_endpointing(ENDPOINTING, start).hangover_ms == 1_200
    windows = tuned_windows(WINDOWS, start, LIMITS)
    assert (windows.hop_ms, windows.cap_ms) == (250, 20_000)
    assert windows.left_context_ms == WINDOWS.left_context_ms
    assert tuned_partials(PARTIALS, start) == PartialOptions(1, False)


def test_a_short_silence_shortens_the_tail() -> None:
    tuned = tuned_endpointing(EndpointingOptions(), Start(endpointing_ms=100))
    assert (tuned.hangover_ms, tuned.tail_ms) == (100, 100)
    assert (
        tuned_endpointing(tuned, Start(endpointing_ms=900)).tail_ms == EndpointingOptions().tail_ms
    )


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"partial_interval_ms": 249}, r"partial_interval_ms 249.*at least 250"),
        ({"max_delay_ms": 20_001}, r"max_delay_ms 20001.*at most 20000"),
        ({"max_delay_ms": 3_000, "partial_interval_ms": 2_000}, r"every 2000 ms.*more than 3000"),
        ({"partial_interval_ms": 10_000, "max_delay_ms": 11_000}, r"shorter partial_interval_ms"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_range(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(UnsupportedOption, match=said):
        tuned_windows(WINDOWS, Start(**fields), LIMITS)


@pytest.mark.parametrize(
    ("fields", "hints"),
    [
        ({}, SpeakerHints()),
        ({"speakers": 2}, SpeakerHints(2, 2)),
        ({"speakers_min": 2}, SpeakerHints(2, None)),
        ({"speakers_max": 4}, SpeakerHints(None, 4)),
        ({"speakers_min": 3, "speakers_max": 3}, SpeakerHints(3, 3)),
    ],
)
def test_a_number_of_speakers_is_a_least_and_a_most(
    fields: dict[str, Any], hints: SpeakerHints
) -> None:
    assert hinted_speakers(Start(**fields)) == hints


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"speakers": 2, "speakers_min": 2}, "speakers is an exact number; leave"),
        ({"speakers": 2, "speakers_max": 3}, "speakers is an exact number; leave"),
        ({"speakers_min": 3, "speakers_max": 2}, "speakers_min 3 is more.*give at most 2"),
    ],
)
def test_numbers_of_speakers_that_contradict_each_other_are_refused(
    fields: dict[str, Any], said: str
) -> None:
    with pytest.raises(UnsupportedOption, match=said):
        hinted_speakers(Start(**fields))
    with pytest.raises(UnsupportedOption, match=said):
        desk(Start(**fields))


def captions(pause_s: float, **fields: Any) -> list[str]:
    """Of speech with one pause, in a session with these fields of ``start``."""
    table = desk(Start(**fields))
    for audio in (speech(range(3)), silence(pause_s), speech(range(3, 6)), silence(2.0)):
        table.play(audio)
    return [final.text for final in of_type(Final, table.end())]


def test_a_session_has_its_own_silence_at_the_end_of_an_utterance() -> None:
    assert len(captions(0.8)) == len(captions(0.4, endpointing_ms=300)) == 2
    assert len(captions(0.8, endpointing_ms=1_500)) == len(captions(0.4)) == 1


def test_a_session_has_its_own_partial_interval_and_shows_what_it_wants() -> None:
    def partials(**fields: Any) -> list[Partial]:
        table = desk(Start(**fields))
        table.play(speech(range(15)))
        return of_type(Partial, table.end())

    often = partials(partial_interval_ms=200)
    assert len(often) > 3 * len(partials(partial_interval_ms=1_000))
    assert any(len(partial.words) > partial.stable_words for partial in often)
    steady = partials(partial_interval_ms=200, stable_only=True, stability=3)
    assert steady
    assert all(len(partial.words) == partial.stable_words for partial in steady)


def test_a_session_has_its_own_longest_wait_in_speech_without_a_pause() -> None:
    def finals_s(**fields: Any) -> list[float]:
        table = desk(Start(**fields))
        table.play(speech(range(100)))
        return [final.span.samples / SAMPLE_RATE_HZ for final in of_type(Final, table.end())]

    assert max(finals_s(max_delay_ms=4_000)) <= 4 < max(finals_s()) <= 20


def test_what_becomes_final_does_not_depend_on_what_partials_are_shown() -> None:
    def words(**fields: Any) -> list[str]:
        table = desk(Start(**fields))
        table.play(speech(range(70)))
        return words_of(table.end(), 0)

    plain = words()
    assert plain == words(partial_interval_ms=200, stability=5, stable_only=True)
    assert plain == words(partials=False)


def test_a_session_that_asks_for_too_much_is_not_opened() -> None:
    with pytest.raises(UnsupportedOption, match="max_delay_ms"):
        desk(Start(max_delay_ms=3_000, partial_interval_ms=9_000))
