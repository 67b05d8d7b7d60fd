import asyncio
import contextlib
import io
import json
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import numpy as np
import pytest
import pytest_asyncio

from load_tests.faults.proxy import Cut, Direction, Ending, FaultProxy, Line
from server.protocols import openai_form, openai_rest
from server.workers import CallFailed
from tests.clients.conftest import scripted_clip
from tests.openai_requests import (
    AUTHORIZED,
    BODY,
    KEY,
    PATH,
    RECORDING,
    TEXT,
    closed,
    connected,
    get,
    head,
    post,
)
from tests.recordings import wav
from tests.server_fakes import SECONDS_MAX, Front, running, until

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def front(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Front]:
    folder = tmp_path_factory.mktemp("openai")
    options: dict[str, Any] = {"diarizer": "scripted", "api_keys": [f"ann:{KEY}"]}
    async with running(folder, **options) as found:
        yield found


# Uploads that break


async def test_an_upload_that_is_cut_leaves_nothing_behind(front: Front) -> None:
    sessions = await front.hub.store.sessions("ann", limit=99, before=None)
    _, writer = await connected(front)
    writer.write(head(len(BODY)) + BODY[: len(BODY) // 2])
    await writer.drain()
    writer.transport.abort()
    assert (await post(front)).status == 200  # the server serves others
    later = await front.hub.store.sessions("ann", limit=99, before=None)
    assert len(later) == len(sessions) + 1


async def test_a_slow_upload_is_taken(front: Front) -> None:
    reader, writer = await connected(front)
    writer.write(head(len(BODY)))
    size = len(BODY) // 50
    for start in range(0, len(BODY), size):
        writer.write(BODY[start : start + size])
        await writer.drain()
        await asyncio.sleep(0.002)
    assert b"200" in await asyncio.wait_for(reader.readline(), SECONDS_MAX)
    await closed(writer)


async def test_an_upload_that_stands_still_is_ended(
    front: Front, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openai_form, "PART_SECONDS_MAX", 0.2)
    reader, writer = await connected(front)
    writer.write(head(len(BODY)) + BODY[:400])
    assert b"408" in await asyncio.wait_for(reader.readline(), SECONDS_MAX)
    await closed(writer)


async def test_a_client_that_goes_takes_its_recording_along(front: Front) -> None:
    worker = front.worker()
    worker.open.clear()
    _, writer = await connected(front)
    writer.write(head(len(BODY)) + BODY)
    await until(lambda: bool(front.hub.sessions))
    session_id = front.live.id
    writer.transport.abort()
    await until(lambda: not front.hub.sessions)
    worker.open.set()
    async with asyncio.timeout(SECONDS_MAX):
        while await front.hub.store.session(session_id) is not None:
            await front.hub.store.sessions("ann", limit=1, before=None)


async def test_what_is_announced_too_large_is_not_read(front: Front) -> None:
    reader, writer = await connected(front)
    writer.write(head(100 * 1024 * 1024))
    assert b"413" in await reader.readline()
    await closed(writer)


LIBRARY_WARNS = pytest.mark.filterwarnings(
    "ignore::aiohttp.BadContentDispositionHeader", "ignore::aiohttp.BadContentDispositionParam"
)
PART = b'Content-Disposition: form-data; name="file"; filename="a"\r\n'
MULTIPART = "multipart/form-data; boundary=b"


@LIBRARY_WARNS
@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("multipart/form-data", b"--b\r\n" + PART + b"\r\nx\r\n--b--\r\n"),
        ("multipart/form-data; boundary=" + "b" * 200, b"x"),
        (MULTIPART, b""),
        (MULTIPART, b"--b--\r\n"),
        (MULTIPART, b"nothing like a form"),
        (MULTIPART, b"--b\r\n\r\n\r\n--b--\r\n"),
        (MULTIPART, b"--b\r\nContent-Disposition: \xff\xfe\r\n\r\nx\r\n--b--\r\n"),
        (MULTIPART, b"--b\r\n" + PART + b"X-Long: " + b"y" * 20_000 + b"\r\n\r\nx\r\n--b--\r\n"),
        (MULTIPART, b"--b\r\n" + PART + b"Content-Length: 99999999\r\n\r\nx\r\n--b--\r\n"),
        (MULTIPART, b"--b\r\n" + PART + b"Content-Length: x\r\n\r\nx\r\n--b--\r\n"),
        (MULTIPART, b"--b\r\nContent-Type: multipart/mixed; boundary=c\r\n\r\n--c--\r\n--b--\r\n"),
        (MULTIPART, b"--b\r\n" + PART + b"Content-Transfer-Encoding: base64\r\n\r\n%\r\n--b--\r\n"),
        ("application/x-www-form-urlencoded", b"file=x"),
        ("no content type", b"x"),
    ],
)
async def test_a_malformed_form_is_the_clients_fault(
    front: Front, content_type: str, body: bytes
) -> None:
    headers = {**AUTHORIZED, "Content-Type": content_type}
    async with (
        asyncio.timeout(SECONDS_MAX),
        aiohttp.ClientSession(headers=headers) as session,
        session.post(front.url + PATH, data=body) as response,
    ):
        assert 400 <= response.status < 500
        assert (await response.json())["error"]["message"]


