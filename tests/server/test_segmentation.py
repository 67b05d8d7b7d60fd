"""The shipped segmentation model, and what the loader says of folders that are not one."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from server.engines.errors import EngineUnavailable
from server.engines.segmentation import load_segmentation, read_config, shipped_segmentation
from server.engines.torch_setup import prepare_torch

WEIGHTS_MAX_BYTES = 8_000_000
FOLDER = shipped_segmentation()
pytestmark = pytest.mark.skipif(FOLDER is None, reason="this build has no segmentation model")


@pytest.fixture(autouse=True)
def _quiet_import() -> None:
    # Each test forgets the warning filters of the last one, and pyannote warns at its import.
    prepare_torch(threads=1)


@pytest.fixture(scope="module")
def folder() -> Path:
    assert FOLDER is not None
    return FOLDER


@pytest.fixture(scope="module")
def model(folder: Path) -> Any:
    prepare_torch(threads=1)
    return load_segmentation(folder, threads=1)


def test_the_folder_is_small_and_holds_no_pickle(folder: Path) -> None:
    names = {path.name for path in folder.iterdir() if path.is_file()}
    assert names == {"config.json", "model.safetensors", "README.md"}
    assert sum(path.stat().st_size for path in folder.iterdir()) <= WEIGHTS_MAX_BYTES


def test_pyannote_sees_a_powerset_model_of_ten_seconds(model: Any) -> None:
    from pyannote.audio import Inference, Model

    assert isinstance(model, Model)
    specifications = model.specifications
    assert specifications.powerset
    assert specifications.num_powerset_classes == 7
    assert specifications.permutation_invariant
    assert model.audio.sample_rate == 16_000
    inference = Inference(model, step=5.0, skip_aggregation=True)
    noise = np.random.default_rng(1).normal(0, 0.01, (1, 240_000)).astype(np.float32)
    import torch

    heard = inference({"waveform": torch.from_numpy(noise), "sample_rate": 16_000})
    assert heard.data.shape == (2, model.num_frames(160_000), 3)
    assert set(np.unique(heard.data)) <= {0.0, 1.0}


def test_it_hears_the_speech_of_the_demo_clip_as_silero_does(folder: Path) -> None:
    from tools.segmentation.hearing import SileroRule, silero_speech
    from tools.segmentation.judging import judge
    from tools.segmentation.material import demo_clip
    from tools.segmentation.report import COLUMNS, Listeners

    clip, listeners = demo_clip(), Listeners(folder)
    ours = listeners.segmenter.speakers_at_once(clip.samples) >= 0.5
    probabilities = listeners.silero.probabilities(clip.samples)
    silero = silero_speech(probabilities, SileroRule(bridge_ms=300), len(clip.samples))
    # Always saying "speech" agrees with Silero on 0.8 of this clip.
    assert np.mean(ours == silero) > 0.88
    always = judge(clip.truth, np.ones_like(ours)[None])
    assert judge(clip.truth, ours[None]).detection_error < 0.5 * always.detection_error
    row = listeners.row("demo clip", [clip], SileroRule(bridge_ms=300))
    assert row.ours.detection_error <= row.silero.detection_error
    assert row.ours_local.local_error < row.silero_local.local_error
    assert len(row.cells()) == len(COLUMNS)


@pytest.mark.parametrize("seconds", [0.3, 3.0, 10.0, 15.5])
def test_every_frame_of_a_recording_is_heard(folder: Path, seconds: float) -> None:
    from tools.segmentation.hearing import Segmenter

    samples = np.zeros(int(seconds * 16_000), np.float32)
    windows = Segmenter(folder).local(samples, hop=32_000)
    heard = {frame for start, active in windows for frame in range(start, start + active.shape[1])}
    assert heard == set(range(round(seconds * 100)))


def test_nobody_speaks_in_silence_or_noise(folder: Path) -> None:
    from tools.segmentation.hearing import Segmenter

    segmenter = Segmenter(folder)
    rng = np.random.default_rng(1)
    for dbfs in (-90, -30):
        noise = rng.normal(0, 10 ** (dbfs / 20), 160_000).astype(np.float32)
        assert (segmenter.speakers_at_once(noise) >= 0.5).mean() < 0.02
    assert (segmenter.speakers_at_once(np.zeros(160_000, np.float32)) >= 0.5).mean() < 0.02


def test_a_folder_of_something_else_is_refused_with_a_remedy(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(EngineUnavailable, match="cannot be read"):
        read_config(tmp_path)
    (tmp_path / "config.json").write_text('{"architecture": "WhisperModel"}')
    with pytest.raises(EngineUnavailable, match="describes no PyanNet"):
        read_config(tmp_path)
    shutil.copy(folder / "config.json", tmp_path)
    with pytest.raises(EngineUnavailable, match="install captiond again"):
        load_segmentation(tmp_path, threads=1)
    (tmp_path / "model.safetensors").write_bytes(b"not a tensor")
    with pytest.raises(EngineUnavailable, match="install captiond again"):
        load_segmentation(tmp_path, threads=1)


def test_weights_of_another_shape_are_refused(tmp_path: Path, folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["lstm"]["hidden_size"] = 32
    (tmp_path / "config.json").write_text(json.dumps(config))
    shutil.copy(folder / "model.safetensors", tmp_path)
    with pytest.raises(EngineUnavailable, match="does not hold the PyanNet"):
        load_segmentation(tmp_path, threads=1)
    del config["speakers_max"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(EngineUnavailable, match="speakers_max"):
        load_segmentation(tmp_path, threads=1)
