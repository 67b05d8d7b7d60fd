"""Sessions and their durable events on disk: what was stored here survives the server.

Owns what is asked of the database, and its connections; ``group_commit.py`` has the one that
writes. Events are wire JSON and checkpoints are bytes: nothing here knows what a caption is.
Statements stay portable, the set-up of connections is SQLite's.
Invariants: S1 a write returns only after its transaction is committed, with ``synchronous=FULL``
on disk; S2 a session's events are numbered 1, 2, 3 … without gap, and none is stored twice; S3 one
connection writes, the others only read; S5 a session has one owner: a write with another epoch
than that of the last claim is refused.
"""

import asyncio
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal, Self

import orjson
import structlog
from sqlalchemy import delete, exists, func, insert, literal, select, tuple_, update
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.sql import Executable

from server import schema
from server.group_commit import CommitObserver, GroupCommit
from server.store_writes import (
    FIRST_EPOCH,
    Append,
    Change,
    StaleOwner,
    StoreError,
    event_row,
    microseconds,
    moment_of,
)

__all__ = [
    "FIRST_EPOCH",
    "Resumable",
    "SessionCursor",
    "SessionRecord",
    "SessionState",
    "StaleOwner",
    "StoreError",
    "TranscriptStore",
]

EVENTS_PAGE_MAX = 1000
"""Events that one read returns at most; also SQLite's patience with a reader."""

CHECKPOINT_BYTES_MAX = 64 * 1024
"""Twenty speakers' centroids are 20 kB, all else is less; it is written again at each commit."""
REWRITE_BYTES_MAX = 64 * 1024 * 1024
"""Of a file that is written anew after a deletion: about half a second, in which captions wait."""
READ_PATIENCE_SECONDS = 30.0
"""For one of the connections that read, while others have them all."""
SCRUB_PATIENCE_MS = 200
"""For readers of the log that is to be emptied: captions wait meanwhile, and it is tried again."""

SessionState = Literal["open", "done", "expired", "interrupted"]
"""``expired``: nobody came back in time; ``interrupted``: its server died, and nobody came back."""
_log = structlog.get_logger(__name__)


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
class Resumable:
    """A session as its next owner finds it, open, or done and perhaps not read."""

    record: SessionRecord
    epoch: int
    """Of the present owner; hand it to ``claim``, and that of the claim's answer to each write."""
    last_seq: int
    checkpoint: bytes | None
    """As the last commit left it; None where none was given."""


