"""What is compared: a server with its options, how to start it, and the format it speaks."""

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path

from load_tests.peers.talking import Dialect

START_SECONDS_MAX = 180.0
POLL_SECONDS = 0.1
STOP_SECONDS_MAX = 15.0
LOG_LINES_MAX = 40


class PeerFailed(Exception):
    """A server could not be installed, started or talked to; the message ends with its log."""


@dataclass(frozen=True, slots=True)
class Running:
    """A server that takes connections."""

    url: str
    """ws://host:port"""
    pid: int
    log_path: Path


@dataclass(frozen=True, slots=True)
class System:
    """One row of the comparison."""

    name: str
    serve: Callable[[Path, int], AbstractAsyncContextManager[Running]]
    """In a folder of its own, with room for so many streams. Raises: PeerFailed."""
    dialect: Callable[[], Dialect]
    options: tuple[str, ...]
    """As on its command line."""
    why: str
    """These options, and no others."""
    finals: str | None = None
    """Of captiond: ``exact`` or ``calibrated``; None for a peer."""
    versions: Mapping[str, str] = field(default_factory=dict)
    streams_guess: int = 2
    """Looked at after one stream: only saves time."""


def free_port() -> int:
    """Of this moment: for servers that cannot choose one themselves."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def last_lines(path: Path) -> str:
    return "\n".join(path.read_text(errors="replace").splitlines()[-LOG_LINES_MAX:])


@contextlib.asynccontextmanager
async def foreign_server(
    command: Sequence[str], folder: Path, port: int, environment: Mapping[str, str]
) -> AsyncIterator[Running]:
    """Somebody else's server, once it listens on ``port``. Raises: PeerFailed."""
    log_path = folder / "server.log"
    with log_path.open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdout=log,
            stderr=log,
            cwd=folder,
            env={**os.environ, **environment},
        )
    try:
        await _until_it_listens(process, port, log_path)
        yield Running(f"ws://127.0.0.1:{port}", process.pid, log_path)
    finally:
        if process.returncode is None:
            process.terminate()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), STOP_SECONDS_MAX)
        if process.returncode is None:
            process.kill()
            await process.wait()


async def _until_it_listens(process: asyncio.subprocess.Process, port: int, log: Path) -> None:
    gives_up_s = time.monotonic() + START_SECONDS_MAX
    while time.monotonic() < gives_up_s:
        if process.returncode is not None:
            raise PeerFailed(f"it ended with {process.returncode}:\n{last_lines(log)}")
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(POLL_SECONDS)
            continue
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
        return
    raise PeerFailed(f"it did not listen within {START_SECONDS_MAX} s:\n{last_lines(log)}")
