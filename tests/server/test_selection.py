"""``--asr auto`` takes the best recognizer that this machine can have."""

import socket
from pathlib import Path

import pytest

from server.engines.selection import (
    DEFAULT_CHECKPOINT,
    cached_checkpoint,
    choose_recognizer,
    is_hub_reachable,
)


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    for name in ("HF_HUB_OFFLINE", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def cache(root: Path, checkpoint: str, *files: str) -> None:
    snapshot = root / f"models--{checkpoint.replace('/', '--')}" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    for name in files:
        (snapshot / name).touch()


@pytest.mark.parametrize("asr", ["pocketsphinx", "scripted"])
def test_a_named_recognizer_is_taken_as_it_is(asr: str) -> None:
    assert choose_recognizer(asr, None) == (asr, None, None)


def test_a_configured_checkpoint_means_whisper() -> None:
    assert choose_recognizer("auto", "/models/mine") == ("whisper", "/models/mine", None)


def test_a_complete_cached_checkpoint_is_taken_smaller_unknown_ones_last(empty_cache: Path) -> None:
    cache(empty_cache, "openai/whisper-base", "config.json")  # interrupted download
    assert cached_checkpoint() is None
    cache(empty_cache, "openai/whisper-large-v3", "config.json", "model.safetensors")
    assert cached_checkpoint() == "openai/whisper-large-v3"
    cache(empty_cache, "openai/whisper-tiny", "config.json", "model.safetensors")
    for asr in ("auto", "whisper"):
        assert choose_recognizer(asr, None) == ("whisper", "openai/whisper-tiny", None)


def test_a_reachable_hub_gives_the_default() -> None:
    choice = choose_recognizer("auto", None, is_reachable=lambda: True)
    assert choice == ("whisper", DEFAULT_CHECKPOINT, None)


def test_nothing_of_it_warns_and_names_the_better_choice() -> None:
    name, model, warning = choose_recognizer("auto", None, is_reachable=lambda: False)
    assert (name, model) == ("pocketsphinx", None)
    assert warning is not None
    assert "--asr-model" in warning
    assert "\n" not in warning


def test_the_probe_asks_the_endpoint_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as hub:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{hub.getsockname()[1]}")
        assert is_hub_reachable()
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        assert not is_hub_reachable()
    monkeypatch.delenv("HF_HUB_OFFLINE")
    assert not is_hub_reachable()
