"""Runs a captiond server as a child process, for the demo, the load generator and tests."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

LISTENING_PREFIX = "captiond is listening on "
READY_LINE = "captiond is ready"
"""Both lines go to standard output, for people and for programs that start a server."""
READY_SECONDS_MAX = 120.0
"""Loading and warming the largest embedded default takes a few seconds on two slow cores."""
STOP_SECONDS_MAX = 40.0
"""Above the default drain time."""
LOG_LINES_MAX = 40
"""Of standard error, kept to explain a server that did not start."""

_PACKAGES = str(Path(__file__).resolve().parent.parent)
_SEARCH_PATH = os.pathsep.join(filter(None, [_PACKAGES, os.environ.get("PYTHONPATH")]))


class ServerDied(Exception):
    """The child ended before it was ready; the message holds its last lines."""


@dataclass(slots=True)
class ServerChild:
    """A server that is ready."""

    url: str
    process: asyncio.subprocess.Process
    log_path: Path

    async def stop(self) -> int:
        """SIGTERM, then the exit status."""
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGTERM)
        return await asyncio.wait_for(self.process.wait(), STOP_SECONDS_MAX)

    def kill(self) -> None:
        """As a crash would."""
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()


@contextlib.asynccontextmanager
async def running_server(
    arguments: Sequence[str], folder: Path, *, environment: dict[str, str] | None = None
) -> AsyncIterator[ServerChild]:
    """``captiond serve`` on a free port, store and log in ``folder``; stopped at the end.

    Raises: ServerDied, TimeoutError.
    """
    log_path = folder / "server.log"
    command = [sys.executable, "-P", "-m", "server", "serve", "--port", "0"]
    command += ["--store", str(folder / "captiond.db"), *arguments]
    with log_path.open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdout=asyncio.subprocess.PIPE,
            stderr=log,
            cwd=folder,
            env={**os.environ, "PYTHONPATH": _SEARCH_PATH, **(environment or {})},
        )
    try:
        async with asyncio.timeout(READY_SECONDS_MAX):
            url = await _ready_url(process, log_path)
        yield ServerChild(url, process, log_path)
    finally:
        if process.returncode is None:
            process.terminate()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), STOP_SECONDS_MAX)
        if process.returncode is None:
            process.kill()
            await process.wait()


async def _ready_url(process: asyncio.subprocess.Process, log_path: Path) -> str:
    assert process.stdout is not None
    url = ""
    async for raw in process.stdout:
        line = raw.decode(errors="replace").strip()
        if line.startswith(LISTENING_PREFIX):
            url = line.removeprefix(LISTENING_PREFIX)
        elif line == READY_LINE:
            return url
    await process.wait()
    raise ServerDied("the server did not start:\n" + _last_lines(log_path))


def _last_lines(path: Path) -> str:
    return "\n".join(path.read_text(errors="replace").splitlines()[-LOG_LINES_MAX:])
