"""Engines are found by name, and a wrong name is answered with the right ones."""

import subprocess
import sys

import pytest

from server.engines.errors import EngineUnavailable
from server.engines.registry import EngineSpec, build, names, takes_guidance
from streaming.events import SessionStage


@pytest.mark.parametrize("stage", list(SessionStage))
def test_every_stage_has_a_scripted_engine(stage: SessionStage) -> None:
    engine = build(EngineSpec(stage, "scripted"))
    engine.warm_up()
    assert engine.description == "scripted"


def test_an_unknown_name_lists_the_known_ones() -> None:
    known = ", ".join(names(SessionStage.RECOGNITION))
    with pytest.raises(EngineUnavailable, match=f'"kaldi".*{known}'):
        build(EngineSpec(SessionStage.RECOGNITION, "kaldi"))


def test_the_registry_imports_no_model_library() -> None:
    code = (
        "import sys, server.engines.registry, server.engines.selection, server.workers;"
        "print(sorted({'torch', 'transformers', 'pyannote', 'onnxruntime'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("stage", "name"),
    [
        (SessionStage.ACTIVITY, "silero"),
        (SessionStage.RECOGNITION, "pocketsphinx"),
        (SessionStage.RECOGNITION, "ctc"),
        (SessionStage.RECOGNITION, "whisper"),
        (SessionStage.DIARIZATION, "embedded"),
        (SessionStage.DIARIZATION, "pyannote"),
        (SessionStage.DIARIZATION, "scripted"),
    ],
)
def test_a_misspelt_option_is_not_ignored(stage: SessionStage, name: str) -> None:
    spec = EngineSpec(stage, name, options={"latency": 3})
    with pytest.raises(EngineUnavailable, match=f"{name} has no option latency; it has"):
        build(spec)


@pytest.mark.parametrize(
    ("stage", "name", "flag"),
    [
        (SessionStage.RECOGNITION, "demo", "--asr-model"),
        (SessionStage.RECOGNITION, "pocketsphinx", "--asr-model"),
        (SessionStage.DIARIZATION, "embedded", "--diarizer-model"),
    ],
)
def test_a_model_for_an_engine_that_has_its_own_is_not_ignored(
    stage: SessionStage, name: str, flag: str
) -> None:
    with pytest.raises(EngineUnavailable, match=f"leave {flag} away"):
        build(EngineSpec(stage, name, "someone/model"))


def test_recognizers_without_guidance_are_recognizers() -> None:
    known = names(SessionStage.RECOGNITION)
    assert [name for name in known if not takes_guidance(name)] == ["ctc", "pocketsphinx"]
