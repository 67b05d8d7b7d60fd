"""A captiond server in fifty lines: it stores audio in words, and breaks when it is told to.

A word is ``WORD_FRAMES`` frames of 16-bit mono; its final's text is its bytes in hex, so a lost,
doubled or moved byte shows. Audio is stored, and acknowledged, word by word; what is beyond the
last whole word is forgotten with the connection, as a real server may.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.typing import Subprotocol

from streaming.events import CaptionWord, Done, DurableEvent, Final, Quantiles
from streaming.timeline import Span
from streaming.wire import (
    SUBPROTOCOL,
    Ack,
    Configure,
    End,
    ErrorNotice,
    Flush,
    Ready,
    Resume,
    Start,
    encode_event,
    encode_notice,
    parse_client_message,
)

WORD_FRAMES = 4
WORD_BYTES = 2 * WORD_FRAMES


@dataclass
class Fault:
    """Ends one connection after so many audio messages."""

    after_messages: int
    close_code: int | None = None
    """None cuts the connection without a close frame."""
    notice: ErrorNotice | None = None


@dataclass
class FakeServer:
    """One session; each connection takes the next fault of the list, then none."""

    faults: list[Fault] = field(default_factory=list)
    credit_frames: int = 1_000
    audio: bytearray = field(default_factory=bytearray)
    log: list[DurableEvent] = field(default_factory=list)
    controls: list[Flush | Configure] = field(default_factory=list)
    greetings: list[Start | Resume] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    """What was asked for, of each connection."""
    ends: int = 0
    frames_max_beyond_stored: int = 0
    swallow_end: bool = False
    store_is_broken: bool = False
    """Nothing is acknowledged, and the next connection finds a server that knows nothing of it."""
    server: Server | None = None

    @property
    def url(self) -> str:
        assert self.server is not None
        host, port = next(iter(self.server.sockets)).getsockname()[:2]
        return f"ws://{host}:{port}"

    @property
    def stored_bytes(self) -> int:
        return sum(isinstance(event, Final) for event in self.log) * WORD_BYTES

    async def handle(self, socket: ServerConnection) -> None:
        greeting = parse_client_message(await socket.recv())
        assert isinstance(greeting, Start | Resume)
        self.greetings.append(greeting)
        assert socket.request is not None
        self.paths.append(socket.request.path)
        fault = self.faults.pop(0) if self.faults else None
        if self.store_is_broken and isinstance(greeting, Resume):
            self.store_is_broken = False
            self.log.clear()
        del self.audio[self.stored_bytes :]
        await socket.send(encode_notice(self._ready(greeting)).decode())
        for event in self.log[self._seq(greeting) :]:
            await socket.send(encode_event(event).decode())
        messages = 0
        while fault is None or messages < fault.after_messages:
            message = await socket.recv()
            if isinstance(message, bytes):
                messages += 1
                await self._hear(socket, message)
            elif await self._obey(socket, message):
                return
        await self._break(socket, fault)

    async def _obey(self, socket: ServerConnection, text: str) -> bool:
        """True where the session is done."""
        message = parse_client_message(text)
        if not isinstance(message, End):
            assert isinstance(message, Flush | Configure)
            self.controls.append(message)
            return False
        self.ends += 1
        if self.swallow_end and self.ends == 1:
            await self._break(socket, Fault(0))
            return True
        self.log.append(_done(len(self.log) + 1))
        await socket.send(encode_event(self.log[-1]).decode())
        return True

    async def _break(self, socket: ServerConnection, fault: Fault) -> None:
        if fault.notice:
            await socket.send(encode_notice(fault.notice).decode())
        if fault.close_code is None:
            socket.transport.abort()
        else:
            await socket.close(fault.close_code)

    async def _hear(self, socket: ServerConnection, packet: bytes) -> None:
        self.audio += packet
        beyond = (len(self.audio) - self.stored_bytes) // 2
        self.frames_max_beyond_stored = max(self.frames_max_beyond_stored, beyond)
        while len(self.audio) - self.stored_bytes >= WORD_BYTES:
            at = self.stored_bytes
            text = self.audio[at : at + WORD_BYTES].hex()
            self.log.append(_final(len(self.log) + 1, text))
            await socket.send(encode_event(self.log[-1]).decode())
        if not self.store_is_broken:
            await socket.send(encode_notice(self._ack()).decode())

    def _seq(self, greeting: Start | Resume) -> int:
        return min(greeting.last_seq, len(self.log)) if isinstance(greeting, Resume) else 0

    def _ack(self) -> Ack:
        stored = self.stored_bytes // 2
        return Ack(stored_through_frame=stored, credit_until_frame=stored + self.credit_frames)

    def _ready(self, greeting: Start | Resume) -> Ready:
        ack = self._ack()
        return Ready(
            session_id="s1",
            resume_token="t1",
            seq=self._seq(greeting),
            resume_from_frame=ack.stored_through_frame,
            credit_until_frame=ack.credit_until_frame,
            wall_clock="2026-11-20T08:00:00.000Z",
            engines={"asr": "fake", "diarizer": "none"},
        )


def _final(seq: int, text: str) -> Final:
    span = Span((seq - 1) * WORD_FRAMES, seq * WORD_FRAMES)
    word = CaptionWord(text, span, None, None)
    return Final(seq, f"c{seq}", 0, span, text, "en", None, None, (word,))


def _done(seq: int) -> Done:
    none = Quantiles(None, None)
    return Done(seq, 1.0, 1.0, 0.0, 0.0, None, seq - 1, 0, none, none)


@asynccontextmanager
async def running(server: FakeServer) -> AsyncIterator[FakeServer]:
    async with serve(
        server.handle, "127.0.0.1", 0, subprotocols=[Subprotocol(SUBPROTOCOL)], compression=None
    ) as listening:
        server.server = listening
        yield server
