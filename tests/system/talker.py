"""What the tests of a whole server share: speech with known words, raw connections, a witness.

A ``Talker`` is a bare WebSocket, so that a test sees every message and close code as it comes;
the client library, which repairs lost connections, is used where that is the subject.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any, Self

import numpy as np
import orjson
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from streaming.errors import CaptiondError
from streaming.scripted_audio import WORD_SAMPLES, encode_silence, encode_word, word_text
from streaming.wire import STREAM_PATH, SUBPROTOCOL

Message = dict[str, Any]

RATE = 16_000
PACKET_BYTES = 3_200
"""100 ms."""
LEAD_SAMPLES = 3_200
PAUSE_SAMPLES = 12_800
"""Longer than the silence that ends an utterance."""
MESSAGE_SECONDS_MAX = 20.0
"""A server that owes a message and is silent for so long is broken, on any machine."""
SCRIPTED = ("--asr", "scripted", "--diarizer", "none")


def clip(stream: int, words: int, *, per_utterance: int = 5, speakers: int = 1) -> bytes:
    """PCM16 of numbered words in utterances; speakers take turns by utterance."""
    parts = [encode_silence(LEAD_SAMPLES)]
    for number in range(words):
        parts.append(encode_word(stream, number, number // per_utterance % speakers))
        if (number + 1) % per_utterance == 0:
            parts.append(encode_silence(PAUSE_SAMPLES))
    return np.concatenate(parts).tobytes()


def texts(stream: int, words: int) -> list[str]:
    """What a recognizer should make of ``clip``."""
    return [word_text(stream, number) for number in range(words)]


def starts_s(
    words: int, *, per_utterance: int = 5, lead_samples: int = LEAD_SAMPLES
) -> list[float]:
    """Where the words of ``clip`` begin.

    To be checked wherever audio may be sent twice: the middle of a scripted word repeats itself,
    so a piece that was doubled there shows in the times of the words after it alone.
    """
    return [
        (lead_samples + n * WORD_SAMPLES + n // per_utterance * PAUSE_SAMPLES) / RATE
        for n in range(words)
    ]


def packets(pcm: bytes, size: int = PACKET_BYTES) -> Sequence[bytes]:
    return [pcm[at : at + size] for at in range(0, len(pcm), size)]


def final_words(messages: Sequence[Message]) -> list[str]:
    """Of all finals, in order."""
    return [w["word"] for m in messages if m["type"] == "final" for w in m["words"]]


def close_code_of(code: str) -> int:
    """The close code that belongs to an error code; fails for one that is not documented."""
    families = [CaptiondError]
    found = {}
    while families:
        family = families.pop()
        families += family.__subclasses__()
        if "code" in vars(family):
            found[family.code] = family.close_code
    return found[code]


class Talker:
    """One connection and everything that came over it."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.messages: list[Message] = []

    @classmethod
    async def connect(cls, url: str, *, key: str | None = None, **options: Any) -> Self:
        """Up to the end of the handshake."""
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        options = {"compression": None, "subprotocols": [Subprotocol(SUBPROTOCOL)], **options}
        address = "ws" + url.removeprefix("http") + STREAM_PATH
        socket = await connect(address, additional_headers=headers, proxy=None, **options)
        return cls(socket)

    @classmethod
    async def start(cls, url: str, *, key: str | None = None, **fields: Any) -> Self:
        """A session that is ready."""
        talker = await cls.connect(url, key=key)
        await talker.say("start", **fields)
        await talker.until("ready")
        return talker

    @classmethod
    async def resume(
        cls, url: str, ready: Message, last_seq: int = 0, *, key: str | None = None
    ) -> Self:
        """Asks to go on with a session; the answer is still to be read."""
        talker = await cls.connect(url, key=key)
        names = ("session_id", "resume_token")
        await talker.say("resume", last_seq=last_seq, **{name: ready[name] for name in names})
        return talker

    @property
    def ready(self) -> Message:
        return next(m for m in self.messages if m["type"] == "ready")

    @property
    def last_seq(self) -> int:
        return max((m["seq"] for m in self.messages if "seq" in m), default=0)

    @property
    def words(self) -> list[str]:
        return final_words(self.messages)

    @property
    def word_starts_s(self) -> list[float]:
        return [w["start"] for m in self.messages if m["type"] == "final" for w in m["words"]]

    async def say(self, kind: str, **fields: Any) -> None:
        await self.socket.send(orjson.dumps({"type": kind, **fields}).decode())

    async def play(self, pcm: bytes) -> None:
        for packet in packets(pcm):
            await self.socket.send(packet)

    async def next(self) -> Message:
        """Raises: ConnectionClosed."""
        async with asyncio.timeout(MESSAGE_SECONDS_MAX):
            message: Message = orjson.loads(await self.socket.recv())
        self.messages.append(message)
        return message

    async def until(self, kind: str, **fields: Any) -> Message:
        """Reads up to a message of this kind and with these fields."""
        while True:
            message = await self.next()
            if message["type"] == kind and fields.items() <= message.items():
                return message

    async def until_words(self, count: int) -> None:
        """Reads until so many words are final."""
        while len(self.words) < count:
            await self.next()

    async def until_closed(self) -> int:
        """Reads what is left and returns the close code; 1006 for none."""
        try:
            while True:
                await self.next()
        except ConnectionClosed as closed:
            return closed.rcvd.code if closed.rcvd else 1006

    async def refusal(self) -> Message:
        """Reads to the close and returns the error before it; checks that the two agree."""
        close_code = await self.until_closed()
        assert self.messages, f"closed with {close_code} and no error message"
        error = self.messages[-1]
        assert error["type"] == "error", error
        assert close_code == close_code_of(error["code"]), (close_code, error)
        return error

    async def finish(self) -> list[str]:
        """End the session in good order; all its words."""
        await self.say("end")
        assert await self.until_closed() == 1000, self.messages[-3:]
        assert self.messages[-1]["type"] == "done"
        return self.words

    def cut(self) -> None:
        """As a lost network would: no close frame."""
        self.socket.transport.abort()


