"""SIGTERM: what was received is captioned, stored and delivered, no word is cut; nobody new is let
in."""

import asyncio
import contextlib
import signal
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import orjson
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from server.child import ServerChild, running_server
from tests.system.talker import (
    PACKET_BYTES,
    SCRIPTED,
    Message,
    Talker,
    clip,
    packets,
    starts_s,
    texts,
)

pytestmark = pytest.mark.slow

SESSIONS = 10
WORDS = 40
SIGNAL_AFTER_PACKETS = 30
PACKET_SECONDS = 0.1
EXIT_SECONDS_MAX = 20.0
CARRIER_BYTES, WORD_BYTES = 8_192, 10_240
LEAD_BYTES = 6_400
PAUSE_BYTES = 25_600
PER_UTTERANCE = 5
INSIDE_A_WORD_BYTES = LEAD_BYTES + 7 * WORD_BYTES + PAUSE_BYTES + CARRIER_BYTES // 2
FAST_PACKET_SECONDS = 0.02


@asynccontextmanager
async def server(folder: Path, *options: str) -> AsyncIterator[ServerChild]:
    async with running_server([*SCRIPTED, *options], folder) as child:
        yield child


def words_within(pcm_bytes: int) -> int:
    """How many words of a ``clip`` have their last sample in its first bytes."""
    ends = (
        LEAD_BYTES + n * WORD_BYTES + n // PER_UTTERANCE * PAUSE_BYTES + CARRIER_BYTES
        for n in range(WORDS)
    )
    return sum(end <= pcm_bytes for end in ends)


def stored_words(folder: Path, session_id: str) -> list[str]:
    """Of all finals in the store, read from the file as any other program would."""
    with sqlite3.connect(folder / "captiond.db") as connection:
        rows = connection.execute(
            "SELECT body FROM events WHERE session_id = ? AND type = 'final' ORDER BY seq",
            [session_id],
        ).fetchall()
    return [word["word"] for [body] in rows for word in orjson.loads(body)["words"]]


class LiveTalker:
    """Talks at real-time pace until the server goes away."""

    def __init__(self, stream: int, talker: Talker) -> None:
        self.stream = stream
        self.talker = talker
        self.arrived_bytes = 0
        self.half_way = asyncio.Event()
        self.received_before_signal = 0

    async def talk(self) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            for i, packet in enumerate(packets(clip(self.stream, WORDS))):
                await asyncio.sleep(began + i * PACKET_SECONDS - loop.time())
                await self.talker.socket.send(packet)
                self.arrived_bytes = (i + 1) * PACKET_BYTES
                if i == SIGNAL_AFTER_PACKETS:
                    self.half_way.set()
        except ConnectionClosed:
            return

    async def note_what_arrived(self) -> None:
        """A pong proves that the server has taken all that was sent before its ping."""
        sent = self.arrived_bytes
        await (await self.talker.socket.ping())
        self.received_before_signal = sent

    def check(self, close_code: int, folder: Path) -> None:
        due = words_within(self.received_before_signal)
        assert due >= 5
        words = self.talker.words
        assert words == texts(self.stream, len(words))
        assert len(words) >= due, f"stream {self.stream}: {len(words)} of {due}"
        assert stored_words(folder, self.talker.ready["session_id"]) == words
        assert close_code == 1012
        check_farewell(self.talker.messages)


def check_farewell(messages: list[Message]) -> None:
    kinds = [message["type"] for message in messages]
    assert messages[kinds.index("draining")]["deadline_s"] > 0
    assert messages[-1]["type"] == "error"
    assert messages[-1]["code"] == "draining"
    assert "gap" not in kinds


async def test_every_word_that_arrived_is_delivered_and_stored(tmp_path: Path) -> None:
    # A slow engine, so that the drain lasts long enough to be looked at.
    async with server(tmp_path, "--asr-options", "latency_ms=400") as child:
        lives = [
            LiveTalker(number, await Talker.start(child.url)) for number in range(1, SESSIONS + 1)
        ]
        async with asyncio.TaskGroup() as tasks:
            listening = [tasks.create_task(live.talker.until_closed()) for live in lives]
            for live in lives:
                tasks.create_task(live.talk())
            await asyncio.gather(*(live.half_way.wait() for live in lives))
            await asyncio.gather(*(live.note_what_arrived() for live in lives))
            child.process.send_signal(signal.SIGTERM)
            await check_nobody_new(child.url)
        status = await asyncio.wait_for(child.process.wait(), EXIT_SECONDS_MAX)
    for live, close_code in zip(lives, listening, strict=True):
        live.check(close_code.result(), tmp_path)
    assert status == 0


async def check_nobody_new(url: str) -> None:
    async with aiohttp.ClientSession() as http:
        while (ready := await http.get(f"{url}/readyz")).status == 200:
            pass  # the signal is on its way
        assert ready.status == 503
        assert int(ready.headers["Retry-After"]) >= 1
        assert (await http.get(f"{url}/healthz")).status == 200
    with pytest.raises(InvalidStatus) as refused:
        await Talker.connect(url)
    assert refused.value.response.status_code == 503
    assert int(refused.value.response.headers["Retry-After"]) >= 1
    assert orjson.loads(refused.value.response.body or b"")["code"] == "draining"


