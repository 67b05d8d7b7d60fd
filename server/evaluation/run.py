"""One recording through a server, as any client would send it, and what came back.

Knows the server by its public face only: the protocol, and ``/metrics`` of a server that serves
nobody else, where the time of each engine stage is read.
"""

import asyncio
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass

from clients.audio_source import AudioSourceError, FileSource
from clients.errors import CaptionStreamError
from clients.pacing import Pace, Pacer, packet_frames
from clients.stream import CaptionStream, frame_bytes
from server.evaluation.heard import Heard
from server.evaluation.manifest import EvaluationError, Recording
from streaming.timeline import SAMPLE_RATE_HZ
from streaming.wire import Start

PACKET_MS = 100
METRICS_SECONDS_MAX = 10.0
_ENGINE_SECONDS = "captiond_inference_duration_seconds"

Progress = Callable[[float], None]
"""Told how many seconds of audio were sent since the last call."""


@dataclass(frozen=True, slots=True)
class Target:
    """The server to be measured."""

    url: str
    api_key: str | None = None
    is_ours: bool = True
    """It serves nobody else, so that its engines' time is this recording's."""


async def stream_recording(
    recording: Recording, target: Target, pace: Pace, progress: Progress
) -> Heard:
    """Raises: EvaluationError."""
    before = await _engine_seconds(target)
    started_s = time.monotonic()
    problem: BaseException | None = None
    try:
        heard = await _converse(recording, target, pace, progress)
    except* (AudioSourceError, CaptionStreamError) as errors:
        problem = _first(errors)
    if problem is not None:
        raise EvaluationError(str(problem))
    heard.wall_s = time.monotonic() - started_s
    after = await _engine_seconds(target)
    if before is not None and after is not None:
        heard.engine_s = {stage: after[stage] - before.get(stage, 0.0) for stage in after}
    return heard


async def _converse(recording: Recording, target: Target, pace: Pace, progress: Progress) -> Heard:
    source, heard = FileSource(recording.audio, None), Heard()
    start = Start(audio=source.audio, language=recording.language)
    async with CaptionStream.open(target.url, start, api_key=target.api_key) as stream:
        heard.engines = dict(stream.ready.engines)
        async with asyncio.TaskGroup() as tasks:
            # Where sending fails, the group also ends the wait for captions, and the reverse.
            tasks.create_task(_send(stream, source, heard, pace, progress))
            async for event in stream:
                heard.receive(event, time.monotonic())
    return heard


def _first(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    first = errors.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first


async def _send(
    stream: CaptionStream, source: FileSource, heard: Heard, pace: Pace, progress: Progress
) -> None:
    rate = source.audio.sample_rate
    pacer = Pacer(pace, rate, time.monotonic_ns())
    assert heard.delays is not None
    sent, accepted = heard.delays.sent, 0
    async for packet in source.packets(packet_frames(PACKET_MS, rate)):
        frames = len(packet) // frame_bytes(source.audio)
        await asyncio.sleep(pacer.wait_s(accepted + frames, time.monotonic_ns()))
        await stream.send(packet)
        accepted += frames
        # Rounded up: a word may end in the last, incomplete sample of the audio clock.
        sent.packet_sent(-(-accepted * SAMPLE_RATE_HZ // rate), time.monotonic())
        progress(frames / rate)
    await stream.end()


async def _engine_seconds(target: Target) -> dict[str, float] | None:
    """By stage, since the server started; None where it serves others too, or does not tell."""
    if not target.is_ours:
        return None
    try:
        return await asyncio.to_thread(_read_engine_seconds, target.url)
    except (OSError, urllib.error.URLError):
        return None


def _read_engine_seconds(url: str) -> dict[str, float]:
    from prometheus_client.parser import text_string_to_metric_families

    with urllib.request.urlopen(f"{url}/metrics", timeout=METRICS_SECONDS_MAX) as response:
        text = response.read().decode()
    return {
        sample.labels["stage"]: sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == f"{_ENGINE_SECONDS}_sum"
    }
