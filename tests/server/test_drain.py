"""A server that is told to go hears everybody out, and takes nothing that is the next one's."""

from pathlib import Path
from typing import Any

import pytest

from streaming.session import SessionState
from tests.server.deepgram_caller import Caller
from tests.server_fakes import Front, running, until
from tests.system.talker import Message, Talker, clip, texts

pytestmark = pytest.mark.asyncio

WORDS = 10
CLIP = clip(1, WORDS)
TALK = clip(1, 40, per_utterance=1_000)
INSIDE_A_WORD = 2 * (3_200 + 2 * 5_120 + 4_000)
LATER = 2 * 3_200 + 2 * 20 * 5_120


async def told_to_go(front: Front, talker: Talker) -> None:
    """In the middle of a word, with its finals held up."""
    await talker.play(CLIP[:INSIDE_A_WORD])
    await (await talker.socket.ping())
    front.worker().open.clear()
    front.stop()
    await talker.until("draining")


async def stored_words(front: Front, ready: Message) -> list[str]:
    events = await front.hub.store.events(ready["session_id"])
    return [w["word"] for event in events if event["type"] == "final" for w in event["words"]]


async def test_a_talker_is_heard_to_the_end_of_a_sentence_and_no_further(tmp_path: Path) -> None:
    async with running(tmp_path, drain_s=60) as front:
        talker = await Talker.start(front.url)
        await told_to_go(front, talker)
        assert not front.live.session.is_deaf
        await talker.play(CLIP[INSIDE_A_WORD:])
        await until(lambda: front.live.session.is_deaf)
        session = front.live.session
        received = session.frames_received
        await talker.play(TALK)
        for kind, fields in LATE_MESSAGES:
            await talker.say(kind, **fields)
        await (await talker.socket.ping())
        assert session.frames_received == received
        assert session.state is SessionState.OPEN
        assert session.speech.prompt is None
        front.worker().open.set()
        assert (await talker.refusal())["code"] == "draining"
        assert talker.words == texts(1, WORDS)


LATE_MESSAGES: list[tuple[str, dict[str, Any]]] = [
    ("flush", {}),
    ("skip", {"ms": 500}),
    ("configure", {"prompt": "for the next server"}),
    ("end", {}),
]


async def test_who_never_pauses_is_cut_between_two_words(tmp_path: Path) -> None:
    async with running(tmp_path, drain_s=60) as front:
        talker = await Talker.start(front.url)
        await talker.play(TALK[:LATER])
        await (await talker.socket.ping())
        front.stop()
        await talker.until("draining")
        session = front.live.session
        received = session.frames_received
        await until(lambda: session._lanes[0].handover.has_heard(everything=True))
        front.hub.hurry()
        assert session.is_deaf
        await talker.play(TALK[LATER:])
        assert (await talker.refusal())["code"] == "draining"
        assert session.frames_received == received
        assert 10 <= len(talker.words) < 20
        assert talker.words == texts(1, len(talker.words))


async def test_a_line_that_breaks_meanwhile_leaves_whole_words(tmp_path: Path) -> None:
    async with running(tmp_path, drain_s=60) as front:
        talker = await Talker.start(front.url)
        await told_to_go(front, talker)
        live = front.live
        talker.cut()
        await until(lambda: live.session.is_deaf)
        assert not live.is_settled
        front.worker().open.set()
        await until(lambda: live.is_settled)
        assert await stored_words(front, talker.ready) == texts(1, 2)


async def test_a_session_whose_client_is_away_leaves_whole_words(tmp_path: Path) -> None:
    async with running(tmp_path, drain_s=60) as front:
        talker = await Talker.start(front.url)
        await talker.play(CLIP[:INSIDE_A_WORD])
        await (await talker.socket.ping())
        live = front.live
        talker.cut()
        await until(lambda: not live.is_attached)
        front.hub.drain()
        await until(lambda: live.session.is_deaf and live.is_settled)
        assert await stored_words(front, talker.ready) == texts(1, 2)


async def test_who_cannot_come_back_is_heard_out_and_told_all(tmp_path: Path) -> None:
    async with running(tmp_path, drain_s=60) as front:
        caller = await Caller.connect(front.url)
        await caller.play(CLIP[:INSIDE_A_WORD])
        await until(lambda: front.live.session.frames_received == INSIDE_A_WORD // 2)
        front.stop()
        await until(lambda: front.live.is_winding_up)
        await caller.play(CLIP[INSIDE_A_WORD:])
        assert await caller.until_closed() == (1012, "draining")
        assert caller.words() == texts(1, WORDS)


async def test_who_cannot_come_back_is_told_the_last_sample_in_a_hurry(tmp_path: Path) -> None:
    async with running(tmp_path, drain_s=60) as front:
        caller = await Caller.connect(front.url)
        await caller.play(TALK[:LATER])
        await until(lambda: front.live.session.frames_received == LATER // 2)
        front.stop()
        await until(lambda: front.live.is_winding_up)
        front.hub.hurry()
        await caller.play(TALK[LATER:])
        assert await caller.until_closed() == (1012, "draining")
        assert caller.words() == texts(1, 20)


async def test_who_closes_the_stream_while_it_is_heard_out_gets_its_end(tmp_path: Path) -> None:
    async with running(tmp_path, drain_s=60) as front:
        caller = await Caller.connect(front.url)
        await caller.play(CLIP[:INSIDE_A_WORD])
        await until(lambda: front.live.session.frames_received == INSIDE_A_WORD // 2)
        front.stop()
        await until(lambda: front.live.is_winding_up)
        await caller.play(CLIP[INSIDE_A_WORD : INSIDE_A_WORD + 16_000])
        assert await caller.finish() == texts(1, 4)
        assert caller.messages[-1]["type"] == "Metadata"
