"""What is counted beside captioning, on whole servers and by itself."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from server.accounts import (
    KEYS_SHOWN_MAX,
    OTHER_KEYS,
    KeyNames,
    SessionTotals,
    note_outcomes,
)
from server.auth import LOCAL_TENANT
from server.config import Settings
from server.dispatch import Outcome
from server.live import LiveSession
from server.metrics.making import LiveCounter
from server.telemetry import Metrics
from streaming.errors import CaptiondError
from streaming.jobs import PATIENCE_NS, Job, JobKind
from streaming.timeline import SAMPLE_RATE_HZ
from streaming.wire import Ready, Resume, Start
from tests.fakes import silence, speech
from tests.server_fakes import Front, running, until

NOW_NS = 60_000_000_000


def keys(*names: str) -> Settings:
    items = tuple(SecretStr(f"{name}:{number:032d}") for number, name in enumerate(names))
    return Settings(api_keys=items)


def test_keys_are_labelled_by_the_operators_own_names() -> None:
    names = KeyNames(keys("bot", "page", "bot"))
    assert names.shown == ("bot", "page")
    assert (names.label("bot"), names.label("somebody")) == ("bot", OTHER_KEYS)


def test_without_keys_everybody_is_local() -> None:
    assert KeyNames(Settings()).label(LOCAL_TENANT) == LOCAL_TENANT


def test_labels_are_bounded_whatever_the_settings_hold() -> None:
    names = KeyNames(keys(*(f"team{number}" for number in range(KEYS_SHOWN_MAX + 5))))
    labels = {names.label(f"team{number}") for number in range(KEYS_SHOWN_MAX + 5)}
    assert len(labels) == KEYS_SHOWN_MAX + 1
    assert OTHER_KEYS in labels


def observe_job(*, heard_s_ago: float, kind: JobKind = JobKind.OBSERVE) -> Job:
    arrived_ns = NOW_NS - round(heard_s_ago * 1e9)
    return Job(
        session_id="s",
        number=1,
        lane=0,
        kind=kind,
        questions=(),
        audio_samples=0,
        is_final=True,
        deadline_ns=arrived_ns + PATIENCE_NS[kind],
    )


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(f"captiond_{name}", labels)


def test_lag_of_the_diarizer_is_from_arrival_to_answer() -> None:
    metrics = Metrics("1")
    note_outcomes(metrics, [Outcome(observe_job(heard_s_ago=4.0), [])], NOW_NS)
    assert value(metrics, "diarization_lag_seconds_sum") == pytest.approx(4.0)


def test_uploads_and_other_engines_are_no_lag() -> None:
    metrics = Metrics("1")
    upload = observe_job(heard_s_ago=-100.0)
    words = observe_job(heard_s_ago=4.0, kind=JobKind.RECOGNIZE)
    note_outcomes(metrics, [Outcome(upload, []), Outcome(words, [])], NOW_NS)
    assert value(metrics, "diarization_lag_seconds_count") == 0


def test_jobs_without_answer_are_counted_by_stage() -> None:
    metrics = Metrics("1")
    note_outcomes(metrics, [Outcome(observe_job(heard_s_ago=4.0), None)], NOW_NS)
    assert value(metrics, "jobs_failed_total", stage="diarizer") == 1
    assert value(metrics, "diarization_lag_seconds_count") == 0


def test_a_live_counter_adds_what_sessions_have_not_told_yet() -> None:
    metrics = Metrics("1")
    counter = metrics.audio_dropped_seconds
    assert isinstance(counter, LiveCounter)
    counter.labels("overload").inc(2)
    counter.live = lambda: {("overload",): 3.0, ("new reason",): 1.5}
    assert value(metrics, "audio_dropped_seconds_total", reason="overload") == 5
    assert value(metrics, "audio_dropped_seconds_total", reason="new reason") == 1.5
    metrics.revisions.live = lambda: {(): 4.0}
    metrics.revisions.inc()
    assert value(metrics, "revisions_total") == 5


def _amount(live: Any) -> dict[tuple[str, ...], float]:
    return {(): live.amount}


class Story:
    """Sessions that come, count and go; each is its own amount."""

    def __init__(self) -> None:
        self.counter = Metrics("1").revisions
        self.hub = cast("Any", SimpleNamespace(sessions=[]))
        self.totals = SessionTotals(self.counter, _amount, self.hub)
        self.counted_here = 0.0

    def come(self, amount: float) -> None:
        """With what another server has counted; 0 where it is new."""
        live: Any = SimpleNamespace(amount=amount, record=SimpleNamespace(state="open"))
        self.hub.sessions.append(live)
        self.totals.inherit(live)

    def count(self, amount: float) -> None:
        if self.hub.sessions:
            self.hub.sessions[0].amount += amount
            self.counted_here += amount

    def go(self, _: float) -> None:
        if self.hub.sessions:
            self.totals.settle(self.hub.sessions.pop(0))

    @property
    def told(self) -> float:
        (family,) = self.counter.collect()
        return family.samples[0].value


@given(
    st.lists(st.tuples(st.sampled_from(["come", "count", "go"]), st.integers(0, 9)), max_size=40)
)
def test_a_counter_never_falls_and_counts_what_was_counted_here(steps: list[Any]) -> None:
    story, before = Story(), 0.0
    for name, amount in steps:
        {"come": story.come, "count": story.count, "go": story.go}[name](float(amount))
        assert story.told >= before
        before = story.told
        assert story.told == story.counted_here


# On whole servers

KEYS = ("bot:0123456789abcdef0", "page:0123456789abcdef1")
AUDIO = b"".join(part.tobytes() for part in (speech(range(3)), silence(1.5)))
AUDIO_S = len(AUDIO) / 2 / SAMPLE_RATE_HZ


def hang_up(_: CaptiondError) -> None:
    pass


async def opened(front: Front, tenant: str = "bot") -> tuple[LiveSession, Ready]:
    live, ready = await front.hub.open(Start(language="en"), tenant)
    live.attach(hang_up, 0)
    return live, ready


async def talk(live: LiveSession) -> None:
    """Three words, until they are stored."""
    seq = live.session.log.stored_seq
    live.receive_audio(AUDIO)
    live.step()
    await until(lambda: live.session.log.stored_seq > seq)


def accounted_s(front: Front) -> float:
    names = ("audio_captioned_seconds_total", "audio_silent_seconds_total")
    return sum(front.metric(name) for name in names)


async def test_what_sessions_have_counted_is_seen_while_they_run_and_stays(tmp_path: Path) -> None:
    async with running(tmp_path) as front:
        live, _ = await opened(front)
        await talk(live)
        while_it_runs = accounted_s(front)
        assert 0.9 < while_it_runs <= AUDIO_S
        front.hub.forget(live, "deleted")
        assert accounted_s(front) == pytest.approx(while_it_runs), "told by the session, and once"
        front.hub.forget(live, "deleted")
        assert accounted_s(front) == pytest.approx(while_it_runs)


async def test_a_session_that_moves_is_counted_where_it_was_heard(tmp_path: Path) -> None:
    options: dict[str, Any] = {"api_keys": KEYS, "usage_metrics": True}
    async with running(tmp_path, **options) as first, running(tmp_path, **options) as second:
        old, ready = await opened(first)
        await talk(old)
        resume = Resume(session_id=ready.session_id, resume_token=ready.resume_token, last_seq=1)
        new, again = await second.hub.resume(resume, "bot")
        new.attach(hang_up, again.seq)
        assert accounted_s(second) == pytest.approx(0.0, abs=1e-6), "heard by the first one"
        assert second.metric("key_audio_seconds_total", key="bot") == pytest.approx(0, abs=1e-6)
        assert second.metric("key_sessions_active", key="bot") == 1
        assert second.metric("key_sessions_total", key="bot") == 0, "it was opened elsewhere"
        await talk(new)
        heard_s = second.metric("key_audio_seconds_total", key="bot")
        assert heard_s == pytest.approx(AUDIO_S)
        second.hub.forget(new, "done")
        assert second.metric("key_audio_seconds_total", key="bot") == pytest.approx(heard_s)
        assert second.metric("key_sessions_active", key="bot") == 0


async def test_usage_is_counted_by_key(tmp_path: Path) -> None:
    async with running(tmp_path, api_keys=KEYS, usage_metrics=True) as front:
        assert (
            front.metrics.registry.get_sample_value("captiond_key_sessions_active", {"key": "page"})
            == 0.0
        ), "a series that begins at 1 has not increased"
        live, _ = await opened(front)
        await opened(front)
        await opened(front, "page")
        await talk(live)
        assert front.metric("key_sessions_active", key="bot") == 2
        assert front.metric("key_sessions_total", key="bot") == 2
        assert front.metric("key_sessions_active", key="page") == 1
        assert front.metric("key_audio_seconds_total", key="bot") == pytest.approx(AUDIO_S)
        front.hub.forget(live, "done")
        assert front.metric("key_sessions_active", key="bot") == 1
        assert front.metric("key_audio_seconds_total", key="bot") == pytest.approx(AUDIO_S)


async def test_no_name_of_a_key_is_told_unless_that_is_wanted(tmp_path: Path) -> None:
    async with running(tmp_path, api_keys=KEYS) as front:
        await opened(front)
        assert b"bot" not in front.metrics.render()


def series_of(front: Front) -> set[str]:
    lines = front.metrics.render().decode().splitlines()
    return {line.rpartition(" ")[0] for line in lines if line and not line.startswith("#")}


async def test_series_do_not_grow_with_sessions_or_strangers(tmp_path: Path) -> None:
    async with running(tmp_path, api_keys=KEYS, usage_metrics=True) as front:
        first, _ = await opened(front)
        await talk(first)
        await opened(front, "a stranger")
        before = series_of(front)
        assert len(before) < 500
        for number in range(20):
            live, _ = await opened(front, f"stranger {number}")
            await talk(live)
        assert series_of(front) == before
        page = front.metrics.render().decode()
        assert not [live.id for live in front.hub.sessions if live.id in page]
        assert "stranger" not in page
