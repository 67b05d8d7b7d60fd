"""The entry point of a worker process: one engine that answers one call at a time.

Started by ``server/workers.py`` with the number of an inherited socket. It ends when that socket
closes, also in the middle of a call, so no worker outlives its server. Thread counts of the
numeric libraries arrive in the environment, because they are read when numpy is imported.
"""

import contextlib
import ctypes
import os
import select
import signal
import socket
import sys
import threading
import time
import traceback
from typing import Any

from server.engines.errors import EngineUnavailable
from server.engines.parts import engine_parts_ns, spent_between
from server.engines.registry import METHODS, Engine, EngineSpec, build
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
from streaming.engines import ProfiledRecognizer
from streaming.events import SessionStage

ORPHAN_POLL_MS = 1_000
"""How soon a worker notices a parent that died without closing the socket."""
_PR_SET_PDEATHSIG = 1
"""From <linux/prctl.h>."""


class ParentGone(Exception):
    """The socket is closed: there is nobody to answer."""


def main() -> None:
    """Serves until the parent closes the socket."""
    # Ctrl-C reaches the whole process group; the parent drains first and ends us itself.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _die_with_parent()
    connection = socket.socket(fileno=int(sys.argv[1]))
    threading.Thread(target=_exit_with_parent, args=(connection,), daemon=True).start()
    with contextlib.suppress(ParentGone):
        _serve(connection)
    # Not by return: an exit that waits for a library's threads can hang.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _die_with_parent() -> None:
    """Asks Linux to kill us with our parent's thread.

    The watching thread below cannot run while an engine holds the interpreter lock, as
    pocketsphinx does for the whole of a call.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _exit_with_parent(connection: socket.socket) -> None:
    """Ends the process as soon as the parent is gone, even during a long engine call."""
    parent = os.getppid()
    hangup = select.poll()
    # No events asked for: hang-up is reported anyway, and pending data must not wake us.
    hangup.register(connection, 0)
    while not hangup.poll(ORPHAN_POLL_MS) and os.getppid() == parent:
        pass
    os._exit(0)


def _serve(connection: socket.socket) -> None:
    spec: EngineSpec = _read(connection)
    engine = _load(connection, spec)
    while engine is not None:
        # No question is named here: it would stay in memory until the next one comes.
        _write(connection, _answer(engine, spec.stage, _read(connection)))


def _load(connection: socket.socket, spec: EngineSpec) -> Engine | None:
    started_ns = time.monotonic_ns()
    try:
        engine = build(spec)
        engine.warm_up()
    except EngineUnavailable as error:
        _write(connection, Unavailable(str(error)))
        return None
    except Exception as error:  # noqa: BLE001 - the task boundary: whatever a model raises
        _log_traceback(error)
        _write(connection, Unavailable(f"{_describe(error)}; the server's log has the traceback"))
        return None
    _write(connection, _ready(engine, spec.stage, time.monotonic_ns() - started_ns))
    return engine


def _ready(engine: Any, stage: SessionStage, load_ns: int) -> WorkerReady:
    return WorkerReady(
        engine.description,
        profile=engine.profile if stage is SessionStage.DIARIZATION else None,
        load_seconds=load_ns / 1e9,
        languages=engine.languages if stage is SessionStage.RECOGNITION else None,
        recognizer_profile=engine.profile if isinstance(engine, ProfiledRecognizer) else None,
    )


def _answer(engine: Engine, stage: SessionStage, question: Question) -> Reply:
    try:
        if question.method not in METHODS[stage]:
            raise ValueError(f"a {stage.value} engine has no method {question.method}")
        method = getattr(engine, question.method)
        before = engine_parts_ns(engine)
        started_ns = time.monotonic_ns()
        items = list(method(question.items))
        elapsed_ns = time.monotonic_ns() - started_ns
        if len(items) != len(question.items):
            raise ValueError(f"{len(items)} answers to {len(question.items)} questions")
        return Answer(items, elapsed_ns, spent_between(before, engine_parts_ns(engine)))
    except Exception as error:  # noqa: BLE001 - the task boundary: whatever a model raises
        _log_traceback(error)
        return Failure(_describe(error), _is_memory(error))


def _describe(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _is_memory(error: BaseException) -> bool:
    """MemoryError, torch.OutOfMemoryError (by name: torch may not be loaded), or torch's CPU
    allocator, which raises a plain RuntimeError."""
    names = {cls.__name__ for cls in type(error).__mro__}
    return bool(names & {"MemoryError", "OutOfMemoryError"}) or "can't allocate memory" in str(
        error
    )


def _log_traceback(error: BaseException) -> None:
    """Where it happened, without the exception's text, which may quote what was said."""
    where = "".join(traceback.format_tb(error.__traceback__))
    sys.stderr.write(f"{type(error).__name__} in the engine\n{where}")
    sys.stderr.flush()


def _read(connection: socket.socket) -> Any:
    header = _read_exactly(connection, HEADER.size)
    return unpack(_read_exactly(connection, body_bytes(header)))


def _read_exactly(connection: socket.socket, length: int) -> bytearray:
    body = bytearray(length)
    view = memoryview(body)
    while view:
        try:
            received = connection.recv_into(view)
        except ConnectionResetError:
            raise ParentGone from None
        if not received:
            raise ParentGone
        view = view[received:]
    return body


def _write(connection: socket.socket, reply: Reply) -> None:
    try:
        frame = pack(reply)
    except FrameTooBig as error:
        frame = pack(Failure(_describe(error), is_memory=True))
    try:
        connection.sendall(b"".join(frame))
    except (BrokenPipeError, ConnectionResetError):
        raise ParentGone from None


if __name__ == "__main__":
    main()
