"""The store of a world: what it has taken is safe; it can be slow, and refuse for a while."""

from collections.abc import Callable, Sequence

from streaming.events import DurableEvent
from streaming.keeping import SavedPoint
from streaming.wire import encode_event
from tests.sim.watchers import check_rows
from tests.sim.weather import Fault
from tests.sim.world import SECOND, World, delay_ns

RETRY_NS = SECOND
"""As the server's."""


class Store:
    """Rows of events per session, as bytes: nobody can change them afterwards."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._lots = world.lots("store")
        self._rows: dict[str, list[bytes]] = {}
        self._events: dict[str, list[DurableEvent]] = {}
        self._points: dict[str, SavedPoint] = {}
        self._under_way: dict[str, Callable[[], None]] = {}
        """One write of each session at most, from when it is given to when it is safe."""

    def point(self, session_id: str) -> SavedPoint | None:
        """The checkpoint that was stored last."""
        return self._points.get(session_id)

    def rows(self, session_id: str) -> list[bytes]:
        return self._rows.setdefault(session_id, [])

    def events(self, session_id: str) -> list[DurableEvent]:
        """The rows, read back."""
        return self._events.setdefault(session_id, [])

    def append(
        self,
        session_id: str,
        events: Sequence[DurableEvent],
        point: SavedPoint | None,
        then: Callable[[], None],
    ) -> None:
        """``then`` is called when all of it is safe; a refused write is tried again."""
        rows = [encode_event(event) for event in events]

        def commit() -> None:
            check_rows(len(self.rows(session_id)), events)
            self.rows(session_id).extend(rows)
            self.events(session_id).extend(events)
            if point is not None:
                self._points[session_id] = point

        def write() -> None:
            if self._under_way.get(session_id) is not commit:
                return  # its server is dead
            share = self._world.weather.refusal_share
            if self._world.strikes(Fault.STORE_REFUSAL, share, self._lots):
                self._world.after(RETRY_NS, write)
                return
            del self._under_way[session_id]
            commit()
            then()

        self._under_way[session_id] = commit
        self._world.after(delay_ns(self._lots, self._world.weather.store_ms), write)

    def lose_server(self, session_id: str) -> None:
        """Whoever wrote is dead; what was under way is safe, or was never written."""
        commit = self._under_way.pop(session_id, None)
        if commit is not None and self._lots.random() < 0.5:
            self._world.note(Fault.LATE_COMMIT)
            commit()
