"""What is kept, offered and offered again."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clients.backlog import Backlog
from streaming.wire import Configure, Flush


def granted(frames: int = 1_000, *, bytes_max: int = 10_000) -> Backlog:
    backlog = Backlog(2, 1_000, bytes_max=bytes_max)
    backlog.grant(frames)
    return backlog


def drain(backlog: Backlog) -> bytes:
    taken = []
    while isinstance(item := backlog.take(), bytes):
        taken.append(item)
    return b"".join(taken)


@given(
    st.lists(st.binary(min_size=1, max_size=9), max_size=20),
    st.data(),
)
def test_a_rewind_offers_exactly_the_bytes_from_that_frame(
    packets: list[bytes], data: st.DataObject
) -> None:
    backlog = granted()
    for packet in packets:
        backlog.accept(packet)
    for _ in range(data.draw(st.integers(0, len(packets)))):
        backlog.take()
    audio = b"".join(packets)
    frames = len(audio) // 2
    stored = data.draw(st.integers(0, frames))
    backlog.acknowledge(stored)
    resumed = data.draw(st.integers(stored, frames))
    backlog.rewind(resumed)
    assert drain(backlog) == audio[resumed * 2 :]


@given(st.lists(st.integers(1, 50), max_size=20), st.integers(0, 100))
def test_nothing_is_taken_beyond_the_credit(sizes: list[int], credit_frames: int) -> None:
    backlog = granted(credit_frames)
    for size in sizes:
        backlog.accept(bytes(min(size, backlog.room_bytes())))
    assert len(drain(backlog)) <= credit_frames * 2


def test_room_is_bounded_by_credit_and_by_memory() -> None:
    assert granted(10, bytes_max=1_000).room_bytes() == 20
    assert granted(1_000, bytes_max=30).room_bytes() == 30
    with pytest.raises(ValueError, match="room"):
        granted(10).accept(bytes(21))


def test_an_ack_makes_room_in_memory_and_only_news_counts() -> None:
    backlog = granted(bytes_max=8)
    backlog.accept(bytes(8))
    assert backlog.room_bytes() == 0
    assert backlog.acknowledge(3)
    assert not backlog.acknowledge(2)
    assert backlog.room_bytes() == 6
    assert (backlog.stored_frames, backlog.accepted_frames) == (3, 4)


@pytest.mark.parametrize("frame", [0, 5])
def test_a_resume_outside_of_what_is_held_is_refused(frame: int) -> None:
    backlog = granted()
    backlog.accept(bytes(8))
    backlog.acknowledge(1)
    with pytest.raises(ValueError, match=f"frame {frame}"):
        backlog.rewind(frame)


def test_what_a_server_had_and_did_not_store_is_still_there_for_the_next_one() -> None:
    backlog = granted()
    backlog.accept(b"aabb")
    backlog.accept(b"ccdd")
    backlog.take()
    for frame in (3, 1, 2, 0):
        backlog.rewind(frame)
        assert drain(backlog) == b"aabbccdd"[frame * 2 :]


def test_controls_keep_their_place_and_come_again_after_a_rewind() -> None:
    backlog = granted()
    backlog.accept(b"aa")
    backlog.accept_control(Configure(language="en"))
    backlog.accept(b"bb")
    expected = [b"aa", Configure(language="en"), b"bb", None]
    assert [backlog.take() for _ in range(4)] == expected
    backlog.rewind(0)
    assert [backlog.take() for _ in range(4)] == expected
    backlog.rewind(1)
    assert [backlog.take() for _ in range(3)] == expected[1:]


def test_controls_at_one_place_become_one_of_a_kind() -> None:
    backlog = granted()
    for _ in range(3):
        backlog.accept_control(Configure(language="en"))
        backlog.accept_control(Flush())
        backlog.accept_control(Configure(prompt="x"))
    taken = [backlog.take() for _ in range(3)]
    assert taken == [Flush(), Configure(language="en", prompt="x"), None]
    assert backlog.is_sent


def test_controls_sent_one_by_one_do_not_pile_up() -> None:
    backlog = granted()
    for _ in range(100):
        backlog.accept_control(Flush())
        assert backlog.take() == Flush()
    backlog.rewind(0)
    assert [backlog.take(), backlog.take()] == [Flush(), None]


def test_packets_that_had_to_wait_go_out_together_and_in_order() -> None:
    backlog = granted()
    for packet in (b"aa", b"bb", b"cc"):
        backlog.accept(packet)
    assert backlog.take() == b"aabbcc"
    backlog.acknowledge(1)
    backlog.rewind(2)
    assert backlog.take() == b"cc"


def test_no_message_is_longer_than_it_may_be() -> None:
    backlog = Backlog(2, 256)
    backlog.grant(10**9)
    assert backlog.room_bytes() == 256
    for _ in range(20):
        backlog.accept(bytes(60))
    sizes = []
    while isinstance(message := backlog.take(), bytes):
        sizes.append(len(message))
    assert sizes == [240] * 5
