"""The entry point of a decoder process: one recording in, blocks of interleaved PCM16 out.

Decoders of compressed audio are large, old and written in C: what a stranger sends is given to them
only here. Run by path, as ``python -I container_child.py FD CONTAINER SECONDS_MAX``; it knows of
captiond nothing but this file. ``server/containers.py`` starts it, and imports its constants.

Before the first byte is read the process gives up what it does not need: root, new files, sockets,
processes and threads, more memory than ``MEMORY_BYTES_MAX`` and more than ``CPU_SECONDS_IDLE`` of
processor time without any audio to show for it; on Linux every system call that decoding does not
take. What it writes is bounded by the socket: where nobody reads, it waits.

In: messages of 4 bytes of length and the bytes, then the end of the stream. Out: frames of a kind
(``KINDS``), 4 bytes of length and the content.
"""

import contextlib
import ctypes
import io
import os
import platform
import resource
import signal
import socket
import struct
import sys
import time
from collections.abc import Iterator
from typing import Any

LENGTH = struct.Struct(">I")
FRAME = struct.Struct(">cI")
FORMAT = struct.Struct(">IH")
"""Samples per second, channels."""
KINDS = KIND_FORMAT, KIND_AUDIO, KIND_ERROR, KIND_DONE = b"F", b"A", b"E", b"D"
"""The format stands before the first audio; an error or the count of damaged packets at the end."""
ERRORS = BAD_AUDIO, UNSUPPORTED, TOO_BIG, BROKEN = b"a", b"u", b"b", b"x"
"""First byte of an error; its sentence follows."""

BLOCK_BYTES_MAX = 32 * 1024
"""A third of a second of 48 kHz stereo is 64 kB: a block is soon full, and soon passed on."""
MEMORY_BYTES_MAX = 256 * 1024 * 1024
"""Above what the process has when it begins; the largest decoders take a few megabytes."""
SPOOL_BYTES_MAX = 96 * 1024 * 1024
"""Of an MP4 whose index is at its end: it can only be read when all of it is there."""
INDEX_BYTES_MAX = 1024 * 1024
"""Of an MP4 before its index or its audio."""
CPU_SECONDS_IDLE = 10
"""Without any new audio; hundreds of times what any second of real audio takes."""
CPU_SECONDS_MAX = 3_600
"""A day of Opus takes a few minutes."""
DAMAGED_PACKETS_MAX = 200
"""Before any audio came: then it is no audio."""
SAMPLE_RATE_HZ_MIN, SAMPLE_RATE_HZ_MAX = 4_000, 384_000
CHANNELS_MAX = 20
"""These three as in ``streaming.wire``; a test compares them."""
OPUS_RATE_HZ = 48_000
"""What Opus is decoded to, whatever was encoded."""

DEMUXERS = {
    "wav": "wav",
    "aiff": "aiff",
    "caf": "caf",
    "ogg": "ogg",
    "webm": "matroska",
    "flac": "flac",
    "mp3": "mp3",
    "aac": "aac",
    "mp4": "mov",
    "amr": "amr",
    "amr-nb": "amrnb",
    "amr-wb": "amrwb",
}
"""Containers by our names: one reader each, so that no input can choose another."""
PACKETS = "opus"
"""No container: each message is one Opus packet, as they come over RTP."""

_OPEN_OPTIONS = {"probesize": "32", "analyzeduration": "1"}
"""Headers tell all; looking at seconds of audio first would keep live audio back."""


class Refusal(Exception):
    """What is wrong with the input, as a sentence that says what to do."""

    def __init__(self, error: bytes, sentence: str) -> None:
        super().__init__(sentence)
        self.error = error
        self.sentence = sentence


class ParentGone(Exception):
    """There is nobody to decode for."""


# Input


