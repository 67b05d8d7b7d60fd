"""Clients that read slowly or not at all, over real sockets: bounded, counted, resumable."""

import asyncio
import socket
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from server.connection import Connection
from tests.server_fakes import Front, running, until
from tests.system.talker import RATE, Talker, clip, packets, texts

WORDS = 600
CLIP = clip(1, WORDS)
PART_BYTES = 30 * 32_000
"""Less than the credit, also behind a backlog that a resumed session has."""
BUFFER_BYTES = 4_096


def connection(front: Front) -> Connection:
    """The only one."""
    (found,) = front.server._connections
    return found


async def narrow(front: Front) -> tuple[Talker, asyncio.Transport]:
    """A session on a connection that holds little on its way, and the server's end of that."""
    near = socket.socket()
    near.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
    near.connect(("127.0.0.1", urlsplit(front.url).port))
    near.setblocking(False)
    talker = await Talker.connect(front.url, sock=near)
    await talker.say("start")
    await talker.until("ready")
    far = connection(front)._ws
    assert far._transport is not None
    assert far._writer is not None
    far._writer._limit = BUFFER_BYTES
    far._transport.set_write_buffer_limits(high=BUFFER_BYTES)
    sending = far._transport.get_extra_info("socket")
    sending.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_BYTES)
    return talker, far._transport


async def play(front: Front, talker: Talker, start: int = 0) -> None:
    """All of the clip from a byte on, as fast as the credit allows."""
    for at in range(start, len(CLIP), PART_BYTES):
        end = min(at + PART_BYTES, len(CLIP))
        for packet in packets(CLIP[at:end], 96_000):
            await talker.socket.send(packet)
        await until(lambda: 2 * front.live.session.frames_received >= end)  # noqa: B023
        await until(lambda: front.live.session.backlog_samples < 10 * RATE)


@pytest.mark.slow
async def test_who_reads_nothing_is_cut_off_and_may_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path) as front:
        talker, transport = await narrow(front)
        monkeypatch.setattr("server.connection.WRITE_SECONDS_MAX", 0.5)
        talker.socket.transport.pause_reading()
        playing = asyncio.create_task(play(front, talker))
        held = 0
        while front.server._connections:
            held = max(held, transport.get_write_buffer_size())
            await asyncio.sleep(0.001)
        playing.cancel()
        await asyncio.gather(playing, return_exceptions=True)
        talker.cut()
        assert 0 < held <= 4 * BUFFER_BYTES, "one message beyond the limit"
        assert front.metric("slow_readers_total") == 1
        assert not front.live.is_attached
        monkeypatch.setattr("server.connection.WRITE_SECONDS_MAX", 10.0)
        again = await Talker.resume(front.url, talker.ready)
        ready = await again.until("ready")
        await play(front, again, 2 * ready["resume_from_frame"])
        assert await again.finish() == texts(1, WORDS)


@pytest.mark.slow
async def test_who_reads_late_misses_partials_and_nothing_else(tmp_path: Path) -> None:
    """He takes nothing until everything has been said, and is not cut off yet."""
    async with running(tmp_path) as front:
        talker, _ = await narrow(front)
        talker.socket.transport.pause_reading()
        await play(front, talker)
        talker.socket.transport.resume_reading()
        assert await talker.finish() == texts(1, WORDS)
        await until(lambda: not front.server._connections)
        assert front.metric("events_dropped_total", kind="partial") > 0
