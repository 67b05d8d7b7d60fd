"""``captiond demo`` against a server in this process; the real engines have tests of their own."""

import asyncio
import importlib.resources
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
import psutil
import pytest
from rich.console import Console
from typer.testing import CliRunner

from clients.pacing import Pace
from server.child import ServerDied, run_with_server
from server.commands import app
from server.commands.demo import CLIP, _caption, _print_summary, _reference
from tests.server_fakes import running

DEMO = sys.modules["server.commands.demo"]


@pytest.fixture(autouse=True)
def _quick_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library for speaker errors takes seconds to import."""
    monkeypatch.setattr("server.scoring.diarization_error_rate", lambda *_: 1.0)


def test_the_reference_fits_its_clip() -> None:
    with importlib.resources.as_file(CLIP) as clip:
        reference = _reference(clip)
    assert len(reference.text.split()) > 20
    assert {turn.speaker for turn in reference.turns} >= {reference.turns[0].speaker}
    assert len({turn.speaker for turn in reference.turns}) == 2
    ends = [turn.span.end for turn in reference.turns]
    assert ends == sorted(ends)


async def test_the_clip_goes_through_a_server(tmp_path: Path) -> None:
    """The scripted engine hears no word in real speech: there are no captions, but a summary."""
    console = Console(quiet=True)
    async with running(tmp_path) as front:
        with importlib.resources.as_file(CLIP) as clip:
            summary = await _caption(front.url, clip, console, as_json=True, pace=Pace.MAX)
    assert summary["audio_seconds"] > 20
    assert summary["words"] == 0
    assert summary["wer"] == 1.0
    assert summary["diarizer"] == "none"


SUMMARY: dict[str, Any] = {
    "type": "summary",
    "audio_seconds": 30.0,
    "words": 70,
    "speakers": 2,
    "wer": 0.25,
    "der": 0.125,
    "rtfx": 4.0,
    "wall_seconds": 31.0,
    "first_shown_s": {"p50": 0.5, "p95": 1.5},
    "final_s": {"p50": 1.0, "p95": 2.0},
    "asr": "scripted",
    "diarizer": "none",
}


def test_json_ends_with_the_summary(monkeypatch: pytest.MonkeyPatch) -> None:
    async def summarized(*_: object, **__: object) -> dict[str, Any]:
        return SUMMARY

    monkeypatch.setattr(DEMO, "_demo", summarized)
    result = CliRunner().invoke(app, ["demo", "--json"])
    assert result.exit_code == 0
    assert orjson.loads(result.stdout.splitlines()[-1]) == SUMMARY
    table = CliRunner().invoke(app, ["demo"])
    assert "WER 0.25" in table.stdout


@pytest.mark.parametrize("rtfx", [4.0, None])
def test_the_table_has_the_figures(rtfx: float | None, tmp_path: Path) -> None:
    with (tmp_path / "console").open("w+") as file:
        figures = {**SUMMARY, "rtfx": rtfx, "final_s": {"p50": rtfx, "p95": rtfx}}
        _print_summary(Console(file=file, width=200), figures)
        file.seek(0)
        shown = file.read()
    assert "70" in shown
    assert "4.0" in shown if rtfx else "–" in shown


def test_a_server_that_does_not_start_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    @asynccontextmanager
    async def dies(arguments: Sequence[str], folder: Path, **_: object) -> AsyncIterator[None]:
        assert list(arguments[:2]) == ["--asr", "whisper"]
        raise ServerDied("the server did not start:\nno checkpoint")
        yield

    monkeypatch.setattr(DEMO, "running_server", dies)
    result = CliRunner().invoke(app, ["demo", "--asr", "whisper"])
    assert result.exit_code == 1
    assert "no checkpoint" in result.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 0)]
)
def test_a_demo_that_is_ended_ends_its_server(number: signal.Signals, status: int) -> None:
    """Ctrl-C means no more audio: what was heard is still summed up."""
    command = [sys.executable, "-m", "server", "demo", "--json"]
    command += ["--asr", "scripted", "--diarizer", "none"]
    # A shell that started the tests in the background may have it ignored.
    before = signal.signal(number, signal.SIG_DFL)
    try:
        demo = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
        )
    finally:
        signal.signal(number, before)
    with demo:
        assert demo.stdout is not None
        assert b'"ready"' in demo.stdout.readline()
        children = psutil.Process(demo.pid).children(recursive=True)
        assert children
        os.killpg(demo.pid, number)
        assert demo.wait(60) == status
        _, alive = psutil.wait_procs(children, 10)
        for child in alive:
            child.kill()
    assert alive == []


def test_a_program_under_nohup_stays() -> None:
    async def hung_up() -> str:
        os.kill(os.getpid(), signal.SIGHUP)
        await asyncio.sleep(0)
        return "done"

    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert run_with_server(hung_up()) == "done"
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_signal_ends_the_work_once_and_is_the_status() -> None:
    steps: list[str] = []

    async def work() -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            await asyncio.Event().wait()
        finally:
            os.kill(os.getpid(), signal.SIGTERM)
            await asyncio.sleep(0.01)
            steps.append("stopped the server")

    with pytest.raises(SystemExit) as ended:
        run_with_server(work())
    assert ended.value.code == 143
    assert steps == ["stopped the server"]
