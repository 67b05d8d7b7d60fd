"""Sessions and their durable events on disk: what was stored here survives the server.

Owns: the database, its connections and its one writer task. Events are wire JSON; nothing here
knows what a caption is. Statements stay portable, the set-up of connections is SQLite's.
Invariants:
S1 ``append`` returns only after its transaction is committed, with ``synchronous=FULL`` on disk;
S2 a session's events are numbered 1, 2, 3 … without gap, and none is stored twice;
S3 ONE connection does all writes and all checkpoints, the others only read: before SQLite 3.51.3
   a write that meets another connection's checkpoint can corrupt the database
   (sqlite.org/wal.html#walresetbug);
S4 at most ``WRITES_PENDING_MAX`` writes wait; further callers wait for their turn.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import groupby
from typing import Any, Literal, Self

import orjson
import structlog
from sqlalchemy import bindparam, delete, insert, literal, select, tuple_, update
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.sql import Executable

from server import schema
from streaming.errors import InternalError

WRITES_PENDING_MAX = 1024
"""About 1 MB of captions; at 1 ms per commit and more per group, far less than a second's work."""
GROUP_WRITES_MAX = 256
"""Bounds a transaction, and so the delay that one group adds for the next."""
EVENTS_PAGE_MAX = 1000
"""Events that one read returns at most; also SQLite's patience with a reader."""

SessionState = Literal["open", "done", "expired"]
CommitObserver = Callable[[float, int], None]
"""Called after each commit with its seconds and the number of writes in it."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_log = structlog.get_logger(__name__)


class StoreError(InternalError):
    """The store did not do what was asked; nothing of the failed call is stored."""


@dataclass(frozen=True, slots=True)
class SessionRecord:
    """One session as stored."""

    session_id: str
    tenant: str
    created_at: datetime
    """UTC."""
    ended_at: datetime | None
    """UTC; None while the session is open."""
    state: SessionState
    options: dict[str, Any]
    """The start message."""
    resume_token_hash: str = field(repr=False)

    @property
    def cursor(self) -> "SessionCursor":
        return SessionCursor(self.created_at, self.session_id)


@dataclass(frozen=True, slots=True)
class SessionCursor:
    """A place in the list of a tenant's sessions, newest first."""

    created_at: datetime
    session_id: str


@dataclass(frozen=True, slots=True)
class _Append:
    """Consecutive events of one session, ready to insert."""

    session_id: str
    rows: tuple[dict[str, Any], ...]


@dataclass(frozen=True, slots=True)
class _Change:
    """Any other write: statements that are run in order; the last must meet ``rows`` rows."""

    statements: tuple[Executable, ...]
    complaint: str
    """What is wrong where the last statement changed nothing."""


@dataclass(frozen=True, slots=True)
class _Pending:
    write: _Append | _Change
    stored: asyncio.Future[None]


