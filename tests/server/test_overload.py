"""A loaded server: who is refused, what is told to whom, and who may stay."""

import asyncio
from pathlib import Path

import aiohttp
import orjson
import pytest
from websockets.exceptions import InvalidStatus

from server.admission import RETRY_AFTER_OVERLOAD_MS, RETRY_AFTER_SHED_MS
from server.overload import Overload
from streaming.wire import STREAM_PATH
from tests.server_fakes import Front, running, until
from tests.system.talker import Talker, clip, texts

WORDS = 10
CLIP = clip(1, WORDS)


def overload(front: Front) -> Overload:
    found = front.server._overload
    assert found is not None
    return found


async def out_of_memory(front: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on, as far as the server knows."""
    await until(lambda: front.metric("memory_bytes") > 0)
    monkeypatch.setattr(overload(front), "_memory_max", 1)


async def refusal_before_upgrade(front: Front) -> InvalidStatus:
    with pytest.raises(InvalidStatus) as refused:
        await Talker.connect(front.url)
    return refused.value


async def test_new_sessions_are_refused_before_the_upgrade(tmp_path: Path) -> None:
    async with running(tmp_path, memory_limit_mb=1) as front, aiohttp.ClientSession() as http:
        await until(lambda: front.metric("admission_closed", reason="memory") == 1)
        response = (await refusal_before_upgrade(front)).response
        assert response.status_code == 503
        assert response.headers["Retry-After"] == str(RETRY_AFTER_OVERLOAD_MS // 1000)
        body = orjson.loads(response.body or b"")
        assert (body["type"], body["code"]) == ("error", "overloaded")
        assert body["retry_after_ms"] == RETRY_AFTER_OVERLOAD_MS
        assert "memory" in body["message"]
        for path in ("/readyz", STREAM_PATH):
            async with http.get(front.url + path) as told:
                assert told.status == 503
                assert "memory" in (await told.json())["message"]
        async with http.get(f"{front.url}/healthz") as told:
            assert told.status == 200
        assert front.metric("overload_refusals_total", reason="memory") == 2
        assert front.metric("sessions_total", protocol="captiond", outcome="refused") == 2


async def test_who_is_here_goes_on_and_who_was_here_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path) as front:
        talker = await Talker.start(front.url)
        await talker.play(CLIP[: len(CLIP) // 2])
        await out_of_memory(front, monkeypatch)
        await refusal_before_upgrade(front)
        talker.cut()
        await until(lambda: not front.live.is_attached)
        again = await Talker.resume(front.url, talker.ready, talker.last_seq)
        ready = await again.until("ready")
        await again.play(CLIP[2 * ready["resume_from_frame"] :])
        assert [*talker.words, *await again.finish()] == texts(1, WORDS)


async def test_who_only_says_that_he_comes_back_is_refused_on_the_socket(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path) as front:
        held = await Talker.start(front.url)
        await out_of_memory(front, monkeypatch)
        monkeypatch.setattr("tests.system.talker.STREAM_PATH", f"{STREAM_PATH}?resume=1")
        liar = await Talker.connect(front.url)
        await liar.say("start")
        error = await liar.refusal()
        assert error["code"] == "overloaded"
        assert error["retry_after_ms"] == RETRY_AFTER_OVERLOAD_MS
        assert await liar.until_closed() == 1013
        again = await Talker.resume(front.url, held.ready)
        await again.until("ready")


async def test_engines_without_time_for_one_more_close_the_door_until_somebody_goes(
    tmp_path: Path,
) -> None:
    async with running(tmp_path) as front:
        front.worker().engine_ns = 20_000_000_000
        talker = await Talker.start(front.url)
        await talker.play(CLIP)
        await talker.until_words(WORDS)
        await until(lambda: front.metric("admission_closed", reason="engines") == 1)
        assert front.metric("engine_load_ratio") > 0.8
        response = (await refusal_before_upgrade(front)).response
        assert "no time for another session" in orjson.loads(response.body or b"")["message"]
        await talker.finish()
        await until(lambda: front.metric("admission_closed", reason="engines") == 0)
        await Talker.start(front.url)


async def test_live_work_that_waits_is_told_as_delay(tmp_path: Path) -> None:
    async with running(tmp_path) as front:
        talker = await Talker.start(front.url)
        front.worker().open.clear()
        await talker.play(CLIP)
        await until(lambda: front.metric("live_delay_seconds") > 0.3)
        front.worker().open.set()
        assert await talker.finish() == texts(1, WORDS)
        await until(lambda: front.metric("live_delay_seconds") == 0)


async def test_the_newest_are_sent_away_and_lose_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path) as front:
        old = await Talker.start(front.url)
        new = await Talker.start(front.url)
        for talker in (old, new):
            await talker.play(CLIP[: len(CLIP) // 2])
        counts = iter([1])
        shedding = overload(front)._shedding
        monkeypatch.setattr(shedding, "count", lambda *_: next(counts, 0))
        error = await new.refusal()
        assert error["code"] == "overloaded"
        assert error["retry_after_ms"] == RETRY_AFTER_SHED_MS
        assert await new.until_closed() == 1013
        assert front.metric("sessions_shed_total") == 1
        await old.play(CLIP[len(CLIP) // 2 :])
        assert await old.finish() == texts(1, WORDS)
        again = await Talker.resume(front.url, new.ready, new.last_seq)
        ready = await again.until("ready")
        await again.play(CLIP[2 * ready["resume_from_frame"] :])
        assert [*new.words, *await again.finish()] == texts(1, WORDS)


async def test_many_at_the_door_at_once_are_counted_before_they_speak(tmp_path: Path) -> None:
    """The load of those who have just been let in is not measured yet."""
    async with running(tmp_path) as front:
        front.worker().engine_ns = 300_000_000
        talker = await Talker.start(front.url)
        await talker.play(CLIP)
        await talker.until_words(WORDS)
        await until(lambda: front.metric("engine_load_ratio") > 0)  # it has been looked at
        outcomes = await asyncio.gather(
            *(Talker.connect(front.url) for _ in range(40)), return_exceptions=True
        )
        refused = [outcome for outcome in outcomes if isinstance(outcome, InvalidStatus)]
        assert 0 < len(refused) < 40
        assert all(error.response.status_code == 503 for error in refused)
