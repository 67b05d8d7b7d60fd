"""Disks that are full, broken or read-only, and databases of older versions: real files."""

import os
import sqlite3
from pathlib import Path
from typing import Any

import pytest
import structlog

from server import schema
from server.store import StoreError, TranscriptStore
from tests.server.store_units import NOON, final, opened, record, url_of

FIRST_VERSION = """
CREATE TABLE schema_version (version INTEGER NOT NULL);
INSERT INTO schema_version VALUES (1);
CREATE TABLE sessions (
    session_id TEXT NOT NULL PRIMARY KEY,
    tenant TEXT NOT NULL,
    created_at_us BIGINT NOT NULL,
    ended_at_us BIGINT,
    state TEXT NOT NULL CHECK (state IN ('open', 'done', 'expired')),
    options TEXT NOT NULL,
    resume_token_hash TEXT NOT NULL,
    last_seq BIGINT NOT NULL
);
CREATE INDEX sessions_by_tenant ON sessions (tenant, created_at_us, session_id);
CREATE TABLE events (
    session_id TEXT NOT NULL REFERENCES sessions (session_id),
    seq BIGINT NOT NULL CHECK (seq >= 1),
    type TEXT NOT NULL,
    body TEXT NOT NULL,
    PRIMARY KEY (session_id, seq)
);
INSERT INTO sessions VALUES
    ('a', 'alice', 1795176000000000, 1795176090000000, 'done', '{"language":"en"}', 'hash', 1),
    ('b', 'alice', 1795176000000000, NULL, 'open', '{}', 'hash', 0);
INSERT INTO events VALUES ('a', 1, 'final', '{"type":"final","seq":1,"text":"Grüße"}');
"""
"""As captiond made and filled it before sessions had owners."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "captions.db"


async def limit_pages(store: TranscriptStore, more: int) -> None:
    """As a disk with room for so many pages more; a very large number takes the limit away."""
    driver = (await store._connection.get_raw_connection()).driver_connection
    assert driver is not None
    async with driver.execute("PRAGMA page_count") as cursor:
        (pages,) = await cursor.fetchone()
    await driver.execute(f"PRAGMA max_page_count={pages + more}")


async def fill(store: TranscriptStore) -> int:
    """Append to session a until there is no room; how many events it took."""
    taken = 0
    while True:
        try:
            await store.append("a", [final(taken + 1, "x" * 2_000)], checkpoint=b"%d" % taken)
        except StoreError:
            return taken
        taken += 1


async def test_a_full_disk_refuses_whole_writes_and_goes_on_when_there_is_room(path: Path) -> None:
    async with opened(path) as store:
        await store.create_session(record("a"))
        await limit_pages(store, 3)
        with structlog.testing.capture_logs() as logs:
            taken = await fill(store)
        assert "full" in str(logs[0]["exc_info"])
        assert 0 < taken < 20
        assert len(await store.events("a")) == taken, "reading goes on"
        with pytest.raises(StoreError):
            await store.append("a", [final(taken + 1, "y" * 9_000)], checkpoint=b"never")
        found = await store.load_resumable("a")
        assert found is not None
        assert (found.last_seq, found.checkpoint) == (taken, b"%d" % (taken - 1))
        await limit_pages(store, 1_000_000)
        await store.append("a", [final(taken + 1), final(taken + 2)])
        assert len(await store.events("a")) == taken + 2


async def test_room_comes_back_when_a_session_is_deleted(path: Path) -> None:
    async with opened(path) as store:
        for name in ("old", "new"):
            await store.create_session(record(name))
        await store.append("old", [final(seq, "x" * 3_000) for seq in range(1, 20)])
        await limit_pages(store, 0)
        long = [final(seq, "y" * 3_000) for seq in range(1, 10)]
        with pytest.raises(StoreError):
            await store.append("new", long)
        await store.delete_session("old")
        await store.append("new", long)
        assert len(await store.events("new")) == 9


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write to files that nobody may write to")
async def test_a_file_that_may_not_be_written_is_named(path: Path) -> None:
    async with opened(path):
        pass
    os.chmod(path, 0o400)
    with pytest.raises(StoreError, match="unable to open it"):
        await TranscriptStore.open(url_of(path))


async def test_another_programs_lock_is_waited_for_and_then_reported(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema, "BUSY_TIMEOUT_MS", 20)
    async with opened(path) as store:
        await store.create_session(record("a"))
        rival = sqlite3.connect(path, isolation_level=None)
        rival.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError, match="not save"):
            await store.append("a", [final(1)])
        rival.execute("COMMIT")
        rival.close()
        await store.append("a", [final(1)])


def make_first_version(path: Path) -> None:
    old = sqlite3.connect(path)
    old.executescript(FIRST_VERSION)
    old.close()


def columns(path: Path) -> dict[str, set[tuple[Any, ...]]]:
    connection = sqlite3.connect(path)
    tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_schema")]
    found = {
        name: {tuple(row[1:4]) for row in connection.execute(f"PRAGMA table_info({name})")}
        for name in tables
    }
    connection.close()
    return found


async def test_a_file_of_the_first_version_is_brought_up_to_date(path: Path) -> None:
    make_first_version(path)
    async with opened(path) as store:
        [a, b] = sorted(await store.sessions("alice", limit=9), key=lambda found: found.session_id)
        assert (a.state, b.state, a.options) == ("done", "open", {"language": "en"})
        assert a.ended_at is not None
        assert await store.events("a") == [{"type": "final", "seq": 1, "text": "Grüße"}]
        found = await store.load_resumable("b")
        assert found is not None
        assert (found.epoch, found.checkpoint) == (1, None)
        assert await store.close_interrupted(NOON, NOON) == 1, "nobody else will come back to it"
    fresh = path.with_name("fresh.db")
    async with opened(fresh):
        pass
    assert columns(path) == columns(fresh)


@pytest.mark.parametrize("version", range(1, len(schema.MIGRATIONS)))
async def test_a_migration_that_fails_half_way_changes_nothing(
    path: Path, monkeypatch: pytest.MonkeyPatch, version: int
) -> None:
    """At each statement; the next start with a whole program succeeds."""
    released = schema.MIGRATIONS
    for count in range(len(released[version])):
        path = path.with_name(f"torn-at-{count}.db")
        make_first_version(path)
        before = columns(path)
        torn = (*released[:version], (*released[version][:count], "SELECT no_such_column"))
        monkeypatch.setattr(schema, "MIGRATIONS", torn)
        with pytest.raises(StoreError, match="no_such_column"):
            await TranscriptStore.open(url_of(path))
        assert columns(path) == before
    monkeypatch.setattr(schema, "MIGRATIONS", released)
    async with opened(path) as store:
        assert len(await store.events("a")) == 1
