"""Deepgram's prerecorded path: a body to an answer, and what is refused instead."""

import asyncio
import io
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest
import soundfile

from server.protocols import deepgram_recording
from tests.server_fakes import Front, running
from tests.system.talker import clip, texts

WORDS = 12
CLIP = clip(1, WORDS, per_utterance=4, speakers=2)


def packed(pcm: bytes = CLIP, channels: int = 1, kind: str = "FLAC") -> bytes:
    file = io.BytesIO()
    samples = np.frombuffer(pcm, np.int16).reshape(-1, channels)
    soundfile.write(file, samples, 16_000, format=kind)
    return file.getvalue()


async def post(
    front: Front, body: bytes, status: int = 200, **query: str
) -> tuple[dict[str, Any], dict[str, str]]:
    """The answer and its headers."""
    address = f"{front.url}/v1/listen"
    headers = {"Content-Type": "audio/*"}
    async with (
        aiohttp.ClientSession() as http,
        http.post(address, params=query, data=body, headers=headers) as answer,
    ):
        assert answer.status == status, await answer.text()
        return await answer.json(), dict(answer.headers)


def words_of(told: dict[str, Any], channel: int = 0) -> list[str]:
    (alternative,) = told["results"]["channels"][channel]["alternatives"]
    return [word["word"] for word in alternative["words"]]


async def test_a_recording_is_answered_whole(tmp_path: Path) -> None:
    query: dict[str, Any] = {"diarize": "true", "punctuate": "true"}
    query |= {"utterances": "true", "paragraphs": "true"}
    async with running(tmp_path, diarizer="scripted") as front:
        told, headers = await post(front, packed(), **query)
        assert words_of(told) == texts(1, WORDS)
        assert told["metadata"]["duration"] == pytest.approx(len(CLIP) / 32_000, abs=0.001)
        assert told["metadata"]["request_id"] == headers["dg-request-id"]
        (alternative,) = told["results"]["channels"][0]["alternatives"]
        assert alternative["transcript"] == " ".join(texts(1, WORDS))
        assert [word["speaker"] for word in alternative["words"]] == [0] * 4 + [1] * 4 + [0] * 4
        assert [said["speaker"] for said in told["results"]["utterances"]] == [0, 1, 0]
        paragraphs = alternative["paragraphs"]["paragraphs"]
        assert [paragraph["speaker"] for paragraph in paragraphs] == [0, 1, 0]
        assert sum(paragraph["num_words"] for paragraph in paragraphs) == WORDS
        assert list(front.hub.sessions) == []


@pytest.mark.parametrize("kind", ["WAV", "FLAC"])
async def test_channels_may_be_told_apart(tmp_path: Path, kind: str) -> None:
    left, right = (np.frombuffer(clip(n, WORDS), np.int16) for n in (1, 2))
    stereo = np.stack((left, right), axis=1).tobytes()
    async with running(tmp_path) as front:
        told, _ = await post(front, packed(stereo, 2, kind), multichannel="true")
        assert told["metadata"]["channels"] == 2
        assert words_of(told, 0) == texts(1, WORDS)
        assert words_of(told, 1) == texts(2, WORDS)


async def test_raw_audio_needs_no_container(tmp_path: Path) -> None:
    as_float = (np.frombuffer(CLIP, np.int16) / np.float32(32_768)).astype("<f4").tobytes()
    async with running(tmp_path) as front:
        for encoding, body in (("linear16", CLIP), ("linear32", as_float)):
            told, _ = await post(front, body, encoding=encoding, sample_rate="16000")
            assert words_of(told) == texts(1, WORDS)


async def test_what_cannot_be_captioned_is_refused(tmp_path: Path) -> None:
    bad: list[tuple[bytes, dict[str, Any], str]] = [
        (b"", {}, "INVALID_AUDIO"),
        (b"this is no audio at all", {}, "INVALID_AUDIO"),
        (packed()[:40], {}, "INVALID_AUDIO"),
        (packed(), {"language": "english"}, "INVALID_QUERY_PARAMETER"),
        (packed(), {"callback": "https://example.org"}, "INVALID_QUERY_PARAMETER"),
    ]
    async with running(tmp_path) as front:
        for body, query, code in bad:
            told, headers = await post(front, body, 400, **query)
            assert told["err_code"] == code
            assert told["err_msg"]
            assert headers["dg-request-id"] == told["request_id"]
        assert list(front.hub.sessions) == []


async def test_addresses_are_not_fetched(tmp_path: Path) -> None:
    async with running(tmp_path) as front, aiohttp.ClientSession() as http:
        address = {"url": "http://127.0.0.1/secret.wav"}
        answer = await http.post(f"{front.url}/v1/listen", json=address)
        assert answer.status == 400
        assert "body" in (await answer.json())["err_msg"]


async def test_an_upload_that_stands_still_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deepgram_recording, "BODY_SECONDS_MAX", 0.05)

    async def stuck() -> AsyncIterator[bytes]:
        yield packed()[:1_000]
        await asyncio.Event().wait()

    async with running(tmp_path) as front, aiohttp.ClientSession() as http:
        answer = await http.post(f"{front.url}/v1/listen", data=stuck())
        assert answer.status == 408


async def test_so_many_recordings_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.recordings.UPLOADS_MAX", 0)
    async with running(tmp_path) as front:
        told, headers = await post(front, packed(), 503)
        assert told["err_code"] == "SERVICE_UNAVAILABLE"
        assert headers["Retry-After"] == "3"
