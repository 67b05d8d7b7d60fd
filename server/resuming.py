"""Sessions that their clients come back to: who may have one, and where it is found.

Owns the look in memory and in the store, the claim of a session that another server left, and the
names of those that ended here. Knows no sockets; how a session is made is the hub's.

Invariants: H1 a session id is found by its tenant and its token only; every other asker gets the
same answer as for an id that never was; H2 of two who come for one session, the second finds what
the first was given; H3 a session that is done in the store is repeated from there, never gone on
with: no owner changes, nothing is written.
"""

import asyncio
from collections import Counter, deque
from collections.abc import Callable
from typing import Protocol
from weakref import WeakValueDictionary

import structlog

from server.auth import check_resume_token, hash_resume_token
from server.live import Ending, LiveSession
from server.store import Resumable, SessionRecord, StaleOwner, StoreError, TranscriptStore
from streaming.checkpoint import Checkpoint, UnusableCheckpoint, decode
from streaming.errors import CaptiondError, SessionExpired, Superseded, UnknownSession
from streaming.wire import Resume

OVER_MAX = 1_024
"""More than end while one write waits for the store."""

Admit = Callable[[str], None]
"""Asks whether a tenant's session may be taken over. Raises: the errors of ``Hub.admit``."""

_log = structlog.get_logger(__name__)


class Holder(Protocol):
    """Has the sessions in memory: the hub."""

    @property
    def is_ready(self) -> bool: ...

    def admit(self, tenant: str) -> None: ...

    def find(self, session_id: str) -> LiveSession | None: ...

    def adopt(self, left: Resumable, checkpoint: Checkpoint | None) -> LiveSession:
        """Have a session as its last owner left it."""

    def forget(
        self, live: LiveSession, ending: Ending, reason: CaptiondError | None = None
    ) -> None: ...


class Returns:
    """Finds the session that a client asks for again."""

    def __init__(self, store: TranscriptStore, holder: Holder) -> None:
        self._store = store
        self._holder = holder
        self.coming: Counter[str] = Counter()
        """Sessions that are being taken over, by tenant: they have their places already."""
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        """Of the sessions that are being looked for in the store just now."""
        self._over: deque[str] = deque(maxlen=OVER_MAX)
        """Sessions that ended here a moment ago: the store may not have heard of it yet."""

    def note_over(self, session_id: str) -> None:
        """Nobody can come back to it."""
        self._over.append(session_id)

    async def find(self, message: Resume, tenant: str, admit: Admit) -> LiveSession:
        """``admit`` is asked before a session that is not here becomes this server's work.

        Raises: UnknownSession, the same for a wrong id, token or owner; SessionExpired for the
        holder of a session that is over; StoreError; the errors of ``admit``.
        """
        was_here = self._holder.find(message.session_id) is not None
        record = await self._record_for(message, tenant)
        live = await self._still_mine(record.session_id)
        if live is None and was_here:
            record = await self._record_for(message, tenant)  # somebody may have deleted it
        live = live or await self._taken_over(record, admit)
        if live is not None and not live.is_expired:
            return live
        raise SessionExpired(
            "this session is over; start a new one (its transcript is at "
            f"/v1/sessions/{record.session_id}/transcript)"
        )

    async def _record_for(self, message: Resume, tenant: str) -> SessionRecord:
        """Of the session whose token this is. Whoever has none costs one look at most.

        Raises: UnknownSession, StoreError.
        """
        live = self._holder.find(message.session_id)
        record = live.record if live else await self._store.session(message.session_id)
        token_hash = record.resume_token_hash if record else hash_resume_token("none")
        is_holder = check_resume_token(message.resume_token, token_hash)
        if record is not None and is_holder and record.tenant == tenant:
            return record
        raise UnknownSession(
            "no session with this id and token is waiting; start a new one (its transcript, "
            "if it ever was yours, is at /v1/sessions)"
        )

    async def _still_mine(self, session_id: str) -> LiveSession | None:
        """The session that is here, unless another server has taken it over meanwhile."""
        live = self._holder.find(session_id)
        if live is None:
            return None
        try:
            found = await self._store.load_resumable(session_id)
        except StoreError:
            return self._holder.find(session_id)  # nobody can take anything over now
        # What is not open any more, and did not end here, was ended by its next owner.
        is_elsewhere = not live.is_over if found is None else found.epoch != live.epoch
        if is_elsewhere and self._holder.find(session_id) is live:
            taken = Superseded("another server has taken this session over")
            self._holder.forget(live, "superseded", taken)
        return self._holder.find(session_id)

    async def _taken_over(self, record: SessionRecord, admit: Admit) -> LiveSession | None:
        """The session as its last owner left it, who may be dead or not; None where it is over.

        Raises: the errors of ``admit``, SessionExpired, StoreError.
        """
        async with self._turns.setdefault(record.session_id, asyncio.Lock()):  # H2
            live = self._holder.find(record.session_id)
            if live is not None:
                return live
            try:
                return await self._from_store(record, admit)
            except StaleOwner:
                # Claimed or ended between the look and the claim: which one a second look tells.
                return await self._from_store(record, admit)

    async def _from_store(self, record: SessionRecord, admit: Admit) -> LiveSession | None:
        left = await self._store.load_resumable(record.session_id)
        if left is None or record.session_id in self._over:
            return None
        checkpoint = _checkpoint_of(left)
        if left.record.state == "open":
            admit(record.tenant)
            self.coming[record.tenant] += 1
            try:
                left = await self._store.claim(record.session_id, left.epoch)
            finally:
                self.coming[record.tenant] -= 1
            live = self._holder.adopt(left, _checkpoint_of(left))
            _log.info("session taken over", session_id=live.id, epoch=left.epoch)
            return live
        # H3. It asks nothing of any engine, so a full server has room for it all the same.
        if not self._holder.is_ready:
            self._holder.admit(record.tenant)
        live = self._holder.adopt(left, checkpoint)
        _log.info("end of a session repeated", session_id=live.id)
        return live


def _checkpoint_of(left: Resumable) -> Checkpoint | None:
    """None where nothing had happened yet. Raises: SessionExpired."""
    if left.checkpoint is None and left.last_seq == 0:
        return None
    try:
        return decode(left.checkpoint or b"")
    except UnusableCheckpoint as error:
        reason = str(error)
        _log.error("a session cannot go on", session_id=left.record.session_id, reason=reason)
        raise SessionExpired(
            "this session was left by another version of the server; start a new one"
        ) from None
