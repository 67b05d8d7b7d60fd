"""The transcript store over real SQLite files: durable, in order, complete, and deletable."""

import asyncio
import gc
import signal
import sqlite3
import subprocess
import sys
import tempfile
import traceback
import warnings
from collections.abc import AsyncIterator, Iterator, Sequence
from datetime import timedelta
from pathlib import Path

import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import insert, inspect, text
from sqlalchemy.exc import DBAPIError

from server import schema
from server.group_commit import GROUP_WRITES_MAX, WRITES_PENDING_MAX
from server.store import EVENTS_PAGE_MAX, StoreError, TranscriptStore
from tests.server.store_units import NOON, final, record, stored_bytes, url_of


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "captions.db"


@pytest.fixture
def commits() -> list[int]:
    """Writes in each commit of ``store``."""
    return []


@pytest.fixture
async def store(path: Path, commits: list[int]) -> AsyncIterator[TranscriptStore]:
    opened = await TranscriptStore.open(
        url_of(path), on_commit=lambda seconds, writes: commits.append(writes)
    )
    yield opened
    await opened.close()


async def test_all_is_there_after_a_restart(path: Path) -> None:
    store = await TranscriptStore.open(url_of(path))
    await store.create_session(record("a"))
    await store.append("a", [final(1), final(2, "Zweite Zeile: „ja“ \0")])
    await store.append("a", [])
    await store.finish_session("a", "done", NOON + timedelta(seconds=90))
    await store.close()

    reopened = await TranscriptStore.open(url_of(path))
    stored = await reopened.session("a")
    assert stored is not None
    assert (stored.state, stored.ended_at) == ("done", NOON + timedelta(seconds=90))
    assert (stored.options, stored.created_at) == (record("a").options, NOON)
    assert await reopened.events("a") == [final(1), final(2, "Zweite Zeile: „ja“ \0")]
    await reopened.append("a", [final(3)])
    await reopened.close()


@pytest.mark.parametrize("steps", range(0, 40, 8))
async def test_reads_under_way_end_before_their_connections_do(path: Path, steps: int) -> None:
    store = await TranscriptStore.open(url_of(path))
    reads = [asyncio.create_task(store.session("a")) for _ in range(schema.READERS_MAX + 2)]
    for _ in range(steps):
        await asyncio.sleep(0)
    reads[0].cancel()
    await store.close()
    for outcome in await asyncio.gather(*reads, return_exceptions=True):
        assert outcome is None or isinstance(outcome, StoreError | asyncio.CancelledError)
    with pytest.raises(StoreError, match="closed"):
        await store.session("a")
    del store, reads
    with warnings.catch_warnings(record=True) as left_open:
        gc.collect()
    assert not left_open


