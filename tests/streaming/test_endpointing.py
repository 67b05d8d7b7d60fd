"""Endpointer: hysteresis, hangover, pre-roll, tail, and that no sample is told twice."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streaming import endpointing
from streaming.endpointing import Endpointer, EndpointingOptions, Offset, Onset
from streaming.timeline import Span

FRAME = 512
OPTIONS = EndpointingOptions()
"""96 ms are 3 frames, 600 ms 19, 320 ms 10, 256 ms 8, 160 ms 5."""
PROBABILITIES = st.lists(
    st.tuples(st.sampled_from([0.0, 0.1, 0.4, 0.9]), st.integers(1, 30)), max_size=15
).map(lambda runs: np.repeat([p for p, _ in runs], [n for _, n in runs]).astype(np.float32))


def frames(*runs: tuple[float, int]) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    return np.repeat([p for p, _ in runs], [n for _, n in runs]).astype(np.float32)


def test_an_utterance_from_pre_roll_to_tail() -> None:
    endpointer = Endpointer(OPTIONS)
    assert endpointer.receive(frames((0.1, 20), (0.9, 2))) == []
    assert endpointer.open_start is None
    assert endpointer.last_speech_end is None
    assert endpointer.open_speech == ()
    assert endpointer.receive(frames((0.9, 1))) == [Onset(10 * FRAME, 20 * FRAME)]
    assert endpointer.open_start == 10 * FRAME
    assert endpointer.receive(frames((0.9, 10), (0.1, 18))) == []
    assert endpointer.last_speech_end == 33 * FRAME
    assert endpointer.open_speech == (Span(20 * FRAME, 33 * FRAME),)
    speech = Span(20 * FRAME, 33 * FRAME)
    ended = Offset(Span(10 * FRAME, 41 * FRAME), 33 * FRAME, (speech,))
    assert endpointer.receive(frames((0.1, 1))) == [ended]
    assert endpointer.open_start is None
    assert endpointer.judged == 52 * FRAME


def test_the_pre_roll_never_reaches_into_what_was_before() -> None:
    endpointer = Endpointer(OPTIONS, start=4 * FRAME)
    first = endpointer.receive(frames((0.1, 1), (0.9, 3)))
    assert first == [Onset(4 * FRAME, 5 * FRAME)]
    ended, began = endpointer.receive(frames((0.1, 19), (0.9, 3)))
    assert isinstance(ended, Offset)
    assert ended.span.end == 16 * FRAME
    assert began == Onset(17 * FRAME, 27 * FRAME)


def test_a_click_is_no_utterance() -> None:
    endpointer = Endpointer(OPTIONS)
    assert endpointer.receive(frames((0.9, 2), (0.1, 1), (0.9, 2), (0.1, 40))) == []
    assert endpointer.close(45 * FRAME) == []


def test_between_the_thresholds_a_frame_keeps_the_state_it_finds() -> None:
    endpointer = Endpointer(OPTIONS)
    assert endpointer.receive(frames((0.4, 30))) == []
    (onset,) = endpointer.receive(frames((0.9, 1), (0.4, 5), (0.9, 2), (0.4, 30)))
    assert onset == Onset(20 * FRAME, 30 * FRAME)
    assert endpointer.last_speech_end == 68 * FRAME
    (ended,) = endpointer.receive(frames((0.1, 1), (0.4, 18)))
    assert ended.at == 68 * FRAME


def test_an_onset_that_stays_undecided_is_given_up() -> None:
    endpointer = Endpointer(OPTIONS)
    assert endpointer.receive(frames((0.9, 1), (0.4, 200))) == []
    assert endpointer.settled == 191 * FRAME
    assert endpointer.close(201 * FRAME) == []


def test_pauses_split_the_speech_but_not_the_utterance() -> None:
    endpointer = Endpointer(OPTIONS)
    endpointer.receive(frames((0.9, 5), (0.1, 4), (0.9, 5), (0.1, 5), (0.9, 5)))
    (ended,) = endpointer.close(24 * FRAME)
    assert isinstance(ended, Offset)
    assert ended.speech == (Span(0, 14 * FRAME), Span(19 * FRAME, 24 * FRAME))


def test_the_speech_spans_of_an_endless_utterance_are_bounded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(endpointing, "SPEECH_SPANS_MAX", 3)
    endpointer = Endpointer(OPTIONS)
    for _ in range(9):
        endpointer.receive(frames((0.9, 5), (0.1, 6)))
    starts = [span.start for span in endpointer.open_speech]
    assert starts == [0, 11 * FRAME, 22 * FRAME]
    assert endpointer.last_speech_end == 93 * FRAME


def test_closing_takes_the_unjudged_rest_into_the_open_utterance() -> None:
    endpointer = Endpointer(OPTIONS)
    endpointer.receive(frames((0.9, 4)))
    (ended,) = endpointer.close(4 * FRAME + 100)
    assert ended == Offset(Span(0, 4 * FRAME + 100), 4 * FRAME, (Span(0, 4 * FRAME),))
    assert endpointer.close(4 * FRAME + 100) == []


def test_closing_before_the_end_of_a_padded_frame_cuts_it() -> None:
    endpointer = Endpointer(OPTIONS)
    endpointer.receive(frames((0.9, 4)))
    (ended,) = endpointer.close(3 * FRAME + 100)
    end = 3 * FRAME + 100
    assert ended == Offset(Span(0, end), end, (Span(0, end),))


def test_closing_before_all_speech_still_leaves_some() -> None:
    endpointer = Endpointer(OPTIONS)
    endpointer.receive(frames((0.1, 10), (0.9, 4)))
    (ended,) = endpointer.close(0)
    assert isinstance(ended, Offset)
    assert ended.speech == (Span(10 * FRAME, 10 * FRAME + 1),)


def test_a_pending_onset_counts_as_speech_at_the_end() -> None:
    endpointer = Endpointer(OPTIONS)
    endpointer.receive(frames((0.1, 1), (0.9, 1)))
    onset, ended = endpointer.close(2 * FRAME)
    assert onset == Onset(0, FRAME)
    assert ended == Offset(Span(0, 2 * FRAME), 2 * FRAME, (Span(FRAME, 2 * FRAME),))


def test_frames_after_a_close_begin_a_new_utterance() -> None:
    endpointer = Endpointer(OPTIONS)
    endpointer.receive(frames((0.9, 4)))
    endpointer.close(4 * FRAME + 700)
    (onset,) = endpointer.receive(frames((0.9, 5)))
    assert onset == Onset(4 * FRAME + 700, 4 * FRAME + 700)


def test_an_utterance_never_ends_inside_the_frame_that_ends_it() -> None:
    endpointer = Endpointer(EndpointingOptions(tail_ms=600))
    _, ended = endpointer.receive(frames((0.9, 3), (0.1, 19)))
    assert isinstance(ended, Offset)
    assert ended.span.end == 21 * FRAME
    endpointer.skip_to(21 * FRAME + 1)


def test_the_clock_jumps_over_a_hole() -> None:
    endpointer = Endpointer(OPTIONS)
    endpointer.receive(frames((0.1, 20)))
    endpointer.skip_to(100_000)
    assert endpointer.receive(frames((0.9, 3))) == [Onset(100_000, 100_000)]
    assert endpointer.judged == 100_000 + 3 * FRAME
    with pytest.raises(ValueError, match="close the open utterance"):
        endpointer.skip_to(200_000)
    endpointer.close(100_000 + 3 * FRAME)
    with pytest.raises(ValueError, match="cannot be judged again"):
        endpointer.skip_to(100_000)


@given(PROBABILITIES, st.lists(st.integers(0, 300), max_size=8))
def test_events_do_not_depend_on_how_frames_were_split(
    probabilities: np.ndarray[tuple[int], np.dtype[np.float32]], cuts: list[int]
) -> None:
    whole = Endpointer(OPTIONS)
    parts = Endpointer(OPTIONS)
    expected = whole.receive(probabilities)
    split = np.split(probabilities, sorted(min(cut, probabilities.size) for cut in cuts))
    assert [event for part in split for event in parts.receive(part)] == expected
    assert parts.settled == whole.settled
    assert parts.open_speech == whole.open_speech


@given(
    st.lists(st.tuples(PROBABILITIES, st.sampled_from(["go on", "close", "jump"])), max_size=5),
    st.sampled_from(
        [
            OPTIONS,
            EndpointingOptions(hangover_ms=0, tail_ms=0, pre_roll_ms=0, speech_ms_min=0),
            EndpointingOptions(hangover_ms=1000, tail_ms=1000, pre_roll_ms=2000),
        ]
    ),
    st.integers(0, 600),
)
def test_utterances_are_apart_and_nothing_settled_comes_back(
    stretches: list[tuple[np.ndarray[tuple[int], np.dtype[np.float32]], str]],
    options: EndpointingOptions,
    rest: int,
) -> None:
    endpointer = Endpointer(options)
    settled = 0
    events: list[Onset | Offset] = []
    for probabilities, then in stretches:
        for probability in probabilities:
            new = endpointer.receive(np.array([probability], np.float32))
            assert all(e.start >= settled for e in new if isinstance(e, Onset))
            assert endpointer.settled >= settled
            settled = endpointer.settled
            events += new
        if then != "go on":
            events += endpointer.close(endpointer.judged + rest)
            assert endpointer.settled >= settled
        if then == "jump":
            endpointer.skip_to(endpointer.judged + rest + 1_000)
        settled = endpointer.settled
    events += endpointer.close(endpointer.judged)
    assert all(
        isinstance(a, Onset) and isinstance(b, Offset) and a.start == b.span.start
        for a, b in zip(events[::2], events[1::2], strict=True)
    )
    utterances = [event for event in events if isinstance(event, Offset)]
    assert all(a.span.end <= b.span.start for a, b in pairwise(utterances))
    for utterance in utterances:
        assert utterance.speech
        assert all(part.samples for part in utterance.speech)
        assert all(a.end < b.start for a, b in pairwise(utterance.speech))
        assert utterance.span.start <= utterance.speech[0].start
        assert utterance.speech[-1].end == utterance.at <= utterance.span.end


@pytest.mark.parametrize(
    "options",
    [
        {"threshold_off": 0.6},
        {"threshold_off": 0.0},
        {"threshold_on": 1.1},
        {"tail_ms": 700},
        {"tail_ms": -1},
        {"pre_roll_ms": -1},
        {"speech_ms_min": -1},
    ],
)
def test_options_that_contradict_themselves_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"threshold|tail_ms|negative"):
        EndpointingOptions(**options)  # type: ignore[arg-type]
