"""What the front process and a worker process say to each other, and how it is framed.

Each message is a pickle (protocol 5) behind its length. Pickle is safe here, and only here: the
bytes run between this program and its own child over a private socket pair that nothing else can
open, and nothing from a client reaches the pickle layer but as the value of a field.
"""

import pickle
import struct
from dataclasses import dataclass
from typing import Any

from streaming.engines import DiarizerProfile

FRAME_BYTES_MAX = 256 * 1024 * 1024
"""A batch of 100 windows of 30 s is 96 MB; a length above this is a broken stream, not a batch."""
HEADER = struct.Struct(">Q")


@dataclass(frozen=True, slots=True)
class WorkerReady:
    """The engine is loaded and warm."""

    description: str
    profile: DiarizerProfile | None
    """None for an engine that is no diarizer."""
    load_seconds: float
    languages: tuple[str, ...] | None = None
    """What a recognizer can be asked for; None where it has no list."""


@dataclass(frozen=True, slots=True)
class Unavailable:
    """The engine cannot be loaded."""

    message: str


@dataclass(frozen=True, slots=True)
class Question:
    """One call of one method on a batch."""

    method: str
    items: list[Any]


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer per item, in order."""

    items: list[Any]
    elapsed_ns: int
    """The engine's own time, without queueing and transport."""


@dataclass(frozen=True, slots=True)
class Failure:
    """The engine raised; it lives on."""

    message: str
    """Type and text of the exception."""
    is_memory: bool
    """The batch was too big for the machine: a smaller one may succeed."""


Reply = WorkerReady | Unavailable | Answer | Failure


class FrameTooBig(Exception):
    """A message is above ``FRAME_BYTES_MAX``."""


def pack(message: object) -> bytes:
    """A whole frame. Raises: FrameTooBig."""
    body = pickle.dumps(message, protocol=5)
    if len(body) > FRAME_BYTES_MAX:
        raise FrameTooBig(f"{len(body)} bytes in one message, {FRAME_BYTES_MAX} allowed")
    return HEADER.pack(len(body)) + body


def body_bytes(header: bytes) -> int:
    """The length that a frame's header announces. Raises: FrameTooBig."""
    (length,) = HEADER.unpack(header)
    if length > FRAME_BYTES_MAX:
        raise FrameTooBig(f"{length} bytes announced, {FRAME_BYTES_MAX} allowed")
    return int(length)


def unpack(body: bytes) -> Any:
    return pickle.loads(body)
