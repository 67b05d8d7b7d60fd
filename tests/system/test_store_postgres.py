"""A server over PostgreSQL, which crashes and comes back while somebody talks."""

import asyncio
from pathlib import Path

import pytest

from server.child import running_server
from tests.server.postgres_cluster import reason_without_postgres, running_cluster
from tests.system.talker import SCRIPTED, Talker, clip, packets, texts

NO_POSTGRES = reason_without_postgres()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(NO_POSTGRES is not None, reason=str(NO_POSTGRES)),
]
WORDS = 30


async def test_captions_go_on_when_the_database_crashes(tmp_path: Path) -> None:
    with running_cluster() as cluster:
        async with running_server([*SCRIPTED, "--store", cluster.url], tmp_path) as server:
            talker = await Talker.start(server.url)
            pcm = clip(1, WORDS)
            await send(talker, pcm[: len(pcm) // 4 * 2])
            await talker.until_words(WORDS // 3)
            cluster.control("stop", "-m", "immediate")
            await send(talker, pcm[len(pcm) // 4 * 2 :])
            await talker.until_words(WORDS)
            assert [m for m in talker.messages if m.get("durable") is False]
            cluster.start()
            await talker.until("degraded", stage="store", over=True)
            assert await talker.finish() == texts(1, WORDS)
        log = await asyncio.to_thread((tmp_path / "server.log").read_text)
        assert "events lost" not in log


async def send(talker: Talker, pcm: bytes) -> None:
    for packet in packets(pcm):
        await talker.socket.send(packet)
