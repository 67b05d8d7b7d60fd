"""Lost connections: no word is lost or doubled, whoever resumes, wherever the line broke."""

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import orjson
import pytest

from clients.reconnect import Retry
from clients.stream import CaptionStream
from server.child import ServerChild
from streaming.events import DurableEvent
from streaming.exports.transcript import Transcript
from streaming.wire import Start, parse_durable_event
from tests.system.talker import RATE, Message, Talker, clip, packets, starts_s, texts, witness

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]

SERVER_OPTIONS = ("--diarizer", "scripted", "--resume-window-s", "4")
KILLS = 20
WORDS = 125
"""With their pauses, 60 s of audio."""
PER_UTTERANCE = 5
SPEAKERS = 2
CLIP = clip(1, WORDS, speakers=SPEAKERS)
WAIT_SECONDS_MAX = 30.0


def check_all(durable: Sequence[Message], *, stream: int = 1, words: int = WORDS) -> None:
    """Every word once and in order, events without a gap, each utterance by its speaker."""
    assert [event["seq"] for event in durable] == list(range(1, len(durable) + 1))
    assert durable[-1]["type"] == "done"
    check_words([parse_durable_event(event) for event in durable], stream, words)


def check_words(events: Sequence[DurableEvent], stream: int, words: int) -> None:
    said = [word for caption in Transcript.from_events(events).captions for word in caption.words]
    assert [word.text for word in said] == texts(stream, words)
    places = [start_s * RATE for start_s in starts_s(words)]
    assert [word.span.start for word in said] == pytest.approx(places, abs=16)
    names: dict[int, set[str | None]] = {}
    for number, word in enumerate(said):
        names.setdefault(number // PER_UTTERANCE % SPEAKERS, set()).add(word.speaker)
    assert sorted(map(str, set.union(*names.values()))) == ["S1", "S2"]
    assert all(len(spoken_by) == 1 for spoken_by in names.values())


class Resumer:
    """A client written from the protocol alone: cut, come back, send from where it is told."""

    def __init__(self, url: str, pcm: bytes) -> None:
        self._url, self._pcm = url, pcm
        self.durable: list[Message] = []
        self.connections = 0

    async def run(self, cuts: Sequence[int]) -> None:
        """Abort the socket after each of these many bytes of audio, then finish."""
        talker = await Talker.start(self._url)
        at = 0
        for cut in cuts:
            reading = asyncio.create_task(talker.until_closed())
            await self._send(talker, at, cut)
            talker.cut()
            await reading
            talker, at = await self._come_back(talker)
        reading = asyncio.create_task(talker.until_closed())
        await self._send(talker, at, len(self._pcm))
        await talker.say("end")
        assert await reading == 1000
        self._keep(talker)

    async def _send(self, talker: Talker, at: int, end: int) -> None:
        for packet in packets(self._pcm[at:end]):
            await talker.socket.send(packet)
            await asyncio.sleep(0.005)

    async def _come_back(self, lost: Talker) -> tuple[Talker, int]:
        self._keep(lost)
        talker = await Talker.resume(self._url, lost.ready, len(self.durable))
        self.connections += 1
        ready = await talker.until("ready")
        assert ready["session_id"] == lost.ready["session_id"]
        return talker, ready["resume_from_frame"] * 2

    def _keep(self, talker: Talker) -> None:
        self.durable += [message for message in talker.messages if "seq" in message][1:]


async def test_twenty_kills_lose_nothing(server: ServerChild) -> None:
    assert 60 <= len(CLIP) / 32_000 < 65
    chance = random.Random(20)
    cuts = sorted(chance.sample(range(3_200, len(CLIP)), KILLS))
    resumer = Resumer(server.url, CLIP)
    async with witness(server.url):
        await resumer.run(cuts)
    assert resumer.connections == KILLS
    check_all(resumer.durable)


class CuttingRelay:
    """Passes TCP on, and resets both ends after so many bytes: inside headers, frames, JSON."""

    def __init__(self, url: str, cuts: Sequence[tuple[str, int]]) -> None:
        self._host, port = url.removeprefix("http://").split(":")
        self._port = int(port)
        self._cuts = list(cuts)
        self.url = url
        self.cuts_made = 0

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        direction, budget = self._cuts.pop(0) if self._cuts else ("", 0)
        is_cutting = bool(direction)
        far_reader, far_writer = await asyncio.open_connection(self._host, self._port)
        copies = [
            asyncio.create_task(_copy(reader, far_writer, budget if direction == "up" else None)),
            asyncio.create_task(_copy(far_reader, writer, budget if direction == "down" else None)),
        ]
        await asyncio.wait(copies, return_when=asyncio.FIRST_COMPLETED)
        for copy in copies:
            copy.cancel()
        self.cuts_made += is_cutting
        for end in (writer, far_writer):
            end.transport.abort()


async def _copy(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, budget: int | None
) -> None:
    left = budget
    while left is None or left > 0:
        try:
            chunk = await reader.read(4_096 if left is None else min(4_096, left))
        except ConnectionError:
            return
        if not chunk:
            return
        left = None if left is None else left - len(chunk)
        writer.write(chunk)


@asynccontextmanager
async def cutting(url: str, cuts: Sequence[tuple[str, int]]) -> AsyncIterator[CuttingRelay]:
    relay = CuttingRelay(url, cuts)
    listener = await asyncio.start_server(relay.handle, "127.0.0.1", 0)
    relay.url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    async with listener:
        yield relay


async def caption(url: str, pcm: bytes) -> tuple[list[Message], int]:
    """Through the client library: durable messages, and how many connections it took."""
    messages: dict[int, Message] = {}

    def note(text: str) -> None:
        message = orjson.loads(text)
        if "seq" in message and message["type"] != "ready":
            messages[message["seq"]] = message

    retry = Retry(first_delay_ms=1, delay_ms_max=5, tries_max=1_000)
    async with CaptionStream.open(url, Start(), retry=retry, on_message=note) as stream:

        async def send() -> None:
            for packet in packets(pcm):
                await stream.send(packet)
                await asyncio.sleep(0)
            await stream.end()

        sending = asyncio.create_task(send())
        seqs = [event.seq async for event in stream if isinstance(event, DurableEvent)]
        await sending
    assert seqs == sorted(set(seqs))
    return [messages[seq] for seq in seqs], stream.connections


@pytest.mark.parametrize("seed", [1, 2])
async def test_the_client_library_survives_cuts_at_any_byte(server: ServerChild, seed: int) -> None:
    chance = random.Random(seed)
    # At the first byte of an answer, in the handshake, and anywhere later; a first connection
    # that is lost before `ready` is another matter: nothing has begun.
    cuts = [("up", 40_000), ("down", 1), ("up", 100), ("up", 600), ("down", 250)]
    while len(cuts) < KILLS:
        direction = chance.choice(["up", "down"])
        limit = 200_000 if direction == "up" else 4_000
        cuts.append((direction, chance.randrange(700, limit)))
    async with witness(server.url), cutting(server.url, cuts) as relay:
        durable, connections = await caption(relay.url, CLIP)
    assert relay.cuts_made >= 10
    assert connections >= 8
    check_all(durable)


async def test_a_done_that_was_missed_comes_again(server: ServerChild) -> None:
    talker = await Talker.start(server.url)
    await talker.play(clip(2, 10, speakers=SPEAKERS))
    await talker.say("end")
    await (await talker.socket.ping())
    talker.cut()
    again = await Talker.resume(server.url, talker.ready)
    assert await again.until_closed() == 1000
    assert again.messages[-1]["type"] == "done"
    assert again.words == texts(2, 10)


async def test_a_delivered_session_is_gone_and_its_transcript_is_not(server: ServerChild) -> None:
    talker = await Talker.start(server.url)
    await talker.play(clip(2, 10, speakers=SPEAKERS))
    await talker.finish()
    again = await Talker.resume(server.url, talker.ready)
    assert (await again.refusal())["code"] in ("unknown_session", "session_expired")
    assert await transcript_words(server.url, talker.ready["session_id"]) == texts(2, 10)


async def test_after_the_window_only_the_transcript_is_left(server: ServerChild) -> None:
    talker = await Talker.start(server.url)
    await talker.play(clip(3, 12, speakers=SPEAKERS))
    await (await talker.socket.ping())
    talker.cut()
    record = await until_ended(server.url, talker.ready["session_id"])
    assert record["ended_at"] is not None
    again = await Talker.resume(server.url, talker.ready)
    assert (await again.refusal())["code"] in ("unknown_session", "session_expired")
    assert await transcript_words(server.url, talker.ready["session_id"]) == texts(3, 12)


async def test_a_client_that_comes_back_keeps_the_session(server: ServerChild) -> None:
    """Absent several times, in all for longer than the window."""
    pcm = clip(4, 20, speakers=SPEAKERS)
    cuts = list(range(50_000, len(pcm), 60_000))
    resumer = Resumer(server.url, pcm)
    await resumer.run(cuts)
    check_all(resumer.durable, stream=4, words=20)


async def until_ended(url: str, session_id: str) -> dict[str, Any]:
    """Asks for the record until it says that the session has ended."""
    async with aiohttp.ClientSession() as http, asyncio.timeout(WAIT_SECONDS_MAX):
        while True:
            answer = await http.get(f"{url}/v1/sessions/{session_id}")
            record: dict[str, Any] = await answer.json()
            if record["state"] != "open":
                return record
            await asyncio.sleep(0.1)


async def transcript_words(url: str, session_id: str) -> list[str]:
    async with aiohttp.ClientSession() as http:
        answer = await http.get(f"{url}/v1/sessions/{session_id}/transcript?format=txt")
        assert answer.status == 200
        text = await answer.text()
    return [word for word in text.split() if word.startswith("w")]
