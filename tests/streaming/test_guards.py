"""Guards against hallucinations: loops and echoes are caught, honest repetition is not."""

import json
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streaming import guards
from streaming.engines import Word
from streaming.guards import Evidence, Guard
from streaming.timeline import SAMPLE_RATE_HZ, Span, samples_from_ms

DIGITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
HEARD = json.loads((Path(__file__).parents[1] / "golden" / "guards.json").read_text())
SILENT: dict[str, Any] = {"no_speech_probability": 0.9, "mean_log_probability": -1.5}


def said(
    text: str, word_ms: int = 300, start_ms: int = 0, confidence: float | None = 0.9
) -> tuple[Word, ...]:
    """``text`` at an even pace."""
    return tuple(
        Word(
            piece,
            Span(
                samples_from_ms(start_ms + i * word_ms),
                samples_from_ms(start_ms + (i + 1) * word_ms),
            ),
            confidence,
        )
        for i, piece in enumerate(text.split())
    )


def speech(seconds: float, start: float = 0.0) -> tuple[Span, ...]:
    return (Span(int(start * SAMPLE_RATE_HZ), int((start + seconds) * SAMPLE_RATE_HZ)),)


def repeated(words: tuple[Word, ...]) -> str:
    """The text of the first suspicious passage."""
    return " ".join(word.text for word in guards.suspicious_passages(words)[0])


def heard(words: tuple[Word, ...], **known: Any) -> Evidence:
    """Speech under every word."""
    return Evidence((Span(words[0].span.start, words[-1].span.end),), **known)


def test_digits_that_compress_like_a_loop_are_believed() -> None:
    words = said("one " * 12 + "two " * 12, word_ms=250)
    text = " ".join(word.text for word in words)
    assert guards.compression_ratio(text) > guards.COMPRESSION_RATIO_MAX
    assert guards.fired(words, heard(words)) == ()


@given(
    st.lists(st.sampled_from(DIGITS), min_size=1, max_size=6),
    st.integers(1, 12),
    st.integers(180, 900),
)
def test_no_repetition_at_a_human_pace_is_a_loop(
    phrase: list[str], times: int, word_ms: int
) -> None:
    words = said(" ".join(phrase * times), word_ms)
    assert guards.fired(words, heard(words)) == ()


@given(
    st.lists(st.sampled_from(DIGITS), min_size=1, max_size=6),
    st.integers(3, 12),
    st.integers(0, 900),
)
def test_a_repetition_that_ran_into_the_token_limit_is_a_loop(
    phrase: list[str], times: int, word_ms: int
) -> None:
    words = said(" ".join(phrase * times), word_ms)
    assert Guard.REPETITION in guards.fired(words, heard(words, has_ended=False))


def test_a_repetition_is_looked_for_anywhere_in_the_text() -> None:
    words = said("we need to close the new plan the new plan the new plan before friday")
    assert repeated(words) == "the new plan the new plan the new plan"


def test_the_longest_repetition_counts() -> None:
    words = said("no no no yes we can yes we can yes we can no no no")
    assert repeated(words) == "yes we can yes we can yes we can"


def test_case_and_marks_do_not_hide_a_repetition() -> None:
    words = said("Thank you. thank you, Thank you!")
    assert repeated(words) == "Thank you. thank you, Thank you!"


def test_plain_text_is_not_suspicious() -> None:
    words = said("Alice will review the new budget on Monday.")
    assert guards.suspicious_passages(words) == []
    assert guards.suspicious_passages(()) == []


def test_text_that_only_compresses_well_is_suspicious_as_a_whole() -> None:
    # Longer than any phrase that is looked for back to back.
    sentence = " ".join(f"{a} {b}" for a in DIGITS[:6] for b in DIGITS[4:])
    words = said(" ".join([sentence] * 3), word_ms=70)
    assert words in guards.suspicious_passages(words)
    assert guards.is_loop(words, heard(words).speech)


