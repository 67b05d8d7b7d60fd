"""The way in: whose a packet is, one clock for all lanes, the way back to the client's frames."""

from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streaming.errors import BadAudio, OutOfOrder
from streaming.intake import (
    LAG_SECONDS_MAX,
    MARKS_MAX,
    InterleavedIntake,
    TaggedIntake,
    make_intake,
)
from streaming.timeline import SAMPLE_RATE_HZ
from streaming.wire import AudioFormat


def tagged(rate: int = SAMPLE_RATE_HZ) -> TaggedIntake:
    intake = make_intake(AudioFormat(tagged=True, sample_rate=rate))
    assert isinstance(intake, TaggedIntake)
    return intake


def packet(lane: int, frames: int) -> bytes:
    return bytes([lane]) + np.ones(frames, np.int16).tobytes()


@dataclass
class Lanes:
    """What the lanes of a tagged session have got, and when in the client's counting."""

    intake: TaggedIntake
    ends: dict[int, int] = field(default_factory=dict)
    """Lane → samples on its clock."""
    came: list[tuple[int, int, int, int]] = field(default_factory=list)
    """(lane, its end after it, client's frame before it, after it)"""

    def add(self, lane: int) -> None:
        if lane not in self.ends:
            self.ends[lane] = self.intake.add(lane)

    def send(self, lane: int, frames: int) -> None:
        before = self.intake.frames_received
        for piece in self.intake.decode(packet(lane, frames)):
            assert piece.lane == lane
            self.ends[lane] += len(piece.samples) + piece.skipped_samples
        self._note(lane, before)

    def skip(self, ms: int, lane: int | None) -> None:
        before = self.intake.frames_received
        for piece in self.intake.skip(ms, lane):
            self.ends[piece.lane] += len(piece.samples) + piece.skipped_samples
            self._note(piece.lane, before)

    def _note(self, lane: int, before: int) -> None:
        self.came.append((lane, self.ends[lane], before, self.intake.frames_received))


Step = tuple[str, int, int]
STEPS = st.lists(
    st.tuples(st.sampled_from(["send", "send", "send", "skip", "all"]), st.integers(0, 2),
              st.integers(1, 30_000)),
    min_size=1, max_size=25,
)  # fmt: skip


@given(STEPS, st.data())
def test_nothing_before_the_stored_frame_is_still_needed(
    steps: list[Step], data: st.DataObject
) -> None:
    lanes = Lanes(tagged())
    stored: dict[int, int] = {}
    last = 0
    for kind, lane, size in steps:
        lanes.add(lane)
        if kind == "send":
            lanes.send(lane, size)
        else:
            lanes.skip(size % 2_000 + 1, lane if kind == "skip" else None)
        for one, end in lanes.ends.items():
            stored[one] = data.draw(st.integers(stored.get(one, 0), end))
        frame = lanes.intake.stored_through(stored)
        assert last <= frame <= lanes.intake.frames_received
        last = frame
        for one, end, _, after in lanes.came:
            assert after > frame or end <= stored[one], "it is not stored, and will not be kept"
    assert lanes.intake.stored_through(lanes.ends) == lanes.intake.frames_received


@given(STEPS)
def test_lanes_never_lie_further_apart_than_agreed_where_they_speak(steps: list[Step]) -> None:
    lanes = Lanes(tagged())
    for kind, lane, size in steps:
        lanes.add(lane)
        if kind == "send":
            lanes.send(lane, size)
            furthest = max(lanes.ends.values())
            assert lanes.ends[lane] >= furthest - LAG_SECONDS_MAX * SAMPLE_RATE_HZ
        else:
            lanes.skip(size % 2_000 + 1, lane if kind == "skip" else None)


def test_a_lane_that_is_just_not_too_late_is_left_where_it_is() -> None:
    lanes = Lanes(tagged())
    lanes.add(0)
    lanes.add(1)
    lanes.send(0, 32_000)
    lanes.send(1, 16_000)
    assert lanes.ends == {0: 32_000, 1: 16_000}
    lanes.send(0, 1)
    lanes.send(1, 1)
    assert lanes.ends == {0: 32_001, 1: 16_001}
    lanes.send(0, 2)
    lanes.send(1, 1)
    assert lanes.ends == {0: 32_003, 1: 32_003}, "its packet ends where the furthest lane is"


