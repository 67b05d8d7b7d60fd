"""PostgreSQL as the transcript store: what is different from SQLite.

Owns the set-up of its connections and the words of the schema that it spells otherwise. The
statements are the store's own, and any number of servers may share one database: a session is its
owner's by its epoch, and every write takes the lock of its session's row.
"""

from sqlalchemy import Connection, text
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

DRIVER = "postgresql+asyncpg"
DIALECT = "postgresql"
CONNECT_SECONDS_MAX = 10.0
STATEMENT_SECONDS_MAX = 30.0
"""A database that hangs must not hold captions up for ever: they are shown, and written later."""

_SCHEMA_LOCK = 8_710
"""Of servers that start at once, one brings the schema up to date and the others wait."""


def make_engine(url: URL, *, is_synchronous: bool, pool_size: int) -> AsyncEngine:
    """Errors never quote parameters: those are captions."""
    session = {} if is_synchronous else {"synchronous_commit": "off"}
    return create_async_engine(
        url,
        pool_size=pool_size,
        max_overflow=0,
        pool_pre_ping=True,
        hide_parameters=True,
        connect_args={
            "timeout": CONNECT_SECONDS_MAX,
            "command_timeout": STATEMENT_SECONDS_MAX,
            "server_settings": {"application_name": "captiond", **session},
        },
    )


def lock_schema(connection: Connection) -> None:
    """Until the end of the transaction."""
    connection.execute(text("SELECT pg_advisory_xact_lock(:number)"), {"number": _SCHEMA_LOCK})


def translated(statement: str) -> str:
    """A statement of a migration in PostgreSQL's words."""
    return statement.replace(" BLOB", " BYTEA")
