"""Deepgram's live protocol on bad lines and with bad clients: words stay, ends are documented."""

import asyncio
import contextlib
import random
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from websockets.exceptions import ConnectionClosed, WebSocketException

from load_tests.faults.proxy import Cut, Direction, Ending, FaultProxy, Line
from tests.server.deepgram_caller import Caller
from tests.server_fakes import Front, running, until
from tests.system.talker import clip, packets, texts

WORDS = 20
CLIP = clip(1, WORDS)
QUERY = {"interim_results": "true", "vad_events": "true", "utterance_end_ms": "500"}
ENDS = {1000, 1008, 1009, 1011, 1012, 1013}
"""Those of docs/clients.md; 1002, 1006 and 1007 are the socket library's own."""


def port_of(front: Front) -> int:
    port = urlsplit(front.url).port
    assert port is not None
    return port


@pytest.mark.parametrize("seed", range(3))
async def test_a_slow_line_in_odd_pieces_loses_nothing(tmp_path: Path, seed: int) -> None:
    line = Line(latency_ms_max=20, piece_bytes_max=700)
    async with (
        running(tmp_path) as front,
        FaultProxy.running(port_of(front), lines=lambda _: line, seed=seed) as proxy,
    ):
        caller = await Caller.connect(proxy.url, QUERY)
        await caller.play(CLIP)
        assert await caller.finish() == texts(1, WORDS)
        caller.check_tiling()


@pytest.mark.parametrize("ending", list(Ending))
@pytest.mark.parametrize("direction", list(Direction))
async def test_a_line_that_is_cut_leaves_what_was_heard(
    tmp_path: Path, ending: Ending, direction: Direction
) -> None:
    """Whatever was told is a beginning of what was said, and the store has at least as much."""

    def cut(chance: random.Random) -> Line:
        after = chance.randrange(2_000, len(CLIP) if direction is Direction.UP else 6_000)
        return Line(cut=Cut(direction, after, ending, hold_ms=50))

    async with (
        running(tmp_path) as front,
        FaultProxy.running(port_of(front), lines=cut, seed=7) as proxy,
    ):
        caller = await Caller.connect(proxy.url, QUERY)
        with contextlib.suppress(WebSocketException, OSError):
            for packet in packets(CLIP):
                await caller.socket.send(packet)
                await asyncio.sleep(0)
            await caller.say("CloseStream")
        await caller.until_closed()
        await until(lambda: not front.server._connections and not list(front.hub.sessions))
        told = caller.words()
        assert told == texts(1, WORDS)[: len(told)]
        (record,) = await front.hub.store.sessions("local", limit=2)
        stored = await front.hub.store.events(record.session_id)
        finals = [event for event in stored if event["type"] == "final"]
        kept = [word["word"] for final in finals for word in final["words"]]
        assert kept == texts(1, WORDS)[: len(kept)]
        assert len(kept) >= len(told)
        assert stored[-1]["type"] == "done"


async def test_a_server_that_goes_down_on_a_bad_line(tmp_path: Path) -> None:
    line = Line(latency_ms_max=10, piece_bytes_max=300)
    async with (
        running(tmp_path) as front,
        FaultProxy.running(port_of(front), lines=lambda _: line, seed=3) as proxy,
    ):
        caller = await Caller.connect(proxy.url)
        await caller.play(CLIP)
        await until(lambda: front.live.session.frames_received == len(CLIP) // 2)
        front.stop()
        assert await caller.until_closed() == (1012, "draining")
        assert caller.words() == texts(1, WORDS)


SAID = st.one_of(
    st.binary(max_size=50),
    st.text(max_size=30),
    st.sampled_from(
        [
            *('{"type":"KeepAlive"}', '{"type":"Finalize"}', '{"type":"Finalize","channel":-1}'),
            *('{"type":"Configure"}', '{"type":"Configure","keyterms":3}', '{"type":7}', "null"),
            *('{"type":"Configure","keyterms":["a"]}', '{"type":"CloseStream"}', "[" * 500),
            *('{"type":"Finalize","channel":true}', "{" + '"a":' * 100, CLIP[:4_001]),
        ]
    ),
)


@settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(said=st.lists(SAID, max_size=12), encoding=st.sampled_from(["linear16", "linear32", None]))
def test_whatever_is_said_ends_as_documented(
    tmp_path: Path, said: list[bytes | str], encoding: str | None
) -> None:
    async def talk() -> None:
        async with running(tmp_path) as front:
            caller = await Caller.connect(front.url, {"encoding": encoding})
            with contextlib.suppress(ConnectionClosed):
                for one in said:
                    await caller.socket.send(one)
                await caller.say("CloseStream")
            code, _ = await caller.until_closed()
            assert code in ENDS
            assert {m["type"] for m in caller.messages} <= {
                *("Results", "Metadata", "Error", "ConfigureSuccess", "ConfigureFailure")
            }
            assert [m["type"] for m in caller.messages].count("Metadata") == (code == 1000)
            assert front.metric("errors_total", protocol="deepgram", code="internal") == 0
            await until(lambda: not front.server._connections)

    asyncio.run(talk())


async def test_a_client_that_never_reads_is_cut_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def stuck(_: str) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr("server.connection.WRITE_SECONDS_MAX", 0.05)
    async with running(tmp_path) as front:
        caller = await Caller.connect(front.url, QUERY)
        await until(lambda: bool(front.server._connections))
        (connection,) = front.server._connections
        monkeypatch.setattr(connection._ws, "send_str", stuck)
        await caller.play(CLIP)
        assert (await caller.until_closed())[0] == 1006
        await until(lambda: not front.server._connections and not list(front.hub.sessions))
        assert front.metric("slow_readers_total") == 1


async def test_a_flood_of_questions_is_held_up_or_refused(tmp_path: Path) -> None:
    async with running(tmp_path) as front:
        caller = await Caller.connect(front.url)
        with contextlib.suppress(ConnectionClosed):
            for _ in range(1_200):
                await caller.say("Finalize")
            await caller.say("CloseStream")
        assert await caller.until_closed() in ((1000, ""), (1008, "too_fast"))
        answers = sum(message.get("from_finalize", False) for message in caller.messages)
        assert answers > 0
