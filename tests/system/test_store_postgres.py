"""A server over PostgreSQL: one of the two crashes while somebody talks."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from server.child import running_server
from tests.server.postgres_cluster import Cluster, reason_without_postgres, running_cluster
from tests.system.talker import SCRIPTED, Talker, clip, packets, texts

NO_POSTGRES = reason_without_postgres()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(NO_POSTGRES is not None, reason=str(NO_POSTGRES)),
]
WORDS = 30


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with running_cluster() as made:
        yield made


async def test_captions_go_on_when_the_database_crashes(cluster: Cluster, tmp_path: Path) -> None:
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


async def test_a_server_that_is_killed_leaves_its_session_to_another(
    cluster: Cluster, tmp_path: Path
) -> None:
    pcm = clip(1, WORDS)
    options = [*SCRIPTED, "--store", cluster.url]
    async with running_server(options, tmp_path) as first:
        talker = await Talker.start(first.url)
        await send(talker, pcm[: len(pcm) // 4 * 2])
        await talker.until_words(WORDS // 3)
        first.kill()
        await talker.until_closed()
    async with running_server(options, tmp_path) as second:
        other = await Talker.resume(second.url, talker.ready, talker.last_seq)
        ready = await other.until("ready")
        await send(other, pcm[ready["resume_from_frame"] * 2 :])
        assert talker.words + await other.finish() == texts(1, WORDS)
        again = await Talker.resume(second.url, talker.ready)
        assert (await again.refusal())["code"] == "session_expired", "all of it was read"


async def send(talker: Talker, pcm: bytes) -> None:
    for packet in packets(pcm):
        await talker.socket.send(packet)
