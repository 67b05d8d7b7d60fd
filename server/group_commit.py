"""The one task that writes to the database: whatever waits goes into one transaction.

Owns the connection that writes, its queue and its log; knows no session and no event. It starts
with a database whose schema is up to date.
Invariants: S1 ``submit`` returns only after its transaction is committed; S3 ONE connection does
all writes and all checkpoints of the log: before SQLite 3.51.3 a write that meets another
connection's checkpoint can corrupt the database (sqlite.org/wal.html#walresetbug); S4 at most
``WRITES_PENDING_MAX`` writes wait, further callers wait for their turn.

A commit that fails (disk full, failed write or sync) is undone whole. SQLite then writes the same
pages anew with the next commit, so nothing depends on a sync that was reported as failed.
"""

import asyncio
import sqlite3
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import structlog
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection

from server import schema
from server.store_writes import Outcome, StoreError, Write, apply

WRITES_PENDING_MAX = 1024
"""About 1 MB of captions; at 1 ms per commit and more per group, far less than a second's work."""
GROUP_WRITES_MAX = 256
"""Bounds a transaction, and so the delay that one group adds for the next."""

CommitObserver = Callable[[float, int], None]
"""Called after each commit with its seconds and the number of writes in it."""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Pending:
    write: Write
    stored: asyncio.Future[int]


class GroupCommit:
    """Make it with a connection that it alone uses; end it with ``close``."""

    def __init__(self, connection: AsyncConnection, on_commit: CommitObserver | None) -> None:
        self._connection = connection
        self._on_commit = on_commit
        self._pending: deque[_Pending] = deque()
        self._room = asyncio.Semaphore(WRITES_PENDING_MAX)
        self._wakeup = asyncio.Event()
        self._connection_in_use = asyncio.Lock()
        self._is_closing = False
        self._task = asyncio.create_task(self._write_groups(), name="store writer")

    async def close(self) -> None:
        """Finish the writes that are pending and refuse new ones; the connection stays open."""
        self._is_closing = True
        self._wakeup.set()
        await self._task

    async def submit(self, write: Write) -> int:
        """Rows that were written."""
        # The writer gives the place back, not this caller: it may be cancelled while it waits.
        await self._room.acquire()
        if self._is_closing:
            self._room.release()
            raise StoreError("the store is closed; the server is going down")
        pending = _Pending(write, asyncio.get_running_loop().create_future())
        self._pending.append(pending)
        self._wakeup.set()
        return await pending.stored

    async def _write_groups(self) -> None:
        """Writes that arrive during one commit form the next group: no timer adds delay."""
        while self._pending or not self._is_closing:
            await self._wakeup.wait()
            self._wakeup.clear()
            while self._pending:
                size = min(len(self._pending), GROUP_WRITES_MAX)
                await self._commit([self._pending.popleft() for _ in range(size)])

    async def _commit(self, group: list[_Pending]) -> None:
        started = time.perf_counter()
        try:
            async with self._connection_in_use, self._connection.begin():
                outcomes = await apply(self._connection, [pending.write for pending in group])
        except Exception as error:  # noqa: BLE001  task boundary: callers must not wait for ever
            _log.error("store commit failed", writes=len(group), exc_info=error)
            outcomes = dict.fromkeys(range(len(group)), _commit_error(error))
        else:
            if self._on_commit is not None:
                self._on_commit(time.perf_counter() - started, len(group))
        for number, pending in enumerate(group):
            self._room.release()
            _settle(pending.stored, outcomes[number])

    async def empty_log(self, patience_ms: int) -> None:
        """Copy the write-ahead log into the database and cut it to nothing.

        PostgreSQL keeps its log to itself.
        Raises: StoreError where a reader held it for longer than ``patience_ms``.
        """
        if self._connection.dialect.name != "sqlite":
            return
        try:
            async with self._connection_in_use:
                is_busy = await _truncate_log(self._connection, patience_ms)
        except (SQLAlchemyError, sqlite3.Error) as error:
            raise StoreError("deleted, but the log that has the text could not be cut") from error
        if is_busy:
            raise StoreError(
                "deleted, but a reader holds the log that has the text: "
                "the next deletion or a restart empties it"
            )

    async def rewrite(self, bytes_max: int) -> None:
        """Write the whole file anew, with nothing in it but what is stored; captions wait.

        SQLite's ``secure_delete`` clears what is deleted, but a row that moved to another page
        before may have left a copy in the unused part of the old one. Files above ``bytes_max``
        stay as they are, and so does PostgreSQL's. Raises: StoreError.
        """
        if self._connection.dialect.name != "sqlite":
            return
        try:
            async with self._connection_in_use:
                await _vacuum(self._connection, bytes_max)
        except (SQLAlchemyError, sqlite3.Error) as error:
            raise StoreError(
                "deleted, but the file could not be written anew, and may hold remains of the text"
            ) from error


async def _vacuum(writer: AsyncConnection, bytes_max: int) -> None:
    raw = (await writer.get_raw_connection()).driver_connection
    assert raw is not None
    async with raw.execute(
        "SELECT page_count * page_size FROM pragma_page_count, pragma_page_size"
    ) as cursor:
        (size_bytes,) = await cursor.fetchone()
    if size_bytes <= bytes_max:
        await raw.execute("VACUUM")


async def _truncate_log(writer: AsyncConnection, patience_ms: int) -> bool:
    """True where a reader held the log for longer than that."""
    raw = (await writer.get_raw_connection()).driver_connection
    assert raw is not None
    await raw.execute(f"PRAGMA busy_timeout={patience_ms}")
    try:
        async with raw.execute("PRAGMA wal_checkpoint(TRUNCATE)") as cursor:
            (is_busy, *_) = await cursor.fetchone()
    finally:
        await raw.execute(f"PRAGMA busy_timeout={schema.BUSY_TIMEOUT_MS}")
    return bool(is_busy)


def _settle(stored: asyncio.Future[int], outcome: Outcome) -> None:
    if stored.done():
        return  # its caller was cancelled; the write stands
    if isinstance(outcome, StoreError):
        stored.set_exception(outcome)
    else:
        stored.set_result(outcome)


def _commit_error(error: Exception) -> StoreError:
    refusal = StoreError("the store could not save captions; its log has the reason")
    refusal.__cause__ = error
    return refusal
