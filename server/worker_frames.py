"""What the front process and a worker process say to each other, and how it is framed.

Each message is a pickle (protocol 5) behind its length. Pickle is safe here, and only here: the
bytes run between this program and its own child over a private socket pair that nothing else can
open, and nothing from a client reaches the pickle layer but as the value of a field.

The front process packs every packet's samples and unpacks every answer, so three things are done
to make that cheap: large arrays of a question travel beside the pickle, never copied in memory;
voice activity, which is asked about every packet, travels as one array per call; and our own data
types are pickled by their fields in order (a frozen dataclass with slots costs four times as much).
"""

import io
import pickle
import struct
from collections.abc import Callable
from dataclasses import dataclass, fields
from operator import attrgetter
from typing import Any

import numpy as np

from streaming.engines import (
    Activity,
    ActivityWindow,
    ClusterQuestion,
    Clusters,
    DiarizerProfile,
    Hypothesis,
    Observation,
    RecognizerProfile,
    SpeakerChunk,
    SpeechWindow,
    Word,
)
from streaming.timeline import Span

FRAME_BYTES_MAX = 256 * 1024 * 1024
"""A batch of 100 windows of 30 s is 96 MB; a length above this is a broken stream, not a batch."""
BESIDE_BYTES_MIN = 4_096
"""Smaller arrays are cheaper to copy into the pickle than to send apart."""
ALIGNMENT_BYTES = 64
"""Of arrays in a frame: what vector instructions want."""
HEADER = struct.Struct(">Q")
_COUNT = struct.Struct(">Q")

Segment = bytes | memoryview


@dataclass(frozen=True, slots=True)
class WorkerReady:
    """The engine is loaded and warm."""

    description: str
    profile: DiarizerProfile | None
    """None for an engine that is no diarizer."""
    load_seconds: float
    languages: tuple[str, ...] | None = None
    """What a recognizer can be asked for; None where it has no list."""
    recognizer_profile: RecognizerProfile | None = None
    """What a recognizer's windows cost; None where that is their own length."""


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
    parts_ns: tuple[tuple[str, int], ...] = ()
    """Where an engine tells: what it spent that time on, in order."""


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


@dataclass(frozen=True, slots=True)
class _Joined:
    """Voice activity's questions or answers of one call: their arrays end to end."""

    kind: type[ActivityWindow] | type[Activity]
    dtype: str
    data: bytes
    sizes: list[int]
    states: list[Any]


_ARRAYS = (
    (ActivityWindow, np.dtype(np.int16), attrgetter("samples")),
    (Activity, np.dtype(np.float32), attrgetter("probabilities")),
)


def _by_fields(kind: type) -> "_Reducer":
    values_of = attrgetter(*(field.name for field in fields(kind)))
    is_single = len(fields(kind)) == 1
    return lambda item: (kind, (values_of(item),) if is_single else values_of(item))


_Reducer = Callable[[Any], tuple[Callable[..., Any], tuple[Any, ...]]]
_REDUCED: dict[type, _Reducer] = {
    kind: _by_fields(kind)
    for kind in (
        *(Answer, Question, Failure, _Joined, Span, Word),
        *(ActivityWindow, Activity, SpeechWindow, Hypothesis),
        *(SpeakerChunk, Observation, ClusterQuestion, Clusters),
    )
}


def pack(message: object) -> list[Segment]:
    """A whole frame, in segments to be sent one after the other. Raises: FrameTooBig."""
    beside: list[memoryview] = []
    pickled = _pickled(message, beside if isinstance(message, Question) else None)
    table = struct.pack(f">{2 + len(beside)}Q", len(beside), len(pickled), *map(len, beside))
    segments = [*_padded(table), *_padded(pickled)]
    for array in beside:
        segments += _padded(array)
    length = sum(map(len, segments))
    if length > FRAME_BYTES_MAX:
        raise FrameTooBig(f"{length} bytes in one message, {FRAME_BYTES_MAX} allowed")
    return [HEADER.pack(length), *segments]


def _pickled(message: object, beside: list[memoryview] | None) -> memoryview:
    """``beside`` takes the large arrays; None leaves all of them inside.

    Answers keep theirs: one that is kept for long would keep its whole frame in memory.
    """

    def is_small(buffer: pickle.PickleBuffer) -> bool:
        raw = buffer.raw()
        if beside is None or len(raw) < BESIDE_BYTES_MIN:
            return True
        beside.append(raw)
        return False

    if isinstance(message, Question):
        message = Question(message.method, _joined(message.items))
    elif isinstance(message, Answer):
        message = Answer(_joined(message.items), message.elapsed_ns, message.parts_ns)
    body = io.BytesIO()
    pickler = pickle.Pickler(body, protocol=5, buffer_callback=is_small)
    pickler.dispatch_table = _REDUCED
    pickler.dump(message)
    return body.getbuffer()


def _joined(items: list[Any]) -> list[Any]:
    """Voice activity's items as one; others, and those of an unusual kind, as they are."""
    for kind, dtype, array_of in _ARRAYS:
        if items and all(type(item) is kind for item in items):
            arrays = [array_of(item) for item in items]
            if all(array.dtype == dtype and array.ndim == 1 for array in arrays):
                data = b"".join([np.ascontiguousarray(array).data for array in arrays])
                states = [item.state for item in items]
                return [_Joined(kind, dtype.str, data, list(map(len, arrays)), states)]
    return items


def _parted(items: list[Any]) -> list[Any]:
    if len(items) != 1 or not isinstance(items[0], _Joined):
        return items
    joined, end = items[0], 0
    data = np.frombuffer(joined.data, joined.dtype)
    parted = []
    for size, state in zip(joined.sizes, joined.states, strict=True):
        start, end = end, end + size
        parted.append(joined.kind(data[start:end], state))
    return parted


def _padded(segment: Segment) -> list[Segment]:
    padding = -len(segment) % ALIGNMENT_BYTES
    return [segment, bytes(padding)] if padding else [segment]


def body_bytes(header: bytes | bytearray | memoryview) -> int:
    """The length that a frame's header announces. Raises: FrameTooBig."""
    (length,) = HEADER.unpack(header)
    if length > FRAME_BYTES_MAX:
        raise FrameTooBig(f"{length} bytes announced, {FRAME_BYTES_MAX} allowed")
    return int(length)


def unpack(body: bytes | bytearray) -> Any:
    """The message of a frame's body; large arrays are views of it."""
    (count,) = _COUNT.unpack_from(body)
    sizes = struct.unpack_from(f">{1 + count}Q", body, _COUNT.size)
    view, end = memoryview(body), _aligned((2 + count) * _COUNT.size)
    parts = []
    for size in sizes:
        parts.append(view[end : end + size])
        end += _aligned(size)
    message = pickle.loads(parts[0], buffers=parts[1:])
    if isinstance(message, Question):
        return Question(message.method, _parted(message.items))
    if isinstance(message, Answer):
        return Answer(_parted(message.items), message.elapsed_ns, message.parts_ns)
    return message


def _aligned(size: int) -> int:
    return size + -size % ALIGNMENT_BYTES