@LIBRARY_WARNS
async def test_any_bytes_in_a_form_are_the_clients_fault(front: Front) -> None:
    """The same hundred forms in every run: one byte of a whole one is another."""
    random = Random(7)
    whole = b"--b\r\n" + PART + b"\r\nthis is not a recording\r\n--b--\r\n"
    async with (
        asyncio.timeout(SECONDS_MAX),
        aiohttp.ClientSession(headers={**AUTHORIZED, "Content-Type": MULTIPART}) as session,
    ):
        for _ in range(100):
            body = bytearray(whole)
            body[random.randrange(len(body))] = random.randrange(256)
            async with session.post(front.url + PATH, data=bytes(body)) as response:
                assert response.status == 400, await response.text()


# Lines that break


def breaking(random: Random) -> Line:
    """One of two is cut, anywhere on the way up or down; all are slow, and in odd pieces."""
    pieces = random.choice([None, 9, 700])
    if random.random() < 0.5:
        return Line(piece_bytes_max=pieces, latency_ms_max=2)
    direction = random.choice([Direction.UP, Direction.DOWN])
    length = len(BODY) + 700 if direction is Direction.UP else 400
    ending = random.choice(list(Ending))
    return Line(2, pieces, Cut(direction, random.randrange(length), ending, hold_ms=20))


async def persistent(url: str, *fields: tuple[str, str]) -> str:
    """As their clients do: again, until there is a whole answer."""
    async with asyncio.timeout(SECONDS_MAX):
        while True:
            form = aiohttp.FormData(fields)
            form.add_field("file", RECORDING, filename="clip.flac")
            with contextlib.suppress(aiohttp.ClientError):
                async with (
                    aiohttp.ClientSession(headers=AUTHORIZED) as session,
                    session.post(url + PATH, data=form) as response,
                ):
                    if response.status == 200:
                        return await response.text()


@pytest.mark.parametrize("seed", range(6))
async def test_who_tries_again_gets_all_words_once(front: Front, seed: int) -> None:
    port = urlsplit(front.url).port
    assert port is not None
    async with FaultProxy.running(port, lines=breaking, seed=seed) as proxy:
        url = f"http://127.0.0.1:{proxy.port}"
        assert json.loads(await persistent(url))["text"] == TEXT
        streamed = await persistent(url, ("stream", "true"))
    assert streamed.count('"delta"') == 3
    assert streamed.endswith("data: [DONE]\n\n")
    await until(lambda: not front.hub.sessions)


# Servers that have no time, or go


async def test_an_engine_that_answers_nothing_is_no_empty_transcript(front: Front) -> None:
    worker = front.worker()
    worker.is_poison = lambda _: True
    try:
        reply = await post(front)
    finally:
        worker.is_poison = lambda _: False
    assert (reply.status, reply.error["code"]) == (503, "engine_failed")
    assert "Retry-After" in reply.headers


async def test_a_call_that_fails_once_costs_no_word(front: Front) -> None:
    front.worker().faults.append(CallFailed("once", is_memory=False))
    assert (await post(front)).json["text"] == TEXT


async def test_what_breaks_a_stream_later_is_its_last_event(front: Front) -> None:
    """Their clients raise on it."""
    url, form = front.url + PATH, aiohttp.FormData()
    form.add_field("file", io.BytesIO(long_recording()), filename="a.wav")
    form.add_field("stream", "true")
    async with (
        asyncio.timeout(SECONDS_MAX),
        aiohttp.ClientSession(headers=AUTHORIZED) as session,
        session.post(url, data=form) as response,
    ):
        first = await response.content.readuntil(b"\n\n")
        front.worker().open.clear()
        for live in front.hub.sessions:
            front.hub.drop(live.id)
        rest = await response.text()
        front.worker().open.set()
    assert b"delta" in first
    error = json.loads(rest.strip().split("\n\n")[-1].removeprefix("data: "))["error"]
    assert error["message"]


def long_recording() -> bytes:
    """Minutes: more than one look at the engines takes."""
    return wav(np.concatenate([scripted_clip(stream, 50) for stream in range(8)]))


async def test_a_key_has_so_many_sessions(tmp_path: Path) -> None:
    async with running(tmp_path, sessions_per_key_max=1) as front:
        front.worker().open.clear()
        first = asyncio.create_task(post(front, headers={}))
        await until(lambda: bool(front.hub.sessions))
        reply = await post(front, headers={})
        front.worker().open.set()
        assert (await first).status == 200
    assert (reply.status, reply.error["code"]) == (429, "rate_limit_exceeded")
    assert int(reply.headers["Retry-After"]) > 0


async def test_a_server_that_goes_down_says_so(tmp_path: Path) -> None:
    async with running(tmp_path, drain_s=1) as front:
        front.worker().open.clear()
        waiting = asyncio.create_task(post(front, headers={}))
        await until(lambda: bool(front.hub.sessions))
        front.stop()
        reply = await waiting
        front.worker().open.set()
    assert (reply.status, reply.error["code"]) == (503, "draining")
    assert "Retry-After" in reply.headers


async def test_no_recording_is_taken_before_the_models_are_loaded(tmp_path: Path) -> None:
    async with running(tmp_path, is_warm=False) as front:
        reply = await post(front, headers={})
        models = await get(front, openai_rest.MODELS_PATH, {})
    assert (models.status, models.error["code"]) == (503, "overloaded")
    assert (reply.status, reply.error["code"]) == (503, "overloaded")
    assert "Retry-After" in reply.headers
