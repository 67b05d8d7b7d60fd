"""Whatever is wrong with a CTC checkpoint is told in one line, with what to do."""

import json
from pathlib import Path
from typing import Any

import pytest

from server.engines.ctc_checkpoint import check_folder, load_checkpoint, vocabulary_of
from server.engines.errors import EngineUnavailable
from server.engines.registry import EngineSpec, OptionValue
from streaming.events import SessionStage
from tests.tiny_ctc import build_ctc, save_tokenizer

pytestmark = pytest.mark.usefixtures("torch_threads")

CTC = {"architectures": ["Wav2Vec2ForCTC"], "model_type": "wav2vec2"}


def spec(model: Path | str | None, **options: OptionValue) -> EngineSpec:
    name = None if model is None else str(model)
    return EngineSpec(SessionStage.RECOGNITION, "ctc", name, options)


def refusal(model: Path | str | None, **options: OptionValue) -> str:
    with pytest.raises(EngineUnavailable) as refused:
        load_checkpoint(spec(model, **options))
    message = str(refused.value)
    assert "\n" not in message
    return message


def folder_with(path: Path, config: object, *files: str) -> Path:
    (path / "config.json").write_text(json.dumps(config))
    for name in files:
        (path / name).write_bytes(b"nothing of use")
    return path


def test_no_model() -> None:
    assert "--asr-model" in refusal(None)


def test_a_missing_folder(tmp_path: Path) -> None:
    assert "no folder" in refusal(tmp_path / "absent")


def test_a_folder_without_a_config(tmp_path: Path) -> None:
    assert "config.json" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("config", "kind"),
    [
        ({"architectures": ["WhisperForConditionalGeneration"]}, "WhisperForConditionalGeneration"),
        ({"architectures": ["Wav2Vec2ForPreTraining"]}, "Wav2Vec2ForPreTraining"),
        ({}, "unknown"),
    ],
)
def test_a_model_without_a_ctc_head(tmp_path: Path, config: object, kind: str) -> None:
    assert kind in refusal(folder_with(tmp_path, config))


def test_no_weights(tmp_path: Path) -> None:
    assert "model.safetensors" in refusal(folder_with(tmp_path, CTC))


def test_pickled_weights_are_opened_only_when_allowed(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, CTC, "pytorch_model.bin")
    assert "ctc option allow_pickle=true" in refusal(folder)
    check_folder(folder, allow_pickle=True)


def test_unknown_options_and_values_are_refused(tmp_path: Path) -> None:
    assert "it has: allow_pickle, device, dtype, language" in refusal(tmp_path, beams=4)
    assert "language=German" in refusal(tmp_path, language="German")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_ctc(tmp_path_factory.mktemp("ctc"))


@pytest.fixture
def copy(tiny: Path, tmp_path: Path) -> Path:
    """A tiny checkpoint that a test may spoil."""
    for file in tiny.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


def edit(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.mark.slow
def test_a_whole_checkpoint_loads(tiny: Path) -> None:
    checkpoint = load_checkpoint(spec(tiny, language="en"))
    assert checkpoint.language == "en"
    assert checkpoint.vocabulary.texts[:4] == ("", "", "", "A")
    assert (checkpoint.vocabulary.blank, checkpoint.vocabulary.delimiter) == (0, 2)


@pytest.mark.slow
def test_what_is_wrong_inside(copy: Path) -> None:
    assert "dtype int8" in refusal(copy, dtype="int8")
    edit(copy / "preprocessor_config.json", sampling_rate=8_000)
    assert "8000 Hz" in refusal(copy)
    edit(copy / "preprocessor_config.json", sampling_rate=16_000)
    (copy / "model.safetensors").write_bytes(b"not the weights")
    assert "corrupt" in refusal(copy)


@pytest.mark.slow
def test_a_family_whose_frames_have_no_fixed_grid(copy: Path) -> None:
    edit(copy / "config.json", model_type="parakeet_ctc", architectures=["ParakeetForCTC"])
    assert "parakeet_ctc model; ctc takes" in refusal(copy)


@pytest.mark.slow
def test_missing_weights_are_not_made_up(copy: Path) -> None:
    import safetensors.torch

    weights = safetensors.torch.load_file(copy / "model.safetensors")
    kept = {name: values for name, values in weights.items() if "lm_head" not in name}
    safetensors.torch.save_file(kept, copy / "model.safetensors", metadata={"format": "pt"})
    assert "lacks weights (2, first lm_head.bias)" in refusal(copy)


@pytest.mark.slow
def test_what_only_training_uses_may_be_missing(copy: Path) -> None:
    import safetensors.torch

    weights = safetensors.torch.load_file(copy / "model.safetensors")
    assert weights.pop("wav2vec2.masked_spec_embed") is not None
    safetensors.torch.save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    assert load_checkpoint(spec(copy)).name == copy.name


@pytest.mark.slow
def test_a_vocabulary_without_delimiter_or_blank(tmp_path: Path) -> None:
    tokenizer = save_tokenizer(tmp_path, ("A", "B", "<unk>", "<pad>"), do_lower_case=True)
    vocabulary = vocabulary_of("x", tokenizer, 4)
    assert (vocabulary.blank, vocabulary.delimiter, vocabulary.is_lowered) == (3, None, True)
    with pytest.raises(EngineUnavailable, match="no blank among the model's 3 outputs"):
        vocabulary_of("x", tokenizer, 3)