class TranscriptStore:
    """The transcripts of all sessions. Make it with ``open``, end it with ``close``."""

    def __init__(
        self,
        writer: AsyncConnection,
        engines: tuple[AsyncEngine, AsyncEngine],
        on_commit: CommitObserver | None,
    ) -> None:
        self._writer = writer
        self._write_engine, self._read_engine = engines
        self._on_commit = on_commit
        self._pending: deque[_Pending] = deque()
        self._room = asyncio.Semaphore(WRITES_PENDING_MAX)
        self._wakeup = asyncio.Event()
        self._connection_in_use = asyncio.Lock()
        self._is_closing = False
        self._task = asyncio.create_task(self._write_groups(), name="store writer")

    @classmethod
    async def open(
        cls,
        url: str,
        *,
        synchronous: schema.Synchronous = "FULL",
        on_commit: CommitObserver | None = None,
    ) -> Self:
        """Open, or make, the database and bring its schema up to date.

        Raises: StoreError, with what the operator can do.
        """
        schema.warn_of_old_sqlite()
        try:
            parsed = schema.checked_url(url)
            schema.make_private(parsed)
        except schema.UnusableDatabase as error:
            raise StoreError(str(error)) from None
        write_engine = schema.make_engine(parsed, synchronous=synchronous, is_writer=True)
        try:
            writer = await _migrated(write_engine)
        except (schema.UnusableDatabase, SQLAlchemyError) as error:
            await write_engine.dispose()
            raise StoreError(f"cannot use {parsed.database}: {_reason(error)}") from error
        read_engine = schema.make_engine(parsed, synchronous=synchronous, is_writer=False)
        return cls(writer, (write_engine, read_engine), on_commit)

    async def create_session(self, record: SessionRecord) -> None:
        """Raises: StoreError where the id is taken."""
        values = {
            "session_id": record.session_id,
            "tenant": record.tenant,
            "created_at_us": _microseconds(record.created_at),
            "ended_at_us": None if record.ended_at is None else _microseconds(record.ended_at),
            "state": record.state,
            "options": orjson.dumps(record.options).decode(),
            "resume_token_hash": record.resume_token_hash,
            "last_seq": 0,
        }
        table = schema.sessions
        taken = select(table.c.session_id).where(table.c.session_id == record.session_id).exists()
        row = select(*(literal(value, table.c[name].type) for name, value in values.items()))
        statement = insert(table).from_select(list(values), row.where(~taken))
        await self._submit(_Change((statement,), f"session {record.session_id} exists already"))

    async def append(self, session_id: str, events: Sequence[dict[str, Any]]) -> None:
        """Store durable events (wire form, each with ``seq`` and ``type``), all or none.

        Returns when they are committed. The first must follow the last stored one of the session.
        Raises: StoreError for an unknown session, a gap, a repeated seq or a failing disk.
        """
        if not events:
            return
        rows = tuple(_event_row(session_id, event_fields) for event_fields in events)
        await self._submit(_Append(session_id, rows))

    async def finish_session(
        self, session_id: str, state: SessionState, ended_at: datetime
    ) -> None:
        """Raises: StoreError for an unknown session."""
        table = schema.sessions
        statement = (
            update(table)
            .where(table.c.session_id == session_id)
            .values(state=state, ended_at_us=_microseconds(ended_at))
        )
        await self._submit(_Change((statement,), f"no session {session_id}"))

    async def session(self, session_id: str) -> SessionRecord | None:
        table = schema.sessions
        rows = await self._read(select(table).where(table.c.session_id == session_id))
        return _record(rows[0]) if rows else None

    async def sessions(
        self, tenant: str, *, limit: int, before: SessionCursor | None = None
    ) -> list[SessionRecord]:
        """A tenant's sessions, newest first; ``before`` is the ``cursor`` of the last one seen."""
        table = schema.sessions
        place = tuple_(table.c.created_at_us, table.c.session_id)
        query = select(table).where(table.c.tenant == tenant).limit(limit)
        if before is not None:
            query = query.where(place < (_microseconds(before.created_at), before.session_id))
        rows = await self._read(query.order_by(*(column.desc() for column in place)))
        return [_record(row) for row in rows]

    async def events(
        self, session_id: str, *, after_seq: int = 0, limit: int = EVENTS_PAGE_MAX
    ) -> list[dict[str, Any]]:
        """The next events in order, at most ``EVENTS_PAGE_MAX``; ask again after the last."""
        table = schema.events
        query = (
            select(table.c.body)
            .where(table.c.session_id == session_id, table.c.seq > after_seq)
            .order_by(table.c.seq)
            .limit(min(limit, EVENTS_PAGE_MAX))
        )
        return [orjson.loads(row["body"]) for row in await self._read(query)]

    async def delete_session(self, session_id: str) -> None:
        """Remove a session and every byte of its text from the database and its log.

        Raises: StoreError for an unknown session, or where the log could not be emptied (the
        text is then gone from all answers; a later deletion or restart empties the log).
        """
        events_, sessions_ = schema.events, schema.sessions
        statements = (
            delete(events_).where(events_.c.session_id == session_id),
            delete(sessions_).where(sessions_.c.session_id == session_id),
        )
        await self._submit(_Change(statements, f"no session {session_id}"))
        await self._empty_log()

    async def close(self) -> None:
        """Finish the writes that are pending, refuse new ones, close all connections."""
        self._is_closing = True
        self._wakeup.set()
        await self._task
        # Readers first: the last connection to close does the final checkpoint (S3).
        await self._read_engine.dispose()
        await self._writer.close()
        await self._write_engine.dispose()

    async def _submit(self, write: _Append | _Change) -> None:
        # The writer gives the place back, not this caller: it may be cancelled while it waits.
        await self._room.acquire()
        if self._is_closing:
            self._room.release()
            raise StoreError("the store is closed; the server is going down")
        pending = _Pending(write, asyncio.get_running_loop().create_future())
        self._pending.append(pending)
        self._wakeup.set()
        await pending.stored

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
            async with self._connection_in_use, self._writer.begin():
                refusals = await _apply(self._writer, [pending.write for pending in group])
        except Exception as error:  # noqa: BLE001  task boundary: callers must not wait for ever
            _log.error("store commit failed", writes=len(group), exc_info=error)
            refusals = {number: _commit_error(error) for number in range(len(group))}
        else:
            if self._on_commit is not None:
                self._on_commit(time.perf_counter() - started, len(group))
        for number, pending in enumerate(group):
            self._room.release()
            _settle(pending.stored, refusals.get(number))

    async def _read(self, query: Executable) -> list[Any]:
        try:
            async with self._read_engine.connect() as connection:
                return list((await connection.execute(query)).mappings())
        except SQLAlchemyError as error:
            raise StoreError("the store could not be read; try again") from error

    async def _empty_log(self) -> None:
        """Copy the write-ahead log into the database and cut it to nothing."""
        async with self._connection_in_use:
            raw = (await self._writer.get_raw_connection()).driver_connection
            assert raw is not None
            async with raw.execute("PRAGMA wal_checkpoint(TRUNCATE)") as cursor:
                (is_busy, *_) = await cursor.fetchone()
        if is_busy:
            raise StoreError(
                "deleted, but a reader holds the log that has the text: "
                "the next deletion or a restart empties it"
            )