def test_words_squeezed_into_the_end_of_a_sound_are_a_loop() -> None:
    honest = said("We need to close the plan", word_ms=300)
    squeezed = tuple(Word(text, Span(28_800, 28_960)) for text in ["the", "plan"] * 10)
    assert guards.is_loop((*honest, *squeezed), speech(10.0))


def test_words_spread_over_silence_are_a_loop() -> None:
    words = said("the plan " * 20, word_ms=200)
    assert guards.is_loop(words, speech(1.0))
    assert not guards.is_loop(words, speech(8.0))


def test_characters_faster_than_anybody_speaks_are_a_loop() -> None:
    laughter = (Word("ha" * 200, Span(0, SAMPLE_RATE_HZ)),)
    assert guards.is_loop(laughter, speech(1.0))


def test_words_without_spaces_are_measured_by_their_characters() -> None:
    def glued(count: int, each_ms: int) -> tuple[Word, ...]:
        edges = list(accumulate([samples_from_ms(each_ms)] * count, initial=0))
        spans = map(Span, edges, edges[1:])
        return tuple(Word("好的"[i % 2], span, is_glued=i > 0) for i, span in enumerate(spans))

    assert not guards.is_loop(glued(40, 100), speech(4.0))
    assert guards.is_loop(glued(40, 100), speech(0.5))


def test_nothing_compresses_to_nothing() -> None:
    assert guards.compression_ratio("") == 0.0
    assert guards.compression_ratio("\ud800" * 100) > 1  # not encodable, and no error


@pytest.mark.parametrize("keyword", ["Kubernetes", "Anna Clarke"])
def test_a_keyword_that_is_said_survives(keyword: str) -> None:
    words = said(f"{keyword}.", word_ms=400)
    assert guards.fired(words, heard(words, keywords=(keyword, "Jon"))) == ()


@pytest.mark.parametrize(
    "evidence",
    [
        {"speech": ()},
        {"speech": speech(2.0), "no_speech_probability": 0.7},
    ],
)
def test_a_keyword_that_the_audio_does_not_hold_is_an_echo(evidence: dict[str, Any]) -> None:
    words = said("Anna Clarke", confidence=None)
    known = Evidence(keywords=("Jon", "Anna Clarke"), **evidence)
    assert guards.fired(words, known) == (Guard.PROMPT_ECHO,)


def test_an_unsure_repeat_of_the_prompt_is_an_echo() -> None:
    prompt = "Robert will check the network. We meet on Friday."
    unsure = said("We meet on Friday.", confidence=0.2)
    assert guards.fired(unsure, heard(unsure, prompt=prompt)) == (Guard.PROMPT_ECHO,)
    sure = said("We meet on Friday.", confidence=0.9)
    assert guards.fired(sure, heard(sure, prompt=prompt)) == ()


def test_words_of_the_prompt_in_another_order_are_no_echo() -> None:
    words = said("On Friday we meet", confidence=0.2)
    assert guards.fired(words, heard(words, prompt="We meet on Friday.")) == ()


def test_without_a_prompt_there_is_no_echo() -> None:
    words = said("hello there", confidence=0.1)
    assert guards.fired(words, heard(words)) == ()


def test_words_that_the_model_takes_for_silence_are_a_guess() -> None:
    words = said("Thank you.")
    assert guards.fired(words, heard(words, **SILENT)) == (Guard.NO_SPEECH,)
    assert guards.fired((), Evidence(speech(5.0), **SILENT)) == ()


@pytest.mark.parametrize(
    ("no_speech", "mean_log"),
    [(0.9, -0.3), (0.3, -1.5)],
)
def test_one_sign_of_silence_is_not_enough(no_speech: float, mean_log: float) -> None:
    words = said("Thank you.")
    known = heard(words, no_speech_probability=no_speech, mean_log_probability=mean_log)
    assert guards.fired(words, known) == ()


