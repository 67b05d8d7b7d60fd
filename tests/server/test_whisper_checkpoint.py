"""Whatever is wrong with a checkpoint is told in one line, with what to do."""

import json
from pathlib import Path

import pytest

from server.engines.errors import EngineUnavailable
from server.engines.hub import is_folder_name
from server.engines.registry import EngineSpec, OptionValue
from server.engines.whisper_checkpoint import check_folder, load_checkpoint
from streaming.events import SessionStage

WHISPER = {"architectures": ["WhisperForConditionalGeneration"]}


def folder_with(path: Path, config: object, *files: str) -> Path:
    text = config if isinstance(config, str) else json.dumps(config)
    (path / "config.json").write_text(text)
    for name in files:
        (path / name).write_bytes(b"nothing of use")
    return path


def spec(model: Path | str | None, **options: OptionValue) -> EngineSpec:
    name = None if model is None else str(model)
    return EngineSpec(SessionStage.RECOGNITION, "whisper", name, options)


def refusal(folder: Path, *, allow_pickle: bool = False) -> str:
    with pytest.raises(EngineUnavailable) as refused:
        load_checkpoint(spec(folder, allow_pickle=allow_pickle))
    message = str(refused.value)
    assert "\n" not in message
    return message


def test_a_missing_folder(tmp_path: Path) -> None:
    assert "no folder" in refusal(tmp_path / "absent")


def test_a_folder_without_a_config(tmp_path: Path) -> None:
    assert "config.json" in refusal(tmp_path)


@pytest.mark.parametrize("config", ["{", "[]", '"x"'])
def test_an_unreadable_config(tmp_path: Path, config: str) -> None:
    assert "copy the checkpoint again" in refusal(folder_with(tmp_path, config))


@pytest.mark.parametrize(
    ("config", "kind"), [({"architectures": ["Wav2Vec2ForCTC"]}, "Wav2Vec2ForCTC"), ({}, "unknown")]
)
def test_a_model_of_another_task(tmp_path: Path, config: object, kind: str) -> None:
    assert kind in refusal(folder_with(tmp_path, config))


def test_no_weights(tmp_path: Path) -> None:
    assert "model.safetensors" in refusal(folder_with(tmp_path, WHISPER))


def test_pickled_weights_are_opened_only_when_allowed(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, WHISPER, "pytorch_model.bin")
    assert "allow_pickle=true" in refusal(folder)
    check_folder(folder, allow_pickle=True)


@pytest.mark.parametrize(
    ("model", "is_folder"),
    [
        ("openai/whisper-base", False),
        ("gpt2", False),
        ("./x", True),
        ("/a/b", True),
        ("a/b/c", True),
    ],
)
def test_folders_are_told_from_hub_ids(model: str, is_folder: bool) -> None:
    assert is_folder_name(model) is is_folder


def test_no_model_and_unknown_options_are_refused(tmp_path: Path) -> None:
    with pytest.raises(EngineUnavailable, match="--asr-model"):
        load_checkpoint(spec(None))
    with pytest.raises(EngineUnavailable, match=r"colour.*dtype"):
        load_checkpoint(spec(tmp_path, colour="red"))


def test_an_unreachable_hub_names_the_folder_option(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(EngineUnavailable, match=r"someone/whisper.*folder"):
        load_checkpoint(spec("someone/whisper"))


@pytest.mark.slow
def test_corrupt_safetensors(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, WHISPER | {"model_type": "whisper"}, "model.safetensors")
    with pytest.raises(EngineUnavailable, match="corrupt"):
        load_checkpoint(spec(folder))
