"""Tables of the transcript store, how an older database becomes a present one, how it is opened.

Owns: the schema in SQLAlchemy Core, the numbered migrations, and the set-up of connections.
Statements stay portable: the same tables serve PostgreSQL (``postgres.py``). Times are
microseconds since 1970 in UTC, because SQLite has no type for them; JSON is text.
Invariants: M1 a migration that was released never changes; M2 ``schema_version`` holds one row.
"""

import os
import sqlite3
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import structlog
from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    ForeignKey,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    event,
    func,
    insert,
    inspect,
    select,
    text,
    update,
)
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool

from server import postgres

READERS_MAX = 4
"""Read-only connections; each is a thread."""
BUSY_TIMEOUT_MS = 5000
SQLITE_SAFE = (3, 51, 3)
"""First version in which a write that meets another connection's checkpoint is safe
(sqlite.org/wal.html#walresetbug)."""

SQLITE = "sqlite+aiosqlite"

Synchronous = Literal["FULL", "NORMAL"]

_log = structlog.get_logger(__name__)

metadata = MetaData()

schema_version = Table("schema_version", metadata, Column("version", Integer, nullable=False))

sessions = Table(
    "sessions",
    metadata,
    Column("session_id", Text, primary_key=True),
    Column("tenant", Text, nullable=False),
    Column("created_at_us", BigInteger, nullable=False),
    Column("ended_at_us", BigInteger),
    Column("state", Text, nullable=False),
    Column("options", Text, nullable=False),
    Column("resume_token_hash", Text, nullable=False),
    Column("last_seq", BigInteger, nullable=False),
    Column("owner", Text, nullable=False),
    Column("owner_epoch", BigInteger, nullable=False),
    Column("checkpoint", LargeBinary),
    Column("resumable_until_us", BigInteger),
)
"""``last_seq`` is the newest event's: it makes a gap visible before it is stored. ``owner`` is the
server that has the session in memory, ``owner_epoch`` counts its owners; ``checkpoint`` is what the
next one needs to go on, and null once nobody can. ``resumable_until_us`` is for a session that is
done: until then its client may come for what it has not read."""

events = Table(
    "events",
    metadata,
    Column("session_id", Text, ForeignKey("sessions.session_id"), primary_key=True),
    Column("seq", BigInteger, primary_key=True),
    Column("type", Text, nullable=False),
    Column("body", Text, nullable=False),
)
"""``body`` is the event's wire JSON."""

servers = Table(
    "servers",
    metadata,
    Column("server_id", Text, primary_key=True),
    Column("alive_at_us", BigInteger, nullable=False),
)
"""Processes that use the store, each with the last time that it said so."""

speaker_names = Table(
    "speaker_names",
    metadata,
    Column("session_id", Text, ForeignKey("sessions.session_id"), primary_key=True),
    Column("speaker", Text, primary_key=True),
    Column("name", Text, nullable=False),
)
"""What people call a session's speakers; the events keep the labels."""

_FIRST = (
    """CREATE TABLE sessions (
        session_id TEXT NOT NULL PRIMARY KEY,
        tenant TEXT NOT NULL,
        created_at_us BIGINT NOT NULL,
        ended_at_us BIGINT,
        state TEXT NOT NULL CHECK (state IN ('open', 'done', 'expired')),
        options TEXT NOT NULL,
        resume_token_hash TEXT NOT NULL,
        last_seq BIGINT NOT NULL
    )""",
    "CREATE INDEX sessions_by_tenant ON sessions (tenant, created_at_us, session_id)",
    """CREATE TABLE events (
        session_id TEXT NOT NULL REFERENCES sessions (session_id),
        seq BIGINT NOT NULL CHECK (seq >= 1),
        type TEXT NOT NULL,
        body TEXT NOT NULL,
        PRIMARY KEY (session_id, seq)
    )""",
)

_OWNERS = (
    # A check cannot be changed, only dropped with its column: sessions may end as interrupted now.
    """ALTER TABLE sessions ADD COLUMN ending TEXT NOT NULL DEFAULT 'open'
        CHECK (ending IN ('open', 'done', 'expired', 'interrupted'))""",
    "UPDATE sessions SET ending = state",
    "ALTER TABLE sessions DROP COLUMN state",
    "ALTER TABLE sessions RENAME COLUMN ending TO state",
    "ALTER TABLE sessions ADD COLUMN owner TEXT NOT NULL DEFAULT ''",
    "ALTER TABLE sessions ADD COLUMN owner_epoch BIGINT NOT NULL DEFAULT 1",
    "ALTER TABLE sessions ADD COLUMN checkpoint BLOB",
    "CREATE INDEX sessions_open ON sessions (owner) WHERE state = 'open'",
    "CREATE INDEX sessions_by_end ON sessions (ended_at_us)",
    """CREATE TABLE servers (
        server_id TEXT NOT NULL PRIMARY KEY,
        alive_at_us BIGINT NOT NULL
    )""",
)

_DONE_AND_UNREAD = (
    "ALTER TABLE sessions ADD COLUMN resumable_until_us BIGINT",
    # The few that are waited for: a sweep looks at no others.
    """CREATE INDEX sessions_resumable ON sessions (resumable_until_us)
        WHERE resumable_until_us IS NOT NULL""",
)

_NAMES = (
    """CREATE TABLE speaker_names (
        session_id TEXT NOT NULL REFERENCES sessions (session_id) ON DELETE CASCADE,
        speaker TEXT NOT NULL,
        name TEXT NOT NULL,
        PRIMARY KEY (session_id, speaker)
    )""",
)

