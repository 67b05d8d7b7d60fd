"""One live Deepgram stream: their client's audio and messages to a session, results back.

Reading and writing are ``server/connection.py``'s. Nobody can come back to such a session: where
the client goes, what it has sent is finished and stored.

Invariants: C1 what was received is captioned and told before this server closes the socket, unless
a frame cannot be read or the server itself fails; C2 Metadata is the last message, and stands
before code 1000 only; C3 the tail after CloseStream waits for words, and for speakers no longer
than a final does.
"""

import asyncio
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar
from uuid import NAMESPACE_URL, uuid5

import orjson
from aiohttp import WSMessage, WSMsgType

from server.connection import Connection, Desk
from server.hub import utc_text
from server.limits import PacketGate
from server.protocols.deepgram_intake import ListenIntake
from server.protocols.deepgram_messages import Message, ModelInfo, Phrasebook
from server.protocols.deepgram_query import ListenOptions, checked_keywords
from server.protocols.deepgram_results import ChannelResults, Said, Voices
from server.protocols.deepgram_socket import PROTOCOL
from server.socket import CaptionSocket
from streaming.errors import (
    CaptiondError,
    ClientError,
    TooFast,
    UnsupportedOption,
)
from streaming.events import (
    Degraded,
    Done,
    Event,
    Final,
    Gap,
    Partial,
    Revision,
    SessionStage,
    SpeechEnded,
    SpeechStarted,
)
from streaming.session import SessionState
from streaming.wire import AudioFormat, Configure

IDLE_SECONDS = 10.0
"""Without audio or text; theirs."""
LOOK_SECONDS = 0.04
"""How often to look whether an utterance without words is over: nothing tells of it."""
LINGER_SECONDS_MAX = 20.0
"""For the last speakers of a session whose client has gone; the session waits 15 s for them."""
DECODING_SECONDS_MAX = 5.0
"""For what came before the client went."""
HOLD_UP_SECONDS = 0.02
"""For a client that sends more messages than the gate lets through."""
REPLIES_MAX = 64
"""Answers to messages that wait to be written."""


@dataclass(frozen=True, slots=True)
class _Progress:
    """How far captioning was at one moment."""

    seq: int
    """The last durable event."""
    settled: tuple[int, ...]
    """By channel, the sample before which everything was captioned."""


