"""Captions of a WAV file through Pipecat's Deepgram service: python client.py URL KEY FILE"""

import asyncio
import json
import sys
import wave
from typing import Any

from pipecat.frames.frames import (
    EndFrame,
    ErrorFrame,
    Frame,
    InputAudioRawFrame,
    TranscriptionFrame,
    VADUserStoppedSpeakingFrame,
)
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineParams, PipelineWorker
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.services.deepgram.stt import DeepgramSTTService
from pipecat.workers.runner import WorkerRunner

PACKET_S = 0.02
FINALIZE_SECONDS_MAX = 10.0


def service_of(url: str, key: str) -> DeepgramSTTService:
    # [three lines]
    base_url = "ws" + url.removeprefix("http")
    settings = DeepgramSTTService.Settings(diarize=True)
    return DeepgramSTTService(api_key=key, base_url=base_url, settings=settings)
    # [end]


class Notes(FrameProcessor):  # type: ignore[misc]  # unknown where types are checked
    """Keeps what the service says."""

    def __init__(self) -> None:
        super().__init__()
        self.finals: list[TranscriptionFrame] = []
        self.errors: list[str] = []
        self.is_finalized = asyncio.Event()

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        if isinstance(frame, TranscriptionFrame):
            self.finals.append(frame)
            if frame.result.from_finalize:
                self.is_finalized.set()
        elif isinstance(frame, ErrorFrame):
            self.errors.append(frame.error)
        await self.push_frame(frame, direction)


async def play(path: str, worker: PipelineWorker, notes: Notes) -> None:
    """In real time; then the end of speech, as a pipeline's own voice activity would tell it."""
    loop = asyncio.get_running_loop()
    with wave.open(path) as file:
        rate, channels = file.getframerate(), file.getnchannels()
        clock = loop.time()
        while audio := file.readframes(int(rate * PACKET_S)):
            await worker.queue_frame(InputAudioRawFrame(audio, rate, channels))
            clock += PACKET_S
            await asyncio.sleep(max(0.0, clock - loop.time()))
    await worker.queue_frame(VADUserStoppedSpeakingFrame())
    try:
        await asyncio.wait_for(notes.is_finalized.wait(), FINALIZE_SECONDS_MAX)
    except TimeoutError:
        notes.errors.append("no transcript came for the end of speech")
    await worker.queue_frame(EndFrame())


async def captions(url: str, key: str, path: str) -> dict[str, Any]:
    notes = Notes()
    with wave.open(path) as file:
        params = PipelineParams(audio_in_sample_rate=file.getframerate())
    worker = PipelineWorker(Pipeline([service_of(url, key), notes]), params=params)
    runner = WorkerRunner(handle_sigint=False)
    await runner.add_workers(worker)
    await asyncio.gather(runner.run(), play(path, worker, notes))
    words = [w for final in notes.finals for w in final.result.channel.alternatives[0].words]
    return {
        "words": [word.punctuated_word for word in words],
        "speakers": [word.speaker for word in words],
        "errors": notes.errors,
    }


if __name__ == "__main__":
    json.dump(asyncio.run(captions(*sys.argv[1:4])), sys.stdout)
