"""WhisperLive (collabora): every client's open audio is transcribed again and again.

Its server is started as its own ``run_server.py`` starts it, which the package does not hold. It
never says that it is done, so its last text counts; it does not transcribe what is left when the
client ends.
"""

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import orjson

from load_tests.peers.environments import Environment
from load_tests.peers.system import Running, System, foreign_server, free_port
from load_tests.peers.talking import Told

VERSION = "0.10.0"
REQUIREMENTS = (
    "faster-whisper==1.2.0",
    "tokenizers==0.20.3",
    "torchaudio",
    "websockets",
    "onnxruntime<2,>=1.20.0",
    "scipy",
    "numpy<2.5,>=1.26.4",
    "numba",
    "librosa",
    "soundfile",
    "fastapi",
    "uvicorn",
    "python-multipart",
    "prometheus-client",
)
"""What its faster_whisper server imports. Its other dependencies serve GPUs, OpenVINO, its own
microphone client and its tests."""
PROGRAM = """
import sys
from whisper_live.server import TranscriptionServer
port, model, clients, batch = int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4] == "1"
TranscriptionServer().run(
    "127.0.0.1", port=port, backend="faster_whisper", faster_whisper_custom_model_path=model,
    single_model=True, max_clients=clients, max_connection_time=3600, batch_enabled=batch,
    batch_max_size=8,
)
"""


class WhisperLiveDialect:
    """Segments that are complete, the ten last of them, and the one that is still open."""

    path = ""
    subprotocols: Sequence[str] = ()
    says_done = False

    def __init__(self) -> None:
        self._completed: dict[float, str] = {}

    def opening(self) -> str:
        options = {
            "uid": str(uuid4()),
            "language": "en",
            "task": "transcribe",
            "model": "tiny.en",
            "use_vad": True,
            "send_last_n_segments": 10,
            "no_speech_thresh": 0.45,
            "clip_audio": False,
            "same_output_threshold": 10,
            "enable_translation": False,
            "word_timestamps": False,
            "initial_prompt": None,
        }
        return orjson.dumps(options).decode()

    def packet(self, pcm: bytes) -> bytes:
        return (np.frombuffer(pcm, np.int16).astype(np.float32) / 32_768).tobytes()

    def ending(self) -> bytes:
        return b"END_OF_AUDIO"

    def receive(self, data: str | bytes) -> Told:
        message: dict[str, Any] = orjson.loads(data)
        if message.get("message") == "SERVER_READY":
            return Told(is_ready=True)
        if "status" in message:
            return Told(failure=f"{message['status']}: {message['message']}")
        if "segments" not in message:
            return Told()
        open_text = ""
        for segment in message["segments"]:
            if segment["completed"]:
                self._completed[float(segment["start"])] = segment["text"]
            else:
                open_text = segment["text"]
        done = [text for _, text in sorted(self._completed.items())]
        return Told(text=" ".join([*done, open_text]))


def systems(environment: Environment, model: Path) -> list[System]:
    """As its README runs the server, and with the batches that it offers for many clients."""
    return [
        _system(environment, model, f"whisper-live {VERSION}", is_batched=False),
        _system(environment, model, f"whisper-live {VERSION}, batched", is_batched=True),
    ]


def _system(environment: Environment, model: Path, name: str, *, is_batched: bool) -> System:
    options = ["--backend", "faster_whisper", "-fw", str(model), "--omp_num_threads", "2"]
    why = (
        "README: --batch_inference --batch_max_size 8 for throughput of several clients; greedy"
        if is_batched
        else "README's command, one model for all clients; OMP threads: this machine's processors"
    )
    if is_batched:
        options += ["--batch_inference", "--batch_max_size", "8"]
    serve = partial(_serve, environment, model, is_batched)
    versions = environment.versions("whisper_live", "faster-whisper", "ctranslate2")
    return System(name, serve, WhisperLiveDialect, tuple(options), why, None, versions)


def _serve(
    environment: Environment, model: Path, is_batched: bool, folder: Path, streams: int
) -> AbstractAsyncContextManager[Running]:
    port = free_port()
    command = [str(environment.python), "-c", PROGRAM, str(port), str(model), str(2 * streams + 2)]
    variables = {"OMP_NUM_THREADS": str(environment.cores), "HF_HUB_OFFLINE": "1"}
    return foreign_server([*command, "1" if is_batched else "0"], folder, port, variables)
