"""``captiond doctor``: each check on facts alone, each look on this machine, the whole once."""

import asyncio
import json
import socket
import sys
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from server.commands import app
from server.config import Settings
from server.doctor import facts as looks
from server.doctor.checks import CHECKS, Finding, Level, examine, would_caption
from server.doctor.facts import Facts, Told, told_by
from server.engines.hub import SHIPPED_PIPELINE
from server.schema import SQLITE_SAFE

TORCH: dict[str, Any] = {
    "version": "2.13.0",
    "cuda_build": None,
    "gpus": [],
    "cpu_capability": "AVX512",
}
WHISPER, OFF = "openai/whisper-base", looks.HUB_UNREACHABLE
CUDA = Told({**TORCH, "cuda_build": "12.8"})
GOOD = Facts(
    python=(3, 11, 7),
    processors=8,
    budget=8,
    cpu_model="a processor",
    cpu_flags=frozenset({"avx2", "avx512f", "avx512_bf16"}),
    memory_bytes=16 * 2**30,
    torch=Told(TORCH),
    has_nvidia=False,
    is_offline_wanted=False,
    is_hub_reachable=True,
    has_token=True,
    cached_models=("openai/whisper-base",),
    recognizer="whisper",
    recognizer_model="openai/whisper-base",
    recognizer_problem=None,
    is_second_choice=False,
    diarizer="embedded",
    diarizer_model=None,
    diarizer_problem=None,
    voice_activity="auto",
    packages=frozenset(looks.PACKAGES),
    has_speaker_weights=True,
    microphones=Told({"microphones": ["Headset"]}),
    sqlite=SQLITE_SAFE,
    store_folder="/var/lib/captiond",
    store_problem=None,
    free_bytes=100 * 2**30,
    address="127.0.0.1:8710",
    port_problem=None,
    is_captiond_there=False,
    tls_problem=None,
    tls_warning=None,
)


def found(name: str, **changes: Any) -> Finding:
    (finding,) = (f for f in examine(replace(GOOD, **changes)) if f.name == name)
    return finding


def test_a_machine_with_everything_has_no_gap() -> None:
    findings = examine(GOOD)
    assert [f for f in findings if f.level in (Level.WARN, Level.FAIL)] == []
    assert would_caption(findings)
    assert [f.name for f in findings if f.remedy] == []


