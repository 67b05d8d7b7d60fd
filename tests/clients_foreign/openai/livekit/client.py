"""A transcript of a WAV file through LiveKit's OpenAI plugin: python client.py URL KEY FILE"""

import asyncio
import json
import sys
import wave

from livekit import rtc
from livekit.agents.utils import http_context
from livekit.plugins import openai


def stt_of(url: str, key: str) -> openai.STT:
    # [three lines]
    return openai.STT(base_url=f"{url}/v1", api_key=key, model="whisper-1", language="en")
    # [end]


async def transcribe(url: str, key: str, path: str) -> str:
    with wave.open(path) as file:
        audio = file.readframes(file.getnframes())
        frame = rtc.AudioFrame(audio, file.getframerate(), file.getnchannels(), file.getnframes())
    async with http_context.open():
        event = await stt_of(url, key).recognize(frame)
    text: str = event.alternatives[0].text
    return text


def main() -> None:
    url, key, path = sys.argv[1:4]
    print(json.dumps({"words": asyncio.run(transcribe(url, key, path)).split(), "speakers": []}))


if __name__ == "__main__":
    main()
