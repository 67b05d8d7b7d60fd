"""The server put together: store, workers, sessions, listener, signals. The only place of wiring.

It listens before its models are loaded, so that ``/healthz`` answers at once and ``/readyz`` says
what is missing; sessions are refused until everything is warm. SIGTERM drains.
"""

import asyncio
import contextlib
import functools
import importlib.metadata
import signal
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import structlog
from aiohttp import web

from server.accounts import CountingHub, note_outcomes
from server.auth import Keyring, OriginGuard
from server.config import Settings
from server.connection import HEARTBEAT_SECONDS, Connection
from server.dispatch import SHORT_WINDOWS, Outcome, stage_limits
from server.engines.errors import EngineUnavailable
from server.engines.registry import EngineSpec, takes_guidance
from server.hub import EnginesInUse, Hub
from server.limits import PacketGate
from server.listener import Listener, bound_sockets, refusal_of_open_sockets
from server.load import LoadMeter
from server.overload import MeteredDispatcher, Overload
from server.processes import worker_specs
from server.protocols.captiond import NativeConnection
from server.protocols.foreign import add_foreign_protocols
from server.retention import Retention, RetentionOptions
from server.routes import TENANT, Routes, guard_middleware, offered_subprotocols
from server.socket import CaptionSocket
from server.store import TranscriptStore
from server.systemd import Systemd, SystemdError
from server.telemetry import Metrics
from server.tls import ServerTls, TlsError
from server.traces import Traces, traces_to
from server.vitals import Vitals
from server.workers import EngineWorker, WorkerState
from streaming.errors import BadMessage
from streaming.events import SessionStage
from streaming.wire import STREAM_PATH, SUBPROTOCOL

KEEPALIVE_SECONDS = 75.0
"""For the next request of a connection; proxies give up before."""
DRAIN_POLL_SECONDS = 0.05
LISTENING_SHARE = 0.5
"""Of the time to drain: for whoever talks to come to the end of a sentence. The rest is for the
engines, and for the store."""
CLOSE_SECONDS_MAX = 2.0

_log = structlog.get_logger(__name__)


def version() -> str:
    """Of the installed distribution."""
    try:
        return importlib.metadata.version("captiond")
    except importlib.metadata.PackageNotFoundError:
        return "unreleased"


