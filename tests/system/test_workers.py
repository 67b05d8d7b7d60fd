"""Engines that fail, crash and hang: words complete or an explicit gap, and nobody else notices."""

import asyncio
import contextlib
import signal
from pathlib import Path

import aiohttp
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from server.child import ServerChild, running_server
from tests.system.talker import RATE, SCRIPTED, Message, Talker, clip, packets, texts, witness

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]

FAILING, CRASHING, HANGING, UNHEARD = 101, 102, 103, 104
SERVER_OPTIONS = (
    "--call-timeout-s",
    "4",
    "--asr-workers",
    "2",
    "--asr-options",
    f"fail_stream={FAILING}",
    "--asr-options",
    f"crash_stream={CRASHING}",
    "--asr-options",
    f"hang_stream={HANGING}",
    "--vad-options",
    f"fail_stream={UNHEARD}",
)
WORDS = 3
"""Short enough for no partial: what goes wrong, goes wrong in the final."""
RESTART_SECONDS_MAX = 60.0


async def metric(url: str, name: str, **labels: str) -> float:
    """The sum of all samples with this name and these labels."""
    async with aiohttp.ClientSession() as http:
        answer = await http.get(f"{url}/metrics")
        page = await answer.text()
    return sum(
        sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )


async def restarts(server: ServerChild) -> float:
    return await metric(server.url, "captiond_worker_restarts_total", stage="asr")


def gap_span(talker: Talker) -> tuple[float, float]:
    [gap] = [message for message in talker.messages if message["type"] == "gap"]
    assert gap["reason"] == "engine_failed"
    return gap["start"], gap["end"]


def check_accounts(done: Message, pcm: bytes) -> None:
    """Every second is decoded, silent or in a gap."""
    parts = [done[f"{kind}_seconds"] for kind in ("decoded", "silent", "gap")]
    assert sum(parts) == pytest.approx(done["audio_seconds"], abs=0.002)
    assert done["audio_seconds"] == pytest.approx(len(pcm) / 2 / RATE, abs=0.001)


async def check_gap_instead_of_words(server: ServerChild, stream: int) -> None:
    pcm = clip(stream, WORDS, per_utterance=WORDS)
    talker = await Talker.start(server.url)
    await talker.play(pcm)
    await talker.say("end")
    while talker.messages[-1]["type"] != "done":
        async with asyncio.timeout(RESTART_SECONDS_MAX):
            with contextlib.suppress(TimeoutError):
                await talker.next()
    start, end = gap_span(talker)
    assert start <= 0.2
    assert end >= 0.2 + WORDS * 0.32 - 0.064
    assert talker.words == []
    check_accounts(talker.messages[-1], pcm)


async def test_a_failing_call_leaves_a_gap_and_the_worker(server: ServerChild) -> None:
    before = await restarts(server)
    async with witness(server.url):
        await check_gap_instead_of_words(server, FAILING)
    assert await restarts(server) == before
    assert (
        await metric(server.url, "captiond_audio_dropped_seconds_total", reason="engine_failed")
        >= WORDS * 0.32
    )


async def test_a_crash_leaves_a_gap_and_a_new_worker(server: ServerChild) -> None:
    before = await restarts(server)
    async with witness(server.url):
        await check_gap_instead_of_words(server, CRASHING)
    assert await restarts(server) >= before + 2


async def test_a_session_goes_on_after_its_gap(server: ServerChild) -> None:
    talker = await Talker.start(server.url)
    await talker.play(clip(1, WORDS, per_utterance=WORDS))
    await talker.play(clip(FAILING, WORDS, per_utterance=WORDS))
    await talker.play(clip(2, WORDS, per_utterance=WORDS))
    assert await talker.finish() == [*texts(1, WORDS), *texts(2, WORDS)]
    gap_span(talker)


async def test_without_voice_activity_all_audio_is_captioned(server: ServerChild) -> None:
    talker = await Talker.start(server.url)
    pcm = clip(UNHEARD, 10)
    async with witness(server.url):
        await talker.play(pcm)
        assert await talker.finish() == texts(UNHEARD, 10)
    degraded = [message for message in talker.messages if message["type"] == "degraded"]
    assert {message["stage"] for message in degraded} == {"vad"}
    check_accounts(talker.messages[-1], pcm)


async def test_killed_workers_cost_no_word(server: ServerChild) -> None:
    """Whichever engine they were running, and whether or not they were at it."""
    before = await restarts(server)
    pcm = clip(5, 60)
    talker = await Talker.start(server.url)
    async with witness(server.url):
        reading = asyncio.create_task(talker.until_closed())
        kills = 0
        for i, packet in enumerate(packets(pcm)):
            await talker.socket.send(packet)
            await asyncio.sleep(0.01)
            if i % 60 == 30:
                kills += kill_workers(server)
        await talker.say("end")
        assert await reading == 1000
    assert kills >= 9
    assert talker.words == texts(5, 60)
    assert await restarts(server) > before


def kill_workers(server: ServerChild) -> int:
    children = psutil.Process(server.process.pid).children()
    for child in children:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.send_signal(signal.SIGKILL)
    return len(children)


async def test_a_hanging_call_leaves_a_gap_and_a_new_worker(server: ServerChild) -> None:
    """Lasts two deadlines of an engine call; the other worker serves everybody else."""
    before = await restarts(server)
    others = [await Talker.start(server.url) for _ in range(3)]
    async with asyncio.TaskGroup() as tasks:
        hanging = tasks.create_task(check_gap_instead_of_words(server, HANGING))
        for number, other in enumerate(others):
            await other.play(clip(number, 20))
            assert await other.finish() == texts(number, 20)
        assert not hanging.done()
    assert await restarts(server) >= before + 2


async def test_crashes_now_and_then_cost_no_word(tmp_path: Path) -> None:
    """A lost batch is asked again job by job, and 13 calls are more than a batch has jobs."""
    options = ["--asr-options", "crash_every=13", "--vad-options", "crash_every=60"]
    async with running_server([*SCRIPTED, *options], tmp_path) as child:
        talkers = [await Talker.start(child.url) for _ in range(4)]

        async def talk(number: int, talker: Talker) -> None:
            reading = asyncio.create_task(talker.until_closed())
            for packet in packets(clip(number, 60)):
                await talker.socket.send(packet)
                await asyncio.sleep(0.01)
            await talker.say("end")
            assert await reading == 1000

        await asyncio.gather(*(talk(*pair) for pair in enumerate(talkers)))
        assert await restarts(child) >= 1
        assert await metric(child.url, "captiond_worker_restarts_total", stage="vad") >= 1
    assert [talker.words for talker in talkers] == [texts(number, 60) for number in range(4)]
