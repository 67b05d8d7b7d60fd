"""One bare WebSocket client that pings all the while, and the account of what it was told.

The client library hides closes and pings, so this is a raw connection: what a browser sees. A word
that is in no final must lie in a gap that the client was told of; anything else is a word lost.
"""

import asyncio
import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from load_tests.oracle import FinalWord, Mistakes, find_mistakes
from load_tests.workload import PlannedWord, StreamPlan, packets_of
from streaming.timeline import SAMPLE_RATE_HZ
from streaming.wire import STREAM_PATH, SUBPROTOCOL

PING_SECONDS = 1.0
PONG_SECONDS_MAX = 10.0
"""A server that answers later is taken for dead by a browser's or a proxy's keepalive."""
NORMAL_CLOSE = 1000


@dataclass(slots=True)
class Told:
    """What one client was told."""

    plan: StreamPlan
    finals: list[FinalWord] = field(default_factory=list)
    gaps: list[tuple[float, float]] = field(default_factory=list)
    """Seconds on the audio clock."""
    last_seq: int = 0
    broken_seqs: int = 0
    is_done: bool = False
    close_code: int | None = None
    ended_s: float | None = None
    """When ``end`` was sent; monotonic."""
    over_s: float = 0.0
    """When the connection was closed."""
    pings: int = 0
    pongs_s: list[float] = field(default_factory=list)
    """How long each answered ping took."""

    def note(self, message: dict[str, Any]) -> None:
        if "seq" in message and message["type"] != "ready":
            self.broken_seqs += message["seq"] != self.last_seq + 1
            self.last_seq = message["seq"]
        if message["type"] == "final":
            now_s = time.monotonic()
            self.finals += [FinalWord(w["word"], w["start"], now_s) for w in message["words"]]
        elif message["type"] == "gap":
            self.gaps.append((message["start"], message["end"]))
        elif message["type"] == "done":
            self.is_done = True

    @property
    def mistakes(self) -> Mistakes:
        """``lost`` are the words that no gap explains."""
        owed = [w for w in self.plan.words if not self._is_in_gap(w)]
        expected = [(w.text, self._start_beside_gaps(w)) for w in owed]
        return find_mistakes(self.plan.stream, expected, self.finals)

    @property
    def words_in_gaps(self) -> int:
        return sum(map(self._is_in_gap, self.plan.words))

    def _is_in_gap(self, word: PlannedWord) -> bool:
        """A window that was lost may end inside a word: whose word it is the middle decides."""
        middle_s = (word.start + word.end) / 2 / SAMPLE_RATE_HZ
        return any(begin <= middle_s < end for begin, end in self.gaps)

    def _start_beside_gaps(self, word: PlannedWord) -> int:
        """Where the word begins, or what a gap has left of it."""
        ends = (round(end * SAMPLE_RATE_HZ) for _, end in self.gaps)
        return max([word.start, *(end for end in ends if end <= (word.start + word.end) // 2)])

    @property
    def end_to_done_s(self) -> float:
        return self.over_s - self.ended_s if self.ended_s is not None else 0.0

    @property
    def is_good(self) -> bool:
        """It came to its end in good order, and nothing is unexplained."""
        is_orderly = self.is_done and self.close_code == NORMAL_CLOSE and self.broken_seqs == 0
        is_answered = self.pings > 0 and len(self.pongs_s) == self.pings
        return is_orderly and is_answered and self.mistakes == Mistakes()


async def caption(url: str, plan: StreamPlan, seconds_max: float) -> Told:
    """Says everything at the pace of speech, and waits for its end, but not for ever."""
    told = Told(plan)
    address = "ws" + url.removeprefix("http") + STREAM_PATH
    async with connect(
        address, subprotocols=[Subprotocol(SUBPROTOCOL)], compression=None, proxy=None
    ) as socket:
        await socket.send('{"type":"start"}')
        pinging = asyncio.create_task(_ping(socket, told))
        speaking = asyncio.create_task(_speak(socket, told))
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds_max):
                    await _read(socket, told)
        finally:
            told.over_s = time.monotonic()
            pinging.cancel()
            speaking.cancel()
            await asyncio.gather(pinging, speaking, return_exceptions=True)
    return told


async def _read(socket: ClientConnection, told: Told) -> None:
    try:
        while True:
            told.note(orjson.loads(await socket.recv()))
    except ConnectionClosed:
        told.close_code = socket.close_code


async def _speak(socket: ClientConnection, told: Told) -> None:
    packet_s = told.plan.packet_samples / SAMPLE_RATE_HZ
    began_s = time.monotonic()
    for number, packet in enumerate(packets_of(told.plan), start=1):
        await asyncio.sleep(max(0.0, began_s + number * packet_s - time.monotonic()))
        await socket.send(packet)
    await socket.send('{"type":"end"}')
    told.ended_s = time.monotonic()


async def _ping(socket: ClientConnection, told: Told) -> None:
    while True:
        await asyncio.sleep(PING_SECONDS)
        pong = await socket.ping()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PONG_SECONDS_MAX):
                told.pings += 1
                try:
                    told.pongs_s.append(await pong)
                except (asyncio.CancelledError, ConnectionClosed):
                    told.pings -= 1  # the session was over first
                    raise


def longest_pong_s(told: Sequence[Told]) -> float:
    return max((pong_s for one in told for pong_s in one.pongs_s), default=0.0)
