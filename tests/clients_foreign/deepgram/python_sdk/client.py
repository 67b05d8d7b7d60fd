"""Captions of a WAV file through Deepgram's Python SDK: python client.py URL KEY FILE"""

import asyncio
import json
import sys
import wave
from typing import Any

from deepgram import AsyncDeepgramClient, DeepgramClientEnvironment
from deepgram.core.events import EventType

PACKET_S = 0.1


def client_of(url: str, key: str) -> AsyncDeepgramClient:
    # [three lines]
    http, ws = url, "ws" + url.removeprefix("http")
    server = DeepgramClientEnvironment(base=http, production=ws, agent=ws, agent_rest=http)
    return AsyncDeepgramClient(api_key=key, environment=server)
    # [end]


async def stream(url: str, key: str, path: str, **options: Any) -> list[dict[str, Any]]:
    """All messages, as the SDK's own models have read them."""
    messages: list[dict[str, Any]] = []
    with wave.open(path) as file:
        async with client_of(url, key).listen.v1.connect(
            model="nova-3",
            encoding="linear16",
            sample_rate=file.getframerate(),
            channels=file.getnchannels(),
            interim_results=True,
            punctuate=True,
            diarize=True,
            vad_events=True,
            utterance_end_ms=1000,
            **options,
        ) as socket:
            socket.on(EventType.MESSAGE, lambda message: messages.append(message.dict()))
            listening = asyncio.create_task(socket.start_listening())
            clock = asyncio.get_running_loop().time()
            while audio := file.readframes(int(file.getframerate() * PACKET_S)):
                await socket.send_media(audio)
                clock += PACKET_S
                await asyncio.sleep(max(0.0, clock - asyncio.get_running_loop().time()))
            await socket.send_finalize()
            await socket.send_close_stream()
            await listening
    return messages


def main() -> None:
    url, key, path = sys.argv[1:4]
    messages = asyncio.run(stream(url, key, path))
    finals = [m for m in messages if m["type"] == "Results" and m["is_final"]]
    words = [w for m in finals for w in m["channel"]["alternatives"][0]["words"]]
    json.dump(
        {
            "words": [word["punctuated_word"] for word in words],
            "speakers": [word.get("speaker") for word in words],
            "messages": messages,
        },
        sys.stdout,
    )


if __name__ == "__main__":
    main()
