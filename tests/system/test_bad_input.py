"""Each kind of bad input gets its typed error and close code, and harms nobody else.

A witness talks through every case and must get each of its words exactly once.
"""

import asyncio
import itertools
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest_asyncio
from websockets.exceptions import ConnectionClosed
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory

from server.child import ServerChild
from tests.system.talker import (
    Message,
    Talker,
    clip,
    final_words,
    packets,
    texts,
    witness,
)

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]

SERVER_OPTIONS = ("--idle-timeout-s", "3", "--handshake-timeout-s", "3", "--buffer-s", "30")
CREDIT_SECONDS = 30
WORDS = 10
CLIP = clip(1, WORDS)
PROTOCOL_PAGE = Path(__file__).parents[2] / "docs" / "protocol.md"
PCM_START: dict[str, Any] = {"encoding": "pcm_s16le", "sample_rate": 16_000}


@pytest_asyncio.fixture(loop_scope="module", autouse=True)
async def bystander(server: ServerChild) -> AsyncIterator[None]:
    async with witness(server.url):
        yield


def check_error(error: Message, code: str, advice: str) -> None:
    assert error["code"] == code, error
    assert f"`{code}`" in PROTOCOL_PAGE.read_text(encoding="utf-8")
    assert re.search(advice, error["message"]), error["message"]


NOT_A_MESSAGE = [
    ('{"type":', "not JSON.*send one JSON object"),
    ("", "not JSON"),
    ('{"type":"start","language":NaN}', "not JSON"),
    ('["start"]', "send a JSON object"),
    ("7", "send a JSON object"),
    ("{}", '"type".*docs/protocol.md'),
    ('{"type":"hello"}', '"type".*docs/protocol.md'),
    ('{"type":["start"]}', "docs/protocol.md"),
    ('{"type":null}', "docs/protocol.md"),
    ("[" * 5_000 + "]" * 5_000, "."),
    ('{"type":"start","language":"\\ud800"}', "."),
]

BAD_START: list[tuple[dict[str, Any], str]] = [
    ({"audio": {**PCM_START, "sample_rate": 0}}, "audio.sample_rate.*greater"),
    ({"audio": {**PCM_START, "sample_rate": 10**9}}, "audio.sample_rate.*less"),
    ({"audio": {**PCM_START, "sample_rate": 10**30}}, "."),
    ({"audio": {**PCM_START, "sample_rate": "16000"}}, "audio.sample_rate.*integer"),
    ({"audio": {**PCM_START, "sample_rate": 16_000.5}}, "audio.sample_rate"),
    ({"audio": {**PCM_START, "channels": -1}}, "audio.channels"),
    ({"audio": {**PCM_START, "encoding": "opus"}}, "audio.encoding.*pcm_s16le"),
    ({"audio": []}, '"audio"'),
    ({"language": 5}, '"language"'),
    ({"keywords": "budget"}, '"keywords"'),
    ({"diarize": "yes"}, '"diarize"'),
    ({"prompt": "x" * 60_000}, '"prompt"'),
    ({"sample_rate": 16_000}, '"sample_rate"'),
]


@pytest.mark.parametrize(("text", "advice"), NOT_A_MESSAGE)
async def test_first_message_that_is_none(server: ServerChild, text: str, advice: str) -> None:
    talker = await Talker.connect(server.url)
    await talker.socket.send(text)
    check_error(await talker.refusal(), "bad_message", advice)


@pytest.mark.parametrize(("fields", "advice"), BAD_START)
async def test_start_with_wrong_fields(
    server: ServerChild, fields: dict[str, Any], advice: str
) -> None:
    talker = await Talker.connect(server.url)
    if fields.get("audio") and fields["audio"].get("sample_rate") == 10**30:
        await talker.socket.send('{"type":"start","audio":{"sample_rate":1' + "0" * 30 + "}}")
    else:
        await talker.say("start", **fields)
    check_error(await talker.refusal(), "bad_message", advice)


@pytest.mark.parametrize(
    "fields", [{"tagged": True, "channels": 2}, {"channels": 2, "channel_names": ["Ann"]}]
)
async def test_start_with_what_is_not_offered(server: ServerChild, fields: dict[str, Any]) -> None:
    talker = await Talker.connect(server.url)
    await talker.say("start", audio={**PCM_START, **fields})
    check_error(await talker.refusal(), "unsupported", "added by lane messages|name each channel")


async def test_text_that_is_not_utf8(server: ServerChild) -> None:
    talker = await Talker.start(server.url)
    await talker.socket.send(b"\xff\xfe", text=True)
    assert await talker.until_closed() in (1007, 4400)


@pytest.mark.parametrize("text", [text for text, _ in NOT_A_MESSAGE[:7]])
async def test_bad_message_in_a_session_leaves_its_captions(server: ServerChild, text: str) -> None:
    talker = await Talker.start(server.url)
    await talker.play(CLIP)
    await talker.until_words(WORDS)
    await talker.socket.send(text)
    check_error(await talker.refusal(), "bad_message", ".")
    again = await Talker.resume(server.url, talker.ready, talker.last_seq)
    assert await again.until("ready")
    assert await again.finish() == []
    assert talker.words == texts(1, WORDS)


