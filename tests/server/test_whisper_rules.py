"""The rules choose what transformers' logits processors leave on top."""

import random
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from server.engines.torch_setup import prepare_torch
from server.engines.whisper_rules import Rules, Sampler

TEXT_END, NO_TIMESTAMPS, VOCABULARY = 20, 24, 40
FIRST = NO_TIMESTAMPS + 1
SUPPRESSED, SUPPRESSED_FIRST = (3, 21, NO_TIMESTAMPS), (5, TEXT_END)
BEGIN = 2
"""Tokens before the transcript, in what transformers is shown."""


def rules(*, timestamps: bool = True, first_stamp_max: int | None = FIRST + 4) -> Rules:
    return Rules(
        text_end=TEXT_END,
        first_timestamp=FIRST,
        vocabulary=VOCABULARY,
        timestamps=timestamps,
        suppressed=SUPPRESSED,
        suppressed_first=SUPPRESSED_FIRST,
        first_stamp_max=first_stamp_max,
    )


def processed(tokens: list[int], logits: torch.Tensor, *, timestamps: bool) -> torch.Tensor:
    prepare_torch(1)
    from transformers import GenerationConfig
    from transformers.generation.logits_process import (
        SuppressTokensAtBeginLogitsProcessor,
        SuppressTokensLogitsProcessor,
        WhisperTimeStampLogitsProcessor,
    )

    config: Any = GenerationConfig(eos_token_id=TEXT_END)
    config.no_timestamps_token_id, config.max_initial_timestamp_index = NO_TIMESTAMPS, 4
    chain = [
        SuppressTokensAtBeginLogitsProcessor(SUPPRESSED_FIRST, BEGIN),
        SuppressTokensLogitsProcessor(SUPPRESSED),
    ]
    if timestamps:
        chain.append(WhisperTimeStampLogitsProcessor(config, BEGIN))
    sequence = torch.tensor([[1] * BEGIN + tokens])
    scores = logits[None]
    for processor in chain:
        scores = processor(sequence, scores)
    return scores[0]


def drawn_logits(seed: int) -> torch.Tensor:
    return torch.randn(VOCABULARY, generator=torch.Generator().manual_seed(seed)) * 3


@st.composite
def transcripts(draw: st.DrawFn) -> list[int]:
    """Text with timestamps here and there, in pairs or not."""
    stamps = iter(sorted(draw(st.lists(st.integers(FIRST, VOCABULARY - 1), max_size=5))))
    tokens = draw(st.lists(st.integers(0, TEXT_END - 1) | st.just(FIRST), max_size=8))
    found = [next(stamps, 7) if token == FIRST else token for token in tokens]
    return found


@settings(deadline=None)
@given(st.lists(transcripts(), min_size=1, max_size=4), st.integers(0, 2**31), st.booleans())
def test_choices_are_those_of_transformers(
    rows: list[list[int]], seed: int, timestamps: bool
) -> None:
    own = rules(timestamps=timestamps)
    logits = torch.stack([drawn_logits(seed + index) for index in range(len(rows))])
    expected = [
        int(processed(row, line, timestamps=timestamps).argmax())
        for row, line in zip(rows, logits, strict=True)
    ]
    places = [own.place(row) for row in rows]
    choices = own.choose(logits.clone(), places, [None] * len(rows))
    assert [choice.token for choice in choices] == expected
    shares = logits.log_softmax(dim=1)
    for choice, line in zip(choices, shares, strict=True):
        assert choice.log_probability == pytest.approx(float(line[choice.token]), abs=1e-5)


def test_no_bound_on_the_first_timestamp_where_none_is_declared() -> None:
    own = rules(first_stamp_max=None)
    logits = torch.zeros(1, VOCABULARY)
    logits[0, VOCABULARY - 1] = 9
    (choice,) = own.choose(logits, [own.place([])], [None])
    assert choice.token == VOCABULARY - 1


@settings(deadline=None)
@given(transcripts(), st.integers(0, 2**31), st.sampled_from([0.2, 1.0]))
def test_samples_are_legal_and_repeatable(tokens: list[int], seed: int, temperature: float) -> None:
    own, logits = rules(), drawn_logits(seed)
    legal = processed(tokens, logits, timestamps=True) > -torch.inf
    drawn = []
    for _ in range(2):
        sampler = Sampler(temperature, random.Random(seed))
        (choice,) = own.choose(logits[None].clone(), [own.place(tokens)], [sampler])
        drawn.append(choice.token)
    assert drawn[0] == drawn[1]
    assert legal[drawn[0]]


def test_a_higher_temperature_leaves_the_best_more_often() -> None:
    own = rules(timestamps=False)
    share = []
    for temperature in (0.2, 2.0):
        sampler = Sampler(temperature, random.Random(0))
        logits = drawn_logits(4).repeat(200, 1)
        choices = own.choose(logits, [own.place([1])] * 200, [sampler] * 200)
        tokens = [choice.token for choice in choices]
        share.append(max(map(tokens.count, set(tokens))) / 200)
    assert share[0] > share[1]


def test_a_choice_says_how_close_it_was() -> None:
    logits = torch.full((1, VOCABULARY), -20.0)
    logits[0, 7], logits[0, 9] = 4.0, 3.5
    stamp = FIRST + 2
    (chosen,) = rules().choose(logits.clone(), [rules().place([stamp])], [None])
    assert chosen.token == 7
    assert chosen.margin == pytest.approx(0.5)


def test_timestamps_that_nearly_won_together_make_it_close() -> None:
    logits = torch.full((1, VOCABULARY), -20.0)
    logits[0, 7] = 4.0
    logits[0, FIRST + 3 : FIRST + 5] = 4.0 - float(torch.log(torch.tensor(2.0))) - 0.1
    place = rules().place([FIRST, 7])
    (chosen,) = rules().choose(logits, [place], [None])
    assert chosen.token == 7
    assert chosen.margin == pytest.approx(0.1, abs=1e-4)


def test_a_choice_without_another_is_not_close() -> None:
    logits = torch.full((1, VOCABULARY), -torch.inf)
    logits[0, 7] = 1.0
    (chosen,) = rules(timestamps=False).choose(logits, [rules(timestamps=False).place([7])], [None])
    assert (chosen.token, chosen.margin) == (7, float("inf"))
