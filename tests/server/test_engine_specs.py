"""Settings → what workers load, and what every lane and session may do."""

from typing import Any

import pytest
import structlog

from server.config import Settings
from server.engine_specs import engine_specs
from server.engines.registry import EngineSpec
from server.hub import lane_options
from server.settings_sources import load_settings
from streaming.events import SessionStage
from streaming.session import Session
from streaming.wire import Start


def recognizer(**settings: Any) -> EngineSpec:
    return engine_specs(Settings(**settings))[SessionStage.RECOGNITION]


WHISPER = {"asr": "whisper", "asr_model": "/models/small"}


def test_contexts_of_whisper_go_to_whisper_when_they_are_set() -> None:
    assert recognizer(**WHISPER).options == {}
    chosen = {"encoder_context": "fast", "final_context": "calibrated"}
    spec = recognizer(**WHISPER, **chosen, calibration_file="/etc/measured.json")
    assert spec.options == {**chosen, "calibration": "/etc/measured.json"}
    assert spec.model == "/models/small"
    assert recognizer(asr="demo", encoder_context="exact").options == {"encoder_context": "exact"}


def test_options_given_by_name_win() -> None:
    spec = recognizer(
        **WHISPER, encoder_context="fast", asr_options={"encoder_context": "exact", "dtype": "x"}
    )
    assert spec.options == {"encoder_context": "exact", "dtype": "x"}


def test_other_engines_start_without_them_and_the_log_says_so() -> None:
    with structlog.testing.capture_logs() as logs:
        assert recognizer(asr="pocketsphinx", encoder_context="exact").options == {}
    assert [(line["log_level"], line["options"]) for line in logs] == [
        ("warning", ["encoder_context"])
    ]


def test_a_diarizer_has_its_model_and_options() -> None:
    settings = Settings(
        asr="scripted", diarizer="pyannote", diarizer_model="/p", diarizer_options={"a": 1}
    )
    spec = engine_specs(settings)[SessionStage.DIARIZATION]
    assert (spec.name, spec.model, spec.options) == ("pyannote", "/p", {"a": 1})
    assert SessionStage.DIARIZATION not in engine_specs(Settings(asr="scripted", diarizer="none"))


@pytest.mark.parametrize(("asr", "vad"), [("scripted", "scripted"), ("demo", "silero")])
def test_voice_activity_follows_the_recognizer(asr: str, vad: str) -> None:
    assert engine_specs(Settings(asr=asr))[SessionStage.ACTIVITY].name == vad
    assert engine_specs(Settings(asr=asr, vad="other"))[SessionStage.ACTIVITY].name == "other"


@pytest.mark.parametrize("preset", ["fast", "balanced", "accurate"])
def test_a_session_can_be_opened_with_every_preset(preset: str) -> None:
    settings = load_settings(None, {"preset": preset})
    options = lane_options(settings, None)
    assert options.windows.hop_ms == settings.hop_ms
    assert options.endpointing.hangover_ms == settings.endpointing_ms
    assert options.windows.cap_ms == settings.window_cap_s * 1000
    assert options.partial_options.stability == settings.stability
    Session("s", Start(), options, seed=1)


def test_what_a_session_may_ask_for_follows_from_the_settings() -> None:
    limits = lane_options(Settings(hop_ms_min=400, buffer_s=35), None).limits
    assert (limits.partial_interval_ms_min, limits.max_delay_ms_max) == (400, 25_000)
    # What the operator's own sessions have is never too much.
    limits = lane_options(Settings(hop_ms_min=400, hop_ms=300), None).limits
    assert (limits.partial_interval_ms_min, limits.max_delay_ms_max) == (300, 30_000)
