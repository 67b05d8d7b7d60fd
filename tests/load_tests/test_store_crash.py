"""The store's crash test: it finds every write point, and sees what a crash had broken."""

import asyncio
import sqlite3
from collections.abc import Sequence
from pathlib import Path

import pytest

from load_tests.faults import store_crash
from load_tests.faults.store_crash import complaints, main, run_script
from tests.system.faults import reason_without_strace

NO_STRACE = reason_without_strace()
FINALS = 3


@pytest.fixture
def whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> tuple[Path, list[str]]:
    """A store after the script without a crash, and what the script printed."""
    path = tmp_path / "captions.db"
    asyncio.run(run_script(path, FINALS))
    return path, [line for line in capsys.readouterr().out.splitlines() if "SQLite" not in line]


def judged(path: Path, printed: Sequence[str]) -> tuple[list[str], int]:
    return asyncio.run(complaints(path, printed))


def test_a_whole_store_is_not_complained_of(whole: tuple[Path, list[str]]) -> None:
    path, printed = whole
    assert printed == [*(f"stored {seq}" for seq in range(1, FINALS + 1)), "finished", "erased"]
    assert judged(path, printed) == ([], FINALS)


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        ("DELETE FROM events WHERE seq = 3", "lost: 3 finals were seen, 2 are stored"),
        ("DELETE FROM events WHERE seq = 1", "event 1 is not what was stored"),
        ("UPDATE events SET body = replace(body, 'word2', 'w')", "event 2 is not what was stored"),
        ("UPDATE sessions SET state = 'open'", "it was reported as finished and is open"),
        ("UPDATE sessions SET state = 'expired'", "it was reported as finished and is expired"),
        ("UPDATE sessions SET resumable_until_us = 4e15", "reported as erased and is there"),
        ("DELETE FROM sessions", "the session is gone"),
        ("DROP TABLE events", "cannot be used"),
        ("DROP TABLE servers", "cannot be opened"),
    ],
)
def test_damage_is_complained_of(
    whole: tuple[Path, list[str]], damage: str, complaint: str
) -> None:
    path, printed = whole
    with sqlite3.connect(path) as saboteur:
        saboteur.execute("PRAGMA foreign_keys=OFF")
        saboteur.execute(damage)
    saboteur.close()
    wrong, _ = judged(path, printed)
    assert any(complaint in one for one in wrong), wrong


def test_a_checkpoint_that_is_not_of_the_last_final_is_complained_of(
    whole: tuple[Path, list[str]],
) -> None:
    path, printed = whole
    with sqlite3.connect(path) as saboteur:
        saboteur.execute("UPDATE sessions SET state = 'open'")
    saboteur.close()
    wrong, _ = judged(path, printed[:FINALS])
    assert wrong == ["the checkpoint is not that of the last final"]


def test_a_session_that_nobody_can_go_on_with_is_complained_of(
    whole: tuple[Path, list[str]],
) -> None:
    path, printed = whole
    with sqlite3.connect(path) as saboteur:
        saboteur.execute("UPDATE sessions SET state = 'expired'")
    saboteur.close()
    assert judged(path, printed[:FINALS])[0] == ["state expired cannot be resumed"]


@pytest.mark.slow
@pytest.mark.skipif(NO_STRACE is not None, reason=str(NO_STRACE))
def test_kills_lose_nothing_and_are_counted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(store_crash, "CALLS", ("fdatasync",))
    assert main(["--every", "4", "--finals", "4"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert "(0 missed)" in line
    assert " 0 failures" in line
    assert not line.startswith("store crash: 0 kills")
