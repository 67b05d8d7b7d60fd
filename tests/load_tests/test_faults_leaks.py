"""How leaks are judged, and that a real server leaves nothing behind."""

import asyncio
import gc
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from load_tests.faults import leaks, machines, visitors, watched
from load_tests.faults.leaks import Figures, Look
from load_tests.faults.machines import Machine
from load_tests.faults.victim import free_port
from server.socket import CaptionSocket
from tests.server_fakes import running, until

LOOK = Look(Counter(serve=3), threads=5, descriptors=20, front_mib=100.0, workers_mib=(50.0, 40.0))
GOOD = Figures(2_000, LOOK, LOOK, replace(LOOK, front_mib=103.9, descriptors=22), (), 60.0)


@pytest.mark.parametrize(
    ("figures", "fault"),
    [
        (replace(GOOD, end=replace(LOOK, front_mib=104.1)), "front process grew by 4.1 MiB"),
        (replace(GOOD, end=replace(LOOK, workers_mib=(50.0, 45.0))), "worker grew by 5.0 MiB"),
        (replace(GOOD, end=replace(LOOK, workers_mib=(50.0,))), "a worker was replaced"),
        (replace(GOOD, end=replace(LOOK, threads=8)), "8 threads in place of 5"),
        (replace(GOOD, end=replace(LOOK, descriptors=17)), "17 descriptors in place of 20"),
        (replace(GOOD, end=replace(LOOK, tasks=Counter(serve=6))), "6 tasks in place of 3"),
        (replace(GOOD, failures=("deleted 3: TimeoutError",)), "1 sessions failed"),
    ],
)
def test_whatever_is_left_behind_is_named(figures: Figures, fault: str) -> None:
    assert GOOD.faults == []
    assert any(fault in line for line in figures.faults)
    assert any(line.startswith("FAILED leaks: ") for line in figures.lines())


def test_the_figures_and_new_tasks_are_shown() -> None:
    first, second, third = replace(
        GOOD, end=replace(LOOK, tasks=Counter(serve=3, forgotten=1))
    ).lines()
    assert first.startswith("memory: front +0.0 MiB from session 1,000 to 2,000 (100 MiB in all)")
    assert "tasks 3 → 4, threads 5 → 5, descriptors 20 → 20" in second
    assert third == "new tasks: {'forgotten': 1}"


def test_wrong_arguments_exit_with_usage() -> None:
    with pytest.raises(SystemExit) as stopped:
        leaks.main(["--sessions", "1"])
    assert stopped.value.code == 2


async def test_tasks_are_counted_by_what_they_run() -> None:
    task = asyncio.create_task(asyncio.sleep(0))
    assert watched.kind_of(task) == "sleep"
    await task


def sockets_held() -> int:
    """WebSockets in memory, open or not: a timer that forgets to end holds one for long."""
    gc.collect()
    return sum(type(found) is CaptionSocket for found in gc.get_objects())


async def test_visits_of_every_kind_leave_nothing_behind(tmp_path: Path) -> None:
    async with running(tmp_path, diarizer="scripted", resume_window_s=0.2) as front:
        await visitors.look_around(front.url, 8)
        before, sockets = asyncio.all_tasks(), sockets_held()
        kinds = len(visitors.SESSIONS) * len(visitors.OTHERS)
        assert await visitors.visit(front.url, range(kinds), at_once=kinds) == []
        await until(lambda: not [*front.hub.sessions])
        await until(lambda: len(asyncio.all_tasks()) <= len(before))
        await until(lambda: sockets_held() <= sockets)
        assert front.metric("sessions_total", protocol="captiond", outcome="done") > 0
        assert front.metric("sessions_total", protocol="captiond", outcome="expired") > 0


async def test_who_is_refused_comes_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(visitors, "REFUSED_SECONDS", 0.01)
    async with running(tmp_path, sessions_max=1) as front:
        assert await visitors.visit(front.url, range(1, 4), at_once=3) == []
        assert front.metric("sessions_total", protocol="captiond", outcome="refused") > 0
        assert front.metric("sessions_total", protocol="captiond", outcome="done") == 3


async def test_a_visit_that_fails_is_reported() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    [failure] = await visitors.visit(url, range(1, 2), at_once=1)
    assert failure.startswith("to_the_end 1: ConnectionRefusedError")


@pytest.mark.parametrize(("status", "is_good"), [(0, True), (1, False)])
def test_a_machine_is_judged_by_its_test(
    status: int, is_good: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(machines, "PYTEST", ("-c", f"print('a story'); raise SystemExit({status})"))
    assert Machine("session machine", "-", 7).run() == is_good
    *story, figures = capsys.readouterr().out.splitlines()
    assert figures.startswith("session machine: 7 stories, ")
    assert ("a story" in story) == (not is_good)


def test_many_stories_are_told_in_several_runs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    told = tmp_path / "told"
    script = f"import os; open({str(told)!r}, 'a').write(os.environ['{machines.EXAMPLES}'] + ' ')"
    monkeypatch.setattr(machines, "PYTEST", ("-c", script))
    assert Machine("protocol machine", "-", 2_100).run()
    assert told.read_text().split() == ["1000", "1000", "100"]
    assert "protocol machine: 2100 stories, none" in capsys.readouterr().out
