"""The server that is killed: a real one, which comes back on the same port and over the same store.

Owns: its processes, its port and how they end. Knows nothing of what is said to it, or when it is
killed.
"""

import asyncio
import contextlib
import random
import signal
import socket
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Self

import aiohttp
import psutil

from server.child import ServerChild, running_server

SERVER_OPTIONS = ("--asr", "scripted", "--diarizer", "scripted", "--sessions-max", "5000")
"""Room for the sessions whose ``ready`` was cut off, which nobody comes back to."""
GONE_SECONDS_MAX = 10.0
POLL_SECONDS = 0.05
PORTS = range(10_000, 32_000)
"""Below those that the kernel gives to outgoing connections: a client that calls a dead server on
such a port can be connected to itself, and then holds the port."""


class Victim:
    """A server that is killed and comes back, on the same port and over the same store."""

    def __init__(self, folder: Path, store: str | None = None) -> None:
        """``store``: the URL of one that others use too; None makes one in ``folder``."""
        self._folder = folder
        self._store = store or str(folder / "captiond.db")
        self._lives = 0
        self._life = contextlib.AsyncExitStack()
        self._child: ServerChild | None = None
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.began_s = 0.0
        """When this life began; monotonic."""

    @classmethod
    @contextlib.asynccontextmanager
    async def alive(cls, folder: Path, store: str | None = None) -> AsyncIterator[Self]:
        """Ready; stopped in good order at the end."""
        victim = cls(folder, store)
        async with victim._life:
            await victim.rise()
            yield victim

    async def rise(self) -> None:
        self.began_s = time.monotonic()
        arguments = (*SERVER_OPTIONS, "--port", str(self.port), "--store", self._store)
        # Each life's log in a folder of its own.
        self._lives += 1
        life_folder = self._folder / f"{self.port}" / f"{self._lives}"
        await asyncio.to_thread(life_folder.mkdir, parents=True)
        self._child = await self._life.enter_async_context(
            running_server(arguments, life_folder, hears_keyboard=False)
        )

    async def die(self) -> int:
        """``kill -9``; how many of its worker processes outlived it for long."""
        assert self._child is not None
        workers = psutil.Process(self._child.process.pid).children()
        self._child.kill()
        await self._child.process.wait()
        await self._life.aclose()
        return await survivors(workers, GONE_SECONDS_MAX)

    async def lose_worker(self, chance: random.Random) -> None:
        """``kill -9`` for one of its worker processes; returns when that is gone."""
        assert self._child is not None
        worker = chance.choice(psutil.Process(self._child.process.pid).children())
        worker.send_signal(signal.SIGKILL)
        await asyncio.to_thread(worker.wait, GONE_SECONDS_MAX)

    async def workers_are_there(self) -> None:
        async with aiohttp.ClientSession() as http:
            while True:
                async with http.get(f"{self.url}/readyz") as answer:
                    if answer.status == 200:
                        return
                await asyncio.sleep(POLL_SECONDS)


async def survivors(processes: Sequence[psutil.Process], seconds_max: float) -> int:
    """How many are still there after so long; returns at once when all are gone."""
    give_up_s = time.monotonic() + seconds_max
    while alive := sum(map(_is_alive, processes)):
        if time.monotonic() > give_up_s:
            break
        await asyncio.sleep(POLL_SECONDS)
    return alive


def _is_alive(process: psutil.Process) -> bool:
    # Whoever inherits a dead child may never ask how it ended: a zombie runs no more.
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def free_port() -> int:
    """Nobody listens there now. Raises: RuntimeError."""
    for port in random.sample(PORTS, 50):
        with socket.socket() as one, contextlib.suppress(OSError):
            one.bind(("127.0.0.1", port))
            return port
    raise RuntimeError(f"no free port was found between {PORTS.start} and {PORTS.stop}")
