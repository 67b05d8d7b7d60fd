"""Deepgram's live protocol, over real sockets: what is answered, in which order, with which end."""

import asyncio
import contextlib
import hashlib
import io
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import orjson
import pytest
import soundfile
from websockets.exceptions import ConnectionClosed, InvalidStatus

from server.protocols import deepgram_connection, deepgram_intake
from streaming.events import SessionStage
from streaming.scripted_audio import encode_silence
from tests.server.deepgram_caller import Caller
from tests.server_fakes import Front, running, until
from tests.system.talker import clip, texts

WORDS = 10
CLIP = clip(1, WORDS)
ALICE, BOB = "alice-has-this-key", "bob-has-another-key"
KEYS: dict[str, Any] = {"api_keys": (f"alice:{ALICE}", f"bob:{BOB}")}


async def refused(front: Front, **options: Any) -> InvalidStatus:
    with pytest.raises(InvalidStatus) as caught:
        await Caller.connect(front.url, **options)
    return caught.value


def body_of(error: InvalidStatus) -> dict[str, Any]:
    answer: dict[str, Any] = orjson.loads(error.response.body or b"")
    return answer


async def test_finals_metadata_and_the_end(tmp_path: Path) -> None:
    async with running(tmp_path) as front:
        caller = await Caller.connect(front.url)
        await caller.play(CLIP)
        assert await caller.finish() == texts(1, WORDS)
        caller.check_tiling()
        assert {message["type"] for message in caller.messages} == {"Results", "Metadata"}
        assert all(message["is_final"] for message in caller.messages[:-1])
        metadata = caller.messages[-1]
        assert metadata["sha256"] == hashlib.sha256(CLIP).hexdigest()
        assert metadata["duration"] == len(CLIP) / 32_000
        assert metadata["request_id"] == caller.request_id
        await until(lambda: not list(front.hub.sessions))
        assert front.metric("sessions_total", protocol="deepgram", outcome="done") == 1
        assert front.metric("audio_received_seconds_total", protocol="deepgram") > 0


async def test_each_utterance_ends_once(tmp_path: Path) -> None:
    async with running(tmp_path) as front:
        caller = await Caller.connect(front.url, {"interim_results": "true"})
        await caller.play(CLIP)
        await caller.finish()
        ends = [message["speech_final"] for message in caller.results()]
        assert ends.count(True) == 2
        assert caller.results(is_final=False)
        assert not any(m["speech_final"] for m in caller.results(is_final=False))


async def test_endpointing_may_be_turned_off(tmp_path: Path) -> None:
    async with running(tmp_path) as front:
        caller = await Caller.connect(front.url, {"endpointing": "false"})
        await caller.play(CLIP)
        await caller.finish()
        assert not any(message["speech_final"] for message in caller.results())


async def test_finalize_is_always_answered(tmp_path: Path) -> None:
    async with running(tmp_path) as front:
        caller = await Caller.connect(front.url)
        await caller.say("Finalize")
        empty = await caller.until("Results", from_finalize=True)
        assert empty["is_final"]
        assert empty["channel"]["alternatives"][0]["transcript"] == ""
        await caller.play(clip(1, 3, per_utterance=5))  # no pause: the utterance is open
        await caller.say("Finalize")
        full = await caller.until("Results", from_finalize=True)
        assert full["speech_final"]
        assert [w["word"] for w in full["channel"]["alternatives"][0]["words"]] == texts(1, 3)
        await caller.say("Finalize")
        await caller.until("Results", from_finalize=True)
        await caller.finish()
        assert sum(message["from_finalize"] for message in caller.results()) == 3


async def test_speech_events_and_the_end_of_an_utterance(tmp_path: Path) -> None:
    query = {"interim_results": "true", "vad_events": "true", "utterance_end_ms": "1000"}
    async with running(tmp_path) as front:
        caller = await Caller.connect(front.url, query)
        await caller.play(clip(1, 5) + encode_silence(2 * 16_000).tobytes())
        ended = await caller.until("UtteranceEnd")
        assert ended["last_word_end"] == caller.word_fields()[-1]["end"]
        await caller.finish()
        kinds = [message["type"] for message in caller.messages]
        assert kinds.count("SpeechStarted") == kinds.count("UtteranceEnd") == 1
        assert kinds.index("SpeechStarted") < kinds.index("Results")


