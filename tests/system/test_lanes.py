"""Tagged lanes and muted speakers against a whole server: every word, whose it is, and when."""

import asyncio
import random
from collections.abc import Sequence
from typing import Any

import pytest

from clients.reconnect import Retry
from clients.stream import CaptionStream
from server.child import ServerChild
from streaming.events import DurableEvent, Final
from streaming.scripted_audio import WORD_SAMPLES
from streaming.wire import AudioFormat, Start
from tests.system.talker import (
    LEAD_SAMPLES,
    PACKET_BYTES,
    RATE,
    Message,
    Talker,
    clip,
    starts_s,
    texts,
    witness,
)
from tests.system.test_resume import cutting

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]

SERVER_OPTIONS = ("--diarizer", "scripted", "--resume-window-s", "4")
TAGGED = {"tagged": True}


async def meeting(url: str, *names: str | None, **fields: Any) -> Talker:
    talker = await Talker.start(url, audio=TAGGED, **fields)
    for lane, name in enumerate(names):
        await talker.say("lane", lane=lane, name=name)
    return talker


async def side_by_side(talker: Talker, voices: dict[int, bytes]) -> None:
    """100 ms of each; who has said everything sends nothing more."""
    longest = max(len(voice) for voice in voices.values())
    for at in range(0, longest, PACKET_BYTES):
        for lane, voice in voices.items():
            if packet := voice[at : at + PACKET_BYTES]:
                await talker.socket.send(bytes([lane]) + packet)


def finals(messages: Sequence[Message], lane: int) -> list[Message]:
    return [m for m in messages if m["type"] == "final" and m["lane"] == lane]


def heard(messages: Sequence[Message], lane: int) -> list[str]:
    return [word["word"] for final in finals(messages, lane) for word in final["words"]]


def heard_at_s(messages: Sequence[Message], lane: int) -> list[float]:
    return [word["start"] for final in finals(messages, lane) for word in final["words"]]


async def test_people_come_one_after_the_other_and_all_have_their_names(
    server: ServerChild,
) -> None:
    talker = await meeting(server.url, "Alice", "Bob")
    await side_by_side(talker, {0: clip(1, 10), 1: clip(2, 5)})
    reached_s = len(clip(1, 10)) / 2 / RATE
    await talker.say("lane", lane=7, name="Carol")
    await side_by_side(talker, {0: clip(1, 5), 7: clip(3, 5)})
    async with witness(server.url):
        await talker.finish()
    assert heard(talker.messages, 1) == texts(2, 5)
    assert heard(talker.messages, 7) == texts(3, 5)
    late = [reached_s + start_s for start_s in starts_s(5)]
    assert heard_at_s(talker.messages, 7) == pytest.approx(late, abs=0.001)
    assert heard_at_s(talker.messages, 0)[10:] == pytest.approx(late, abs=0.001)
    speakers = {m["lane"]: m["speaker"] for m in talker.messages if m["type"] == "final"}
    assert speakers == {0: "Alice", 1: "Bob", 7: "Carol"}
    assert talker.messages[-1]["speakers"] == 3


async def test_a_lane_of_several_people_has_them_told_apart(server: ServerChild) -> None:
    talker = await meeting(server.url, "Alice", None)
    await side_by_side(talker, {0: clip(1, 40), 1: clip(2, 40, per_utterance=10, speakers=2)})
    await talker.finish()
    assert heard(talker.messages, 1) == texts(2, 40)
    names = {m["speaker"] for m in finals(talker.messages, 1)}
    for revision in (m for m in talker.messages if m["type"] == "revision"):
        names |= {run["speaker"] for run in revision["runs"]}
    assert names - {None} == {"S1", "S2"}
    assert {m["speaker"] for m in finals(talker.messages, 0)} == {"Alice"}
    assert talker.messages[-1]["speakers"] == 3


@pytest.mark.parametrize(
    ("packet", "code", "advice"),
    [
        (b"\xff\x00\x00", "out_of_order", "lane 255 was not added"),
        (clip(1, 1)[:3_200], "out_of_order", "each tagged packet starts with one byte"),
        (b"\x01\x00\x00\x00", "bad_audio", "1 of 2 bytes of a sample"),
    ],
)
async def test_a_bad_tag(server: ServerChild, packet: bytes, code: str, advice: str) -> None:
    talker = await Talker.start(server.url, audio=TAGGED)
    await talker.say("lane", lane=1, name="Alice")
    await talker.socket.send(packet)
    error = await talker.refusal()
    assert error["code"] == code
    assert advice in error["message"]


@pytest.mark.parametrize(
    ("fields", "code", "advice"),
    [
        ({"lane": 1, "name": "x" * 81}, "bad_message", '"name"'),
        ({"lane": 1, "name": ""}, "bad_message", '"name"'),
        ({"lane": 20}, "bad_message", '"lane"'),
        ({"lane": True}, "bad_message", '"lane"'),
    ],
)
async def test_a_bad_lane(
    server: ServerChild, fields: dict[str, Any], code: str, advice: str
) -> None:
    talker = await Talker.start(server.url, audio=TAGGED)
    await talker.say("lane", **fields)
    error = await talker.refusal()
    assert error["code"] == code
    assert advice in error["message"]


