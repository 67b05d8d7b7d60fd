"""Virtual users: each sends its packets by its own clock, whatever the server does.

Open loop: nobody waits for an answer, and a full socket buffer holds nobody up, so a slow server
cannot slow its own load. Only the protocol's credit stops a user, and that is counted.
One connection per user, never resumed: a lost connection is a result, not a thing to repair.
Bound: what a user has sent ahead lies within the server's credit.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import orjson
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus
from websockets.typing import Subprotocol

from load_tests.oracle import FinalWord
from load_tests.workload import StreamPlan, packets_of
from streaming.timeline import SAMPLE_RATE_HZ
from streaming.wire import STREAM_PATH, SUBPROTOCOL, Start, encode_client_message

WRITE_BUFFER_BYTES = 16 * 1024 * 1024
"""Above any server's credit, so that ``send`` never waits for the network."""
DONE_SECONDS_MAX = 60.0
"""After the last packet; a server that says nothing for so long has lost the session."""
OPEN_SECONDS_MAX = 30.0
_END = '{"type":"end"}'

Clock = Callable[[], float]
Sleep = Callable[[float], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Target:
    """Where the load goes."""

    url: str
    """http://host:port or ws://host:port."""
    api_key: str | None = None
    diarize: bool = True

    @property
    def stream_url(self) -> str:
        return "ws" + self.url.removeprefix("http").removeprefix("ws").rstrip("/") + STREAM_PATH

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.api_key}"} if self.api_key else {}


@dataclass(slots=True)
class Heard:
    """What happened to one virtual user; times are monotonic seconds."""

    plan: StreamPlan
    sent_s: list[float] = field(default_factory=list)
    """When each packet left."""
    lateness_s: list[float] = field(default_factory=list)
    """Against its schedule, or against the credit it had to wait for."""
    credit_waits: int = 0
    shown_s: dict[str, float] = field(default_factory=dict)
    """When each text first stood in a partial or final."""
    finals: list[FinalWord] = field(default_factory=list)
    partials: int = 0
    gaps: int = 0
    done: dict[str, Any] | None = None
    refusal: str | None = None
    """Code of the error that came instead of ``ready``."""
    retry_after_s: float | None = None
    """When the refusal said to come back."""
    errors: Counter[str] = field(default_factory=Counter)


class VirtualUser:
    """One microphone."""

    def __init__(
        self,
        plan: StreamPlan,
        target: Target,
        *,
        clock: Clock = time.monotonic,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self.heard = Heard(plan)
        self._target = target
        self._clock, self._sleep = clock, sleep
        self._credit_frame = 0
        self._more_credit = asyncio.Event()

    async def talk(self, starts_at_s: float) -> Heard:
        """Begins at ``starts_at_s`` of the clock; never raises for what the server does."""
        await self._sleep(starts_at_s - self._clock())
        try:
            async with await self._connect() as socket:
                await self._converse(socket)
        except InvalidStatus as error:
            self.heard.refusal = _code_of(bytes(error.response.body or b""))
            hint = error.response.headers.get("Retry-After", "")
            self.heard.retry_after_s = float(hint) if hint.isdigit() else None
        except (OSError, TimeoutError, InvalidHandshake) as error:
            self.heard.errors[type(error).__name__] += 1
        except ConnectionClosed as closed:
            self._note_close(closed)
        return self.heard

    async def _connect(self) -> ClientConnection:
        return await connect(
            self._target.stream_url,
            subprotocols=[Subprotocol(SUBPROTOCOL)],
            additional_headers=self._target.headers,
            compression=None,
            proxy=None,
            open_timeout=OPEN_SECONDS_MAX,
            ping_interval=None,
            write_limit=WRITE_BUFFER_BYTES,
        )

    async def _converse(self, socket: ClientConnection) -> None:
        await socket.send(encode_client_message(Start(diarize=self._target.diarize)))
        ready = orjson.loads(await socket.recv())
        if ready["type"] != "ready":
            self.heard.refusal = str(ready.get("code", ready["type"]))
            self.heard.retry_after_s = (ready.get("retry_after_ms") or 0) / 1000 or None
            return
        self._credit_frame = ready["credit_until_frame"]
        async with asyncio.TaskGroup() as tasks:
            sender = tasks.create_task(self._send_all(socket))
            await self._read_all(socket)
            sender.cancel()

    async def _send_all(self, socket: ClientConnection) -> None:
        try:
            await self._send_by_the_clock(socket)
            await socket.send(_END)
        except ConnectionClosed:
            return  # the reader sees the same close, and notes it
        await asyncio.sleep(DONE_SECONDS_MAX)
        self.heard.errors["no_done"] += 1
        await socket.close()

    async def _send_by_the_clock(self, socket: ClientConnection) -> None:
        plan, packet_s = self.heard.plan, self.heard.plan.packet_samples / SAMPLE_RATE_HZ
        began_s = self._clock()
        for i, packet in enumerate(packets_of(plan)):
            # A microphone gives a packet when its last sample has been spoken.
            due_s = began_s + (i + 1) * packet_s
            await self._sleep(due_s - self._clock())
            due_s = max(due_s, await self._credit_for((i + 1) * plan.packet_samples))
            await socket.send(packet)
            now_s = self._clock()
            self.heard.sent_s.append(now_s)
            self.heard.lateness_s.append(max(0.0, now_s - due_s))

    async def _credit_for(self, frame: int) -> float:
        """Returns when the credit reached ``frame``; 0 where it had long."""
        if min(frame, self.heard.plan.samples) <= self._credit_frame:
            return 0.0
        self.heard.credit_waits += 1
        while min(frame, self.heard.plan.samples) > self._credit_frame:
            self._more_credit.clear()
            await self._more_credit.wait()
        return self._clock()

    async def _read_all(self, socket: ClientConnection) -> None:
        try:
            async for data in socket:
                self.receive(data, self._clock())
        except ConnectionClosed as closed:
            self._note_close(closed)
            return
        if self.heard.done is None and not self.heard.errors:
            self.heard.errors["closed_early"] += 1

    def _note_close(self, closed: ConnectionClosed) -> None:
        if not self.heard.errors:
            code = closed.rcvd.code if closed.rcvd else 1006
            self.heard.errors[f"closed_{code}"] += 1

    def receive(self, data: str | bytes, now_s: float) -> None:
        """Note one message of the server."""
        heard, message = self.heard, orjson.loads(data)
        match message["type"]:
            case "partial":
                heard.partials += 1
                for word in message["words"]:
                    heard.shown_s.setdefault(word["word"], now_s)
            case "final":
                for word in message["words"]:
                    heard.shown_s.setdefault(word["word"], now_s)
                    heard.finals.append(FinalWord(word["word"], word["start"], now_s))
            case "ack":
                self._credit_frame = message["credit_until_frame"]
                self._more_credit.set()
            case "gap":
                heard.gaps += 1
            case "error":
                heard.errors[message["code"]] += 1
            case "done":
                heard.done = message


def _code_of(body: bytes) -> str:
    try:
        return str(orjson.loads(body)["code"])
    except (orjson.JSONDecodeError, LookupError, TypeError):
        return "http"
