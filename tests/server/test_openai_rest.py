import base64
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest
import pytest_asyncio

from server.protocols import openai_form, openai_rest
from streaming.engines import Samples
from streaming.scripted_audio import encode_silence, encode_word
from tests.openai_requests import AUTHORIZED, CLIP, KEY, PATH, RECORDING, TEXT, get, post
from tests.recordings import tone, wav
from tests.server_fakes import Front, running

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def front(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Front]:
    folder = tmp_path_factory.mktemp("openai")
    options: dict[str, Any] = {"diarizer": "scripted", "api_keys": [f"ann:{KEY}"]}
    async with running(folder, **options) as found:
        yield found


# Bodies


@pytest.mark.parametrize("is_file_first", [True, False])
async def test_json_is_the_default(front: Front, is_file_first: bool) -> None:
    reply = await post(front, ("model", "whisper-1"), is_file_first=is_file_first)
    assert reply.status == 200
    seconds = len(CLIP) / 16_000
    assert reply.json == {
        "text": TEXT,
        "usage": {"type": "duration", "seconds": pytest.approx(seconds, abs=0.001)},
        "languages": [{"code": "en"}],
    }
    assert await front.hub.store.session(reply.headers["x-request-id"])
    assert front.metric("audio_received_seconds_total", protocol="openai") >= seconds


@pytest.mark.parametrize(
    ("name", "media_type", "begin"),
    [
        ("text", "text/plain", "w0.7 w1.7"),
        ("srt", "application/x-subrip", "1\n00:00:00,500 --> 00:00:02,036\nw0.7"),
        ("vtt", "text/vtt", "WEBVTT\n\n00:00:00.500 --> 00:00:02.036\nw0.7"),
    ],
)
async def test_texts_are_no_json(front: Front, name: str, media_type: str, begin: str) -> None:
    reply = await post(front, ("response_format", name))
    assert reply.headers["Content-Type"].startswith(media_type)
    assert reply.body.startswith(begin)
    assert "w11.7" in reply.body


async def test_verbose_json_has_segments_with_what_the_engines_know(front: Front) -> None:
    body = (await post(front, ("response_format", "verbose_json"))).json
    assert (body["task"], body["language"], body["text"]) == ("transcribe", "en", TEXT)
    assert "words" not in body
    assert [segment["id"] for segment in body["segments"]] == [0, 1, 2]
    first = body["segments"][0]
    assert (first["start"], first["end"], first["seek"]) == (0.5, 2.036, 50)
    assert first["text"] == "w0.7 w1.7 w2.7 w3.7 w4.7"
    assert first["avg_logprob"] == 0.0  # the scripted engine is sure of its words
    assert first["compression_ratio"] == pytest.approx(24 / 25)
    # No engine tells these: they are null, not made up.
    assert (first["no_speech_prob"], first["temperature"], first["tokens"]) == (None, None, [])


@pytest.mark.parametrize(
    ("granularities", "keys"),
    [
        (["word"], {"words"}),
        (["segment"], {"segments"}),
        (["word", "segment"], {"words", "segments"}),
    ],
)
async def test_times_come_as_asked_for(
    front: Front, granularities: list[str], keys: set[str]
) -> None:
    fields = [("timestamp_granularities[]", name) for name in granularities]
    body = (await post(front, ("response_format", "verbose_json"), *fields)).json
    assert {"words", "segments"} & set(body) == keys
    if "words" in keys:
        assert body["words"][0] == {"word": "w0.7", "start": 0.5, "end": 0.756}
        assert " ".join(word["word"] for word in body["words"]) == TEXT


def two_people() -> Samples:
    """One says five words, the other five, and the first one two."""
    parts = [encode_silence(8_000)]
    for number in range(12):
        parts.append(encode_word(9, number, speaker=1 if 5 <= number < 10 else 0))
        if number % 5 == 4:
            parts.append(encode_silence(16_000))
    return np.concatenate([*parts, encode_silence(16_000)])


async def test_diarized_json_names_speakers_by_letters(front: Front) -> None:
    reply = await post(front, ("response_format", "diarized_json"), file=wav(two_people()))
    segments = reply.json["segments"]
    assert [segment["speaker"] for segment in segments] == ["A", "B", "A"]
    assert [segment["id"] for segment in segments] == ["seg_001", "seg_002", "seg_003"]
    assert {segment["type"] for segment in segments} == {"transcript.text.segment"}
    assert segments[1]["text"] == "w5.9 w6.9 w7.9 w8.9 w9.9"


def data_url(samples: Samples) -> str:
    return "data:audio/wav;base64," + base64.b64encode(wav(samples)).decode()


def voice(speaker: int) -> Samples:
    return np.concatenate([encode_word(50 + speaker, n, speaker) for n in range(9)])


async def test_known_speakers_get_their_names(front: Front) -> None:
    """Their own samples are no part of the transcript, nor of its times."""
    reply = await post(
        front,
        ("response_format", "diarized_json"),
        ("known_speaker_names[]", "Bob"),
        ("known_speaker_references[]", data_url(voice(1))),
        ("known_speaker_names[]", "Ann"),
        ("known_speaker_references[]", data_url(voice(0))),
        file=wav(two_people()),
    )
    assert reply.status == 200, reply.body
    segments = reply.json["segments"]
    assert [segment["speaker"] for segment in segments] == ["Ann", "Bob", "Ann"]
    assert segments[0]["start"] == pytest.approx(0.5, abs=0.01)
    assert reply.json["duration"] == pytest.approx(len(two_people()) / 16_000, abs=0.01)


