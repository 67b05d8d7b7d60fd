"""A loaded server: who is refused, what is told to whom, and who may stay."""

import asyncio
import time
from pathlib import Path

import aiohttp
import orjson
import pytest
from websockets.exceptions import InvalidStatus

from server.admission import RETRY_AFTER_OVERLOAD_MS, RETRY_AFTER_SHED_MS, OverloadReason
from server.dispatch import stage_limits
from server.overload import Overload
from streaming.batching import BatchLimits
from streaming.events import SessionStage
from streaming.wire import STREAM_PATH
from tests.server_fakes import Front, running, until
from tests.system.talker import Message, Talker, clip, texts

WORDS = 10
CLIP = clip(1, WORDS)


def overload(front: Front) -> Overload:
    found = front.server._overload
    assert found is not None
    return found


async def out_of_memory(front: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on, as far as the server knows."""
    await until(lambda: front.metric("memory_bytes") > 0)
    monkeypatch.setattr(overload(front), "_memory_max", 1)


async def refusal_before_upgrade(front: Front) -> InvalidStatus:
    with pytest.raises(InvalidStatus) as refused:
        await Talker.connect(front.url)
    return refused.value


async def test_new_sessions_are_refused_before_the_upgrade(tmp_path: Path) -> None:
    async with running(tmp_path, memory_limit_mb=1) as front, aiohttp.ClientSession() as http:
        await until(lambda: front.metric("admission_closed", reason="memory") == 1)
        response = (await refusal_before_upgrade(front)).response
        assert response.status_code == 503
        assert response.headers["Retry-After"] == str(RETRY_AFTER_OVERLOAD_MS // 1000)
        body = orjson.loads(response.body or b"")
        assert (body["type"], body["code"]) == ("error", "overloaded")
        assert body["retry_after_ms"] == RETRY_AFTER_OVERLOAD_MS
        assert "memory" in body["message"]
        for path in ("/readyz", STREAM_PATH):
            async with http.get(front.url + path) as told:
                assert told.status == 503
                assert "memory" in (await told.json())["message"]
        async with http.get(f"{front.url}/healthz") as told:
            assert told.status == 200
        assert front.metric("overload_refusals_total", reason="memory") == 2
        assert front.metric("sessions_total", protocol="captiond", outcome="refused") == 2


async def test_who_is_here_goes_on_and_who_was_here_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path) as front:
        talker = await Talker.start(front.url)
        await talker.play(CLIP[: len(CLIP) // 2])
        await out_of_memory(front, monkeypatch)
        await refusal_before_upgrade(front)
        talker.cut()
        await until(lambda: not front.live.is_attached)
        again = await Talker.resume(front.url, talker.ready, talker.last_seq)
        ready = await again.until("ready")
        await again.play(CLIP[2 * ready["resume_from_frame"] :])
        assert [*talker.words, *await again.finish()] == texts(1, WORDS)


async def test_who_only_says_that_he_comes_back_is_refused_on_the_socket(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path) as front:
        held = await Talker.start(front.url)
        await out_of_memory(front, monkeypatch)
        monkeypatch.setattr("tests.system.talker.STREAM_PATH", f"{STREAM_PATH}?resume=1")
        liar = await Talker.connect(front.url)
        await liar.say("start")
        error = await liar.refusal()
        assert error["code"] == "overloaded"
        assert error["retry_after_ms"] == RETRY_AFTER_OVERLOAD_MS
        assert await liar.until_closed() == 1013
        again = await Talker.resume(front.url, held.ready)
        await again.until("ready")


async def let_in(front: Front, monkeypatch: pytest.MonkeyPatch) -> Talker:
    """Somebody who says that he comes back."""
    with monkeypatch.context() as patch:
        patch.setattr("tests.system.talker.STREAM_PATH", f"{STREAM_PATH}?resume=1")
        return await Talker.connect(front.url)


async def ask_for(talker: Talker, ready: Message, **changes: str) -> None:
    names = ("session_id", "resume_token")
    await talker.say("resume", last_seq=0, **{name: ready[name] for name in names} | changes)


async def test_a_full_server_takes_back_whose_line_it_does_not_know_to_be_dead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path, sessions_max=1) as front:
        held = await Talker.start(front.url)
        assert front.live.is_attached
        assert (await refusal_before_upgrade(front)).response.status_code == 503
        again = await let_in(front, monkeypatch)
        await ask_for(again, held.ready)
        await again.until("ready")
        assert (await held.refusal())["code"] == "superseded"
        await again.play(CLIP)
        assert await again.finish() == texts(1, WORDS)


async def test_nobody_gets_in_by_saying_that_he_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path, sessions_max=1) as front:
        held = await Talker.start(front.url)
        starts = await let_in(front, monkeypatch)
        await starts.say("start")
        guesses = await let_in(front, monkeypatch)
        await ask_for(guesses, held.ready, resume_token="guessed")
        dreams = await let_in(front, monkeypatch)
        await ask_for(dreams, held.ready, session_id="0" * 24)
        codes = [(await talker.refusal())["code"] for talker in (starts, guesses, dreams)]
        assert codes == ["overloaded", "unknown_session", "unknown_session"]
        await held.play(CLIP)
        assert await held.finish() == texts(1, WORDS)


async def test_so_many_and_no_more_may_stand_there_and_say_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.overload.RETURNING_MAX", 1)
    async with running(tmp_path, sessions_max=1) as front:
        held = await Talker.start(front.url)
        silent = [await let_in(front, monkeypatch) for _ in range(2)]
        with pytest.raises(InvalidStatus) as refused:
            await let_in(front, monkeypatch)
        assert refused.value.response.status_code == 503
        assert refused.value.response.headers["Retry-After"]
        silent[0].cut()
        await until(lambda: len(front.server._connections) == 2)
        again = await let_in(front, monkeypatch)
        await ask_for(again, held.ready)
        await again.until("ready")


@pytest.mark.parametrize(
    ("reason", "code"),
    [
        (OverloadReason.ENGINES, None),
        (OverloadReason.BACKLOG, "overloaded"),
        (OverloadReason.MEMORY, "overloaded"),
    ],
)
async def test_another_servers_session_is_new_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reason: OverloadReason, code: str | None
) -> None:
    async with running(tmp_path) as first, running(tmp_path) as second:
        held = await Talker.start(first.url)
        await held.play(CLIP[: len(CLIP) // 2])
        gate = overload(second)._gate
        monkeypatch.setattr(gate, "note", lambda load: None)
        gate._closed.add(reason)
        again = await let_in(second, monkeypatch)
        await ask_for(again, held.ready)
        if code is None:
            await again.until("ready")
            return
        error = await again.refusal()
        assert error["code"] == code
        assert error["retry_after_ms"] == RETRY_AFTER_OVERLOAD_MS
        assert second.metric("overload_refusals_total", reason=reason) == 1
        gate._closed.clear()
        again = await Talker.resume(second.url, held.ready)
        ready = await again.until("ready")
        await again.play(CLIP[2 * ready["resume_from_frame"] :])
        assert await again.finish() == texts(1, WORDS), "refused, and nothing is lost"


async def test_another_servers_session_needs_a_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path) as first, running(tmp_path, sessions_max=1) as second:
        held = await Talker.start(first.url)
        await Talker.start(second.url)
        again = await let_in(second, monkeypatch)
        await ask_for(again, held.ready)
        assert (await again.refusal())["code"] == "overloaded"
        assert first.live.is_attached, "it is the first one's still"


async def test_a_recognizer_that_stalls_is_told_as_lag_while_it_does(tmp_path: Path) -> None:
    async with running(tmp_path) as front:
        talker = await Talker.start(front.url)
        front.worker().open.clear()
        await talker.play(CLIP)
        await until(lambda: bool(front.worker().calls))
        now_ns = time.monotonic_ns()
        for second in (4, 60):
            overload(front).look(now_ns + second * 1_000_000_000)
            lag = await talker.until("lag")
            assert lag["seconds"] == pytest.approx(second, abs=2)
        front.worker().open.set()
        assert (await talker.until("lag"))["seconds"] == 0
        assert await talker.finish() == texts(1, WORDS)


async def test_engines_without_time_for_one_more_close_the_door_until_somebody_goes(
    tmp_path: Path,
) -> None:
    async with running(tmp_path) as front:
        front.worker().engine_ns = 20_000_000_000
        talker = await Talker.start(front.url)
        await talker.play(CLIP)
        await talker.until_words(WORDS)
        await until(lambda: front.metric("admission_closed", reason="engines") == 1)
        assert front.metric("engine_load_ratio") > 0.8
        response = (await refusal_before_upgrade(front)).response
        assert "no time for another session" in orjson.loads(response.body or b"")["message"]
        await talker.finish()
        await until(lambda: front.metric("admission_closed", reason="engines") == 0)
        await Talker.start(front.url)


async def test_live_work_that_waits_is_told_as_delay(tmp_path: Path) -> None:
    async with running(tmp_path) as front:
        talker = await Talker.start(front.url)
        front.worker().open.clear()
        await talker.play(CLIP)
        await until(lambda: front.metric("live_delay_seconds") > 0.3)
        front.worker().open.set()
        assert await talker.finish() == texts(1, WORDS)
        await until(lambda: front.metric("live_delay_seconds") == 0)


async def test_a_final_for_which_there_is_no_place_in_the_queue_is_a_gap_for_overload(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = SessionStage.RECOGNITION
    limits = {**stage_limits(8, None), stage: BatchLimits(1, queue_jobs_max=1)}
    monkeypatch.setattr("server.app.stage_limits", lambda *_: limits)
    async with running(tmp_path) as front:
        front.worker().open.clear()
        talkers = [await Talker.start(front.url, partials=False) for _ in range(3)]
        for talker, is_asked in zip(
            talkers,
            (
                lambda: len(front.worker().calls) == 1,
                lambda: front.metric("queue_depth", stage=stage) == 1,
                lambda: front.metric("queue_depth", stage=stage) == 1,
            ),
            strict=True,
        ):
            await talker.play(clip(1, 5))
            await until(is_asked)
        gap = await talkers[2].until("gap")
        assert gap["reason"] == "overload"
        front.worker().open.set()
        assert [await talker.finish() for talker in talkers] == [texts(1, 5), texts(1, 5), []]
        dropped_s = "audio_dropped_seconds_total"
        await until(lambda: front.metric(dropped_s, reason="overload") > 1)
        assert front.metric(dropped_s, reason="engine_failed") == 0


async def test_the_newest_are_sent_away_and_lose_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path) as front:
        old = await Talker.start(front.url)
        new = await Talker.start(front.url)
        for talker in (old, new):
            await talker.play(CLIP[: len(CLIP) // 2])
        counts = iter([1])
        shedding = overload(front)._shedding
        monkeypatch.setattr(shedding, "count", lambda *_: next(counts, 0))
        error = await new.refusal()
        assert error["code"] == "overloaded"
        assert error["retry_after_ms"] == RETRY_AFTER_SHED_MS
        assert await new.until_closed() == 1013
        assert front.metric("sessions_shed_total") == 1
        await old.play(CLIP[len(CLIP) // 2 :])
        assert await old.finish() == texts(1, WORDS)
        again = await Talker.resume(front.url, new.ready, new.last_seq)
        ready = await again.until("ready")
        await again.play(CLIP[2 * ready["resume_from_frame"] :])
        assert [*new.words, *await again.finish()] == texts(1, WORDS)


async def test_many_at_the_door_at_once_are_counted_before_they_speak(tmp_path: Path) -> None:
    """The load of those who have just been let in is not measured yet."""
    async with running(tmp_path) as front:
        front.worker().engine_ns = 300_000_000
        talker = await Talker.start(front.url)
        await talker.play(CLIP)
        await talker.until_words(WORDS)
        await until(lambda: front.metric("engine_load_ratio") > 0)  # it has been looked at
        outcomes = await asyncio.gather(
            *(Talker.connect(front.url) for _ in range(40)), return_exceptions=True
        )
        refused = [outcome for outcome in outcomes if isinstance(outcome, InvalidStatus)]
        assert 0 < len(refused) < 40
        assert all(error.response.status_code == 503 for error in refused)
