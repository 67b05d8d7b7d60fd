import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from server.recordings import ClientGone, Heard, Recording, heard, mixed
from streaming.engines import Samples
from streaming.errors import (
    BadAudio,
    Draining,
    Overloaded,
    TooBig,
    UnknownSession,
    UnsupportedOption,
)
from streaming.events import Done, Final
from streaming.scripted_audio import encode_silence, encode_word
from streaming.wire import Start
from tests.clients.conftest import scripted_clip
from tests.recordings import flac_bomb, wav, written
from tests.server_fakes import SECONDS_MAX, Front, running, until

WORDS = 12
START = Start(partials=False)


@contextlib.asynccontextmanager
async def front(folder: Path, **options: Any) -> AsyncIterator[Front]:
    async with asyncio.timeout(SECONDS_MAX * 2), running(folder, **options) as found:
        yield found


async def pieces(data: bytes, size: int = 3_000) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


def texts(found: Heard) -> list[str]:
    return [word.text for caption in found.transcript.captions for word in caption.words]


def expected(stream: int, words: int = WORDS) -> list[str]:
    return [f"w{number}.{stream}" for number in range(words)]


async def test_a_recording_is_heard_from_its_first_word_to_its_last(tmp_path: Path) -> None:
    async with front(tmp_path, diarizer="scripted") as server:
        recording = Recording(server.hub, "local", START)
        found = await heard(recording, pieces(written("flac", scripted_clip(7, WORDS))))
        assert texts(found) == expected(7)
        assert found.audio_seconds == pytest.approx(len(scripted_clip(7, WORDS)) / 16_000)
        assert {word.speaker for c in found.transcript.captions for word in c.words} == {"S1"}
        assert server.hub.find(found.session_id) is None


async def test_it_is_stored_like_any_other_session(tmp_path: Path) -> None:
    async with front(tmp_path) as server:
        found = await heard(
            Recording(server.hub, "ann", START), pieces(wav(scripted_clip(3, WORDS)))
        )
        events = await server.hub.store.events(found.session_id)
        assert [event["type"] for event in events][-1] == "done"
        records = await server.hub.store.sessions("ann", limit=9, before=None)
        assert [record.session_id for record in records] == [found.session_id]


