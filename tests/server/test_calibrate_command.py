"""``captiond calibrate``: the shortest context that is good enough, in a file for these weights."""

import json
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import soundfile
from typer.testing import CliRunner

from server.commands import app
from server.engines.demo_whisper import demo_checkpoint
from server.engines.errors import EngineUnavailable
from server.engines.registry import EngineSpec
from server.engines.whisper_calibration import fingerprint, read_calibration
from server.evaluation import calibrate
from server.evaluation.calibrate import MARGINS_S, Trial, loss
from server.scoring import WordErrors
from streaming.events import SessionStage
from streaming.timeline import SAMPLE_RATE_HZ

CLIP_SECONDS = 6


def trial(margin_s: float | None, wrong: int) -> Trial:
    errors = WordErrors(200 - wrong, wrong, 0, 0)
    return Trial(margin_s, errors, errors, 1.0, 60.0)


def run(*words: str) -> Any:
    return CliRunner().invoke(app, ["calibrate", *words])


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """Twice the beginning of the demo's clip; what is said is known of the first alone."""
    folder = demo_checkpoint()
    if folder is None:
        pytest.skip("needs the demo checkpoint")
    clip = folder.parent / "demo_clip"
    audio, rate = soundfile.read(clip / "clip.flac", dtype="int16")
    assert rate == SAMPLE_RATE_HZ
    soundfile.write(tmp_path / "clip.wav", audio[: CLIP_SECONDS * rate], rate)
    words = json.loads((clip / "reference.json").read_text())["words"]
    text = " ".join(word["word"] for word in words if word["end"] < CLIP_SECONDS)
    (tmp_path / "clip.txt").write_text(text)
    lines = [{"audio": "clip.wav", "text": "clip.txt"}, {"audio": "clip.wav"}]
    path = tmp_path / "manifest.jsonl"
    path.write_text("".join(json.dumps(line | {"language": "en"}) + "\n" for line in lines))
    return path


def stand_in(monkeypatch: pytest.MonkeyPatch, *wrong: int) -> None:
    """Trials with so many wrong words of 200: the full context first, then margin by margin."""

    async def trials(*_: Any) -> AsyncIterator[Trial]:
        for margin_s, count in zip((None, *MARGINS_S), wrong, strict=False):
            yield trial(margin_s, count)

    monkeypatch.setattr(calibrate, "trials", trials)


def test_the_shortest_context_within_the_bound_is_written(
    manifest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(monkeypatch, 10, 40, 12, 11, 10)
    path = manifest.parent / "found.json"
    result = run(str(manifest), "--asr", "demo", "--output", str(path))
    assert result.exit_code == 0, result.output
    assert "+0.1500" in result.output
    found = read_calibration(path, demo_checkpoint())
    assert found.context_margin_s == MARGINS_S[2]
    assert (found.wer_exact, found.wer_short) == (0.05, 0.055)


def test_where_no_context_is_good_enough_nothing_is_written(
    manifest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(monkeypatch, 10, *[14] * len(MARGINS_S))
    path = manifest.parent / "found.json"
    result = run(str(manifest), "--asr", "demo", "--output", str(path))
    assert result.exit_code == 1
    assert "leave --final-context at exact" in result.output
    assert not path.exists()


def test_where_nothing_is_heard_nothing_can_be_measured(
    manifest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def trials(*_: Any) -> AsyncIterator[Trial]:
        nothing = WordErrors(0, 0, 0, 0)
        yield Trial(None, nothing, nothing, 1.0, 60.0)

    monkeypatch.setattr(calibrate, "trials", trials)
    result = run(str(manifest), "--asr", "demo")
    assert result.exit_code == 1
    assert "nothing is said" in result.output


def test_a_bad_line_is_refused_since_its_words_would_be_missing(tmp_path: Path) -> None:
    path = tmp_path / "manifest.jsonl"
    path.write_text('{"audio": "a.wav", "words": "a.txt"}\n')
    result = run(str(path), "--asr", "demo")
    assert result.exit_code == 1
    assert "unknown words" in result.output


def test_an_engine_without_contexts_is_refused(manifest: Path) -> None:
    result = run(str(manifest), "--asr", "pocketsphinx")
    assert result.exit_code == 1
    assert "pocketsphinx has no encoder context" in result.output


def test_loss_is_what_the_short_context_adds() -> None:
    assert loss(trial(None, 10), trial(1.0, 12)) == pytest.approx(0.01)
    assert loss(trial(None, 10), trial(1.0, 8)) == pytest.approx(-0.01)


@pytest.mark.slow
def test_what_is_measured_is_believed_for_these_weights_alone(manifest: Path) -> None:
    from server.engines.whisper import WhisperRecognizer

    path = manifest.parent / "found.json"
    result = run(str(manifest), "--asr", "demo", "--output", str(path))
    assert result.exit_code == 0, result.output
    assert "10 minutes" in result.output
    folder = demo_checkpoint()
    assert folder is not None
    found = read_calibration(path, folder)
    assert found.recordings_s == 2 * CLIP_SECONDS
    assert found.wer_short <= found.wer_exact + 0.005

    def spec(model: Path) -> EngineSpec:
        options: dict[str, Any] = {"final_context": "calibrated", "calibration": str(path)}
        return EngineSpec(SessionStage.RECOGNITION, "whisper", str(model), options)

    WhisperRecognizer.from_spec(spec(folder))
    other = manifest.parent / "other"
    shutil.copytree(folder, other)
    with (other / "model.safetensors").open("r+b") as weights:
        weights.seek(-2, 2)
        weights.write(b"\x00\x3c")
    assert fingerprint(other) != fingerprint(folder)
    with pytest.raises(EngineUnavailable, match="other weights"):
        WhisperRecognizer.from_spec(spec(other))