class Messages:
    """What the parent sends, a message at a time."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    def __iter__(self) -> Iterator[bytes]:
        while header := self._exactly(LENGTH.size):
            yield self._exactly(LENGTH.unpack(header)[0])

    def _exactly(self, length: int) -> bytes:
        """Empty at the end of the stream."""
        body = bytearray()
        while len(body) < length:
            try:
                part = self._connection.recv(length - len(body))
            except ConnectionResetError:
                raise ParentGone from None
            if not part:
                return b""
            body += part
        return bytes(body)


class Stream:
    """Messages as one file that can only be read onwards."""

    def __init__(self, messages: Iterator[bytes], head: bytes = b"") -> None:
        self._messages = messages
        self._rest = memoryview(head)

    def read(self, size: int) -> bytes:
        """At most ``size`` bytes, as soon as there are any; empty at the end."""
        while not self._rest:
            message = next(self._messages, None)
            if message is None:
                return b""
            self._rest = memoryview(message)
        taken, self._rest = bytes(self._rest[:size]), self._rest[size:]
        return taken

    def read_exactly(self, size: int) -> bytes:
        """Fewer only at the end."""
        parts = bytearray()
        while len(parts) < size and (part := self.read(size - len(parts))):
            parts += part
        return bytes(parts)


class Spool:
    """All of a stream in memory, as a file that can be read anywhere."""

    def __init__(self, head: bytes, stream: Stream) -> None:
        self._held = bytearray(head)
        while part := stream.read(BLOCK_BYTES_MAX):
            if len(self._held) + len(part) > SPOOL_BYTES_MAX:
                raise Refusal(
                    TOO_BIG,
                    f"an MP4 above {SPOOL_BYTES_MAX // 1024**2} MB with its index at the end; "
                    "write it with the index first (ffmpeg -movflags +faststart), or send FLAC",
                )
            self._held += part
        self._place = 0

    def read(self, size: int) -> bytes:
        taken = bytes(self._held[self._place : self._place + size])
        self._place += len(taken)
        return taken

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: len(self._held)}[whence]
        self._place = max(0, base + offset)
        return self._place

    def tell(self) -> int:
        return self._place


def mp4_source(stream: Stream) -> Stream | Spool:
    """The file as it comes where its index comes first, all of it otherwise."""
    head = bytearray()
    while True:
        header = stream.read_exactly(8)
        head += header
        size, name = int.from_bytes(header[:4], "big"), header[4:]
        if name == b"moov" or len(header) < 8:
            return _Chained(bytes(head), stream)
        if name == b"mdat":
            return Spool(bytes(head), stream)
        if size < 8 or len(head) + size > INDEX_BYTES_MAX:
            raise Refusal(BAD_AUDIO, "an MP4 without index; write it anew, or send WAV or FLAC")
        head += stream.read_exactly(size - 8)


class _Chained(Stream):
    """Some bytes, then the rest of a stream."""

    def __init__(self, head: bytes, stream: Stream) -> None:
        super().__init__(iter(lambda: stream.read(BLOCK_BYTES_MAX), b""), head)


# Output


class Sink:
    """Frames to the parent, no more audio than was agreed."""

    def __init__(self, connection: socket.socket, seconds_max: float) -> None:
        self._connection = connection
        self._seconds_max = seconds_max
        self._left_bytes = 0
        self._held = bytearray()
        self._cpu_s = time.process_time()
        self.format: tuple[int, int] | None = None
        """Samples per second, channels."""

    def begin(self, rate_hz: int, channels: int) -> None:
        if not SAMPLE_RATE_HZ_MIN <= rate_hz <= SAMPLE_RATE_HZ_MAX:
            raise Refusal(BAD_AUDIO, f"{rate_hz} Hz is no rate of speech; send 16000 Hz")
        if not 1 <= channels <= CHANNELS_MAX:
            raise Refusal(UNSUPPORTED, f"{channels} channels; send at most {CHANNELS_MAX}")
        self.format = (rate_hz, channels)
        self._left_bytes = int(self._seconds_max * rate_hz) * channels * 2
        self._send(KIND_FORMAT, FORMAT.pack(rate_hz, channels))

    def write(self, pcm: bytes) -> None:
        self._left_bytes -= len(pcm)
        if self._left_bytes < 0:
            raise Refusal(
                TOO_BIG,
                f"more than {self._seconds_max:.0f} s of audio; send it in parts",
            )
        frame_bytes = self.format[1] * 2 if self.format else 1
        size = BLOCK_BYTES_MAX // frame_bytes * frame_bytes
        for start in range(0, len(pcm), size):
            self._send(KIND_AUDIO, pcm[start : start + size])
        self._allow_time()

    def fail(self, error: bytes, sentence: str) -> None:
        self._send(KIND_ERROR, error + sentence.encode())

    def done(self, damaged: int) -> None:
        self._send(KIND_DONE, LENGTH.pack(damaged))

    def _send(self, kind: bytes, content: bytes) -> None:
        try:
            self._connection.sendall(FRAME.pack(kind, len(content)) + content)
        except (BrokenPipeError, ConnectionResetError):
            raise ParentGone from None

    def _allow_time(self) -> None:
        """Audio came: some more processor time may pass until the next."""
        used_s = time.process_time()
        if used_s - self._cpu_s > 1.0:
            self._cpu_s = used_s
            limit_s = min(CPU_SECONDS_MAX, int(used_s) + CPU_SECONDS_IDLE)
            resource.setrlimit(resource.RLIMIT_CPU, (limit_s, CPU_SECONDS_MAX))


# Decoding


class Decoder:
    """Frames of any decoder → PCM16 of the first one's rate and channels."""

    def __init__(self, av: Any, sink: Sink) -> None:
        self._av = av
        self._sink = sink
        self._resampler: Any = None
        self._shape: Any = None
        self._layout: Any = None
        self.damaged = 0

    def take(self, frames: Any) -> None:
        for frame in frames:
            shape = (frame.rate, frame.format.name, frame.layout.name)
            if self._sink.format is None:
                self._layout = frame.layout
                self._sink.begin(frame.rate, frame.layout.nb_channels)
            if shape != self._shape:
                self.flush()
                rate_hz = self._sink.format[0] if self._sink.format else frame.rate
                self._resampler = self._av.AudioResampler("s16", self._layout, rate_hz)
                self._shape = shape
            self._write(self._resampler.resample(frame))

    def flush(self) -> None:
        """What a change of rate has left inside."""
        if self._resampler is not None:
            self._write(self._resampler.resample(None))

    def _write(self, frames: Any) -> None:
        for frame in frames:
            assert self._sink.format is not None
            size = frame.samples * self._sink.format[1] * 2
            self._sink.write(bytes(memoryview(frame.planes[0])[:size]))

    def note_damage(self, duration_s: float) -> None:
        """A packet that cannot be decoded: what follows it stays in its place."""
        self.damaged += 1
        if self._sink.format is None:
            if self.damaged > DAMAGED_PACKETS_MAX:
                raise Refusal(BAD_AUDIO, "the audio in it cannot be decoded; send WAV or FLAC")
            return
        rate_hz, channels = self._sink.format
        self._sink.write(bytes(int(min(duration_s, 1.0) * rate_hz) * channels * 2))


