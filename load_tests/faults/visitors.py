"""People with short sessions, each in a way of their own: to the end, cut off, resumed, deleted.

Owns what is said to the server and nothing else; whoever counts what is left behind calls
``visit``. Every way that a session or a connection can end is among the kinds.
"""

import asyncio
import functools
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import aiohttp
import numpy as np
import orjson
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.frames import CloseCode
from websockets.typing import Subprotocol

from streaming.scripted_audio import encode_silence, encode_word
from streaming.wire import STREAM_PATH, SUBPROTOCOL

PACKET_BYTES = 3_200
VISIT_SECONDS_MAX = 60.0
REFUSED_SECONDS = 1.0
WORDS = 4
STREAMS = 8
Message = dict[str, Any]


@functools.cache
def speech(stream: int) -> bytes:
    """Some seconds of PCM16 with scripted words."""
    words = [encode_word(stream, number) for number in range(WORDS)]
    return np.concatenate([encode_silence(3_200), *words, encode_silence(12_800)]).tobytes()


@dataclass(frozen=True, slots=True)
class Door:
    """Where the server is."""

    url: str
    http: aiohttp.ClientSession

    def socket(self) -> connect:
        address = "ws" + self.url.removeprefix("http") + STREAM_PATH
        return connect(
            address, subprotocols=[Subprotocol(SUBPROTOCOL)], compression=None, proxy=None
        )


async def until(socket: ClientConnection, kind: str) -> Message:
    """Raises: ConnectionClosed."""
    while True:
        message: Message = orjson.loads(await socket.recv())
        if message["type"] == kind:
            return message


async def begin(socket: ClientConnection, number: int) -> Message:
    await socket.send('{"type":"start"}')
    ready = await until(socket, "ready")
    pcm = speech(number % STREAMS)
    for at in range(0, len(pcm), PACKET_BYTES):
        await socket.send(pcm[at : at + PACKET_BYTES])
    return ready


async def finish(socket: ClientConnection) -> None:
    await socket.send('{"type":"end"}')
    await until(socket, "done")


async def to_the_end(door: Door, number: int) -> str:
    async with door.socket() as socket:
        ready = await begin(socket, number)
        await finish(socket)
    return str(ready["session_id"])


async def cut_off(door: Door, number: int) -> None:
    """Nobody comes back; the session ends when its window is over."""
    async with door.socket() as socket:
        await begin(socket, number)
        socket.transport.abort()


async def resumed(door: Door, number: int) -> None:
    async with door.socket() as socket:
        ready = await begin(socket, number)
        await until(socket, "final")
        socket.transport.abort()
    async with door.socket() as socket:
        names = ("session_id", "resume_token")
        resume = {"type": "resume", "last_seq": 0, **{name: ready[name] for name in names}}
        await socket.send(orjson.dumps(resume).decode())
        await until(socket, "ready")
        await finish(socket)


async def watched(door: Door, number: int) -> None:
    """Somebody else reads along, and the transcript afterwards."""
    async with door.socket() as socket:
        ready = await begin(socket, number)
        events = f"{door.url}/v1/sessions/{ready['session_id']}/events"
        async with door.http.get(events) as along:
            reading = asyncio.create_task(along.read())
            await finish(socket)
            await reading
    async with door.http.get(events.replace("events", "transcript?format=srt")) as answer:
        await answer.read()


async def deleted(door: Door, number: int) -> None:
    session_id = await to_the_end(door, number)
    async with door.http.delete(f"{door.url}/v1/sessions/{session_id}") as answer:
        await answer.read()


async def nonsense(door: Door, _: int) -> None:
    async with door.socket() as socket:
        await socket.send('{"type":"start","audio":{"sample_rate":1}}')
        await until(socket, "error")


async def in_and_out(door: Door, _: int) -> None:
    async with door.socket():
        pass


async def looked(door: Door, _: int) -> None:
    for path in ("/healthz", "/readyz", "/metrics", "/v1/sessions", "/", "/v1/nothing"):
        async with door.http.get(door.url + path) as answer:
            await answer.read()


Visit = Callable[[Door, int], Awaitable[object]]
SESSIONS: tuple[Visit, ...] = (
    *[to_the_end] * 4,
    cut_off,
    resumed,
    watched,
    deleted,
)
"""Each opens one session."""
OTHERS: tuple[Visit, ...] = (nonsense, in_and_out, looked)
"""Between them: what opens none."""


async def visit(url: str, numbers: range, at_once: int) -> list[str]:
    """So many sessions, a few at once; returns what went wrong."""
    failures: list[str] = []
    waiting = iter(numbers)
    async with aiohttp.ClientSession() as http:
        door = Door(url, http)

        async def keep_visiting() -> None:
            for number in waiting:
                kinds = [SESSIONS[number % len(SESSIONS)]]
                kinds += [OTHERS[number // len(SESSIONS) % len(OTHERS)]] * (number % 4 == 0)
                for kind in kinds:
                    failures.extend(await _tried(kind, door, number))

        await asyncio.gather(*(keep_visiting() for _ in range(at_once)))
    return failures


async def look_around(url: str, at_once: int) -> None:
    """So many at the same moment, so that every pool of the server is as full as it gets."""
    async with aiohttp.ClientSession() as http:
        await asyncio.gather(*(looked(Door(url, http), 0) for _ in range(at_once)))


async def _tried(kind: Visit, door: Door, number: int) -> list[str]:
    """Whoever is refused because there are too many comes again, as a client does."""
    name = getattr(kind, "__name__", "visit")
    try:
        async with asyncio.timeout(VISIT_SECONDS_MAX):
            while not await _is_let_in(kind, door, number):  # noqa: ASYNC110  it is a retry
                await asyncio.sleep(REFUSED_SECONDS)
    except (ConnectionClosed, OSError, TimeoutError, aiohttp.ClientError) as error:
        return [f"{name} {number}: {type(error).__name__}: {error}"]
    return []


async def _is_let_in(kind: Visit, door: Door, number: int) -> bool:
    """Raises: ConnectionClosed, OSError, ClientError, for any other reason."""
    try:
        await kind(door, number)
    except InvalidStatus as refused:
        if refused.response.status_code != HTTPStatus.SERVICE_UNAVAILABLE:
            raise OSError(f"HTTP status {refused.response.status_code}") from None
        return False
    except ConnectionClosed as closed:
        if closed.rcvd is None or closed.rcvd.code != CloseCode.TRY_AGAIN_LATER:
            raise
        return False
    return True
