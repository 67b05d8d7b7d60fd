"""A server that dies, or is left for another one: the client comes back and no word is missing."""

import asyncio
import contextlib
import random
from collections import deque
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import orjson
import pytest
import pytest_asyncio
from websockets.exceptions import ConnectionClosed

from clients.reconnect import Retry
from clients.stream import CaptionStream
from load_tests.faults.victim import free_port
from server.child import ServerChild, running_server
from streaming.events import DurableEvent
from streaming.wire import AudioFormat, Start
from tests.system.talker import RATE, SCRIPTED, Message, Talker, clip, packets, starts_s, texts

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]

WORDS = 60
KILLS = 2
OPTIONS = (*SCRIPTED, "--diarizer", "scripted")
RETRY = Retry(first_delay_ms=50, delay_ms_max=400, tries_max=1_000)
SECONDS_MAX = 120.0
PACKETS_AHEAD_S = 0.02
"""Between two packets of 100 ms: five times as fast as people talk."""


class Phoenix:
    """A server that is killed and started again, over the same store and on the same port."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._port = str(free_port())
        self.url = f"http://127.0.0.1:{self._port}"
        self.is_up = asyncio.Event()
        """For the first time."""
        self.lives = 0

    @contextlib.asynccontextmanager
    async def alive(self) -> AsyncIterator[ServerChild]:
        arguments = [*OPTIONS, "--port", self._port]
        self.lives += 1
        async with running_server(arguments, self._folder) as child:
            self.is_up.set()
            yield child

    async def die_and_rise(self, blows: Sequence[asyncio.Event], is_over: asyncio.Event) -> None:
        """Killed at each blow; then it lives until it is over."""
        for blow in blows:
            async with self.alive() as child:
                await blow.wait()
                child.kill()
                await child.process.wait()
        async with self.alive():
            await is_over.wait()


class Assassin:
    """Strikes when a connection has brought so many messages, of whatever kind."""

    def __init__(self, message_counts: Sequence[int]) -> None:
        self.blows = [asyncio.Event() for _ in message_counts]
        self._victims = deque(zip(message_counts, self.blows, strict=True))
        self._count = 0

    def note(self, kind: str) -> None:
        self._count = 0 if kind == "ready" else self._count + 1
        if self._victims and self._count >= self._victims[0][0]:
            self._victims.popleft()[1].set()
            self._count = 0


async def caption(stream: CaptionStream, pcm: bytes, lanes: int = 0) -> None:
    for lane in range(lanes):
        await stream.add_lane(f"Name {lane}")
    for packet in packets(pcm):
        for lane in range(max(1, lanes)):
            await stream.send(packet, *([lane] if lanes else []))
        await asyncio.sleep(PACKETS_AHEAD_S)
    await stream.end()


async def through_crashes(
    folder: Path, start: Start, pcm: bytes, message_counts: Sequence[int], lanes: int = 0
) -> tuple[list[Message], list[int]]:
    """All durable messages of a session, and which of the server's lives had it, in order."""
    phoenix, is_over, assassin = Phoenix(folder), asyncio.Event(), Assassin(message_counts)
    messages: dict[int, Message] = {}
    lives: set[int] = set()

    def note(text: str) -> None:
        message = orjson.loads(text)
        assassin.note(message["type"])
        if message["type"] == "ready":
            lives.add(phoenix.lives)
        elif "seq" in message:
            messages[message["seq"]] = message

    server = asyncio.create_task(phoenix.die_and_rise(assassin.blows, is_over))
    try:
        await phoenix.is_up.wait()
        async with (
            CaptionStream.open(phoenix.url, start, retry=RETRY, on_message=note) as stream,
            asyncio.timeout(120),
        ):
            sending = asyncio.create_task(caption(stream, pcm, lanes))
            seqs = [event.seq async for event in stream if isinstance(event, DurableEvent)]
            await sending
    finally:
        is_over.set()
        await server
    assert seqs == list(range(1, len(seqs) + 1))
    return [messages[seq] for seq in seqs], sorted(lives)