async def test_audio_before_start(server: ServerChild) -> None:
    talker = await Talker.connect(server.url)
    await talker.socket.send(CLIP[:3_200])
    check_error(await talker.refusal(), "out_of_order", "send start or resume first")


@pytest.mark.parametrize("kind", ["end", "flush", "skip"])
async def test_message_before_start(server: ServerChild, kind: str) -> None:
    talker = await Talker.connect(server.url)
    await talker.say(kind, **({"ms": 5} if kind == "skip" else {}))
    check_error(await talker.refusal(), "out_of_order", "send start or resume first")


async def test_second_start(server: ServerChild) -> None:
    talker = await Talker.start(server.url)
    await talker.say("start")
    check_error(await talker.refusal(), "out_of_order", "open another connection")


async def test_audio_after_end(server: ServerChild) -> None:
    talker = await Talker.start(server.url)
    await talker.play(CLIP)
    await talker.say("end")
    await talker.socket.send(CLIP[:3_200])
    check_error(await talker.refusal(), "out_of_order", "start a new session")


async def test_dangling_byte_at_the_end(server: ServerChild) -> None:
    talker = await Talker.start(server.url)
    await talker.play(CLIP + b"\x01")
    await talker.say("end")
    assert await talker.until_closed() == 1000
    [error] = [m for m in talker.messages if m["type"] == "error"]
    check_error(error, "bad_audio", "1 of 2 bytes.*dropped.*captioned")
    assert talker.messages[-1]["type"] == "done"
    assert talker.words == texts(1, WORDS)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
async def test_floats_that_are_no_numbers(server: ServerChild, value: float) -> None:
    talker = await Talker.start(server.url, audio={**PCM_START, "encoding": "pcm_f32le"})
    floats = np.frombuffer(CLIP, np.int16).astype(np.float32) / 32_768
    await talker.play(floats.tobytes())
    await talker.until_words(WORDS)
    await talker.socket.send(np.array([0.1, value, 0.1], np.float32).tobytes())
    check_error(await talker.refusal(), "bad_audio", "NaN or infinity; send finite")
    again = await Talker.resume(server.url, talker.ready, talker.last_seq)
    ready = await again.until("ready")
    assert ready["resume_from_frame"] == len(floats)
    assert [*talker.words, *await again.finish()] == texts(1, WORDS)


@pytest.mark.parametrize("size", [256 * 1024 + 1, 10_000_000])
async def test_a_huge_packet(server: ServerChild, size: int) -> None:
    talker = await Talker.start(server.url)
    await talker.play(CLIP)
    await talker.until_words(WORDS)
    sending = asyncio.create_task(talker.socket.send(bytes(size)))
    check_error(await talker.refusal(), "too_big", "smaller")
    await asyncio.gather(sending, return_exceptions=True)
    again = await Talker.resume(server.url, talker.ready, talker.last_seq)
    await again.until("ready")
    assert [*talker.words, *await again.finish()] == texts(1, WORDS)


async def test_a_huge_text(server: ServerChild) -> None:
    talker = await Talker.start(server.url)
    await talker.socket.send('{"type":"' + "x" * 70_000)
    check_error(await talker.refusal(), "too_big", "65536")


async def test_ten_thousand_empty_frames(server: ServerChild) -> None:
    talker = await Talker.start(server.url)

    async def flood() -> None:
        for _ in range(10_000):
            await talker.socket.send(b"")

    sending = asyncio.create_task(flood())
    check_error(await talker.refusal(), "too_fast", "put more audio into each")
    assert talker.messages[-1]["retry_after_ms"] > 0
    [outcome] = await asyncio.gather(sending, return_exceptions=True)
    assert outcome is None or isinstance(outcome, ConnectionClosed)


async def test_audio_beyond_its_credit(server: ServerChild) -> None:
    talker = await Talker.start(server.url)
    pcm = clip(1, WORDS)
    await talker.play(pcm)
    await talker.until_words(WORDS)
    # Without a pause nothing of this is final, so nothing is stored and the credit ends.
    speech = clip(2, 4 * CREDIT_SECONDS, per_utterance=10**9)
    for packet in packets(speech, 64_000):
        await talker.socket.send(packet)
    error = await talker.refusal()
    check_error(error, "too_fast", r"beyond frame \d+; wait for an ack.*resume_from_frame")
    again = await Talker.resume(server.url, talker.ready, talker.last_seq)
    ready = await again.until("ready")
    at, sent = ready["resume_from_frame"] * 2, len(pcm)
    assert at >= sent
    credit = min(ready["credit_until_frame"] * 2, sent + len(speech))
    for packet in packets(speech[at - sent : credit - sent], 64_000):
        await again.socket.send(packet)
    captioned = [*talker.words, *await again.finish()]
    assert captioned[:WORDS] == texts(1, WORDS)
    assert captioned[WORDS:] == texts(2, 4 * CREDIT_SECONDS)[: len(captioned) - WORDS]
    whole = (credit - sent - 6_400) // 2
    assert len(captioned) - WORDS >= (whole - 4_096) // 5_120


