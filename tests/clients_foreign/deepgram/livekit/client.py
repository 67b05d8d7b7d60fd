"""Captions of a WAV file through LiveKit's Deepgram plugin: python client.py URL KEY FILE"""

import asyncio
import json
import sys
import wave
from typing import Any

import aiohttp
from livekit import rtc
from livekit.agents import stt
from livekit.plugins import deepgram

PACKET_S = 0.05


def stt_of(url: str, key: str, rate: int, http: aiohttp.ClientSession) -> deepgram.STT:
    # [three lines]
    base_url = f"{url}/v1/listen"
    return deepgram.STT(
        base_url=base_url, api_key=key, sample_rate=rate, enable_diarization=True, http_session=http
    )
    # [end]


async def push(file: wave.Wave_read, stream: stt.SpeechStream) -> None:
    """In real time."""
    rate, channels = file.getframerate(), file.getnchannels()
    loop = asyncio.get_running_loop()
    clock = loop.time()
    while audio := file.readframes(int(rate * PACKET_S)):
        stream.push_frame(rtc.AudioFrame(audio, rate, channels, len(audio) // 2 // channels))
        clock += PACKET_S
        await asyncio.sleep(max(0.0, clock - loop.time()))
    stream.end_input()


async def captions(url: str, key: str, path: str) -> dict[str, Any]:
    words, speakers, kinds = [], [], []
    with wave.open(path) as file:
        async with aiohttp.ClientSession() as http:
            stream = stt_of(url, key, file.getframerate(), http).stream()
            pushing = asyncio.create_task(push(file, stream))
            async for event in stream:
                kinds.append(str(event.type))
                if event.type is stt.SpeechEventType.FINAL_TRANSCRIPT:
                    said = event.alternatives[0]
                    words += said.text.split()
                    speakers += [said.speaker_id] * len(said.text.split())
            await pushing
            await stream.aclose()
    return {"words": words, "speakers": speakers, "kinds": kinds}


if __name__ == "__main__":
    json.dump(asyncio.run(captions(*sys.argv[1:4])), sys.stdout)