class Server:
    """One captiond process."""

    def __init__(self, settings: Settings, systemd: Systemd | None = None) -> None:
        """Raises: TlsError."""
        self._settings = settings
        self._systemd = systemd or Systemd()
        cert, key = settings.tls_cert, settings.tls_key
        self._tls = None if cert is None or key is None else ServerTls(cert, key)
        self._metrics = Metrics(version())
        self._connections: set[Connection] = set()
        self._workers: dict[SessionStage, list[EngineWorker]] = {}
        self._dispatcher: MeteredDispatcher | None = None
        self._hub: Hub | None = None
        self._overload: Overload | None = None
        self._traces: Traces | None = None
        self._problems = ["models are loading"]
        self._signals = 0
        self._stop = asyncio.Event()

    async def run(self, on_listening: Callable[[str], None], on_ready: Callable[[], None]) -> None:
        """Serve until SIGTERM or SIGINT, then drain. ``on_listening`` gets the base URL.

        SIGHUP reads the certificate again.
        Raises: EngineUnavailable, StoreError, SystemdError, OSError (address in use), each with
        what to do.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal)
        loop.add_signal_handler(signal.SIGHUP, self._reload_certificate)
        self._warn_of_certificate()
        async with contextlib.AsyncExitStack() as stack:
            if self._settings.tracing_url is not None:
                self._traces = traces_to(self._settings.tracing_url, self._metrics)
                stack.push_async_callback(self._traces.close)
            store = await self._open_store()
            stack.push_async_callback(store.close)
            hub = self._hub = CountingHub(self._settings, store, self._metrics)
            overload = self._overload = self._watch_of(hub)
            vitals = Vitals(hub, self._settings, lambda: len(self._connections))
            hub.watch = self._traces
            vitals.watch_readiness(lambda: self.problems)
            await self._listen(hub, on_listening, stack)
            stack.push_async_callback(self._close_workers)
            watch = asyncio.create_task(overload.watch(self._pids), name="load watch")
            stack.callback(watch.cancel)
            sweeps = asyncio.create_task(self._retention(hub).run(), name="store sweeps")
            stack.callback(sweeps.cancel)
            looks = asyncio.create_task(vitals.watch(), name="vitals")
            stack.callback(looks.cancel)
            if await self._load(hub, overload, vitals):
                on_ready()
                self._systemd.notify("READY=1")
                await self._stop.wait()
            self._systemd.notify("STOPPING=1")
            await self._drain(hub)

    def _watch_of(self, hub: Hub) -> Overload:
        return Overload(
            hub,
            self._connections,
            thinning_admitted=self._settings.thinning_admitted,
            memory_limit_mb=self._settings.memory_limit_mb,
        )

    def _pids(self) -> list[int]:
        """Of the engines' processes."""
        every = (worker.pid for workers in self._workers.values() for worker in workers)
        return [pid for pid in every if pid is not None]

    async def _open_store(self) -> TranscriptStore:
        seconds, writes = self._metrics.store_commit_seconds, self._metrics.store_writes

        def count(duration_s: float, in_group: int) -> None:
            seconds.observe(duration_s)
            writes.inc(in_group)

        kind = TranscriptStore if self._traces is None else self._traces.store
        return await kind.open(
            self._settings.store_url,
            synchronous="FULL" if self._settings.store_synchronous == "full" else "NORMAL",
            on_commit=count,
        )

    def _retention(self, hub: Hub) -> Retention:
        days, window_s = self._settings.retention_days, self._settings.resume_window_s
        keep = None if days is None else timedelta(days=days)
        options = RetentionOptions(window_s, keep)
        return Retention(hub.store, options, self._metrics, held=lambda: hub.held)

    async def _listen(
        self, hub: Hub, on_listening: Callable[[str], None], stack: contextlib.AsyncExitStack
    ) -> None:
        settings = self._settings
        sockets = self._systemd.sockets
        if refusal := refusal_of_open_sockets(sockets, settings):
            raise SystemdError(refusal)
        host = sockets[0].getsockname()[0] if sockets else settings.host
        listener = Listener(sockets or await bound_sockets(host, settings.port), self._tls)
        origins = OriginGuard(settings.allowed_origins, settings.allowed_hosts, host)
        guard = guard_middleware(Keyring.from_settings(settings), origins, self._metrics)
        app = web.Application(middlewares=[guard])
        Routes(hub, self).add_to(app)
        app.router.add_get(STREAM_PATH, functools.partial(self._stream, hub))
        assert self._overload is not None
        add_foreign_protocols(app, hub, self._overload, self._connections, settings)
        runner = web.AppRunner(
            app,
            access_log=None,
            handle_signals=False,
            shutdown_timeout=2.0,
            keepalive_timeout=KEEPALIVE_SECONDS,
        )
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        stack.push_async_callback(listener.close)
        await listener.start(runner)
        on_listening(listener.url)

    def _warn_of_certificate(self) -> None:
        if self._tls is None:
            return
        ends_s = self._tls.expires_at.timestamp()
        self._metrics.certificate_expiry_timestamp_seconds.set(ends_s)
        if warning := self._tls.warning(datetime.now(UTC)):
            _log.warning(warning)

    def _reload_certificate(self) -> None:
        """SIGHUP, from whoever renewed it; connections that are open keep the old one."""
        if self._tls is None:
            _log.info("nothing to reload: no certificate is configured")
            return
        try:
            self._tls.reload()
        except TlsError as error:
            _log.error("the old certificate stays in use", reason=str(error))
        else:
            _log.info("certificate reloaded")
            self._warn_of_certificate()

    async def _load(self, hub: Hub, overload: Overload, vitals: Vitals) -> bool:
        """Start all workers; False where a signal came first. Raises: EngineUnavailable."""
        loading = asyncio.create_task(self._start_workers(vitals))
        stopping = asyncio.create_task(self._stop.wait())
        await asyncio.wait([loading, stopping], return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if not loading.done():
            loading.cancel()
            await asyncio.gather(loading, return_exceptions=True)
            return False
        engines = loading.result()
        recognizer = self._workers[SessionStage.RECOGNITION][0].ready
        profile = recognizer.recognizer_profile if recognizer else None
        windows_max = self._settings.batch_windows_max
        meter = LoadMeter(
            len(self._workers[SessionStage.RECOGNITION]),
            windows_max,
            1 if profile is None else 1 / SHORT_WINDOWS,
            time.monotonic_ns(),
        )
        kind = MeteredDispatcher if self._traces is None else self._traces.dispatcher
        dispatcher = self._dispatcher = kind(
            self._workers,
            stage_limits(windows_max, profile),
            self._metrics,
            functools.partial(self._deliver, hub, overload),
            pace=overload.pace_partials,
            call_timeout_s=self._settings.call_timeout_s,
        )
        dispatcher.meter = meter
        dispatcher.start()
        overload.measure(meter)
        vitals.watch_engines(dispatcher, meter)
        hub.serve_with(engines, dispatcher)
        self._problems = []
        return True

    def _deliver(self, hub: Hub, overload: Overload, outcomes: list[Outcome]) -> None:
        note_outcomes(self._metrics, outcomes, time.monotonic_ns())
        if self._traces is None:
            overload.deliver(outcomes)
        else:
            with self._traces.tracer.delivering(outcomes, hub):
                overload.deliver(outcomes)

    async def _start_workers(self, vitals: Vitals) -> EnginesInUse:
        specs = await asyncio.to_thread(worker_specs, self._settings)
        self._workers |= {
            stage: [self._worker(spec) for spec in own] for stage, own in specs.items()
        }
        vitals.watch_workers(self._workers)
        every = [worker for workers in self._workers.values() for worker in workers]
        try:
            async with asyncio.TaskGroup() as group:
                for worker in every:
                    group.create_task(worker.start())
        except* EngineUnavailable as failures:
            raise failures.exceptions[0] from None
        except* OSError as failures:
            reason = failures.exceptions[0]
            raise EngineUnavailable(f"cannot start an engine process: {reason}") from None
        return self._in_use()

    def _in_use(self) -> EnginesInUse:
        """What the started workers said of themselves."""
        ready = {
            stage: workers[0].ready
            for stage, workers in self._workers.items()
            if workers[0].ready is not None
        }
        names = {stage.value: said.description for stage, said in ready.items()}
        _log.info("engines ready", **names)
        diarizer = ready.get(SessionStage.DIARIZATION)
        recognizer = ready[SessionStage.RECOGNITION]
        name = self._workers[SessionStage.RECOGNITION][0].spec.name
        return EnginesInUse(
            names,
            diarizer.profile if diarizer else None,
            recognizer.languages,
            takes_guidance(name),
        )

    def _worker(self, spec: EngineSpec) -> EngineWorker:
        restarts = self._metrics.worker_restarts.labels(spec.stage.value)

        def count(state: WorkerState) -> None:
            if state is WorkerState.RESTARTING:
                restarts.inc()

        kind = EngineWorker if self._traces is None else self._traces.worker
        return kind(spec, on_state=count)

    @property
    def problems(self) -> list[str]:
        """Why no session can start now."""
        if self._signals:
            return ["the server is draining"]
        lost = [
            f"the {stage.value} engine is restarting"
            for stage, workers in self._workers.items()
            if not any(worker.ready for worker in workers)
        ]
        if self._hub is not None and self._hub.is_store_refusing:
            lost.append("the store refuses captions")
        if self._dispatcher is not None:
            stalled = self._dispatcher.stalled
            lost += [f"the {stage.value} engine does not answer" for stage in stalled]
        if self._overload is not None:
            lost += self._overload.problems
        return self._problems or lost

    async def _stream(self, hub: Hub, request: web.Request) -> web.StreamResponse:
        tenant = request[TENANT]
        _check_subprotocols(request)
        hub.admit_upgrade(tenant)
        assert self._overload is not None
        desk = self._overload.desk_for(request, tenant)
        socket = CaptionSocket(heartbeat_s=HEARTBEAT_SECONDS)
        await socket.prepare(request)
        settings = self._settings
        connection = NativeConnection(
            socket,
            desk,
            tenant,
            gate=PacketGate(settings.packets_per_second_max),
            handshake_s=settings.handshake_timeout_s,
            idle_s=settings.idle_timeout_s,
        )
        self._connections.add(connection)
        try:
            await connection.serve()
        finally:
            self._connections.discard(connection)
        return socket

    def _on_signal(self) -> None:
        self._signals += 1
        self._stop.set()

    async def _drain(self, hub: Hub) -> None:
        """Let everybody finish their sentence, and its captions; then send the clients away."""
        deadline_s = self._settings.drain_s
        _log.info("draining", sessions=len(tuple(hub.sessions)), deadline_s=deadline_s)
        for connection in tuple(self._connections):
            connection.drain(deadline_s)
        hub.drain()
        await self._wait_until(lambda: self._is_drained(hub), deadline_s * LISTENING_SHARE)
        hub.hurry()
        await self._wait_until(lambda: self._is_drained(hub), deadline_s * (1 - LISTENING_SHARE))
        _log.info("drained", is_complete=self._is_drained(hub))
        for connection in tuple(self._connections):
            connection.close_for_drain()
        await self._wait_until(lambda: not self._connections, CLOSE_SECONDS_MAX)
        await hub.close()

    async def _wait_until(self, is_so: Callable[[], bool], seconds: float) -> None:
        """Returns as soon as it is so, the time is over, or a second signal comes."""
        give_up = time.monotonic() + seconds
        # What is waited for is spread over all sessions and sockets: no one event tells of it.
        while not is_so() and time.monotonic() < give_up and self._signals < 2:  # noqa: ASYNC110
            await asyncio.sleep(DRAIN_POLL_SECONDS)

    def _is_drained(self, hub: Hub) -> bool:
        return hub.is_settled and all(c.is_caught_up for c in self._connections)

    async def _close_workers(self) -> None:
        if self._dispatcher is not None:
            await self._dispatcher.close()
        every = [worker for workers in self._workers.values() for worker in workers]
        await asyncio.gather(*(worker.close() for worker in every), return_exceptions=True)


def _check_subprotocols(request: web.Request) -> None:
    """Raises: BadMessage. aiohttp would log what was offered, and a key may be among it."""
    offered = offered_subprotocols(request)
    if offered and SUBPROTOCOL not in offered:
        raise BadMessage(f'offer the WebSocket subprotocol "{SUBPROTOCOL}", or none')