async def _migrated(engine: AsyncEngine) -> AsyncConnection:
    """The one connection that writes, with the schema up to date."""
    connection = await engine.connect()
    try:
        async with connection.begin():
            await connection.run_sync(schema.migrate)
    except BaseException:
        await connection.close()
        raise
    return connection


def _settle(stored: asyncio.Future[None], refusal: StoreError | None) -> None:
    if stored.done():
        return  # its caller was cancelled; the write stands
    if refusal is None:
        stored.set_result(None)
    else:
        stored.set_exception(refusal)


def _commit_error(error: Exception) -> StoreError:
    refusal = StoreError("the store could not save captions; its log has the reason")
    refusal.__cause__ = error
    return refusal


async def _apply(
    connection: AsyncConnection, writes: Sequence[_Append | _Change]
) -> dict[int, StoreError]:
    """Run all writes in the open transaction, in order; return the refused ones by number.

    A refused write changes nothing, so its neighbours in the group are not undone.
    """
    refusals: dict[int, StoreError] = {}
    for is_append, numbered in groupby(enumerate(writes), lambda item: type(item[1]) is _Append):
        if is_append:
            refusals |= await _append_all(connection, dict(numbered))  # type: ignore[arg-type]
            continue
        for number, change in numbered:
            assert isinstance(change, _Change)
            if not await _is_effective(connection, change):
                refusals[number] = StoreError(change.complaint)
    return refusals


async def _append_all(
    connection: AsyncConnection, appends: dict[int, _Append]
) -> dict[int, StoreError]:
    """Three statements for any number of appends: each one costs a hop to SQLite's thread."""
    refusals: dict[int, StoreError] = {}
    last_seqs = await _last_seqs(connection, {append.session_id for append in appends.values()})
    accepted: list[dict[str, Any]] = []
    for number, append in appends.items():
        complaint = _complaint(append, last_seqs.get(append.session_id))
        if complaint is None:
            accepted.extend(append.rows)
            last_seqs[append.session_id] = append.rows[-1]["seq"]
        else:
            refusals[number] = StoreError(complaint)
    if accepted:
        await connection.execute(insert(schema.events), accepted)
        await connection.execute(_SET_LAST_SEQ, _newest(accepted))
    return refusals


_SET_LAST_SEQ = (
    update(schema.sessions)
    .where(schema.sessions.c.session_id == bindparam("of_session"))
    .values(last_seq=bindparam("newest"))
)


def _newest(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    newest = {row["session_id"]: row["seq"] for row in rows}
    return [{"of_session": session_id, "newest": seq} for session_id, seq in newest.items()]


async def _last_seqs(connection: AsyncConnection, session_ids: set[str]) -> dict[str, int]:
    table = schema.sessions
    query = select(table.c.session_id, table.c.last_seq).where(table.c.session_id.in_(session_ids))
    rows = await connection.execute(query.with_for_update())
    return {row.session_id: row.last_seq for row in rows}


def _complaint(append: _Append, last_seq: int | None) -> str | None:
    """Why these events cannot follow ``last_seq``, or None where they can (S2)."""
    if last_seq is None:
        return f"no session {append.session_id}"
    seqs = [row["seq"] for row in append.rows]
    if seqs == list(range(last_seq + 1, last_seq + 1 + len(seqs))):
        return None
    return f"events {seqs} do not follow {last_seq} in session {append.session_id}"


async def _is_effective(connection: AsyncConnection, change: _Change) -> bool:
    changed_rows = 0
    for statement in change.statements:
        changed_rows = (await connection.execute(statement)).rowcount
    return changed_rows == 1


def _event_row(session_id: str, fields: dict[str, Any]) -> dict[str, Any]:
    return {
        "session_id": session_id,
        "seq": fields["seq"],
        "type": fields["type"],
        "body": orjson.dumps(fields).decode(),
    }


def _microseconds(moment: datetime) -> int:
    return (moment - _EPOCH) // timedelta(microseconds=1)


def _moment(microseconds: int) -> datetime:
    return _EPOCH + timedelta(microseconds=microseconds)


def _record(row: Any) -> SessionRecord:
    return SessionRecord(
        session_id=row["session_id"],
        tenant=row["tenant"],
        created_at=_moment(row["created_at_us"]),
        ended_at=None if row["ended_at_us"] is None else _moment(row["ended_at_us"]),
        state=row["state"],
        options=orjson.loads(row["options"]),
        resume_token_hash=row["resume_token_hash"],
    )


def _reason(error: Exception) -> str:
    return str(error.orig if isinstance(error, DBAPIError) else error)
