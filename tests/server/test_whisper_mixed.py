"""Finals over a bfloat16 silence are those of float32, or are asked for again."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from server.engines import whisper_mixed
from server.engines.torch_setup import prepare_torch
from server.engines.whisper import WhisperRecognizer
from server.engines.whisper_checkpoint import Checkpoint
from server.engines.whisper_encoder import LeanEncoder
from server.engines.whisper_greedy import Transcript
from server.engines.whisper_mixed import NO_SPEECH_MAX, SURE_LOGITS, MixedEncoder, is_sure
from server.engines.whisper_options import WhisperOptions
from server.evaluation.whisper_models import trained_checkpoint
from streaming.engines import SpeechWindow
from streaming.timeline import SAMPLE_RATE_HZ
from tests.server.test_silero import CLIP

POSITIONS = 300
SAMPLES = 2 * 320
"""Two positions of sound; the margin behind them is float32 too."""
SOUNDING = 2 + whisper_mixed.MARGIN_POSITIONS


@pytest.fixture(scope="module")
def encoder() -> Any:
    prepare_torch(1)
    from transformers import WhisperConfig
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    torch.manual_seed(0)
    shape = {"d_model": 24, "encoder_layers": 2, "encoder_attention_heads": 3}
    config = WhisperConfig(**shape, encoder_ffn_dim=32, max_source_positions=POSITIONS)
    return WhisperEncoder(config).eval()


def features() -> torch.Tensor:
    heard = torch.full((1, 80, 2 * POSITIONS), -0.5)
    heard[..., :4] = torch.randn(80, 4, generator=torch.Generator().manual_seed(1))
    return heard


def test_two_halves_of_one_format_are_the_whole(encoder: Any) -> None:
    exact = LeanEncoder(encoder, torch.float32)
    with torch.inference_mode():
        found = MixedEncoder(exact, exact)(features(), SAMPLES)
        torch.testing.assert_close(found, exact(features()), atol=1e-5, rtol=0)


def test_sound_is_moved_less_than_by_bfloat16_throughout(encoder: Any) -> None:
    exact, rough = (LeanEncoder(encoder, dtype) for dtype in (torch.float32, torch.bfloat16))
    with torch.inference_mode():
        wanted = exact(features())[:, :SOUNDING]
        found = MixedEncoder(exact, rough)(features(), SAMPLES)[:, :SOUNDING]
        low = rough(features())[:, :SOUNDING].float()
    assert found.dtype is torch.float32
    assert 0 < (found - wanted).abs().max() < (low - wanted).abs().max() / 3


def test_it_pays_where_half_of_the_context_is_silence(encoder: Any) -> None:
    exact = LeanEncoder(encoder, torch.float32)
    mixed, half = MixedEncoder(exact, exact), (POSITIONS // 2 - SOUNDING + 2) * 320
    assert mixed.pays(half)
    assert not mixed.pays(half + 1)


@pytest.mark.parametrize(
    ("margin", "no_speech", "is_it"),
    [
        (SURE_LOGITS, 0.0, True),
        (SURE_LOGITS / 2, 0.0, False),
        (1.0, NO_SPEECH_MAX, True),
        (1.0, NO_SPEECH_MAX + 0.01, False),
    ],
)
def test_close_decisions_and_near_silence_are_not_sure(
    margin: float, no_speech: float, is_it: bool
) -> None:
    assert is_sure(Transcript(margin=margin, no_speech_probability=no_speech)) is is_it


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return trained_checkpoint(threads=1)


@pytest.fixture(scope="module")
def windows() -> list[SpeechWindow]:
    samples, _ = soundfile.read(CLIP, dtype="int16", frames=12 * SAMPLE_RATE_HZ)
    parts = [samples[start : start + 4 * SAMPLE_RATE_HZ] for start in (0, 40_000, 100_000)]
    return [SpeechWindow(np.ascontiguousarray(part), language="en") for part in parts]


@pytest.mark.slow
def test_finals_are_those_of_float32(checkpoint: Checkpoint, windows: list[SpeechWindow]) -> None:
    exact = WhisperRecognizer(checkpoint, WhisperOptions(dtype="float32"))
    mixed = WhisperRecognizer(checkpoint, WhisperOptions(dtype="bfloat16"))
    wanted, found = exact.recognize(windows), mixed.recognize(windows)
    assert [one.tokens for one in found] == [one.tokens for one in wanted]
    assert all(one.words for one in wanted)
    assert mixed.counters.finals == len(windows)
    assert mixed.counters.mixed_finals > 0
    assert exact.counters.mixed_finals == 0


@pytest.mark.slow
def test_what_is_not_sure_is_asked_again_in_float32(
    checkpoint: Checkpoint, windows: list[SpeechWindow], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(whisper_mixed, "SURE_LOGITS", float("inf"))
    exact = WhisperRecognizer(checkpoint, WhisperOptions(dtype="float32"))
    mixed = WhisperRecognizer(checkpoint, WhisperOptions(dtype="bfloat16"))
    wanted, found = exact.recognize(windows), mixed.recognize(windows)
    assert [one.tokens for one in found] == [one.tokens for one in wanted]
    assert [(word.text, word.span) for one in found for word in one.words] == [
        (word.text, word.span) for one in wanted for word in one.words
    ]
    assert mixed.counters.mixed_finals == 0


@pytest.mark.slow
def test_an_unknown_language_is_left_to_float32(
    checkpoint: Checkpoint, windows: list[SpeechWindow]
) -> None:
    mixed = WhisperRecognizer(checkpoint, WhisperOptions(dtype="bfloat16"))
    mixed.recognize([replace(windows[0], language=None)])
    assert mixed.counters.mixed_finals == 0
