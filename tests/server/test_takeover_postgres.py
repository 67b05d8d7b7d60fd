"""Servers over one PostgreSQL that take sessions over from each other."""

import asyncio
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from tests.server.postgres_cluster import Cluster, reason_without_postgres, running_cluster
from tests.server_fakes import Front, running, until
from tests.system.talker import Talker, clip, final_words, texts

NO_POSTGRES = reason_without_postgres()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(NO_POSTGRES is not None, reason=str(NO_POSTGRES)),
]
WORDS = 20
CLIP = clip(1, WORDS)
HALF = len(CLIP) // 4 * 2


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with running_cluster() as made:
        yield made


@pytest.fixture
def empty(cluster: Cluster) -> Cluster:
    cluster.clear()
    return cluster


def front_over(cluster: Cluster, folder: Path) -> AbstractAsyncContextManager[Front]:
    return running(folder, store_url=cluster.url)


async def said_half(front: Front) -> Talker:
    talker = await Talker.start(front.url)
    await talker.play(CLIP[:HALF])
    await talker.until_words(WORDS // 2 - 5)
    return talker


async def said_the_rest(talker: Talker) -> None:
    ready = await talker.until("ready")
    await talker.play(CLIP[ready["resume_from_frame"] * 2 :])
    await talker.finish()


def check_words(*talkers: Talker) -> None:
    """Every word once and in order, though they came over several connections."""
    messages = [m for talker in talkers for m in talker.messages if m["type"] != "ready"]
    durable = {m["seq"]: m for m in messages if "seq" in m}
    assert final_words([durable[seq] for seq in sorted(durable)]) == texts(1, WORDS)


async def test_a_session_moves_while_its_first_server_lives(empty: Cluster, tmp_path: Path) -> None:
    async with front_over(empty, tmp_path) as first, front_over(empty, tmp_path) as second:
        talker = await said_half(first)
        other = await Talker.resume(second.url, talker.ready, talker.last_seq)
        await said_the_rest(other)
        # The first one finds out at its next write, or when it looks for whom the session is.
        late = await Talker.resume(first.url, talker.ready)
        assert await late.until_closed() == 1000
        assert late.words == texts(1, WORDS)
        assert (await talker.refusal())["code"] == "superseded"
        check_words(talker, other)


async def test_an_end_that_was_not_read_is_repeated(empty: Cluster, tmp_path: Path) -> None:
    async with front_over(empty, tmp_path) as first:
        talker = await Talker.start(first.url)
        await talker.play(CLIP)
        await talker.say("end")
        await talker.until("done")
        talker.cut()
    async with front_over(empty, tmp_path) as second:
        again = await Talker.resume(second.url, talker.ready, 1)
        assert await again.until_closed() == 1000
        assert again.messages[-1] == talker.messages[-1]
        check_words(talker, again)
        await until(lambda: not list(second.hub.sessions))


async def test_of_servers_that_are_asked_at_once_one_has_the_session(
    empty: Cluster, tmp_path: Path
) -> None:
    """Each takes it from the one before; whoever is last goes on, and no word is stored twice."""
    async with (
        front_over(empty, tmp_path) as first,
        front_over(empty, tmp_path) as second,
        front_over(empty, tmp_path) as third,
    ):
        lost = await said_half(first)
        lost.cut()
        fronts = (second, third) * 3
        comers = await asyncio.gather(
            *(Talker.resume(front.url, lost.ready, lost.last_seq) for front in fronts)
        )
        await asyncio.gather(*(comer.next() for comer in comers))
        closes = [asyncio.create_task(comer.until_closed()) for comer in comers]
        last = await Talker.resume(second.url, lost.ready, lost.last_seq)
        await said_the_rest(last)
        for comer in comers:
            comer.cut()
        await asyncio.gather(*closes)
        stored = await second.hub.store.events(lost.ready["session_id"])
        assert [event["seq"] for event in stored] == list(range(1, len(stored) + 1))
        assert final_words(stored) == texts(1, WORDS)
