"""Worker processes under the faults that they exist for; each test uses real processes."""

import asyncio
import os
import signal
import sys
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest

from server import worker_main
from server.cpu_budget import cpu_budget
from server.engines.errors import EngineUnavailable
from server.engines.registry import EngineSpec, OptionValue
from server.engines.scripted import ScriptedRecognizer
from server.workers import (
    BACKOFF_SECONDS_MAX,
    RESTARTS_PER_MINUTE_MAX,
    CallFailed,
    CallTimeout,
    EngineWorker,
    WorkerDied,
    WorkerState,
    WorkerUnready,
    backoff_seconds,
    crowded_seconds,
)
from streaming.engines import Hypothesis, RecognizerProfile, SpeechWindow
from streaming.events import SessionStage
from streaming.scripted_audio import encode_word

GENEROUS_S = 60.0
"""Bounds a broken test, on a machine of any speed."""
WINDOW = SpeechWindow(encode_word(1, 1))


@asynccontextmanager
async def running(
    stage: SessionStage = SessionStage.RECOGNITION, **options: OptionValue
) -> AsyncIterator[EngineWorker]:
    worker = EngineWorker(EngineSpec(stage, "scripted", options=options))
    await worker.start()
    try:
        yield worker
    finally:
        await worker.close()


async def ask(worker: EngineWorker, timeout_s: float = GENEROUS_S) -> list[Hypothesis]:
    answers, elapsed_ns = await worker.call("recognize", [WINDOW], timeout_s=timeout_s)
    assert elapsed_ns > 0
    return answers


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(GENEROUS_S):
        while not condition():  # noqa: ASYNC110 - other processes set no event
            await asyncio.sleep(0.01)


async def test_answers_come_back_in_order() -> None:
    async with running(latency_ms=2) as worker:
        windows = [SpeechWindow(encode_word(1, number)) for number in range(5)]
        answers, elapsed_ns = await worker.call("recognize", windows, timeout_s=GENEROUS_S)
        assert [answer.words[0].text for answer in answers] == [f"w{n}.1" for n in range(5)]
        assert elapsed_ns >= 2_000_000


async def test_a_ready_worker_describes_its_engine() -> None:
    async with running(SessionStage.DIARIZATION) as worker:
        assert worker.ready is not None
        assert worker.ready.description == "scripted"
        assert worker.ready.profile is not None
        assert worker.ready.profile.hop_samples == 12_800
    assert worker.ready is None


async def test_a_crash_is_told_and_replaced() -> None:
    async with running(crash_every=2) as worker:
        first_pid = worker.pid
        await ask(worker)
        with pytest.raises(WorkerDied, match="exit status 86"):
            await ask(worker)
        assert (await ask(worker))[0].words[0].text == "w1.1"
        assert worker.restarts == 1
        assert worker.pid != first_pid


async def test_a_hang_is_killed_at_the_deadline_and_replaced() -> None:
    async with running(hang_every=2) as worker:
        await ask(worker)
        pid = worker.pid
        assert pid is not None
        with pytest.raises(CallTimeout):
            await ask(worker, timeout_s=0.2)
        assert not psutil.pid_exists(pid)
        assert len(await ask(worker)) == 1


async def test_a_process_that_was_killed_is_told_from_one_that_crashed() -> None:
    async with running(hang_every=1, hang_s=GENEROUS_S) as worker:
        call = asyncio.create_task(ask(worker))
        await asyncio.sleep(0)
        assert worker.pid is not None
        os.kill(worker.pid, signal.SIGKILL)
        with pytest.raises(WorkerDied, match="SIGKILL") as killed:
            await call
        assert killed.value.is_killed
    async with running(crash_every=1) as worker:
        with pytest.raises(WorkerDied) as crashed:
            await ask(worker)
        assert not crashed.value.is_killed


async def test_an_engine_may_hang_for_a_while_and_go_on(tmp_path: Path) -> None:
    sign = tmp_path / "hang"
    async with running(hang_file=str(sign), hang_s=GENEROUS_S) as worker:
        await ask(worker)
        sign.touch()
        call = asyncio.create_task(ask(worker))
        await asyncio.sleep(0)
        sign.unlink()
        assert len(await call) == 1


async def test_a_replacement_that_is_stuck_or_cannot_start_is_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with running() as worker:
        await ask(worker)
        monkeypatch.setattr("server.workers.backoff_seconds", lambda losses: 0.01)
        worker._load_seconds_max = 0.0
        assert worker.pid is not None
        os.kill(worker.pid, signal.SIGKILL)
        await until(lambda: worker.restarts >= 3)
        with monkeypatch.context() as patch:
            patch.setattr("server.workers._environment", lambda threads: 1 / 0)
            lost = worker.restarts
            await until(lambda: worker.restarts >= lost + 3)
        worker._load_seconds_max = GENEROUS_S
        assert len(await ask(worker)) == 1


def test_pauses_between_restarts_grow_to_a_bound() -> None:
    assert [backoff_seconds(n) for n in range(5)] == [0, 1, 2, 4, 8]
    assert backoff_seconds(100_000) == BACKOFF_SECONDS_MAX, "a night of a broken engine"


def test_no_minute_has_more_restarts_than_its_share() -> None:
    restarts_s: deque[float] = deque(maxlen=RESTARTS_PER_MINUTE_MAX)
    now_s = 0.0
    for _ in range(3 * RESTARTS_PER_MINUTE_MAX):
        now_s += crowded_seconds(restarts_s, now_s) + 0.1
        within = sum(now_s - then_s < 60 for then_s in restarts_s)
        assert within < RESTARTS_PER_MINUTE_MAX
        restarts_s.append(now_s)
    assert now_s < 3 * 60, "and no fewer than needed"


