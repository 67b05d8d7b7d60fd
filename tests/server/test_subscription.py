"""Readers besides the talker: what they get, and that a bad one harms nobody."""

import asyncio
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest

from server.store import StoreError
from server.subscription import Quiet, _live
from tests.server_fakes import BrokenStore, Front, running, until
from tests.system.talker import Talker, clip, texts

WORDS = 10


async def events_of(answer: aiohttp.ClientResponse) -> list[dict[str, Any]]:
    """To the end of the stream."""
    body = (await answer.read()).decode()
    blocks = [block.splitlines() for block in body.split("\n\n") if block]
    return [orjson.loads(lines[-1].removeprefix("data: ")) for lines in blocks]


def words(events: list[dict[str, Any]]) -> list[str]:
    return [w["word"] for e in events if e["type"] == "final" for w in e["words"]]


async def ended(front: Front) -> Talker:
    talker = await Talker.start(front.url)
    await talker.play(clip(1, WORDS))
    assert await talker.finish() == texts(1, WORDS)
    return talker


def path(talker: Talker) -> str:
    return f"/v1/sessions/{talker.ready['session_id']}/events"


async def test_a_viewer_reads_along_to_the_end(tmp_path: Path) -> None:
    async with running(tmp_path) as front, aiohttp.ClientSession(front.url) as http:
        talker = await Talker.start(front.url)
        answer = await http.get(path(talker))
        reading = asyncio.create_task(events_of(answer))
        await talker.play(clip(1, WORDS))
        await talker.finish()
        events = await reading
        assert words(events) == texts(1, WORDS)
        assert events[-1]["type"] == "done"


async def test_a_late_viewer_gets_what_it_has_not(tmp_path: Path) -> None:
    async with running(tmp_path) as front, aiohttp.ClientSession(front.url) as http:
        talker = await ended(front)
        answer = await http.get(path(talker), headers={"Last-Event-ID": "1"})
        assert [e["seq"] for e in await events_of(answer)] == list(range(2, talker.last_seq + 1))


async def test_a_place_that_is_no_number_is_refused(tmp_path: Path) -> None:
    async with running(tmp_path) as front, aiohttp.ClientSession(front.url) as http:
        talker = await ended(front)
        answer = await http.get(path(talker), params={"after_seq": "-1"})
        assert answer.status == 400


async def test_a_deletion_ends_the_stream(tmp_path: Path) -> None:
    async with running(tmp_path) as front, aiohttp.ClientSession(front.url) as http:
        talker = await Talker.start(front.url)
        answer = await http.get(path(talker))
        assert (await http.delete(f"/v1/sessions/{talker.ready['session_id']}")).status == 204
        assert await events_of(answer) == []


async def test_a_viewer_that_leaves_is_forgotten(tmp_path: Path) -> None:
    async with running(tmp_path) as front, aiohttp.ClientSession(front.url) as http:
        talker = await Talker.start(front.url)
        answer = await http.get(path(talker))
        await until(lambda: len(front.live._listeners) == 2)
        answer.close()
        await talker.play(clip(1, WORDS))
        await talker.until_words(WORDS)
        await until(lambda: len(front.live._listeners) == 1)


async def test_a_viewer_that_reads_nothing_is_cut_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def stuck(*_: object) -> None:
        await asyncio.Event().wait()

    async with running(tmp_path) as front, aiohttp.ClientSession(front.url) as http:
        talker = await Talker.start(front.url)
        answer = await http.get(path(talker))
        await until(lambda: len(front.live._listeners) == 2)
        monkeypatch.setattr("server.subscription.WRITE_SECONDS_MAX", 0.01)
        monkeypatch.setattr("aiohttp.web.StreamResponse.write", stuck)
        await talker.play(clip(1, WORDS))
        await talker.until_words(WORDS)
        await until(lambda: len(front.live._listeners) == 1)
        assert front.metric("slow_readers_total") == 1
        with pytest.raises(aiohttp.ClientError):
            await answer.read()


async def test_a_store_that_cannot_be_read_ends_the_stream(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object, **__: object) -> None:
        raise StoreError("the store could not be read; try again")

    async with running(tmp_path) as front, aiohttp.ClientSession(front.url) as http:
        talker = await ended(front)
        monkeypatch.setattr(front.hub.store, "events", fail)
        answer = await http.get(path(talker))
        assert await events_of(answer) == []


async def test_silence_is_bridged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.subscription.KEEPALIVE_SECONDS", 0.005)
    async with running(tmp_path) as front:
        await Talker.start(front.url)
        source = _live(front.hub.store, front.live, 0, front.metrics, asyncio.Event())
        assert await anext(source) is Quiet.LONG
        assert await anext(source) is Quiet.LONG
        await source.aclose()
        assert len(front.live._listeners) == 1


async def test_what_is_not_stored_is_marked_and_has_no_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path) as front, aiohttp.ClientSession(front.url) as http:
        talker = await Talker.start(front.url)
        broken = BrokenStore(front.hub.store, monkeypatch)
        answer = await http.get(path(talker))
        await talker.play(clip(1, WORDS))
        await talker.until_words(WORDS)
        assert {m["durable"] for m in talker.messages if "seq" in m and m["type"] != "ready"} == {
            False
        }
        broken.is_broken = False
        await talker.finish()
        blocks = (await answer.read()).decode().split("\n\n")
        shown = [block for block in blocks if '"durable":false' in block]
        assert len(shown) > 1
        assert not any(block.startswith("id:") for block in shown)
        assert any(block.startswith("id:") and '"done"' in block for block in blocks)
