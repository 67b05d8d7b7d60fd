"""Memory of a live session whose buffer is full: what the server and its workers grow by.

Every session speaks without a pause and has almost reached the longest window, so that nothing of
its audio is committed and all of it is in memory; a few packets more keep it live meanwhile.
"""

import asyncio
import contextlib
import re
import tempfile
from pathlib import Path
from urllib.request import urlopen

import numpy as np
import orjson
import psutil
import uvloop
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from load_tests.bench.section import Effort, Figures, section
from server.child import ServerChild, running_server
from streaming.scripted_audio import WORD_SAMPLES, encode_word
from streaming.timeline import SAMPLE_RATE_HZ
from streaming.wire import STREAM_PATH, SUBPROTOCOL, Start, encode_client_message

CAP_SECONDS = 30
FILLED_SECONDS = 29.0
"""Less than the cap, at which the window would be committed and leave memory."""
TRICKLE_SECONDS = 0.2
"""A session that gets no audio for a second closes its utterance."""
TRICKLE_SAMPLES = SAMPLE_RATE_HZ // 1000
FILLS_AT_ONCE = 4
"""So few that no more than live audio ever waits between the socket and the sessions."""
SETTLE_SECONDS = 3.0
QUEUES_SECONDS_MAX = 120.0
WARMING_SESSIONS = 10
FULL_SHARE_MIN = 0.95
"""Of what was sent must still be in memory when it is measured."""


@section("memory", bounds={"memory_mb_per_session": 1.5})
def measure(effort: Effort) -> Figures:
    return uvloop.run(_measure(10 if effort.is_quick else 200))


async def _measure(sessions: int) -> Figures:
    options = ["--asr", "scripted", "--diarizer", "scripted", "--window-cap-s", str(CAP_SECONDS)]
    options += ["--sessions-max", str(sessions), "--resume-window-s", "0.1"]
    with tempfile.TemporaryDirectory(prefix="captiond-memory-") as folder:
        async with running_server(options, Path(folder)) as server:
            # What the first sessions ever load and compile is no later session's cost.
            await _resident_with(server, WARMING_SESSIONS)
            await asyncio.sleep(SETTLE_SECONDS)
            at_none = _resident_bytes(server)
            at_all = await _resident_with(server, sessions)
    return {"memory_mb_per_session": round((at_all - at_none) / sessions / 1e6, 3)}


async def _resident_with(server: ServerChild, sessions: int) -> int:
    """Bytes while so many sessions are live and full. Raises: RuntimeError where they are not."""
    async with asyncio.TaskGroup() as group:
        turns, full = asyncio.Semaphore(FILLS_AT_ONCE), asyncio.Semaphore(0)
        talkers = [
            group.create_task(_talk(server.url, stream, turns, full))
            for stream in range(1, sessions + 1)
        ]
        for _ in talkers:
            await full.acquire()
        await _until_queues_are_empty(server.url)
        held_s = _total(await asyncio.to_thread(_metrics, server.url), "captiond_backlog_seconds")
        resident = _resident_bytes(server)
        for talker in talkers:
            talker.cancel()
    if held_s < FULL_SHARE_MIN * sessions * FILLED_SECONDS:
        raise RuntimeError(f"only {held_s} s of audio were in memory, so nothing was measured")
    return resident


def _resident_bytes(server: ServerChild) -> int:
    process = psutil.Process(server.process.pid)
    return sum(one.memory_info().rss for one in [process, *process.children(recursive=True)])


async def _until_queues_are_empty(url: str) -> None:
    """What waits for an engine is memory of the engine's slowness. Raises: TimeoutError."""
    async with asyncio.timeout(QUEUES_SECONDS_MAX):
        while True:
            await asyncio.sleep(SETTLE_SECONDS)
            if not _total(await asyncio.to_thread(_metrics, url), "captiond_queue_depth"):
                return


def _metrics(url: str) -> str:
    with urlopen(f"{url}/metrics") as page:
        text: str = page.read().decode()
    return text


def _total(metrics: str, name: str) -> float:
    """Over all labels."""
    values = re.findall(rf"^{name}(?:{{.*}})? (\S+)$", metrics, re.MULTILINE)
    return sum(map(float, values))


async def _talk(url: str, stream: int, turns: asyncio.Semaphore, full: asyncio.Semaphore) -> None:
    """Fills the session's buffer in its turn, then speaks on very slowly until cancelled."""
    words = round(FILLED_SECONDS * SAMPLE_RATE_HZ) // WORD_SAMPLES
    async with connect(
        "ws" + url.removeprefix("http") + STREAM_PATH,
        subprotocols=[Subprotocol(SUBPROTOCOL)],
        compression=None,
        proxy=None,
    ) as socket:
        await socket.send(encode_client_message(Start()))
        ready = orjson.loads(await socket.recv())
        if ready["type"] != "ready":
            raise RuntimeError(f"a session was refused: {ready}")
        reading = asyncio.create_task(_read(socket))
        async with turns:
            for number in range(words):
                await socket.send(encode_word(stream, number).tobytes())
            await (await socket.ping())  # answered behind all that was sent before it
        full.release()
        loud = np.full(TRICKLE_SAMPLES, 3_000, np.int16).tobytes()
        while not reading.done():
            await socket.send(loud)
            await asyncio.sleep(TRICKLE_SECONDS)


async def _read(socket: ClientConnection) -> None:
    with contextlib.suppress(ConnectionClosed):
        async for _ in socket:
            pass
