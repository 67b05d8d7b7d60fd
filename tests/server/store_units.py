"""What the tests of the store share: sessions, events, and the files as they lie on the disk."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from server.store import SessionRecord, TranscriptStore

NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)


def url_of(path: Path) -> str:
    return f"sqlite+aiosqlite:///{path}"


def record(session_id: str, *, tenant: str = "alice", created_at: datetime = NOON) -> SessionRecord:
    options = {"type": "start", "language": "en", "prompt": "Grüße"}
    return SessionRecord(session_id, tenant, created_at, None, "open", options, "hash")


def final(seq: int, line: str = "Alice will review the budget.") -> dict[str, Any]:
    return {"type": "final", "seq": seq, "text": line, "start": 1.02, "words": []}


def stored_bytes(path: Path) -> bytes:
    """The database, its log and whatever else lies beside it."""
    return b"".join(file.read_bytes() for file in path.parent.iterdir())


@asynccontextmanager
async def opened(path: Path, **options: Any) -> AsyncIterator[TranscriptStore]:
    store = await TranscriptStore.open(url_of(path), **options)
    try:
        yield store
    finally:
        await store.close()
