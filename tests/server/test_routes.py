"""HTTP routes over a server in this process; ``tests/system/test_http.py`` has keys and origins."""

from pathlib import Path
from typing import Any

import aiohttp
import pytest

from server.pages import page_files
from streaming.errors import Overloaded
from tests.server_fakes import Front, running
from tests.system.talker import Talker, clip, texts


async def session_of(front: Front) -> str:
    talker = await Talker.start(front.url)
    await talker.play(clip(1, 5))
    assert await talker.finish() == texts(1, 5)
    session_id: str = talker.ready["session_id"]
    return session_id


async def error_of(answer: aiohttp.ClientResponse) -> dict[str, Any]:
    body: dict[str, Any] = await answer.json()
    assert body["type"] == "error"
    return body


async def test_lists_are_read_page_by_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.routes.SESSIONS_PAGE_MAX", 1)
    async with running(tmp_path) as front, aiohttp.ClientSession(front.url) as http:
        made = {await session_of(front), await session_of(front)}
        seen, mark = set(), ""
        for _ in range(2):
            # As it stands: a client that does not escape it must be understood.
            page = await (await http.get(f"/v1/sessions{mark}")).json()
            seen |= {session["session_id"] for session in page["sessions"]}
            mark = f"?before={page['next_before']}"
        assert seen == made


@pytest.mark.parametrize("mark", ["x", "2026-11-20T08:00:00~a", "~", "2026-11-20T08:00:00Z~%ff"])
async def test_marks_that_are_none(tmp_path: Path, mark: str) -> None:
    async with running(tmp_path) as front, aiohttp.ClientSession(front.url) as http:
        answer = await http.get(f"{front.url}/v1/sessions?before={mark}")
        assert answer.status == 400
        assert (await error_of(answer))["code"] == "bad_message"


@pytest.mark.parametrize("name", ["0" * 24, "%FF", "é", "..%2f"])
async def test_sessions_that_are_none(tmp_path: Path, name: str) -> None:
    async with running(tmp_path) as front, aiohttp.ClientSession(front.url) as http:
        answer = await http.get(f"{front.url}/v1/sessions/{name}")
        assert answer.status == 404
        assert (await error_of(answer))["code"] == "unknown_session"
        assert front.metric("errors_total", protocol="http", code="unknown_session") == 1


async def test_transcripts(tmp_path: Path) -> None:
    async with running(tmp_path) as front, aiohttp.ClientSession(front.url) as http:
        path = f"/v1/sessions/{await session_of(front)}/transcript"
        answer = await http.get(path, params={"format": "txt"})
        assert " ".join(texts(1, 5)) in " ".join((await answer.text()).split())
        assert (await http.get(path, params={"format": "doc"})).status == 400


async def test_readiness_and_its_reasons(tmp_path: Path) -> None:
    async with running(tmp_path) as front, aiohttp.ClientSession(front.url) as http:
        assert (await http.get("/readyz")).status == 200
        front.worker().ready = None
        answer = await http.get("/readyz")
        assert answer.status == 503
        assert (await error_of(answer))["message"] == "the asr engine is restarting"
        front.worker().ready = await front.worker().start()


async def test_while_models_load_it_is_alive_and_not_ready(tmp_path: Path) -> None:
    async with (
        running(tmp_path, is_warm=False) as front,
        aiohttp.ClientSession(front.url) as http,
    ):
        assert (await http.get("/healthz")).status == 200
        assert (await http.get("/readyz")).status == 503
        refused = await http.get("/v1/stream")
        assert refused.status == Overloaded.http_status
        assert int(refused.headers["Retry-After"]) >= 1
        assert front.metric("errors_total", protocol="captiond", code="overloaded") == 1


async def test_a_key_among_foreign_subprotocols_is_not_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    offered = "captiond.key.c2VjcmV0LXNlY3JldA"
    async with running(tmp_path) as front, aiohttp.ClientSession(front.url) as http:
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await http.ws_connect("/v1/stream", protocols=[offered])
        assert refused.value.status == 400
    assert offered not in caplog.text


async def test_page_files_are_read_once(tmp_path: Path) -> None:
    async with running(tmp_path) as front, aiohttp.ClientSession(front.url) as http:
        answer = await http.get("/")
        assert await answer.read() == page_files()["index.html"]
        assert (await http.get("/static/__init__.py")).status == 404


async def test_a_bug_is_told_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(*_: object, **__: object) -> None:
        raise RuntimeError("secret detail")

    async with running(tmp_path) as front, aiohttp.ClientSession(front.url) as http:
        monkeypatch.setattr(front.hub.store, "sessions", fail)
        answer = await http.get("/v1/sessions")
        assert answer.status == 500
        assert "secret" not in await answer.text()
