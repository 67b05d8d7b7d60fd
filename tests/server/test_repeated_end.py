"""A session that is done and that its client has not read: any server repeats its end."""

import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import aiohttp
import numpy as np
import pytest

from server.live import LiveSession
from server.store import SessionRecord, StoreError
from streaming.errors import CaptiondError, SessionExpired, UnknownSession
from streaming.wire import Ready, Resume, Start
from tests.server_fakes import Front, running, until
from tests.system.talker import Message, Talker, clip, texts

WORDS = 10
CLIP = clip(1, WORDS)


def hang_up(_: CaptiondError) -> None:
    pass


@asynccontextmanager
async def left_unread(folder: Path) -> AsyncIterator[Talker]:
    """Somebody has said everything, and the line broke; the server goes down in the block."""
    async with running(folder) as front:
        talker = await Talker.start(front.url)
        yield await ended(talker)


async def ended(talker: Talker, pcm: bytes = CLIP) -> Talker:
    await talker.play(pcm)
    await talker.say("end")
    await talker.until("done")
    talker.cut()
    return talker


def durable(talker: Talker, after_seq: int = 0) -> list[Message]:
    events = [m for m in talker.messages if "seq" in m and m["type"] != "ready"]
    return [event for event in events if event["seq"] > after_seq]


async def is_closed(front: Front, talker: Talker) -> None:
    """The store knows of the end."""
    store = front.hub.store
    while (await record(front, talker)).state == "open":
        await store.events(talker.ready["session_id"])


async def record(front: Front, talker: Talker) -> SessionRecord:
    found = await front.hub.store.session(talker.ready["session_id"])
    assert found is not None
    return found


async def test_figures_are_counted_where_the_session_was_heard(tmp_path: Path) -> None:
    name, reason = "audio_dropped_seconds_total", {"reason": "engine_failed"}
    async with running(tmp_path) as first:
        first.worker().is_poison = lambda item: True
        lost = await ended(await Talker.start(first.url))
        await until(lambda: not first.live.is_attached)
        first.hub.drop(lost.ready["session_id"])
        assert first.metric(name, **reason) > 0
    async with running(tmp_path) as front:
        again = await Talker.resume(front.url, lost.ready)
        assert await again.until_closed() == 1000
        await until(lambda: not list(front.hub.sessions))
        assert front.metric(name, **reason) == 0


@pytest.mark.parametrize("last_seq", [0, 1])
async def test_what_was_not_read_comes_from_the_next_server(tmp_path: Path, last_seq: int) -> None:
    async with left_unread(tmp_path) as lost:
        pass
    async with running(tmp_path) as front:
        before = await record(front, lost)
        again = await Talker.resume(front.url, lost.ready, last_seq)
        assert await again.until_closed() == 1000
        assert again.ready["seq"] == last_seq
        assert again.ready["resume_from_frame"] == len(CLIP) // 2
        assert durable(again) == durable(lost, last_seq)
        assert again.messages[-1] == lost.messages[-1], "nothing comes behind the end"
        assert before.state == "done"
        assert await record(front, lost) == before, "it ended once"


async def test_it_comes_from_another_server_while_the_first_one_lives(tmp_path: Path) -> None:
    async with running(tmp_path) as first, running(tmp_path) as second:
        lost = await ended(await Talker.start(first.url))
        await is_closed(first, lost)
        for front in (second, first):
            again = await Talker.resume(front.url, lost.ready)
            assert await again.until_closed() == 1000
            assert again.words == texts(1, WORDS)


async def test_one_whose_line_breaks_again_comes_again(tmp_path: Path) -> None:
    async with left_unread(tmp_path) as lost:
        pass
    async with running(tmp_path) as front:
        broken = await Talker.resume(front.url, lost.ready)
        await broken.until("final")
        broken.cut()
        await until(lambda: not front.live.is_attached)
        live = front.live
        again = await Talker.resume(front.url, lost.ready, broken.last_seq)
        assert await again.until_closed() == 1000
        assert front.hub.find(live.id) in (live, None)
        assert durable(again) == durable(lost, broken.last_seq)


async def test_who_has_read_the_end_is_told_it_again_and_closed(tmp_path: Path) -> None:
    async with left_unread(tmp_path) as lost:
        pass
    async with running(tmp_path) as front:
        again = await Talker.resume(front.url, lost.ready, lost.last_seq)
        assert await again.until_closed() == 1000
        assert [event["type"] for event in durable(again)] == ["done"]
        assert again.ready["seq"] == lost.last_seq - 1


async def test_what_the_client_sends_again_behind_the_end_does_nothing(tmp_path: Path) -> None:
    async with running(tmp_path) as front:
        live, ready = await front.hub.open(Start(), "local")
        await over(live)
    async with running(tmp_path) as front:
        repeated, _ = await front.hub.resume(resume_of(ready), "local")
        repeated.receive_audio(CLIP[:3_200])
        repeated.session.flush()
        repeated.session.end_of_audio(0)
        repeated.step()
        assert repeated.is_over
        assert repeated.session.take_jobs(0) == []


