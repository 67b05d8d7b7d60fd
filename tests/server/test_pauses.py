"""Pauses over real sockets: the talker's own close an utterance, a line's do not."""

from pathlib import Path

import pytest

from server import deadlines
from streaming import resting
from tests.server_fakes import running, until
from tests.system.talker import Talker, clip, texts

pytestmark = pytest.mark.asyncio

WORDS = 10
CLIP = clip(1, WORDS)
INSIDE_A_WORD = 2 * (3_200 + 5_120 + 2_000)
PAUSE_NS = 20_000_000


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (resting, deadlines):
        monkeypatch.setattr(module, "IDLE_FLUSH_NS", PAUSE_NS)
    monkeypatch.setattr(deadlines, "ANSWERED_NS", PAUSE_NS)


async def test_a_line_that_stands_still_inside_a_word_cuts_none(tmp_path: Path) -> None:
    async with running(tmp_path) as front:
        talker = await Talker.start(front.url)
        await talker.play(CLIP[:INSIDE_A_WORD])
        talker.socket.transport.pause_reading()  # no ping comes through
        await until(lambda: front.live._deadline._waits_since_ns is not None)
        await talker.play(CLIP[INSIDE_A_WORD:])
        talker.socket.transport.resume_reading()
        assert await talker.finish() == texts(1, WORDS)


async def test_a_client_that_comes_back_inside_a_word_may_take_its_time(tmp_path: Path) -> None:
    async with running(tmp_path) as front:
        lost = await Talker.start(front.url)
        await lost.play(CLIP[:INSIDE_A_WORD])
        await until(lambda: front.live.session.frames_received == INSIDE_A_WORD // 2)
        lost.cut()
        talker = await Talker.resume(front.url, lost.ready)
        ready = await talker.until("ready")
        await until(lambda: front.live._deadline._waits_since_ns is not None)
        await talker.play(CLIP[ready["resume_from_frame"] * 2 :])
        assert await talker.finish() == texts(1, WORDS)


async def test_a_talker_who_stops_inside_a_word_is_captioned(tmp_path: Path) -> None:
    async with running(tmp_path) as front:
        talker = await Talker.start(front.url)
        await talker.play(CLIP[:INSIDE_A_WORD])
        await talker.until_words(1)
        assert talker.words == texts(1, 1)
        talker.cut()
