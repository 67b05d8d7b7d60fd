"""Containers and compressed audio → PCM, in a process that can do no harm to anybody else.

Owns: telling containers apart by their first bytes, and one decoder process per recording or live
stream (``container_child.py`` says how it is confined). The front process looks at no more than
``HEAD_BYTES`` of what a stranger sends.

    async with ContainerDecoder() as decoder:
        feeding = asyncio.create_task(feed_all(decoder))   # feed(…) as bytes come, then finish()
        async for pcm in decoder:                          # interleaved PCM16
            use(pcm, decoder.sample_rate_hz, decoder.channels)

Feed and iterate in different tasks: ``feed`` waits while nobody takes what was decoded, so that at
most some hundred kilobytes lie between the two, however much a few bytes unfold to.

Invariants: D1 a decoder that crashes, hangs, or needs too much time or memory is an error of this
stream alone; D2 the process is gone when the block is left; D3 all errors are typed, and say what
to send instead.
"""

import asyncio
import contextlib
import os
import signal
import socket
import struct
import sys
from collections.abc import AsyncIterator
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import Self

import structlog

from server import container_child as child
from server.admission import RETRY_AFTER_FULL_MS
from streaming.errors import (
    BadAudio,
    CaptiondError,
    OutOfOrder,
    Overloaded,
    TooBig,
    UnsupportedOption,
)

HEAD_BYTES = 12
"""Enough to know every container that is taken."""
SECONDS_MAX = 4 * 3600.0
"""Of audio in one recording; a live stream may be given more."""
PIECE_BYTES = 32 * 1024
_ERROR_BYTES_MAX = 500
_CHILD = Path(child.__file__).resolve()
_ENVIRONMENT = ("LD_LIBRARY_PATH", "SYSTEMROOT")
"""What the process gets of ours: no key, no store's password."""

ADVICE = "send WAV, Ogg or WebM (Opus, Vorbis), FLAC, MP3, MP4/M4A or AAC"


_log = structlog.get_logger(__name__)


class Container(StrEnum):
    """What can be decoded. Only ``OPUS`` has no container: one packet in each ``feed``."""

    WAV = "wav"
    AIFF = "aiff"
    CAF = "caf"
    OGG = "ogg"
    WEBM = "webm"
    FLAC = "flac"
    MP3 = "mp3"
    AAC = "aac"
    MP4 = "mp4"
    AMR = "amr"
    AMR_NB = "amr-nb"
    AMR_WB = "amr-wb"
    OPUS = "opus"


_MAGIC = {
    b"OggS": Container.OGG,
    b"\x1aE\xdf\xa3": Container.WEBM,
    b"fLaC": Container.FLAC,
    b"ID3": Container.MP3,
    b"caff": Container.CAF,
    b"#!AMR": Container.AMR,
}
_MP4_BOXES = (b"ftyp", b"moov", b"mdat", b"free", b"wide", b"skip")


def sniff(head: bytes) -> Container | None:
    """The container whose first ``HEAD_BYTES`` these are; None for one that is not taken."""
    for magic, container in _MAGIC.items():
        if head.startswith(magic):
            return container
    if head[:4] in (b"RIFF", b"RF64", b"BW64") and head[8:12] == b"WAVE":
        return Container.WAV
    if head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC"):
        return Container.AIFF
    if head[4:8] in _MP4_BOXES:
        return Container.MP4
    return _sniff_sync_word(head)


def _sniff_sync_word(head: bytes) -> Container | None:
    """MPEG audio and ADTS begin with twelve ones, and then with fields that rule most out."""
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
        return None
    layer, version = head[1] >> 1 & 3, head[1] >> 3 & 3
    if head[1] & 0xF6 == 0xF0:
        return Container.AAC if head[2] >> 2 & 15 < 13 else None
    is_header = layer != 0 and version != 1 and head[2] >> 4 != 15 and head[2] >> 2 & 3 != 3
    return Container.MP3 if is_header else None