async def test_forged_tokens_and_foreign_sessions_look_the_same(server: ServerChild) -> None:
    owner = await Talker.start(server.url)
    ready = owner.ready
    forgeries = [
        {**ready, "resume_token": "x" * 43},
        {**ready, "resume_token": ""},
        {**ready, "session_id": "0" * 24},
        {"session_id": "../../etc", "resume_token": "' OR 1=1 --"},
    ]
    answers = []
    for forgery in forgeries:
        talker = await Talker.resume(server.url, forgery)
        answers.append(await talker.refusal())
    check_error(answers[0], "unknown_session", "start a new one")
    assert all(answer == answers[0] for answer in answers)
    await owner.play(CLIP)
    assert await owner.finish() == texts(1, WORDS)


@pytest.mark.parametrize(
    "fields", [{"session_id": 5}, {"resume_token": None}, {"last_seq": -1}, {"last_seq": 2**70}]
)
async def test_resume_with_wrong_fields(server: ServerChild, fields: dict[str, Any]) -> None:
    talker = await Talker.connect(server.url)
    given = {"session_id": "a", "resume_token": "b", "last_seq": 0, **fields}
    if fields.get("last_seq") == 2**70:
        given["last_seq"] = float(2**70)
    await talker.say("resume", **given)
    check_error(await talker.refusal(), "bad_message", "session_id|resume_token|last_seq")


async def test_resuming_a_running_session_supersedes(server: ServerChild) -> None:
    first = await Talker.start(server.url)
    half = clip(1, WORDS // 2)
    await first.play(half)
    await first.until_words(WORDS // 2)
    second = await Talker.resume(server.url, first.ready, first.last_seq)
    ready = await second.until("ready")
    check_error(await first.refusal(), "superseded", "another connection")
    assert ready["resume_from_frame"] == len(half) // 2
    await second.play(CLIP[len(half) :])
    assert [*first.words, *await second.finish()] == texts(1, WORDS)


async def test_many_resume_at_once_and_one_wins(server: ServerChild) -> None:
    first = await Talker.start(server.url)
    await first.play(CLIP)
    await first.until_words(WORDS)
    others = await asyncio.gather(
        *(Talker.resume(server.url, first.ready) for _ in range(8)),
    )
    losers = [first]
    ended = {asyncio.create_task(talker.until_closed()): talker for talker in others}
    done: set[asyncio.Task[int]] = set()
    while len(done) < len(others) - 1:
        finished, _ = await asyncio.wait(
            [task for task in ended if task not in done],
            return_when=asyncio.FIRST_COMPLETED,
            timeout=20,
        )
        assert finished, "losers were not told"
        done |= finished
    losers += [ended[task] for task in done]
    [(task, winner)] = [(task, talker) for task, talker in ended.items() if task not in done]
    await winner.say("end")
    assert await task == 1000
    assert final_words(winner.messages) == texts(1, WORDS)
    await first.until_closed()
    codes = [talker.messages[-1].get("code") for talker in losers]
    assert codes == ["superseded"] * len(others)


async def test_silent_handshake(server: ServerChild) -> None:
    talker = await Talker.connect(server.url)
    check_error(await talker.refusal(), "idle", "send start or resume first")


async def test_idle_session_can_be_resumed(server: ServerChild) -> None:
    talker = await Talker.start(server.url)
    await talker.play(CLIP)
    check_error(await talker.refusal(), "idle", "send audio, or end")
    again = await Talker.resume(server.url, talker.ready, talker.last_seq)
    await again.until("ready")
    assert [*talker.words, *await again.finish()] == texts(1, WORDS)


async def test_compression_is_not_negotiated(server: ServerChild) -> None:
    talker = await Talker.connect(
        server.url, compression="deflate", extensions=[ClientPerMessageDeflateFactory()]
    )
    assert talker.socket.response is not None
    assert "Sec-WebSocket-Extensions" not in talker.socket.response.headers
    await talker.say("start")
    await talker.until("ready")
    await talker.play(CLIP)
    assert await talker.finish() == texts(1, WORDS)


async def test_lane_messages_where_the_audio_is_not_tagged(server: ServerChild) -> None:
    talker = await Talker.start(server.url)
    await talker.say("lane", lane=1, name="Ann")
    check_error(await talker.refusal(), "unsupported", "start with audio.tagged")


async def test_skip_inside_a_frame(server: ServerChild) -> None:
    talker = await Talker.start(server.url)
    await talker.socket.send(CLIP[:3_201])
    await talker.say("skip", ms=100)
    check_error(await talker.refusal(), "bad_audio", "send whole frames before it")


async def test_messages_cut_anywhere_mean_the_same(server: ServerChild) -> None:
    """Packets of odd lengths, empty ones included."""
    talker = await Talker.start(server.url)
    sizes = itertools.cycle([1, 0, 4_999, 3, 12_345])
    at = 0
    while at < len(CLIP):
        size = next(sizes)
        await talker.socket.send(CLIP[at : at + size])
        at += size
    assert await talker.finish() == texts(1, WORDS)