@pytest.mark.parametrize(
    ("name", "changes", "remedy"),
    [
        ("python", {"python": (3, 10, 1)}, "Python 3.11"),
        ("torch", {"torch": Told({}, "ImportError: libc10.so")}, "pip install"),
        (
            "recognizer",
            {"recognizer_problem": f"{WHISPER} is away, {OFF}"},
            f"hf download {WHISPER}",
        ),
        ("recognizer", {"recognizer_problem": "there is no folder x"}, "--asr-model a folder"),
        ("recognizer", {"recognizer": "wisper"}, "one of: ctc, demo,"),
        ("recognizer", {"recognizer": "ctc", "recognizer_model": None}, "hub id"),
        ("voice activity", {"voice_activity": "silence"}, "one of: scripted, silero"),
        ("diarizer", {"diarizer": "pyannote"}, "--diarizer-model"),
        ("diarizer", {"diarizer": "nobody"}, "one of: embedded,"),
        (
            "diarizer",
            {"diarizer": "pyannote", "diarizer_model": "a/b", "diarizer_problem": f"no a/b, {OFF}"},
            "hf download a/b",
        ),
        ("torch", {"torch": Told({}, "gone"), "recognizer": "pocketsphinx"}, "pip install"),
        (
            "recognizer",
            {"recognizer": "pocketsphinx", "packages": frozenset({"onnxruntime", "silero_vad"})},
            "pip install pocketsphinx",
        ),
        ("diarizer", {"has_speaker_weights": False}, "pip install --no-deps resemblyzer==0.1.4"),
        ("onnxruntime", {"packages": frozenset({"silero_vad"})}, "pip install"),
        ("store", {"store_problem": "/var/lib/captiond: Permission denied"}, "--store"),
        ("address", {"port_problem": "Address already in use"}, "--port 8711"),
        ("TLS", {"tls_problem": "tls_key: no such file"}, None),
    ],
)
def test_what_stops_captions_fails_with_its_remedy(
    name: str, changes: dict[str, Any], remedy: str | None
) -> None:
    finding = found(name, **changes)
    assert finding.level is Level.FAIL
    assert (remedy or "") in (finding.remedy or "")
    assert (remedy is None) is (finding.remedy is None)
    assert not would_caption(examine(replace(GOOD, **changes)))


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        ("instructions", {"cpu_flags": frozenset({"sse2"})}, "no AVX2"),
        ("memory", {"memory_bytes": 2 * 2**30}, "2.0 GiB"),
        (
            "torch",
            {"torch": Told({}, "gone"), "recognizer": "pocketsphinx", "diarizer": "none"},
            "gone",
        ),
        ("GPU", {"has_nvidia": True}, "without CUDA"),
        ("GPU", {"has_nvidia": True, "torch": CUDA}, "does not see"),
        ("recognizer", {"recognizer": "pocketsphinx", "is_second_choice": True}, "modest"),
        ("SQLite", {"sqlite": (3, 40, 1)}, "3.40.1"),
        ("store", {"free_bytes": 2**29}, "0.5 GiB"),
        ("TLS", {"tls_warning": "expires tomorrow"}, "tomorrow"),
    ],
)
def test_what_makes_captions_worse_is_warned_of(
    name: str, changes: dict[str, Any], said: str
) -> None:
    finding = found(name, **changes)
    assert finding.level is Level.WARN
    assert said in finding.text
    assert would_caption(examine(replace(GOOD, **changes)))


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        ("processors", {"budget": 2}, "2 of 8"),
        ("instructions", {"cpu_flags": frozenset({"asimd"})}, "no x86"),
        ("GPU", {}, "none"),
        ("model hub", {"is_hub_reachable": False}, "not reachable"),
        ("model hub", {"is_hub_reachable": False, "is_offline_wanted": True}, "HF_HUB_OFFLINE"),
        ("hub token", {"has_token": False}, "gated"),
        ("cached models", {"cached_models": ()}, "none"),
        ("meeteval", {"packages": frozenset()}, "not installed"),
        ("microphone", {"microphones": Told({"microphones": []})}, "a browser"),
        ("microphone", {"microphones": Told({}, "PortAudio library not found")}, "PortAudio"),
        (
            "microphone",
            {"microphones": Told({}, "No module"), "packages": frozenset()},
            "sounddevice is not installed",
        ),
    ],
)
def test_what_an_operator_may_want_to_know_is_noted(
    name: str, changes: dict[str, Any], said: str
) -> None:
    finding = found(name, **changes)
    assert finding.level is Level.NOTE
    assert said in finding.text


def test_a_gpu_that_torch_sees_is_well() -> None:
    told = Told({**TORCH, "cuda_build": "12.8", "gpus": ["H200"]})
    assert found("GPU", torch=told).text == "H200"


def test_every_check_says_something_of_some_machine() -> None:
    bad = replace(GOOD, tls_warning="soon")
    assert all(list(check(bad)) for check in CHECKS)


def test_a_model_is_looked_for_where_a_start_would(tmp_path: Path) -> None:
    def problem(model: str | None, *, is_cached: bool = False, is_reachable: bool = True) -> str:
        return looks.model_problem(model, is_cached=is_cached, is_reachable=is_reachable) or ""

    assert problem(None) == problem(str(tmp_path)) == problem(WHISPER) == ""
    assert problem(WHISPER, is_cached=True, is_reachable=False) == ""
    assert problem(WHISPER, is_reachable=False).endswith(OFF)
    assert problem(SHIPPED_PIPELINE, is_reachable=False) == ""
    # A folder that is not there is no hub id, however reachable the hub is.
    assert "no folder" in problem(str(tmp_path / "gone"))


def test_a_container_has_the_memory_that_it_may_use(tmp_path: Path) -> None:
    assert looks.memory_bytes(8 * 2**30, tmp_path) == 8 * 2**30
    limit = tmp_path / "memory.max"
    limit.write_text("max\n")
    assert looks.memory_bytes(8 * 2**30, tmp_path) == 8 * 2**30
    limit.write_text(f"{2**30}\n")
    assert looks.memory_bytes(8 * 2**30, tmp_path) == 2**30


