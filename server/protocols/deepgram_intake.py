"""What a Deepgram client says, in its order, as far as the session has room.

Owns: audio beyond the session's credit, which their clients know nothing of, and the messages that
stand behind it; mixing and decoding before a session gets any. Knows no results.

Invariants: I1 nothing overtakes: a message is obeyed when all audio before it was taken; I2 at most
``WAITING_BYTES_MAX`` wait here; more is ``TooFast``; I3 the session opens with the first audio
whose format is known, or at the end.
"""

import asyncio
import hashlib
from collections import deque
from typing import Protocol

import numpy as np

from server.protocols.deepgram_audio import CodedAudio, Mixer, mixed
from server.protocols.deepgram_query import ListenOptions
from streaming.errors import TooFast
from streaming.wire import AudioFormat

WAITING_BYTES_MAX = 8 * 1024 * 1024
"""Four minutes of 16 kHz PCM16, beyond the credit."""
DECODED_BYTES_MAX = 1024 * 1024
"""What was decoded and waits for room; above it the decoder waits."""
PIECE_BYTES = 64 * 1024
"""Audio is taken in such pieces: one message may be longer than the credit."""
CLOSE_STREAM = '{"type":"CloseStream"}'


class Hearing(Protocol):
    """The session's side."""

    @property
    def is_open(self) -> bool:
        """There is a session."""

    async def open(self, audio: AudioFormat) -> None:
        """Raises: as ``Desk.open``."""

    def hear(self, data: bytes) -> bool:
        """False where there is no room for it now. Raises: BadAudio."""

    def obey(self, text: str) -> None:
        """Raises: CaptiondError."""

    def obey_before_audio(self, text: str) -> bool:
        """False where it has to wait for a session. Raises: CaptiondError."""


class ListenIntake:
    """One client's."""

    def __init__(self, options: ListenOptions, hearing: Hearing) -> None:
        self._options = options
        self._hearing = hearing
        self._mixer: Mixer | None = None
        if options.is_raw and options.is_mixed:
            self._mixer = Mixer(options.encoding or "", options.channels)
        self._coded: CodedAudio | None = None
        if not options.is_raw:
            self._coded = CodedAudio(options.encoding, options.channels, self)
        self._waiting: deque[bytes | str] = deque()
        self._waiting_bytes = 0
        self._has_room = asyncio.Event()
        """For what is decoded."""
        self._has_room.set()
        self._digest = hashlib.sha256()
        self.has_audio = False
        """The client has sent some."""

    @property
    def digest(self) -> str:
        """SHA-256 of all bytes of audio, in hexadecimal."""
        return self._digest.hexdigest()

    async def begin(self) -> None:
        """Raises: as ``Desk.open``."""
        if self._coded is None:
            await self._hearing.open(self._options.start.audio)

    async def decode(self) -> None:
        """Beside the reading of the socket, until all is decoded. Raises: CaptiondError."""
        if self._coded is not None:
            await self._coded.run()

    # From the client

    def take_audio(self, data: bytes) -> None:
        """Raises: BadAudio, TooFast."""
        self._digest.update(data)
        self.has_audio = True
        if self._coded is not None:
            self._coded.put(data)
        else:
            self._put_audio(data if self._mixer is None else self._mixer.mix(data))

    def take_text(self, text: str) -> None:
        """Raises: CaptiondError."""
        if self._coded is not None:
            self._coded.put(text)
        else:
            self._put(text)

    def end(self) -> None:
        """No more audio comes."""
        if self._coded is not None:
            self._coded.finish()
        else:
            self._put(CLOSE_STREAM)

    def forget(self) -> None:
        """What waits will never be taken."""
        self._waiting.clear()
        self._waiting_bytes = 0

    # From a decoder

    async def hear_decoded(self, pcm: bytes, sample_rate_hz: int, channels: int) -> None:
        """See ``Hearer``."""
        is_mixed = channels > 1 and not self._options.terms.multichannel
        if not self._hearing.is_open:
            lanes = 1 if is_mixed else channels
            await self._hearing.open(AudioFormat(sample_rate=sample_rate_hz, channels=lanes))
        frames = np.frombuffer(pcm, "<i2").reshape(-1, channels)
        self._put_audio(mixed(frames) if is_mixed else pcm)
        await self._has_room.wait()

    def obey_behind(self, text: str) -> None:
        """See ``Hearer``."""
        if self._hearing.is_open or not self._hearing.obey_before_audio(text):
            self._put(text)

    async def end_decoded(self) -> None:
        """See ``Hearer``."""
        if not self._hearing.is_open:
            await self._hearing.open(AudioFormat())
        self._put(CLOSE_STREAM)

    # To the session

    def _put_audio(self, data: bytes) -> None:
        for at in range(0, len(data), PIECE_BYTES):
            self._put(data[at : at + PIECE_BYTES])

    def _put(self, said: bytes | str) -> None:
        self._waiting.append(said)
        self._waiting_bytes += len(said)
        self.go_on()
        if self._waiting_bytes > DECODED_BYTES_MAX:
            self._has_room.clear()
        if self._waiting_bytes > WAITING_BYTES_MAX:
            raise TooFast("more audio than there is room for; send it at the pace of its time")

    def go_on(self) -> None:
        """Have the session take what waits, as far as it has room. Raises: CaptiondError."""
        while self._waiting and self._hearing.is_open:
            said = self._waiting[0]
            if isinstance(said, bytes) and not self._hearing.hear(said):
                return
            self._waiting.popleft()
            self._waiting_bytes -= len(said)
            if self._waiting_bytes <= DECODED_BYTES_MAX:
                self._has_room.set()
            if isinstance(said, str):
                self._hearing.obey(said)
