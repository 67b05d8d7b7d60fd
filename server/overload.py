"""Too much work: measured, told, and kept away from those who are here.

Owns: the loop that looks at the load, the metrics of it, and the doing of what ``admission.py``
decides: refusing before the upgrade, sending the newest sessions away. Knows no socket's insides.
"""

import asyncio
import os
import time
from collections.abc import Callable, Collection, Iterable, Sequence

import structlog
from aiohttp import web

from server.admission import (
    WHAT_IS_WRONG,
    Load,
    LoadGate,
    OverloadReason,
    Shedding,
    shed_error,
    who_goes,
)
from server.connection import Connection
from server.dispatch import Dispatcher, Outcome
from server.hub import PROTOCOL, Hub
from server.live import LiveSession
from server.load import LoadMeter
from server.memory import memory_limit_bytes, used_bytes
from server.telemetry import Metrics
from streaming.jobs import Job
from streaming.timeline import SAMPLE_RATE_HZ
from streaming.wire import Ready, Resume, Start

LOOK_SECONDS = 0.5
LOOKS_PER_MEMORY = 10
"""Memory moves slowly, and asking the kernel takes some milliseconds."""
RESUME_QUERY = "resume"
"""A client that connects to go on with a session may say so by ``?resume=1`` in the address: it is
let in whatever the load is. Who then starts a session all the same is refused on the socket."""
RETURNING_MAX = 256
"""Beside one for each session in memory: so many connections may stand here without a session, each
for ``handshake_timeout_s``, before who says that he comes back is asked in like anybody else."""
MIB = 1024 * 1024

_log = structlog.get_logger(__name__)


class MeteredDispatcher(Dispatcher):
    """Keeps the account of what is asked, once there is one."""

    meter: LoadMeter | None = None

    def submit(self, jobs: Iterable[Job]) -> list[Outcome]:
        if self.meter is None:
            return super().submit(jobs)
        asked = list(jobs)
        self.meter.note_asked(asked, time.monotonic_ns())
        lost = super().submit(asked)
        if lost:
            self.meter.work.note_answered(outcome.job for outcome in lost)
        return lost

    def forget(self, session_id: str) -> None:
        if self.meter is not None:
            self.meter.work.forget(session_id)
        super().forget(session_id)


