"""What crosses to a worker process comes out as it went in, whatever its size."""

from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.engines.registry import EngineSpec
from server.worker_frames import (
    ALIGNMENT_BYTES,
    BESIDE_BYTES_MIN,
    FRAME_BYTES_MAX,
    HEADER,
    Answer,
    Failure,
    FrameTooBig,
    Question,
    Unavailable,
    WorkerReady,
    body_bytes,
    pack,
    unpack,
)
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
from streaming.events import SessionStage
from streaming.timeline import Span


def crossed(message: object) -> Any:
    """As the other process gets it."""
    frame = b"".join(pack(message))
    body = bytearray(frame[HEADER.size :])
    assert body_bytes(frame[: HEADER.size]) == len(body)
    return unpack(body)


def is_same(one: Any, other: Any) -> bool:
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and bool(np.array_equal(one, other))
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(is_same, one, other))
    if is_dataclass(one):
        names = [field.name for field in fields(one)]
        return type(one) is type(other) and all(
            is_same(getattr(one, name), getattr(other, name)) for name in names
        )
    return bool(one == other) and type(one) is type(other)


def noise(size: int, seed: int = 0) -> np.ndarray[Any, np.dtype[np.int16]]:
    return np.random.default_rng(seed).integers(-9, 9, size).astype(np.int16)


EMBEDDINGS = np.eye(3, 256, dtype=np.float32)
MESSAGES = [
    WorkerReady("x", DiarizerProfile(3, 2, 1), 0.5, ("en",), RecognizerProfile((1, 2), 3)),
    Unavailable("no such model"),
    Failure("boom", is_memory=True),
    EngineSpec(SessionStage.RECOGNITION, "scripted", options={"latency_ms": 3}),
    Question("recognize", []),
    Question("recognize", [SpeechWindow(noise(9), "en", keywords=("a", "b"), draft=(1, 2))]),
    Question("recognize", [SpeechWindow(noise(16_000 * s, s), seed=s) for s in (1, 30, 7)]),
    Question("observe", [SpeakerChunk(noise(32_000)), SpeakerChunk(noise(3))]),
    Question("cluster", [ClusterQuestion(np.tile(EMBEDDINGS, (9, 1)), EMBEDDINGS[0], 1, 2)]),
    Question("detect", [ActivityWindow(noise(5), None), ActivityWindow(noise(0), b"state")]),
    Question("detect", [ActivityWindow(noise(5), None), SpeakerChunk(noise(3))]),
    Question("detect", [ActivityWindow(noise(5).astype(np.float32), None)]),
    Answer([Activity(np.ones(3, np.float32), b"a"), Activity(np.zeros(0, np.float32), b"")], 7),
    Answer([Activity(np.ones(3), b"a")], 7),  # type: ignore[arg-type]
    Answer([Hypothesis((Word("hi", Span(1, 9), 0.5), Word("you", Span(9, 10))), "en", 0.9)], 7),
    Answer([Observation(np.ones((4, 2), np.float32), EMBEDDINGS)], 7),
    Answer([Clusters(np.arange(9))], 7),
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_messages_cross_unchanged(message: object) -> None:
    assert is_same(message, crossed(message))


@given(sizes=st.lists(st.integers(0, 3 * BESIDE_BYTES_MIN), max_size=6))
def test_windows_of_any_sizes_cross_unchanged(sizes: Sequence[int]) -> None:
    windows = [SpeechWindow(noise(size, i)) for i, size in enumerate(sizes)]
    chunks = [ActivityWindow(noise(size, i), bytes([i])) for i, size in enumerate(sizes)]
    for items in (windows, chunks):
        assert is_same(Question("ask", items), crossed(Question("ask", items)))


def test_a_large_window_is_sent_from_where_it_lies_and_is_aligned_on_arrival() -> None:
    samples = noise(16_000)
    frame = pack(Question("recognize", [SpeechWindow(samples)]))
    beside = [segment for segment in frame if isinstance(segment, memoryview)]
    assert any(np.shares_memory(samples, np.frombuffer(part, np.uint8)) for part in beside)
    body = bytearray(b"".join(frame)[HEADER.size :])
    arrived = unpack(body).items[0].samples
    start = np.frombuffer(body, np.uint8).ctypes.data
    assert np.shares_memory(arrived, np.frombuffer(body, np.uint8))
    assert (arrived.ctypes.data - start) % ALIGNMENT_BYTES == 0


def test_an_array_of_an_answer_holds_no_frame_in_memory() -> None:
    body = bytearray(b"".join(pack(Answer([Clusters(np.arange(9_000))], 7)))[HEADER.size :])
    labels = unpack(body).items[0].labels
    assert not np.shares_memory(labels, np.frombuffer(body, np.uint8))


def test_what_is_too_big_is_neither_sent_nor_awaited() -> None:
    half = np.zeros(FRAME_BYTES_MAX // 2, np.int16)
    with pytest.raises(FrameTooBig, match="allowed"):
        pack(Question("recognize", [SpeechWindow(half)]))
    with pytest.raises(FrameTooBig, match="announced"):
        body_bytes(HEADER.pack(FRAME_BYTES_MAX + 1))
