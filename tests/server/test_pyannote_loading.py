"""Whatever is wrong with a pyannote pipeline is told in one line, with what to do."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from server.engines.errors import EngineUnavailable
from server.engines.hub import SHIPPED_PIPELINE, ModelSource
from server.engines.pyannote_loading import load_pipeline, read_parts
from server.engines.registry import EngineSpec, OptionValue
from streaming.events import SessionStage
from tests.tiny_pyannote import build_pipeline

pytestmark = pytest.mark.usefixtures("torch_threads")


def spec(model: Path | str | None, **options: OptionValue) -> EngineSpec:
    name = None if model is None else str(model)
    return EngineSpec(SessionStage.DIARIZATION, "pyannote", name, options)


def refusal(model: Path | str | None, **options: OptionValue) -> str:
    with pytest.raises(EngineUnavailable) as refused:
        load_pipeline(spec(model, **options))
    message = str(refused.value)
    assert "\n" not in message
    assert "--diarizer-model" in message or "it has: device" in message
    return message


def config(name: str = "pyannote.audio.pipelines.SpeakerDiarization", **params: object) -> Any:
    return {"pipeline": {"name": name, "params": params}}


def folder_with(path: Path, content: Any) -> Path:
    (path / "config.yaml").write_text(yaml.safe_dump(content))
    return path


def test_no_model_names_one_and_its_conditions() -> None:
    assert "pyannote/speaker-diarization-community-1" in refusal(None)


def test_captionds_own_pipeline_is_for_the_processor() -> None:
    assert "on the processor, not on cuda" in refusal(SHIPPED_PIPELINE, device="cuda")


def test_an_unknown_option(tmp_path: Path) -> None:
    assert "no option threshold" in refusal(tmp_path, threshold=0.5)


def test_a_missing_folder_and_one_that_is_no_pipeline(tmp_path: Path) -> None:
    assert "no folder" in refusal(tmp_path / "absent")
    assert "has no config.yaml" in refusal(tmp_path)


@pytest.mark.parametrize("content", ["- a\n- b", "{", "pipeline: 3", "pipeline: {}", ""])
def test_a_config_that_is_no_pipelines(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.yaml").write_text(content)
    assert "is no pyannote pipeline's" in refusal(tmp_path)


def test_a_pipeline_of_another_task(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, config("pyannote.audio.pipelines.VoiceActivityDetection"))
    assert "VoiceActivityDetection pipeline, not a SpeakerDiarization" in refusal(folder)


def test_parts_from_elsewhere_are_known_before_they_are_fetched(tmp_path: Path) -> None:
    folder = folder_with(
        tmp_path,
        config(
            segmentation="pyannote/segmentation-3.0",
            embedding={"checkpoint": "pyannote/wespeaker", "subfolder": "x"},
            plda="$model/plda",
        ),
    )
    source = ModelSource(str(folder), "x", "--diarizer-model", is_folder=True, is_offline=True)
    found = read_parts(folder / "config.yaml", source)
    assert found == ["pyannote/segmentation-3.0", "pyannote/wespeaker"]


def test_an_unreachable_part_is_named_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    message = refusal(folder_with(tmp_path, config(segmentation="pyannote/segmentation-3.0")))
    assert "https://huggingface.co/pyannote/segmentation-3.0" in message
    assert "HF_TOKEN" in message


@pytest.mark.slow
def test_clustering_that_must_be_told_the_number(tmp_path: Path) -> None:
    folder = build_pipeline(tmp_path, clustering="KMeansClustering")
    assert "must be told how many" in refusal(folder)


@pytest.mark.slow
def test_what_is_wrong_inside(tmp_path: Path) -> None:
    folder = build_pipeline(tmp_path)
    weights = folder / "embedding" / "pytorch_model.bin"
    weights.write_bytes(b"not the weights")
    assert "does not load" in refusal(folder)
    shutil.rmtree(folder / "segmentation")
    assert "copy it again with all its folders" in refusal(folder)
