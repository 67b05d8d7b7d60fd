"""captiond itself, with exact and with calibrated finals."""

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import orjson
import soundfile

from load_tests.bench.rotated_speech import rotated
from load_tests.peers.system import PeerFailed, Running, System
from load_tests.peers.talking import Told
from server.child import ServerDied, running_server
from streaming.timeline import SAMPLE_RATE_HZ
from streaming.wire import STREAM_PATH, SUBPROTOCOL, Start, encode_client_message

CALIBRATION_SECONDS = 300.0
CALIBRATION_SEED = 1_000_003
"""Other sentences than any that is measured."""
CALIBRATE_SECONDS_MAX = 1_800.0


class CaptiondDialect:
    """``captiond.v1``; the screen is every final and the open partials, by time."""

    path = STREAM_PATH
    subprotocols: Sequence[str] = (SUBPROTOCOL,)
    says_done = True

    def __init__(self) -> None:
        self._captions: dict[str, tuple[float, str]] = {}

    def opening(self) -> str:
        return encode_client_message(Start(language="en", diarize=False))

    def packet(self, pcm: bytes) -> bytes:
        return pcm

    def ending(self) -> str:
        return '{"type":"end"}'

    def receive(self, data: str | bytes) -> Told:
        message: dict[str, Any] = orjson.loads(data)
        match message["type"]:
            case "ready":
                return Told(is_ready=True)
            case "partial" | "final":
                self._captions[message["caption_id"]] = (message["start"], message["text"])
                return Told(text=self._text())
            case "gap":
                return Told(is_gap=True)
            case "done":
                return Told(is_done=True)
            case "error":
                return Told(failure=f"error {message['code']}: {message['message']}")
        return Told()

    def _text(self) -> str:
        return " ".join(text for _, text in sorted(self._captions.values()))


@contextlib.asynccontextmanager
async def serving(options: Sequence[str], folder: Path, streams: int) -> AsyncIterator[Running]:
    """``captiond serve`` as a child. Raises: PeerFailed."""
    arguments = [*options, "--sessions-max", str(2 * streams)]
    try:
        async with running_server(arguments, folder) as server:
            url = "ws" + server.url.removeprefix("http")
            yield Running(url, server.process.pid, server.log_path)
    except (ServerDied, TimeoutError) as error:
        raise PeerFailed(str(error)) from None


def captiond(name: str, options: Sequence[str], finals: str, why: str) -> System:
    """With any options of ``captiond serve``."""
    return System(
        name,
        partial(serving, tuple(options)),
        CaptiondDialect,
        tuple(options),
        why,
        finals,
        {"captiond": version("captiond"), "torch": version("torch")},
        streams_guess=8,
    )


def engine_options(model: Path) -> tuple[str, ...]:
    return ("--asr", "whisper", "--asr-model", str(model), "--diarizer", "none")


def exact(model: Path, calibration: Path | None = None) -> System:
    options, short = engine_options(model), ""
    if calibration is not None:
        options = (*options, "--calibration-file", str(calibration))
        short = ", partials as short as `captiond calibrate` found good on other sentences"
    why = f"finals as `generate` gives them{short}; no diarizer, as the peers run without one"
    return captiond("captiond, exact finals", options, "exact", why)


def calibrated(model: Path, calibration: Path) -> System:
    more = ("--final-context", "calibrated", "--calibration-file", str(calibration))
    why = "finals too as short as `captiond calibrate` found good"
    return captiond(
        "captiond, calibrated finals", (*engine_options(model), *more), "calibrated", why
    )


async def calibrate(model: Path, folder: Path) -> Path:
    """Let captiond measure this checkpoint, as an operator would. Raises: PeerFailed, NoVoices."""
    recording = rotated(CALIBRATION_SECONDS, 1, CALIBRATION_SEED)[0]
    soundfile.write(folder / "calibration.flac", recording.samples, SAMPLE_RATE_HZ)
    text = " ".join(word.text for word in recording.words)
    (folder / "calibration.txt").write_text(text)
    line = {"audio": "calibration.flac", "text": "calibration.txt", "language": "en"}
    (folder / "calibration.jsonl").write_bytes(orjson.dumps(line) + b"\n")
    output = folder / "calibration.json"
    command = [sys.executable, "-m", "server", "calibrate", str(folder / "calibration.jsonl")]
    command += ["--output", str(output), "--asr", "whisper", "--asr-model", str(model)]
    process = await asyncio.create_subprocess_exec(
        *command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    async with asyncio.timeout(CALIBRATE_SECONDS_MAX):
        told, _ = await process.communicate()
    if process.returncode or not output.exists():
        raise PeerFailed(f"captiond calibrate found no shorter context:\n{told.decode()}")
    print(told.decode(), flush=True)
    return output
