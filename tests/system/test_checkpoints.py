"""``captiond serve`` with a checkpoint that cannot work: exit 1 and a line with what to do.

One case per stage of opening; the variants of each are unit tests of the engine.
"""

import json
import os
import pickle
import re
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

START_SECONDS_MAX = 120.0
WHISPER: dict[str, Any] = {
    "architectures": ["WhisperForConditionalGeneration"],
    "model_type": "whisper",
    "vocab_size": 64,
    "d_model": 8,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 1,
    "decoder_attention_heads": 1,
    "encoder_ffn_dim": 8,
    "decoder_ffn_dim": 8,
    "max_source_positions": 1500,
    "max_target_positions": 16,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 3,
}


class Sentinel:
    """Leaves a file behind when it is unpickled, as an attacker's checkpoint would."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self._path),)


def config(folder: Path, **changes: Any) -> None:
    (folder / "config.json").write_text(json.dumps({**WHISPER, **changes}))


def no_files(folder: Path) -> None:
    """An empty folder."""


def not_json(folder: Path) -> None:
    (folder / "config.json").write_text('{"architectures": ["Whisper')


def other_task(folder: Path) -> None:
    config(folder, architectures=["BertForMaskedLM"], model_type="bert")
    (folder / "model.safetensors").write_bytes(b"")


def pickled(folder: Path) -> None:
    config(folder)
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Sentinel(folder / "sentinel")))


def cut_weights(folder: Path) -> None:
    config(folder)
    header = json.dumps({"proj": {"dtype": "F32", "shape": [9], "data_offsets": [0, 36]}}).encode()
    content = struct.pack("<Q", len(header)) + header
    (folder / "model.safetensors").write_bytes(content + b"\0" * 4)


def other_weights(folder: Path) -> None:
    config(folder)
    header = json.dumps({"proj": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    content = struct.pack("<Q", len(header)) + header
    (folder / "model.safetensors").write_bytes(content + b"\0" * 4)


CASES: list[tuple[Callable[[Path], None], str]] = [
    (no_files, "no config.json.*give --asr-model another folder"),
    (not_json, r"config.json cannot be read .*copy the checkpoint again"),
    (other_task, "holds BertForMaskedLM, not a Whisper; give --asr-model another"),
    (pickled, "pickled weights only.*allow_pickle=true if you trust"),
    (cut_weights, "corrupt.*copy the checkpoint again"),
    (other_weights, "lacks weights.*copy the checkpoint again"),
]


def serve(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Runs until it gives up, offline."""
    command = [sys.executable, "-m", "server", "serve", "--port", "0", "--vad", "scripted"]
    command += ["--diarizer", "none", "--store", str(folder / "store.db"), *options]
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=START_SECONDS_MAX,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "hub")},
        check=False,
    )


def check_refusal(ended: subprocess.CompletedProcess[str], advice: str) -> None:
    assert ended.returncode == 1, ended.stderr
    *_, last = ended.stderr.splitlines()
    assert re.fullmatch(f"captiond: .*{advice}.*", last), ended.stderr
    assert "Traceback" not in ended.stderr
    assert "captiond is ready" not in ended.stdout


@pytest.mark.parametrize(("write", "advice"), CASES, ids=[case[0].__name__ for case in CASES])
def test_a_folder_that_is_no_checkpoint(
    tmp_path: Path, write: Callable[[Path], None], advice: str
) -> None:
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    write(folder)
    check_refusal(serve(tmp_path, "--asr", "whisper", "--asr-model", str(folder)), advice)
    assert not (folder / "sentinel").exists()


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    ended = serve(tmp_path, "--asr", "whisper", "--asr-model", str(tmp_path / "nowhere"))
    check_refusal(ended, "there is no folder .*nowhere; give --asr-model another folder")


def test_a_hub_id_without_a_hub(tmp_path: Path) -> None:
    ended = serve(tmp_path, "--asr", "whisper", "--asr-model", "openai/whisper-unheard")
    check_refusal(
        ended, "in the cache.*cannot be reached; connect .*HF_TOKEN.*or give --asr-model a"
    )


@pytest.mark.parametrize(
    ("options", "advice"),
    [
        (("--asr", "unheard"), 'no asr engine "unheard"; choose one of: .*whisper'),
        (("--asr", "scripted", "--asr-options", "unheard=1"), "no option unheard; it has"),
    ],
)
def test_engines_and_options_that_do_not_exist(
    tmp_path: Path, options: tuple[str, ...], advice: str
) -> None:
    check_refusal(serve(tmp_path, *options), advice)