class DeepgramConnection(Connection):
    """One client of ``/v1/listen``."""

    protocol: ClassVar[str] = PROTOCOL
    silence_advice: ClassVar[str] = "send audio, or KeepAlive"

    def __init__(
        self,
        ws: CaptionSocket,
        desk: Desk,
        tenant: str,
        *,
        gate: PacketGate,
        options: ListenOptions,
        request_id: str,
    ) -> None:
        super().__init__(ws, desk, tenant, gate=gate, idle_s=IDLE_SECONDS)
        self._options = options
        self._phrases = Phrasebook(request_id)
        self._channels: list[ChannelResults] = []
        """Of the session, as soon as there is one."""
        self._replies: deque[Message] = deque()
        self._intake = ListenIntake(options, self)
        self._decoding: asyncio.Task[None] | None = None
        self._progress: _Progress | None = None
        """To be told as soon as its last event is read."""
        self._look: asyncio.TimerHandle | None = None
        self._last_words: CaptiondError | None = None
        """Why the socket will be closed, once all that was received is told."""
        self._is_over = False
        """The session's last event was read."""
        self._is_hushed = False
        """Nothing more is heard, and everything that is told waits for nothing."""

    async def serve(self) -> None:
        """As ``Connection.serve``; nothing is decoded any more when it returns."""
        try:
            await super().serve()
        finally:
            if self._decoding is not None:
                self._decoding.cancel()
                await asyncio.gather(self._decoding, return_exceptions=True)

    # Reading

    async def _begin(self) -> bool:
        await self._intake.begin()
        self._decoding = asyncio.create_task(self._decode(), name="live decoding")
        return True

    async def _decode(self) -> None:
        try:
            await self._intake.decode()
        except CaptiondError as error:
            self._fail(error)
        except Exception as error:  # noqa: BLE001  task boundary
            self._fail_by_bug(error)

    @property
    def is_open(self) -> bool:
        """See ``Hearing``."""
        return self._live is not None

    async def open(self, audio: AudioFormat) -> None:
        """See ``Hearing``."""
        start = self._options.start.model_copy(update={"audio": audio})
        live, ready = await self._desk.open(start, self._tenant, protocol=self.protocol)
        phrases, terms, voices = self._phrases, self._options.terms, Voices()
        phrases.model = model_of(ready.engines)
        phrases.channels = audio.channels
        indices = range(audio.channels)
        self._channels = [ChannelResults(index, terms, phrases, voices) for index in indices]
        if SessionStage.DIARIZATION.value not in ready.engines:
            self._stop_waiting_for_speakers()
        self._use(live, ready.seq)
        live.step()
        self._wakeup.set()

    def _stop_waiting_for_speakers(self) -> None:
        for channel in self._channels:
            channel.waits_for_speakers = False

    async def _pass_gate(self) -> None:
        """Their clients know of no rate: who sends faster is held up, and not sent away."""
        while True:
            try:
                return await super()._pass_gate()
            except TooFast:
                await asyncio.sleep(HOLD_UP_SECONDS)

    def _take(self, message: WSMessage) -> None:
        if self._is_deaf or self._last_words is not None:
            return
        if message.type is WSMsgType.BINARY and message.data:
            self._intake.take_audio(message.data)
        elif message.type is WSMsgType.BINARY:
            self._intake.end()  # the end of a stream in their first protocol
        else:
            self._take_text(self._checked_text(message))

    def _take_text(self, text: str) -> None:
        kind = _parsed(text).get("type")
        if kind == "CloseStream":
            self._intake.end()
        elif kind != "KeepAlive":
            self._intake.take_text(text)

    def hear(self, data: bytes) -> bool:
        """See ``Hearing``."""
        if self._is_ending:
            return True
        try:
            self._take_audio(data)
        except TooFast:
            return False
        if any(channel.awaits_gap for channel in self._channels):
            self._wakeup.set()
        return True

    def obey_before_audio(self, text: str) -> bool:
        """See ``Hearing``."""
        is_finalize = _parsed(text).get("type") == "Finalize"
        if is_finalize:
            self._reply(self._phrases.nothing_to_finalize())
        return is_finalize

    def obey(self, text: str) -> None:
        """See ``Hearing``."""
        assert self._live is not None
        message = _parsed(text)
        kind = message.get("type")
        if kind == "Finalize":
            self._finalize(message)
        elif kind == "CloseStream":
            self._end()
        elif kind == "Configure":
            self._reply(self._configured(message))
        else:
            known = "KeepAlive, Finalize, CloseStream and Configure"
            advice = f"not a message that is known here; send JSON with one of the types {known}"
            self._reply(self._phrases.error("SchemaError", advice, text[:1000]))
        self._live.step()

    def _reply(self, message: Message) -> None:
        """Raises: TooFast for a client that asks and does not read."""
        if len(self._replies) >= REPLIES_MAX:
            raise TooFast("more messages than answers were read; read them, and send fewer")
        self._replies.append(message)
        self._wakeup.set()

    def _finalize(self, message: dict[str, Any]) -> None:
        """All channels rest where one is asked for; only that one answers."""
        assert self._live is not None
        asked = message.get("channel")
        if asked is not None and not (isinstance(asked, int) and 0 <= asked < len(self._channels)):
            advice = f"channel {asked!r}; give 0 to {len(self._channels) - 1}, or leave it out"
            self._reply(self._phrases.error("SchemaError", advice, str(asked)[:1000]))
            return
        session, now_ns = self._live.session, time.monotonic_ns()
        session.flush()
        for index, channel in enumerate(self._channels):
            if asked is None or asked == index:
                if channel.pending_finalizes >= REPLIES_MAX:
                    raise TooFast("more Finalize than can be answered; wait for the answers")
                channel.finalize(session.backlog(index).end, now_ns)
        self._wakeup.set()

    def _configured(self, message: dict[str, Any]) -> Message:
        keyterms = message.get("keyterms")
        if keyterms is None:
            return self._phrases.configured(None)
        not_configured = self._phrases.not_configured
        try:
            if not isinstance(keyterms, list) or not all(isinstance(t, str) for t in keyterms):
                raise UnsupportedOption("keyterms is a list of phrases")
            change = Configure(keywords=checked_keywords(keyterms))
        except UnsupportedOption as error:
            return not_configured("CONFIGURE_KEYTERM_LIMIT_EXCEEDED", error.message)
        try:
            self._desk.check_guidance(change)
        except UnsupportedOption as error:
            return not_configured("CONFIGURE_KEYTERMS_NOT_SUPPORTED", error.message)
        assert self._live is not None
        self._live.session.configure(change)
        return self._phrases.configured(change.keywords)

    @property
    def _is_ending(self) -> bool:
        return self._live is not None and self._live.session.state is not SessionState.OPEN

    def _end(self) -> None:
        """No more audio; half a frame at its end is nothing that this protocol could tell of."""
        assert self._live is not None
        if self._is_ending:
            return
        now_ns = time.monotonic_ns()
        self._live.session.end_of_audio_quietly(now_ns)
        for channel in self._channels:
            channel.hurry(now_ns)
        self._live.step()
        self._wakeup.set()

    def _fail(self, error: CaptiondError) -> None:
        """What the client did wrong takes nothing from what it has said before (C1)."""
        is_theirs = isinstance(error, ClientError) and not self._is_dismissed
        if not is_theirs or self._live is None or self._failure is not None:
            super()._fail(error)
        elif self._last_words is None:
            self._last_words = error
            self._count(error)
            self._end()

    # Writing

    def _announce_drain(self, deadline_s: float) -> None:
        """Their protocol has no word for it."""

    def _hush(self) -> None:
        self._is_hushed = True
        self._intake.forget()
        for channel in self._channels:
            channel.hurry(time.monotonic_ns())

    @property
    def _is_all_said(self) -> bool:
        assert self._live is not None
        if self._is_ending:
            return False  # Metadata, and the close behind it, are still to come
        is_told = all(channel.is_empty for channel in self._channels)
        return self._live.is_settled and self._has_read_all and is_told

    @property
    def _has_read_all(self) -> bool:
        """Nothing is in the log that the channels have not got."""
        cursor, live = self._cursor, self._live
        assert cursor is not None
        assert live is not None
        return cursor.seq >= live.session.log.last_seq and not cursor.has_more

    @property
    def _has_messages(self) -> bool:
        now_ns = time.monotonic_ns()
        return bool(self._replies) or any(c.has_news(now_ns) for c in self._channels)

    async def _write_messages(self) -> None:
        while self._replies:
            await self._say(Said(self._replies.popleft()))
        if self._live is None or self._is_dismissed:
            return
        if self._is_deaf and not self._is_hushed:
            self._hush()
        if self._last_words is None:
            self._intake.go_on()
        self._settle()
        for channel in self._channels:
            for said in channel.take(time.monotonic_ns()):
                await self._say(said)
        if self._is_ending and self._live.session.is_quiet and self._is_told:
            await self._finish()

    def _settle(self) -> None:
        """Tell the channels how far captioning is, once they have what was captioned by then."""
        assert self._cursor is not None
        for _ in range(2):
            if self._progress is not None and self._cursor.seq >= self._progress.seq:
                for channel, settled in zip(self._channels, self._progress.settled, strict=True):
                    channel.settle(settled, self._progress.seq)
                self._progress = None
            self._progress = self._progress or self._present_progress()

    def _present_progress(self) -> "_Progress":
        assert self._live is not None
        session = self._live.session
        settled = tuple(session.backlog(index).start for index in range(len(self._channels)))
        return _Progress(session.log.last_seq, settled)

    @property
    def _is_told(self) -> bool:
        is_done = all(c.is_empty and not c.is_unsettled for c in self._channels)
        return self._has_read_all and is_done

    async def _finish(self) -> None:
        """Every word is told. Raises: TimeoutError, ConnectionError."""
        if self._last_words is not None:
            self._failure = self._last_words
            return
        assert self._live is not None
        session = self._live.session
        message = self._phrases.metadata(
            sha256=self._intake.digest,
            created=utc_text(self._live.record.created_at),
            duration_s=round(session.frames_received / session.start.audio.sample_rate, 3),
        )
        await self._say(Said(message))
        self._is_delivered = True

    async def _say(self, said: Said) -> None:
        await self._send(orjson.dumps(said.message))
        if said.event is not None:
            self._note_written(said.event)

    async def _tell(self, event: Event) -> None:
        if isinstance(event, Revision):
            for channel in self._channels:
                channel.revise(event)
        elif isinstance(event, Degraded):
            if event.stage is SessionStage.DIARIZATION and not event.is_over:
                self._stop_waiting_for_speakers()
        elif isinstance(event, Done):
            self._is_over = True
        elif isinstance(event, Final | Partial | SpeechStarted | SpeechEnded | Gap):
            self._channels[event.lane].receive(event, time.monotonic_ns())
        if not isinstance(event, Final | Partial):
            self._note_written(event)  # those two are noted when they are said

    def _note_told(self) -> None:
        if self._live is None or self._is_dismissed:
            return
        self._live.session.take_ack()  # there is none here; until it is taken, each step wakes us
        if self._look is not None:
            self._look.cancel()
        delay_s = self._look_in_s(time.monotonic_ns())
        if delay_s is not None:
            self._look = asyncio.get_running_loop().call_later(delay_s, self._wakeup.set)

    def _look_in_s(self, now_ns: int) -> float | None:
        """When there may be news that nothing tells of."""
        dues = (channel.due_ns(now_ns) for channel in self._channels)
        delays_s = [(due_ns - now_ns) / 1e9 for due_ns in dues if due_ns is not None]
        if self._is_ending or any(channel.is_unsettled for channel in self._channels):
            delays_s.append(LOOK_SECONDS)
        return min(delays_s, default=None)

    # The end

    async def _linger(self) -> None:
        """See the session off: what came is still captioned, and its last speakers are found."""
        if self._failure is not None or not (self._live or self._intake.has_audio):
            return
        try:
            self._intake.end()
            if self._decoding is not None:
                await asyncio.wait([self._decoding], timeout=DECODING_SECONDS_MAX)
            async with asyncio.timeout(LINGER_SECONDS_MAX):
                while not (self._live is None or self._is_over or self._live.is_gone):
                    await self._read_on()
        except TimeoutError:
            self._log.warning("a session did not end in time", seconds=LINGER_SECONDS_MAX)
        except CaptiondError as error:
            self._log.warning("a session was not seen off", reason=error.message)

    async def _read_on(self) -> None:
        """Read what nobody waits for any more. Raises: CaptiondError."""
        assert self._live is not None
        self._intake.go_on()
        while events := await self._news():
            for event in events:
                self._is_over = self._is_over or isinstance(event, Done)
                self._note_written(event)
        self._live.session.take_ack()
        if not self._is_over:
            await self._wakeup.wait()
            self._wakeup.clear()

    def _let_go(self) -> None:
        if self._look is not None:
            self._look.cancel()
        if self._is_over:
            self._is_delivered = self._is_answered = True
        super()._let_go()


def model_of(engines: Mapping[str, str]) -> ModelInfo:
    """As far as a client can be told."""
    name = engines.get(SessionStage.RECOGNITION.value, "")
    uuid = uuid5(NAMESPACE_URL, f"captiond:{name}")
    return ModelInfo(str(uuid), name, "1", name.partition(" ")[0])


def _parsed(text: str) -> dict[str, Any]:
    """Empty where it is no JSON object."""
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        return {}
    return value if isinstance(value, dict) else {}
