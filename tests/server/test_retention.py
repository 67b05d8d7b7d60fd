"""Sweeps: dead servers' sessions are closed, old ones deleted, and the text leaves the files."""

import asyncio
import sqlite3
from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path

import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st

from server import retention
from server.retention import Retention, RetentionOptions
from server.store import EVENTS_PAGE_MAX, StaleOwner, StoreError, TranscriptStore
from server.telemetry import Metrics
from tests.server.store_units import NOON, final, opened, record, stored_bytes
from tests.server_fakes import until

LATER = NOON + timedelta(days=3)


def sweeper(
    store: TranscriptStore, *, keep: timedelta | None = None, held: AbstractSet[str] = frozenset()
) -> Retention:
    return Retention(store, RetentionOptions(120, keep), Metrics("1"), held=lambda: held)


def swept(sweeps: Retention, action: str) -> float:
    name = "captiond_sessions_swept_total"
    return sweeps._metrics.registry.get_sample_value(name, {"action": action}) or 0.0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "captions.db"


async def state(store: TranscriptStore, session_id: str) -> str | None:
    found = await store.session(session_id)
    return found.state if found else None


async def sweep(sweeps: Retention, first_s: int, last_s: int) -> None:
    """As a server does, between these times."""
    for second in range(first_s, last_s, int(retention.SWEEP_SECONDS)):
        await sweeps.sweep(NOON + timedelta(seconds=second))


async def test_a_dead_servers_sessions_are_closed_after_the_window(path: Path) -> None:
    async with opened(path, server_id="dead") as dead, opened(path, server_id="next") as store:
        await dead.note_alive(NOON)
        await dead.create_session(record("a"))
        await dead.append("a", [final(1)], checkpoint=b"voice")
        await store.create_session(record("mine"))
        sweeps = sweeper(store, held={"mine"})
        await sweep(sweeps, 0, 119)
        assert await state(store, "a") == "open", "it can still be resumed"
        await sweep(sweeps, 121, 122)
        assert await state(store, "a") == "interrupted"
        assert await state(store, "mine") == "open"
        assert swept(sweeps, "interrupted") == 1
        assert await store.events("a") == [final(1)]
        with pytest.raises(StaleOwner):
            await dead.append("a", [final(2)])
        assert b"voice" not in stored_bytes(path)


async def test_a_session_that_was_claimed_in_time_goes_on(path: Path) -> None:
    async with opened(path, server_id="dead") as dead, opened(path, server_id="next") as store:
        await dead.note_alive(NOON)
        await dead.create_session(record("a"))
        await store.claim("a", 1)
        await sweep(sweeper(store, held={"a"}), 0, 1_000)
        assert await state(store, "a") == "open"
        await store.append("a", [final(1)], epoch=2)


async def test_a_server_that_was_cut_off_itself_waits_for_the_others(path: Path) -> None:
    async with opened(path, server_id="one") as one, opened(path, server_id="two") as two:
        await one.note_alive(NOON)
        await one.create_session(record("a"))
        sweeps = sweeper(two)
        await sweep(sweeps, 0, 60)
        await sweep(sweeps, 600, 630)
        assert await state(two, "a") == "open", "nobody could say that he was alive"
        await one.note_alive(NOON + timedelta(seconds=640))
        await sweep(sweeps, 645, 700)
        assert await state(two, "a") == "open"
        await sweep(sweeps, 700, 780)
        assert await state(two, "a") == "interrupted"


async def test_a_session_that_is_in_no_memory_is_closed_at_the_second_look(path: Path) -> None:
    async with opened(path) as store:
        for name in ("lost", "held"):
            await store.create_session(record(name))
            await store.append(name, [final(1)], checkpoint=b"voice of " + name.encode())
        sweeps = sweeper(store, held={"held"})
        await sweeps.sweep(NOON)
        assert await state(store, "lost") == "open", "it may be half opened"
        await sweeps.sweep(NOON)
        assert await state(store, "lost") == "interrupted"
        assert await state(store, "held") == "open"
        assert b"voice of lost" not in stored_bytes(path)


