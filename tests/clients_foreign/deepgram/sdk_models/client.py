"""Every message against the models of Deepgram's own SDK: python client.py URL KEY FILE

The SDK reads whatever comes without checking it, so that a wrong message shows as None in some
handler. Here each one, live and prerecorded, is validated as it came over the wire.
"""

import asyncio
import json
import sys
import urllib.request
import wave
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from deepgram.listen.v1.types import (
    ListenV1ConfigureFailure,
    ListenV1ConfigureSuccess,
    ListenV1Error,
    ListenV1Metadata,
    ListenV1Results,
    ListenV1SpeechStarted,
    ListenV1UtteranceEnd,
)
from deepgram.types import ListenV1Response
from pydantic import BaseModel
from websockets.asyncio.client import ClientConnection, connect

MODELS: dict[str, type[BaseModel]] = {
    "Results": ListenV1Results,
    "Metadata": ListenV1Metadata,
    "SpeechStarted": ListenV1SpeechStarted,
    "UtteranceEnd": ListenV1UtteranceEnd,
    "Error": ListenV1Error,
    "ConfigureSuccess": ListenV1ConfigureSuccess,
    "ConfigureFailure": ListenV1ConfigureFailure,
}
UNLISTED = {
    "ListenV1Metadata": {"models", "model_info"},
    "ListenV1ResponseResultsChannelsItemAlternativesItemWordsItem": {"punctuated_word"},
}
"""Keys that Deepgram sends, and these models leave out."""
PACKET_S = 0.1
LAST_WORDS: list[dict[str, Any]] = [
    {"type": "Finalize"},
    {"type": "KeepAlive"},
    {"type": "Configure", "features": {"numerals": True}},
    {"type": "Configure", "keyterms": ["captiond"]},
    {"type": "Configure", "keyterms": ["x"] * 1_000},
    {"type": "CloseStream"},
]
QUERY = {
    "model": "nova-3",
    "encoding": "linear16",
    "interim_results": "true",
    "punctuate": "true",
    "diarize": "true",
    "vad_events": "true",
    "utterance_end_ms": 300,
}


def check(model: type[BaseModel], message: dict[str, Any]) -> None:
    """Raises: ValidationError, ValueError."""
    for part in parts_of(model.model_validate(message)):
        name = type(part).__name__
        unknown = set(part.model_extra or {}) - UNLISTED.get(name, set())
        if unknown:
            raise ValueError(f"{name} has no {', '.join(sorted(unknown))}")


def parts_of(value: Any) -> list[BaseModel]:
    """A model and all models inside it."""
    if isinstance(value, BaseModel):
        inside = (getattr(value, name) for name in type(value).model_fields)
        return [value, *(part for each in inside for part in parts_of(each))]
    values = value.values() if isinstance(value, dict) else value
    if isinstance(value, dict | list):
        return [part for each in values for part in parts_of(each)]
    return []


async def say(socket: ClientConnection, path: str) -> None:
    """In real time, with everything that has an answer."""
    loop = asyncio.get_running_loop()
    with wave.open(path) as file:
        clock = loop.time()
        while audio := file.readframes(int(file.getframerate() * PACKET_S)):
            await socket.send(audio)
            clock += PACKET_S
            await asyncio.sleep(max(0.0, clock - loop.time()))
    await socket.send("no JSON")
    for message in LAST_WORDS:
        await socket.send(json.dumps(message))


async def stream(url: str, key: str, path: str) -> list[dict[str, Any]]:
    with wave.open(path) as file:
        query = urlencode({**QUERY, "sample_rate": file.getframerate()})
    address = f"ws{url.removeprefix('http')}/v1/listen?{query}"
    headers = {"Authorization": f"Token {key}"}
    async with connect(address, additional_headers=headers) as socket:
        saying = asyncio.create_task(say(socket, path))
        messages = [json.loads(message) async for message in socket]
        await saying
    return messages


def recording(url: str, key: str, path: str) -> dict[str, Any]:
    query = "punctuate=true&diarize=true&utterances=true&paragraphs=true&language=multi"
    request = urllib.request.Request(
        f"{url}/v1/listen?{query}",
        data=Path(path).read_bytes(),
        headers={"Authorization": f"Token {key}", "Content-Type": "audio/wav"},
    )
    with urllib.request.urlopen(request) as answer:
        told: dict[str, Any] = json.load(answer)
    return told


def main() -> None:
    url, key, path = sys.argv[1:4]
    messages = asyncio.run(stream(url, key, path))
    for message in messages:
        check(MODELS[message["type"]], message)
    missing = set(MODELS) - {message["type"] for message in messages}
    if missing:
        raise SystemExit(f"nobody sent {', '.join(sorted(missing))}")
    told = recording(url, key, path)
    check(ListenV1Response, told)
    words = [
        word
        for message in messages
        if message["type"] == "Results" and message["is_final"]
        for word in message["channel"]["alternatives"][0]["words"]
    ]
    recorded = told["results"]["channels"][0]["alternatives"][0]["words"]
    if [word["word"] for word in words] != [word["word"] for word in recorded]:
        raise SystemExit("the recording has other words than the stream")
    json.dump(
        {
            "words": [word["punctuated_word"] for word in words],
            "speakers": [word.get("speaker") for word in words],
            "types": sorted({message["type"] for message in messages}),
        },
        sys.stdout,
    )


if __name__ == "__main__":
    main()