async def test_a_packet_that_was_refused_can_be_made_good(server: ServerChild) -> None:
    """The session waits, as after any error of its client, and nothing of the packet was taken."""
    talker = await meeting(server.url, "Alice")
    await side_by_side(talker, {0: clip(1, 5)})
    await talker.socket.send(b"\x05\x00\x00")
    await talker.refusal()
    again = await Talker.resume(server.url, talker.ready, talker.last_seq)
    ready = await again.until("ready")
    assert ready["resume_from_frame"] == len(clip(1, 5)) // 2
    await again.say("lane", lane=0, name="Alice")
    await side_by_side(again, {0: clip(2, 5)})
    await again.finish()
    assert heard([*talker.messages, *again.messages], 0) == [*texts(1, 5), *texts(2, 5)]


@pytest.mark.parametrize("seed", [1, 2])
async def test_two_lanes_survive_cuts_at_any_byte(server: ServerChild, seed: int) -> None:
    chance = random.Random(seed)
    cuts = [("up", 40_000), ("down", 1), ("up", 100), ("up", 650), ("down", 250)]
    for _ in range(10):
        direction = chance.choice(["up", "down"])
        cuts.append((direction, chance.randrange(700, 200_000 if direction == "up" else 4_000)))
    async with cutting(server.url, cuts) as relay:
        events, connections, joined_frame = await _caption_two(relay.url, chance)
    assert connections >= 5
    spoken = {0: (texts(1, 60), 0), 1: (texts(2, 40), joined_frame)}
    for lane, (words, frame) in spoken.items():
        said = [w for e in events if isinstance(e, Final) and e.lane == lane for w in e.words]
        assert [word.text for word in said] == words
        places = [frame + start_s * RATE for start_s in starts_s(len(words))]
        assert [word.span.start for word in said] == pytest.approx(places, abs=16)
        assert {word.speaker for word in said} == {("Alice", "Bob")[lane]}


async def _caption_two(url: str, chance: random.Random) -> tuple[list[DurableEvent], int, int]:
    """Bob comes after three seconds; packets of both are of any size."""
    start = Start(audio=AudioFormat(tagged=True))
    retry = Retry(first_delay_ms=1, delay_ms_max=5, tries_max=1_000)
    sent = 0

    async def talk(stream: CaptionStream) -> None:
        nonlocal sent
        rest = {await stream.add_lane("Alice"): clip(1, 60)}
        while any(rest.values()):
            if len(rest) == 1 and sent >= 3 * RATE:
                rest[await stream.add_lane("Bob")] = clip(2, 40)
            size = 2 * chance.randrange(1, 3_200)
            sent += size // 2 if len(rest) == 1 else 0
            for lane, pcm in rest.items():
                await stream.send(pcm[:size], lane)
                rest[lane] = pcm[size:]
            await asyncio.sleep(0)
        await stream.end()

    async with CaptionStream.open(url, start, retry=retry) as stream:
        talking = asyncio.create_task(talk(stream))
        events = [event async for event in stream if isinstance(event, DurableEvent)]
        await talking
    return events, stream.connections, sent


# Muted speakers


async def muted_mid_sentence(talker: Talker, ms: int | None) -> None:
    """Half an utterance, a mute until its final has come, and more speech."""
    pcm = clip(1, 10, per_utterance=20)
    half = 2 * (LEAD_SAMPLES + 5 * WORD_SAMPLES)
    await talker.play(pcm[:half])
    if ms is not None:
        await talker.say("skip", ms=ms)
    await talker.until("final")
    await talker.play(pcm[half:])
    await talker.finish()


@pytest.mark.parametrize("ms", [None, 20_000])
async def test_a_mute_in_mid_sentence_closes_the_utterance(
    server: ServerChild, ms: int | None
) -> None:
    talker = await Talker.start(server.url)
    await muted_mid_sentence(talker, ms)
    first, second = finals(talker.messages, 0)
    assert [w["word"] for w in first["words"]] == texts(1, 10)[:5]
    assert [w["word"] for w in second["words"]] == texts(1, 10)[5:]
    places = starts_s(10, per_utterance=20)
    later_s = 0 if ms is None else ms / 1000
    shifted = [start_s + (later_s if n >= 5 else 0) for n, start_s in enumerate(places)]
    assert heard_at_s(talker.messages, 0) == pytest.approx(shifted, abs=0.001)
    done = talker.messages[-1]
    accounted_s = done["decoded_seconds"] + done["silent_seconds"] + done["gap_seconds"]
    assert accounted_s == pytest.approx(done["audio_seconds"], abs=0.003)
