"""What the store keeps, and for how long: a sweep now and then.

Owns the timing and the bounds of a sweep; what is deleted and how is the store's. A sweep says that
this server is alive, closes what servers that died have left open, erases the checkpoints of ended
sessions that nobody comes back to, deletes what is past its time in small transactions, and takes
what was erased out of the log.
Invariants: R1 a sweep never holds captions up for longer than one small transaction; R2 a sweep
that fails is logged, and the next one does its work.
"""

import asyncio
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import structlog

from server.store import StoreError, TranscriptStore
from server.telemetry import Metrics

SWEEP_SECONDS = 15.0
"""Text that was erased is out of the log, and a dead server's sessions closed, so soon after."""
CONTACT_SECONDS_MIN = 3 * SWEEP_SECONDS
"""A server that was cut off from the store itself knows nothing of the others' silence: it judges
them when it has been in contact for so long, and so had they."""
SESSIONS_PER_SWEEP_MAX = 100
"""Deleted in one sweep; a store that has grown for months is cleared over several of them."""
REWRITE_EVERY = timedelta(hours=1)
"""Captions wait while the file is written anew; sessions end all day."""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class RetentionOptions:
    """How long what is kept."""

    resume_window_s: float
    """A session without a living server can be resumed for so long, and is then closed."""
    keep: timedelta | None = None
    """After its end; None: for ever."""


class Retention:
    """Make it, then run ``run`` as a task beside the server."""

    def __init__(
        self,
        store: TranscriptStore,
        options: RetentionOptions,
        metrics: Metrics,
        *,
        held: Callable[[], AbstractSet[str]],
    ) -> None:
        """``held``: ids of the sessions that this server has in memory."""
        self._store = store
        self._held = held
        self._strays: set[str] = set()
        """This server's open sessions that it had not in memory at the last sweep."""
        self._options = options
        self._metrics = metrics
        self._contact: tuple[datetime, datetime] | None = None
        """First and last sweep of those that followed each other without a gap."""
        self._has_deleted = False
        self._rewritten_at: datetime | None = None

    async def run(self) -> None:
        """Sweep until cancelled."""
        while True:
            try:
                await self.sweep(datetime.now(UTC))
            except StoreError as error:
                _log.warning(
                    "the store was not swept; the next sweep does it", reason=error.message
                )
            except Exception as error:  # noqa: BLE001  task boundary
                _log.error("a sweep of the store failed", exc_info=error)
            await asyncio.sleep(SWEEP_SECONDS)

    async def sweep(self, now: datetime) -> None:
        """Raises: StoreError; what is done by then stays done."""
        await self._store.note_alive(now)
        await self._close_interrupted(now)
        await self._close_strays(now)
        await self._store.erase_checkpoints(now)
        if self._options.keep is not None:
            await self._delete_before(now - self._options.keep)
        await self._rewrite(now)
        await self._store.scrub()

    async def _close_interrupted(self, now: datetime) -> None:
        since, last = self._contact or (now, now)
        contact_min = timedelta(seconds=CONTACT_SECONDS_MIN)
        self._contact = (since, now) if now - last < contact_min else (now, now)
        if now - self._contact[0] < contact_min:
            return
        patience = max(timedelta(seconds=self._options.resume_window_s), contact_min)
        interrupted = await self._store.close_interrupted(now - patience, now)
        if interrupted:
            _log.warning("sessions of a server that died are closed", sessions=interrupted)
            self._metrics.sessions_swept.labels("interrupted").inc(interrupted)

    async def _close_strays(self, now: datetime) -> None:
        """What a bug has thrown out of memory nobody can end; one sweep may see it half opened."""
        strays = await self._store.open_here() - self._held()
        for session_id in strays & self._strays:
            found = await self._store.load_resumable(session_id)
            if found is not None and found.record.state == "open":
                epoch = found.epoch
                await self._store.finish_session(session_id, "interrupted", now, epoch=epoch)
                _log.warning("a session that nobody held is closed", session_id=session_id)
                self._metrics.sessions_swept.labels("interrupted").inc()
        self._strays = strays

    async def _delete_before(self, moment: datetime) -> None:
        for session_id in await self._store.ended_before(moment, limit=SESSIONS_PER_SWEEP_MAX):
            self._has_deleted = True
            while not await self._store.prune(session_id):
                pass
            _log.info("session deleted: past its time", session_id=session_id)
            self._metrics.sessions_swept.labels("deleted").inc()

    async def _rewrite(self, now: datetime) -> None:
        is_due = self._rewritten_at is None or now - self._rewritten_at >= REWRITE_EVERY
        if self._has_deleted and is_due:
            await self._store.rewrite()
            _log.info("the store's file was written anew, for what was deleted")
            self._has_deleted, self._rewritten_at = False, now
