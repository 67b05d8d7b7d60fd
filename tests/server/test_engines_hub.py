"""Whatever the model hub refuses, the operator gets one line: the page, the token, the folder."""

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from server.engines.errors import EngineUnavailable
from server.engines.hub import HUB_PAGE, find_source, has_cached_files, is_folder_name
from server.engines.registry import EngineSpec, build
from streaming.events import SessionStage
from tests.local_hub import LocalHub, local_hub
from tests.tiny_ctc import build_ctc
from tests.tiny_pyannote import build_pipeline

ENGINES = {
    "whisper": (SessionStage.RECOGNITION, "--asr-model"),
    "ctc": (SessionStage.RECOGNITION, "--asr-model"),
    "pyannote": (SessionStage.DIARIZATION, "--diarizer-model"),
}
REASONS = {
    "gated": "gated/model is gated, and no token is set",
    "denied": "denied/model is gated, and no token is set",
    "private": "the hub shows no private/model (misspelt, private or gated?)",
    "missing": "the hub shows no missing/model",
    "expired": "the hub refuses expired/model (401)",
    "forbidden": "the hub refuses forbidden/model (403)",
    "other": "other/model has no file config.json",
    "broken": "the hub cannot deliver broken/model now (status 520)",
    "dropped": "dropped/model is not complete in the cache and the model hub cannot be reached",
}


@pytest.fixture(scope="module")
def hub() -> Iterator[LocalHub]:
    with local_hub() as hub:
        yield hub


def environment(endpoint: str, home: Path, **more: str) -> dict[str, str]:
    """Ours, with another hub, no token and an empty cache."""
    mine = {
        name: value
        for name, value in os.environ.items()
        if not name.upper().startswith(("HF_", "HUGGING", "CAPTIOND_"))
        and not name.lower().endswith("_proxy")
    }
    # What is fetched must come from the hub of this test, and from nowhere else.
    return {
        **mine,
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(home),
        "HF_HUB_ETAG_TIMEOUT": "2",
        **more,
    }


LOAD = """
from server.engines.registry import EngineSpec, build
from streaming.events import SessionStage
def ask(stage, name, model):
    return build(EngineSpec(SessionStage(stage), name, model)).description
"""
FETCH = """
from huggingface_hub import hf_hub_download
from server.engines.hub import hub_errors
def ask(flag, file, model):
    with hub_errors(model, flag):
        hf_hub_download(model, file)
"""
ASK_ALL = """
import json, sys
from server.engines.errors import EngineUnavailable
for question in json.loads(sys.argv[1]):
    try:
        print(json.dumps(ask(*question)))
    except EngineUnavailable as error:
        print(json.dumps(str(error)))
"""


def told(
    how: str, questions: Sequence[tuple[str, str, str]], hub: LocalHub, home: Path, **more: str
) -> list[str]:
    """What is said to each question, in a process of its own: the hub is chosen at import."""
    done = subprocess.run(
        [sys.executable, "-c", how + ASK_ALL, json.dumps(questions)],
        env=environment(hub.endpoint, home, **more),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def closed_port() -> int:
    """Where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port: int = closed.getsockname()[1]
        return port


def check_line(line: str, flag: str, model: str) -> None:
    assert "\n" not in line
    assert f"{HUB_PAGE}/{model}" in line
    assert "HF_TOKEN" in line
    assert re.search(f"give {flag} a folder", line)


@pytest.mark.slow
def test_every_refusal_is_one_line(hub: LocalHub, tmp_path: Path) -> None:
    questions = [("--asr-model", "config.json", f"{owner}/model") for owner in REASONS]
    lines = told(FETCH, questions, hub, tmp_path)
    for reason, (flag, _, model), line in zip(REASONS.values(), questions, lines, strict=True):
        check_line(line, flag, model)
        assert reason in line


@pytest.mark.slow
def test_every_engine_says_it_and_fetches_what_there_is(hub: LocalHub, tmp_path: Path) -> None:
    """What was fetched loads again without a hub. One test, because each process takes seconds."""
    hub.folders["tiny/ctc"] = build_ctc(tmp_path / "ctc")
    hub.folders["tiny/pyannote"] = build_pipeline(tmp_path / "pyannote")
    there = [("asr", "ctc", "tiny/ctc"), ("diarizer", "pyannote", "tiny/pyannote")]
    refused = [
        (stage.value, engine, f"{owner}/model")
        for engine, (stage, _) in ENGINES.items()
        for owner in ("gated", "private", "missing")
    ]
    home = tmp_path / "home"
    *lines, first, second = told(LOAD, [*refused, *there], hub, home)
    assert [first, second] == ["ctc tiny/ctc float32", "pyannote tiny/pyannote"]
    for (_, engine, model), line in zip(refused, lines, strict=True):
        check_line(line, ENGINES[engine][1], model)
        assert REASONS[model.split("/")[0]] in line, engine
    nobody = LocalHub(f"http://127.0.0.1:{closed_port()}")
    assert told(LOAD, there, nobody, home) == [first, second]


@pytest.mark.slow
def test_a_token_without_access_is_told_from_none(hub: LocalHub, tmp_path: Path) -> None:
    questions = [("--asr-model", "config.json", f"{owner}/model") for owner in ("gated", "private")]
    lines = told(FETCH, questions, hub, tmp_path, HF_TOKEN="hf_" + "x" * 30)
    for (flag, _, model), line in zip(questions, lines, strict=True):
        check_line(line, flag, model)
        assert "the token that is set" in line
        assert "hf_x" not in line


@pytest.mark.parametrize("engine", ENGINES)
def test_nobody_listening_is_told_without_loading_anything(
    engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment(f"http://127.0.0.1:{closed_port()}", tmp_path).items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    stage, flag = ENGINES[engine]
    with pytest.raises(EngineUnavailable, match="cannot be reached") as refused:
        build(EngineSpec(stage, engine, "someone/model"))
    check_line(str(refused.value), flag, "someone/model")


@pytest.mark.slow
def test_the_line_reaches_the_operator(hub: LocalHub, tmp_path: Path) -> None:
    flag = "--diarizer-model"
    engines = ("--asr", "scripted", "--diarizer", "pyannote")
    done = subprocess.run(
        [sys.executable, "-m", "server", "serve", *engines, flag, "gated/model", "--port", "0"],
        env=environment(hub.endpoint, tmp_path, CAPTIOND_STORE_URL=str(tmp_path / "store.db")),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("captiond: ")]
    assert done.stderr.splitlines()[-1] == line
    check_line(line, flag, "gated/model")
    assert "hf.co" not in done.stdout + done.stderr, "pyannote's own page of advice"


def test_folders_and_hub_ids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    assert is_folder_name(str(tmp_path))
    assert not is_folder_name("someone/model")
    source = find_source(str(tmp_path), "--asr-model")
    assert (source.is_folder, source.is_offline, source.name) == (True, True, tmp_path.name)
    with pytest.raises(EngineUnavailable, match="no folder"):
        find_source(str(tmp_path / "absent"), "--asr-model")
    snapshot = tmp_path / "cache" / "models--someone--model" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    assert not has_cached_files("someone/model")
    (snapshot / "config.json").touch()
    source = find_source("someone/model", "--asr-model")
    assert (source.is_folder, source.is_offline) == (False, True)
