"""What each encoding costs in words, over Deepgram's live protocol, on the shipped clip.

    make test-clients ARGS="--only format"

Every format is made from the clip here, streamed as fast as the server takes it, and its word
error rate is held against that of 16 kHz PCM16. Exit status 1: one is further from it than it may
be.
"""

import argparse
import asyncio
import io
import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import av
import numpy as np
import orjson
import soundfile
import soxr
from numpy.typing import NDArray
from websockets.asyncio.client import connect

from server.child import running_server
from server.scoring import word_error_rate
from streaming.timeline import SAMPLE_RATE_HZ

CLIP = Path(__file__).resolve().parents[2] / "server" / "assets" / "demo_clip"
WER_MORE_MAX, WER_MORE_MAX_AT_8_KHZ = 0.05, 0.10
TELEPHONE_HZ = 8_000
AMR_HEADER = b"#!AMR\n"
PACKET_BYTES = 4_000
STREAM_SECONDS_MAX = 120.0

Levels = NDArray[np.float32]
"""Mono at 16 kHz, -1 to 1."""


@dataclass(frozen=True, slots=True)
class Format:
    """One way to send the clip."""

    name: str
    query: dict[str, Any]
    encode: Callable[[Levels], bytes | list[bytes]]
    """The stream, or its packets where each is a message of its own."""
    is_telephone: bool = False

    @property
    def wer_more_max(self) -> float:
        return WER_MORE_MAX_AT_8_KHZ if self.is_telephone else WER_MORE_MAX


def pcm(rate_hz: int) -> Format:
    return Format(
        f"linear16 {rate_hz} Hz",
        {"encoding": "linear16", "sample_rate": rate_hz},
        lambda levels: int16(resampled(levels, rate_hz)).tobytes(),
        is_telephone=rate_hz == TELEPHONE_HZ,
    )


def companded(name: str, codec: str) -> Format:
    return Format(
        f"{name} 8000 Hz",
        {"encoding": name, "sample_rate": TELEPHONE_HZ},
        lambda levels: packed(levels, codec, codec, TELEPHONE_HZ),
        is_telephone=True,
    )


def container(
    name: str, codec: str, kind: str, rate_hz: int, encoding: str | None = None
) -> Format:
    query = {} if encoding is None else {"encoding": encoding}
    return Format(name, query, lambda levels: packed(levels, codec, kind, rate_hz))


