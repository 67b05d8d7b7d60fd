"""A transcript of a WAV file through OpenAI's Python SDK: python client.py URL KEY FILE

Every body and event is also held against the SDK's own classes, strictly: the SDK itself takes
whatever comes.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openai
from openai import OpenAI
from openai.types import Model
from openai.types.audio import (
    Transcription,
    TranscriptionDiarized,
    TranscriptionTextDeltaEvent,
    TranscriptionTextDoneEvent,
    TranscriptionTextSegmentEvent,
    TranscriptionVerbose,
)
from pydantic import BaseModel, ValidationError

UNKNOWN_FIGURES = {"no_speech_prob", "temperature"}
"""Null here, and a number there: what no engine tells is not made up."""
EVENTS: dict[str, type[BaseModel]] = {
    "transcript.text.delta": TranscriptionTextDeltaEvent,
    "transcript.text.segment": TranscriptionTextSegmentEvent,
    "transcript.text.done": TranscriptionTextDoneEvent,
}


def client_of(url: str, key: str) -> OpenAI:
    # [three lines]
    return OpenAI(base_url=f"{url}/v1", api_key=key)
    # [end]


def check(kind: type[BaseModel], fields: Any) -> None:
    """Raises: ValidationError for anything else than the figures that are not known."""
    try:
        kind.model_validate(fields, strict=True)
    except ValidationError as error:
        wrong = {str(complaint["loc"][-1]) for complaint in error.errors()}
        if not wrong <= UNKNOWN_FIGURES:
            raise


def answered(client: OpenAI, kind: type[BaseModel], path: str, **options: Any) -> Any:
    """As the SDK gives it, once its body was looked at."""
    create: Any = client.audio.transcriptions.with_raw_response.create
    raw = create(file=Path(path), **options)
    check(kind, json.loads(raw.text))
    return raw.parse()


def texts(client: OpenAI, path: str) -> list[str]:
    """In the formats that have nothing but text, and as one JSON."""
    create: Any = client.audio.transcriptions.create
    plain = create(model="whisper-1", file=Path(path), response_format="text")
    short = answered(client, Transcription, path, model="gpt-4o-transcribe")
    for name, begin in (("srt", "1\n00:00:0"), ("vtt", "WEBVTT")):
        cues = create(model="whisper-1", file=Path(path), response_format=name)
        assert cues.startswith(begin), cues[:40]
    return [plain, short.text]


def streamed(client: OpenAI, path: str, **options: Any) -> list[Any]:
    create: Any = client.audio.transcriptions.create
    events = list(create(file=Path(path), stream=True, **options))
    for event in events:
        check(EVENTS[event.type], event.to_dict())
    return events


def text_of(events: list[Any]) -> str:
    return "".join(event.delta for event in events if event.type == "transcript.text.delta")


def refused(call: Callable[[], object]) -> openai.APIStatusError:
    """As the SDK's own exception."""
    try:
        call()
    except openai.APIStatusError as error:
        return error
    raise SystemExit("what should be refused was not")


def check_refusals(client: OpenAI, path: str) -> None:
    create: Any = client.audio.transcriptions.create
    stranger = client.with_options(api_key="another")
    found = [
        refused(lambda: create(model="whisper-1", file=Path(path), response_format="xml")),
        refused(lambda: create(model="whisper-1", file=("a.wav", b"no audio" * 9))),
        refused(stranger.models.list),
        refused(lambda: client.models.retrieve("gpt-9")),
    ]
    told = [(error.status_code, error.code, error.param) for error in found]
    wanted = [
        (400, "bad_message", "response_format"),
        (400, "bad_audio", None),
        (401, "invalid_api_key", None),
        (404, "model_not_found", None),
    ]
    if told != wanted:
        raise SystemExit(f"refused in other words: {told}")


def main() -> None:
    url, key, path = sys.argv[1:4]
    client = client_of(url, key)
    for model in client.models.list():
        check(Model, model.to_dict())
    check_refusals(client, path)
    diarize = {"model": "gpt-4o-transcribe-diarize", "response_format": "diarized_json"}
    diarized = answered(client, TranscriptionDiarized, path, chunking_strategy="auto", **diarize)
    verbose = answered(
        client,
        TranscriptionVerbose,
        path,
        model="whisper-1",
        response_format="verbose_json",
        timestamp_granularities=["word", "segment"],
    )
    words = [
        (word, segment.speaker) for segment in diarized.segments for word in segment.text.split()
    ]
    others = [" ".join(word.word for word in verbose.words), *texts(client, path)]
    others += [text_of(streamed(client, path, model="gpt-4o-transcribe"))]
    others += [text_of(streamed(client, path, **diarize))]
    for other in others:
        if sorted(other.split()) != sorted(word for word, _ in words):
            raise SystemExit(f"not the same words in all formats: {other}")
    told = {"words": [word for word, _ in words], "speakers": [speaker for _, speaker in words]}
    print(json.dumps(told))


if __name__ == "__main__":
    main()
