"""One WebSocket: what it is told, when it is closed, and what it leaves behind."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from server.protocols.captiond import NativeConnection
from server.store import StoreError
from tests.server_fakes import BrokenStore, Front, running, until
from tests.system.talker import Talker, clip, texts

WORDS = 10
CLIP = clip(1, WORDS)


def connection(front: Front) -> NativeConnection:
    """The only one."""
    (found,) = front.server._connections
    assert isinstance(found, NativeConnection)
    return found


async def all_gone(front: Front) -> None:
    await until(lambda: not front.server._connections)


async def test_words_come_and_nothing_stays(tmp_path: Path) -> None:
    async with running(tmp_path) as front:
        talker = await Talker.start(front.url)
        await talker.play(CLIP)
        assert await talker.finish() == texts(1, WORDS)
        await all_gone(front)
        assert list(front.hub.sessions) == []
        assert front.metric("sessions_total", protocol="captiond", outcome="done") == 1


async def test_a_resume_wins_over_a_half_open_socket(tmp_path: Path) -> None:
    async with running(tmp_path) as front:
        old = await Talker.start(front.url)
        await old.play(CLIP)
        await old.until_words(5)
        heard = [*old.words]  # it may read more before it is sent away: the new one gets that too
        new = await Talker.resume(front.url, old.ready, old.last_seq)
        await new.until("ready")
        assert (await old.refusal())["code"] == "superseded"
        await until(lambda: len(front.server._connections) == 1)
        assert front.live.is_attached
        assert [*heard, *await new.finish()] == texts(1, WORDS)


async def test_an_end_that_was_lost_on_its_way_is_told_again(tmp_path: Path) -> None:
    async with running(tmp_path) as front:
        lost = await Talker.start(front.url)
        await lost.play(CLIP)
        await lost.until_words(WORDS)
        lost.socket.transport.pause_reading()
        await lost.say("end")
        sender = connection(front)
        await until(lambda: sender._is_delivered)
        lost.cut()
        await all_gone(front)
        again = await Talker.resume(front.url, lost.ready, lost.last_seq)
        await again.until("ready")
        assert await again.finish() == []
        await all_gone(front)
        assert list(front.hub.sessions) == []


async def test_a_superseded_writer_says_nothing_for_its_successor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It sits in a write while the session goes to another connection."""
    async with running(tmp_path) as front:
        old = await Talker.start(front.url)
        sender, release = connection(front), asyncio.Event()
        send = sender._send

        async def stuck(data: bytes) -> None:
            if b'"final"' in data or b'"done"' in data:
                await release.wait()
            await send(data)

        monkeypatch.setattr(sender, "_send", stuck)
        await old.play(CLIP)
        await old.say("end")
        await until(lambda: front.live.session.log.stored_seq > 0)
        new = await Talker.resume(front.url, old.ready)
        await new.until("ready")
        release.set()
        assert await new.finish() == texts(1, WORDS)
        assert not sender._is_delivered


async def test_a_client_that_reads_nothing_is_cut_off_and_can_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path) as front:
        talker = await Talker.start(front.url)
        slow = connection(front)

        async def stuck(_: str) -> None:
            await asyncio.Event().wait()

        monkeypatch.setattr("server.connection.WRITE_SECONDS_MAX", 0.02)
        monkeypatch.setattr(slow._ws, "send_str", stuck)
        await talker.play(CLIP)
        assert await talker.until_closed() == 1006
        await all_gone(front)
        assert len(slow._notices) <= 2
        monkeypatch.setattr("server.connection.WRITE_SECONDS_MAX", 10.0)
        again = await Talker.resume(front.url, talker.ready, talker.last_seq)
        ready = await again.until("ready")
        await again.play(CLIP[2 * ready["resume_from_frame"] :])
        assert await again.finish() == texts(1, WORDS)


async def test_a_deleted_session_tells_its_talker(tmp_path: Path) -> None:
    async with running(tmp_path) as front:
        talker = await Talker.start(front.url)
        await talker.play(CLIP)
        front.hub.drop(front.live.id)
        assert (await talker.refusal())["code"] == "unknown_session"
        await all_gone(front)


async def test_a_store_that_cannot_be_read_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object, **__: object) -> None:
        raise StoreError("the store could not be read; try again")

    async with running(tmp_path) as front:
        talker = await Talker.start(front.url)
        await talker.play(CLIP)
        await talker.until_words(WORDS)
        front.live.session.log._forgotten_seq = 1  # as after an hour of talk
        monkeypatch.setattr(front.hub.store, "events", fail)
        talker.cut()
        await all_gone(front)
        again = await Talker.resume(front.url, talker.ready, 0)
        error = await again.refusal()
        assert error["code"] == "internal"
        assert "could not be read" in error["message"]


