"""captiond's own protocol on one WebSocket: messages to its session, events and notices back.

``docs/protocol.md`` has its messages; ``streaming.wire`` their JSON.

Invariants: P1 an error message stands before every close but 1000, as far as the client reads at
all; P2 what was not sent stays in the event log, for a resume.
"""

import asyncio
import time
from collections import deque
from typing import ClassVar

from aiohttp import WSMessage, WSMsgType

from server.connection import Connection, Desk, silent_for
from server.hub import PROTOCOL
from server.limits import PacketGate
from server.socket import CaptionSocket
from streaming.errors import BadAudio, CaptiondError, OutOfOrder
from streaming.events import Done, Event
from streaming.wire import (
    ClientMessage,
    Configure,
    DrainNotice,
    End,
    ErrorNotice,
    Flush,
    Lane,
    Ready,
    Resume,
    ServerNotice,
    Skip,
    Start,
    encode_event,
    encode_notice,
    parse_client_message,
)


class NativeConnection(Connection):
    """A client of ``captiond.v1``; its session outlives it."""

    protocol: ClassVar[str] = PROTOCOL
    silence_advice: ClassVar[str] = "send audio, or end"

    def __init__(
        self,
        ws: CaptionSocket,
        desk: Desk,
        tenant: str,
        *,
        gate: PacketGate,
        handshake_s: float,
        idle_s: float,
    ) -> None:
        super().__init__(ws, desk, tenant, gate=gate, idle_s=idle_s)
        self._handshake_s = handshake_s
        self._notices: deque[ServerNotice] = deque()
        """At most ready, draining, one error and one ack: the next ack comes after it is sent."""
        self._with_words = True

    # Reading

    async def _begin(self) -> bool:
        try:
            async with asyncio.timeout(self._handshake_s):
                message = await self._next()
        except TimeoutError:
            raise silent_for(self._handshake_s, "send start or resume first") from None
        if message is None:
            return False
        await self._open(self._parsed(message))
        return True

    def _parsed(self, message: WSMessage) -> ClientMessage:
        if message.type is WSMsgType.BINARY:
            raise OutOfOrder("audio before start; send start or resume first")
        return parse_client_message(self._checked_text(message))

    async def _open(self, message: ClientMessage) -> None:
        if isinstance(message, Start):
            live, ready = await self._desk.open(message, self._tenant, protocol=self.protocol)
        elif isinstance(message, Resume):
            live, ready = await self._desk.resume(message, self._tenant)
            self._is_known = True
        else:
            raise OutOfOrder(f"{message.type} before start; send start or resume first")
        self._with_words = live.session.start.words
        self._use(live, ready.seq)
        self._notify(ready)
        live.step()

    def _take(self, message: WSMessage) -> None:
        assert self._live is not None
        if message.type is WSMsgType.BINARY:
            self._take_audio(message.data)
            return
        parsed = self._parsed(message)
        if not self._is_deaf:  # or it comes again in its place, after a resume
            self._obey(parsed)
            self._live.step()

    def _obey(self, message: ClientMessage) -> None:
        assert self._live is not None
        session = self._live.session
        if isinstance(message, End):
            self._end()
        elif isinstance(message, Flush):
            session.flush()
        elif isinstance(message, Skip):
            session.skip(message.ms, time.monotonic_ns(), message.lane)
        elif isinstance(message, Configure):
            self._desk.check_language(message.language)
            self._desk.check_guidance(message)
            session.configure(message)
        elif isinstance(message, Lane):
            session.set_lane(message.lane, message.name)
        else:
            raise OutOfOrder(f"{message.type} on a session that runs; open another connection")

    def _end(self) -> None:
        assert self._live is not None
        try:
            self._live.session.end_of_audio(time.monotonic_ns())
        except BadAudio as error:
            # The session has ended all the same: its captions still come, then done.
            self._count(error)
            self._notify(_notice_of(error))

    # Writing

    def _notify(self, notice: ServerNotice) -> None:
        self._notices.append(notice)
        self._wakeup.set()

    def _announce_drain(self, deadline_s: float) -> None:
        self._notify(DrainNotice(deadline_s))

    @property
    def _is_all_said(self) -> bool:
        assert self._live is not None
        session = self._live.session
        is_over = session.is_read and not session.is_waiting_for_reader
        return self._live.is_settled and is_over

    @property
    def _has_messages(self) -> bool:
        return bool(self._notices)

    async def _write_messages(self) -> None:
        while self._notices:
            notice = self._notices.popleft()
            await self._send(encode_notice(notice))
            if isinstance(notice, Ready):
                self._is_known = True

    async def _tell(self, event: Event) -> None:
        await self._send(self._encoded(event))
        self._note_written(event)
        if isinstance(event, Done) and not self._is_dismissed:
            self._is_delivered = True

    def _encoded(self, event: Event) -> bytes:
        is_durable = self._live is None or self._live.is_durable(event)
        return encode_event(event, with_words=self._with_words, is_durable=is_durable)

    def _note_told(self) -> None:
        if self._live is None or self._is_dismissed:
            return
        ack = self._live.session.take_ack()
        if ack is not None:
            self._notices.append(ack)


def _notice_of(error: CaptiondError) -> ErrorNotice:
    return ErrorNotice(error.code, error.message, error.retry_after_ms)
