import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as budget
from hypothesis import strategies as st

from server import container_child
from server.containers import Container, ContainerDecoder, sniff
from streaming.errors import (
    BadAudio,
    CaptiondError,
    OutOfOrder,
    Overloaded,
    TooBig,
    UnsupportedOption,
)
from streaming.wire import CHANNELS_MAX, SAMPLE_RATE_HZ_MAX, SAMPLE_RATE_HZ_MIN
from tests.recordings import (
    CODECS,
    Samples,
    endless_wav,
    flac_bomb,
    opus_packets,
    tone,
    wav,
    written,
)

SECONDS_MAX = 30.0
"""Bounds a broken test, on a machine of any speed."""
LOSSLESS = ("wav", "aiff", "flac", "caf")
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="the system calls of Linux")


async def _feed(decoder: ContainerDecoder, pieces: Sequence[bytes]) -> None:
    try:
        for piece in pieces:
            await decoder.feed(piece)
        await decoder.finish()
    except CaptiondError:
        pass  # iteration raises it, too


@asynccontextmanager
async def fed(decoder: ContainerDecoder, pieces: Sequence[bytes]) -> AsyncIterator[None]:
    async with asyncio.timeout(SECONDS_MAX), decoder:
        feeding = asyncio.create_task(_feed(decoder, pieces))
        try:
            yield
        finally:
            feeding.cancel()
            await asyncio.gather(feeding, return_exceptions=True)


async def decoded(pieces: Sequence[bytes], decoder: ContainerDecoder | None = None) -> Samples:
    """Shape (frames, channels)."""
    decoder = decoder or ContainerDecoder()
    async with fed(decoder, pieces):
        blocks = [block async for block in decoder]
    return np.frombuffer(b"".join(blocks), "<i2").reshape(-1, decoder.channels)


def pieces_of(data: bytes, size: int) -> list[bytes]:
    return [data[start : start + size] for start in range(0, len(data), size)]


@pytest.mark.parametrize("name", CODECS)
async def test_every_container_is_told_apart_and_decoded(name: str) -> None:
    decoder = ContainerDecoder()
    samples = await decoded(pieces_of(written(name, tone(2.0)), 1_000), decoder)
    assert decoder.container == name.split("-")[0]
    assert decoder.channels == 1
    assert len(samples) / decoder.sample_rate_hz == pytest.approx(2.0, abs=0.15)
    assert decoder.damaged_packets == 0
    # A full-scale sine has a root mean square of 0.71; lossy codecs lose some at the edges.
    assert np.std(samples) == pytest.approx(8_000 * 0.707, rel=0.1)


@pytest.mark.parametrize("name", LOSSLESS)
@pytest.mark.parametrize("channels", [1, 2])
async def test_what_loses_nothing_gives_the_same_samples(name: str, channels: int) -> None:
    samples = np.stack([tone(0.5), -tone(0.5)][:channels], axis=1)
    assert np.array_equal(await decoded([written(name, samples)]), samples)


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_24", "PCM_32", "FLOAT", "ULAW", "ALAW"])
@pytest.mark.parametrize("rate_hz", [8_000, 44_100])
async def test_a_wav_holds_any_samples_at_any_rate(subtype: str, rate_hz: int) -> None:
    decoder = ContainerDecoder()
    samples = await decoded([wav(tone(0.5, rate_hz), rate_hz, subtype)], decoder)
    assert decoder.sample_rate_hz == rate_hz
    assert np.abs(samples[:, 0] - tone(0.5, rate_hz).astype(int)).max() < 600


async def test_a_wav_may_not_know_its_length() -> None:
    assert np.array_equal((await decoded([endless_wav(tone(1.0))]))[:, 0], tone(1.0))


@budget(max_examples=5)
@given(st.lists(st.integers(1, 400), min_size=1))
def test_packets_do_not_matter(sizes: list[int]) -> None:
    data = written("flac", tone(0.1))
    cuts, pieces = iter(sizes * len(data)), []
    while data:
        size = next(cuts)
        pieces.append(data[:size])
        data = data[size:]
    assert np.array_equal(asyncio.run(decoded(pieces))[:, 0], tone(0.1))


