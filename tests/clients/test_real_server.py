"""The library and the command against a real server: every scripted word, exactly once."""

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest
import soundfile

from clients.reconnect import Retry
from clients.stream import CaptionStream
from streaming.events import Done, Event, Final
from streaming.scripted_audio import encode_silence, encode_word, word_text
from tests.clients.conftest import scripted_clip, serving

pytestmark = pytest.mark.slow

RATE = 16_000


class CuttingRelay:
    """A TCP relay that resets its connection after so many bytes from the client, so many times."""

    def __init__(self, address: str, cuts: int, bytes_between: int) -> None:
        self._host, port = address.removeprefix("http://").split(":")
        self._port = int(port)
        self._cuts = cuts
        self._bytes_between = bytes_between
        self.cuts_made = 0

    def allow_cuts(self, cuts: int) -> None:
        self._cuts = cuts

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up_writer = await asyncio.open_connection(self._host, self._port)
        down = asyncio.create_task(self._copy(up_reader, writer, None))
        limit = self._bytes_between if self.cuts_made < self._cuts else None
        was_cut = await self._copy(reader, up_writer, limit)
        self.cuts_made += was_cut
        down.cancel()
        for end in (writer, up_writer):
            end.transport.abort()

    async def _copy(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, limit: int | None
    ) -> bool:
        passed = 0
        while limit is None or passed < limit:
            try:
                chunk = await reader.read(4_096)
            except ConnectionError:
                return False
            if not chunk:
                return False
            passed += len(chunk)
            writer.write(chunk)
        return True


@asynccontextmanager
async def relay(server: CuttingRelay) -> AsyncIterator[str]:
    listening = await asyncio.start_server(server.handle, "127.0.0.1", 0)
    async with listening:
        yield f"ws://127.0.0.1:{listening.sockets[0].getsockname()[1]}"


async def caption(url: str, pcm: bytes, packet_bytes: int = 3_200) -> tuple[list[Event], int]:
    """Events, and how many connections it took."""

    async def send(stream: CaptionStream) -> None:
        for at in range(0, len(pcm), packet_bytes):
            await stream.send(pcm[at : at + packet_bytes])
            await asyncio.sleep(0)
        await stream.end()

    opened = CaptionStream.open(url, retry=Retry(first_delay_ms=5, delay_ms_max=20))
    async with opened as stream:
        sender = asyncio.create_task(send(stream))
        events = [event async for event in stream]
        await sender
    return events, opened.connections


def words_of(events: list[Event]) -> list[str]:
    return [word.text for event in events if isinstance(event, Final) for word in event.words]


async def test_no_word_is_lost_or_doubled_over_twenty_cuts(real_server: str) -> None:
    words = 100
    pcm = scripted_clip(11, words).tobytes()
    breaking = CuttingRelay(real_server, cuts=20, bytes_between=len(pcm) // 40)
    async with relay(breaking) as url:
        events, connections = await caption(url, pcm)
    assert words_of(events) == [word_text(11, number) for number in range(words)]
    assert breaking.cuts_made == 20
    assert connections >= 20
    done = events[-1]
    assert isinstance(done, Done)
    assert done.decoded_seconds + done.silent_seconds == pytest.approx(
        len(pcm) / 2 / RATE, abs=0.01
    )


async def test_a_long_recording_goes_beyond_the_first_credit(real_server: str) -> None:
    words = 600
    pcm = scripted_clip(12, words).tobytes()
    assert len(pcm) / 2 / RATE > 240
    events, _ = await caption(real_server, pcm, packet_bytes=100_000)
    assert words_of(events) == [word_text(12, number) for number in range(words)]


async def test_many_small_pieces_at_once_are_not_too_fast(real_server: str) -> None:
    """Far more than a server takes as messages of their own, each sent as soon as it was made."""
    pcm = scripted_clip(14, 10).tobytes()
    events, connections = await caption(real_server, pcm, packet_bytes=64)
    assert len(pcm) / 64 > 3_000
    assert words_of(events) == [word_text(14, number) for number in range(10)]
    assert connections == 1


COMMAND = "import typer; from clients.stream_command import stream; typer.run(stream)"


def run_command(url: str, path: Path, *options: str) -> subprocess.CompletedProcess[str]:
    arguments = [sys.executable, "-c", COMMAND, str(path), "--url", url, "--pace", "max"]
    return subprocess.run([*arguments, *options], capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "scripted.wav"
    soundfile.write(path, scripted_clip(13, 10), RATE, subtype="PCM_16")
    return path


def test_the_command_prints_text_and_ndjson(real_server: str, clip: Path) -> None:
    line = " ".join(word_text(13, number) for number in range(5))
    text = run_command(real_server, clip, "--format", "txt")
    assert (text.returncode, text.stderr) == (0, "")
    assert text.stdout.splitlines()[0] == line
    printed = run_command(real_server, clip, "--format", "ndjson")
    kinds = [json.loads(message)["type"] for message in printed.stdout.splitlines()]
    assert (kinds[0], kinds[-1]) == ("ready", "done")


def test_the_command_writes_a_file_while_it_shows_lines(
    real_server: str, clip: Path, tmp_path: Path
) -> None:
    path = tmp_path / "out.vtt"
    shown = run_command(real_server, clip, "--output", str(path))
    assert shown.returncode == 0
    assert word_text(13, 9) in shown.stdout
    assert path.read_text().startswith("WEBVTT")


def test_a_refusal_is_one_line_and_exit_code_one(real_server: str, clip: Path) -> None:
    refused = run_command(f"{real_server}/v1/elsewhere", clip, "--format", "txt")
    assert refused.returncode == 1
    assert refused.stderr.count("\n") == 1


@pytest.mark.slow
def test_the_command_says_how_many_people_there_are(tmp_path: Path) -> None:
    people = [encode_word(15, number, speaker=number // 8) for number in range(16)]
    path = tmp_path / "two.wav"
    soundfile.write(path, np.concatenate([*people, encode_silence(RATE)]), RATE, subtype="PCM_16")

    def speakers_told(*options: str) -> int:
        printed = run_command(address, path, "--format", "ndjson", *options)
        assert (printed.returncode, printed.stderr) == (0, "")
        return int(json.loads(printed.stdout.splitlines()[-1])["speakers"])

    with serving(tmp_path, "--diarizer", "scripted") as address:
        assert speakers_told() == 2
        assert speakers_told("--speakers", "1") == 1
        refused = run_command(address, path, "--speakers", "2", "--speakers-max", "3")
    assert refused.returncode == 1
    assert "speakers is an exact number" in refused.stderr
