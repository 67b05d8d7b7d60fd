"""Listener: every sample judged once, in order, and accounted for."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streaming.buffer import BufferFull
from streaming.endpointing import EndpointingOptions, Offset, Onset
from streaming.engines import ACTIVITY_FRAME_SAMPLES, Activity, ActivityWindow, Samples
from streaming.listening import FRAMES_MAX, FRAMES_MIN, Listener, SpeechEdge
from streaming.timeline import Span

FRAME = ACTIVITY_FRAME_SAMPLES


def listener(buffer_samples: int = 10**7) -> Listener:
    return Listener(buffer_samples, EndpointingOptions())


def audio(frames: float, level: int = 0) -> Samples:
    return np.full(round(frames * FRAME), level, np.int16)


def hear(window: ActivityWindow) -> Activity:
    """Loud is speech; the state counts the frames since it began."""
    frames = window.samples.reshape(-1, FRAME)
    count = int.from_bytes(window.state or b"", "big") + len(frames)
    return Activity(frames.max(axis=1).astype(np.float32) / 1_000, count.to_bytes(4, "big"))


def settle(ear: Listener) -> list[SpeechEdge]:
    edges = ear.take_edges()
    while (window := ear.take_window()) is not None:
        edges += ear.receive_activity(hear(window))
    return edges


def test_frames_wait_until_a_call_is_worth_it() -> None:
    ear = listener()
    ear.receive(audio(FRAMES_MIN - 0.1))
    assert ear.take_window() is None
    ear.receive(audio(0.1))
    window = ear.take_window()
    assert window is not None
    assert (len(window.samples), window.state) == (FRAMES_MIN * FRAME, None)
    assert ear.take_window() is None, "one question at a time"


def test_a_long_packet_is_judged_in_bounded_calls() -> None:
    ear = listener()
    ear.receive(audio(FRAMES_MAX + 5))
    window = ear.take_window()
    assert window is not None
    assert len(window.samples) == FRAMES_MAX * FRAME
    ear.receive_activity(hear(window))
    following = ear.take_window()
    assert following is not None
    assert following.state == FRAMES_MAX.to_bytes(4, "big")


def test_speech_becomes_an_utterance_with_pre_roll_and_tail() -> None:
    ear = listener()
    ear.receive(np.concatenate([audio(20), audio(10, 1_000), audio(30)]))
    onset, offset = settle(ear)
    assert isinstance(onset, Onset)
    assert isinstance(offset, Offset)
    assert (onset.start, onset.at) == (10 * FRAME, 20 * FRAME)
    assert (offset.span.end, offset.at) == (38 * FRAME, 30 * FRAME)
    assert ear.silent_samples == 10 * FRAME
    assert ear.is_idle
    assert ear.settled == 60 * FRAME - 5_120


def test_an_open_utterance_will_not_end_before_its_last_speech() -> None:
    ear = listener()
    assert ear.speech_end == 0
    assert ear.open_speech is None
    ear.receive(np.concatenate([audio(10, 1_000), audio(4)]))
    assert len(settle(ear)) == 1
    assert (ear.open_start, ear.speech_end, ear.judged) == (0, 10 * FRAME, 14 * FRAME)
    assert ear.open_speech == Span(0, 10 * FRAME)
    assert not ear.is_idle
    ear.end_here()
    settle(ear)
    assert (ear.speech_end, ear.open_start) == (0, None)


def test_an_end_inside_a_frame_is_judged_with_padding_and_cut_exactly() -> None:
    ear = listener()
    ear.receive(audio(5.5, 1_000))
    ear.end_here()
    assert not ear.is_idle
    edges = settle(ear)
    assert isinstance(edges[-1], Offset)
    assert edges[-1].span.end == edges[-1].at == round(5.5 * FRAME)
    assert ear.is_idle


def test_few_frames_before_an_end_are_not_waited_with() -> None:
    ear = listener()
    ear.receive(audio(2, 1_000))
    ear.end_here()
    onset, offset = settle(ear)
    assert isinstance(onset, Onset), "what is undecided at an end counts as speech"
    assert isinstance(offset, Offset)
    assert offset.span.end == 2 * FRAME


def test_after_an_end_the_model_starts_anew_and_so_does_the_frame_grid() -> None:
    ear = listener()
    ear.receive(audio(3.5))
    ear.end_here()
    settle(ear)
    ear.receive(audio(3))
    window = ear.take_window()
    assert window is not None
    assert (ear.judged, window.state) == (round(3.5 * FRAME), None)


def test_skipped_time_is_silence_and_ends_what_was_open() -> None:
    ear = listener(buffer_samples=100 * FRAME)
    ear.receive(audio(10, 1_000))
    ear.skip(10**9)
    ear.receive(audio(10, 1_000))
    ear.end_here()
    edges = settle(ear)
    spans = [edge.span for edge in edges if isinstance(edge, Offset)]
    assert [(span.start, span.end) for span in spans] == [
        (0, 10 * FRAME),
        (10 * FRAME + 10**9, 20 * FRAME + 10**9),
    ]
    assert ear.silent_samples == 10**9


def test_ends_at_one_sample_are_one_end() -> None:
    ear = listener()
    ear.receive(audio(10, 1_000))
    ear.end_here()
    ear.skip(100)
    ear.end_here()
    ear.skip(50)
    edges = settle(ear)
    assert [type(edge) for edge in edges] == [Onset, Offset]
    assert ear.judged == 10 * FRAME + 150
    assert ear.silent_samples == 150


def test_an_end_waits_for_the_answer_that_is_under_way() -> None:
    ear = listener()
    ear.receive(audio(3, 1_000))
    window = ear.take_window()
    assert window is not None
    ear.end_here()
    assert ear.take_edges() == []
    assert [type(edge) for edge in ear.receive_activity(hear(window))] == [Onset, Offset]


@pytest.mark.parametrize(
    "answer",
    [
        None,
        Activity(np.zeros(2, np.float32), b""),
        Activity(np.zeros((3, 1), np.float32), b""),
        Activity(np.full(3, np.nan, np.float32), b""),
        Activity(np.full(3, -np.inf, np.float32), b""),
    ],
    ids=["none", "short", "two-dimensional", "nan", "infinity"],
)
def test_audio_that_nobody_judged_counts_as_speech(answer: Activity | None) -> None:
    ear = listener()
    ear.receive(audio(3))
    assert ear.take_window() is not None
    (onset,) = ear.receive_activity(answer)
    assert isinstance(onset, Onset)


def test_audio_beyond_the_buffer_is_refused() -> None:
    with pytest.raises(BufferFull):
        listener(buffer_samples=10).receive(audio(1))


STEP = st.one_of(
    st.tuples(st.just("audio"), st.integers(1, 3_000), st.sampled_from([0, 0, 400, 1_000])),
    st.tuples(st.just("skip"), st.integers(0, 5_000), st.just(0)),
    st.tuples(st.just("settle"), st.just(0), st.just(0)),
    st.tuples(st.just("fail"), st.just(0), st.just(0)),
)


@given(steps=st.lists(STEP, max_size=60))
def test_silence_and_utterances_add_up_to_what_was_received(
    steps: list[tuple[str, int, int]],
) -> None:
    ear = listener()
    edges: list[SpeechEdge] = []
    for kind, samples, level in steps:
        if kind == "audio":
            ear.receive(np.full(samples, level, np.int16))
        elif kind == "skip":
            ear.skip(samples)
        elif kind == "settle":
            edges += settle(ear)
        elif ear.take_window() is not None:
            edges += ear.receive_activity(None)
    ear.end_here()
    edges += settle(ear)
    spans = [edge.span for edge in edges if isinstance(edge, Offset)]
    assert ear.silent_samples + sum(span.samples for span in spans) == ear.buffer.end
    assert all(a.end <= b.start for a, b in pairwise(spans))
    assert [type(edge) for edge in edges] == [Onset, Offset] * len(spans)
    assert ear.is_idle
    assert ear.judged == ear.buffer.end


PARTS = st.lists(
    st.tuples(st.integers(1, 12_000), st.sampled_from([0, 400, 1_000])), min_size=1, max_size=8
)


@given(parts=PARTS, cuts=st.lists(st.integers(1, 30_000), max_size=12))
def test_the_split_of_the_audio_changes_no_edge(
    parts: list[tuple[int, int]], cuts: list[int]
) -> None:
    samples = np.concatenate([np.full(n, level, np.int16) for n, level in parts])

    def edges_of(splits: list[int]) -> list[SpeechEdge]:
        ear = listener()
        edges = []
        for part in np.split(samples, sorted(splits)):
            ear.receive(part)
            edges += settle(ear)
        ear.end_here()
        return edges + settle(ear)

    assert edges_of(cuts) == edges_of([])