async def test_speakers_are_integers_and_split_finals(tmp_path: Path) -> None:
    async with running(tmp_path, diarizer="scripted") as front:
        caller = await Caller.connect(front.url, {"diarize": "true", "punctuate": "true"})
        await caller.play(clip(1, 40, per_utterance=20, speakers=2))
        assert await caller.finish() == texts(1, 40)
        caller.check_tiling()
        for message in caller.results():
            words = message["channel"]["alternatives"][0]["words"]
            assert len({word.get("speaker") for word in words}) <= 1
        assert {word["speaker"] for word in caller.word_fields()} == {0, 1}


async def test_without_a_diarizer_nobody_has_a_number(tmp_path: Path) -> None:
    async with running(tmp_path) as front:
        caller = await Caller.connect(front.url, {"diarize_model": "latest"})
        await caller.play(CLIP)
        assert await caller.finish() == texts(1, WORDS)
        assert not any("speaker" in word for word in caller.word_fields())


async def test_channels_are_told_apart(tmp_path: Path) -> None:
    left, right = (np.frombuffer(clip(n, WORDS), np.int16) for n in (1, 2))
    stereo = np.stack((left, right), axis=1).tobytes()
    async with running(tmp_path) as front:
        query = {"channels": 2, "multichannel": "true"}
        caller = await Caller.connect(front.url, query)
        await caller.play(stereo, packet_bytes=6_402)
        await caller.say("Finalize", channel=1)
        assert (await caller.until("Results", from_finalize=True))["channel_index"] == [1, 2]
        await caller.finish()
        for channel, stream in ((0, 1), (1, 2)):
            assert caller.words(channel) == texts(stream, WORDS)
            caller.check_tiling(channel)
        assert caller.messages[-1]["channels"] == 2


async def test_channels_are_heard_as_one_unless_asked(tmp_path: Path) -> None:
    mono = np.frombuffer(CLIP, np.int16)
    stereo = np.stack((mono, mono), axis=1).tobytes()
    async with running(tmp_path) as front:
        caller = await Caller.connect(front.url, {"channels": 2})
        await caller.play(stereo, packet_bytes=3_201)
        assert await caller.finish() == texts(1, WORDS)


async def test_messages_that_nobody_knows_are_told(tmp_path: Path) -> None:
    async with running(tmp_path) as front:
        caller = await Caller.connect(front.url)
        for text in ("{", "[1]", '{"type":"Dance"}', '{"type":"Finalize","channel":7}'):
            await caller.socket.send(text)
            error = await caller.until("Error")
            assert error["variant"] == "SchemaError"
            assert error["message"]
        await caller.say("KeepAlive")
        await caller.play(CLIP)
        assert await caller.finish() == texts(1, WORDS)


async def test_an_empty_packet_is_the_end(tmp_path: Path) -> None:
    async with running(tmp_path) as front:
        caller = await Caller.connect(front.url)
        await caller.play(CLIP)
        await caller.socket.send(b"")
        assert await caller.until_closed() == (1000, "")
        assert caller.words() == texts(1, WORDS)


async def test_keyterms_may_change(tmp_path: Path) -> None:
    async with running(tmp_path) as front:
        caller = await Caller.connect(front.url)
        await caller.say("Configure", features={"numerals": True})
        assert "keyterms" not in await caller.until("ConfigureSuccess")
        await caller.say("Configure", keyterms=["x"] * 101)
        failure = await caller.until("ConfigureFailure")
        assert failure["code"] == "CONFIGURE_KEYTERM_LIMIT_EXCEEDED"
        await caller.say("Configure", keyterms=["captiond"])
        await caller.finish()
        told = [m for m in caller.messages if m["type"].startswith("Configure")]
        assert len(told) == 3


# Containers