@pytest.mark.parametrize(
    ("code", "seconds", "said"),
    [
        ("import time; time.sleep(60)", 0.5, "no answer within 0.5 s"),
        ("raise ImportError('no such library')", 30.0, "ImportError: no such library"),
        ("import os; os._exit(3)", 30.0, "exit status 3"),
        ("print('hello')", 30.0, "it said nothing that can be read"),
        ("pass", 30.0, "it said nothing that can be read"),
    ],
)
async def test_a_look_that_hangs_or_dies_is_a_finding(
    code: str, seconds: float, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_look.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert await told_by("broken_look", seconds) == Told({}, said)


async def test_a_look_that_answers_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "good_look.py").write_text("print('noise'); print('{\"answer\": 42}')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert await told_by("good_look") == Told({"answer": 42})


async def test_what_lies_in_the_working_folder_is_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "stray_look.py").write_text("print('{\"answer\": 42}')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    assert "stray_look" in ((await told_by("stray_look")).error or "")


def test_offline_is_what_the_hub_library_takes_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for value, is_wanted in (("1", True), ("true", True), ("0", False), ("", False)):
        monkeypatch.setenv("HF_HUB_OFFLINE", value)
        assert looked(Settings()).is_offline_wanted is is_wanted


def looked(settings: Settings, *, is_reachable: bool = False) -> Facts:
    return looks._look(settings, Told(TORCH), Told({}), is_reachable)


def test_a_taken_port_and_a_store_without_a_folder_are_seen(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        url = f"sqlite+aiosqlite:///{tmp_path}/nowhere/captions.db"
        facts = looked(Settings(port=port, store_url=url))
    assert facts.port_problem is not None
    assert "nowhere: No such file" in (facts.store_problem or "")
    assert looked(Settings(port=0, host="::1")).port_problem is None


class Healthy(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"ok\n" if self.path == "/healthz" else b"")

    def log_message(self, *_: object) -> None:
        pass


def test_a_captiond_that_runs_already_is_no_gap() -> None:
    with HTTPServer(("127.0.0.1", 0), Healthy) as other:
        threading.Thread(target=other.handle_request).start()
        facts = looked(Settings(port=other.server_port))
    assert facts.is_captiond_there
    changes = {"port_problem": facts.port_problem, "is_captiond_there": True}
    assert found("address", **changes).level is Level.OK


def test_the_hub_cache_and_the_token_are_seen_and_the_token_is_not_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_TOKEN_PATH", "HF_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    snapshot = tmp_path / "hub" / "models--openai--whisper-tiny" / "snapshots" / "1"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    (snapshot / "model.safetensors").write_bytes(b"")
    assert not looked(Settings()).has_token
    (tmp_path / "token").write_text("hf_secret_of_mine")
    facts = looked(Settings())
    assert facts.has_token
    assert facts.cached_models == ("openai/whisper-tiny",)
    assert (facts.recognizer, facts.recognizer_model) == ("whisper", "openai/whisper-tiny")
    assert "hf_secret_of_mine" not in repr(facts)


def test_a_certificate_that_cannot_be_used_is_seen(tmp_path: Path) -> None:
    settings = Settings(tls_cert=tmp_path / "cert.pem", tls_key=tmp_path / "key.pem")
    assert "cannot read" in (looked(settings).tls_problem or "")


def test_wrong_settings_get_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    result = CliRunner().invoke(app, ["doctor", "--port", "many"])
    assert result.exit_code == 2
    assert result.output.count("\n") == 1


@pytest.mark.slow
async def test_this_machine_is_examined_within_seconds(tmp_path: Path) -> None:
    """The whole, as a program; it must not need more of this machine than a server does."""
    program = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "server", "doctor", "--json", "--port", "0"),
        *("--store", str(tmp_path / "captions.db")),
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await asyncio.wait_for(program.communicate(), looks.SECONDS_MAX + 30)
    said = json.loads(out)
    failed = [f for f in said["findings"] if f["level"] == "fail"]
    assert said["would_caption"] is (failed == [])
    assert program.returncode == (1 if failed else 0)
    by_name = {f["name"]: f for f in said["findings"]}
    assert by_name["torch"]["level"] == "ok"
    assert by_name["store"]["text"].startswith(str(tmp_path))
    assert {"processors", "GPU", "model hub", "microphone", "SQLite", "address"} <= set(by_name)