async def test_readers_wait_for_one_another_not_for_ever(
    store: TranscriptStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.store.READ_PATIENCE_SECONDS", 0.0)
    reads = (store.session("a") for _ in range(schema.READERS_MAX + 1))
    *read, refused = await asyncio.gather(*reads, return_exceptions=True)
    assert read == [None] * schema.READERS_MAX
    assert isinstance(refused, StoreError)
    assert "too many readers" in str(refused)


async def test_what_is_not_there(store: TranscriptStore) -> None:
    assert await store.session("nobody") is None
    assert await store.events("nobody") == []
    assert await store.sessions("alice", limit=5) == []
    for write in (
        store.append("nobody", [final(1)]),
        store.finish_session("nobody", "done", NOON),
        store.delete_session("nobody"),
    ):
        with pytest.raises(StoreError, match="no session nobody"):
            await write


async def test_a_session_id_is_used_once(store: TranscriptStore) -> None:
    await store.create_session(record("a"))
    with pytest.raises(StoreError, match="exists already"):
        await store.create_session(record("a", tenant="bob"))
    stored = await store.session("a")
    assert stored is not None
    assert stored.tenant == "alice"


@pytest.mark.parametrize("seqs", [[2], [3], [5], [4, 4], [4, 6], [5, 4], [0], [-1]])
async def test_gaps_and_repeats_are_refused_whole(store: TranscriptStore, seqs: list[int]) -> None:
    await store.create_session(record("a"))
    await store.append("a", [final(1), final(2), final(3)])
    with pytest.raises(StoreError, match="do not follow 3"):
        await store.append("a", [final(seq) for seq in seqs])
    assert [event["seq"] for event in await store.events("a")] == [1, 2, 3]


async def test_a_retry_finds_what_the_first_try_had_stored(store: TranscriptStore) -> None:
    await store.create_session(record("a"))
    await store.append("a", [final(1), final(2)], is_retry=True)
    await store.append("a", [final(1), final(2)], is_retry=True)
    with pytest.raises(StoreError, match="do not follow 2"):
        await store.append("a", [final(2), final(3)], is_retry=True)
    await asyncio.gather(*(store.append("a", [final(3)], is_retry=True) for _ in range(3)))
    assert [event["seq"] for event in await store.events("a")] == [1, 2, 3]


@settings(max_examples=15, deadline=None)
@given(
    st.lists(st.lists(st.tuples(st.sampled_from("abc"), st.lists(st.integers(1, 6), max_size=3))))
)
def test_any_concurrent_appends_leave_numbered_events(
    rounds: list[list[tuple[str, list[int]]]],
) -> None:
    """Against a model: an append counts if and only if it continues its session."""

    async def run(folder: str) -> None:
        store = await TranscriptStore.open(url_of(Path(folder) / "captions.db"))
        model: dict[str, list[int]] = {"a": [], "b": []}  # no session c
        for session_id in model:
            await store.create_session(record(session_id))
        for appends in rounds:
            calls = (store.append(name, [final(seq) for seq in seqs]) for name, seqs in appends)
            outcomes = await asyncio.gather(*calls, return_exceptions=True)
            assert [outcome is None for outcome in outcomes] == model_accepts(model, appends)
        for session_id, seqs in model.items():
            assert [event["seq"] for event in await store.events(session_id)] == seqs
        await store.close()

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(run(folder))


def model_accepts(
    model: dict[str, list[int]], appends: Sequence[tuple[str, list[int]]]
) -> list[bool]:
    accepted = []
    for name, seqs in appends:
        stored = model.get(name)
        first = len(stored or ()) + 1
        follows = stored is not None and seqs == list(range(first, first + len(seqs)))
        accepted.append(follows or not seqs)
        if stored is not None and follows:
            stored.extend(seqs)
    return accepted


async def test_concurrent_appends_share_few_commits(
    store: TranscriptStore, commits: list[int]
) -> None:
    names = [f"s{number}" for number in range(100)]
    for name in names:
        await store.create_session(record(name))
    commits.clear()
    await asyncio.gather(*(store.append(name, [final(1)]) for name in names))
    assert sum(commits) == 100
    assert len(commits) <= 3


async def test_more_writes_than_may_wait_all_succeed_in_order(
    store: TranscriptStore, commits: list[int]
) -> None:
    count = WRITES_PENDING_MAX + GROUP_WRITES_MAX + 1
    await store.create_session(record("a"))
    await asyncio.gather(*(store.append("a", [final(seq)]) for seq in range(1, count + 1)))
    assert max(commits) <= GROUP_WRITES_MAX
    first = await store.events("a", limit=10 * EVENTS_PAGE_MAX)
    rest = await store.events("a", after_seq=first[-1]["seq"])
    assert len(first) == EVENTS_PAGE_MAX
    assert [event["seq"] for event in first + rest] == list(range(1, count + 1))


async def test_a_refused_write_leaves_its_group_alone(
    store: TranscriptStore, commits: list[int]
) -> None:
    await store.create_session(record("a"))
    commits.clear()
    outcomes = await asyncio.gather(
        store.append("a", [final(1)]),
        store.append("a", [final(7)]),
        store.create_session(record("b")),
        store.finish_session("nobody", "done", NOON),
        store.append("b", [final(1)]),
        store.append("a", [final(2)]),
        return_exceptions=True,
    )
    assert [outcome is None for outcome in outcomes] == [True, False, True, False, True, True]
    assert commits == [6]


async def test_a_cancelled_caller_harms_no_one(store: TranscriptStore) -> None:
    await store.create_session(record("a"))
    impatient = asyncio.create_task(store.append("a", [final(1)]))
    await asyncio.sleep(0)
    impatient.cancel()
    with pytest.raises(asyncio.CancelledError):
        await impatient
    await store.append("a", [final(2)])
    assert len(await store.events("a")) == 2


async def test_a_failing_commit_reaches_each_caller_and_the_store_goes_on(
    store: TranscriptStore, path: Path
) -> None:
    await store.create_session(record("a"))
    await store.create_session(record("b"))
    with sqlite3.connect(path) as saboteur:
        saboteur.execute("ALTER TABLE events RENAME TO hidden")
    with structlog.testing.capture_logs() as logs:
        outcomes = await asyncio.gather(
            store.append("a", [final(1, "budget secret")]),
            store.append("b", [final(1)]),
            return_exceptions=True,
        )
    assert [type(outcome) for outcome in outcomes] == [StoreError, StoreError]
    assert [entry["log_level"] for entry in logs] == ["error"]
    shown = "".join(traceback.format_exception(logs[0]["exc_info"]))
    assert "no such table" in shown
    assert "budget secret" not in shown, "no captions in logs"
    with pytest.raises(StoreError, match="could not be read"):
        await store.events("a")
    with sqlite3.connect(path) as saboteur:
        saboteur.execute("ALTER TABLE hidden RENAME TO events")
    saboteur.close()
    await store.append("a", [final(1)])
    assert await store.events("a") == [final(1)]


async def test_close_finishes_what_waits_and_refuses_the_rest(path: Path) -> None:
    store = await TranscriptStore.open(url_of(path))
    await store.create_session(record("a"))
    appends = [asyncio.create_task(store.append("a", [final(seq)])) for seq in range(1, 51)]
    await asyncio.sleep(0)
    await store.close()
    assert await asyncio.gather(*appends) == [None] * 50
    with pytest.raises(StoreError, match="closed"):
        await store.append("a", [final(51)])
    assert sorted(file.name for file in path.parent.iterdir()) == [path.name], "log merged"


async def test_sessions_are_listed_newest_first_in_pages(store: TranscriptStore) -> None:
    for number in range(5):
        # Two pairs share their time: the id decides.
        moment = NOON + timedelta(microseconds=number // 2)
        await store.create_session(record(f"s{number}", created_at=moment))
    await store.create_session(record("other", tenant="bob"))
    page = await store.sessions("alice", limit=2)
    seen = [stored.session_id for stored in page]
    while page:
        page = await store.sessions("alice", limit=2, before=page[-1].cursor)
        seen += [stored.session_id for stored in page]
    assert seen == ["s4", "s3", "s2", "s1", "s0"]


async def test_events_are_read_after_a_seq(store: TranscriptStore) -> None:
    await store.create_session(record("a"))
    await store.append("a", [final(seq) for seq in range(1, 10)])
    read = await store.events("a", after_seq=4, limit=3)
    assert [event["seq"] for event in read] == [5, 6, 7]


async def test_deletion_leaves_no_byte_of_the_text(store: TranscriptStore, path: Path) -> None:
    marker = "confidential-7f3a"
    await store.create_session(record("a"))
    await store.create_session(record("kept"))
    await store.append("a", [final(seq, f"{marker} " * 900) for seq in range(1, 6)])
    await store.append("a", [final(6, marker)])
    await store.append("kept", [final(1)])
    assert marker.encode() in stored_bytes(path)

    await store.delete_session("a")
    assert marker.encode() not in stored_bytes(path)
    assert await store.session("a") is None
    assert await store.events("a") == []
    assert await store.events("kept") == [final(1)]
    with pytest.raises(StoreError):
        await store.append("a", [final(7)])


@pytest.mark.slow  # waits for the busy timeout
async def test_a_reader_that_holds_the_log_is_reported(store: TranscriptStore, path: Path) -> None:
    await store.create_session(record("a"))
    reader = sqlite3.connect(path, isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT * FROM sessions").fetchall()
    with pytest.raises(StoreError, match="a reader holds the log"):
        await store.delete_session("a")
    reader.close()
    assert await store.session("a") is None


_APPENDS_FOR_EVER = """
import asyncio, sys
from datetime import UTC, datetime
from server.store import SessionRecord, TranscriptStore

async def main(url):
    store = await TranscriptStore.open(url)
    await store.create_session(
        SessionRecord("a", "alice", datetime.now(UTC), None, "open", {}, "hash")
    )
    seq = 0
    while True:
        seq += 1
        await store.append("a", [{"type": "final", "seq": seq, "text": "x" * 300}])
        print("stored", seq, flush=True)

asyncio.run(main(sys.argv[1]))
"""


def acknowledged_before_kill(path: Path) -> list[int]:
    """The seqs that a child printed after ``append`` returned, until it was killed."""
    child = subprocess.Popen(
        [sys.executable, "-c", _APPENDS_FOR_EVER, url_of(path)],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        text=True,
    )
    seqs: list[int] = []
    assert child.stdout is not None
    with child:
        for line in child.stdout:
            if line.startswith("stored") and line.endswith("\n"):
                seqs.append(int(line.split()[1]))
            if len(seqs) == 300:
                child.send_signal(signal.SIGKILL)
    return seqs


def test_a_killed_server_loses_nothing_that_was_acknowledged(path: Path) -> None:
    acknowledged = acknowledged_before_kill(path)
    assert len(acknowledged) >= 300

    async def stored_seqs() -> list[int]:
        store = await TranscriptStore.open(url_of(path))
        stored: list[int] = []
        while page := await store.events("a", after_seq=len(stored)):
            stored += [event["seq"] for event in page]
        await store.close()
        return stored

    stored = asyncio.run(stored_seqs())
    assert stored == list(range(1, len(stored) + 1))
    assert set(acknowledged) <= set(stored)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("nonsense", "no database URL"),
        ("mysql+asyncmy://db/captiond", "only SQLite and PostgreSQL"),
        ("postgresql+asyncpg://db", "name the database"),
        ("postgresql+asyncpg://127.0.0.1:1/captiond", "cannot use captiond"),
        ("sqlite+aiosqlite://", "need a file"),
        ("sqlite+aiosqlite:///:memory:", "need a file"),
        ("sqlite+aiosqlite:////no/such/folder/captions.db", "unable to open"),
    ],
)
async def test_a_store_that_cannot_be(url: str, said: str) -> None:
    with pytest.raises(StoreError, match=said):
        await TranscriptStore.open(url)


@pytest.fixture
def no_database(path: Path) -> Iterator[Path]:
    content = b"not a database at all " * 100
    path.write_bytes(content)
    yield path
    assert path.read_bytes() == content


async def test_a_file_that_is_no_database_is_left_alone(no_database: Path) -> None:
    with pytest.raises(StoreError, match="not a database"):
        await TranscriptStore.open(url_of(no_database))


async def test_a_newer_schema_is_left_alone(path: Path) -> None:
    await (await TranscriptStore.open(url_of(path))).close()
    newer = sqlite3.connect(path)
    newer.execute("UPDATE schema_version SET version = 99")
    newer.commit()
    newer.close()
    with pytest.raises(StoreError, match=r"newer captiond.*upgrade"):
        await TranscriptStore.open(url_of(path))


@pytest.mark.parametrize(
    ("version", "warnings"), [((3, 40, 1), 1), ((3, 51, 2), 1), ((3, 51, 3), 0), ((4, 0, 0), 0)]
)
async def test_an_old_sqlite_is_warned_of(
    path: Path, monkeypatch: pytest.MonkeyPatch, version: tuple[int, int, int], warnings: int
) -> None:
    monkeypatch.setattr(sqlite3, "sqlite_version_info", version)
    with structlog.testing.capture_logs() as logs:
        await (await TranscriptStore.open(url_of(path))).close()
    assert [entry["log_level"] for entry in logs] == ["warning"] * warnings


async def test_only_the_owner_can_read_the_files(store: TranscriptStore, path: Path) -> None:
    await store.create_session(record("a"))
    modes = {file.name: file.stat().st_mode & 0o077 for file in path.parent.iterdir()}
    assert len(modes) == 3
    assert set(modes.values()) == {0}


async def test_how_connections_are_set_up(path: Path) -> None:
    writer = schema.make_engine(
        schema.checked_url(url_of(path)), synchronous="FULL", is_writer=True
    )
    async with writer.begin() as connection:
        rival = sqlite3.connect(path, timeout=0, isolation_level=None)
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            rival.execute("BEGIN IMMEDIATE")  # the writer has the lock before it writes
        rival.close()
        pragmas = ("journal_mode", "synchronous", "foreign_keys", "secure_delete")
        values = [await connection.scalar(text(f"PRAGMA {name}")) for name in pragmas]
        assert values == ["wal", 2, 1, 1]
    await writer.dispose()


async def test_reading_connections_cannot_write(store: TranscriptStore, path: Path) -> None:
    reader = schema.make_engine(
        schema.checked_url(url_of(path)), synchronous="FULL", is_writer=False
    )
    async with reader.connect() as connection:
        with pytest.raises(DBAPIError, match="readonly"):
            await connection.execute(insert(schema.schema_version).values(version=2))
    await reader.dispose()


async def test_migrations_make_the_tables_that_statements_use(path: Path) -> None:
    engine = schema.make_engine(
        schema.checked_url(url_of(path)), synchronous="FULL", is_writer=True
    )
    async with engine.begin() as connection:
        await connection.run_sync(schema.migrate)
        await connection.run_sync(schema.migrate)  # a second start changes nothing
        for table in schema.metadata.sorted_tables:
            made = await connection.run_sync(
                lambda sync, name: inspect(sync).get_columns(name), table.name
            )
            wanted = {column.name: (str(column.type), column.nullable) for column in table.columns}
            assert {c["name"]: (str(c["type"]), c["nullable"]) for c in made} == wanted
    await engine.dispose()