async def test_a_kill_between_calls_is_noticed_without_a_call() -> None:
    states: list[WorkerState] = []
    spec = EngineSpec(SessionStage.RECOGNITION, "scripted")
    worker = EngineWorker(spec, on_state=states.append)
    await worker.start()
    assert worker.pid is not None
    os.kill(worker.pid, signal.SIGKILL)
    await until(lambda: len(states) == 4)
    assert len(await ask(worker)) == 1
    await worker.close()
    assert states == ["starting", "ready", "restarting", "ready", "closed"]


async def test_an_engine_that_raises_lives_on() -> None:
    async with running(fail_every=2) as worker:
        pid = worker.pid
        await ask(worker)
        with pytest.raises(CallFailed, match="ValueError: scripted failure") as failure:
            await ask(worker)
        assert not failure.value.is_memory
        assert len(await ask(worker)) == 1
        assert worker.pid == pid
        assert worker.restarts == 0


async def test_running_out_of_memory_is_told_apart() -> None:
    async with running(memory_every=1) as worker:
        with pytest.raises(CallFailed) as failure:
            await ask(worker)
        assert failure.value.is_memory


async def test_only_the_methods_of_its_stage_can_be_called() -> None:
    async with running() as worker:
        with pytest.raises(CallFailed, match="warm_up"):
            await worker.call("warm_up", [], timeout_s=GENEROUS_S)


async def test_a_cancelled_call_leaves_no_late_answer() -> None:
    async with running(hang_stream=2) as worker:
        hanging = SpeechWindow(encode_word(2, 1))
        call = asyncio.create_task(worker.call("recognize", [hanging], timeout_s=GENEROUS_S))
        await asyncio.sleep(0)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        assert (await ask(worker))[0].words[0].text == "w1.1"


async def test_no_process_in_time_does_not_blame_the_batch() -> None:
    async with running(crash_every=1) as worker:
        with pytest.raises(WorkerDied):
            await ask(worker)
        with pytest.raises(WorkerUnready):
            await ask(worker, timeout_s=0.0)


async def test_a_closed_worker_refuses() -> None:
    async with running() as worker:
        pid = worker.pid
    assert pid is not None
    assert not psutil.pid_exists(pid)
    with pytest.raises(WorkerUnready):
        await ask(worker)


async def test_closing_ends_a_process_in_the_middle_of_a_call() -> None:
    async with running(hang_every=1) as worker:
        call = asyncio.create_task(ask(worker))
        await asyncio.sleep(0)
    with pytest.raises(WorkerDied):
        await call


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [("scripted", {"load_error": "buy more disk"}, "^buy more disk$"), ("kaldi", {}, "choose one")],
)
async def test_a_load_failure_says_what_to_do(
    name: str, options: dict[str, OptionValue], message: str
) -> None:
    worker = EngineWorker(EngineSpec(SessionStage.RECOGNITION, name, options=options))
    with pytest.raises(EngineUnavailable, match=message):
        await worker.start()
    await worker.close()
    assert worker.pid is None


PARENT = """
import asyncio
from server.engines.registry import EngineSpec
from server.workers import EngineWorker
from streaming.engines import SpeechWindow
from streaming.events import SessionStage
from streaming.scripted_audio import encode_word

async def main():
    spec = EngineSpec(SessionStage.RECOGNITION, "scripted", options={"hang_every": 1})
    worker = EngineWorker(spec)
    await worker.start()
    print(worker.pid, flush=True)
    await worker.call("recognize", [SpeechWindow(encode_word(1, 1))], timeout_s=600)

asyncio.run(main())
"""


async def test_a_worker_does_not_outlive_a_killed_server() -> None:
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PARENT, stdout=asyncio.subprocess.PIPE
    )
    assert parent.stdout is not None
    worker = psutil.Process(int(await parent.stdout.readline()))
    parent.kill()
    await parent.wait()
    # An orphan of a container without an init process stays a zombie.
    await until(lambda: not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE)


def write(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)


@pytest.mark.parametrize(
    ("own", "folder", "files"),
    [
        ("0::/\n", "", {"cpu__max": "100000 100000"}),
        ("0::/pod/box\n", "pod", {"cpu__max": "150000 100000"}),
        ("4:cpu,cpuacct:/pod\n3:memory:/x\n", "cpu/pod", {"cpu__cfs_quota_us": "100000"}),
    ],
)
def test_the_budget_obeys_the_quota(
    tmp_path: Path, own: str, folder: str, files: dict[str, str]
) -> None:
    write(tmp_path / folder, **files, cpu__cfs_period_us="100000")
    (tmp_path / "own").write_text(own)
    assert cpu_budget(tmp_path, tmp_path / "own") == 1


@pytest.mark.parametrize("text", ["max 100000", "nonsense", "-1 100000"])
def test_without_a_quota_the_affinity_counts(tmp_path: Path, text: str) -> None:
    write(tmp_path, cpu__max=text)
    assert cpu_budget(tmp_path, tmp_path / "absent") == len(os.sched_getaffinity(0))


class _ProfiledEngine:
    """What a recognizer with short contexts for partials says of itself."""

    description = "profiled"
    languages = None
    profile = RecognizerProfile((16_000,), 32_000)

    def recognize(self, windows: Sequence[SpeechWindow]) -> list[Hypothesis]:
        return [Hypothesis(()) for _ in windows]


def test_a_recognizer_may_say_what_its_windows_cost() -> None:
    said = worker_main._ready(_ProfiledEngine(), SessionStage.RECOGNITION, 1)
    assert said.recognizer_profile == _ProfiledEngine.profile
    plain = worker_main._ready(ScriptedRecognizer(), SessionStage.RECOGNITION, 1)
    assert plain.recognizer_profile is None