async def test_the_end_of_a_session_waits_for_its_reader_no_longer_than_the_window(
    path: Path,
) -> None:
    until = NOON + timedelta(seconds=120)
    async with opened(path) as store:
        for name in ("a", "b"):
            await store.create_session(record(name))
            await store.append(name, [final(1)], checkpoint=b"the end of " + name.encode())
        await store.finish_session("a", "done", NOON, resumable_until=until)
        sweeps = sweeper(store, held={"b"})
        await sweep(sweeps, 0, 119)
        assert await store.load_resumable("a", NOON)
        await sweeps.sweep(until)
        assert await store.load_resumable("a", NOON) is None
        assert b"the end of a" not in stored_bytes(path)
        assert b"the end of b" in stored_bytes(path)
        assert await state(store, "a") == "done"
        assert await store.events("a") == [final(1)]


async def test_a_session_that_ends_while_a_sweep_looks_for_strays_stays_done(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(path) as store:
        await store.create_session(record("a"))
        sweeps = sweeper(store)
        await sweeps.sweep(NOON)
        look = store.open_here

        async def late() -> set[str]:
            found = await look()
            await store.finish_session("a", "done", NOON, resumable_until=LATER)
            return found

        monkeypatch.setattr(store, "open_here", late)
        await sweeps.sweep(NOON)
        assert await state(store, "a") == "done"


async def test_without_a_setting_everything_is_kept(path: Path) -> None:
    async with opened(path) as store:
        await store.create_session(record("a"))
        await store.finish_session("a", "done", NOON)
        await sweeper(store).sweep(NOON + timedelta(days=9_000))
        assert await state(store, "a") == "done"


async def test_what_is_past_its_time_is_deleted_in_small_steps(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "SESSIONS_PER_SWEEP_MAX", 2)
    marker = "confidential-7f3a"
    async with opened(path) as store:
        for number in range(3):
            await store.create_session(record(f"old{number}"))
        await store.create_session(record("new"))
        await store.create_session(record("open"))
        sweeps = sweeper(store, keep=timedelta(days=2), held={"open"})
        lines = [final(seq, marker) for seq in range(1, 2 * EVENTS_PAGE_MAX + 2)]
        await store.append("old0", lines)
        await store.append("new", [final(1)])
        for number in range(3):
            await store.finish_session(f"old{number}", "done", NOON + timedelta(seconds=number))
        await store.finish_session("new", "done", LATER)
        await sweeps.sweep(LATER)
        states = [await state(store, name) for name in ("old0", "old1", "old2", "new", "open")]
        assert states == [None, None, "done", "done", "open"], "two in one sweep"
        await sweeps.sweep(LATER)
        assert await state(store, "old2") is None
        assert swept(sweeps, "deleted") == 3
        assert marker.encode() not in stored_bytes(path)
        assert await store.events("new") == [final(1)]


async def test_one_step_of_deletion_has_a_bound(path: Path) -> None:
    async with opened(path) as store:
        await store.create_session(record("a"))
        await store.append("a", [final(seq) for seq in range(1, EVENTS_PAGE_MAX + 2)])
        assert not await store.prune("a")
        assert [event["seq"] for event in await store.events("a")] == [EVENTS_PAGE_MAX + 1]
        assert await store.prune("a")
        assert await store.session("a") is None


async def test_sweeps_go_on_after_a_failing_one(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "SWEEP_SECONDS", 0.001)
    async with opened(path) as store:
        await store.create_session(record("a"))
        await store.finish_session("a", "done", NOON - timedelta(days=9_000))
        with structlog.testing.capture_logs() as logs, monkeypatch.context() as patch:
            patch.setattr(store, "note_alive", refuse)
            task = asyncio.create_task(sweeper(store, keep=timedelta(days=1)).run())
            await until(lambda: any("not swept" in entry["event"] for entry in logs))
            patch.undo()
            await until(lambda: any("session deleted" in entry["event"] for entry in logs))
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        assert await store.session("a") is None


async def refuse(now: datetime) -> None:
    raise StoreError("the disk is full")


def canary(number: int) -> str:
    return f"canary{number:03}-"


SIZES = st.lists(st.integers(1, 6_000), min_size=1, max_size=12)


BALANCED = [[180, 660], [1, 310, 3980, 1, 2600, 1, 1], [1740, 1, 1]]
"""When the first of them goes, pages are balanced: a copy of the last one's row stays behind."""


async def fill(store: TranscriptStore, sessions: list[list[int]]) -> None:
    """Sessions of texts of these sizes, each with a word of its own, written in turn."""
    for number in range(len(sessions)):
        await store.create_session(record(f"s{number}"))
    for seq in range(1, 13):
        for number, sizes in enumerate(sessions):
            if seq <= len(sizes):
                line = canary(number) * (sizes[seq - 1] // 10 + 1)
                events = [final(seq, line)]
                await store.append(f"s{number}", events, checkpoint=line.encode())


def remains(path: Path, sessions: list[list[int]]) -> set[int]:
    """Numbers of the sessions of which something can be found."""
    kept = stored_bytes(path)
    return {number for number in range(len(sessions)) if canary(number).encode() in kept}


async def check_deletion(path: Path, sessions: list[list[int]], deleted: Iterable[int]) -> None:
    async with opened(path) as store:
        await fill(store, sessions)
        for number in deleted:
            await store.delete_session(f"s{number}")
        assert remains(path, sessions) == set(range(len(sessions))).difference(deleted)


@settings(max_examples=12, deadline=None)
@given(sessions=st.lists(SIZES, min_size=2, max_size=10), data=st.data())
def test_no_byte_of_a_deleted_session_stays_wherever_its_rows_had_been(
    tmp_path_factory: pytest.TempPathFactory, sessions: list[list[int]], data: st.DataObject
) -> None:
    """Rows of all sizes move between pages as their neighbours come and go."""
    deleted = data.draw(st.sets(st.sampled_from(range(len(sessions))), min_size=1))
    path = tmp_path_factory.mktemp("store") / "captions.db"
    asyncio.run(check_deletion(path, sessions, deleted))


async def test_no_copy_that_balancing_made_stays(tmp_path: Path) -> None:
    await check_deletion(tmp_path / "captions.db", BALANCED, [0, 2])


@pytest.mark.parametrize(("bytes_max", "is_anew"), [(4_096, False), (1 << 20, True)])
async def test_a_large_file_is_not_written_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bytes_max: int, is_anew: bool
) -> None:
    monkeypatch.setattr("server.store.REWRITE_BYTES_MAX", bytes_max)
    path = tmp_path / "captions.db"
    async with opened(path) as store:
        await fill(store, BALANCED)
        await store.delete_session("s1")
        with closing(sqlite3.connect(path)) as reader:
            ((unused_pages,),) = reader.execute("PRAGMA freelist_count")
    assert (unused_pages == 0) == is_anew


async def test_sweeps_write_the_file_anew_once_an_hour(tmp_path: Path) -> None:
    async with opened(tmp_path / "captions.db") as store:
        await fill(store, BALANCED)
        for number in range(3):
            ended = NOON + timedelta(minutes=20 * number)
            await store.finish_session(f"s{number}", "done", ended)
        sweeps = sweeper(store, keep=timedelta(days=1))
        found = []
        for minute in (10, 30, 50, 69, 70):
            with structlog.testing.capture_logs() as logs:
                await sweeps.sweep(NOON + timedelta(days=1, minutes=minute))
            found.append(sum("written anew" in entry["event"] for entry in logs))
        assert found == [1, 0, 0, 0, 1]
        assert remains(tmp_path / "captions.db", BALANCED) == set()
