"""One stream against small servers on real sockets, each with a way to go wrong."""

import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import numpy as np
import pytest
from websockets.asyncio.server import ServerConnection, serve

from load_tests.bench.speech import Recording, SaidWord
from load_tests.peers import talking
from load_tests.peers.captiond import CaptiondDialect
from load_tests.peers.talking import Heard, Talker
from load_tests.peers.whisper_live import WhisperLiveDialect
from streaming.timeline import Span

SAMPLES = 4_000
"""Three packets, the last one not full."""
RECORDING = Recording("a", np.zeros(SAMPLES, np.int16), (SaidWord("Yes.", Span(0, 1_600)),))
PARTIAL = '{"type":"partial","caption_id":"c","start":0.0,"text":"yes"}'
Handler = Callable[[ServerConnection], Awaitable[None]]


@contextlib.asynccontextmanager
async def serving(handler: Handler) -> AsyncIterator[str]:
    async with serve(handler, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        yield f"ws://127.0.0.1:{port}"


async def heard_from(handler: Handler, dialect: talking.Dialect) -> Heard:
    async with serving(handler) as url:
        return await Talker(RECORDING, url, dialect).talk(time.monotonic())


class Captiond(CaptiondDialect):
    subprotocols = ()


async def test_packets_leave_by_the_clock_and_words_are_judged() -> None:
    received = list[str | bytes]()

    async def handler(socket: ServerConnection) -> None:
        received.append(await socket.recv())
        await socket.send('{"type":"ready"}')
        for _ in range(3):
            received.append(await socket.recv())
        await socket.send(PARTIAL)
        received.append(await socket.recv())
        await socket.send('{"type":"done"}')

    heard = await heard_from(handler, Captiond())
    assert heard.failure is None
    assert [len(packet) for packet in received[1:4]] == [3_200, 3_200, 1_600]
    assert received[-1] == '{"type":"end"}'
    assert heard.sent_s[-1] - heard.sent_s[0] > 0.15
    assert len(heard.lateness_s) == 3
    judged = heard.judged()
    assert judged.errors.rate == 0
    assert len(judged.stable_s) == 1


async def test_a_server_that_hangs_up_is_a_failed_stream() -> None:
    async def handler(socket: ServerConnection) -> None:
        await socket.send('{"type":"ready"}')
        await socket.recv()
        await socket.close(1011, "no more")

    heard = await heard_from(handler, Captiond())
    assert heard.failure is not None
    assert "1011" in heard.failure


async def test_a_refusal_is_told() -> None:
    async def handler(socket: ServerConnection) -> None:
        await socket.send('{"type":"error","code":"overloaded","message":"later"}')
        await socket.close(1013)

    heard = await heard_from(handler, Captiond())
    assert heard.failure == "error overloaded: later"
    assert heard.sent_s == []


async def test_nobody_listens() -> None:
    heard = await Talker(RECORDING, "ws://127.0.0.1:9", Captiond()).talk(time.monotonic())
    assert heard.failure is not None


async def test_who_never_says_that_it_is_done_is_done_when_the_text_is_still(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(talking, "STILL_SECONDS", 0.2)
    ended = list[str | bytes]()

    async def handler(socket: ServerConnection) -> None:
        await socket.recv()
        await socket.send('{"message":"SERVER_READY"}')
        for _ in range(3):
            await socket.recv()
        await socket.send('{"segments":[{"start":"0","text":"yes","completed":false}]}')
        ended.append(await socket.recv())

    heard = await heard_from(handler, WhisperLiveDialect())
    assert heard.failure is None
    assert heard.is_done
    assert ended == [b"END_OF_AUDIO"]
    assert heard.judged().errors.rate == 0