def decode_container(av: Any, container: str, source: Any, decoder: Decoder) -> None:
    """Raises: Refusal, ParentGone, and av.error.FFmpegError where the container is broken."""
    with av.open(
        source, format=DEMUXERS[container], options=_OPEN_OPTIONS, buffer_size=4096
    ) as opened:
        track = next(iter(opened.streams.audio), None)
        if track is None:
            raise Refusal(BAD_AUDIO, "there is no audio track in it; send one with audio")
        track.codec_context.thread_count = 1
        for packet in _packets(av, opened.demux(track), decoder):
            try:
                decoder.take(packet.decode())
            except av.error.InvalidDataError:
                decoder.note_damage(float((packet.duration or 0) * (packet.time_base or 0)))
    decoder.flush()


def _packets(av: Any, packets: Any, decoder: Decoder) -> Iterator[Any]:
    """Up to the end, or to where the container makes no sense any more."""
    try:
        yield from packets
    except (av.error.InvalidDataError, av.error.EOFError):
        decoder.damaged += 1


def decode_packets(av: Any, messages: Iterator[bytes], decoder: Decoder, channels: int) -> None:
    """Opus packets without a container."""
    codec = av.CodecContext.create("opus", "r")
    codec.sample_rate = OPUS_RATE_HZ
    codec.layout = "stereo" if channels == 2 else "mono"
    for message in messages:
        try:
            decoder.take(codec.decode(av.Packet(message)))
        except av.error.InvalidDataError:
            decoder.note_damage(0.02)
    decoder.flush()


# Confinement

_SYSTEM_CALLS = {
    "read": (0, 63), "write": (1, 64), "writev": (20, 66), "close": (3, 57), "fstat": (5, 80),
    "lseek": (8, 62), "sendto": (44, 206), "recvfrom": (45, 207), "mmap": (9, 222),
    "mprotect": (10, 226), "munmap": (11, 215), "mremap": (25, 216), "madvise": (28, 233),
    "brk": (12, 214), "rt_sigaction": (13, 134), "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139), "sigaltstack": (131, 132), "futex": (202, 98), "rseq": (334, 293),
    "sched_yield": (24, 124), "nanosleep": (35, 101), "clock_nanosleep": (230, 115),
    "clock_gettime": (228, 113), "getpid": (39, 172), "gettid": (186, 178),
    "prlimit64": (302, 261), "getrandom": (318, 278), "exit": (60, 93), "exit_group": (231, 94),
}  # fmt: skip
"""All that decoding takes: number on x86-64, on 64-bit Arm."""
_MACHINES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}
"""Audit number, column in the table above."""
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP = 1, 4, 38, 22
_SECCOMP_MODE_FILTER = 2
_LOAD, _EQUAL, _RETURN = 0x20, 0x15, 0x06
_ALLOW, _REFUSE, _KILL = 0x7FFF0000, 0x00050001, 0x80000000
"""Seccomp's answers: go on, EPERM, end the process."""
_NOBODY = 65_534


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("rules", ctypes.c_void_p))


