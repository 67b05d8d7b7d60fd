"""A session outlives its connections and a failing store, and nothing else outlives it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from server.dispatch import Outcome
from server.live import LiveSession
from server.store import SessionRecord, StoreError
from streaming.engines import ActivityWindow
from streaming.errors import CaptiondError, InternalError, Overloaded, Superseded, UnknownSession
from streaming.events import Degraded, Done, DurableEvent, Final, SessionStage
from streaming.jobs import Job, JobKind
from streaming.wire import Resume, Start
from tests.fakes import silence, speech, word_texts
from tests.server_fakes import BrokenStore, Front, running, until

WORDS = 6


class Caller:
    """Stands for a connection: reads all that the session says and hears when it is sent away."""

    def __init__(self, live: LiveSession, last_seq: int = 0) -> None:
        self.live = live
        self.reasons: list[CaptiondError] = []
        self.durable: list[DurableEvent] = []
        self.store_news: list[bool] = []
        """Whether it works again, each time that the session told of the store."""
        self._cursor = live.session.log.cursor(last_seq)
        live.listen(self.read)
        live.attach(self.reasons.append, last_seq)

    @classmethod
    async def open(cls, front: Front, start: Start | None = None) -> "Caller":
        live, _ = await front.hub.open(start or Start(), "ann")
        return cls(live)

    def read(self) -> None:
        for event in self._cursor.read(1_000):
            self.live.note_written(event)
            if isinstance(event, DurableEvent):
                self.durable.append(event)
            elif isinstance(event, Degraded):
                self.store_news.append(event.is_over)

    def say(self, *numbers: int, pause_s: float = 0.0) -> None:
        """At the pace that the clock of this test has: at once."""
        for part in (speech(numbers), silence(pause_s)):
            self.live.session.receive_audio(part.tobytes(), 1)
            self.live.step()

    def end(self) -> None:
        self.live.session.end_of_audio(1)
        self.live.step()

    def leave(self, *, is_delivered: bool = False, is_known: bool = True) -> None:
        self.live.unlisten(self.read)
        self.live.detach(self.reasons.append, is_delivered=is_delivered, is_known=is_known)

    @property
    def words(self) -> list[str]:
        finals = (event for event in self.durable if isinstance(event, Final))
        return [word.text for final in finals for word in final.words]


async def until_over(caller: Caller) -> None:
    def is_over() -> bool:
        caller.live.step()  # a reader that has read on may bring the last event about
        return caller.live.is_over

    await until(is_over)


async def stored(front: Front, live: LiveSession) -> list[str]:
    events = await front.hub.store.events(live.id)
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    return [w["word"] for event in events if event["type"] == "final" for w in event["words"]]


async def state(front: Front, live: LiveSession) -> str:
    record = await front.hub.store.session(live.id)
    assert record is not None
    return record.state


async def test_a_refusing_store_holds_up_no_caption_and_loses_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path) as front:
        caller = await Caller.open(front)
        broken = BrokenStore(front.hub.store, monkeypatch)
        for number in range(WORDS):
            caller.say(number, pause_s=1.0)
        await until(lambda: caller.words == word_texts(range(WORDS)))
        assert not any(caller.live.is_durable(event) for event in caller.durable)
        assert front.metric("spool_events") == len(caller.durable)
        assert caller.live.session.stored_through_frame == 0, "nothing may be acknowledged"
        assert front.hub.is_store_refusing
        assert caller.store_news == [False]
        assert "the store refuses captions" in front.server.problems
        broken.is_broken = False
        caller.end()
        await until_over(caller)
        assert caller.words == word_texts(range(WORDS)) == await stored(front, caller.live)
        assert caller.store_news == [False, True]
        assert caller.live.session.stored_through_frame == caller.live.session.frames_received
        assert front.metric("spool_events") == 0
        assert not front.hub.is_store_refusing
        assert front.server.problems == []


async def test_a_store_that_refuses_the_end_gets_it_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path) as front:
        caller = await Caller.open(front)
        broken = BrokenStore(front.hub.store, monkeypatch)
        caller.end()
        await until(lambda: broken.refused > 0)
        caller.leave()
        caller.live._expire()
        assert not caller.live.is_gone, "what was received is not stored yet"
        broken.is_broken = False
        await until(lambda: caller.live.is_gone)
        assert await state(front, caller.live) == "expired"


async def test_nobody_sees_the_end_before_it_is_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path) as front:
        caller = await Caller.open(front)
        caller.say(0, pause_s=1.0)
        await until(lambda: caller.words == word_texts([0]))
        broken = BrokenStore(front.hub.store, monkeypatch)
        caller.end()
        await until(lambda: broken.refused > 3)
        assert [event for event in caller.durable if isinstance(event, Done)] == []
        broken.is_broken = False
        await until(lambda: any(isinstance(event, Done) for event in caller.durable))


async def test_a_resume_while_the_store_refuses_repeats_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path) as front:
        live, ready = await front.hub.open(Start(), "ann")
        caller = Caller(live)
        broken = BrokenStore(front.hub.store, monkeypatch)
        caller.say(0, pause_s=1.0)
        await until(lambda: caller.words == word_texts([0]))
        seq = caller.durable[-1].seq
        ask = Resume(session_id=live.id, resume_token=ready.resume_token, last_seq=seq)
        again, answer = await front.hub.resume(ask, "ann")
        assert (again, answer.seq) == (live, seq)
        back = Caller(again, answer.seq)
        broken.is_broken = False
        back.end()
        await until_over(back)
        assert back.words == []
        assert await stored(front, live) == word_texts([0])


async def test_beyond_the_spool_captions_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path) as front:
        caller = await Caller.open(front)
        assert front.hub._services is not None
        front.hub._services.spool.events_max = 3  # the language and two finals
        broken = BrokenStore(front.hub.store, monkeypatch)
        for number in range(WORDS):
            caller.say(number, pause_s=1.0)
        await until(lambda: caller.live.session.is_quiet and broken.refused > 3)
        assert caller.words == word_texts(range(2)), "the others wait"
        broken.is_broken = False
        await until(lambda: caller.words == word_texts(range(WORDS)))
        caller.end()
        await until_over(caller)
        assert await stored(front, caller.live) == word_texts(range(WORDS))


async def test_a_newer_talker_supersedes(tmp_path: Path) -> None:
    async with running(tmp_path) as front:
        first = await Caller.open(front)
        second = Caller(first.live)
        assert [type(error) for error in first.reasons] == [Superseded]
        first.leave(is_delivered=True)
        assert first.live.is_attached, "the older one has no say any more"
        assert not first.live.is_gone
        second.leave(is_delivered=True)
        assert first.live.is_gone
        assert second.reasons == []


async def test_a_session_expires_when_all_of_it_is_stored(tmp_path: Path) -> None:
    async with running(tmp_path, resume_window_s=0.02) as front:
        front.worker().open.clear()
        caller = await Caller.open(front)
        caller.say(*range(WORDS))
        caller.leave()
        await until(lambda: caller.live.is_expired)
        assert not caller.live.is_gone
        front.worker().open.set()
        await until(lambda: caller.live.is_gone)
        assert await stored(front, caller.live) == word_texts(range(WORDS))
        assert await state(front, caller.live) == "expired"
        assert front.metric("sessions_total", protocol="captiond", outcome="expired") == 1


async def test_coming_back_in_time_stops_the_clock(tmp_path: Path) -> None:
    async with running(tmp_path, resume_window_s=60) as front:
        caller = await Caller.open(front)
        caller.leave()
        assert caller.live._expiry is not None
        Caller(caller.live)
        assert caller.live._expiry is None


async def test_a_client_that_never_got_ready_keeps_no_place(tmp_path: Path) -> None:
    async with running(tmp_path) as front:
        caller = await Caller.open(front)
        caller.leave(is_known=False)
        await until(lambda: caller.live.is_gone)
        assert list(front.hub.sessions) == []


async def test_a_deleted_session_stops_storing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path) as front:
        caller = await Caller.open(front)
        broken = BrokenStore(front.hub.store, monkeypatch)
        caller.say(1, pause_s=1.0)
        await until(lambda: broken.refused > 0)
        front.hub.drop(caller.live.id)
        await front.hub.store.delete_session(caller.live.id)
        assert [type(error) for error in caller.reasons] == [UnknownSession]
        broken.is_broken = False
        await until(lambda: caller.live._storing is None)
        caller.leave()
        assert caller.live._expiry is None
        assert front.metric("sessions_total", protocol="captiond", outcome="deleted") == 1


async def test_a_session_deleted_behind_our_back_ends(tmp_path: Path) -> None:
    async with running(tmp_path) as front:
        caller = await Caller.open(front)
        await front.hub.store.delete_session(caller.live.id)
        caller.say(1, pause_s=1.0)
        await until(lambda: caller.live.is_gone)
        assert [type(error) for error in caller.reasons] == [UnknownSession]


async def test_a_bug_in_one_session_stays_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path) as front:
        broken, sound = await Caller.open(front), await Caller.open(front)

        def fail(*_: object) -> None:
            raise RuntimeError("a bug")

        monkeypatch.setattr(broken.live.session, "receive_result", fail)
        broken.say(1, pause_s=1.0)
        sound.say(*range(WORDS), pause_s=1.0)
        await until(lambda: broken.live.is_gone)
        assert [type(error) for error in broken.reasons] == [InternalError]
        sound.end()
        await until_over(sound)
        assert sound.words == word_texts(range(WORDS))
        assert front.metric("sessions_total", protocol="captiond", outcome="failed") == 1


async def test_what_cannot_be_stored_at_all_ends_the_session(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path) as front:
        caller = await Caller.open(front)

        async def fail(*_: object) -> None:
            raise TypeError("surrogates not allowed")

        monkeypatch.setattr(front.hub.store, "append", fail)
        caller.say(1, pause_s=1.0)
        await until(lambda: caller.live.is_gone)
        assert [type(error) for error in caller.reasons] == [InternalError]


async def test_answers_for_sessions_that_are_gone_are_dropped(tmp_path: Path) -> None:
    async with running(tmp_path) as front:
        worker = front.worker(SessionStage.ACTIVITY)
        worker.open.clear()
        caller = await Caller.open(front)
        caller.say(1)
        await until(lambda: len(worker.calls) == 1)
        front.hub.drop(caller.live.id)
        worker.open.set()
        other = await Caller.open(front)
        other.say(1, pause_s=1.0)
        other.end()
        await until_over(other)
        assert other.words == word_texts([1])
        assert caller.durable == []


async def test_first_words_are_timed_from_the_first_speech(tmp_path: Path) -> None:
    async with running(tmp_path) as front:
        caller = await Caller.open(front)
        for number in range(3):
            caller.say(number, pause_s=1.0)
        caller.end()
        await until_over(caller)
        assert front.metric("first_result_seconds_count") == 1


async def test_a_late_answer_is_harmless(tmp_path: Path) -> None:
    async with running(tmp_path) as front:
        worker = front.worker(SessionStage.ACTIVITY)
        caller = await Caller.open(front)
        caller.say(1, pause_s=1.0)
        caller.end()
        await until_over(caller)
        assert worker.calls
        window = ActivityWindow(silence(0.032), b"")
        job = Job(caller.live.id, 1, 0, JobKind.DETECT, (window,), 512, True, 0)
        front.hub.deliver([Outcome(job, [])])
        assert caller.live.session.stats.superseded_results == 1


async def test_guards_that_fired_are_in_the_metrics_at_the_end(tmp_path: Path) -> None:
    async with running(tmp_path) as front:
        caller = await Caller.open(front)
        caller.live.session.stats.guards_fired["coverage"] += 2
        caller.end()
        await until_over(caller)
        caller.leave(is_delivered=True)
        front.hub.drop(caller.live.id)
        await until(lambda: caller.live.is_gone)
        assert front.metric("guards_fired_total", guard="coverage") == 2


async def test_a_store_that_refuses_turns_new_sessions_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path) as front:
        with monkeypatch.context() as patch:
            patch.setattr(front.hub.store, "create_session", refuse)
            with pytest.raises(Overloaded, match="takes no new session") as refusal:
                await front.hub.open(Start(), "ann")
        assert refusal.value.retry_after_ms
        assert front.hub.sessions == ()
        await Caller.open(front)


async def refuse(record: SessionRecord) -> None:
    raise StoreError("the disk is full")


async def test_a_session_that_another_server_claimed_is_let_go(tmp_path: Path) -> None:
    async with running(tmp_path) as front:
        caller = await Caller.open(front)
        await front.hub.store.claim(caller.live.id, 1)
        caller.say(0, pause_s=1.0)
        await until(lambda: caller.live.is_gone)
        assert [type(error) for error in caller.reasons] == [Superseded]
        assert await stored(front, caller.live) == []
        assert await state(front, caller.live) == "open"
        assert front.metric("sessions_total", protocol="captiond", outcome="superseded") == 1


async def test_a_pause_waits_for_the_line_and_closes_no_word(tmp_path: Path) -> None:
    """The client's answer comes late, and behind the audio that stood in the line with it."""
    questions: list[Callable[[], None]] = []
    async with running(tmp_path) as front:
        live, _ = await front.hub.open(Start(), "ann")
        caller = Caller(live)
        live.attach(caller.reasons.append, 0, questions.append)
        caller.say(0)
        for lane in live.session._lanes.values():
            lane.last_audio_ns = 0  # the second is over
        live._deadline.cancel()
        live.step()
        await until(lambda: bool(questions))
        assert caller.durable == []
        live.receive_audio(speech([1]).tobytes())
        questions.pop()()
        caller.say(2, pause_s=1.0)
        await until(lambda: len(caller.words) == 3)
        assert len([event for event in caller.durable if isinstance(event, Final)]) == 1
