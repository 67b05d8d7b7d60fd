"""A Deepgram client as bare as can be: a test sees every message, header and close code."""

import asyncio
from typing import Any, Self
from urllib.parse import urlencode

import orjson
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from tests.system.talker import MESSAGE_SECONDS_MAX, packets

Message = dict[str, Any]
RAW = {"model": "nova-3", "encoding": "linear16", "sample_rate": 16_000}


class Caller:
    """One live stream and everything that came over it."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.messages: list[Message] = []

    @classmethod
    async def connect(
        cls,
        url: str,
        query: dict[str, Any] | None = None,
        *,
        key: str | None = None,
        subprotocols: list[str] | None = None,
        **options: Any,
    ) -> Self:
        """Raises: InvalidStatus where it is refused."""
        given = {**RAW, **(query or {})}
        asked = {name: value for name, value in given.items() if value is not None}
        address = f"ws{url.removeprefix('http')}/v1/listen?{urlencode(asked, doseq=True)}"
        offered = None if subprotocols is None else [Subprotocol(s) for s in subprotocols]
        headers = {"Authorization": f"Token {key}"} if key else {}
        socket = await connect(
            address,
            additional_headers=headers,
            subprotocols=offered,
            compression=None,
            proxy=None,
            **options,
        )
        return cls(socket)

    @property
    def request_id(self) -> str:
        assert self.socket.response is not None
        return self.socket.response.headers["dg-request-id"]

    async def play(self, audio: bytes, packet_bytes: int = 3_200) -> None:
        for packet in packets(audio, packet_bytes):
            await self.socket.send(packet)

    async def say(self, kind: str, **fields: Any) -> None:
        await self.socket.send(orjson.dumps({"type": kind, **fields}).decode())

    async def next(self) -> Message:
        """Raises: ConnectionClosed."""
        async with asyncio.timeout(MESSAGE_SECONDS_MAX):
            message: Message = orjson.loads(await self.socket.recv())
        self.messages.append(message)
        return message

    async def until(self, kind: str, **fields: Any) -> Message:
        """The next message of that type with those fields."""
        while True:
            message = await self.next()
            if message["type"] == kind and fields.items() <= message.items():
                return message

    async def until_closed(self) -> tuple[int, str]:
        """Code and reason."""
        try:
            while True:
                await self.next()
        except ConnectionClosed:
            code, reason = self.socket.close_code, self.socket.close_reason
            return code or 1006, reason or ""

    async def finish(self) -> list[str]:
        """CloseStream and what follows; the words of all finals."""
        await self.say("CloseStream")
        assert await self.until_closed() == (1000, "")
        assert self.messages[-1]["type"] == "Metadata"
        return self.words()

    def results(self, channel: int = 0, *, is_final: bool = True) -> list[Message]:
        return [
            message
            for message in self.messages
            if message["type"] == "Results"
            and message["channel_index"][0] == channel
            and message["is_final"] == is_final
        ]

    def words(self, channel: int = 0) -> list[str]:
        """Of all finals, in order."""
        return [word["word"] for word in self.word_fields(channel)]

    def word_fields(self, channel: int = 0) -> list[Message]:
        finals = self.results(channel)
        return [w for m in finals for w in m["channel"]["alternatives"][0]["words"]]

    def check_tiling(self, channel: int = 0) -> None:
        """Each final begins where the one before it ended."""
        at = 0.0
        for message in self.results(channel):
            assert round(message["start"] - at, 3) == 0
            at = message["start"] + message["duration"]
