"""Audio as Deepgram's clients send it → PCM that a session takes.

Owns the mixing of channels that are to be heard as one, and the decoding of compressed live audio
beside the reading of its socket. Resampling is the session's.

Invariant: A1 at most ``CODED_BYTES_MAX`` of what a client sent wait to be decoded, and they are
decoded no faster than somebody takes what comes out.
"""

import asyncio
from collections import deque
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from server.containers import Container, ContainerDecoder
from server.protocols.deepgram_query import RAW_ENCODINGS
from streaming.audio import INT16_MAX, INT16_MIN, PcmDecoder
from streaming.errors import TooFast
from streaming.timeline import SAMPLE_RATE_HZ

CODED_BYTES_MAX = 8 * 1024 * 1024
"""An hour of Opus."""
LIVE_SECONDS_MAX = 24 * 3600.0
DECODE_SECONDS = 0.1
"""A decoder keeps the last packets for a moment: what is said after them waits so long."""
CONTAINERS = {
    None: None,
    "flac": Container.FLAC,
    "ogg-opus": Container.OGG,
    "opus": Container.OPUS,
    "amr-nb": Container.AMR_NB,
    "amr-wb": Container.AMR_WB,
}
"""By the query's encoding; None: the first bytes tell."""


class Mixer:
    """Interleaved channels → one of PCM16 at the same rate: their mean, so that none is lost.

    A decoder at 16 kHz passes frames as they come, so it serves for any rate here.
    """

    def __init__(self, encoding: str, channels: int) -> None:
        self._decoder = PcmDecoder(RAW_ENCODINGS[encoding], SAMPLE_RATE_HZ, channels)

    def mix(self, data: bytes) -> bytes:
        """Raises: BadAudio."""
        return mixed(np.stack(self._decoder.decode(data), axis=1))


def mixed(frames: NDArray[np.int16]) -> bytes:
    """PCM16 of the channels' mean; shape (frames, channels)."""
    if not len(frames):
        return b""
    mean = np.rint(frames.mean(axis=1, dtype=np.float64))
    return bytes(np.clip(mean, INT16_MIN, INT16_MAX).astype("<i2").data)


class Hearer(Protocol):
    """Takes what was decoded."""

    async def hear_decoded(self, pcm: bytes, sample_rate_hz: int, channels: int) -> None:
        """Interleaved PCM16. Waits while there is no room. Raises: CaptiondError."""

    def obey_behind(self, text: str) -> None:
        """What the client said after the audio that has been decoded. Raises: CaptiondError."""

    async def end_decoded(self) -> None:
        """All audio was decoded, and no more will come. Raises: CaptiondError."""


class CodedAudio:
    """One live stream of a compressed encoding or a container."""

    def __init__(self, encoding: str | None, channels: int, hearer: Hearer) -> None:
        self._container = CONTAINERS[encoding]
        self._channels = channels
        self._hearer = hearer
        self._waiting: deque[bytes | str] = deque()
        self._waiting_bytes = 0
        self._has_more = asyncio.Event()
        self._is_finished = False

    def put(self, said: bytes | str) -> None:
        """Audio, or a message that stands behind it. Raises: TooFast."""
        self._waiting.append(said)
        self._waiting_bytes += len(said)
        self._has_more.set()
        if self._waiting_bytes > CODED_BYTES_MAX:
            raise TooFast("more audio than there is room for; send it at the pace of its time")

    def finish(self) -> None:
        """No more will be put."""
        self._is_finished = True
        self._has_more.set()

    async def run(self) -> None:
        """Until all is decoded. Raises: CaptiondError."""
        first = await self._first_audio()
        if first is not None:
            await self._decode(first)
        await self._hearer.end_decoded()

    async def _first_audio(self) -> bytes | None:
        """None where the stream ended without any."""
        while (said := await self._next()) is not None:
            if isinstance(said, bytes):
                return said
            self._hearer.obey_behind(said)
        return None

    async def _decode(self, first: bytes) -> None:
        async with ContainerDecoder(
            self._container, channels=self._channels, seconds_max=LIVE_SECONDS_MAX
        ) as decoder:
            feeding = asyncio.create_task(self._feed(decoder, first), name="decoder feed")
            try:
                async for pcm in decoder:
                    await self._hearer.hear_decoded(pcm, decoder.sample_rate_hz, decoder.channels)
            finally:
                feeding.cancel()
                await asyncio.gather(feeding, return_exceptions=True)  # iteration said why

    async def _feed(self, decoder: ContainerDecoder, first: bytes) -> None:
        await decoder.feed(first)
        while (said := await self._next()) is not None:
            if isinstance(said, bytes):
                await decoder.feed(said)
            else:
                await asyncio.sleep(DECODE_SECONDS)
                self._hearer.obey_behind(said)
        await decoder.finish()

    async def _next(self) -> bytes | str | None:
        while not self._waiting:
            if self._is_finished:
                return None
            self._has_more.clear()
            await self._has_more.wait()
        said = self._waiting.popleft()
        self._waiting_bytes -= len(said)
        return said