def packed(kind: str, channels: int = 1) -> bytes:
    """The clip in a container, losslessly; further channels are silent."""
    samples = np.zeros((len(CLIP) // 2, channels), np.int16)
    samples[:, 0] = np.frombuffer(CLIP, np.int16)
    file = io.BytesIO()
    soundfile.write(file, samples, 16_000, format=kind)
    return file.getvalue()


@pytest.mark.parametrize(("kind", "encoding"), [("WAV", None), ("FLAC", None), ("FLAC", "flac")])
async def test_containers_are_decoded(tmp_path: Path, kind: str, encoding: str | None) -> None:
    async with running(tmp_path) as front:
        caller = await Caller.connect(front.url, {"encoding": encoding, "sample_rate": None})
        await caller.say("Finalize")
        await caller.until("Results", from_finalize=True)
        await caller.play(packed(kind), packet_bytes=1_000)
        assert await caller.finish() == texts(1, WORDS)
        caller.check_tiling()


async def test_channels_of_a_container(tmp_path: Path) -> None:
    query = {"encoding": None, "sample_rate": None, "multichannel": "true"}
    async with running(tmp_path) as front:
        caller = await Caller.connect(front.url, query)
        await caller.play(packed("WAV", channels=2))
        assert await caller.finish() == texts(1, WORDS)
        assert caller.messages[-1]["channels"] == 2


async def test_what_is_no_container_ends_the_stream(tmp_path: Path) -> None:
    async with running(tmp_path) as front:
        caller = await Caller.connect(front.url, {"encoding": None})
        await caller.play(b"no container begins like this")
        assert await caller.until_closed() == (1008, "DATA-0000")


async def test_a_container_that_never_came(tmp_path: Path) -> None:
    async with running(tmp_path) as front:
        caller = await Caller.connect(front.url, {"encoding": None})
        assert await caller.finish() == []


# Refusals before the upgrade


async def test_keys_are_taken_however_they_come(tmp_path: Path) -> None:
    async with running(tmp_path, **KEYS) as front:
        ways: list[tuple[str | None, list[str] | None]] = [
            (ALICE, None),
            (None, ["token", ALICE]),
            (None, ["bearer", BOB, "x-deepgram-session-id", "1"]),
        ]
        for key, offered in ways:
            caller = await Caller.connect(front.url, key=key, subprotocols=offered)
            assert caller.socket.subprotocol == (offered and offered[0])
            await caller.finish()
        error = await refused(front, key="nobody-has-this-key")
        assert error.response.status_code == 401
        assert body_of(error)["err_code"] == "INVALID_AUTH"
        assert error.response.headers["dg-error"] == body_of(error)["err_msg"]
        assert error.response.headers["dg-request-id"] == body_of(error)["request_id"]


async def test_what_cannot_be_had_is_refused_before_the_upgrade(tmp_path: Path) -> None:
    queries: list[dict[str, Any]] = [
        {"encoding": "opus3"},
        {"encoding": "speex"},
        {"sample_rate": None},
        {"sample_rate": "fast"},
        {"sample_rate": 1},
        {"channels": 21},
        {"language": "english"},
        {"language": "\0\r\n\x7fÄ" * 200},
        {"interim_results": "perhaps"},
        {"callback": "https://example.org"},
        {"utterance_end_ms": 1},
        {"keyterm": ["x"] * 101},
        {"keyterm": "x" * 81},
    ]
    async with running(tmp_path) as front:
        for query in queries:
            error = await refused(front, query=query)
            assert error.response.status_code == 400, query
            assert body_of(error)["err_code"] == "INVALID_QUERY_PARAMETER"
            assert len(error.response.headers["dg-error"]) < 3_000


async def test_a_full_server_says_when_to_come_again(tmp_path: Path) -> None:
    async with running(tmp_path, sessions_max=1) as front:
        caller = await Caller.connect(front.url)
        await until(lambda: bool(list(front.hub.sessions)))
        error = await refused(front)
        assert error.response.status_code == 503
        assert error.response.headers["Retry-After"] == "3"
        await caller.finish()


async def test_streams_without_a_session_yet_count_as_well(tmp_path: Path) -> None:
    async with running(tmp_path, sessions_max=1) as front:
        caller = await Caller.connect(front.url, {"encoding": None})
        assert (await refused(front)).response.status_code == 503
        await caller.finish()


async def test_what_is_ignored_is_named(tmp_path: Path) -> None:
    query = {"redact": "pci", "numerals": "true", "made_up": "1", "no_delay": "false"}
    async with running(tmp_path) as front:
        caller = await Caller.connect(front.url, query)
        assert caller.socket.response is not None
        assert caller.socket.response.headers["captiond-ignored"] == "numerals, redact"
        await caller.finish()


# Ends that nobody wishes for


async def test_silence_ends_the_stream_with_all_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deepgram_connection, "IDLE_SECONDS", 0.2)
    async with running(tmp_path) as front:
        caller = await Caller.connect(front.url)
        await caller.play(clip(1, 3))
        assert await caller.until_closed() == (1011, "NET-0001")
        assert caller.words() == texts(1, 3)
        assert all(message["type"] != "Metadata" for message in caller.messages)


async def test_audio_that_is_none_ends_the_stream_with_all_words(tmp_path: Path) -> None:
    as_float = (np.frombuffer(CLIP, np.int16) / np.float32(32_768)).astype("<f4").tobytes()
    async with running(tmp_path) as front:
        caller = await Caller.connect(front.url, {"encoding": "linear32"})
        await caller.play(as_float)
        await caller.socket.send(np.array([np.nan], "<f4").tobytes())
        assert await caller.until_closed() == (1008, "DATA-0000")
        assert caller.words() == texts(1, WORDS)


async def test_a_message_that_is_too_big(tmp_path: Path) -> None:
    async with running(tmp_path) as front:
        caller = await Caller.connect(front.url)
        await caller.play(CLIP)
        with contextlib.suppress(ConnectionClosed):
            await caller.socket.send("x" * (5 << 20))
        assert (await caller.until_closed())[0] == 1009


async def test_a_client_that_goes_leaves_its_words(tmp_path: Path) -> None:
    async with running(tmp_path) as front:
        caller = await Caller.connect(front.url)
        await caller.play(clip(1, 3))
        await until(lambda: front.live.session.frames_received == len(clip(1, 3)) // 2)
        session_id = front.live.id
        caller.socket.transport.abort()
        await until(lambda: not front.server._connections and not list(front.hub.sessions))
        stored = await front.hub.store.events(session_id)
        finals = [event for event in stored if event["type"] == "final"]
        assert [word["word"] for final in finals for word in final["words"]] == texts(1, 3)
        assert stored[-1]["type"] == "done"


async def test_a_drain_finishes_what_was_received(tmp_path: Path) -> None:
    async with running(tmp_path) as front:
        caller = await Caller.connect(front.url)
        await caller.play(clip(1, 3))
        await until(lambda: front.live.session.frames_received == len(clip(1, 3)) // 2)
        front.stop()
        assert await caller.until_closed() == (1012, "draining")
        assert caller.words() == texts(1, 3)


async def test_audio_far_ahead_of_its_time_waits_for_room(tmp_path: Path) -> None:
    audio = clip(1, 200)
    async with running(tmp_path, buffer_s=30) as front:
        worker = front.worker()
        worker.open.clear()
        caller = await Caller.connect(front.url)
        await caller.play(audio, packet_bytes=200_000)
        await until(lambda: front.live.session.frames_received > 20 * 16_000)
        worker.open.set()
        assert await caller.finish() == texts(1, 200)


async def test_audio_without_end_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deepgram_intake, "WAITING_BYTES_MAX", 100_000)
    async with running(tmp_path, buffer_s=30) as front:
        worker = front.worker(SessionStage.ACTIVITY)
        worker.open.clear()
        caller = await Caller.connect(front.url)
        with contextlib.suppress(ConnectionClosed):
            await caller.play(clip(1, 200), packet_bytes=200_000)
        worker.open.set()
        assert await caller.until_closed() == (1008, "too_fast")


async def test_a_deleted_session_ends_the_stream(tmp_path: Path) -> None:
    async with running(tmp_path) as front:
        caller = await Caller.connect(front.url)
        await caller.play(CLIP)
        await until(lambda: bool(list(front.hub.sessions)))
        front.hub.drop(front.live.id)
        assert await caller.until_closed() == (1008, "unknown_session")


async def test_a_request_that_is_no_upgrade(tmp_path: Path) -> None:
    async with running(tmp_path) as front, aiohttp.ClientSession() as http:
        answer = await http.get(f"{front.url}/v1/listen")
        assert answer.status == 400
        assert (await answer.json())["err_code"] == "BAD_REQUEST"


async def test_many_at_once_keep_their_words_apart(tmp_path: Path) -> None:
    async def call(front: Front, stream: int) -> list[str]:
        caller = await Caller.connect(front.url)
        await caller.play(clip(stream, WORDS))
        return await caller.finish()

    async with running(tmp_path) as front:
        async with asyncio.TaskGroup() as group:
            calls = [group.create_task(call(front, stream)) for stream in range(1, 6)]
        assert [one.result() for one in calls] == [texts(s, WORDS) for s in range(1, 6)]


async def test_a_client_that_goes_before_any_audio_leaves_nothing(tmp_path: Path) -> None:
    async with running(tmp_path) as front:
        caller = await Caller.connect(front.url, {"encoding": None})
        caller.socket.transport.abort()
        await until(lambda: not front.server._connections)
        assert await front.hub.store.sessions("local", limit=2) == []


async def test_compressed_audio_of_a_client_that_goes_is_captioned(tmp_path: Path) -> None:
    async with running(tmp_path) as front:
        caller = await Caller.connect(front.url, {"encoding": "flac"})
        await caller.play(packed("FLAC"))
        await caller.say("CloseStream")
        await caller.until("Results")
        caller.socket.transport.abort()
        await until(lambda: not front.server._connections and not list(front.hub.sessions))
        (record,) = await front.hub.store.sessions("local", limit=2)
        events = await front.hub.store.events(record.session_id)
        assert events[-1]["type"] == "done"
        finals = [event for event in events if event["type"] == "final"]
        assert [word["word"] for final in finals for word in final["words"]] == texts(1, WORDS)
