"""Who finds a session, how many fit, and what ends one."""

import asyncio
import re
from pathlib import Path

import pytest

from server.live import LiveSession
from streaming.errors import (
    CaptiondError,
    Draining,
    Overloaded,
    SessionExpired,
    TooFast,
    UnknownSession,
    UnsupportedOption,
)
from streaming.events import SessionStage
from streaming.wire import Configure, Ready, Resume, Start
from tests.fakes import speech
from tests.server_fakes import BrokenStore, Front, running, until


def dismiss(_: CaptiondError) -> None:
    pass


def claim(ready: Ready, **changes: str) -> Resume:
    fields = {"session_id": ready.session_id, "resume_token": ready.resume_token, **changes}
    return Resume(**fields)  # type: ignore[arg-type]


async def opened(front: Front, tenant: str = "ann") -> tuple[LiveSession, Ready]:
    live, ready = await front.hub.open(Start(), tenant)
    live.attach(dismiss, 0)
    return live, ready


async def complaint(front: Front, message: Resume, tenant: str = "ann") -> CaptiondError:
    with pytest.raises(CaptiondError) as refused:
        await front.hub.resume(message, tenant)
    return refused.value


async def test_only_its_holder_finds_a_session(tmp_path: Path) -> None:
    async with running(tmp_path) as front:
        live, ready = await opened(front)
        assert (await front.hub.resume(claim(ready), "ann"))[0] is live
        complaints = [
            await complaint(front, claim(ready, resume_token="x" * 43)),
            await complaint(front, claim(ready, session_id="0" * 24)),
            await complaint(front, claim(ready), tenant="ben"),
        ]
        assert {type(error) for error in complaints} == {UnknownSession}
        assert len({error.message for error in complaints}) == 1


async def test_a_session_that_is_over_says_so_to_its_holder_only(tmp_path: Path) -> None:
    async with running(tmp_path, resume_window_s=0.01) as front:
        live, ready = await opened(front)
        live.detach(dismiss)
        await until(lambda: live.is_gone)
        assert isinstance(await complaint(front, claim(ready)), SessionExpired)
        assert isinstance(await complaint(front, claim(ready), tenant="ben"), UnknownSession)


async def test_a_full_server_lets_in_who_comes_back_and_nobody_else(tmp_path: Path) -> None:
    async with running(tmp_path, sessions_max=2, sessions_per_key_max=1) as front:
        ann, ready = await opened(front, "ann")
        with pytest.raises(TooFast):
            await front.hub.open(Start(), "ann")
        await opened(front, "ben")
        with pytest.raises(Overloaded):
            await front.hub.open(Start(), "cat")
        assert (await front.hub.resume(claim(ready), "ann"))[0] is ann, "its line may be half dead"
        ann.detach(dismiss)
        assert (await front.hub.resume(claim(ready), "ann"))[0] is ann
        assert front.metric("sessions_total", protocol="captiond", outcome="refused") == 2
        assert front.metric("sessions_active", protocol="captiond") == 2


async def test_a_session_that_only_finishes_is_nobodys_reason_to_come_in(tmp_path: Path) -> None:
    async with running(tmp_path) as front:
        worker = front.worker(SessionStage.ACTIVITY)
        worker.open.clear()
        live, _ = await opened(front)
        live.receive_audio(speech(range(3)).tobytes())
        assert not front.hub.has_waiting("ann"), "it has a connection"
        live.detach(dismiss, is_known=False)
        assert not live.is_gone
        assert not front.hub.has_waiting("ann")
        worker.open.set()
        await until(lambda: live.is_gone)


async def test_a_wrong_token_costs_no_look_into_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path) as front:
        _, ready = await opened(front)
        looks: list[str] = []
        for name in ("session", "load_resumable"):
            monkeypatch.setattr(front.hub.store, name, looks.append)
        wrong = claim(ready, resume_token="x" * 43)
        assert isinstance(await complaint(front, wrong), UnknownSession)
        assert looks == []


async def test_nobody_comes_in_while_models_load(tmp_path: Path) -> None:
    async with running(tmp_path, is_warm=False) as front:
        assert not front.hub.is_ready
        with pytest.raises(Overloaded, match="loading"):
            front.hub.admit_upgrade("ann")


async def test_nobody_opens_or_resumes_while_it_drains(tmp_path: Path) -> None:
    async with running(tmp_path) as front:
        _, ready = await opened(front)
        front.hub.drain()
        with pytest.raises(Draining):
            await front.hub.open(Start(), "ann")
        assert isinstance(await complaint(front, claim(ready)), Draining)