async def test_finals_come_before_the_end_of_the_upload(tmp_path: Path) -> None:
    data = wav(scripted_clip(7, WORDS))
    async with front(tmp_path) as server:
        rest = asyncio.Event()

        async def slowly() -> AsyncIterator[bytes]:
            yield data[: len(data) // 2]
            await rest.wait()
            yield data[len(data) // 2 :]

        recording = Recording(server.hub, "local", START)
        async with contextlib.aclosing(recording.events(slowly())) as events:
            seen = [await anext(event async for event in events if isinstance(event, Final))]
            rest.set()
            seen += [event async for event in events if isinstance(event, Final)]
        assert [word.text for final in seen for word in final.words] == expected(7)


async def test_a_slow_upload_cuts_no_utterance(tmp_path: Path) -> None:
    """The pause of an upload is none of the talker's: a live session would end its line there."""
    clip = np.concatenate([encode_word(4, number) for number in range(8)] + [encode_silence(8_000)])
    data = written("aiff", clip)
    async with front(tmp_path) as server:
        recording = Recording(server.hub, "local", START)

        async def with_a_pause() -> AsyncIterator[bytes]:
            yield data[: len(data) // 2]
            await until(lambda: recording.session_id is not None)
            assert server.live.session.deadline_ns is None
            yield data[len(data) // 2 :]

        found = await heard(recording, with_a_pause())
    assert [len(caption.words) for caption in found.transcript.captions] == [8]


async def test_more_audio_than_the_credit_waits_for_it(tmp_path: Path) -> None:
    long = np.concatenate([scripted_clip(stream, 25) for stream in range(6)])
    async with front(tmp_path, buffer_s=25.0, window_cap_s=10.0) as server:
        recording = Recording(server.hub, "local", START)
        held = 0
        async with contextlib.aclosing(recording.events(pieces(wav(long)))) as events:
            seen = []
            async for event in events:
                held = max(held, server.live.session.held_samples if server.hub.sessions else 0)
                seen.append(event)
        words = [word.text for e in seen if isinstance(e, Final) for word in e.words]
        assert words == [text for stream in range(6) for text in expected(stream, 25)]
        assert isinstance(seen[-1], Done)
        assert held <= 29 * 16_000


def stereo() -> Samples:
    """Two who take turns, each on a side."""
    left, right = scripted_clip(1, 5), scripted_clip(2, 5)
    silence = encode_silence(len(left))
    return np.stack([np.append(left, silence), np.append(silence, right)], axis=1)


async def test_channels_are_lanes_where_that_is_wanted(tmp_path: Path) -> None:
    async with front(tmp_path) as server:
        recording = Recording(server.hub, "local", START, is_mixed=False)
        found = await heard(recording, pieces(wav(stereo())))
    lanes = [(c.lane, [word.text for word in c.words]) for c in found.transcript.captions]
    assert lanes == [(0, expected(1, 5)), (1, expected(2, 5))]


def test_channels_are_mixed_to_their_mean() -> None:
    block = np.array([[100, 300], [-32_768, -32_768], [32_767, -32_767]], "<i2").tobytes()
    assert np.frombuffer(mixed(block, 2), "<i2").tolist() == [200, -32_768, 0]
    assert mixed(block, 1) == block


async def test_what_is_no_audio_opens_no_session(tmp_path: Path) -> None:
    async with front(tmp_path) as server:
        with pytest.raises(BadAudio):
            await heard(Recording(server.hub, "local", START), pieces(b"nothing of the kind" * 9))
        assert await server.hub.store.sessions("local", limit=9, before=None) == []


async def test_a_bomb_is_refused_and_leaves_nothing_behind(tmp_path: Path) -> None:
    async with front(tmp_path) as server:
        recording = Recording(server.hub, "local", START, seconds_max=60.0)
        with pytest.raises(TooBig):
            await heard(recording, pieces(flac_bomb(90)))
        await until(lambda: not server.hub.sessions)
        assert await server.hub.store.sessions("local", limit=9, before=None) == []


async def test_a_client_that_goes_takes_its_session_along(tmp_path: Path) -> None:
    is_gone = False
    async with front(tmp_path) as server:
        server.worker().open.clear()  # no word comes
        recording = Recording(server.hub, "local", START, is_gone=lambda: is_gone)
        waiting = asyncio.create_task(heard(recording, pieces(wav(scripted_clip(7, WORDS)))))
        await until(lambda: recording.session_id is not None)
        is_gone = True
        with pytest.raises(ClientGone):
            await waiting
        assert not server.hub.sessions
        assert await server.hub.store.sessions("local", limit=9, before=None) == []
        server.worker().open.set()


async def test_a_broken_upload_takes_its_session_along(tmp_path: Path) -> None:
    data = wav(scripted_clip(7, WORDS))
    async with front(tmp_path) as server:
        recording = Recording(server.hub, "local", START)

        async def broken() -> AsyncIterator[bytes]:
            yield data[: len(data) // 2]
            await until(lambda: recording.session_id is not None)
            raise ConnectionResetError

        with pytest.raises(ConnectionResetError):
            await heard(recording, broken())
        assert not server.hub.sessions
        assert await server.hub.store.sessions("local", limit=9, before=None) == []


async def test_a_session_that_is_deleted_ends_its_recording(tmp_path: Path) -> None:
    async with front(tmp_path) as server:
        server.worker().open.clear()
        recording = Recording(server.hub, "local", START)
        waiting = asyncio.create_task(heard(recording, pieces(wav(scripted_clip(7, WORDS)))))
        await until(lambda: recording.session_id is not None)
        server.hub.drop(server.live.id)
        with pytest.raises(UnknownSession):
            await waiting
        server.worker().open.set()


async def test_there_must_be_room_for_it(tmp_path: Path) -> None:
    async with front(tmp_path, sessions_max=1) as server:
        server.worker().open.clear()
        first = Recording(server.hub, "local", START)
        waiting = asyncio.create_task(heard(first, pieces(wav(scripted_clip(7, WORDS)))))
        await until(lambda: first.session_id is not None)
        with pytest.raises(Overloaded) as refusal:
            await heard(Recording(server.hub, "local", START), pieces(wav(scripted_clip(1, 5))))
        assert refusal.value.retry_after_ms
        server.worker().open.set()
        assert texts(await waiting) == expected(7)


async def test_no_recording_begins_while_the_server_drains(tmp_path: Path) -> None:
    async with front(tmp_path) as server:
        server.hub.is_draining = True
        with pytest.raises(Draining):
            await heard(Recording(server.hub, "local", START), pieces(b""))


async def test_a_recording_that_is_half_sent_is_not_cut_short_by_a_drain(tmp_path: Path) -> None:
    data = wav(scripted_clip(7, WORDS))
    async with front(tmp_path) as server:
        recording = Recording(server.hub, "local", START)

        async def with_a_drain() -> AsyncIterator[bytes]:
            yield data[: len(data) // 2]
            await until(lambda: recording.session_id is not None)
            server.hub.drain()
            yield data[len(data) // 2 :]

        with pytest.raises(Draining) as refusal:
            await heard(recording, with_a_drain())
        assert refusal.value.retry_after_ms


async def test_a_recording_that_is_sent_is_answered_during_a_drain(tmp_path: Path) -> None:
    async with front(tmp_path) as server:
        server.worker().open.clear()
        recording = Recording(server.hub, "local", START)
        waiting = asyncio.create_task(heard(recording, pieces(wav(scripted_clip(7, WORDS)))))
        await until(lambda: bool(server.hub.sessions) and server.live.session.is_waiting_for_reader)
        server.hub.drain()
        server.worker().open.set()
        assert texts(await waiting) == expected(7)


async def test_options_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    start = Start(partials=False, speakers_min=3, speakers_max=2)
    async with front(tmp_path) as server:
        with pytest.raises(UnsupportedOption):
            await heard(Recording(server.hub, "local", start), pieces(wav(scripted_clip(1, 5))))
