"""The same store over a real PostgreSQL, with several servers on it, and when it is restarted."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest

from server.retention import Retention, RetentionOptions
from server.store import EVENTS_PAGE_MAX, StaleOwner, StoreError, TranscriptStore
from server.telemetry import Metrics
from tests.server.postgres_cluster import Cluster, reason_without_postgres, running_cluster
from tests.server.store_units import NOON, final, record

NO_POSTGRES = reason_without_postgres()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(NO_POSTGRES is not None, reason=str(NO_POSTGRES)),
]
FINALS = 60
TRIES_MAX = 1_000


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with running_cluster() as made:
        yield made


@pytest.fixture
def empty(cluster: Cluster) -> Cluster:
    cluster.clear()
    return cluster


@asynccontextmanager
async def opened(cluster: Cluster, name: str = "one") -> AsyncIterator[TranscriptStore]:
    store = await TranscriptStore.open(cluster.url, server_id=name)
    try:
        yield store
    finally:
        await store.close()


async def test_what_was_stored_is_there_after_a_restart(empty: Cluster) -> None:
    lines = [final(1), final(2, "Zweite Zeile: „ja“ \0")]
    async with opened(empty) as store:
        await store.create_session(record("a"))
        await store.append("a", lines, checkpoint=b"\0\xffcentroids")
        with pytest.raises(StoreError, match="exists already"):
            await store.create_session(record("a", tenant="bob"))
        with pytest.raises(StoreError, match="do not follow 2"):
            await store.append("a", [final(4)])
    async with opened(empty) as store:
        assert await store.events("a") == lines
        assert [found.session_id for found in await store.sessions("alice", limit=9)] == ["a"]
        found = await store.load_resumable("a")
        assert found is not None
        assert (found.record, found.last_seq) == (record("a"), 2)
        assert found.checkpoint == b"\0\xffcentroids"
        await store.delete_session("a")
        assert await store.session("a") is None


async def test_servers_that_start_at_once_make_one_schema(empty: Cluster) -> None:
    stores = await asyncio.gather(*(TranscriptStore.open(empty.url) for _ in range(4)))
    await asyncio.gather(*(store.create_session(record(f"s{n}")) for n, store in enumerate(stores)))
    assert len(await stores[0].sessions("alice", limit=9)) == 4
    await asyncio.gather(*(store.close() for store in stores))


async def test_a_session_that_is_claimed_while_it_is_written_is_never_doubled(
    empty: Cluster,
) -> None:
    """Two servers take it from each other all the time; each appends where it thinks it is."""
    async with opened(empty, "one") as one, opened(empty, "two") as two:
        await one.create_session(record("a"))

        async def write(store: TranscriptStore, name: str) -> None:
            while True:
                found = await store.load_resumable("a")
                assert found is not None
                if found.last_seq >= FINALS:
                    return
                try:
                    mine = await store.claim("a", found.epoch)
                    for seq in range(mine.last_seq + 1, mine.last_seq + 4):
                        await store.append("a", [final(seq, name)], epoch=mine.epoch)
                except StaleOwner:
                    pass

        async with asyncio.TaskGroup() as group:
            group.create_task(write(one, "one"))
            group.create_task(write(two, "two"))
        events = await one.events("a")
        assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
        assert {event["text"] for event in events} == {"one", "two"}


async def test_sweeps_close_and_delete(empty: Cluster) -> None:
    async with opened(empty, "dead") as dead, opened(empty, "next") as store:
        await dead.note_alive(NOON)
        await dead.create_session(record("open"))
        await dead.append("open", [], checkpoint=b"voice")
        await store.create_session(record("old"))
        await store.append("old", [final(seq) for seq in range(1, EVENTS_PAGE_MAX + 3)])
        await store.finish_session("old", "done", NOON - timedelta(days=9))
        options = RetentionOptions(120, timedelta(days=7))
        sweeps = Retention(store, options, Metrics("1"), held=frozenset)
        for second in range(0, 300, 15):
            await sweeps.sweep(NOON + timedelta(seconds=second))
        assert await store.session("old") is None
        found = await store.session("open")
        assert found is not None
        assert found.state == "interrupted"
        with pytest.raises(StaleOwner):
            await dead.append("open", [final(1)])


async def test_a_restart_of_the_database_costs_refusals_and_no_event(empty: Cluster) -> None:
    """Each write is tried until it is taken, as sessions do; none is stored twice."""
    async with opened(empty) as store:
        await store.create_session(record("a"))
        for seq in range(1, FINALS // 3):
            await persist(store, seq)
        restart = asyncio.create_task(asyncio.to_thread(empty.restart_at_once))
        for seq in range(FINALS // 3, FINALS + 1):
            await persist(store, seq)
        await restart
        await persist(store, FINALS + 1)
        assert [event["seq"] for event in await store.events("a")] == list(range(1, FINALS + 2))


async def persist(store: TranscriptStore, seq: int) -> None:
    for number in range(TRIES_MAX):
        try:
            await store.append("a", [final(seq)], is_retry=number > 0)
        except StoreError:
            await asyncio.sleep(0.02)
        else:
            return
    raise AssertionError(f"event {seq} was refused {TRIES_MAX} times")
