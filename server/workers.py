"""Supervised engine processes: spawned, asked one batch at a time, killed late, replaced when lost.

The front process never imports a model library; each engine lives in a child of its own, so a
crash, a hang or a leak in one costs a restart and no session. Nothing here decides what to ask.

Invariants: W1 at most one call at a time per worker (the caller's duty, asserted); W2 after a
death, a timeout or a cancelled call the process is gone before a replacement starts, so a late
answer can never meet the wrong question; W3 a lost process is replaced until ``close``, with a
pause that grows to ``BACKOFF_SECONDS_MAX`` while none of them answers, and never more than
``RESTARTS_PER_MINUTE_MAX`` times in a minute.
"""

import asyncio
import contextlib
import os
import pickle
import signal
import socket
import struct
import sys
import sysconfig
from collections import deque
from collections.abc import Callable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any

import structlog

from server.cpu_budget import cpu_budget
from server.engines.errors import EngineUnavailable
from server.engines.registry import EngineSpec
from server.worker_frames import (
    HEADER,
    Answer,
    Failure,
    FrameTooBig,
    Question,
    Reply,
    Unavailable,
    WorkerReady,
    body_bytes,
    pack,
    unpack,
)

__all__ = [
    "CallFailed",
    "CallTimeout",
    "EngineWorker",
    "WorkerDied",
    "WorkerReady",
    "WorkerState",
    "WorkerUnready",
    "cpu_budget",
]

LOAD_SECONDS_MAX = 900.0
"""A first start may download a checkpoint of some gigabytes."""
CLOSE_SECONDS_MAX = 2.0
"""An idle worker ends at once; a busy one is killed after this."""
RELOAD_SECONDS_MIN = 60.0
RELOAD_TIMES_MAX = 5.0
"""A replacement has its files at hand: it may take so many times as long as the first one, or
``RELOAD_SECONDS_MIN``, before it counts as stuck."""
BACKOFF_SECONDS_MAX = 30.0
RESTARTS_PER_MINUTE_MAX = 20
"""An engine that answers now and then and dies in between must not spend the machine on loading."""
LOG_LINE_BYTES_MAX = 2_000
"""Longer lines of a child's output are cut: they are progress bars or dumps."""
_THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)

UNREADABLE = (pickle.UnpicklingError, struct.error, EOFError, AttributeError, TypeError, ValueError)
"""What bytes that are no message of ours raise."""

_log = structlog.get_logger(__name__)


class CallFailed(Exception):
    """The engine raised on this batch; the worker lives."""

    def __init__(self, message: str, *, is_memory: bool) -> None:
        super().__init__(message)
        self.is_memory = is_memory
        """A smaller batch may succeed."""


class WorkerDied(Exception):
    """The process crashed, was killed, or broke the stream; it is being replaced."""

    def __init__(self, message: str, *, is_killed: bool = False) -> None:
        super().__init__(message)
        self.is_killed = is_killed
        """By somebody, such as a kernel that is out of memory: a smaller batch may succeed."""


class WorkerUnready(WorkerDied):
    """No process became ready in time: the batch was not sent, and is not to blame."""


class CallTimeout(Exception):
    """The process was killed at the call's deadline; it is being replaced."""


class WorkerState(StrEnum):
    STARTING = "starting"
    READY = "ready"
    RESTARTING = "restarting"
    CLOSED = "closed"


