"""Runs a captiond server as a child process, for the demo, the load generator and tests."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator, Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

LISTENING_PREFIX = "captiond is listening on "
READY_LINE = "captiond is ready"
"""Both lines go to standard output, for people and for programs that start a server."""
READY_SECONDS_MAX = 120.0
"""Loading and warming the largest embedded default takes a few seconds on two slow cores."""
STOP_SECONDS_MAX = 40.0
"""Above the default drain time."""
LOG_LINES_MAX = 40
"""Of standard error, kept to explain a server that did not start."""

_ENDING_SIGNALS = (signal.SIGTERM, signal.SIGHUP)
"""Ctrl-C becomes a cancellation by itself; these would end the program at once."""
_T = TypeVar("_T")
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


def run_with_server(work: Coroutine[Any, Any, _T]) -> _T:
    """As ``asyncio.run``, for a program that has a server as a child: a signal that ends the
    program ends what it does first, and so the server, which would outlive it otherwise.

    Raises: SystemExit with the status of a signal, beside what ``work`` raises.
    """
    received: list[int] = []

    async def ended_by_signals() -> _T:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None

        def end(number: int) -> None:
            received.append(number)
            if len(received) == 1:  # a second one must not cut the end short
                task.cancel()

        for number in _ENDING_SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup has it
                loop.add_signal_handler(number, end, number)
        return await work

    try:
        return asyncio.run(ended_by_signals())
    except asyncio.CancelledError:
        raise SystemExit(128 + (received or [signal.SIGINT])[0]) from None


@contextlib.asynccontextmanager
async def running_server(
    arguments: Sequence[str],
    folder: Path,
    *,
    environment: dict[str, str] | None = None,
    hears_keyboard: bool = True,
    program: str = "server",
) -> AsyncIterator[ServerChild]:
    """``captiond serve`` on a free port, store and log in ``folder``; stopped at the end.

    ``hears_keyboard``: Ctrl-C reaches it too. False where its client is still to finish then.
    ``program``: a module that runs the same command, with something to look at it by.
    Raises: ServerDied, TimeoutError.
    """
    log_path = folder / "server.log"
    command = [sys.executable, "-P", "-m", program, "serve", "--port", "0"]
    command += ["--store", str(folder / "captiond.db"), *arguments]
    with log_path.open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdout=asyncio.subprocess.PIPE,
            stderr=log,
            cwd=folder,
            start_new_session=not hears_keyboard,
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