async def test_old_events_come_from_the_store(tmp_path: Path) -> None:
    async with running(tmp_path) as front:
        talker = await Talker.start(front.url)
        await talker.play(CLIP)
        await talker.until_words(WORDS)
        front.live.session.log._forgotten_seq = talker.last_seq
        again = await Talker.resume(front.url, talker.ready, 0)
        assert await again.finish() == texts(1, WORDS)


def raising(error: Exception) -> Callable[..., Any]:
    def fail(*_: object, **__: object) -> None:
        raise error

    return fail


@pytest.mark.parametrize("place", ["_take_audio", "_note_written"])
async def test_a_bug_is_told_as_one(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path) as front:
        talker = await Talker.start(front.url)
        monkeypatch.setattr(connection(front), place, raising(RuntimeError("a bug")))
        await talker.play(CLIP)
        error = await talker.refusal()
        assert error["code"] == "internal"
        await all_gone(front)
        again = await Talker.resume(front.url, talker.ready)
        await again.until("ready")


async def test_a_client_that_goes_before_ready_keeps_no_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path) as front:
        create, release = front.hub.store.create_session, asyncio.Event()

        async def slow(record: Any) -> None:
            await release.wait()
            await create(record)

        monkeypatch.setattr(front.hub.store, "create_session", slow)
        talker = await Talker.connect(front.url)
        await talker.say("start")
        await until(lambda: bool(front.hub.sessions))
        talker.cut()
        await asyncio.sleep(0.01)
        release.set()
        await all_gone(front)
        await until(lambda: not front.hub.sessions)


@pytest.mark.parametrize(("first", "code"), [(b"\x00\x00", "out_of_order"), ("{}", "bad_message")])
async def test_a_first_message_that_is_none(first: str | bytes, code: str, tmp_path: Path) -> None:
    async with running(tmp_path) as front:
        talker = await Talker.connect(front.url)
        await talker.socket.send(first)
        assert (await talker.refusal())["code"] == code
        await all_gone(front)
        assert front.metric("errors_total", protocol="captiond", code=code) == 1


@pytest.mark.parametrize(
    ("data", "is_text", "code"),
    [(b"\xff\xfe", True, "bad_message"), (bytes(262_145), False, "too_big")],
)
async def test_frames_that_cannot_be_taken(
    data: bytes, is_text: bool, code: str, tmp_path: Path
) -> None:
    async with running(tmp_path) as front:
        talker = await Talker.start(front.url)
        await talker.socket.send(data, text=is_text)
        assert (await talker.refusal())["code"] == code
        await all_gone(front)
        assert front.metric("errors_total", protocol="captiond", code=code) == 1


async def test_text_is_measured_in_bytes(tmp_path: Path) -> None:
    async with running(tmp_path) as front:
        talker = await Talker.connect(front.url)
        await talker.socket.send("é" * 40_000)
        assert (await talker.refusal())["code"] == "too_big"


async def test_silence_is_ended_and_pings_are_no_sign_of_life(tmp_path: Path) -> None:
    async with running(tmp_path, idle_timeout_s=0.2) as front:
        talker = await Talker.start(front.url)
        refused = asyncio.create_task(talker.refusal())
        while not refused.done():
            await asyncio.gather(talker.socket.ping(), return_exceptions=True)
            await asyncio.sleep(0.02)
        assert refused.result()["code"] == "idle"


async def test_pings_count_as_messages(tmp_path: Path) -> None:
    async with running(tmp_path, packets_per_second_max=5) as front:
        talker = await Talker.start(front.url)
        await asyncio.gather(*(talker.socket.ping() for _ in range(50)), return_exceptions=True)
        assert (await talker.refusal())["code"] == "too_fast"


async def test_a_drain_finishes_what_came(tmp_path: Path) -> None:
    async with running(tmp_path) as front:
        silent = await Talker.connect(front.url)
        talker = await Talker.start(front.url)
        await talker.play(CLIP[:-16_000])
        await (await talker.socket.ping())
        front.stop()
        assert (await silent.refusal())["code"] == "draining"
        assert (await talker.refusal())["code"] == "draining"
        assert talker.words == texts(1, WORDS)
        await front.task
        assert list(front.hub.sessions) == []


async def test_a_second_signal_ends_the_drain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path, drain_s=600) as front:
        talker = await Talker.start(front.url)
        BrokenStore(front.hub.store, monkeypatch)
        await talker.play(CLIP)
        await (await talker.socket.ping())
        front.stop()
        await talker.until("draining")
        front.stop()
        assert (await talker.refusal())["code"] == "draining"
        await front.task


async def test_a_signal_while_models_load(tmp_path: Path) -> None:
    async with running(tmp_path, is_warm=False) as front:
        front.stop()
        await front.task
