"""A calibration is believed for the weights that it was measured with, and no others."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from server.engines.errors import EngineUnavailable
from server.engines.registry import EngineSpec, OptionValue
from server.engines.whisper_calibration import (
    Calibration,
    fingerprint,
    read_calibration,
    write_calibration,
)
from server.engines.whisper_options import WhisperOptions
from streaming.events import SessionStage


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


@pytest.fixture
def calibration(weights: Path) -> Calibration:
    return Calibration(fingerprint(weights), 2.0, 0.031, 0.033, 1_800.0, "2026-11-20")


def refusal(path: Path, weights: Path | None) -> str:
    with pytest.raises(EngineUnavailable) as refused:
        read_calibration(path, weights)
    message = str(refused.value)
    assert "\n" not in message
    assert "captiond calibrate" in message
    return message


def test_what_is_written_is_read(tmp_path: Path, weights: Path, calibration: Calibration) -> None:
    write_calibration(tmp_path / "c.json", calibration)
    assert read_calibration(tmp_path / "c.json", weights) == calibration


def test_other_weights_are_refused(tmp_path: Path, weights: Path, calibration: Calibration) -> None:
    write_calibration(tmp_path / "c.json", calibration)
    (weights / "model.safetensors").write_bytes(b"retrained")
    assert "other weights" in refusal(tmp_path / "c.json", weights)
    assert "other weights" in refusal(tmp_path / "c.json", None)


@pytest.mark.parametrize(
    ("text", "reason"),
    [("", "cannot be read"), ("[]", "no calibration"), ('{"version": 2}', "version 1")],
)
def test_what_is_no_calibration_is_refused(
    tmp_path: Path, weights: Path, text: str, reason: str
) -> None:
    (tmp_path / "c.json").write_text(text)
    assert reason in refusal(tmp_path / "c.json", weights)


def test_a_missing_file_field_or_number_is_named(
    tmp_path: Path, weights: Path, calibration: Calibration
) -> None:
    path = tmp_path / "c.json"
    assert "No such file" in refusal(path, weights)
    fields = asdict(calibration)
    del fields["wer_short"]
    path.write_text(json.dumps(fields))
    assert "wer_short" in refusal(path, weights)
    write_calibration(path, replace(calibration, context_margin_s=float("nan")))
    assert "finite" in refusal(path, weights)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"final_context": "calibrated"}, "calibration=FILE"),
        ({"encoder_context": "tiny"}, "fast, exact"),
        ({"dtype": "int8"}, "bfloat16"),
        ({"final_dtype": "int8"}, "final_dtype int8"),
        ({"tokens_max": 0}, "count of 1"),
        ({"context_margin_s": -1}, "0 to 30"),
        ({"colour": "red"}, "colour.*timestamps"),
    ],
)
def test_options_that_make_no_sense_are_refused(
    options: dict[str, OptionValue], reason: str
) -> None:
    with pytest.raises(EngineUnavailable, match=reason):
        WhisperOptions.of(EngineSpec(SessionStage.RECOGNITION, "whisper", None, options))