class TranscriptStore:
    """The transcripts of all sessions. Make it with ``open``, end it with ``close``."""

    def __init__(
        self, writer: GroupCommit, connections: tuple[AsyncConnection, AsyncEngine], server_id: str
    ) -> None:
        self.server_id = server_id
        self._writer = writer
        self._connection, self._read_engine = connections
        self._read_places = asyncio.Semaphore(schema.READERS_MAX)
        self._is_closed = False
        self._is_log_dirty = True
        """The log may hold what was erased; a server that was killed may have left it so."""

    @classmethod
    async def open(
        cls,
        url: str,
        *,
        synchronous: schema.Synchronous = "FULL",
        on_commit: CommitObserver | None = None,
        server_id: str | None = None,
    ) -> Self:
        """Open, or make, the database and bring its schema up to date.

        ``server_id`` names this process among those that use the store; None makes one up.

        Raises: StoreError, with what the operator can do.
        """
        try:
            parsed = schema.checked_url(url)
            if schema.is_file(parsed):
                schema.warn_of_old_sqlite()
                schema.make_private(parsed)
        except schema.UnusableDatabase as error:
            raise StoreError(str(error)) from None
        server_id = server_id or secrets.token_hex(8)
        write_engine = schema.make_engine(parsed, synchronous=synchronous, is_writer=True)
        try:
            connection = await _migrated(write_engine, _alive(server_id))
        except (schema.UnusableDatabase, SQLAlchemyError, OSError) as error:
            await write_engine.dispose()
            raise StoreError(f"cannot use {parsed.database}: {_reason(error)}") from error
        read_engine = schema.make_engine(parsed, synchronous=synchronous, is_writer=False)
        return cls(GroupCommit(connection, on_commit), (connection, read_engine), server_id)

    async def create_session(self, record: SessionRecord) -> None:
        """Raises: StoreError where the id is taken."""
        values = {
            "session_id": record.session_id,
            "tenant": record.tenant,
            "created_at_us": microseconds(record.created_at),
            "ended_at_us": None if record.ended_at is None else microseconds(record.ended_at),
            "state": record.state,
            "options": orjson.dumps(record.options).decode(),
            "resume_token_hash": record.resume_token_hash,
            "last_seq": 0,
            "owner": self.server_id,
            "owner_epoch": FIRST_EPOCH,
        }
        table = schema.sessions
        taken = select(table.c.session_id).where(table.c.session_id == record.session_id).exists()
        row = select(*(literal(value, table.c[name].type) for name, value in values.items()))
        statement = insert(table).from_select(list(values), row.where(~taken))
        complaint = f"session {record.session_id} exists already"
        await self._writer.submit(Change((statement,), complaint))

    async def append(
        self,
        session_id: str,
        events: Sequence[dict[str, Any]],
        *,
        epoch: int = FIRST_EPOCH,
        checkpoint: bytes | None = None,
        is_retry: bool = False,
    ) -> None:
        """Store durable events (wire form, each with ``seq`` and ``type``), all or none.

        Returns when they are committed, and with them the ``checkpoint``, which replaces the one
        before; None leaves that. The first event must follow the last stored one of the session,
        except where ``is_retry`` says that the same call failed before: a connection that is lost
        during a commit does not tell whether it was made.
        Raises: StaleOwner where another server has claimed the session; StoreError for an unknown
        session, a gap, a repeated seq or a failing disk; ValueError for too big a checkpoint.
        """
        if checkpoint is not None and len(checkpoint) > CHECKPOINT_BYTES_MAX:
            raise ValueError(f"a checkpoint of {len(checkpoint)} bytes; keep less in it")
        if not events and checkpoint is None:
            return
        rows = tuple(event_row(session_id, event_fields) for event_fields in events)
        await self._writer.submit(Append(session_id, rows, epoch, checkpoint, is_retry))

    async def finish_session(
        self,
        session_id: str,
        state: SessionState,
        ended_at: datetime,
        *,
        epoch: int = FIRST_EPOCH,
        resumable_until: datetime | None = None,
    ) -> None:
        """Close the session.

        ``resumable_until``: its checkpoint stays until then, for a client that has not read the
        end. Without it the checkpoint is erased; ``scrub`` then takes it out of the log too.
        Raises: StaleOwner; StoreError for an unknown session.
        """
        table = schema.sessions
        values: dict[str, Any] = {"state": state, "ended_at_us": microseconds(ended_at)}
        if resumable_until is None:
            values["checkpoint"] = None
        else:
            values["resumable_until_us"] = microseconds(resumable_until)
        statement = (
            update(table)
            .where(table.c.session_id == session_id, table.c.owner_epoch == epoch)
            .values(values)
        )
        try:
            await self._writer.submit(Change((statement,), f"no session {session_id}", session_id))
        finally:
            self._is_log_dirty = True

    async def load_resumable(
        self, session_id: str, now: datetime | None = None
    ) -> Resumable | None:
        """What a server needs to go on with a session; None where it is unknown or over.

        One that is done is over when nobody may come for its end any more.
        """
        table = schema.sessions
        now_us = microseconds(now or datetime.now(UTC))
        is_resumable = (table.c.state == "open") | (table.c.resumable_until_us > now_us)
        query = select(table).where(table.c.session_id == session_id, is_resumable)
        return next((_resumable(row) for row in await self._read(query)), None)

    async def claim(self, session_id: str, epoch: int) -> Resumable:
        """Take an open session over from the owner with this epoch, who can write no more.

        Of several that claim at once one succeeds. Returns the session as its last owner left it.
        Raises: StaleOwner where somebody was faster; StoreError where it is unknown or not open.
        """
        table = schema.sessions
        statement = (
            update(table)
            .where(table.c.session_id == session_id, table.c.owner_epoch == epoch)
            .where(table.c.state == "open")
            .values(owner=self.server_id, owner_epoch=epoch + 1)
        )
        await self._writer.submit(Change((statement,), f"no session {session_id}", session_id))
        claimed = await self.load_resumable(session_id)
        if claimed is None or claimed.epoch != epoch + 1:
            raise StaleOwner(f"session {session_id} was claimed or ended meanwhile; ask again")
        return claimed

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
            query = query.where(place < (microseconds(before.created_at), before.session_id))
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

    async def names(self, session_id: str) -> dict[str, str]:
        """Speaker → name; empty for an unknown session."""
        table = schema.speaker_names
        query = select(table).where(table.c.session_id == session_id).order_by(table.c.speaker)
        return {row["speaker"]: row["name"] for row in await self._read(query)}

    async def rename(self, session_id: str, changes: Mapping[str, str | None]) -> None:
        """Name speakers anew, or take their names away (None), all or none.

        Raises: StoreError for an unknown session that is to have names.
        """
        table = schema.speaker_names
        gone = delete(table).where(
            table.c.session_id == session_id, table.c.speaker.in_(list(changes))
        )
        given = [(speaker, name) for speaker, name in changes.items() if name is not None]
        # A session that was deleted meanwhile takes none: an error would undo others' writes.
        is_there = exists().where(schema.sessions.c.session_id == session_id)
        rows = (select(*map(literal, (session_id, *pair))).where(is_there) for pair in given)
        written = [insert(table).from_select(list(table.c), row) for row in rows]
        complaint = f"no session {session_id}" if written else None
        await self._writer.submit(Change((gone, *written), complaint))

    async def delete_session(self, session_id: str) -> None:
        """Remove a session and every byte of its text from the database and its log.

        Of a file above ``REWRITE_BYTES_MAX``, unused parts of pages may keep some.
        Raises: StoreError for an unknown session, or where the log could not be emptied (the
        text is then gone from all answers; a later deletion or restart empties the log).
        """
        events_, sessions_ = schema.events, schema.sessions
        statements = (
            delete(events_).where(events_.c.session_id == session_id),
            delete(sessions_).where(sessions_.c.session_id == session_id),
        )
        self._is_log_dirty = True
        await self._writer.submit(Change(statements, f"no session {session_id}"))
        await self.rewrite()
        await self._empty_log(schema.BUSY_TIMEOUT_MS)

    # Housekeeping: ``retention.py`` calls it

    async def note_alive(self, now: datetime) -> None:
        """This server is there: its open sessions are its own."""
        await self._writer.submit(Change(_alive(self.server_id, now)))

    async def close_interrupted(self, dead_before: datetime, now: datetime) -> int:
        """Close the open sessions of servers that were last heard of before; returns how many.

        Their checkpoints are erased, and a server that was only slow can write to none of them.
        """
        sessions_, servers = schema.sessions, schema.servers
        ended = {"state": "interrupted", "ended_at_us": microseconds(now), "checkpoint": None}
        alive = select(servers.c.server_id)
        statements = (
            delete(servers).where(servers.c.alive_at_us < microseconds(dead_before)),
            update(sessions_)
            .where(sessions_.c.state == "open", sessions_.c.owner.not_in(alive))
            .values(owner_epoch=sessions_.c.owner_epoch + 1, **ended),
        )
        closed = await self._writer.submit(Change(statements))
        self._is_log_dirty |= closed > 0
        return closed

    async def erase_checkpoints(self, now: datetime) -> int:
        """Those of sessions that are done and that nobody may come for now; returns how many."""
        table = schema.sessions
        statement = (
            update(table)
            .where(table.c.resumable_until_us <= microseconds(now))
            .values(checkpoint=None, resumable_until_us=None)
        )
        erased = await self._writer.submit(Change((statement,)))
        self._is_log_dirty |= erased > 0
        return erased

    async def open_here(self) -> set[str]:
        """Ids of the open sessions that are this server's."""
        table = schema.sessions
        query = select(table.c.session_id).where(table.c.state == "open")
        rows = await self._read(query.where(table.c.owner == self.server_id))
        return {row["session_id"] for row in rows}

    async def ended_before(self, moment: datetime, *, limit: int) -> list[str]:
        """Ids of the sessions that are over for longest."""
        table = schema.sessions
        query = select(table.c.session_id).where(table.c.ended_at_us < microseconds(moment))
        rows = await self._read(query.order_by(table.c.ended_at_us).limit(limit))
        return [row["session_id"] for row in rows]

    async def prune(self, session_id: str) -> bool:
        """Remove ``EVENTS_PAGE_MAX`` events of a session, or what is left; True when it is gone.

        A long session goes in several short transactions; captions of others wait for one only.
        """
        events_, sessions_ = schema.events, schema.sessions
        of_session = events_.c.session_id == session_id
        first = select(func.min(events_.c.seq)).where(of_session).scalar_subquery()
        statements = (
            delete(events_).where(of_session, events_.c.seq < first + EVENTS_PAGE_MAX),
            delete(sessions_).where(
                sessions_.c.session_id == session_id, ~exists().where(of_session)
            ),
        )
        self._is_log_dirty = True
        return await self._writer.submit(Change(statements)) > 0

    async def rewrite(self) -> None:
        """Leave nothing of what was deleted in unused parts of the file, unless it is large.

        Raises: StoreError.
        """
        self._is_log_dirty = True
        await self._writer.rewrite(REWRITE_BYTES_MAX)

    async def scrub(self) -> None:
        """Take what was erased since the last time out of the write-ahead log.

        Raises: StoreError where a reader holds the log; the next time will do.
        """
        if self._is_log_dirty:
            await self._empty_log(SCRUB_PATIENCE_MS)

    async def close(self) -> None:
        """Finish reads and writes that are pending, refuse new ones, close all connections."""
        await self._writer.close()
        await self._end_reads()
        # Readers first: the last connection to close does the final checkpoint (S3).
        await self._read_engine.dispose()
        await self._connection.close()
        await self._connection.engine.dispose()

    async def _empty_log(self, patience_ms: int) -> None:
        await self._writer.empty_log(patience_ms)
        self._is_log_dirty = False

    async def _end_reads(self) -> None:
        """A connection that somebody still reads with would never be closed."""
        self._is_closed = True
        for _ in range(schema.READERS_MAX):
            await self._read_places.acquire()
        for _ in range(schema.READERS_MAX):
            self._read_places.release()

    async def _read(self, query: Executable) -> list[Any]:
        """Whoever is cancelled leaves the read to its end: it has a connection in its hands."""
        try:
            async with asyncio.timeout(READ_PATIENCE_SECONDS):
                await self._read_places.acquire()
        except TimeoutError as error:
            raise StoreError("the store has too many readers; try again") from error
        if self._is_closed:
            self._read_places.release()
            raise StoreError("the store is closed; the server is going down")
        reading = asyncio.create_task(self._fetch(query), name="store reader")
        reading.add_done_callback(lambda _: self._read_places.release())
        return await asyncio.shield(reading)

    async def _fetch(self, query: Executable) -> list[Any]:
        try:
            async with self._read_engine.connect() as connection:
                return list((await connection.execute(query)).mappings())
        except (SQLAlchemyError, OSError) as error:
            raise StoreError("the store could not be read; try again") from error


