"""WhisperLiveKit: AlignAtt (its default) and LocalAgreement, both over faster-whisper."""

import base64
import gzip
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from load_tests.peers.environments import Environment
from load_tests.peers.system import Running, System, foreign_server, free_port
from load_tests.peers.talking import Told

REQUIREMENTS = ("torchaudio", "whisperlivekit", "safetensors")
"""The last is asked for by its own message, for checkpoints in that format."""


class WhisperLiveKitDialect:
    """``/asr`` in its usual mode: all lines, and the text that is not validated yet."""

    path = "/asr?language=en"
    subprotocols: Sequence[str] = ()
    says_done = True

    def opening(self) -> None:
        return None

    def packet(self, pcm: bytes) -> bytes:
        return pcm

    def ending(self) -> bytes:
        return b""

    def receive(self, data: str | bytes) -> Told:
        message: dict[str, Any] = orjson.loads(data)
        match message.get("type"):
            case "config":
                return Told(is_ready=True)
            case "ready_to_stop":
                return Told(is_done=True)
            case "error":
                return Told(failure=f"error: {message.get('error')}")
        if message.get("error"):
            return Told(failure=f"error: {message['error']}")
        texts = [line.get("text") or "" for line in message.get("lines", ())]
        buffered = (message.get("buffer_diarization"), message.get("buffer_transcription"))
        return Told(text=" ".join([*texts, *(text or "" for text in buffered)]))


def alignment_heads(checkpoint: Path) -> str | None:
    """Those that the checkpoint names, in the form that ``--custom-alignment-heads`` takes: which
    of (layers, heads) in bytes, compressed, base85."""
    named = orjson.loads((checkpoint / "generation_config.json").read_bytes())
    shape = orjson.loads((checkpoint / "config.json").read_bytes())
    if not named.get("alignment_heads"):
        return None
    mask = np.zeros((shape["decoder_layers"], shape["decoder_attention_heads"]), bool)
    for layer, head in named["alignment_heads"]:
        mask[layer, head] = True
    return base64.b85encode(gzip.compress(mask.tobytes(), mtime=0)).decode()


def systems(environment: Environment, converted: Path, original: Path) -> list[System]:
    """``converted`` is CTranslate2's folder, ``original`` the checkpoint as published."""
    usual = ("--language", "en", "--pcm-input", "--warmup-file", "")
    weights = ("--encoder-model-path", str(converted), "--decoder-model-path", str(original))
    align = (*usual, *weights)
    agree = ("--backend-policy", "localagreement", "--backend", "faster-whisper")
    plain = "; raw PCM, no diarization"
    found = [
        ("AlignAtt", align, f"README: the default policy, with its fast encoder{plain}"),
        (
            "LocalAgreement",
            (*usual, *agree, "--model_dir", str(converted)),
            f"README: --backend-policy localagreement{plain}",
        ),
    ]
    if (heads := alignment_heads(original)) is not None:
        named = (*align, "--custom-alignment-heads", heads)
        why = f"README: the default policy, with the alignment heads of the checkpoint{plain}"
        found.insert(1, ("AlignAtt, own heads", named, why))
    return [_system(environment, *one) for one in found]


def _system(environment: Environment, policy: str, options: tuple[str, ...], why: str) -> System:
    versions = environment.versions("whisperlivekit", "faster-whisper", "ctranslate2", "torch")
    name = f"whisperlivekit {versions.get('whisperlivekit', '')}, {policy}"
    serve = partial(_serve, environment, options)
    return System(name, serve, WhisperLiveKitDialect, options, why, None, versions)


def _serve(
    environment: Environment, options: tuple[str, ...], folder: Path, streams: int
) -> AbstractAsyncContextManager[Running]:
    del streams  # it admits everybody
    port = free_port()
    command = [str(environment.python), "-m", "whisperlivekit.basic_server"]
    command += ["--host", "127.0.0.1", "--port", str(port), *options]
    return foreign_server(command, folder, port, {"HF_HUB_OFFLINE": "1"})
