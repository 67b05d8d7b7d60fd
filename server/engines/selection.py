"""Which recognizer ``--asr auto`` means on this machine. Runs in the front process: no torch here.

Whisper where a checkpoint is configured, cached or can be fetched; else the embedded recognizer,
with a warning that names the better choice.
"""

import os
import socket
import threading
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

DEFAULT_CHECKPOINT = "openai/whisper-base"
"""Multilingual, 290 MB: the largest that a laptop's processor follows live for a few sessions."""
CACHED_PREFERENCE = (
    DEFAULT_CHECKPOINT,
    "openai/whisper-small",
    "openai/whisper-base.en",
    "openai/whisper-small.en",
    "openai/whisper-tiny",
    "openai/whisper-tiny.en",
)
"""Other cached checkpoints come after these: they are too slow without an accelerator."""
EMBEDDED_RECOGNIZER = "pocketsphinx"
HUB_PROBE_SECONDS_MAX = 2.0
"""A start-up that hangs on a dead network is worse than one that works offline."""


class RecognizerChoice(NamedTuple):
    name: str
    model: str | None
    warning: str | None
    """One line for the operator, or None."""


def choose_recognizer(
    asr: str, model: str | None, *, is_reachable: Callable[[], bool] | None = None
) -> RecognizerChoice:
    """Resolves ``auto``, and a Whisper without a checkpoint; blocks for the probe at most."""
    if asr not in ("auto", "whisper"):
        return RecognizerChoice(asr, model, None)
    checkpoint = model or cached_checkpoint()
    if checkpoint is None and (asr == "whisper" or (is_reachable or is_hub_reachable)()):
        checkpoint = DEFAULT_CHECKPOINT
    if checkpoint is not None:
        return RecognizerChoice("whisper", checkpoint, None)
    return RecognizerChoice(
        EMBEDDED_RECOGNIZER,
        None,
        f"{EMBEDDED_RECOGNIZER} writes the captions (English only, modest accuracy): no Whisper "
        "checkpoint is configured or cached, and the model hub cannot be reached; for better "
        f"captions give --asr-model a Whisper folder, or {DEFAULT_CHECKPOINT} when online",
    )


def cached_checkpoint() -> str | None:
    """The preferred openai/whisper-* whose weights are complete in the hub's cache."""
    prefix = "models--openai--whisper-"
    found = {
        folder.name.removeprefix("models--").replace("--", "/")
        for folder in sorted(hub_cache().glob(f"{prefix}*"))
        if is_cached(folder)
    }
    preferred = [checkpoint for checkpoint in CACHED_PREFERENCE if checkpoint in found]
    return next(iter([*preferred, *sorted(found)]), None)


def is_cached(folder: Path) -> bool:
    """Whether a ``models--*`` folder of the cache has a snapshot with its safetensors."""
    return any(
        (snapshot / "config.json").exists() and any(snapshot.glob("*.safetensors"))
        for snapshot in folder.glob("snapshots/*")
    )


def hub_cache() -> Path:
    """Where huggingface_hub keeps its files, by its own rules."""
    if cache := os.environ.get("HF_HUB_CACHE"):
        return Path(cache).expanduser()
    return hub_home() / "hub"


def hub_home() -> Path:
    """Where it keeps everything else, such as its token."""
    user_cache = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    return Path(os.environ.get("HF_HOME", f"{user_cache}/huggingface")).expanduser()


def is_offline_wanted() -> bool:
    """By huggingface_hub's own rules."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}


def is_hub_reachable(timeout_s: float = HUB_PROBE_SECONDS_MAX) -> bool:
    """Whether the model hub, or the proxy before it, accepts a connection in time."""
    if is_offline_wanted():
        return False
    answers: list[bool] = []
    address = _hub_address()

    def probe() -> None:
        try:
            socket.create_connection(address, timeout_s).close()
        except OSError:
            return
        answers.append(True)

    # In a thread of its own: no timeout covers name resolution.
    thread = threading.Thread(target=probe, daemon=True)
    thread.start()
    thread.join(timeout_s)
    return bool(answers)


def _hub_address() -> tuple[str, int]:
    endpoint = urllib.parse.urlsplit(os.environ.get("HF_ENDPOINT", "https://huggingface.co"))
    host = endpoint.hostname or "huggingface.co"
    proxy = urllib.request.getproxies().get(endpoint.scheme)
    if proxy and not urllib.request.proxy_bypass(host):
        endpoint = urllib.parse.urlsplit(proxy if "://" in proxy else f"http://{proxy}")
        host = endpoint.hostname or host
    return host, endpoint.port or {"http": 80}.get(endpoint.scheme, 443)
