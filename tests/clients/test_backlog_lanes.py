"""What is kept and offered of tagged lanes and skipped time: one list, one count of frames."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clients.backlog import Backlog
from streaming.wire import CHANNELS_MAX, Flush, Lane, Skip

RATE = 1_000
"""One frame of two bytes is a millisecond."""


def granted(frames: int = 100_000, *, bytes_max: int = 1_000_000) -> Backlog:
    backlog = Backlog(2, 1_000, sample_rate=RATE, bytes_max=bytes_max)
    backlog.grant(frames)
    return backlog


def taken(backlog: Backlog) -> list[object]:
    items: list[object] = []
    while (item := backlog.take()) is not None:
        items.append(item)
    return items


class Server:
    """What a server has of each lane, and how many frames that is."""

    def __init__(self) -> None:
        self.lanes: dict[int, bytes] = {}
        self.frames = 0

    def hear(self, item: object) -> None:
        if isinstance(item, bytes):
            self.lanes[item[0]] = self.lanes.get(item[0], b"") + item[1:]
            self.frames += len(item) // 2
        elif isinstance(item, Skip):
            lanes = range(3) if item.lane is None else [item.lane]
            for lane in lanes:
                self.lanes[lane] = self.lanes.get(lane, b"") + b"(%d)" % item.ms
            self.frames += item.ms


Step = tuple[int, int, bool, bool]
STEPS = st.lists(
    st.tuples(st.integers(0, 2), st.integers(1, 60), st.booleans(), st.booleans()), max_size=30
)


@given(STEPS, st.data())
def test_each_lane_gets_its_audio_once_and_in_order_whatever_breaks(
    steps: Sequence[Step], data: st.DataObject
) -> None:
    backlog, server, expected = granted(), Server(), Server()
    for number, (lane, frames, is_skip, is_sent) in enumerate(steps):
        if is_skip:
            backlog.accept_skip(Skip(ms=frames, lane=lane))
            expected.hear(Skip(ms=frames, lane=lane))
        else:
            audio = bytes([number % 251]) * 2 * frames
            backlog.accept(audio, lane)
            expected.hear(bytes([lane]) + audio)
        sent = backlog.take() if is_sent else None
        if sent is None:
            continue
        if data.draw(st.booleans(), label="it arrives"):
            server.hear(sent)
        else:
            backlog.rewind(server.frames)
            backlog.grant(100_000)
        if data.draw(st.booleans(), label="an ack"):
            backlog.acknowledge(data.draw(st.integers(0, server.frames)) if number % 2 else 0)
    backlog.rewind(server.frames)
    for rest in taken(backlog):
        server.hear(rest)
    assert server.frames == expected.frames == backlog.accepted_frames
    for lane in range(3):
        assert _summed(server.lanes.get(lane, b"")) == _summed(expected.lanes.get(lane, b""))


def _summed(heard: bytes) -> bytes:
    """Skips that became one are as good as several."""
    parts = heard.replace(b")", b"(").split(b"(")
    result, ms = b"", 0
    for place, part in enumerate(parts):
        if place % 2:
            ms += int(part)
        elif part:
            result += b"(%d)" % ms * bool(ms) + part
            ms = 0
    return result + b"(%d)" % ms * bool(ms)


def test_packets_of_a_lane_that_wait_go_together_past_those_of_others() -> None:
    backlog = granted()
    for number in range(12):
        for lane in range(3):
            backlog.accept(bytes([number]) * 40, lane)
    items = taken(backlog)
    # 20 ms each; 200 ms at most go together.
    assert [(item[0], len(item)) for item in items if isinstance(item, bytes)] == [
        *((lane, 401) for lane in range(3)),
        *((lane, 81) for lane in range(3)),
    ]


def test_what_was_sent_before_keeps_its_place_after_a_rewind() -> None:
    backlog = granted()
    backlog.accept(b"aa" * 50, 0)
    backlog.accept(b"bb" * 50, 1)
    first = taken(backlog)
    backlog.rewind(0)
    backlog.accept(b"AA" * 50, 0)
    assert taken(backlog) == [*first, b"\0" + b"AA" * 50]


def test_nothing_passes_a_skip_or_a_name() -> None:
    backlog = granted()
    backlog.accept(b"aa", 0)
    backlog.accept_control(Lane(lane=0, name="Bob"))
    backlog.accept(b"bb", 0)
    backlog.accept_skip(Skip(ms=5, lane=0))
    backlog.accept(b"cc", 0)
    expected = [b"\0aa", Lane(lane=0, name="Bob"), b"\0bb", Skip(ms=5, lane=0), b"\0cc"]
    assert taken(backlog) == expected
    backlog.rewind(1)
    assert taken(backlog) == expected[1:]
    backlog.rewind(7)
    assert taken(backlog) == expected[4:]
    with pytest.raises(ValueError, match="inside skipped time"):
        backlog.rewind(4)


def test_more_lanes_than_there_are_do_not_make_it_search() -> None:
    backlog = granted()
    for lane in range(CHANNELS_MAX + 1):
        backlog.accept(b"aa", lane)
    backlog.accept(b"bb", 0)
    assert len(taken(backlog)) == CHANNELS_MAX + 2


def test_each_lane_keeps_its_newest_name_at_one_place() -> None:
    backlog = granted()
    for name in ("Alice", "Bob"):
        for lane in range(2):
            backlog.accept_control(Lane(lane=lane, name=name))
    backlog.accept_control(Flush())
    assert taken(backlog) == [Lane(lane=0, name="Bob"), Lane(lane=1, name="Bob"), Flush()]


def test_skips_in_a_row_become_one_as_long_as_it_can_be_said() -> None:
    backlog = granted()
    for ms in (100, 200, 86_400_000):
        backlog.accept_skip(Skip(ms=ms))
    backlog.accept_skip(Skip(ms=5, lane=1))
    assert backlog.accepted_frames == 86_400_305
    assert taken(backlog) == [Skip(ms=300), Skip(ms=86_400_000), Skip(ms=5, lane=1)]


def test_skipped_time_takes_neither_credit_nor_memory() -> None:
    backlog = granted(10, bytes_max=20)
    backlog.accept(bytes(18))
    backlog.accept_skip(Skip(ms=3_600_000))
    assert backlog.room_bytes() == 2
    backlog.accept(bytes(2))
    assert [type(item) for item in taken(backlog)] == [bytes, Skip, bytes]
    assert backlog.held_bytes == 20
    assert backlog.acknowledge(9 + 3_600_000)
    assert backlog.held_bytes == 2
    backlog.grant(10 + 3_600_000)
    assert backlog.room_bytes() == 0


def test_audio_behind_a_skip_waits_for_credit_all_the_same() -> None:
    backlog = granted(10)
    backlog.accept(bytes(20), 0)
    backlog.accept_skip(Skip(ms=50))
    backlog.grant(8)
    assert taken(backlog) == []
    backlog.grant(10)
    backlog.accept(b"", 0)
    assert len(taken(backlog)) == 2
