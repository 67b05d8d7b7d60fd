"""What one group commit of the store writes: the statements, and who is refused.

Owns the kinds of writes and their order inside a transaction. Knows no connections, no tasks and
no files: it is given the connection of an open transaction.
Invariants: S2 a session's events are numbered 1, 2, 3 … without gap, and none is stored twice; S5
a server whose session was claimed by another one writes nothing of it any more.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import groupby
from typing import Any

import orjson
from sqlalchemy import bindparam, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.sql import Executable

from server import schema
from streaming.errors import InternalError

FIRST_EPOCH = 1
"""Of the server that opened the session."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class StoreError(InternalError):
    """The store did not do what was asked; nothing of the failed call is stored."""


class StaleOwner(StoreError):
    """Another server has claimed the session: nothing of it may be written here any more."""


@dataclass(frozen=True, slots=True)
class Append:
    """Consecutive events of one session, ready to insert."""

    session_id: str
    rows: tuple[dict[str, Any], ...]
    epoch: int
    checkpoint: bytes | None
    """None leaves the one that is there."""
    is_retry: bool
    """An earlier try may have been committed, and its answer lost with the connection."""


@dataclass(frozen=True, slots=True)
class Change:
    """Any other write: statements that are run in order; the last one's rows are counted."""

    statements: tuple[Executable, ...]
    complaint: str | None = None
    """What is wrong where the last statement did not change one row; None: any number is right."""
    owned: str | None = None
    """The session whose claim by another server would be the reason."""


Write = Append | Change
Outcome = int | StoreError
"""Rows that were written, or why none were."""


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a session stands."""

    last_seq: int
    epoch: int


async def apply(connection: AsyncConnection, writes: Sequence[Write]) -> dict[int, Outcome]:
    """Run all writes in the open transaction, in order; return their outcomes by number.

    A refused write changes nothing, so its neighbours in the group are not undone.
    """
    outcomes: dict[int, Outcome] = {}
    for is_append, numbered in groupby(enumerate(writes), lambda item: type(item[1]) is Append):
        if is_append:
            outcomes |= await _append_all(connection, dict(numbered))  # type: ignore[arg-type]
            continue
        for number, change in numbered:
            assert isinstance(change, Change)
            outcomes[number] = await _change(connection, change)
    return outcomes


async def _append_all(
    connection: AsyncConnection, appends: dict[int, Append]
) -> dict[int, Outcome]:
    """Four statements for any number of appends: each one costs a hop to SQLite's thread."""
    outcomes: dict[int, Outcome] = {}
    places = await _places(connection, {append.session_id for append in appends.values()})
    accepted: list[dict[str, Any]] = []
    checkpoints: dict[str, bytes] = {}
    for number, append in appends.items():
        place = places.get(append.session_id)
        refusal = _refusal(append, place)
        outcomes[number] = refusal or len(append.rows)
        if refusal is not None or place is None or _is_there(append, place):
            continue
        accepted.extend(append.rows)
        places[append.session_id] = _Place(place.last_seq + len(append.rows), place.epoch)
        if append.checkpoint is not None:
            checkpoints[append.session_id] = append.checkpoint
    if accepted:
        await connection.execute(insert(schema.events), accepted)
        await connection.execute(_SET_LAST_SEQ, _newest(accepted))
    if checkpoints:
        rows = [{"of_session": name, "newest": body} for name, body in checkpoints.items()]
        await connection.execute(_SET_CHECKPOINT, rows)
    return outcomes


_OF_SESSION = schema.sessions.c.session_id == bindparam("of_session")
_SET_LAST_SEQ = update(schema.sessions).where(_OF_SESSION).values(last_seq=bindparam("newest"))
_SET_CHECKPOINT = update(schema.sessions).where(_OF_SESSION).values(checkpoint=bindparam("newest"))


def _newest(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    newest = {row["session_id"]: row["seq"] for row in rows}
    return [{"of_session": session_id, "newest": seq} for session_id, seq in newest.items()]


async def _places(connection: AsyncConnection, session_ids: set[str]) -> dict[str, _Place]:
    table = schema.sessions
    query = select(table.c.session_id, table.c.last_seq, table.c.owner_epoch)
    query = query.where(table.c.session_id.in_(session_ids)).with_for_update()
    rows = await connection.execute(query)
    return {row.session_id: _Place(row.last_seq, row.owner_epoch) for row in rows}


def _refusal(append: Append, place: _Place | None) -> StoreError | None:
    """Why these events cannot follow what is stored (S2, S5), or None where they can."""
    if place is None:
        return StoreError(f"no session {append.session_id}")
    if place.epoch != append.epoch:
        return _stale(append.session_id)
    seqs = [row["seq"] for row in append.rows]
    if _is_there(append, place):
        return None
    if seqs == list(range(place.last_seq + 1, place.last_seq + 1 + len(seqs))):
        return None
    return StoreError(
        f"events {seqs} do not follow {place.last_seq} in session {append.session_id}"
    )


def _is_there(append: Append, place: _Place) -> bool:
    """Its owner alone writes to a session, so what has these numbers is the earlier try."""
    return append.is_retry and bool(append.rows) and append.rows[-1]["seq"] <= place.last_seq


def _stale(session_id: str) -> StaleOwner:
    return StaleOwner(f"another server has taken session {session_id} over; leave it alone")


async def _change(connection: AsyncConnection, change: Change) -> Outcome:
    changed_rows = 0
    for statement in change.statements:
        changed_rows = (await connection.execute(statement)).rowcount
    if change.complaint is None or changed_rows == 1:
        return changed_rows
    if change.owned is not None and await _places(connection, {change.owned}):
        return _stale(change.owned)
    return StoreError(change.complaint)


def event_row(session_id: str, fields: dict[str, Any]) -> dict[str, Any]:
    return {
        "session_id": session_id,
        "seq": fields["seq"],
        "type": fields["type"],
        "body": orjson.dumps(fields).decode(),
    }


def microseconds(moment: datetime) -> int:
    return (moment - _EPOCH) // timedelta(microseconds=1)


def moment_of(microseconds: int) -> datetime:
    return _EPOCH + timedelta(microseconds=microseconds)