class EngineWorker:
    """One engine in a process of its own."""

    def __init__(
        self, spec: EngineSpec, *, on_state: Callable[[WorkerState], None] | None = None
    ) -> None:
        self.spec = spec
        self.ready: WorkerReady | None = None
        """None while there is no process that could answer."""
        self.restarts = 0
        """Processes lost and replaced since ``start``."""
        self._on_state = on_state
        self._child: _Child | None = None
        self._is_ready = asyncio.Event()
        self._is_calling = False
        self._is_closed = False
        self._losses_in_a_row = 0
        """Processes lost since one last answered a call; sets the pause before the next."""
        self._restarts_s: deque[float] = deque(maxlen=RESTARTS_PER_MINUTE_MAX)
        """When the last ones were, on the loop's clock."""
        self._load_seconds_max = LOAD_SECONDS_MAX
        self._restarting: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        return self._child.process.pid if self._child else None

    async def start(self) -> WorkerReady:
        """Spawns, loads and warms. Raises: EngineUnavailable."""
        self._report(WorkerState.STARTING)
        began_s = asyncio.get_running_loop().time()
        ready = await self._launch()
        took_s = asyncio.get_running_loop().time() - began_s
        self._load_seconds_max = max(RELOAD_SECONDS_MIN, RELOAD_TIMES_MAX * took_s)
        return ready

    async def until_ready(self) -> None:
        """Returns when a process could answer; never after ``close``."""
        await self._is_ready.wait()

    async def call(
        self, method: str, items: Sequence[Any], *, timeout_s: float
    ) -> tuple[list[Any], int]:
        """One answer per item, and the engine's own elapsed nanoseconds.

        ``timeout_s`` covers waiting for a restart, transport and the engine. Raises: CallFailed,
        CallTimeout, WorkerDied, WorkerUnready.
        """
        assert not self._is_calling, "one call at a time per worker"
        self._is_calling = True
        try:
            deadline = asyncio.get_running_loop().time() + timeout_s
            child = await self._ready_child(deadline)
            reply = await self._ask(child, Question(method, list(items)), deadline)
        finally:
            self._is_calling = False
        self._losses_in_a_row = 0
        if isinstance(reply, Failure):
            raise CallFailed(reply.message, is_memory=reply.is_memory)
        return reply.items, reply.elapsed_ns

    async def close(self) -> None:
        """Ends the process and all supervision. Idempotent."""
        self._is_closed = True
        self._is_ready.clear()
        self.ready = None
        if self._restarting:
            self._restarting.cancel()
            await asyncio.gather(self._restarting, return_exceptions=True)
        if self._child:
            await self._child.close()
            self._child = None
        self._report(WorkerState.CLOSED)

    async def _launch(self) -> WorkerReady:
        child = await _Child.spawn(self.spec.threads)
        self._child = child
        try:
            async with asyncio.timeout(self._load_seconds_max):
                reply = await child.exchange(self.spec)
        except TimeoutError:
            seconds = f"{self._load_seconds_max:.0f} s"
            reply = Unavailable(f"not loaded within {seconds}; is the disk or the device stuck?")
        except _ChildLost as error:
            reply = Unavailable(f"the process ended while loading ({error}); see the log above it")
        except asyncio.CancelledError:
            await child.kill()
            raise
        if not isinstance(reply, WorkerReady):
            await child.kill()
            self._child = None
            raise EngineUnavailable(_reason(reply))
        self.ready = reply
        self._is_ready.set()
        child.watch(lambda: self._lose(child))
        self._report(WorkerState.READY)
        return reply

    async def _ready_child(self, deadline: float) -> "_Child":
        if self._is_closed:
            raise WorkerUnready("the worker is closed")
        try:
            async with asyncio.timeout_at(deadline):
                await self._is_ready.wait()
        except TimeoutError:
            raise WorkerUnready(f"the {self.spec.name} worker is still restarting") from None
        assert self._child is not None
        return self._child

    async def _ask(self, child: "_Child", question: Question, deadline: float) -> Answer | Failure:
        try:
            async with asyncio.timeout_at(deadline):
                reply = await child.exchange(question)
        except FrameTooBig as error:
            return Failure(str(error), is_memory=True)
        except TimeoutError:
            await self._replace(child)
            raise CallTimeout(f"{self.spec.name}: no answer in time, process killed") from None
        except _ChildLost as error:
            is_killed = child.process.returncode == -signal.SIGKILL
            await self._replace(child)
            raise WorkerDied(f"{self.spec.name}: {error}", is_killed=is_killed) from None
        except asyncio.CancelledError:
            # The answer would come to whoever asks next.
            self._lose(child)
            raise
        if not isinstance(reply, Answer | Failure):
            await self._replace(child)
            raise WorkerDied(f"{self.spec.name}: {type(reply).__name__} is no answer")
        return reply

    async def _replace(self, child: "_Child") -> None:
        await child.kill()
        self._lose(child)

    def _lose(self, child: "_Child") -> None:
        """Starts the replacement of ``child``; nothing where that has begun already."""
        if child is not self._child or self._is_closed or not self._is_ready.is_set():
            return
        _log.warning("worker lost", engine=self.spec.name, pid=child.process.pid)
        self._is_ready.clear()
        self.ready = None
        self._report(WorkerState.RESTARTING)
        self._restarting = asyncio.create_task(self._restart(child))

    async def _restart(self, lost: "_Child") -> None:
        await lost.kill()
        while True:
            await asyncio.sleep(self._pause_seconds())
            self._losses_in_a_row += 1
            self.restarts += 1
            self._restarts_s.append(asyncio.get_running_loop().time())
            try:
                await self._launch()
            except (EngineUnavailable, OSError) as error:
                _log.warning("worker restart failed", engine=self.spec.name, reason=str(error))
            except Exception as error:  # noqa: BLE001  task boundary: it must come back all the same
                _log.error("worker restart met a bug", engine=self.spec.name, exc_info=error)
            else:
                return

    def _pause_seconds(self) -> float:
        now_s = asyncio.get_running_loop().time()
        return max(backoff_seconds(self._losses_in_a_row), crowded_seconds(self._restarts_s, now_s))

    def _report(self, state: WorkerState) -> None:
        if self._on_state:
            self._on_state(state)


def backoff_seconds(losses_in_a_row: int) -> float:
    """0 for the first loss after an answered call, then 1, 2, 4 … seconds."""
    if not losses_in_a_row:
        return 0.0
    return min(BACKOFF_SECONDS_MAX, 2.0 ** min(losses_in_a_row - 1, 10))