class Overload:
    """The load of one server, and what is done about it."""

    def __init__(
        self,
        hub: Hub,
        connections: Collection[Connection],
        *,
        thinning_admitted: float,
        memory_limit_mb: int | None,
    ) -> None:
        self._hub = hub
        self._connections = connections
        self._thinning_admitted = thinning_admitted
        self._memory_max = memory_limit_mb * MIB if memory_limit_mb else memory_limit_bytes()
        self._memory_used = 0
        self._meter: LoadMeter | None = None
        self._counted = 0
        """Connections whose sessions are among the talkers that were counted last."""
        self._gate = LoadGate()
        self._shedding = Shedding(time.monotonic_ns())
        self._told: list[OverloadReason] = []
        self._metrics.memory_limit_bytes.set(self._memory_max)

    @property
    def _metrics(self) -> Metrics:
        return self._hub.metrics

    # What it is told

    def measure(self, meter: LoadMeter) -> None:
        """Sessions can be opened from now on."""
        self._meter = meter

    def deliver(self, outcomes: list[Outcome]) -> None:
        """As ``Hub.deliver``, having looked at what came."""
        if self._meter is not None:
            answered = [outcome.job for outcome in outcomes if outcome.answers is not None]
            given_up = [outcome.job for outcome in outcomes if outcome.answers is None]
            seconds = sum(outcome.engine_ns for outcome in outcomes) / 1e9
            self._meter.note_answers(answered, given_up, seconds, time.monotonic_ns())
        self._hub.deliver(outcomes)

    def pace_partials(self, thinning: float) -> None:
        """As ``Hub.pace_partials``."""
        if self._meter is not None:
            self._meter.thinning = thinning
        self._hub.pace_partials(thinning)

    # What it says

    @property
    def problems(self) -> list[str]:
        """Why no new session can start now."""
        return [WHAT_IS_WRONG[reason] for reason in self._gate.reasons]

    def desk_for(self, request: web.Request, tenant: str) -> "Hub | ResumeDesk":
        """Where this client may ask for sessions. Raises: Overloaded, TooFast, Draining.

        Nobody who comes back is refused; so they are told apart as far as that is possible before
        they have said a word.
        """
        comes_back = request.query.get(RESUME_QUERY) or self._hub.has_waiting(tenant)
        standing = sum(connection.session_id is None for connection in self._connections)
        if comes_back and standing < RETURNING_MAX + len(self._hub.held):
            return ResumeDesk(self._hub, self)
        self._hub.admit(tenant)
        self.check()
        return self._hub

    def check(self, *, is_connected: bool = False) -> None:
        """Raises: Overloaded where one more session may not start; its connection may be there."""
        self._check_gate(tuple(OverloadReason), is_connected=is_connected)

    def check_takeover(self, tenant: str) -> None:
        """May a session of another server become this one's work? Raises: as ``Hub.admit``.

        Where its captions, or those of whoever is here, would be late, its client does better to
        ask elsewhere, or here again. That partials would come less often than newcomers are to
        have them is no reason: the session was promised its words.
        """
        self._hub.admit(tenant)
        reasons = [reason for reason in OverloadReason if reason is not OverloadReason.ENGINES]
        self._check_gate(reasons, is_connected=True)

    def _check_gate(self, against: Collection[OverloadReason], *, is_connected: bool) -> None:
        """Raises: Overloaded where it is closed for one of these reasons."""
        self._gate.note(self._load(time.monotonic_ns(), is_connected=is_connected))
        refusal = self._gate.refusal(against)
        if refusal is None:
            return
        for reason in self._gate.reasons:
            if reason in against:
                self._metrics.overload_refusals.labels(reason.value).inc()
        self._metrics.sessions.labels(PROTOCOL, "refused").inc()
        raise refusal

    def _load(self, now_ns: int, *, is_connected: bool = False) -> Load:
        meter = self._meter
        memory = self._memory_used / self._memory_max
        if meter is None:
            return Load(0.0, 0.0, 0.0, memory)
        more = max(0, len(self._connections) - self._counted) + (not is_connected)
        share = meter.need.share(self._thinning_admitted, more)
        return Load(share, meter.work.late_s(now_ns), meter.need.price.call_s, memory)

    # What it does by itself

    async def watch(self, pids: Callable[[], list[int]]) -> None:
        """Look at the load again and again; ``pids`` of the processes that work for this server."""
        looks = 0
        while True:
            if looks % LOOKS_PER_MEMORY == 0:
                every = [os.getpid(), *pids()]
                self._memory_used = await asyncio.to_thread(used_bytes, every)
                self._metrics.memory_bytes.set(self._memory_used)
            looks += 1
            try:
                self.look(time.monotonic_ns())
            except Exception as error:  # noqa: BLE001  task boundary: it must go on
                _log.error("the load was not looked at", exc_info=error)
            await asyncio.sleep(LOOK_SECONDS)

    def look(self, now_ns: int) -> None:
        """Count, judge, tell, and send away who must go."""
        for live in self._hub.sessions:
            live.look(now_ns)
        if self._meter is not None:
            attached = [live for live in self._hub.sessions if live.is_attached]
            self._counted = len(attached)
            heard_s = {live.id: _heard_s(live) for live in attached}
            done_s = {live.id: heard_s[live.id] - _open_s(live) for live in attached}
            self._meter.need.note_audio(heard_s, done_s, now_ns)
            talking = [live for live in attached if not live.session.is_waiting_for_reader]
            self._shed(self._meter, talking, now_ns)
        load = self._load(now_ns)
        self._gate.note(load)
        self._metrics.engine_load_ratio.set(load.engine_share)
        self._metrics.live_delay_seconds.set(load.late_s)
        self._tell()

    def _tell(self) -> None:
        closed = self._gate.reasons
        for reason in OverloadReason:
            self._metrics.admission_closed.labels(reason.value).set(reason in closed)
        if closed and not self._told:
            _log.warning("new sessions are refused", reasons=[reason.value for reason in closed])
        elif self._told and not closed:
            _log.info("new sessions are admitted again")
        self._told = closed

    def _shed(self, meter: LoadMeter, talking: Sequence[LiveSession], now_ns: int) -> None:
        late_s, busy = meter.work.late_s(now_ns), meter.thinnest_share(now_ns)
        left = meter.left_share(now_ns)
        count = self._shedding.count(late_s, busy, left, len(talking), now_ns)
        if not count:
            return
        connections = tuple(self._connections)
        can_come_back = {c.session_id for c in connections if c.session_id and c.can_come_back}
        # In the order in which they came; those who came back are where they were.
        leaving = who_goes([live.id for live in talking], can_come_back, count)
        _log.warning("sessions are sent away", sessions=count, late_s=round(late_s, 1))
        for connection in connections:
            if connection.session_id in leaving:
                connection.send_away(shed_error())
                self._metrics.sessions_shed.inc()


class ResumeDesk:
    """A desk for those who come back: whoever starts a session there is asked in like any other,
    and so, a little less, is whoever was another server's."""

    def __init__(self, hub: Hub, overload: Overload) -> None:
        self._hub = hub
        self._overload = overload
        self.metrics = hub.metrics
        self.store = hub.store
        self.check_language = hub.check_language
        self.check_guidance = hub.check_guidance

    async def open(
        self, start: Start, tenant: str, *, protocol: str = PROTOCOL
    ) -> tuple[LiveSession, Ready]:
        """As ``Hub.open``. Raises: Overloaded as well."""
        self._overload.check(is_connected=True)
        return await self._hub.open(start, tenant, protocol=protocol)

    async def resume(self, message: Resume, tenant: str) -> tuple[LiveSession, Ready]:
        """As ``Hub.resume``. Raises: Overloaded as well, for another server's session."""
        return await self._hub.resume(message, tenant, admit=self._overload.check_takeover)


def _heard_s(live: LiveSession) -> float:
    return live.session.frames_received / live.session.start.audio.sample_rate


def _open_s(live: LiveSession) -> float:
    """Neither captioned nor found silent yet."""
    return live.session.backlog_samples / SAMPLE_RATE_HZ