def confine() -> None:
    """Call once everything is loaded. What the system does not know stays as it is."""
    _limit()
    with contextlib.suppress(OSError):
        if os.geteuid() == 0:
            os.setgroups([])
            os.setgid(_NOBODY)
            os.setuid(_NOBODY)
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    rules = _rules()
    if rules:
        buffer = ctypes.create_string_buffer(b"".join(rules))
        program = _Program(len(rules), ctypes.cast(buffer, ctypes.c_void_p))
        libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0)


def _limit() -> None:
    limits = {
        resource.RLIMIT_CPU: (CPU_SECONDS_IDLE, CPU_SECONDS_MAX),
        resource.RLIMIT_AS: (_address_space_bytes() + MEMORY_BYTES_MAX,) * 2,
        resource.RLIMIT_NOFILE: (0, 0),
        resource.RLIMIT_NPROC: (0, 0),
        resource.RLIMIT_FSIZE: (0, 0),
        resource.RLIMIT_CORE: (0, 0),
    }
    for which, values in limits.items():
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(which, values)


def _address_space_bytes() -> int:
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[0]) * resource.getpagesize()
    except OSError:
        return 1 << 30


def _rules() -> list[bytes]:
    """A program of the kernel's packet filter: one of the calls, or EPERM."""
    machine, column = _MACHINES.get(platform.machine(), (0, 0))
    if not machine:
        return []
    calls = [numbers[column] for numbers in _SYSTEM_CALLS.values()]

    def rule(code: int, value: int, yes: int = 0, no: int = 0) -> bytes:
        return struct.pack("=HBBI", code, yes, no, value)

    rules = [rule(_LOAD, 4), rule(_EQUAL, machine, 1, 0), rule(_RETURN, _KILL), rule(_LOAD, 0)]
    for index, call in enumerate(calls):
        rules.append(rule(_EQUAL, call, len(calls) - index, 0))
    return [*rules, rule(_RETURN, _REFUSE), rule(_RETURN, _ALLOW)]


# The process


SILENCE = (
    b"RIFF\x2c\0\0\0WAVEfmt \x10\0\0\0\x01\0\x01\0\x80\x3e\0\0\0\x7d\0\0\x02\0\x10\0"
    b"data\x08\0\0\0\0\0\0\0\0\0\0\0"
)
"""A WAV of four samples."""


def load(av: Any) -> None:
    """The library loads parts of itself when they are first used: later it could not."""
    with av.open(io.BytesIO(SILENCE), format="wav") as opened:
        resampler = av.AudioResampler("s16", "mono", SAMPLE_RATE_HZ_MIN)
        for frame in opened.decode(audio=0):
            resampler.resample(frame)
    av.CodecContext.create("opus", "r")
    av.Packet(b"")


def main() -> None:
    """Decodes one recording, or says why it cannot."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends us
    connection = socket.socket(fileno=int(sys.argv[1]))
    container, seconds_max, channels = sys.argv[2], float(sys.argv[3]), int(sys.argv[4])
    import av

    av.logging.set_level(av.logging.PANIC)
    load(av)
    confine()
    sink = Sink(connection, seconds_max)
    messages = iter(Messages(connection))
    with contextlib.suppress(ParentGone):
        _run(av, container, messages, sink, channels)
        for _ in messages:  # a socket that closes on unread input would take the last frame along
            pass
    os._exit(0)


def _run(av: Any, container: str, messages: Iterator[bytes], sink: Sink, channels: int) -> None:
    decoder = Decoder(av, sink)
    try:
        if container == PACKETS:
            decode_packets(av, messages, decoder, channels)
        else:
            stream = Stream(messages)
            source = mp4_source(stream) if container == "mp4" else stream
            decode_container(av, container, source, decoder)
        if sink.format is None:
            raise Refusal(BAD_AUDIO, "there is no audio in it; send a recording that is not empty")
        sink.done(decoder.damaged)
    except Refusal as refusal:
        sink.fail(refusal.error, refusal.sentence)
    except MemoryError:
        sink.fail(TOO_BIG, "decoding it takes too much memory; send WAV or FLAC")
    except av.error.FFmpegError as error:
        name = f"{container} audio that cannot be read ({type(error).__name__})"
        sink.fail(BAD_AUDIO, f"{name}; write it anew, or send WAV or FLAC")
    except ParentGone:
        raise
    except Exception as error:  # noqa: BLE001  task boundary
        sink.fail(BROKEN, f"the decoder has a bug ({type(error).__name__}); send WAV or FLAC")


if __name__ == "__main__":
    main()