def stereo(levels: Levels) -> bytes:
    """The clip on the second channel; half a second of silence, then the clip, on the first."""
    late = np.concatenate((np.zeros(SAMPLE_RATE_HZ // 2, np.float32), levels))
    both = np.stack((late, np.pad(levels, (0, len(late) - len(levels)))), axis=1)
    return int16(both).tobytes()


FORMATS = (
    *(pcm(rate_hz) for rate_hz in (16_000, 8_000, 24_000, 44_100, 48_000)),
    companded("mulaw", "mulaw"),
    companded("alaw", "alaw"),
    Format(
        "linear32 16000 Hz",
        {"encoding": "linear32", "sample_rate": SAMPLE_RATE_HZ},
        lambda levels: levels.astype("<f4").tobytes(),
    ),
    container("Opus in Ogg", "libopus", "ogg", 48_000),
    container("Opus in Ogg, announced", "libopus", "ogg", 48_000, "ogg-opus"),
    container("Opus in WebM", "libopus", "webm", 48_000),
    Format("Opus packets", {"encoding": "opus", "sample_rate": 48_000}, lambda x: opus_packets(x)),
    Format("AMR-NB", {}, lambda levels: amr(levels), is_telephone=True),
    Format(
        "AMR-NB frames",
        {"encoding": "amr-nb", "sample_rate": TELEPHONE_HZ},
        lambda levels: amr(levels).removeprefix(AMR_HEADER),
        is_telephone=True,
    ),
    container("FLAC", "flac", "flac", 16_000),
    container("FLAC, announced", "flac", "flac", 16_000, "flac"),
    container("MP3", "libmp3lame", "mp3", 44_100),
    container("WAV", "pcm_s16le", "wav", 16_000),
    Format(
        "stereo as two channels",
        {
            "encoding": "linear16",
            "sample_rate": SAMPLE_RATE_HZ,
            "channels": 2,
            "multichannel": "true",
        },
        stereo,
    ),
)


def resampled(levels: Levels, rate_hz: int) -> Levels:
    return np.asarray(soxr.resample(levels, SAMPLE_RATE_HZ, rate_hz, "HQ"), np.float32)


def int16(levels: Levels) -> NDArray[np.int16]:
    return np.clip(np.rint(levels * 32_768), -32_768, 32_767).astype("<i2")


def packed(levels: Levels, codec: str, kind: str, rate_hz: int) -> bytes:
    """Encoded as ffmpeg does it by default."""
    names = {"mulaw": ("pcm_mulaw", "mulaw"), "alaw": ("pcm_alaw", "alaw")}
    codec, kind = names.get(codec, (codec, kind))
    file = io.BytesIO()
    with av.open(file, "w", format=kind) as out:
        stream = out.add_stream(codec, rate=rate_hz, layout="mono")
        assert isinstance(stream, av.AudioStream)
        samples = int16(resampled(levels, rate_hz)).reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
        frame.sample_rate = rate_hz
        for part in (frame, None):
            out.mux(stream.encode(part))
    return file.getvalue()


def amr(levels: Levels) -> bytes:
    return packed(levels, "libopencore_amrnb", "amr", TELEPHONE_HZ)


def opus_packets(levels: Levels) -> list[bytes]:
    encoder = av.CodecContext.create("libopus", "w")
    assert isinstance(encoder, av.AudioCodecContext)
    encoder.sample_rate, encoder.layout, encoder.format = 48_000, "mono", "s16"
    samples = int16(resampled(levels, 48_000)).reshape(1, -1)
    frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
    frame.sample_rate = 48_000
    return [bytes(packet) for part in (frame, None) for packet in encoder.encode(part)]


async def transcripts(url: str, query: dict[str, Any], body: bytes | list[bytes]) -> list[str]:
    """Of each channel."""
    address = f"ws{url.removeprefix('http')}/v1/listen?{urlencode({'model': 'any', **query})}"
    texts: dict[int, list[str]] = {}
    if isinstance(body, bytes):
        body = [body[at : at + PACKET_BYTES] for at in range(0, len(body), PACKET_BYTES)]
    packets: list[bytes] = body
    async with asyncio.timeout(STREAM_SECONDS_MAX), connect(address, proxy=None) as socket:

        async def send() -> None:
            for packet in packets:
                await socket.send(packet)
            await socket.send('{"type":"CloseStream"}')

        sending = asyncio.create_task(send())
        async for message in socket:
            told = orjson.loads(message)
            if told["type"] == "Results" and told["is_final"]:
                said = texts.setdefault(told["channel_index"][0], [])
                said.append(told["channel"]["alternatives"][0]["transcript"])
        await sending
        if socket.close_code != 1000:
            raise RuntimeError(f"closed with {socket.close_code} {socket.close_reason}")
    return [" ".join(texts[channel]) for channel in sorted(texts)]


async def error_rate(url: str, way: Format, levels: Levels, reference: str) -> float:
    """Of the channel that is worst off."""
    told = await transcripts(url, way.query, await asyncio.to_thread(way.encode, levels))
    expected = 2 if way.query.get("multichannel") else 1
    if len(told) != expected:
        return 1.0
    return max(word_error_rate(reference, text) for text in told)


async def measured(ways: tuple[Format, ...]) -> bool:
    """Prints a line for each; False where one costs too much."""
    reference = json.loads((CLIP / "reference.json").read_text())
    text = " ".join(word["word"] for word in reference["words"])
    levels, _ = soundfile.read(CLIP / "clip.flac", dtype="float32")
    arguments = ["--asr", "demo", "--diarizer", "none", "--log-level", "warning"]
    is_good = True
    with tempfile.TemporaryDirectory(prefix="captiond-formats-") as name:
        async with running_server(arguments, Path(name)) as server:
            plain = await error_rate(server.url, FORMATS[0], levels, text)
            for way in ways:
                rate = await error_rate(server.url, way, levels, text)
                is_fine = rate <= plain + way.wer_more_max
                is_good &= is_fine
                print(f"{way.name:24} WER {rate:.3f}  {'ok' if is_fine else 'MISS'}", flush=True)
    return is_good


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", default="", help='"format", or part of a format\'s name')
    only = parser.parse_args().only
    ways = tuple(way for way in FORMATS if only in f"deepgram format {way.name}")
    return 0 if not ways or asyncio.run(measured(ways)) else 1


if __name__ == "__main__":
    sys.exit(main())
