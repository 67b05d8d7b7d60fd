"""Looks at the machine: processors, torch, hub, packages, sound, port, store, certificate.

Owns: every look, each with a limit, so that all of them are over within ``SECONDS_MAX``. Judges
nothing, and never holds a token, only whether there is one. torch and PortAudio are asked in
processes of their own.
"""

import asyncio
import contextlib
import http.client
import importlib.util
import ipaddress
import os
import platform
import shutil
import socket
import sqlite3
import ssl
import sys
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import psutil

from server.config import Settings
from server.cpu_budget import cpu_budget
from server.engines.hub import SHIPPED_PIPELINE, has_cached_files, is_folder_name
from server.engines.selection import (
    HUB_PROBE_SECONDS_MAX,
    choose_recognizer,
    hub_cache,
    hub_home,
    is_cached,
    is_hub_reachable,
    is_offline_wanted,
)
from server.schema import UnusableDatabase, checked_url, is_file, shown
from server.tls import ServerTls, TlsError

SECONDS_MAX = 30.0
"""torch alone takes ten seconds to import from a cold disk."""
CHILD_SECONDS_MAX = 25.0
LINE_CHARACTERS_MAX = 300
HEALTH_SECONDS_MAX = 2.0
PACKAGES = (
    *("onnxruntime", "silero_vad", "pocketsphinx", "sounddevice", "meeteval", "matplotlib"),
)
"""Import names that are looked for; ``checks`` knows what each is good for."""
HUB_UNREACHABLE = "and the model hub cannot be reached"
_CGROUP_ROOT = Path("/sys/fs/cgroup")
_MEMORY_LIMITS = ("memory.max", "memory/memory.limit_in_bytes")
"""Of control groups, version 2 and 1."""
_ROOT = str(Path(__file__).resolve().parents[2])


@dataclass(frozen=True, slots=True)
class Told:
    """What a process of its own said: an object, or why there is none."""

    values: dict[str, Any]
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Facts:
    """All that was seen."""

    python: tuple[int, int, int]
    processors: int
    """Of the machine, as the operating system counts."""
    budget: int
    """Of them for this process: affinity and container quota."""
    cpu_model: str
    cpu_flags: frozenset[str]
    memory_bytes: int
    """Of the machine, or of the container where that has less."""
    torch: Told
    has_nvidia: bool
    """A driver is installed, whatever torch makes of it."""
    is_offline_wanted: bool
    is_hub_reachable: bool
    has_token: bool
    cached_models: tuple[str, ...]
    recognizer: str
    recognizer_model: str | None
    recognizer_problem: str | None
    """Why its model would not be there at a start."""
    is_second_choice: bool
    """``auto`` had to take the embedded recognizer."""
    diarizer: str
    diarizer_model: str | None
    diarizer_problem: str | None
    """As the recognizer's."""
    voice_activity: str
    packages: frozenset[str]
    """Those of ``PACKAGES`` that are installed."""
    has_speaker_weights: bool
    microphones: Told
    sqlite: tuple[int, ...]
    store_folder: str
    store_problem: str | None
    free_bytes: int | None
    """On the store's disk; None where the folder does not exist."""
    address: str
    port_problem: str | None
    is_captiond_there: bool
    """What has the port is a captiond that is well."""
    tls_problem: str | None
    tls_warning: str | None


async def gather_facts(settings: Settings) -> Facts:
    """Everything at once; takes as long as importing torch."""
    async with asyncio.timeout(SECONDS_MAX):
        torch, microphones, is_reachable = await asyncio.gather(
            told_by("server.engines.torch_facts"),
            told_by("server.doctor.microphone"),
            asyncio.to_thread(is_hub_reachable, HUB_PROBE_SECONDS_MAX),
        )
    return await asyncio.to_thread(_look, settings, torch, microphones, is_reachable)


def _look(settings: Settings, torch: Told, microphones: Told, is_reachable: bool) -> Facts:
    """What takes no time."""
    choice = choose_recognizer(settings.asr, settings.asr_model, is_reachable=lambda: is_reachable)
    folder, store_problem = _store(settings.store_url)
    tls_problem, tls_warning = _tls(settings)
    cached = _cached_models()
    port_problem = _port_problem(settings.host, settings.port)
    return Facts(
        python=sys.version_info[:3],
        processors=os.cpu_count() or 1,
        budget=settings.threads or cpu_budget(),
        cpu_model=_cpu_info("model name") or platform.processor() or platform.machine(),
        cpu_flags=frozenset(_cpu_info("flags").split()),
        memory_bytes=memory_bytes(psutil.virtual_memory().total),
        torch=torch,
        has_nvidia=Path("/proc/driver/nvidia/version").exists(),
        is_offline_wanted=is_offline_wanted(),
        is_hub_reachable=is_reachable,
        has_token=_has_token(),
        cached_models=cached,
        recognizer=choice.name,
        recognizer_model=choice.model,
        recognizer_problem=model_problem(
            choice.model, is_cached=choice.model in cached, is_reachable=is_reachable
        ),
        is_second_choice=choice.warning is not None,
        diarizer=settings.diarizer,
        diarizer_model=settings.diarizer_model,
        # Its weights have a form of their own: some file of it must do.
        diarizer_problem=model_problem(
            settings.diarizer_model,
            is_cached=has_cached_files(settings.diarizer_model or ""),
            is_reachable=is_reachable,
        ),
        voice_activity=settings.vad,
        packages=frozenset(name for name in PACKAGES if importlib.util.find_spec(name)),
        has_speaker_weights=_has_speaker_weights(),
        microphones=microphones,
        sqlite=sqlite3.sqlite_version_info,
        store_folder=str(folder) if folder else shown(settings.store_url),
        store_problem=store_problem,
        free_bytes=_free_bytes(folder),
        address=f"{settings.host}:{settings.port}",
        port_problem=port_problem,
        is_captiond_there=port_problem is not None and _is_captiond(settings),
        tls_problem=tls_problem,
        tls_warning=tls_warning,
    )