class Witness:
    """A session that talks on, whatever others do to the server, and must not notice."""

    stream = 4_000_000

    def __init__(self, talker: Talker) -> None:
        self._talker = talker
        self._is_enough = asyncio.Event()
        self._said = 0

    async def talk(self) -> None:
        """Until it is told that it is enough; ten times as fast as people talk."""
        while not self._is_enough.is_set():
            parts = [encode_word(self.stream, self._said + i) for i in range(3)]
            pcm = np.concatenate([*parts, encode_silence(PAUSE_SAMPLES)]).tobytes()
            for packet in packets(pcm):
                await self._talker.socket.send(packet)
                await asyncio.sleep(0.01)
            self._said += 3
        await self._talker.say("end")

    async def listen(self) -> None:
        assert await self._talker.until_closed() == 1000, self._talker.messages[-3:]

    def stop(self) -> None:
        self._is_enough.set()

    def check(self) -> None:
        """Every word exactly once, in order and in its place, nothing else, and no error."""
        kinds = {message["type"] for message in self._talker.messages}
        assert self._talker.words == texts(self.stream, self._said)
        places = starts_s(self._said, per_utterance=3, lead_samples=0)
        assert self._talker.word_starts_s == pytest.approx(places, abs=0.001)
        assert self._talker.messages[-1]["type"] == "done"
        assert not kinds & {"error", "gap", "degraded"}


@contextlib.asynccontextmanager
async def witness(url: str, *, key: str | None = None) -> AsyncIterator[Witness]:
    """Somebody who captions throughout the block, and whose every word is checked after it."""
    one = Witness(await Talker.start(url, key=key))
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(one.listen())
        tasks.create_task(one.talk())
        try:
            yield one
        finally:
            one.stop()
    one.check()