def _alive(server_id: str, now: datetime | None = None) -> tuple[Executable, ...]:
    """The server says that it is there."""
    table = schema.servers
    moment_us = microseconds(now or datetime.now(UTC))
    return (
        delete(table).where(table.c.server_id == server_id),
        insert(table).values(server_id=server_id, alive_at_us=moment_us),
    )


async def _migrated(engine: AsyncEngine, statements: Sequence[Executable]) -> AsyncConnection:
    """The one connection that writes, with the schema up to date and the statements done."""
    connection = await engine.connect()
    try:
        async with connection.begin():
            await connection.run_sync(schema.migrate)
            for statement in statements:
                await connection.execute(statement)
    except BaseException:
        await connection.close()
        raise
    return connection


def _record(row: Any) -> SessionRecord:
    return SessionRecord(
        session_id=row["session_id"],
        tenant=row["tenant"],
        created_at=moment_of(row["created_at_us"]),
        ended_at=None if row["ended_at_us"] is None else moment_of(row["ended_at_us"]),
        state=row["state"],
        options=orjson.loads(row["options"]),
        resume_token_hash=row["resume_token_hash"],
    )


def _resumable(row: Any) -> Resumable:
    checkpoint = None if row["checkpoint"] is None else bytes(row["checkpoint"])
    return Resumable(_record(row), row["owner_epoch"], row["last_seq"], checkpoint)


def _reason(error: Exception) -> str:
    return str(error.orig if isinstance(error, DBAPIError) else error)
