"""Chunks on a grid vote on frames; frames become turns."""

import numpy as np
import pytest

from streaming.engines import FrameGrid
from streaming.stitching import GridChunk, first_frame, frames_of, joined, runs_of, stitch
from streaming.timeline import SAMPLE_RATE_HZ, Span

GRID = FrameGrid(
    chunk_seconds=1.0,
    hop_seconds=0.5,
    frame_seconds=0.1,
    frame_hop_seconds=0.1,
    pause_seconds_max=0.0,
)
PAUSING = FrameGrid(1.0, 0.5, 0.1, 0.1, pause_seconds_max=0.3)
FRAME = SAMPLE_RATE_HZ // 10


def chunk(number: int, *speakers: tuple[int, str]) -> GridChunk:
    """Each speaker: a column, and a letter per frame, ``x`` where active."""
    rows = [[float(letter == "x") for letter in letters] for _, letters in speakers]
    activity = np.array(rows, np.float32).T
    return GridChunk(number, activity, tuple(column for column, _ in speakers))


def stitched(*chunks: GridChunk, columns: int = 2, speakers_max: int | None = None) -> list[str]:
    frames = Span(0, frames_of(GRID, chunks[-1].number + 1))
    active = stitch(chunks, GRID, frames, columns, speakers_max)
    return ["".join("x" if frame else "." for frame in column) for column in active.T]


def test_frames_lie_on_the_chunks_grid() -> None:
    assert [first_frame(GRID, number) for number in range(3)] == [0, 5, 10]
    assert frames_of(GRID, 3) == 21


def test_chunks_that_agree_are_one_turn() -> None:
    found = stitched(chunk(0, (0, "...xxxxxxx")), chunk(1, (0, "xxxxx.....")), columns=1)
    assert found == ["...xxxxxxx......"]


def test_a_frame_goes_to_as_many_as_its_chunks_heard_at_once() -> None:
    both = chunk(0, (0, "xxxxxxxxxx"), (1, "....xxxxxx"))
    alone = chunk(1, (1, "xxxxxxxxxx"))
    # Two and one: 1.5 rounds to the even 2; both have votes.
    assert stitched(both, alone) == ["xxxxxxxxxx......", "....xxxxxxxxxxx."]
    assert stitched(both, alone, speakers_max=1) == ["xxxxx...........", ".....xxxxxxxxxx."]


def test_a_tie_goes_to_one_of_them() -> None:
    found = stitched(chunk(0, (1, "xxxxxxxxxx")), chunk(1, (0, "xxxxxxxxxx")))
    assert [sorted(pair) for pair in zip(*found, strict=True)] == [[".", "x"]] * 15 + [[".", "."]]


def test_two_local_speakers_of_one_voice_are_one() -> None:
    found = stitched(chunk(0, (0, "xxxx......"), (0, "......xxxx")), columns=1)
    assert found == ["xxxx..xxxx."]


def test_a_local_speaker_of_nobody_counts_and_votes_for_nobody() -> None:
    """As in pyannote, whose count knows nothing of clusters."""
    found = stitched(chunk(0, (0, "xxxxx....."), (-1, "..xxx....."), (1, ".......xxx")))
    assert found == ["xxxxx......", "..xxx..xxx."]


def test_only_the_frames_asked_for_are_stitched() -> None:
    chunks = [chunk(0, (0, "xxxxxxxxxx")), chunk(1, (0, "xxxxxxxxxx")), chunk(2, (0, "xxxxxxxxxx"))]
    whole = stitch(chunks, GRID, Span(0, 21), 1, None)
    part = stitch(chunks, GRID, Span(7, 21), 1, None)
    assert (whole[7:] == part).all()


@pytest.mark.parametrize(
    ("letters", "spans"),
    [
        ("....", []),
        ("x...", [(0.5, 1.5)]),
        (".xx.", [(1.5, 3.5)]),
        (".xxx", [(1.5, 3.5)]),
        ("x.x.", [(0.5, 1.5), (2.5, 3.5)]),
        ("...x", []),
    ],
)
def test_turns_reach_from_middle_to_middle(letters: str, spans: list[tuple[float, float]]) -> None:
    active = np.array([letter == "x" for letter in letters])
    found = runs_of(active, GRID, 0)
    assert [(span.start / FRAME, span.end / FRAME) for span in found] == spans
    later = runs_of(active, GRID, 100)
    assert [span.start - 100 * FRAME for span in later] == [span.start for span in found]


def test_short_pauses_belong_to_the_turn() -> None:
    active = np.array([letter == "x" for letter in "xx..xx...xx."])
    assert len(runs_of(active, GRID, 0)) == 3
    assert len(runs_of(active, PAUSING, 0)) == 2
    assert joined([Span(0, 5), Span(5, 9)], GRID) == [Span(0, 9)]
