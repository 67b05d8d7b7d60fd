"""A transcript of a WAV file through Pipecat's OpenAI service: python client.py URL KEY FILE"""

import asyncio
import json
import sys
from pathlib import Path

from pipecat.frames.frames import ErrorFrame, TranscriptionFrame
from pipecat.services.openai.stt import OpenAISTTService


def service_of(url: str, key: str) -> OpenAISTTService:
    # [three lines]
    return OpenAISTTService(base_url=f"{url}/v1", api_key=key)
    # [end]


async def transcribe(url: str, key: str, audio: bytes) -> str:
    """The service's own request for one segment of speech, as it makes them in a pipeline."""
    service = service_of(url, key)
    # Beside a pipeline there are no metrics to be kept.
    frames = [frame async for frame in service.run_stt(audio)]
    for frame in frames:
        if isinstance(frame, ErrorFrame):
            raise SystemExit(frame.error)
    return " ".join(frame.text for frame in frames if isinstance(frame, TranscriptionFrame))


def main() -> None:
    url, key, path = sys.argv[1:4]
    text = asyncio.run(transcribe(url, key, Path(path).read_bytes()))
    print(json.dumps({"words": text.split(), "speakers": []}))


if __name__ == "__main__":
    main()