async def talk_on(talker: Talker, pcm: bytes) -> None:
    """Five times as fast as people talk, until the server goes away."""
    with contextlib.suppress(ConnectionClosed):
        for packet in packets(pcm):
            await talker.socket.send(packet)
            await asyncio.sleep(FAST_PACKET_SECONDS)


@pytest.mark.parametrize(
    ("per_utterance", "drain_s"),
    [(PER_UTTERANCE, 60), (10 * WORDS, 2)],
    ids=["to the end of a sentence", "between two words"],
)
async def test_who_talks_on_goes_on_with_the_next_server(
    tmp_path: Path, per_utterance: int, drain_s: int
) -> None:
    """Told to go in the middle of a word, with more words to come."""
    pcm = clip(1, WORDS, per_utterance=per_utterance)
    async with server(tmp_path, "--drain-s", str(drain_s)) as child:
        first = await Talker.start(child.url)
        await first.play(pcm[:INSIDE_A_WORD_BYTES])
        await (await first.socket.ping())
        child.process.send_signal(signal.SIGTERM)
        await first.until("draining")
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(talk_on(first, pcm[INSIDE_A_WORD_BYTES:]))
            assert await first.until_closed() == 1012
        assert await asyncio.wait_for(child.process.wait(), EXIT_SECONDS_MAX) == 0
    check_farewell(first.messages)
    assert words_within(INSIDE_A_WORD_BYTES) < len(first.words) < WORDS
    async with server(tmp_path) as child:
        second = await Talker.resume(child.url, first.ready, first.last_seq)
        frame = (await second.until("ready"))["resume_from_frame"]
        await second.play(pcm[2 * frame :])
        assert first.words + await second.finish() == texts(1, WORDS)
    starts = starts_s(WORDS, per_utterance=per_utterance)
    assert first.word_starts_s + second.word_starts_s == pytest.approx(starts, abs=0.001)
    assert stored_words(tmp_path, first.ready["session_id"]) == texts(1, WORDS)


async def test_a_client_that_ends_while_it_is_heard_out_gets_its_end(tmp_path: Path) -> None:
    async with server(tmp_path) as child:
        talker = await Talker.start(child.url)
        await talker.play(clip(1, 7))
        await (await talker.socket.ping())
        child.process.send_signal(signal.SIGTERM)
        await talker.until("draining")
        await talker.say("end")
        assert await talker.until_closed() == 1000
        assert talker.messages[-1]["type"] == "done"
        assert talker.words == texts(1, 7)
        assert await asyncio.wait_for(child.process.wait(), EXIT_SECONDS_MAX) == 0


async def test_sessions_that_were_ending_end_in_good_order(tmp_path: Path) -> None:
    async with server(tmp_path, "--asr-options", "latency_ms=400") as child:
        talker = await Talker.start(child.url)
        await talker.play(clip(1, 10))
        await talker.say("end")
        await (await talker.socket.ping())
        child.process.send_signal(signal.SIGTERM)
        assert await talker.until_closed() == 1000
        assert talker.messages[-1]["type"] == "done"
        assert talker.words == texts(1, 10)
        assert await asyncio.wait_for(child.process.wait(), EXIT_SECONDS_MAX) == 0


async def test_clients_that_have_not_begun_are_sent_away(tmp_path: Path) -> None:
    async with server(tmp_path) as child:
        silent = await Talker.connect(child.url)
        child.process.send_signal(signal.SIGTERM)
        assert (await silent.refusal())["code"] == "draining"
        assert await asyncio.wait_for(child.process.wait(), EXIT_SECONDS_MAX) == 0


async def test_sessions_without_a_client_are_finished_and_stored(tmp_path: Path) -> None:
    async with server(tmp_path) as child:
        talker = await Talker.start(child.url)
        await talker.play(clip(1, 7))
        await (await talker.socket.ping())
        talker.cut()
        child.process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(child.process.wait(), EXIT_SECONDS_MAX) == 0
    assert stored_words(tmp_path, talker.ready["session_id"]) == texts(1, 7)


HANGING = ("--asr-options", "hang_every=1", "--drain-s")


async def test_a_second_signal_ends_the_wait(tmp_path: Path) -> None:
    async with server(tmp_path, *HANGING, "600") as child:
        talker = await Talker.start(child.url)
        await talker.play(clip(1, 5))
        await (await talker.socket.ping())
        child.process.send_signal(signal.SIGTERM)
        await talker.until("draining")
        child.process.send_signal(signal.SIGTERM)
        assert (await talker.refusal())["code"] == "draining"
        assert await asyncio.wait_for(child.process.wait(), EXIT_SECONDS_MAX) == 0


async def test_the_drain_has_an_end(tmp_path: Path) -> None:
    async with server(tmp_path, *HANGING, "1") as child:
        talker = await Talker.start(child.url)
        await talker.play(clip(1, 5))
        await (await talker.socket.ping())
        child.process.send_signal(signal.SIGTERM)
        assert (await talker.refusal())["code"] == "draining"
        assert await asyncio.wait_for(child.process.wait(), EXIT_SECONDS_MAX) == 0
