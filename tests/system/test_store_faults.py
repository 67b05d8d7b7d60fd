"""A store on a full or failing disk: captions go on, marked, and none is lost when it recovers."""

import asyncio
import sqlite3
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from server.child import ServerChild, running_server
from tests.system.faults import FAILING_SYNC, FULL_DISK, failing, reason_without_strace
from tests.system.talker import SCRIPTED, Message, Talker, clip, packets, texts

NO_STRACE = reason_without_strace()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(NO_STRACE is not None, reason=str(NO_STRACE)),
]

SERVER_OPTIONS = ()
PER_UTTERANCE = 5
WORDS = 3 * PER_UTTERANCE
CLIP = clip(1, WORDS)
RECOVERY_SECONDS_MAX = 20.0


def thirds() -> list[bytes]:
    """One utterance each, with the pause after it."""
    size = len(CLIP) // 3 // 2 * 2
    return [CLIP[:size], CLIP[size : 2 * size], CLIP[2 * size :]]


async def play(talker: Talker, pcm: bytes) -> None:
    for packet in packets(pcm):
        await talker.socket.send(packet)


async def status(url: str, path: str) -> int:
    async with aiohttp.ClientSession() as http, http.get(url + path) as answer:
        return answer.status


async def stored(url: str, session_id: str) -> list[Message]:
    address = f"{url}/v1/sessions/{session_id}/transcript"
    async with aiohttp.ClientSession() as http, http.get(address) as answer:
        found: dict[str, Any] = await answer.json()
    captions: list[Message] = found["captions"]
    return captions


def acked(talker: Talker) -> int:
    acks = [m["stored_through_frame"] for m in talker.messages if m["type"] == "ack"]
    return max(acks, default=0)


def durable_marks(talker: Talker) -> list[bool]:
    return [m.get("durable", True) for m in talker.messages if m["type"] == "final"]


@pytest.mark.parametrize(
    "fault", [pytest.param(FAILING_SYNC, id="sync"), pytest.param(FULL_DISK, id="full")]
)
async def test_captions_go_on_while_the_disk_fails(
    server: ServerChild, fault: tuple[str, str]
) -> None:
    first, second, third = thirds()
    talker = await Talker.start(server.url)
    await play(talker, first + second[: len(second) // 8 * 2])
    await talker.until_words(PER_UTTERANCE)
    assert durable_marks(talker) == [True]
    async with failing(server.process.pid, *fault):
        await play(talker, second[len(second) // 8 * 2 :])
        await talker.until_words(2 * PER_UTTERANCE)
        told = await talker.until("degraded", stage="store") if not degraded(talker) else None
        assert told is None or "over" not in told
        assert durable_marks(talker) == [True, False]
        assert acked(talker) * 2 <= len(first), "nothing of it may be acknowledged"
        assert await status(server.url, "/readyz") == 503
        await play(talker, third)
        await talker.until_words(WORDS)
    await talker.until("degraded", stage="store", over=True)
    assert await talker.finish() == texts(1, WORDS)
    assert [m["seq"] for m in talker.messages if "seq" in m][1:] == list(
        range(1, talker.last_seq + 1)
    )
    captions = await stored(server.url, talker.ready["session_id"])
    assert [caption["text"] for caption in captions] == [
        m["text"] for m in talker.messages if m["type"] == "final"
    ]
    assert await status(server.url, "/readyz") == 200


def degraded(talker: Talker) -> bool:
    return any(m["type"] == "degraded" for m in talker.messages)


async def test_what_was_sent_as_durable_survives_a_kill_on_a_failing_disk(tmp_path: Path) -> None:
    first, second, _ = thirds()
    async with running_server(SCRIPTED, tmp_path) as server:
        talker = await Talker.start(server.url)
        await play(talker, first + second[: len(second) // 8 * 2])
        await talker.until_words(PER_UTTERANCE)
        async with failing(server.process.pid, *FAILING_SYNC):
            await play(talker, second[len(second) // 8 * 2 :])
            await talker.until_words(2 * PER_UTTERANCE)
            server.kill()
            await server.process.wait()
    promised = [
        m["text"] for m in talker.messages if m["type"] == "final" and m.get("durable", True)
    ]
    assert len(promised) == 1
    await asyncio.to_thread(check_integrity, tmp_path / "captiond.db")
    async with running_server(SCRIPTED, tmp_path) as server:
        captions = await stored(server.url, talker.ready["session_id"])
        assert [caption["text"] for caption in captions][:1] == promised


def check_integrity(path: Path) -> None:
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    connection.close()