@pytest.mark.parametrize(
    ("reference", "reason"),
    [
        (data_url(tone(1.0)), "give 2 to 10 s"),
        (data_url(tone(11.0)), "more than"),
        ("data:audio/wav;base64,AAAA", "no audio"),
        ("data:audio/wav;base64,%%%", "base64 is broken"),
        ("https://example.org/voice.wav", "give data URLs"),
    ],
)
async def test_a_voice_that_cannot_be_used_is_refused(
    front: Front, reference: str, reason: str
) -> None:
    reply = await post(
        front,
        ("response_format", "diarized_json"),
        ("known_speaker_names[]", "Ann"),
        ("known_speaker_references[]", reference),
    )
    assert reply.status == 400
    assert reply.error["param"] == "known_speaker_references"
    assert reason in reply.error["message"]


# Streams


async def test_a_stream_tells_text_as_it_is_heard(front: Front) -> None:
    reply = await post(front, ("stream", "true"))
    assert reply.headers["Content-Type"].startswith("text/event-stream")
    *deltas, done = reply.events
    assert len(deltas) == 3
    assert {event["type"] for event in deltas} == {"transcript.text.delta"}
    assert "".join(event["delta"] for event in deltas) == TEXT
    assert done == {
        "type": "transcript.text.done",
        "text": TEXT,
        "languages": [{"code": "en"}],
    }


async def test_a_diarized_stream_tells_segments_once_their_speakers_are_settled(
    front: Front,
) -> None:
    fields = (("stream", "true"), ("response_format", "diarized_json"))
    events = (await post(front, *fields, file=wav(two_people()))).events
    segments = [event for event in events if event["type"] == "transcript.text.segment"]
    assert [segment["speaker"] for segment in segments] == ["A", "B", "A"]
    assert events[-1]["type"] == "transcript.text.done"


async def test_what_breaks_a_stream_before_it_begins_is_an_ordinary_error(front: Front) -> None:
    reply = await post(front, ("stream", "true"), file=b"nothing of the kind" * 9)
    assert (reply.status, reply.error["code"]) == (400, "bad_audio")


# Refusals


@pytest.mark.parametrize(
    ("fields", "file", "param", "code"),
    [
        ([("response_format", "xml")], RECORDING, "response_format", "bad_message"),
        ([], b"", "file", "bad_message"),
        ([], None, "file", "bad_message"),
        ([], b"no audio at all, but a text", None, "bad_audio"),
        ([], RECORDING[:40], None, "bad_audio"),
    ],
)
async def test_a_refusal_has_their_shape(
    front: Front,
    fields: list[tuple[str, str]],
    file: bytes | None,
    param: str | None,
    code: str,
) -> None:
    reply = await post(front, *fields, file=file)
    assert reply.status == 400
    assert set(reply.error) == {"message", "type", "param", "code"}
    assert reply.error["type"] == "invalid_request_error"
    assert (reply.error["param"], reply.error["code"]) == (param, code)


@pytest.mark.parametrize("path", [PATH, openai_rest.MODELS_PATH, openai_rest.MODELS_PATH + "/x/y"])
async def test_a_key_is_asked_for_in_their_words(front: Front, path: str) -> None:
    headers = {"Authorization": "Bearer another"}
    method = post(front, path=path, headers=headers) if path == PATH else get(front, path, headers)
    reply = await method
    assert reply.status == 401
    assert reply.error["code"] == "invalid_api_key"


async def test_a_body_that_is_no_form_is_refused(front: Front) -> None:
    async with (
        aiohttp.ClientSession(headers=AUTHORIZED) as session,
        session.post(front.url + PATH, json={"file": "x"}) as response,
    ):
        assert response.status == 400
        assert "multipart/form-data" in (await response.json())["error"]["message"]


async def test_a_form_that_ends_too_early_is_refused(front: Front) -> None:
    headers = {**AUTHORIZED, "Content-Type": "multipart/form-data; boundary=b"}
    body = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nhalf'
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.post(front.url + PATH, data=body) as response,
    ):
        assert response.status == 400
        assert (await response.json())["error"]["code"] in ("bad_message", "bad_audio")


async def test_a_large_file_is_refused(front: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openai_form, "FILE_BYTES_MAX", 1_000)
    reply = await post(front)
    assert (reply.status, reply.error["code"]) == (413, "too_big")


async def test_too_many_uploads_are_told_to_come_again(
    front: Front, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.recordings.UPLOADS_MAX", 0)
    reply = await post(front)
    assert (reply.status, reply.headers["Retry-After"]) == (503, "3")
    assert reply.error["type"] == "server_error"


# Models


async def test_the_one_model_is_listed(front: Front) -> None:
    listed = (await get(front, openai_rest.MODELS_PATH)).json
    assert listed["object"] == "list"
    (model,) = listed["data"]
    assert (model["id"], model["object"], model["owned_by"]) == ("scripted", "model", "captiond")
    assert (await get(front, f"{openai_rest.MODELS_PATH}/scripted")).json == model


async def test_another_model_is_not_found(front: Front) -> None:
    reply = await get(front, f"{openai_rest.MODELS_PATH}/gpt-9")
    assert (reply.status, reply.error["code"]) == (404, "model_not_found")


# Other engines


async def test_without_a_diarizer_there_is_no_diarized_json(tmp_path: Path) -> None:
    async with running(tmp_path) as front:
        reply = await post(front, ("response_format", "diarized_json"), headers={})
    assert (reply.status, reply.error["param"]) == (400, "response_format")
    assert "diarizer" in reply.error["message"]


async def test_translations_are_made_where_the_recognizer_can(front: Front) -> None:
    reply = await post(front, path=openai_rest.TRANSLATIONS_PATH)
    assert (reply.status, reply.json["text"]) == (200, TEXT)
