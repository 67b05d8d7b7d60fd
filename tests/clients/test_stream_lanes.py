"""What the client library says of lanes before anything goes out."""

import pytest

from clients.errors import StreamEnded
from clients.stream import CaptionStream, message_bytes_max
from streaming.wire import AUDIO_MESSAGE_BYTES_MAX, CHANNELS_MAX, AudioFormat, Lane, Skip, Start

URL = "ws://127.0.0.1:9"


def meeting(**audio: object) -> CaptionStream:
    """Not connected: what it would send waits."""
    return CaptionStream.open(URL, Start(audio=AudioFormat(tagged=True, **audio)))  # type: ignore[arg-type]


async def test_lanes_are_numbered_as_they_come_and_there_are_so_many() -> None:
    stream = meeting()
    assert [await stream.add_lane(f"Person {i}") for i in range(CHANNELS_MAX)] == [*range(20)]
    with pytest.raises(ValueError, match="at most 20 lanes; rename one"):
        await stream.add_lane("one more")
    await stream.name_lane(3, None)
    assert stream._backlog.take() == Lane(lane=0, name="Person 0")


async def test_lanes_that_were_not_added_are_refused_before_the_server_must() -> None:
    stream = meeting()
    await stream.add_lane()
    for lane in (None, 1, -1):
        with pytest.raises(ValueError, match=r"was not added; use what add_lane\(\) gave"):
            await stream.send(b"", lane)
    with pytest.raises(ValueError, match="lane 1 was not added"):
        await stream.skip(100, 1)
    with pytest.raises(ValueError, match="lane 2 was not added"):
        await stream.name_lane(2, "Bob")
    with pytest.raises(ValueError, match="3 bytes are not whole samples"):
        await stream.send(b"abc", 0)


async def test_lanes_are_for_tagged_audio() -> None:
    stream = CaptionStream.open(URL)
    with pytest.raises(ValueError, match="tagged=True"):
        await stream.add_lane("Alice")
    with pytest.raises(ValueError, match="tagged=True"):
        await stream.send(b"ab", 0)
    with pytest.raises(ValueError, match="tagged=True"):
        await stream.skip(100, 0)


async def test_skips_and_names_wait_for_their_turn_and_end_with_the_stream() -> None:
    stream = meeting()
    lane = await stream.add_lane()
    await stream.skip(100)
    await stream.skip(200, lane)
    await stream.end()
    waiting = [stream._backlog.take() for _ in range(3)]
    assert waiting == [Lane(lane=0, name=None), Skip(ms=100), Skip(ms=200, lane=0)]
    with pytest.raises(StreamEnded):
        await stream.skip(100)
    with pytest.raises(StreamEnded):
        await stream.add_lane()


@pytest.mark.parametrize("encoding", ["pcm_s16le", "pcm_f32le", "mulaw"])
def test_the_longest_tagged_message_holds_whole_samples(encoding: str) -> None:
    audio = AudioFormat(tagged=True, sample_rate=384_000, encoding=encoding)  # type: ignore[arg-type]
    size = message_bytes_max(audio)
    assert size < AUDIO_MESSAGE_BYTES_MAX
    assert size % 4 == 0 or encoding != "pcm_f32le"
    assert size % 2 == 0 or encoding == "mulaw"
