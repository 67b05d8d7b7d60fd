"""The lean encoder and decoder compute what transformers' modules do, over the same weights."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from server.engines.torch_setup import prepare_torch
from server.engines.whisper_decoder import Cache, LeanDecoder
from server.engines.whisper_dtype import compute_dtype
from server.engines.whisper_encoder import LeanEncoder, LogMel
from streaming.engines import Samples

ATOL = 2e-5
FRAMES, VOCABULARY = 60, 97
SHAPE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "d_model": 24,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 3,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 40,
    "max_source_positions": FRAMES // 2,
    "max_target_positions": 24,
    "pad_token_id": 0,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "decoder_start_token_id": 1,
}
HEADS = {1: [0, 3]}


@pytest.fixture(scope="module")
def model() -> Any:
    prepare_torch(1)
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    torch.manual_seed(0)
    built = WhisperForConditionalGeneration(WhisperConfig(**SHAPE)).eval()
    # Initial biases and norms are zeros and ones, and would hide a mistake.
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return built


@pytest.fixture(scope="module")
def states(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        found: torch.Tensor = model.get_encoder()(features(3)).last_hidden_state
    return found


def features(rows: int) -> torch.Tensor:
    return torch.randn(rows, 80, FRAMES, generator=torch.Generator().manual_seed(1))


def test_the_encoder_is_that_of_transformers(model: Any, states: torch.Tensor) -> None:
    with torch.inference_mode():
        lean = LeanEncoder(model.get_encoder(), torch.float32)(features(3))
    torch.testing.assert_close(lean, states, atol=ATOL, rtol=0)


def test_a_short_context_is_a_model_with_fewer_positions(model: Any) -> None:
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    short = WhisperForConditionalGeneration(WhisperConfig(**SHAPE | {"max_source_positions": 10}))
    weights = dict(model.state_dict())
    positions = "model.encoder.embed_positions.weight"
    weights[positions] = weights[positions][:10]
    short.load_state_dict(weights)
    heard = features(2)[..., :20]
    with torch.inference_mode():
        expected = short.eval().get_encoder()(heard).last_hidden_state
        lean = LeanEncoder(model.get_encoder(), torch.float32)(heard)
    torch.testing.assert_close(lean, expected, atol=ATOL, rtol=0)


def test_bfloat16_is_near(model: Any, states: torch.Tensor) -> None:
    with torch.inference_mode():
        lean = LeanEncoder(model.get_encoder(), torch.bfloat16)(features(3)).float()
    assert torch.nn.functional.cosine_similarity(lean, states, dim=2).min() > 0.99


def expected_logits(model: Any, tokens: list[int], states: torch.Tensor) -> torch.Tensor:
    output = model.get_decoder()(input_ids=torch.tensor([tokens]), encoder_hidden_states=states)
    logits: torch.Tensor = model.proj_out(output.last_hidden_state)[0]
    return logits


def feed(decoder: LeanDecoder, cache: Cache, tokens: list[list[int]]) -> list[torch.Tensor]:
    """Logits of each row's own tokens."""
    hidden = decoder.forward(tokens, cache)
    return [decoder.logits(hidden[row, : len(own)]) for row, own in enumerate(tokens)]


TOKENS = st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=6)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(TOKENS, TOKENS, TOKENS, st.integers(0, 5)), min_size=3, max_size=3))
def test_rows_of_unequal_length_are_decoded_as_if_alone(
    model: Any, states: torch.Tensor, rows: list[tuple[list[int], list[int], list[int], int]]
) -> None:
    """A call, a second one of which a part is rejected, and a third behind what was kept."""
    with torch.inference_mode():
        decoder = LeanDecoder(model, torch.float32, HEADS)
        cache = decoder.cache(decoder.cross(states), 18)
        first = feed(decoder, cache, [row[0] for row in rows])
        cache.lengths[:] = [len(row[0]) for row in rows]
        feed(decoder, cache, [row[1] for row in rows])
        kept = [row[1][: row[3]] for row in rows]
        cache.lengths[:] = [len(row[0]) + len(k) for row, k in zip(rows, kept, strict=True)]
        third = feed(decoder, cache, [row[2] for row in rows])
        for index, (row, k) in enumerate(zip(rows, kept, strict=True)):
            own = expected_logits(model, [*row[0], *k, *row[2]], states[index : index + 1])
            got = torch.cat([first[index], third[index]])
            wanted = torch.cat([own[: len(row[0])], own[-len(row[2]) :]])
            torch.testing.assert_close(got, wanted, atol=ATOL, rtol=1e-4)


def test_a_row_that_leaves_disturbs_no_other(model: Any, states: torch.Tensor) -> None:
    with torch.inference_mode():
        decoder = LeanDecoder(model, torch.float32, HEADS)
        cache = decoder.cache(decoder.cross(states), 18)
        feed(decoder, cache, [[1, 2], [3, 4, 5], [6]])
        cache.lengths[:] = [2, 3, 1]
        cache.drop(0)
        assert cache.lengths == [1, 3]
        moved, stayed = feed(decoder, cache, [[7, 8], [9]])
        expected = expected_logits(model, [6, 7, 8], states[2:])[1:]
        torch.testing.assert_close(moved, expected, atol=ATOL, rtol=1e-4)
        expected = expected_logits(model, [3, 4, 5, 9], states[1:2])[3:]
        torch.testing.assert_close(stayed, expected, atol=ATOL, rtol=1e-4)


def test_bfloat16_logits_of_likely_tokens_are_compared_in_full(model: Any) -> None:
    hidden = torch.randn(4, 24, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        exact = LeanDecoder(model, torch.float32).logits(hidden)
        near = LeanDecoder(model, torch.bfloat16).logits(hidden)
    assert near.argmax(dim=1).tolist() == exact.argmax(dim=1).tolist()
    torch.testing.assert_close(near.amax(dim=1), exact.amax(dim=1))


def noise(samples: int, seed: int) -> Samples:
    return np.random.default_rng(seed).integers(-9_000, 9_000, samples).astype(np.int16)


@pytest.fixture(scope="module")
def extractor() -> Any:
    prepare_torch(1)
    from transformers import WhisperFeatureExtractor

    return WhisperFeatureExtractor()


@pytest.mark.parametrize("lengths", [(1_600, 40_123), (480_000,), (479_900, 16_000), (16_000,)])
def test_features_are_those_of_transformers(extractor: Any, lengths: tuple[int, ...]) -> None:
    windows = [noise(length, seed) for seed, length in enumerate(lengths)]
    heard = LogMel(extractor, torch.device("cpu"))(windows, 3_000)
    audio = [window.astype(np.float32) / 32768 for window in windows]
    expected = extractor(audio, sampling_rate=16_000, return_tensors="pt").input_features
    torch.testing.assert_close(heard, expected, atol=1e-5, rtol=0)


def test_a_short_context_hears_the_same_frames_and_silence(extractor: Any) -> None:
    quiet, loud = noise(30_000, 0) // 100, noise(50_000, 1)
    log_mel = LogMel(extractor, torch.device("cpu"))
    full, short = log_mel([quiet, loud], 3_000), log_mel([quiet, loud], 400)
    torch.testing.assert_close(short, full[..., :400], atol=1e-5, rtol=0)


def test_a_dtype_is_taken_by_name_or_measured(model: Any) -> None:
    assert compute_dtype("bfloat16", model) is torch.bfloat16
    assert compute_dtype("auto", model) in (torch.float32, torch.bfloat16)
