"""Kill the store at its write points: ``python -m load_tests.faults.store_crash [--every 8]``.

A child process stores the finals of one session, each with a checkpoint, and prints each one when
it is committed: that is what a client would have seen. strace kills the child at the n-th call of a
system call that changes the disk, before it happens, for every n; so the state between any two
writes is met. What lies on the disk is then opened as a server would open it, and must be whole
and hold everything that was printed.

This is a crash of the process: what the kernel has, it keeps. A power cut is another claim.
"""

import argparse
import asyncio
import logging
import re
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import structlog

from server.store import SessionRecord, StoreError, TranscriptStore

FINALS = 40
CALLS = ("pwrite64", "fdatasync", "fsync", "ftruncate", "fallocate", "unlink", "openat")
"""What SQLite changes the disk with; ``openat`` makes the files."""
CHILD_SECONDS_MAX = 120.0
SESSION = "crash"
RESUME_WINDOW = timedelta(hours=1)
"""Longer than the look at a store takes."""
KILLED = -9, 137

_CALL = re.compile(r"^(\d+) +(?:<\.\.\. )?(\w+)(\(| resumed)")


@dataclass(frozen=True, slots=True)
class Point:
    """The ``number``-th call of one kind in one thread."""

    call: str
    number: int


@dataclass(slots=True)
class Figures:
    """What the crashes led to."""

    points: int = 0
    """In the whole script."""
    kills: int = 0
    missed: int = 0
    """Children that ended before their point: other threads came first."""
    seen: int = 0
    """Finals that clients would have seen, over all kills."""
    stored: int = 0
    failures: list[str] = field(default_factory=list)


def final(seq: int) -> dict[str, Any]:
    """About as long as a real one; each differs, so that a torn one shows."""
    line = " ".join(f"word{seq}.{number}" for number in range(20 + seq % 7 * 40))
    return {"type": "final", "seq": seq, "text": line, "words": []}


def checkpoint(seq: int) -> bytes:
    return b"%06d" % seq * 500


async def run_script(path: Path, finals: int) -> None:
    """The child's work: what a server does for one session."""
    store = await TranscriptStore.open(f"sqlite+aiosqlite:///{path}")
    now = datetime.now(UTC)
    await store.create_session(SessionRecord(SESSION, "local", now, None, "open", {}, "hash"))
    for seq in range(1, finals + 1):
        await store.append(SESSION, [final(seq)], checkpoint=checkpoint(seq))
        print("stored", seq, flush=True)
    until = now + RESUME_WINDOW
    await store.finish_session(SESSION, "done", now, resumable_until=until)
    print("finished", flush=True)
    await store.erase_checkpoints(until)
    print("erased", flush=True)
    await store.scrub()
    await store.close()


def child(path: Path, finals: int) -> list[str]:
    command = [sys.executable, "-m", "load_tests.faults.store_crash"]
    return [*command, "--script", str(path), "--finals", str(finals)]


def strace(*options: str) -> list[str]:
    calls = ",".join(CALLS)
    # Only calls on the store's files count: Python itself opens and writes others.
    return ["strace", "-f", "-qq", "-e", f"trace={calls}", *options]


def files_of(path: Path) -> list[str]:
    names = (path, f"{path}-wal", f"{path}-shm", f"{path}-journal")
    return [option for name in names for option in ("-P", str(name))]


def points(folder: Path, finals: int) -> list[Point]:
    """Every write point of the script, by the busiest thread: strace counts calls per thread."""
    path, log = folder / "whole.db", folder / "calls"
    command = [*strace("-o", str(log)), *files_of(path), *child(path, finals)]
    subprocess.run(command, check=True, capture_output=True, timeout=CHILD_SECONDS_MAX)
    counts: Counter[tuple[str, str]] = Counter()
    for line in log.read_text().splitlines():
        match = _CALL.match(line)
        if match and match[3] == "(":
            counts[match[2], match[1]] += 1
    found = []
    for call in CALLS:
        busiest = max((count for (name, _), count in counts.items() if name == call), default=0)
        found += [Point(call, number) for number in range(1, busiest + 1)]
    return found


def crash(path: Path, point: Point, finals: int) -> tuple[list[str], bool]:
    """What the child printed, and whether it was killed."""
    inject = f"inject={point.call}:signal=KILL:when={point.number}"
    command = [*strace("-o", "/dev/null", "-e", inject), *files_of(path), *child(path, finals)]
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, timeout=CHILD_SECONDS_MAX
    )
    # A line that was cut short was never read by anybody.
    whole = done.stdout[: done.stdout.rfind("\n") + 1]
    return whole.splitlines(), done.returncode in KILLED


