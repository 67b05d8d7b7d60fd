"""A real server started as systemd starts a service with a socket unit."""

import asyncio
import os
import signal
import socket
import sys
from pathlib import Path

import aiohttp
import pytest

from tests.socket_units import with_socket
from tests.system.talker import SCRIPTED, Talker, clip, texts

pytestmark = pytest.mark.slow

SECONDS_MAX = 60.0
WORDS = 5


async def test_a_server_takes_over_a_socket_and_says_when_it_is_ready(tmp_path: Path) -> None:
    loop = asyncio.get_running_loop()
    with (
        socket.create_server(("127.0.0.1", 0)) as listening,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified,
    ):
        notified.bind(str(tmp_path / "notify"))
        notified.setblocking(False)
        port = listening.getsockname()[1]
        serve = [sys.executable, "-m", "server", "serve", *SCRIPTED, "--port", "1"]
        program = await asyncio.create_subprocess_exec(
            *with_socket(listening, [*serve, "--store", str(tmp_path / "captiond.db")]),
            pass_fds=[listening.fileno()],
            env={**os.environ, "NOTIFY_SOCKET": str(tmp_path / "notify")},
            stdout=asyncio.subprocess.DEVNULL,
        )
        try:
            async with asyncio.timeout(SECONDS_MAX):
                assert await loop.sock_recv(notified, 100) == b"READY=1"
                # Whoever connected before the server was there waited in this socket's queue.
                url = f"http://127.0.0.1:{port}"
                async with aiohttp.ClientSession() as client, client.get(url + "/readyz") as ready:
                    assert ready.status == 200
                talker = await Talker.start(url)
                await talker.socket.send(clip(1, WORDS))
                await talker.say("end")
                await talker.until("done")
                assert talker.words == texts(1, WORDS)
                program.send_signal(signal.SIGTERM)
                assert await loop.sock_recv(notified, 100) == b"STOPPING=1"
                assert await program.wait() == 0
        finally:
            if program.returncode is None:
                program.kill()
                await program.wait()