def model_problem(model: str | None, *, is_cached: bool, is_reachable: bool) -> str | None:
    """Why the files of a model would not be there; None also where the engine has its own."""
    if model in (None, SHIPPED_PIPELINE) or Path(model).expanduser().is_dir():
        return None
    if is_folder_name(model):
        return f"there is no folder {model}"
    if is_cached or is_reachable:
        return None
    return f"{model} is neither a folder nor in the cache, {HUB_UNREACHABLE}"


def memory_bytes(total: int, cgroup_root: Path = _CGROUP_ROOT) -> int:
    """``total`` of the machine, or the container's limit."""
    limits = [total]
    for name in _MEMORY_LIMITS:
        with contextlib.suppress(OSError, ValueError):  # "max" is no limit
            limits.append(int((cgroup_root / name).read_text()))
    return min(limits)


async def told_by(module: str, seconds: float = CHILD_SECONDS_MAX) -> Told:
    """Run a module as a program and read the object on the last line of its output."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", module),
        env={
            **os.environ,
            # An empty place in it would be the working folder, and what lies there.
            "PYTHONPATH": os.pathsep.join(filter(None, [_ROOT, os.environ.get("PYTHONPATH")])),
        },
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(seconds):
            out, err = await process.communicate()
    except TimeoutError:
        return Told({}, f"no answer within {seconds:g} s")
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        return Told({}, _last_line(err) or f"exit status {process.returncode}")
    try:
        values = orjson.loads(out.strip().splitlines()[-1])
    except (IndexError, orjson.JSONDecodeError):
        return Told({}, "it said nothing that can be read")
    return Told(values)


def _last_line(output: bytes) -> str:
    lines = output.decode(errors="replace").strip().splitlines()
    return lines[-1][:LINE_CHARACTERS_MAX] if lines else ""


def _cpu_info(name: str) -> str:
    """A line of Linux' list of processors, of the first of them; empty elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    found = (line.partition(":") for line in lines)
    return next((value.strip() for key, _, value in found if key.strip() == name), "")


def _has_token() -> bool:
    """Where huggingface_hub looks for one; it is not read."""
    if os.environ.get("HF_TOKEN") or os.environ.get("HUGGING_FACE_HUB_TOKEN"):
        return True
    default = hub_home() / "token"
    return Path(os.environ.get("HF_TOKEN_PATH", default)).expanduser().is_file()


def _cached_models() -> tuple[str, ...]:
    """Hub ids whose weights are complete in the cache."""
    folders = sorted(hub_cache().glob("models--*"))
    whole = (folder.name for folder in folders if is_cached(folder))
    return tuple(name.removeprefix("models--").replace("--", "/") for name in whole)


def _has_speaker_weights() -> bool:
    spec = importlib.util.find_spec("resemblyzer")
    folders = spec.submodule_search_locations if spec else None
    return bool(folders) and (Path(next(iter(folders or ()))) / "pretrained.pt").is_file()


def _store(url: str) -> tuple[Path | None, str | None]:
    """The folder of the store's file, and why nothing can be written there."""
    try:
        parsed = checked_url(url)
        if not is_file(parsed):
            return None, None  # a database server: the start says whether it can be used
        folder = Path(str(parsed.database)).absolute().parent
    except UnusableDatabase as error:
        return None, str(error)
    try:
        with tempfile.TemporaryFile(dir=folder):
            return folder, None
    except OSError as error:
        return folder, f"{folder}: {error.strerror}"


def _free_bytes(folder: Path | None) -> int | None:
    with contextlib.suppress(OSError):
        return shutil.disk_usage(folder).free if folder else None
    return None


def _port_problem(host: str, port: int) -> str | None:
    """Binds for a moment, to an address only: resolving a name may take minutes."""
    literal = "127.0.0.1" if host == "localhost" else host.strip("[]")
    try:
        family = socket.AF_INET6 if ipaddress.ip_address(literal).version == 6 else socket.AF_INET
    except ValueError:
        return None
    try:
        with socket.socket(family) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind((literal, port))
    except OSError as error:
        return error.strerror or str(error)
    return None


def _is_captiond(settings: Settings) -> bool:
    """Asks ``/healthz`` on this machine. Who answers is not to be trusted, only named."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)
    connection = http.client.HTTPConnection(host, settings.port, timeout=HEALTH_SECONDS_MAX)
    if settings.tls_cert is not None:
        trust = ssl.create_default_context()
        trust.check_hostname, trust.verify_mode = False, ssl.CERT_NONE
        connection = http.client.HTTPSConnection(
            host, settings.port, timeout=HEALTH_SECONDS_MAX, context=trust
        )
    try:
        connection.request("GET", "/healthz")
        return connection.getresponse().read(100) == b"ok\n"
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _tls(settings: Settings) -> tuple[str | None, str | None]:
    """Problem and warning."""
    if settings.tls_cert is None or settings.tls_key is None:
        return None, None
    try:
        tls = ServerTls(settings.tls_cert, settings.tls_key)
        return None, tls.warning(datetime.now(UTC))
    except TlsError as error:
        return str(error), None