async def complaints(path: Path, printed: Sequence[str]) -> tuple[list[str], int]:
    """What is wrong with the store after the crash, and how many finals it holds."""
    wrong = list(_damage(path))
    try:
        store = await TranscriptStore.open(f"sqlite+aiosqlite:///{path}")
    except StoreError as error:
        return [*wrong, f"cannot be opened: {error.message}"], 0
    try:
        found = await store.events(SESSION)
        wrong += _differences(found, sum(line.startswith("stored") for line in printed))
        wrong += await _unfit(store, len(found), printed)
    except StoreError as error:
        return [*wrong, f"cannot be used: {error.message}"], 0
    finally:
        await store.close()
    return wrong, len(found)


def _damage(path: Path) -> Iterator[str]:
    """As SQLite sees it, log included."""
    connection = sqlite3.connect(path)
    (verdict,) = connection.execute("PRAGMA integrity_check").fetchone()
    connection.close()
    if verdict != "ok":
        yield f"integrity: {verdict}"


def _differences(found: Sequence[dict[str, Any]], seen: int) -> Iterator[str]:
    if len(found) < seen:
        yield f"lost: {seen} finals were seen, {len(found)} are stored"
    if len(found) > seen + 1:
        yield f"{len(found)} finals are stored, and only {seen} were asked for"
    for seq, event in enumerate(found, 1):
        if event != final(seq):
            yield f"event {seq} is not what was stored"


async def _unfit(store: TranscriptStore, stored: int, printed: Sequence[str]) -> list[str]:
    """Could another server go on with the session, or repeat its end?"""
    record = await store.session(SESSION)
    if record is None:
        return ["the session is gone"] if stored else []
    if "finished" in printed and record.state != "done":
        return [f"it was reported as finished and is {record.state}"]
    found = await store.load_resumable(SESSION)
    if found is None:
        return [] if record.state == "done" else [f"state {record.state} cannot be resumed"]
    if "erased" in printed:
        return ["its checkpoint was reported as erased and is there"]
    wanted = checkpoint(stored) if stored else None
    if (found.last_seq, found.checkpoint) != (stored, wanted):
        return ["the checkpoint is not that of the last final"]
    if record.state == "open":
        claimed = await store.claim(SESSION, found.epoch)
        await store.append(SESSION, [final(stored + 1)], epoch=claimed.epoch)
    return []


def measure(every: int, finals: int) -> Figures:
    """Crash at every ``every``-th point."""
    figures = Figures()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        all_points = points(folder, finals)
        figures.points = len(all_points)
        for number, point in enumerate(all_points[::every]):
            _try(folder / f"{number}", point, finals, figures)
    return figures


def _try(folder: Path, point: Point, finals: int, figures: Figures) -> None:
    folder.mkdir()
    path = folder / "captions.db"
    printed, was_killed = crash(path, point, finals)
    figures.kills += was_killed
    figures.missed += not was_killed
    wrong, stored = asyncio.run(complaints(path, printed))
    figures.seen += sum(line.startswith("stored") for line in printed)
    figures.stored += stored
    figures.failures += [f"{point.call} {point.number}: {complaint}" for complaint in wrong]
    shutil.rmtree(folder)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the figures; 1 where a crash lost or damaged anything."""
    parser = argparse.ArgumentParser(prog="python -m load_tests.faults.store_crash")
    parser.add_argument("--every", type=int, default=1, help="crash at every n-th write point")
    parser.add_argument("--finals", type=int, default=FINALS, help="length of the script")
    parser.add_argument("--script", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.script is not None:
        asyncio.run(run_script(given.script, given.finals))
        return 0
    # The store tells of an old SQLite at each opening.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    started = time.monotonic()
    figures = measure(given.every, given.finals)
    for failure in figures.failures:
        print("FAILED", failure)
    print(
        f"store crash: {figures.kills} kills of {figures.points} write points "
        f"({figures.missed} missed), {figures.seen} finals seen, {figures.stored} stored, "
        f"{len(figures.failures)} failures, {time.monotonic() - started:.0f} s"
    )
    return 1 if figures.failures or not figures.kills else 0


if __name__ == "__main__":
    sys.exit(main())