@pytest.mark.parametrize("rate", [8_000, 11_025, 44_100, 48_000])
def test_lanes_share_a_clock_at_any_rate(rate: int) -> None:
    lanes = Lanes(tagged(rate))
    lanes.add(0)
    lanes.send(0, 3 * rate)
    lanes.add(1)
    lanes.send(0, 3 * rate)
    lanes.send(1, rate // 10)
    for piece in lanes.intake.finish():
        lanes.ends[piece.lane] += len(piece.samples)
    assert lanes.ends == {0: 96_000, 1: 96_000}


def test_what_a_lane_waits_with_comes_when_it_is_flushed() -> None:
    intake = tagged(48_000)
    intake.add(0)
    (piece,) = intake.decode(packet(0, 48_000))
    assert intake.has_tail(0)
    (tail,) = intake.flush(0)
    assert len(piece.samples) + len(tail.samples) == SAMPLE_RATE_HZ
    assert not intake.has_tail(0)


def test_a_refused_packet_changes_nothing() -> None:
    intake = tagged()
    intake.add(0)
    for data, error in ((packet(1, 5), OutOfOrder), (packet(0, 5)[:-1], BadAudio)):
        with pytest.raises(error):
            intake.decode(data)
    with pytest.raises(OutOfOrder):
        intake.skip(5, 1)
    assert intake.frames_received == 0
    assert intake.stored_through({0: 0}) == 0


def test_channels_wait_and_are_flushed_together() -> None:
    intake = make_intake(AudioFormat(channels=2, sample_rate=48_000))
    assert isinstance(intake, InterleavedIntake)
    intake.decode(np.ones((4_800, 2), np.int16).tobytes() + b"\x01")
    assert (intake.frames_received, intake.dangling_bytes) == (4_800, 1)
    assert intake.has_tail(1)
    assert [piece.lane for piece in intake.flush(0)] == [0, 1]
    assert not intake.has_tail(1)
    assert intake.dangling_bytes == 1, "a flush is no break of the connection"


def test_skips_that_nothing_is_stored_of_take_a_bounded_number_of_marks() -> None:
    intake = tagged()
    first, second = intake.add(0), intake.add(1)
    intake.decode(packet(0, 1_600))
    for _ in range(2 * MARKS_MAX):
        intake.skip(200, 1)
    assert len(intake._marks) <= MARKS_MAX
    assert intake.restart_frame({0: first, 1: second}) == 0
    # They are further apart, and still places to begin with: at or before what is needed.
    for seconds in (50, 500, 1_000):
        needed = seconds * SAMPLE_RATE_HZ
        place = intake.restart_frame({0: 1_600, 1: needed})
        assert needed - SAMPLE_RATE_HZ <= place <= needed + 1_600


RATES = st.sampled_from([8_000, SAMPLE_RATE_HZ, 44_100])


@given(
    RATES,
    st.lists(st.tuples(st.booleans(), st.integers(1, 3_000)), max_size=12),
    st.lists(st.floats(0, 1), max_size=8),
)
def test_nobody_begins_again_inside_skipped_time(
    rate: int, steps: list[tuple[bool, int]], shares: list[float]
) -> None:
    """A client repeats a skip whole, or not at all; wherever a lane would begin."""
    intake = InterleavedIntake(AudioFormat(sample_rate=rate))
    skipped: list[tuple[int, int]] = []
    for is_skip, size in steps:
        first = intake.frames_received
        if is_skip:
            intake.skip(size, None)
            skipped.append((first, intake.frames_received))
        else:
            intake.decode(bytes(2 * size))
    for share in sorted(shares):
        sample = int(share * intake.samples_produced(0))
        frame = intake.restart_frame({0: sample})
        assert frame * SAMPLE_RATE_HZ <= sample * rate
        inside = [span for span in skipped if span[0] < frame < span[1]]
        assert not inside


def test_many_skips_are_remembered_in_a_bounded_list() -> None:
    intake = InterleavedIntake(AudioFormat())
    for _ in range(MARKS_MAX + 10):
        intake.skip(1, None)
        intake.decode(bytes(2))
    assert len(intake._skips) == MARKS_MAX
    assert intake.restart_frame({0: 100}) == 0
    last = intake.frames_received - 1
    assert intake.restart_frame({0: last}) == last
    assert not intake._skips