class ContainerDecoder:
    """One recording or live stream; an async context manager."""

    def __init__(
        self,
        container: Container | None = None,
        *,
        channels: int = 1,
        seconds_max: float = SECONDS_MAX,
    ) -> None:
        """``container``: None for what the first bytes tell. ``channels``: of bare Opus packets,
        1 or 2. ``seconds_max``: more audio than that is ``TooBig``."""
        self.container = container
        """Known once ``HEAD_BYTES`` were fed."""
        self.sample_rate_hz = 0
        """Known with the first block."""
        self.channels = 0
        """Known with the first block."""
        self.damaged_packets = 0
        """What could not be decoded and is silence instead, or was the torn end; known at the end.
        """
        self._opus_channels = channels
        self._seconds_max = seconds_max
        self._head = b""
        self._has_begun = asyncio.Event()
        self._failure: CaptiondError | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._is_finished = False
        self._is_done = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._has_begun.set()
        self._is_done = True
        if self._writer is not None:
            self._writer.transport.abort()
        if self._process is not None:
            # It may end between the look and the signal.
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()

    # In

    async def feed(self, data: bytes) -> None:
        """Give the next bytes; waits while too much is decoded that nobody has taken.

        Where the decoder has given up, the bytes are dropped, and iteration says why.
        Raises: BadAudio where the first bytes are of no container that is taken; Overloaded where
        no process can be started; OutOfOrder.
        """
        if self._is_finished:
            raise OutOfOrder("audio after its end; start a new stream for more audio")
        if self._writer is None:
            self._head += data
            if self.container is None and len(self._head) < HEAD_BYTES:
                return
            data, self._head = self._head, b""
            await self._begin(data)
        await self._send(data)

    async def finish(self) -> None:
        """No more bytes will come. Raises: BadAudio where there were too few to be anything."""
        if self._is_finished:
            return
        self._is_finished = True
        if self._writer is None:
            self._fail(BadAudio(f"no audio came; {ADVICE}"))
        elif not self._writer.is_closing():
            self._writer.write_eof()

    def _fail(self, error: CaptiondError) -> None:
        self._failure = error
        self._has_begun.set()
        raise error

    async def _begin(self, head: bytes) -> None:
        self.container = self.container or sniff(head[:HEAD_BYTES])
        if self.container is None:
            self._is_finished = True
            self._fail(BadAudio(f"this is no audio that can be read here; {ADVICE}"))
        try:
            await self._start()
        except OSError as error:
            _log.error("no decoder process", reason=str(error))
            self._is_finished = True
            self._fail(
                Overloaded(
                    "the server has no room for a decoder just now; send it again",
                    retry_after_ms=RETRY_AFTER_FULL_MS,
                )
            )
        self._has_begun.set()

    async def _start(self) -> None:
        """Raises: OSError."""
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                self._process = await self._spawn(theirs.fileno())
            self._reader, self._writer = await asyncio.open_connection(sock=ours, limit=PIECE_BYTES)
        except BaseException:
            ours.close()  # on which a process that did start ends by itself
            raise

    async def _spawn(self, fd: int) -> asyncio.subprocess.Process:
        assert self.container is not None
        # -I: neither the environment nor the working folder chooses what is imported.
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", str(_CHILD), str(fd), self.container.value),
            *(str(self._seconds_max), str(self._opus_channels)),
            pass_fds=[fd],
            env={name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )

    async def _send(self, data: bytes) -> None:
        assert self._writer is not None
        size = len(data) if self.container is Container.OPUS else PIECE_BYTES
        try:
            for start in range(0, len(data), size or 1):
                piece = data[start : start + size]
                self._writer.write(child.LENGTH.pack(len(piece)) + piece)
                await self._writer.drain()
        except ConnectionError:
            pass  # iteration says why

    # Out

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        """The next block of interleaved PCM16, whole frames.

        Raises: BadAudio, UnsupportedOption, TooBig, Overloaded.
        """
        await self._has_begun.wait()
        if self._failure is not None:
            raise self._failure
        while not self._is_done:
            kind, content = await self._frame()
            if kind == child.KIND_AUDIO:
                return content
            self._take(kind, content)
        raise StopAsyncIteration

    async def _frame(self) -> tuple[bytes, bytes]:
        assert self._reader is not None
        try:
            header = await self._reader.readexactly(child.FRAME.size)
            kind, length = child.FRAME.unpack(header)
            if kind not in child.KINDS or length > max(child.BLOCK_BYTES_MAX, _ERROR_BYTES_MAX):
                raise BadAudio(f"this recording breaks the decoder; {ADVICE}")
            return kind, await self._reader.readexactly(length)
        except (asyncio.IncompleteReadError, ConnectionError):
            raise await self._how_it_ended() from None

    def _take(self, kind: bytes, content: bytes) -> None:
        """A frame that is no audio."""
        try:
            if kind == child.KIND_FORMAT:
                self.sample_rate_hz, self.channels = child.FORMAT.unpack(content)
            elif kind == child.KIND_DONE:
                (self.damaged_packets,) = child.LENGTH.unpack(content)
                self._is_done = True
            else:
                self._failure = _error(content)
                raise self._failure
        except struct.error:
            raise BadAudio(f"this recording breaks the decoder; {ADVICE}") from None

    async def _how_it_ended(self) -> CaptiondError:
        """For a process that has gone without a word."""
        if self._is_done or self._process is None:
            return OutOfOrder("the decoder is closed")
        status = await self._process.wait()
        if status == -signal.SIGXCPU:
            reason = "takes too long to decode"
        elif status < 0:
            reason = f"breaks the decoder ({signal.Signals(-status).name})"
        else:
            reason = "breaks the decoder"
        return BadAudio(f"this recording {reason}; write it anew, or send WAV or FLAC")


_ERRORS: dict[bytes, type[CaptiondError]] = {
    child.BAD_AUDIO: BadAudio,
    child.UNSUPPORTED: UnsupportedOption,
    child.TOO_BIG: TooBig,
    child.BROKEN: BadAudio,
}


def _error(content: bytes) -> CaptiondError:
    """The sentence may be a stranger's: it is shortened, and cannot break a line."""
    sentence = content[1:_ERROR_BYTES_MAX].decode(errors="replace")
    plain = "".join(c if c.isprintable() else " " for c in sentence)
    return _ERRORS.get(content[:1], BadAudio)(plain)
