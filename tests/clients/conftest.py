"""A real server with the scripted engine, once for all tests that want one."""

import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from streaming.engines import Samples
from streaming.scripted_audio import encode_silence, encode_word

_LISTENING = re.compile(r"listening on (http://\S+)")
_ENGINES = ("--asr", "scripted", "--vad", "scripted", "--diarizer", "none")


@pytest.fixture(scope="session")
def real_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Its http address; models are loaded."""
    with serving(tmp_path_factory.mktemp("server")) as address:
        yield address


@contextmanager
def serving(folder: Path, *options: str) -> Iterator[str]:
    command = [sys.executable, "-m", "server", "serve", *_ENGINES, "--port", "0"]
    with subprocess.Popen(
        [*command, "--store", str(folder / "store.db"), *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            address = _address_when_ready(process)
            # A pipe that nobody reads would stop the server at its next log line.
            threading.Thread(target=_drain, args=(process,), daemon=True).start()
            yield address
        finally:
            process.terminate()
            process.wait(timeout=30)


def _address_when_ready(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    address = None
    said = []
    for line in process.stdout:
        said.append(line)
        if found := _LISTENING.search(line):
            address = found[1]
        if "captiond is ready" in line and address is not None:
            return address
    pytest.fail(f"the server did not start: {''.join(said)}")


def _drain(process: "subprocess.Popen[str]") -> None:
    assert process.stdout is not None
    for _ in process.stdout:
        pass


def scripted_clip(stream: int, words: int) -> Samples:
    """Utterances of five words with a second of silence after each."""
    parts = [encode_silence(8_000)]
    for number in range(words):
        parts.append(encode_word(stream, number))
        if number % 5 == 4:
            parts.append(encode_silence(16_000))
    return np.concatenate([*parts, encode_silence(16_000)])