def test_speech_without_words_is_not_covered() -> None:
    words = said("We need to close", word_ms=250)
    assert guards.fired(words, Evidence(speech(8.0))) == (Guard.COVERAGE,)
    assert guards.fired((), Evidence(speech(8.0))) == (Guard.COVERAGE,)


def test_a_noise_that_the_model_takes_for_no_speech_needs_no_words() -> None:
    assert guards.fired((), Evidence(speech(8.0), no_speech_probability=0.9)) == ()


def test_short_gaps_and_a_worded_half_are_covered() -> None:
    assert not guards.leaves_speech_out((), speech(1.9))
    assert not guards.leaves_speech_out(said("one two three", word_ms=1_700), speech(9.0))
    apart = (*said("one"), *said("two", start_ms=4_000), *said("three", start_ms=6_000))
    assert guards.leaves_speech_out(apart, speech(7.0))


@given(st.permutations(said("one two three four five")))
def test_coverage_does_not_depend_on_the_order_of_words(words: list[Word]) -> None:
    assert not guards.leaves_speech_out(words, speech(1.5))


def test_loud_spans_find_speech_between_pauses() -> None:
    samples = np.random.default_rng(1).normal(0, 20, 5 * 16_384).astype(np.int16)
    samples[16_384:32_768] = 3_000
    samples[49_152:65_536] = -2_000
    assert guards.loud_spans(samples) == (Span(16_384, 32_768), Span(49_152, 65_536))


def test_loud_spans_end_with_the_window() -> None:
    samples = np.repeat(np.array([0, 1_000], np.int16), [1_024, 700])
    assert guards.loud_spans(samples) == (Span(1_024, 1_724),)


def test_a_steady_noise_is_not_loud() -> None:
    noise = np.random.default_rng(2).normal(0, 2_000, 80_000).astype(np.int16)
    assert guards.loud_spans(noise) == ()
    noise[32_000:48_000] += np.resize(np.array([9_000, -9_000], np.int16), 16_000)
    (found,) = guards.loud_spans(noise)
    assert abs(found.start - 32_000) <= 512
    assert abs(found.end - 48_000) <= 512


def test_silence_is_not_loud() -> None:
    assert guards.loud_spans(np.zeros(20_000, np.int16)) == ()
    assert guards.loud_spans(np.zeros(0, np.int16)) == ()


@given(st.integers(0, 4_000), st.integers(0, 2**32 - 1))
def test_loud_spans_lie_inside_the_window_in_order(count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    samples = rng.integers(-32_768, 32_768, count) * (rng.random(count) < 0.3)
    edges = [edge for s in guards.loud_spans(samples.astype(np.int16)) for edge in (s.start, s.end)]
    assert edges == sorted(set(edges))
    assert not edges or (edges[0] >= 0 and edges[-1] <= count)


def test_only_names_of_guards_are_counted() -> None:
    names = ["coverage", "coverage", "x" * 1_000, "no_speech"]
    assert guards.named(names) == {Guard.COVERAGE, Guard.NO_SPEECH}


@pytest.mark.parametrize("case", HEARD, ids=lambda case: str(case["name"]))
def test_what_a_real_checkpoint_heard_is_told_from_what_it_looped(case: dict[str, Any]) -> None:
    """Recorded: the demo checkpoint on strings of digits that real people repeat, and on windows
    of 28 s in which it loses its place; words, spans and loud spans as they were."""
    words = tuple(Word(text, Span(start, end)) for text, start, end in case["words"])
    known = Evidence(
        tuple(Span(start, end) for start, end in case["speech"]), has_ended=case["has_ended"]
    )
    assert guards.suspicious_passages(words)
    expected = (Guard.REPETITION,) if case["kind"] == "loop" else ()
    assert guards.fired(words, known) == expected
    if case["kind"] == "loop":
        assert guards.is_loop(words, known.speech), "the alignment alone gives it away"
