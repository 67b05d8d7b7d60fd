"""Nothing that was said, asked for or kept secret is in the log, whatever goes wrong."""

import asyncio
import contextlib
import sqlite3
from collections.abc import Sequence
from pathlib import Path

import orjson
import pytest

from server.child import running_server
from tests.system.talker import Talker, clip, texts

KEY = "0123456789abcdef-key-of-ours"
PROMPT, KEYWORD = "confidential-prompt", "confidential-keyword"
WORDS = 15
ALWAYS = {"event", "level", "logger", "timestamp"}
OPTIONS = (
    *("--log-format", "json", "--log-level", "debug", "--api-keys", f"ours:{KEY}"),
    *("--asr", "scripted", "--vad", "scripted", "--diarizer", "scripted"),
    # Every third call of the recognizer raises, every eleventh ends its process.
    *("--asr-options", "fail_every=3", "--asr-options", "crash_every=11"),
)


async def talk(url: str, stream: int, *, after_ready: asyncio.Event | None = None) -> Talker:
    """One session to its end, with all that may be said in it."""
    talker = await Talker.start(
        url, key=KEY, prompt=PROMPT, keywords=[KEYWORD], language="en", diarize=True
    )
    if after_ready is not None:
        await after_ready.wait()
    await talker.play(clip(stream, WORDS, speakers=2))
    await talker.say("configure", prompt=PROMPT, keywords=[KEYWORD])
    await talker.say("end")
    await talker.until_closed()
    return talker


def break_store(path: Path) -> None:
    """From now on the table that captions go to is another one."""
    with contextlib.closing(sqlite3.connect(path)) as other:
        other.execute("PRAGMA wal_autocheckpoint=0")
        other.execute("ALTER TABLE events RENAME TO elsewhere")


def repair_store(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as other:
        other.execute("PRAGMA wal_autocheckpoint=0")
        other.execute("ALTER TABLE elsewhere RENAME TO events")


async def until_logged(path: Path, text: str) -> None:
    async with asyncio.timeout(30):
        while text not in path.read_text():  # noqa: ASYNC110, ASYNC240  a file tells nobody
            await asyncio.sleep(0.05)


def lines_of(log: str) -> Sequence[dict[str, object]]:
    return [orjson.loads(line) for line in log.splitlines()]


@pytest.mark.slow
async def test_no_word_reaches_the_log_whatever_goes_wrong(tmp_path: Path) -> None:
    store = tmp_path / "captiond.db"
    async with running_server(OPTIONS, tmp_path) as server:
        talkers = await asyncio.gather(*(talk(server.url, stream) for stream in (1, 2)))
        broken = asyncio.Event()
        third = asyncio.create_task(talk(server.url, 3, after_ready=broken))
        await asyncio.sleep(0)
        await until_logged(server.log_path, "session opened")
        break_store(store)
        broken.set()
        await until_logged(server.log_path, "store refuses a session's events")
        repair_store(store)
        talkers.append(await third)
        await server.stop()
        log = server.log_path.read_text()

    heard = [word for talker in talkers for word in talker.words]
    assert len(heard) > WORDS, "words were captioned, so they could have been logged"
    lines = lines_of(log)
    assert all(line.keys() >= ALWAYS for line in lines), "one object per line, and nothing else"
    events = {line["event"] for line in lines}
    assert {"engine call failed", "worker lost", "store commit failed"} <= events, "it went wrong"

    said = [word for stream in (1, 2, 3) for word in texts(stream, WORDS)]
    assert [word for word in said if word in log] == []
    assert not [secret for secret in (KEY, PROMPT, KEYWORD) if secret in log]
    tokens = [talker.ready["resume_token"] for talker in talkers]
    assert not [token for token in tokens if token in log]

    for talker in talkers:
        session_id = talker.ready["session_id"]
        of_session = [line["event"] for line in lines if line.get("session_id") == session_id]
        assert of_session[0] == "session opened"
        assert of_session[-1] == "session over"