def crowded_seconds(restarts_s: Sequence[float], now_s: float) -> float:
    """How long to wait so that no minute has too many restarts; the last ones, oldest first."""
    if len(restarts_s) < RESTARTS_PER_MINUTE_MAX:
        return 0.0
    return max(0.0, restarts_s[0] + 60.0 - now_s)


class _ChildLost(Exception):
    """The process is gone or no longer makes sense."""


class _Child:
    """One operating-system process and the socket to it."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self.process = process
        self._reader = reader
        self._writer = writer
        self._logging = asyncio.create_task(_forward_output(process))
        self._exit = asyncio.create_task(process.wait())

    @classmethod
    async def spawn(cls, threads: int) -> "_Child":
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                process = await _spawn_process(theirs.fileno(), threads)
            reader, writer = await asyncio.open_connection(sock=ours)
        except BaseException:
            ours.close()  # on which a process that did start ends by itself
            raise
        return cls(process, reader, writer)

    async def exchange(self, message: object) -> Reply:
        """Sends one message, reads one reply. Raises: FrameTooBig (nothing sent), _ChildLost."""
        frame = pack(message)
        try:
            self._writer.writelines(frame)
            await self._writer.drain()
            length = body_bytes(await self._reader.readexactly(HEADER.size))
            reply: Reply = unpack(await self._reader.readexactly(length))
        except (asyncio.IncompleteReadError, ConnectionError):
            raise _ChildLost(await self._how_it_ended()) from None
        except (FrameTooBig, *UNREADABLE) as error:
            raise _ChildLost(f"unreadable reply ({error})") from None
        return reply

    def watch(self, on_exit: Callable[[], None]) -> None:
        """Calls back when the process ends, whatever the reason."""
        self._exit.add_done_callback(lambda _: on_exit())

    async def kill(self) -> None:
        """Returns when the process is gone. Idempotent."""
        if self.process.returncode is None:
            # It may end between the look and the signal.
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(signal.SIGKILL)
        await self._finish()

    async def close(self) -> None:
        """Closes the socket, on which a healthy child ends by itself; kills it otherwise."""
        self._writer.close()
        await asyncio.wait([self._exit], timeout=CLOSE_SECONDS_MAX)
        await self.kill()

    async def _finish(self) -> None:
        await asyncio.wait([self._exit])
        self._writer.close()
        # A grandchild may hold the output open for ever.
        await asyncio.wait([self._logging], timeout=CLOSE_SECONDS_MAX)
        self._logging.cancel()
        await asyncio.gather(self._writer.wait_closed(), self._logging, return_exceptions=True)

    async def _how_it_ended(self) -> str:
        status = await asyncio.shield(self._exit)
        if status >= 0:
            return f"exit status {status}"
        hint = " (out of memory?)" if status == -signal.SIGKILL else ""
        return f"killed by {signal.Signals(-status).name}{hint}"


async def _spawn_process(fd: int, threads: int) -> asyncio.subprocess.Process:
    # -P: a file in the working folder must never shadow a library.
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "server.worker_main", str(fd)),
        pass_fds=[fd],
        env=_environment(threads),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )


def _reason(reply: Reply) -> str:
    return reply.message if isinstance(reply, Unavailable) else f"{type(reply).__name__} too early"


def _environment(threads: int) -> dict[str, str]:
    """The server's own, with thread counts, and with our packages findable from any folder."""
    environment = dict(os.environ)
    environment.update(dict.fromkeys(_THREAD_VARIABLES, str(threads)))
    # Tokenizers would start threads of their own, and warn when the process forks.
    environment["TOKENIZERS_PARALLELISM"] = "false"
    # torch's threads would wait by spinning, and take the cores that the other workers need.
    environment.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    packages = str(Path(__file__).resolve().parent.parent)
    if packages not in sysconfig.get_paths().values():  # a source tree, not an installed wheel
        paths = [packages, *filter(None, [environment.get("PYTHONPATH")])]
        environment["PYTHONPATH"] = os.pathsep.join(paths)
    return environment


async def _forward_output(process: asyncio.subprocess.Process) -> None:
    """The child's own prints, one warning a line; engines print no transcript."""
    assert process.stdout is not None
    rest = b""
    while chunk := await process.stdout.read(LOG_LINE_BYTES_MAX):
        *lines, rest = (rest + chunk).splitlines(keepends=True)
        if rest.endswith(b"\n") or len(rest) > LOG_LINE_BYTES_MAX:
            lines, rest = [*lines, rest], b""
        for line in lines:
            _log_line(process.pid, line)
    _log_line(process.pid, rest)


def _log_line(pid: int, line: bytes) -> None:
    text = line[:LOG_LINE_BYTES_MAX].decode(errors="replace").rstrip()
    if text:
        _log.warning("worker output", pid=pid, line=text)
