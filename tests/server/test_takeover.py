"""Hub and LiveSession: a session that another server, dead or alive, has left in the store."""

import asyncio
from pathlib import Path

import pytest

from server.hub import Hub
from server.live import LiveSession
from server.store import Resumable, StaleOwner, StoreError
from streaming.errors import CaptiondError, Overloaded, SessionExpired, Superseded
from streaming.session import SessionState
from streaming.wire import Ready, Resume, Start
from tests.fakes import silence, speech
from tests.server_fakes import Front, running, until

pytestmark = pytest.mark.asyncio

AUDIO = b"".join(part.tobytes() for part in (speech(range(3)), silence(1.5)))


def hang_up(_: CaptiondError) -> None:
    pass


def message(ready: Ready, last_seq: int = 0) -> Resume:
    return Resume(session_id=ready.session_id, resume_token=ready.resume_token, last_seq=last_seq)


async def opened(front: Front) -> tuple[LiveSession, Ready]:
    live, ready = await front.hub.open(Start(language="en"), "ann")
    live.attach(hang_up, 0)
    return live, ready


async def talk(live: LiveSession) -> None:
    """Three words, until they are stored."""
    seq = live.session.log.stored_seq
    live.receive_audio(AUDIO)
    live.step()
    await until(lambda: live.session.log.stored_seq > seq)


async def taken_over(hub: Hub, ready: Ready) -> LiveSession:
    live, again = await hub.resume(message(ready, 1), "ann")
    assert again.resume_token == ready.resume_token
    assert again.wall_clock == ready.wall_clock
    live.attach(hang_up, again.seq)
    return live


async def test_the_last_owner_is_told_at_its_next_write(tmp_path: Path) -> None:
    told: list[CaptiondError] = []
    async with running(tmp_path) as first, running(tmp_path) as second:
        old, ready = await first.hub.open(Start(language="en"), "ann")
        old.attach(told.append, 0)
        await talk(old)
        new = await taken_over(second.hub, ready)
        assert new.session.frames_received > 0
        assert new.session.log.last_seq == 1
        old.receive_audio(AUDIO)
        old.step()
        await until(lambda: old.is_gone)
        assert [type(error) for error in told] == [Superseded]
        outcome = {"protocol": "captiond", "outcome": "superseded"}
        assert first.metric("sessions_total", **outcome) == 1
        await talk(new)
        assert [event["seq"] for event in await second.hub.store.events(new.id)] == [1, 2]


async def test_two_who_come_for_one_session_get_the_same(tmp_path: Path) -> None:
    async with running(tmp_path) as first, running(tmp_path) as second:
        old, ready = await opened(first)
        await talk(old)
        found = await asyncio.gather(*(second.hub.resume(message(ready), "ann") for _ in range(3)))
        assert len({id(live) for live, _ in found}) == 1
        assert len(list(second.hub.sessions)) == 1


class SlowClaims:
    """The store takes its time to give sessions away."""

    def __init__(self, hub: Hub, patch: pytest.MonkeyPatch) -> None:
        self.begun: list[str] = []
        self.may_end = asyncio.Event()
        self._claim = hub.store.claim
        patch.setattr(hub.store, "claim", self.claim)

    async def claim(self, session_id: str, epoch: int) -> Resumable:
        self.begun.append(session_id)
        await self.may_end.wait()
        return await self._claim(session_id, epoch)


async def test_whoever_comes_for_another_session_does_not_wait_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path) as first, running(tmp_path) as second:
        left = [await opened(first) for _ in range(3)]
        claims = SlowClaims(second.hub, monkeypatch)
        found = asyncio.gather(*(taken_over(second.hub, ready) for _, ready in left))
        await until(lambda: len(claims.begun) == 3)
        claims.may_end.set()
        assert [live.id for live in await found] == [live.id for live, _ in left]


async def test_sessions_that_are_being_taken_over_have_their_places(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path) as first, running(tmp_path, sessions_max=2) as second:
        left = [(await opened(first))[1] for _ in range(3)]
        claims = SlowClaims(second.hub, monkeypatch)
        coming = [asyncio.create_task(taken_over(second.hub, ready)) for ready in left[:2]]
        await until(lambda: len(claims.begun) == 2)
        with pytest.raises(Overloaded):
            await second.hub.open(Start(), "ben")
        with pytest.raises(Overloaded):
            await second.hub.resume(message(left[2]), "ann")
        claims.may_end.set()
        await asyncio.gather(*coming)
        assert len(list(second.hub.sessions)) == 2
        assert second.hub._returns.coming.total() == 0


async def test_the_slower_of_two_servers_is_told_to_try_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path) as first, running(tmp_path) as second:
        _, ready = await opened(first)
        store = second.hub.store
        claim = store.claim

        async def late(session_id: str, epoch: int) -> object:
            await claim(session_id, epoch)
            return await claim(session_id, epoch)

        monkeypatch.setattr(store, "claim", late)
        with pytest.raises(StaleOwner):
            await second.hub.resume(message(ready), "ann")
        monkeypatch.undo()
        assert await taken_over(second.hub, ready)