async def test_lanes_end_no_less(tmp_path: Path) -> None:
    async with running(tmp_path) as front:
        tagged = await Talker.start(front.url, audio={"tagged": True}, diarize=False)
        await tagged.say("lane", lane=3, name="Ann")
        await ended(tagged, b"")
        stereo = np.repeat(np.frombuffer(CLIP, "<i2"), 2).tobytes()
        both = await ended(await Talker.start(front.url, audio={"channels": 2}), stereo)
    async with running(tmp_path) as front:
        for lost in (tagged, both):
            again = await Talker.resume(front.url, lost.ready)
            await again.say("lane", lane=3, name="Ann") if lost is tagged else None
            assert await again.until_closed() == 1000
            assert durable(again) == durable(lost)
    assert len(both.words) == 2 * WORDS


async def test_it_is_for_the_holder_of_its_token_and_for_the_resume_window(tmp_path: Path) -> None:
    async with running(tmp_path, resume_window_s=0.001) as first:
        lost = await ended(await Talker.start(first.url))
        await is_closed(first, lost)
    async with running(tmp_path) as front:
        late = await Talker.resume(front.url, lost.ready)
        assert (await late.refusal())["code"] == "session_expired"
        thief = await Talker.resume(front.url, {**lost.ready, "resume_token": "guessed"})
        assert (await thief.refusal())["code"] == "unknown_session"


async def test_a_session_to_which_nobody_came_back_in_time_is_not_repeated(tmp_path: Path) -> None:
    async with running(tmp_path) as first, running(tmp_path) as second:
        live, ready = await first.hub.open(Start(), "ann")
        live.attach(hang_up, 0)
        live.detach(hang_up)
        live._expire()
        await until(lambda: live.is_gone)
        with pytest.raises(SessionExpired):
            await second.hub.resume(resume_of(ready), "ann")
        found = await second.hub.store.session(live.id)
        assert found is not None
        assert found.state == "expired"


def resume_of(ready: Ready) -> Resume:
    return Resume(session_id=ready.session_id, resume_token=ready.resume_token)


async def test_a_session_that_was_deleted_is_not_repeated(tmp_path: Path) -> None:
    async with left_unread(tmp_path) as lost:
        pass
    async with running(tmp_path) as front:
        await front.hub.store.delete_session(lost.ready["session_id"])
        again = await Talker.resume(front.url, lost.ready)
        assert (await again.refusal())["code"] == "unknown_session"


async def test_one_that_another_server_deletes_while_it_is_repeated_is_over_at_once(
    tmp_path: Path,
) -> None:
    async with left_unread(tmp_path) as lost:
        pass
    async with running(tmp_path) as first, running(tmp_path) as second:
        live, ready = await second.hub.resume(
            Resume(**{name: lost.ready[name] for name in ("session_id", "resume_token")}), "local"
        )
        with contextlib.suppress(StoreError):  # deleted; the other server may read the log just now
            await first.hub.store.delete_session(ready.session_id)
        again = await Talker.resume(second.url, lost.ready)
        assert (await again.refusal())["code"] == "unknown_session"
        assert "deleted" in again.messages[-1]["message"]
        assert live.is_gone
        assert list(second.hub.sessions) == []


async def test_a_full_server_has_room_for_the_end_of_a_session(tmp_path: Path) -> None:
    async with running(tmp_path) as first:
        live, ready = await first.hub.open(Start(), "local")
        await over(live)
    async with running(tmp_path, sessions_max=1) as front:
        await front.hub.open(Start(), "local")
        repeated, _ = await front.hub.resume(resume_of(ready), "local")
        assert repeated.is_over


async def over(live: LiveSession) -> None:
    live.session.end_of_audio(0)
    live.step()
    await until(lambda: live._is_recorded)


async def test_readers_of_a_repeated_session_come_to_its_end(tmp_path: Path) -> None:
    async with left_unread(tmp_path) as lost:
        pass
    async with running(tmp_path) as front:
        session_id = lost.ready["session_id"]
        live, _ = await front.hub.resume(
            Resume(session_id=session_id, resume_token=lost.ready["resume_token"]), "local"
        )
        assert front.hub.find(session_id) is live
        async with aiohttp.ClientSession() as http:
            address = f"{front.url}/v1/sessions/{session_id}/events"
            async with http.get(address) as answer:
                text = (await answer.read()).decode()
        assert text.count('"type":"done"') == 1
        live.attach(hang_up, 0)
        live.detach(hang_up, is_delivered=True)


async def test_a_checkpoint_of_a_session_that_is_done_is_small_and_goes_with_the_window(
    tmp_path: Path,
) -> None:
    async with left_unread(tmp_path) as lost:
        pass
    async with running(tmp_path) as front:
        store, session_id = front.hub.store, lost.ready["session_id"]
        found = await store.load_resumable(session_id)
        assert found is not None
        assert 0 < len(found.checkpoint or b"") < 1_000
        later = datetime.now(UTC) + timedelta(seconds=front.server._settings.resume_window_s)
        assert await store.erase_checkpoints(later - timedelta(seconds=60)) == 0
        assert await store.load_resumable(session_id, later - timedelta(seconds=60))
        assert await store.load_resumable(session_id, later) is None
        assert await store.erase_checkpoints(later) == 1
        assert await store.load_resumable(session_id) is None
        assert await store.erase_checkpoints(later) == 0
        with pytest.raises(UnknownSession):
            await front.hub.resume(Resume(session_id=session_id, resume_token="wrong"), "local")
