"""GE2E inside pyannote's pipelines: one embedding per mask, of the frames in it."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from server.engines.errors import EngineUnavailable
from server.engines.ge2e import DIMENSIONS, SpeakerEncoder, find_weights
from server.engines.hub import SHIPPED_PIPELINE
from server.engines.pyannote_pipeline import PyannoteDiarizer
from server.engines.registry import EngineSpec, build
from server.engines.segmentation import shipped_segmentation
from server.engines.torch_setup import prepare_torch
from streaming.engines import ClusterQuestion, SpeakerChunk
from streaming.events import SessionStage

pytestmark = pytest.mark.slow

SECONDS = 4
FRAMES = 40


@pytest.fixture(scope="module")
def encoder() -> Iterator[SpeakerEncoder]:
    import torch

    threads = torch.get_num_threads()
    prepare_torch(None)
    try:
        yield SpeakerEncoder(find_weights())
    except EngineUnavailable as error:
        pytest.skip(str(error))
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def model(encoder: SpeakerEncoder) -> Any:
    from server.engines.ge2e_pyannote import Ge2eModel

    return Ge2eModel(encoder).eval()


def sound(seed: int, seconds: float = SECONDS) -> Any:
    import torch

    noise = np.random.default_rng(seed).normal(0, 0.05, (1, 1, int(16_000 * seconds)))
    return torch.from_numpy(np.round(noise * 32_768) / 32_768).float()


def masks(*letters: str) -> Any:
    """Shape (1, speakers, FRAMES); each letter is a tenth of the chunk, ``x`` where active."""
    import torch

    rows = [np.repeat([float(c == "x") for c in row], FRAMES // len(row)) for row in letters]
    return torch.from_numpy(np.array(rows, np.float32))[None]


def test_a_window_that_is_all_ones_is_what_the_encoder_says(
    encoder: SpeakerEncoder, model: Any
) -> None:
    waveform = sound(1, 1.6)
    (row,) = model(waveform).numpy()
    pcm = np.round(waveform[0, 0].numpy() * 32_768).astype(np.int16)
    np.testing.assert_allclose(row, encoder.embed([pcm])[0], atol=1e-4)


def test_an_embedding_is_of_the_frames_in_its_mask(model: Any) -> None:
    import torch

    both = torch.cat([sound(1, 2.0), sound(2, 2.0) * 0.2], dim=2)
    frames = model.forward_frames(both)
    (first, second, none) = model.forward_embedding(
        frames, masks("xxxxx.....", ".....xxxxx", "..........")
    )[0]
    assert first.shape == (DIMENSIONS,)
    assert torch.isfinite(first).all()
    assert not torch.isfinite(none).any()
    alone = model.forward_embedding(frames[:, :200], masks("xxxxxxxxxx"))[0, 0]
    assert float(first @ alone) > 0.999
    assert float(first @ second) < float(first @ alone)


def test_neighbours_change_nothing(model: Any) -> None:
    import torch

    waveforms = torch.cat([sound(1), sound(2)])
    together = model.forward_embedding(
        model.forward_frames(waveforms), torch.cat([masks("xxxxx.....", "..xxxxxxxx")] * 2)
    )
    alone = model.forward_embedding(
        model.forward_frames(waveforms[:1]), masks("xxxxx.....", "..xxxxxxxx")
    )
    assert torch.allclose(together[:1], alone, atol=1e-5)


def test_with_our_segmentation_it_is_a_whole_pipeline(encoder: SpeakerEncoder) -> None:
    if shipped_segmentation() is None:
        pytest.skip("this build has no segmentation model")
    diarizer = build(EngineSpec(SessionStage.DIARIZATION, "pyannote", SHIPPED_PIPELINE))
    assert isinstance(diarizer, PyannoteDiarizer)
    assert diarizer.description == "pyannote shipped"
    assert diarizer.profile.grid is not None
    noise = np.random.default_rng(0).normal(0, 2_000, 160_000).astype(np.int16)
    (found,) = diarizer.observe([SpeakerChunk(noise)])
    assert found.embeddings.shape == (found.activity.shape[1], DIMENSIONS)
    rows = np.repeat(np.eye(DIMENSIONS, dtype=np.float32)[:2], 6, axis=0)
    question = ClusterQuestion(rows, np.ones(12, np.float32), starts=np.arange(12) * 16_000)
    labels = diarizer.cluster([question])[0].labels.tolist()
    assert sorted(set(labels)) == [0, 1]
    assert labels == [labels[0]] * 6 + [labels[-1]] * 6
