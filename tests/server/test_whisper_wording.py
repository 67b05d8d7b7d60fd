"""Transcripts become words where they were spoken; of several attempts the right one is taken."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from server.engines.whisper_greedy import Transcript
from server.engines.whisper_tokens import SpecialTokens
from server.engines.whisper_wording import Decoded, Wording, best_of, wants_retry
from streaming.engines import Samples, SpeechWindow
from streaming.guards import Guard
from streaming.timeline import SAMPLE_RATE_HZ, Span

TEXT = {1: " one", 2: " two"}
END, NO_TIMESTAMPS = 10, 20
FIRST = NO_TIMESTAMPS + 1
POSITION = 320
IDS = SpecialTokens(11, 12, 13, NO_TIMESTAMPS, END, {}, {})


class Tokenizer:
    def decode(self, tokens: Sequence[int], **_: object) -> str:
        return "".join(TEXT[token] for token in tokens)


def sound(seconds: float) -> Samples:
    wave = np.sin(np.arange(int(seconds * SAMPLE_RATE_HZ)) / 5) * 5_000
    samples: Samples = wave.astype(np.int16)
    return samples


WINDOW = SpeechWindow(sound(2), "en")


def attention(*starts: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """Rows that look at the positions from their start to the next one's."""
    found = np.full((1, len(starts), 100), 1e-4, np.float32)
    for row, (start, end) in enumerate(zip(starts, [*starts[1:], 100], strict=True)):
        found[0, row, start:end] = 0.1
    return found


def spans(transcript: Transcript, row_shift: int) -> list[Span]:
    wording = Wording(Tokenizer(), IDS, row_shift=row_shift, is_guarded=True)
    return [word.span for word in wording.worded(WINDOW, transcript, "en", None).words]


def near(found: list[Span], wanted: list[tuple[int, int]]) -> bool:
    bounds = [(span.start // POSITION, span.end // POSITION) for span in found]
    return bool((np.abs(np.subtract(bounds, wanted)) <= 2).all())


CLOSED = [FIRST, 1, 2, FIRST + 80]


def test_a_word_ends_where_the_next_token_starts() -> None:
    transcript = Transcript(CLOSED, [0.0] * 4, end_log_probability=0.0)
    # Rows that predict: the opening, both words, the closing, the end.
    transcript.attention = attention(0, 10, 40, 60, 80)
    assert near(spans(transcript, 0), [(10, 40), (40, 60)])


def test_heads_that_look_at_what_was_fed_are_read_one_row_later() -> None:
    transcript = Transcript(CLOSED, [0.0] * 4, end_log_probability=0.0)
    transcript.attention = attention(0, 0, 10, 40, 60)
    assert near(spans(transcript, 1), [(10, 40), (40, 60)])


def test_a_closing_timestamp_that_was_not_fed_ends_the_last_word() -> None:
    transcript = Transcript(CLOSED, [0.0] * 4)
    transcript.attention = attention(0, 0, 10, 40)
    assert near(spans(transcript, 1), [(10, 40), (40, 80)])


def test_without_timestamps_the_window_ends_the_last_word() -> None:
    transcript = Transcript([1, 2], [0.0] * 2, is_cut=True)
    transcript.attention = attention(0, 40)
    assert near(spans(transcript, 0), [(0, 40), (40, 100)])


@pytest.mark.parametrize("tokens", [[], [FIRST], [FIRST, FIRST + 3]])
def test_a_transcript_without_text_has_no_words(tokens: list[int]) -> None:
    transcript = Transcript(tokens, [0.0] * len(tokens))
    assert spans(transcript, 0) == []


def attempt(log_probability: float, *guards: Guard) -> Decoded:
    return Decoded(WINDOW, Transcript([1], [log_probability]), "en", None, (), guards)


def test_a_guard_asks_for_another_attempt_and_an_echo_for_one_without_prompt() -> None:
    loop, echo = attempt(-1, Guard.REPETITION), attempt(-1, Guard.PROMPT_ECHO)
    believed = attempt(-1)
    assert wants_retry([echo], is_first=True)
    assert not wants_retry([loop], is_first=True)
    assert wants_retry([loop], is_first=False)
    assert wants_retry([echo, loop], is_first=False)
    assert not wants_retry([loop, believed], is_first=False)
    assert not wants_retry([attempt(-1, Guard.NO_SPEECH)], is_first=False)


def test_the_believed_attempt_wins_and_says_what_was_doubted() -> None:
    loop, believed = attempt(-0.1, Guard.REPETITION), attempt(-2.0)
    assert best_of([loop, loop, believed]) == replace(believed, guards=(Guard.REPETITION,))
    assert best_of([believed]) == believed


def test_where_none_is_believed_the_likeliest_wins_but_never_the_echo() -> None:
    loop, hotter = attempt(-0.1, Guard.REPETITION), attempt(-2.0, Guard.REPETITION)
    assert best_of([loop, hotter]).transcript == loop.transcript
    echo = attempt(-0.01, Guard.PROMPT_ECHO)
    assert best_of([echo, hotter, loop]) == replace(loop, guards=(Guard.PROMPT_ECHO,))
