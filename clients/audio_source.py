"""Where audio comes from: a file, the microphone, or raw PCM on standard input.

Owns: opening and reading each, and the ``AudioFormat`` to announce. Audio is passed on as it is,
at its own rate and channel count; the server resamples. Knows nothing of servers and pacing.
Bound: the microphone keeps ``MICROPHONE_PACKETS_MAX`` packets; beyond, the newest are dropped and
counted in ``dropped_packets``.
"""

import asyncio
import os
import stat
import sys
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import IO, Any, Protocol

import soundfile
from pydantic import ValidationError

from clients.stream import frame_bytes
from streaming.wire import CHANNELS_MAX, AudioFormat

MICROPHONE_PACKETS_MAX = 600
"""One minute of 100 ms packets, on top of the two minutes of credit that a server gives."""

MICROPHONE_MISSING = (
    "no microphone support: pip install 'captiond[mic]', and on Debian or Ubuntu also "
    "apt install libportaudio2"
)

_FLOAT_SUBTYPES = frozenset({"FLOAT", "DOUBLE"})


class AudioSourceError(Exception):
    """The audio cannot be read; the sentence says what to do."""


class AudioSource(Protocol):
    """Audio in packets of a wanted length."""

    @property
    def audio(self) -> AudioFormat: ...

    def packets(self, frames: int) -> AsyncIterator[bytes]:
        """Packets of ``frames`` frames, the last one shorter; ends with the audio."""
        ...

    def stop(self) -> None:
        """Ends a live source after what it has heard so far."""
        ...


class FileSource:
    """A WAV, FLAC, OGG or MP3 file."""

    def __init__(self, path: Path, channel_names: list[str | None] | None = None) -> None:
        """Raises: AudioSourceError."""
        try:
            with soundfile.SoundFile(path) as sound:
                rate, channels, subtype = sound.samplerate, sound.channels, sound.subtype
                self.frames = sound.frames
        except (OSError, soundfile.LibsndfileError) as error:
            reason = str(error).rstrip(".") if path.exists() else "no such file"
            raise AudioSourceError(
                f"cannot read {path}: {reason}; give a WAV, FLAC, OGG or MP3 file"
            ) from None
        if channels > CHANNELS_MAX:
            raise AudioSourceError(f"{path} has {channels} channels, at most {CHANNELS_MAX} go")
        self._path = path
        self._dtype = "float32" if subtype in _FLOAT_SUBTYPES else "int16"
        self.audio = audio_format(
            "pcm_f32le" if subtype in _FLOAT_SUBTYPES else "pcm_s16le",
            rate,
            channels,
            channel_names,
        )
        self._is_stopped = False

    async def packets(self, frames: int) -> AsyncIterator[bytes]:
        """Raises: AudioSourceError where the file breaks off; what came before it is given."""
        read_frames = 0
        try:
            with soundfile.SoundFile(self._path) as sound:
                while not self._is_stopped:
                    block = await asyncio.to_thread(sound.buffer_read, frames, self._dtype)
                    if len(block) == 0:
                        return
                    read_frames = sound.tell()
                    yield bytes(block)
        except soundfile.LibsndfileError as error:
            reason = error.error_string.removeprefix("Error : ").rstrip(".")
            read_s = read_frames / self.audio.sample_rate
            raise AudioSourceError(
                f"{self._path} is damaged after {read_s:.1f} s ({reason}); "
                "only what stands before that was read"
            ) from None

    def stop(self) -> None:
        self._is_stopped = True


class PipeSource:
    """Raw samples on standard input, or any other binary file object."""

    def __init__(self, audio: AudioFormat, pipe: IO[bytes] | None = None) -> None:
        self.audio = audio
        self._pipe = pipe or sys.stdin.buffer
        self._stopped = asyncio.Event()

    async def packets(self, frames: int) -> AsyncIterator[bytes]:
        size = frames * frame_bytes(self.audio)
        if stat.S_ISREG(os.fstat(self._pipe.fileno()).st_mode):
            # A plain file never makes us wait, and the event loop cannot watch it.
            while not self._stopped.is_set() and (packet := self._pipe.read(size)):
                yield packet
            return
        reader = asyncio.StreamReader()
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), self._pipe
        )
        with closing(transport):
            while heard := await self._read(reader, size):
                yield heard

    async def _read(self, reader: asyncio.StreamReader, size: int) -> bytes:
        """Empty at the end of the pipe, and once the source is stopped."""
        stopped = asyncio.create_task(self._stopped.wait())
        packet = asyncio.create_task(_read_up_to(reader, size))
        await asyncio.wait({stopped, packet}, return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        if packet.done():
            return packet.result()
        packet.cancel()
        return b""

    def stop(self) -> None:
        self._stopped.set()


async def _read_up_to(reader: asyncio.StreamReader, size: int) -> bytes:
    try:
        return await reader.readexactly(size)
    except asyncio.IncompleteReadError as error:
        return error.partial


class MicrophoneSource:
    """The default input device, by PortAudio."""

    def __init__(self, audio: AudioFormat) -> None:
        """Raises: AudioSourceError where the extra or its system library is missing."""
        try:
            import sounddevice
        except (ImportError, OSError):
            raise AudioSourceError(MICROPHONE_MISSING) from None
        self._sounddevice = sounddevice
        self.audio = audio
        self.dropped_packets = 0
        self._heard: asyncio.Queue[bytes | None] = asyncio.Queue()

    async def packets(self, frames: int) -> AsyncIterator[bytes]:
        loop = asyncio.get_running_loop()

        def hear(block: Any, _frames: int, _time: Any, _status: Any) -> None:
            loop.call_soon_threadsafe(self._keep, bytes(block))

        with closing(self._open(frames, hear)):
            while (packet := await self._heard.get()) is not None:
                yield packet

    def _open(self, frames: int, hear: Any) -> Any:
        try:
            device = self._sounddevice.RawInputStream(
                samplerate=self.audio.sample_rate,
                channels=self.audio.channels,
                dtype="int16",
                blocksize=frames,
                callback=hear,
            )
            device.start()
        except self._sounddevice.PortAudioError as error:
            raise AudioSourceError(
                f"cannot open the microphone: {error}; choose a default input device"
            ) from None
        return device

    def _keep(self, packet: bytes) -> None:
        if self._heard.qsize() < MICROPHONE_PACKETS_MAX:
            self._heard.put_nowait(packet)
        else:
            self.dropped_packets += 1

    def stop(self) -> None:
        self._heard.put_nowait(None)


def audio_format(
    encoding: str, sample_rate: int, channels: int, channel_names: list[str | None] | None
) -> AudioFormat:
    """Checked as the server would. Raises: AudioSourceError."""
    if channel_names and len(channel_names) != channels:
        raise AudioSourceError(
            f"{len(channel_names)} channel names for {channels} channels; name each one"
        )
    fields = {"encoding": encoding, "sample_rate": sample_rate, "channels": channels}
    try:
        return AudioFormat.model_validate(fields | {"channel_names": channel_names or None})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise AudioSourceError(f"audio {where}: {first['msg']}") from None