async def test_a_session_that_cannot_be_stored_takes_no_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path) as front:

        async def fail(_: object) -> None:
            raise OSError("the disk is full")

        monkeypatch.setattr(front.hub.store, "create_session", fail)
        with pytest.raises(OSError, match="full"):
            await front.hub.open(Start(), "ann")
        assert list(front.hub.sessions) == []


async def test_languages_are_the_recognizers(tmp_path: Path) -> None:
    async with running(tmp_path) as front:
        front.hub.check_language("xx")
        engines = front.hub._engines
        assert engines is not None
        limited = type(engines)(engines.descriptions, None, ("en", "de"))
        limited.check_language(None)
        limited.check_language("de")
        with pytest.raises(UnsupportedOption, match="en, de"):
            limited.check_language("fr")


@pytest.mark.parametrize(
    ("message", "named"),
    [
        (Start(prompt="The board of Acme"), "(prompt)"),
        (Start(keywords=["Acme"], task="translate"), '(keywords, task "translate")'),
        (Configure(keywords=["Acme"]), "(keywords)"),
    ],
)
async def test_what_means_nothing_to_a_recognizer_is_refused(
    message: Start | Configure, named: str, tmp_path: Path
) -> None:
    async with running(tmp_path) as front:
        engines = front.hub._engines
        assert engines is not None
        engines.check_guidance(message)
        literal = type(engines)(engines.descriptions, None, takes_guidance=False)
        literal.check_guidance(Start(language="en"))
        literal.check_guidance(Configure(language="en"))
        with pytest.raises(UnsupportedOption, match=re.escape(named)):
            literal.check_guidance(message)


async def test_the_end_of_a_drain_leaves_sessions_to_the_next_server(tmp_path: Path) -> None:
    told: list[CaptiondError] = []
    async with running(tmp_path) as front:
        live, ready = await front.hub.open(Start(), "ann")
        live.attach(told.append, 0)
        await front.hub.close()
        assert [type(error) for error in told] == [Draining]
        assert list(front.hub.sessions) == []
        record = await front.hub.store.session(ready.session_id)
        assert record is not None
        assert record.state == "open"


async def test_the_end_of_a_drain_ends_what_nobody_can_come_back_to(tmp_path: Path) -> None:
    async with running(tmp_path) as front:
        live, ready = await opened(front)
        front.worker().open.clear()
        live.session.receive_audio(speech(range(3)).tobytes(), 0)
        live._expire()
        await front.hub.close()
        record = await front.hub.store.session(ready.session_id)
        assert record is not None
        assert record.state == "expired"


async def test_what_a_store_never_took_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async with running(tmp_path) as front:
        live, _ = await opened(front)
        broken = BrokenStore(front.hub.store, monkeypatch)
        live.session.end_of_audio(0)
        live.detach(dismiss)
        await until(lambda: broken.refused > 0)
        await front.hub.close()
        assert live._storing is None or live._storing.done()
    assert "events lost" in capsys.readouterr().out


async def test_many_short_sessions_leave_nothing(tmp_path: Path) -> None:
    async with running(tmp_path) as front:
        _, first = await opened(front)
        front.hub.drop(first.session_id)
        await asyncio.sleep(0.01)
        tasks = len(asyncio.all_tasks())
        for _ in range(200):
            live, _ready = await opened(front)
            live.session.receive_audio(bytes(3_200), 0)
            live.step()
            live.session.end_of_audio(0)
            live.step()
            live.detach(dismiss)
            await until(lambda live=live: live.is_over)  # type: ignore[misc]
            live._expire()
            await until(lambda live=live: live.is_gone)  # type: ignore[misc]
            assert live._deadline._timer is None
        assert list(front.hub.sessions) == []
        await until(lambda: len(asyncio.all_tasks()) <= tasks)
        assert front.metric("sessions_total", protocol="captiond", outcome="expired") == 200


async def test_all_sessions_and_later_ones_are_told_how_far_apart_partials_are(
    tmp_path: Path,
) -> None:
    async with running(tmp_path) as front:
        before, _ = await front.hub.open(Start(), "ann")
        front.hub.pace_partials(2.5)
        later, _ = await front.hub.open(Start(), "ann")
        registry = front.hub.metrics.registry
        assert registry.get_sample_value("captiond_partial_thinning") == pytest.approx(2.5)
        for live in (before, later):
            lanes = live.session._lanes.values()
            assert [lane._recognition.thinning for lane in lanes] == [2.5]
