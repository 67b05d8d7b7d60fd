"""Readers besides the talker: the same events, each with a place of its own."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import numpy as np
import pytest
import pytest_asyncio

from clients.stream import CaptionStream
from server.child import ServerChild, running_server
from streaming.engines import Samples
from streaming.events import Final
from streaming.scripted_audio import encode_silence, encode_word
from streaming.timeline import SAMPLE_RATE_HZ

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ServerChild]:
    arguments = ["--asr", "scripted", "--diarizer", "none"]
    async with running_server(arguments, tmp_path_factory.mktemp("subscription")) as child:
        yield child


def utterance(first: int) -> Samples:
    words = [encode_word(3, first + number) for number in range(3)]
    return np.concatenate([*words, encode_silence(SAMPLE_RATE_HZ)])


async def sse(url: str, **headers: str) -> AsyncIterator[dict[str, Any]]:
    """The events of a stream of server-sent events, until it ends."""
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.get(url) as response,
    ):
        assert response.status == 200, await response.text()
        assert response.content_type == "text/event-stream"
        async for line in response.content:
            if line.startswith(b"data: "):
                yield json.loads(line.removeprefix(b"data: "))


async def finals_of(url: str, **headers: str) -> list[str]:
    return [e["text"] async for e in sse(url, **headers) if e["type"] == "final"]


async def test_viewers_read_along_come_late_and_come_back(server: ServerChild) -> None:
    async with CaptionStream.open(server.url) as stream:
        url = f"{server.url}/v1/sessions/{stream.ready.session_id}/events"
        viewer = asyncio.create_task(finals_of(url))
        await stream.send(utterance(0).tobytes())
        talker = aiter(stream)
        first = await anext(event async for event in talker if isinstance(event, Final))
        latecomer = asyncio.create_task(finals_of(url))
        returning = asyncio.create_task(finals_of(url, **{"Last-Event-ID": str(first.seq)}))
        await stream.send(utterance(3).tobytes())
        await stream.end()
        rest = [event.text async for event in talker if isinstance(event, Final)]
    expected = ["w0.3 w1.3 w2.3", "w3.3 w4.3 w5.3"]
    assert [first.text, *rest] == expected
    assert await viewer == expected
    assert await latecomer == expected
    assert await returning == expected[1:]
    assert await finals_of(url) == expected


async def test_a_place_that_is_no_number_is_refused(server: ServerChild) -> None:
    async with CaptionStream.open(server.url) as stream, aiohttp.ClientSession() as session:
        url = f"{server.url}/v1/sessions/{stream.ready.session_id}/events?after_seq=-1"
        async with session.get(url) as response:
            assert response.status == 400
            assert (await response.json())["code"] == "bad_message"
        await stream.end()
        assert [event async for event in stream]