def words_of(messages: Sequence[Message], lane: int = 0) -> list[dict[str, Any]]:
    finals = (m for m in messages if m["type"] == "final" and m["lane"] == lane)
    return [word for final in finals for word in final["words"]]


def check_words(messages: Sequence[Message], lane: int = 0) -> None:
    """Each word once, in order and in its place, each caption by its own name."""
    words = words_of(messages, lane)
    assert [word["word"] for word in words] == texts(1, WORDS)
    assert [word["start"] for word in words] == pytest.approx(starts_s(WORDS), abs=0.001)
    ids = [message["caption_id"] for message in messages if message["type"] == "final"]
    assert len(set(ids)) == len(ids)
    assert messages[-1]["type"] == "done"


@pytest.mark.parametrize("seed", [1])
async def test_a_server_that_is_killed_again_and_again_loses_no_word(
    tmp_path: Path, seed: int
) -> None:
    chance = random.Random(seed)
    message_counts = [chance.randrange(1, 20) for _ in range(KILLS)]
    pcm = clip(1, WORDS, speakers=2)
    messages, lives = await through_crashes(tmp_path, Start(), pcm, message_counts)
    assert lives == list(range(1, KILLS + 2)), "each kill met the session"
    check_words(messages)
    assert messages[-1]["words"] == WORDS
    assert messages[-1]["audio_seconds"] == pytest.approx(len(pcm) / 2 / RATE, abs=0.001)
    assert messages[-1]["gap_seconds"] == 0
    names = {word["speaker"] for word in words_of(messages)} - {None}
    assert names <= {"S1", "S2"}


async def test_a_meeting_in_lanes_goes_on_after_a_crash(tmp_path: Path) -> None:
    start = Start(audio=AudioFormat(tagged=True))
    pcm = clip(1, WORDS)
    messages, lives = await through_crashes(tmp_path, start, pcm, [25], lanes=2)
    assert lives == [1, 2]
    for lane in range(2):
        check_words(messages, lane)
        assert {word["speaker"] for word in words_of(messages, lane)} == {f"Name {lane}"}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pair(
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[tuple[ServerChild, ServerChild]]:
    """Two servers over one store."""
    folder = tmp_path_factory.mktemp("pair")
    async with (
        running_server(OPTIONS, folder) as first,
        running_server(OPTIONS, folder) as second,
    ):
        yield first, second


async def test_a_session_moves_to_another_server_while_the_first_one_lives(
    pair: tuple[ServerChild, ServerChild],
) -> None:
    first, second = pair
    pcm = clip(1, WORDS)
    half = len(pcm) // 2
    talker = await Talker.start(first.url)
    await talker.play(pcm[:half])
    await talker.until_words(10)
    other = await Talker.resume(second.url, talker.ready, talker.last_seq)
    ready = await other.until("ready")
    frame = ready["resume_from_frame"]
    assert 0 < frame <= half // 2
    # The first server finds out at its next write, and says so.
    with contextlib.suppress(ConnectionClosed):
        await talker.play(pcm[half:])
    assert (await talker.refusal())["code"] == "superseded"
    await other.play(pcm[frame * 2 :])
    await other.finish()
    seen = [m for m in talker.messages if m.get("seq", 0) <= ready["seq"] and "seq" in m]
    finals = [m for m in (*seen, *other.messages) if m["type"] == "final"]
    assert [w["word"] for m in finals for w in m["words"]] == texts(1, WORDS)
    seqs = [m["seq"] for m in (*seen, *other.messages) if "seq" in m and m["type"] != "ready"]
    assert seqs == list(range(1, len(seqs) + 1))


async def test_only_the_holder_of_its_token_can_take_a_session_over(
    pair: tuple[ServerChild, ServerChild],
) -> None:
    first, second = pair
    talker = await Talker.start(first.url)
    stolen = {**talker.ready, "resume_token": "guessed"}
    thief = await Talker.resume(second.url, stolen)
    assert (await thief.refusal())["code"] == "unknown_session"
    await talker.play(clip(1, 5))
    assert await talker.finish() == texts(1, 5)