async def test_who_comes_back_to_a_server_that_lost_the_session_gets_what_the_other_did(
    tmp_path: Path,
) -> None:
    told: list[CaptiondError] = []
    async with running(tmp_path) as first, running(tmp_path) as second:
        old, ready = await first.hub.open(Start(language="en"), "ann")
        old.attach(told.append, 0)
        await talk(old)
        other = await taken_over(second.hub, ready)
        await talk(other)
        seq = other.session.log.stored_seq
        live = await taken_over(first.hub, ready)
        assert live is not old
        assert old.is_gone
        assert [type(error) for error in told] == [Superseded]
        assert live.session.log.stored_seq == seq
        assert live.epoch > other.epoch
        assert first.hub.find(live.id) is live


async def test_a_session_that_another_server_has_ended_is_over_here_too(tmp_path: Path) -> None:
    async with running(tmp_path) as first, running(tmp_path) as second:
        old, ready = await opened(first)
        await talk(old)
        other = await taken_over(second.hub, ready)
        other.session.end_of_audio(0)
        other.step()
        await until(lambda: other._is_recorded)
        live = await taken_over(first.hub, ready)
        assert old.is_gone
        assert live.is_over
        assert live.session.log.stored_seq == other.session.log.stored_seq


async def test_a_session_that_stays_here_is_the_same_though_the_store_cannot_be_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path) as front:
        live, ready = await opened(front)
        assert (await front.hub.resume(message(ready), "ann"))[0] is live

        async def refused(session_id: str) -> None:
            raise StoreError(f"no answer about {session_id}")

        monkeypatch.setattr(front.hub.store, "load_resumable", refused)
        assert (await front.hub.resume(message(ready), "ann"))[0] is live
        monkeypatch.undo()


@pytest.mark.parametrize("is_expired", [False, True])
async def test_a_session_that_ends_between_the_look_and_the_claim(
    is_expired: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is repeated where it is done, and over where nobody came back in time."""
    async with running(tmp_path) as first, running(tmp_path) as second:
        old, ready = await opened(first)
        await talk(old)
        store = second.hub.store
        claim = store.claim

        async def late(session_id: str, epoch: int) -> object:
            if not is_expired:
                old.session.end_of_audio(0)
            old.detach(hang_up, is_known=not is_expired)
            await until(lambda: old._is_recorded)
            return await claim(session_id, epoch)

        monkeypatch.setattr(store, "claim", late)
        if is_expired:
            with pytest.raises(SessionExpired):
                await second.hub.resume(message(ready), "ann")
        else:
            assert (await taken_over(second.hub, ready)).is_over


async def test_a_session_in_which_nothing_happened_begins_anew(tmp_path: Path) -> None:
    async with running(tmp_path) as first, running(tmp_path) as second:
        _, ready = await opened(first)
        live, again = await second.hub.resume(message(ready), "ann")
        assert (again.seq, again.resume_from_frame) == (0, 0)
        live.attach(hang_up, 0)
        await talk(live)


async def test_an_end_that_the_store_was_not_told_of_is_told_by_the_next_owner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path) as first, running(tmp_path) as second:
        old, ready = await opened(first)
        monkeypatch.setattr(first.hub.store, "finish_session", never)
        await talk(old)
        old.session.end_of_audio(0)
        old.detach(hang_up)
        await until(lambda: old.is_over)
        live = await taken_over(second.hub, ready)
        assert live.session.state is SessionState.DONE
        live.step()
        await until(lambda: live._is_recorded)
        record = await second.hub.store.session(live.id)
        assert record is not None
        assert record.state == "done"
        monkeypatch.undo()


async def never(*_: object, **__: object) -> None:
    await asyncio.Event().wait()


async def test_a_checkpoint_of_another_version_ends_the_session(tmp_path: Path) -> None:
    async with running(tmp_path) as first, running(tmp_path) as second:
        old, ready = await opened(first)
        await talk(old)
        await first.hub.store.append(old.id, [], checkpoint=b"of the future")
        with pytest.raises(SessionExpired, match="another version"):
            await second.hub.resume(message(ready), "ann")
        # It was not taken from its owner for that.
        await talk(old)
        assert not old.is_gone


async def test_long_silence_is_acknowledged(tmp_path: Path) -> None:
    async with running(tmp_path) as front:
        live, _ = await opened(front)
        for _ in range(12):
            live.receive_audio(silence(1).tobytes())
            live.step()
        await until(lambda: live.session.stored_through_frame >= 5 * 16_000)
        found = await front.hub.store.load_resumable(live.id)
        assert found is not None
        assert found.checkpoint is not None
        assert found.last_seq == 0


async def test_a_session_that_ended_here_is_over_before_the_store_knows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path) as front:
        live, ready = await opened(front)
        monkeypatch.setattr(front.hub.store, "finish_session", never)
        live.session.end_of_audio(0)
        live.step()
        await until(lambda: live.is_over)
        live.detach(hang_up, is_delivered=True)
        with pytest.raises(SessionExpired):
            await front.hub.resume(message(ready), "ann")
        monkeypatch.undo()
