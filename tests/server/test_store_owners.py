"""Checkpoints of sessions, and servers that take them over from each other."""

import asyncio
import os
from datetime import timedelta
from pathlib import Path

import pytest

from server.store import CHECKPOINT_BYTES_MAX, StaleOwner, StoreError
from tests.server.store_units import NOON, final, opened, record, stored_bytes


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "captions.db"


async def test_a_checkpoint_comes_with_its_events_and_replaces_the_one_before(path: Path) -> None:
    async with opened(path, server_id="first") as store:
        await store.create_session(record("a"))
        await store.append("a", [final(1)], checkpoint=b"one")
        await store.append("a", [final(2)])
        found = await store.load_resumable("a")
        assert found is not None
        assert (found.record, found.epoch) == (record("a"), 1)
        assert (found.last_seq, found.checkpoint) == (2, b"one")
        await store.append("a", [], checkpoint=b"\0two")
        with pytest.raises(StoreError, match="do not follow"):
            await store.append("a", [final(9)], checkpoint=b"refused with its events")
    async with opened(path, server_id="second") as store:
        found = await store.load_resumable("a")
        assert found is not None
        assert (found.last_seq, found.checkpoint) == (2, b"\0two")


async def test_appends_of_one_group_leave_the_last_checkpoint(path: Path) -> None:
    async with opened(path) as store:
        await store.create_session(record("a"))
        await asyncio.gather(
            store.append("a", [final(1)], checkpoint=b"1"),
            store.append("a", [final(2)], checkpoint=b"2"),
            store.append("a", [final(3)]),
        )
        found = await store.load_resumable("a")
        assert found is not None
        assert (found.last_seq, found.checkpoint) == (3, b"2")


async def test_a_checkpoint_has_a_bound(path: Path) -> None:
    async with opened(path) as store:
        await store.create_session(record("a"))
        await store.append("a", [final(1)], checkpoint=b"x" * CHECKPOINT_BYTES_MAX)
        with pytest.raises(ValueError, match="keep less"):
            await store.append("a", [final(2)], checkpoint=b"x" * (CHECKPOINT_BYTES_MAX + 1))
        assert len(await store.events("a")) == 1


async def test_an_older_owner_can_write_nothing_any_more(path: Path) -> None:
    async with opened(path) as old, opened(path) as new:
        await old.create_session(record("a"))
        await old.append("a", [final(1)], checkpoint=b"old")
        claimed = await new.claim("a", 1)
        assert (claimed.epoch, claimed.last_seq, claimed.checkpoint) == (2, 1, b"old")
        with pytest.raises(StaleOwner):
            await old.append("a", [final(2, "by the old one")], checkpoint=b"stale")
        with pytest.raises(StaleOwner):
            await old.append("a", [], checkpoint=b"stale")
        with pytest.raises(StaleOwner):
            await old.finish_session("a", "expired", NOON)
        await new.append("a", [final(2, "by the new one")], epoch=2)
        assert [event["text"] for event in await old.events("a", after_seq=1)] == ["by the new one"]
        found = await old.load_resumable("a")
        assert found is not None
        assert (found.record.state, found.checkpoint) == ("open", b"old")


async def test_of_many_that_claim_at_once_one_wins(path: Path) -> None:
    async with opened(path) as one, opened(path) as other:
        await one.create_session(record("a"))
        claims = [store.claim("a", 1) for store in (one, other) * 5]
        outcomes = await asyncio.gather(*claims, return_exceptions=True)
        assert sum(not isinstance(outcome, BaseException) for outcome in outcomes) == 1
        assert sum(isinstance(outcome, StaleOwner) for outcome in outcomes) == 9
        found = await one.load_resumable("a")
        assert found is not None
        assert found.epoch == 2


async def test_what_is_not_open_cannot_be_resumed(path: Path) -> None:
    async with opened(path) as store:
        assert await store.load_resumable("nobody") is None
        with pytest.raises(StoreError, match="no session nobody"):
            await store.claim("nobody", 1)
        await store.create_session(record("a"))
        await store.finish_session("a", "done", NOON)
        assert await store.load_resumable("a") is None
        with pytest.raises(StaleOwner):
            await store.claim("a", 1)


async def test_a_session_that_is_done_can_be_resumed_for_a_while(path: Path) -> None:
    until = NOON + timedelta(seconds=120)
    async with opened(path) as store:
        await store.create_session(record("a"))
        await store.append("a", [final(1)], checkpoint=b"the end")
        await store.finish_session("a", "done", NOON, resumable_until=until)
        found = await store.load_resumable("a", until - timedelta(milliseconds=1))
        assert found is not None
        assert (found.record.state, found.record.ended_at) == ("done", NOON)
        assert (found.last_seq, found.checkpoint) == (1, b"the end")
        assert await store.load_resumable("a", until) is None
        with pytest.raises(StaleOwner):
            await store.claim("a", 1)
        assert await store.close_interrupted(until, until) == 0


async def test_a_checkpoint_is_erased_when_its_session_ends(path: Path) -> None:
    voice_print = os.urandom(3_000)
    async with opened(path) as store:
        await store.create_session(record("a"))
        await store.create_session(record("b"))
        for seq in range(1, 20):
            await store.append("a", [final(seq)], checkpoint=voice_print)
            await store.append("b", [final(seq)], checkpoint=os.urandom(900))
        assert voice_print[:16] in stored_bytes(path)
        await store.finish_session("a", "done", NOON + timedelta(minutes=1))
        await store.scrub()
        kept = stored_bytes(path)
        assert not [at for at in range(0, 3_000, 16) if voice_print[at : at + 16] in kept]
        found = await store.load_resumable("b")
        assert found is not None
        assert len(found.checkpoint or b"") == 900