async def test_opus_packets_need_no_container() -> None:
    decoder = ContainerDecoder(Container.OPUS)
    samples = await decoded(opus_packets(tone(1.0, 48_000)), decoder)
    assert (decoder.sample_rate_hz, decoder.channels) == (48_000, 1)
    assert len(samples) == 48_000
    assert np.std(samples) == pytest.approx(8_000 * 0.707, rel=0.1)


async def test_a_broken_packet_is_silence_of_its_length_and_is_counted() -> None:
    packets = opus_packets(tone(1.0, 48_000))
    packets[10:12] = [b"\xff" * 3, b"\xff" * 3]
    decoder = ContainerDecoder(Container.OPUS)
    assert len(await decoded(packets, decoder)) == 48_000
    assert decoder.damaged_packets == 2


async def test_audio_comes_before_the_file_is_whole() -> None:
    data = written("webm", tone(4.0))
    decoder = ContainerDecoder()
    async with asyncio.timeout(SECONDS_MAX), decoder:
        await decoder.feed(data[: len(data) // 2])
        assert len(await anext(aiter(decoder))) > 0
        assert decoder.sample_rate_hz == 48_000


async def test_a_torn_file_gives_what_it_holds() -> None:
    data = written("mp3", tone(4.0))
    samples = await decoded([data[: len(data) // 2]])
    assert len(samples) / 16_000 == pytest.approx(2.0, abs=0.2)


async def test_damage_in_the_middle_moves_nothing_that_follows() -> None:
    data = bytearray(written("webm", tone(4.0)))
    middle = len(data) // 2
    data[middle : middle + 40] = bytes(40)
    samples = await decoded([bytes(data)])
    assert len(samples) / 48_000 == pytest.approx(4.0, abs=0.2)


@pytest.mark.parametrize(
    "data",
    [b"", b"RIFF", b"<!DOCTYPE html><html></html>", b"\x89PNG\r\n\x1a\n" + bytes(20), bytes(4_000)],
)
async def test_what_is_no_audio_is_refused_with_advice(data: bytes) -> None:
    with pytest.raises(BadAudio, match="send WAV"):
        await decoded([data])


@pytest.mark.parametrize("name", CODECS)
async def test_a_head_without_a_body_is_refused(name: str) -> None:
    with pytest.raises(BadAudio, match="send"):
        await decoded([written(name, tone(1.0))[:14]])


async def test_feeding_tells_of_no_audio_at_once() -> None:
    async with ContainerDecoder() as decoder:
        with pytest.raises(BadAudio):
            await decoder.feed(b"no audio at all")
        with pytest.raises(OutOfOrder):
            await decoder.feed(b"more of it")


async def test_more_audio_than_agreed_is_refused() -> None:
    with pytest.raises(TooBig, match="more than 2 s"):
        await decoded([wav(tone(3.0))], ContainerDecoder(seconds_max=2.0))


async def test_a_bomb_fills_no_memory_and_ends_at_the_agreed_length() -> None:
    bomb = flac_bomb(300)
    decoder = ContainerDecoder(seconds_max=200)
    sizes = []

    async def take_all() -> None:
        async for block in decoder:
            sizes.append(len(block))  # noqa: PERF401  it ends by an error

    async with fed(decoder, [bomb]):
        with pytest.raises(TooBig):
            await take_all()
    assert max(sizes) <= container_child.BLOCK_BYTES_MAX
    assert 400 * len(bomb) < sum(sizes) <= 200 * 96_000


async def test_feeding_waits_while_nobody_takes_what_was_decoded() -> None:
    """Hours of audio: no buffer holds them."""
    decoder = ContainerDecoder()
    async with asyncio.timeout(SECONDS_MAX), decoder:
        feeding = asyncio.create_task(decoder.feed(flac_bomb(300) * 20))
        for _ in range(100):
            await anext(decoder)
        assert not feeding.done()
        feeding.cancel()
        await asyncio.gather(feeding, return_exceptions=True)


async def test_too_many_channels_are_refused() -> None:
    many = np.repeat(tone(0.1)[:, None], 24, axis=1)
    with pytest.raises(UnsupportedOption, match="24 channels"):
        await decoded([wav(many)])


async def test_no_speech_has_such_a_rate() -> None:
    with pytest.raises(BadAudio, match="2000 Hz"):
        await decoded([wav(tone(1.0), 2_000)])


async def test_a_crash_of_the_decoder_is_an_error_of_this_stream_alone() -> None:
    data = wav(tone(1.0))
    decoder, other = ContainerDecoder(), ContainerDecoder()
    async with asyncio.timeout(SECONDS_MAX), decoder, other:
        for each in (decoder, other):
            await each.feed(data[:2_000])
        assert decoder._process is not None
        decoder._process.send_signal(signal.SIGSEGV)
        with pytest.raises(BadAudio, match="breaks the decoder"):
            async for _ in decoder:
                pass
        await decoder.feed(data[2_000:])  # dropped: iteration has said why
        await asyncio.gather(_feed(other, [data[2_000:]]))
        assert sum([len(block) async for block in other]) == 32_000


async def test_without_room_for_a_process_it_is_to_be_sent_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("server.containers.sys.executable", "/no/such/program")
    async with ContainerDecoder() as decoder:
        with pytest.raises(Overloaded) as refusal:
            await decoder.feed(wav(tone(1.0)))
        assert refusal.value.retry_after_ms
        with pytest.raises(Overloaded):
            await anext(decoder)


async def test_the_process_is_gone_when_the_block_is_left() -> None:
    async with ContainerDecoder() as decoder:
        await decoder.feed(wav(tone(1.0)))
        process = decoder._process
        assert process is not None
        assert process.returncode is None
    assert process.returncode is not None


WHOLE = {name: written(name, tone(0.3)) for name in CODECS}
Changes = list[tuple[float, int]]
"""Where in a file, as a share of it, and what stands there instead."""


@budget(max_examples=20)
@given(
    st.sampled_from(sorted(CODECS)),
    st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 255)), max_size=12),
    st.floats(0.02, 1),
)
def test_whatever_is_broken_in_it_is_decoded_or_refused(
    name: str, changes: Changes, share: float
) -> None:
    data = bytearray(WHOLE[name])
    for place, value in changes:
        data[int(place * len(data))] = value
    with contextlib.suppress(BadAudio, TooBig, UnsupportedOption):
        asyncio.run(decoded([bytes(data[: int(share * len(data))])]))


# Confinement


def _confined(attempt: str) -> str:
    """What becomes of an attempt in a confined process."""
    script = (
        "import os, socket, sys, time, ctypes, threading\n"
        f"sys.path.insert(0, {os.fspath(Path(__file__).parents[2])!r})\n"
        "from server import container_child\n"
        "container_child.confine()\n"
        f"try:\n    {attempt}\n"
        "except BaseException as error:\n    said = type(error).__name__\n"
        "else:\n    said = 'done'\n"
        "os.write(1, said.encode())\nos._exit(0)\n"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)
    return result.stdout.decode() or str(result.returncode)


@linux_only
@pytest.mark.parametrize(
    ("attempt", "outcome"),
    [
        ("open('/etc/passwd')", "OSError PermissionError"),
        ("open('/tmp/captiond-test', 'w')", "OSError PermissionError"),
        ("socket.socket()", "OSError PermissionError"),
        ("os.fork()", "PermissionError BlockingIOError"),
        ("os.execv('/bin/true', ['true'])", "PermissionError"),
        ("os.kill(os.getppid(), 0)", "PermissionError"),
        ("threading.Thread(target=print).start()", "RuntimeError"),
        ("bytearray(600 * 1024 * 1024)", "MemoryError"),
        ("time.monotonic()", "done"),
    ],
)
def test_a_decoder_can_do_nothing_but_decode(attempt: str, outcome: str) -> None:
    assert _confined(attempt) in outcome.split()


@linux_only
def test_a_decoder_that_never_comes_to_an_end_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    spin = "container_child.resource.setrlimit(0, (1, 1))\n    while True: pass"
    assert _confined(spin) in (str(-signal.SIGXCPU), str(-signal.SIGKILL))


def test_the_front_process_never_loads_a_decoder() -> None:
    script = "import sys, server.containers; print('av' in sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "False"


def test_both_processes_know_the_same_limits() -> None:
    ours = (SAMPLE_RATE_HZ_MIN, SAMPLE_RATE_HZ_MAX, CHANNELS_MAX)
    child = container_child
    assert ours == (child.SAMPLE_RATE_HZ_MIN, child.SAMPLE_RATE_HZ_MAX, child.CHANNELS_MAX)
    assert {*child.DEMUXERS, child.PACKETS} == {container.value for container in Container}


# First bytes


@given(st.binary(max_size=16))
def test_any_first_bytes_can_be_looked_at(head: bytes) -> None:
    assert sniff(head) in (None, *Container)


@pytest.mark.parametrize(
    ("head", "container"),
    [
        (b"RF64\xff\xff\xff\xffWAVE", Container.WAV),
        (b"RIFF\0\0\0\0AVI ", None),
        (b"\xff\xfb\x90\x64" + bytes(8), Container.MP3),
        (b"\xff\xf3\x84\xc4" + bytes(8), Container.MP3),
        (b"\xff\xf1\x60\x40" + bytes(8), Container.AAC),
        (b"\xff" * 12, None),
        (b"\0\0\0\x1cftypM4A ", Container.MP4),
        (b"#!AMR-WB\n\0\0\0", Container.AMR),
        (b"%PDF-1.7 xyz", None),
    ],
)
def test_containers_are_told_apart(head: bytes, container: Container | None) -> None:
    assert sniff(head) is container


# The child's own parts, in this process


def _messages(*messages: bytes) -> Iterator[bytes]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        for message in messages:
            theirs.sendall(container_child.LENGTH.pack(len(message)) + message)
        theirs.shutdown(socket.SHUT_WR)
        yield from container_child.Messages(ours)


@given(st.lists(st.binary(max_size=50)), st.integers(1, 60))
def test_messages_become_one_stream(messages: list[bytes], size: int) -> None:
    stream = container_child.Stream(iter([m for m in messages if m]))
    assert b"".join(iter(lambda: stream.read(size), b"")) == b"".join(messages)


def test_messages_keep_their_bounds() -> None:
    assert list(_messages(b"one", b"t" * 70_000, b"three")) == [b"one", b"t" * 70_000, b"three"]


def _box(name: bytes, size: int) -> bytes:
    return (size + 8).to_bytes(4, "big") + name + bytes(size)


@pytest.mark.parametrize(
    ("boxes", "is_spooled"),
    [
        ([_box(b"ftyp", 20), _box(b"moov", 50), _box(b"mdat", 9)], False),
        ([_box(b"ftyp", 20), _box(b"free", 4), _box(b"mdat", 50), _box(b"moov", 9)], True),
    ],
)
def test_an_mp4_is_held_only_where_its_index_comes_last(
    boxes: list[bytes], is_spooled: bool
) -> None:
    source = container_child.mp4_source(container_child.Stream(iter(boxes)))
    assert isinstance(source, container_child.Spool) is is_spooled
    assert b"".join(iter(lambda: source.read(7), b"")) == b"".join(boxes)


def test_a_large_mp4_with_its_index_last_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(container_child, "SPOOL_BYTES_MAX", 100)
    stream = container_child.Stream(iter([_box(b"mdat", 200)]))
    with pytest.raises(container_child.Refusal, match="faststart"):
        container_child.mp4_source(stream)


@pytest.mark.parametrize("size", [0, 1, 7, 0xFFFFFFFF])
def test_an_mp4_of_senseless_boxes_is_refused(size: int) -> None:
    stream = container_child.Stream(iter([size.to_bytes(4, "big") + b"free"]))
    with pytest.raises(container_child.Refusal):
        container_child.mp4_source(stream)
