"""Captions of a WAV file through Deepgram's earlier Python SDK: python client.py URL KEY FILE"""

import json
import sys
import threading
import time
import wave
from typing import Any

from deepgram import (
    DeepgramClient,
    DeepgramClientOptions,
    ListenWebSocketClient,
    LiveOptions,
    LiveTranscriptionEvents,
)

PACKET_S = 0.1
END_SECONDS_MAX = 10.0


def client_of(url: str, key: str) -> DeepgramClient:
    # [three lines]
    options = DeepgramClientOptions(url=url, options={"keepalive": "true"})
    return DeepgramClient(key, options)
    # [end]


def stream(url: str, key: str, path: str) -> list[dict[str, Any]]:
    """All messages, as the SDK's own models have read them."""
    messages: list[dict[str, Any]] = []
    is_over = threading.Event()

    def note(_: ListenWebSocketClient, **fields: Any) -> None:
        told = (value for value in fields.values() if hasattr(value, "to_dict"))
        messages.extend(message.to_dict() for message in told)

    def note_end(_: ListenWebSocketClient, **fields: Any) -> None:
        note(_, **fields)
        is_over.set()

    connection = client_of(url, key).listen.websocket.v("1")
    for event in (
        LiveTranscriptionEvents.Transcript,
        LiveTranscriptionEvents.SpeechStarted,
        LiveTranscriptionEvents.UtteranceEnd,
        LiveTranscriptionEvents.Error,
        LiveTranscriptionEvents.Unhandled,
    ):
        connection.on(event, note)
    connection.on(LiveTranscriptionEvents.Metadata, note_end)
    with wave.open(path) as file:
        options = LiveOptions(
            model="nova-2",
            encoding="linear16",
            sample_rate=file.getframerate(),
            channels=file.getnchannels(),
            interim_results=True,
            punctuate=True,
            diarize=True,
            vad_events=True,
        )
        if not connection.start(options):
            raise SystemExit("the SDK could not connect")
        clock = time.monotonic()
        while audio := file.readframes(int(file.getframerate() * PACKET_S)):
            connection.send(audio)
            clock += PACKET_S
            time.sleep(max(0.0, clock - time.monotonic()))
    connection.finalize()
    connection.send(json.dumps({"type": "CloseStream"}))
    is_over.wait(END_SECONDS_MAX)  # ``finish`` alone closes after half a second
    connection.finish()
    return messages


def main() -> None:
    url, key, path = sys.argv[1:4]
    messages = stream(url, key, path)
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