MIGRATIONS: tuple[tuple[str, ...], ...] = (_FIRST, _OWNERS, _DONE_AND_UNREAD, _NAMES)
"""Statements that lead from version n to n + 1, for each n from 0."""


class UnusableDatabase(Exception):
    """Not a database that this program can keep transcripts in; the message says what to do."""


def migrate(connection: Connection) -> None:
    """Bring the database to the present version; the caller's transaction makes it all or nothing.

    Raises: UnusableDatabase, with nothing changed.
    """
    if connection.dialect.name == postgres.DIALECT:
        postgres.lock_schema(connection)
    version = _present_version(connection)
    if version > len(MIGRATIONS):
        raise UnusableDatabase(
            f"it was made by a newer captiond (schema {version}, this one knows "
            f"{len(MIGRATIONS)}); upgrade captiond"
        )
    is_postgres = connection.dialect.name == postgres.DIALECT
    for statements in MIGRATIONS[version:]:
        for statement in statements:
            connection.execute(text(postgres.translated(statement) if is_postgres else statement))
    connection.execute(update(schema_version).values(version=len(MIGRATIONS)))


def _present_version(connection: Connection) -> int:
    if not inspect(connection).has_table(schema_version.name):
        schema_version.create(connection)
    version = connection.scalar(select(func.max(schema_version.c.version)))
    if version is None:
        connection.execute(insert(schema_version).values(version=0))
    return version or 0


def checked_url(url: str) -> URL:
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):  # ValueError: a port that is no number
        # Not shown: what cannot be taken apart may hold a password anywhere.
        raise UnusableDatabase(
            "it is no database URL; try sqlite+aiosqlite:///captiond.db"
        ) from None
    if parsed.drivername == postgres.DRIVER:
        if not parsed.database:
            raise UnusableDatabase("name the database after the host: postgresql://host/captiond")
        return parsed
    if parsed.drivername != SQLITE:
        raise UnusableDatabase(
            "only SQLite and PostgreSQL are supported; try sqlite+aiosqlite:///captiond.db"
        )
    if parsed.database in (None, "", ":memory:") or str(parsed.database).startswith("file:"):
        raise UnusableDatabase(
            "captions need a file to survive in; name one after sqlite+aiosqlite:///"
        )
    return parsed


def shown(url: str) -> str:
    """For people to read: without the password, wherever it stands."""
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):  # ValueError: a port that is no number
        return url.partition("://")[0] + "://…"
    return parsed.difference_update_query(["password"]).render_as_string()


def is_file(url: URL) -> bool:
    return url.drivername == SQLITE


def warn_of_old_sqlite() -> None:
    if sqlite3.sqlite_version_info < SQLITE_SAFE:
        _log.warning(
            "old SQLite: another program's checkpoint during a write can corrupt the store; "
            "let no other program open the file while captiond runs, or use a newer Python",
            sqlite=sqlite3.sqlite_version,
            safe_from=".".join(map(str, SQLITE_SAFE)),
        )


def make_engine(url: URL, *, synchronous: Synchronous, is_writer: bool) -> AsyncEngine:
    """Transactions are ours to begin: the driver would begin them late, and deferred.

    Errors never quote parameters: those are captions.
    """
    if not is_file(url):
        return postgres.make_engine(
            url, is_synchronous=synchronous == "FULL", pool_size=1 if is_writer else READERS_MAX
        )
    engine = create_async_engine(
        url,
        poolclass=AsyncAdaptedQueuePool,
        pool_size=1 if is_writer else READERS_MAX,
        max_overflow=0,
        hide_parameters=True,
        connect_args={"isolation_level": None},
    )
    pragmas = [f"busy_timeout={BUSY_TIMEOUT_MS}", "foreign_keys=ON"]
    pragmas += _writer_pragmas(synchronous) if is_writer else _READER_PRAGMAS
    event.listen(engine.sync_engine, "connect", partial(_set_pragmas, pragmas=pragmas))
    begin = "BEGIN IMMEDIATE" if is_writer else "BEGIN"
    event.listen(engine.sync_engine, "begin", partial(_begin, statement=begin))
    return engine


def _writer_pragmas(synchronous: Synchronous) -> list[str]:
    # secure_delete writes zeros over deleted text; a file that is written anew has no copy in /tmp.
    always = ["journal_mode=WAL", "secure_delete=ON", "temp_store=MEMORY"]
    return [*always, f"synchronous={synchronous}"]


_READER_PRAGMAS = ["query_only=ON", "wal_autocheckpoint=0"]


def make_private(url: URL) -> None:
    """Make the file, if need be: transcripts are nobody else's to read.

    SQLite gives its log the mode of the database. The driver is not left to find out that the file
    cannot be opened: its thread then outlives the failure. Raises: UnusableDatabase.
    """
    path = Path(url.database or "")
    try:
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    except OSError as error:
        raise UnusableDatabase(
            f"cannot use {path}: unable to open it ({error.strerror}); give --store another path"
        ) from None


def _set_pragmas(connection: Any, record: Any, *, pragmas: Sequence[str]) -> None:
    cursor = connection.cursor()
    try:
        for pragma in pragmas:
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()
    except BaseException:
        # The pool does not close a connection whose set-up fails, and its thread would live on.
        connection.close()
        raise


def _begin(connection: Connection, *, statement: str) -> None:
    connection.exec_driver_sql(statement)
