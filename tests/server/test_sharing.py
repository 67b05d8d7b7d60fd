"""Tickets, links and names over HTTP and WebSocket, on a server in this process."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest
from sqlalchemy import text

from server import sharing
from server.names import NAMES_MAX
from server.store import StoreError
from server.tickets import TICKET_SECONDS
from tests.server_fakes import Front, running, until
from tests.system.talker import Talker, clip, texts

KEY = "ann-0123456789abcdef"
WORDS = 5


@dataclass
class Desk:
    """A server with a key, one ended session on it, and a client that has the key."""

    front: Front
    http: aiohttp.ClientSession
    session_id: str

    def path(self, rest: str = "") -> str:
        return f"/v1/sessions/{self.session_id}{rest}"

    async def asked(
        self, method: str, path: str, body: object = None, *, show: str = f"Bearer {KEY}"
    ) -> tuple[int, Any]:
        """Status, and JSON or text."""
        data = None if body is None else orjson.dumps(body)
        headers = {"Authorization": show} if show else {}
        answer = await self.http.request(method, path, data=data, headers=headers)
        is_json = answer.content_type == "application/json"
        return answer.status, await (answer.json() if is_json else answer.text())

    async def ticket(self, *, show: str = f"Bearer {KEY}", **wanted: str) -> str:
        status, answer = await self.asked("POST", "/v1/tickets", wanted, show=show)
        assert (status, answer["expires_in_s"]) == (200, TICKET_SECONDS)
        return str(answer["ticket"])

    async def link(self, hours: int = 1) -> str:
        _, answer = await self.asked("POST", self.path("/links"), {"hours": hours})
        assert answer["view_path"] == f"/view/{self.session_id}#{answer['link']}"
        assert answer["overlay_path"] == f"/overlay/{self.session_id}#{answer['link']}"
        return str(answer["link"])


@asynccontextmanager
async def desk(folder: Path) -> AsyncIterator[Desk]:
    async with (
        running(folder, api_keys=[f"ann:{KEY}"]) as front,
        aiohttp.ClientSession(front.url) as http,
    ):
        talker = await Talker.start(front.url, key=KEY)
        await talker.play(clip(1, WORDS))
        assert await talker.finish() == texts(1, WORDS)
        yield Desk(front, http, talker.ready["session_id"])


async def test_a_ticket_opens_one_stream(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        offered = ["captiond.v1", f"captiond.ticket.{await at.ticket(scope='stream')}"]
        async with at.http.ws_connect("/v1/stream", protocols=offered) as socket:
            assert socket.protocol == "captiond.v1"
            await socket.send_str('{"type":"start"}')
            assert (await socket.receive_json())["type"] == "ready"
        with pytest.raises(aiohttp.WSServerHandshakeError) as again:
            await at.http.ws_connect("/v1/stream", protocols=offered)
        assert again.value.status == 401
        tenants = {live.record.tenant for live in at.front.hub.sessions}
        assert tenants == {"ann"}


async def test_a_ticket_reads_one_session_once(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        show = f"Ticket {await at.ticket(scope='view', session_id=at.session_id)}"
        status, shown = await at.asked("GET", at.path("/transcript?format=txt"), show=show)
        assert status == 200
        assert texts(1, WORDS)[0] in shown
        assert (await at.asked("GET", at.path("/transcript"), show=show))[0] == 401


async def test_a_ticket_on_the_wrong_door_is_refused_and_used_up(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        show = f"Ticket {await at.ticket(scope='view', session_id=at.session_id)}"
        status, error = await at.asked("DELETE", at.path(), show=show)
        assert (status, error["code"]) == (403, "forbidden")
        assert (await at.asked("GET", at.path("/transcript"), show=show))[0] == 401


async def test_a_link_gives_tickets_for_its_session_alone(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        link = f"Link {await at.link()}"
        show = f"Ticket {await at.ticket(show=link, scope='view', session_id=at.session_id)}"
        assert (await at.asked("GET", at.path("/events?names=1"), show=show))[0] == 200
        for wanted in ({"scope": "stream"}, {"scope": "view", "session_id": "0" * 24}):
            status, error = await at.asked("POST", "/v1/tickets", wanted, show=link)
            assert (status, error["code"]) == (403, "forbidden")
        assert (await at.asked("GET", at.path("/transcript"), show=link))[0] == 401
        assert (await at.asked("GET", "/v1/sessions", show=link))[0] == 401


async def test_a_link_ends_with_its_session(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        wanted = {"scope": "view", "session_id": at.session_id}
        link = f"Link {await at.link()}"
        assert (await at.asked("DELETE", at.path()))[0] == 204
        assert (await at.asked("POST", "/v1/tickets", wanted, show=link))[0] == 401


async def test_a_link_outlives_its_server(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        link, session_id = f"Link {await at.link()}", at.session_id
    async with desk(tmp_path) as at:
        show = f"Ticket {await at.ticket(show=link, scope='view', session_id=session_id)}"
        path = f"/v1/sessions/{session_id}/transcript?format=txt"
        assert (await at.asked("GET", path, show=show))[0] == 200


@pytest.mark.parametrize("show", ["", "Bearer wrong-0123456789", "Ticket nonsense", "Link a.1.b"])
async def test_who_has_nothing_gets_no_ticket(tmp_path: Path, show: str) -> None:
    async with desk(tmp_path) as at:
        wanted = {"scope": "view", "session_id": at.session_id}
        assert (await at.asked("POST", "/v1/tickets", wanted, show=show))[0] == 401


@pytest.mark.parametrize(
    ("path", "body", "names_field"),
    [
        ("/v1/tickets", {"scope": "all"}, "scope"),
        ("/v1/tickets", {"scope": "view"}, "session_id"),
        ("/v1/tickets", {"scope": "stream", "for": "me"}, "for"),
        ("/v1/tickets", [], "JSON object"),
        ("{id}/links", {"hours": 0}, "hours"),
        ("{id}/links", {"hours": 1e9}, "hours"),
    ],
)
async def test_bad_bodies_are_told_what_is_wrong(
    tmp_path: Path, path: str, body: object, names_field: str
) -> None:
    async with desk(tmp_path) as at:
        path = path.replace("{id}", at.path())
        status, error = await at.asked("POST", path, body)
        assert (status, error["code"]) == (400, "bad_message")
        assert names_field in error["message"]


async def test_a_body_has_a_bound(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        big = {"S1": "a" * sharing.BODY_BYTES_MAX}
        status, error = await at.asked("PATCH", at.path("/names"), big)
        assert (status, error["code"]) == (413, "too_big")
        answer = await at.http.post(
            "/v1/tickets", data=b"{", headers={"Authorization": f"Bearer {KEY}"}
        )
        assert answer.status == 400


# Names


async def test_names_are_kept_and_taken_away(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        given = {"S1": " Ann\n\u202emarie ", "Lane B": "Ben"}
        status, answer = await at.asked("PATCH", at.path("/names"), given)
        assert (status, answer["names"]) == (200, {"S1": "Ann marie", "Lane B": "Ben"})
        _, answer = await at.asked("PATCH", at.path("/names"), {"S1": None, "Lane B": "Bea"})
        assert answer["names"] == {"Lane B": "Bea"}
        assert (await at.asked("GET", at.path("/names")))[1] == answer
        session_id = at.session_id
    async with desk(tmp_path) as at:
        _, answer = await at.asked("GET", f"/v1/sessions/{session_id}/names")
        assert answer["names"] == {"Lane B": "Bea"}
        assert (await at.asked("DELETE", f"/v1/sessions/{session_id}"))[0] == 204
        count = text("SELECT count(*) AS names FROM speaker_names")
        assert (await at.front.hub.store._read(count))[0]["names"] == 0


@pytest.mark.parametrize(
    "names",
    [
        {},
        {"S1": ""},
        {"S1": "\u202e\u0007"},
        {"S1": "a" * 81},
        {"S1": "S2"},
        {"S1": 7},
        {"": "Ann"},
        {"a" * 81: "Ann"},
        {f"S{n}": "Ann" for n in range(NAMES_MAX + 1)},
    ],
)
async def test_names_that_are_none(tmp_path: Path, names: dict[str, object]) -> None:
    async with desk(tmp_path) as at:
        status, error = await at.asked("PATCH", at.path("/names"), names)
        assert (status, error["code"]) == (400, "bad_message")


async def test_there_are_at_most_so_many_names(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        names = {f"S{n}": f"Guest {n}" for n in range(NAMES_MAX)}
        assert (await at.asked("PATCH", at.path("/names"), names))[0] == 200
        status, error = await at.asked("PATCH", at.path("/names"), {"one more": "Ann"})
        assert (status, error["code"]) == (400, "unsupported")


async def test_nobody_elses_session_is_named_or_shared(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        for method, what in (("PATCH", "names"), ("GET", "names"), ("POST", "links")):
            path = f"/v1/sessions/{'0' * 24}/{what}"
            status, error = await at.asked(method, path, {"S1": "Ann"})
            assert (status, error["code"]) == (404, "unknown_session")


@pytest.mark.parametrize("kind", ["json", "txt", "srt", "vtt", "rttm", "stm", "ctm", "seglst"])
async def test_every_export_has_the_names(tmp_path: Path, kind: str) -> None:
    async with desk(tmp_path) as at:
        audio = {"channels": 1, "channel_names": ["guest"]}
        talker = await Talker.start(at.front.url, key=KEY, audio=audio)
        await talker.play(clip(1, WORDS))
        await talker.finish()
        path = f"/v1/sessions/{talker.ready['session_id']}"
        _, before = await at.asked("GET", f"{path}/transcript?format={kind}")
        await at.asked("PATCH", f"{path}/names", {"guest": "Ann-Marie"})
        _, after = await at.asked("GET", f"{path}/transcript?format={kind}")
        if kind == "ctm":  # which has no speakers
            assert after == before
        else:
            assert "guest" in str(before)
            assert "Ann-Marie" in str(after)
            assert "guest" not in str(after)


async def test_captions_can_be_had_while_the_store_takes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*_: object) -> int:
        raise StoreError("the disk is full")

    async with desk(tmp_path) as at:
        monkeypatch.setattr(at.front.hub.store._writer, "submit", refuse)
        assert (await at.asked("GET", at.path("/transcript")))[0] == 200
        assert (await at.asked("PATCH", at.path("/names"), {"S1": "Ann"}))[0] == 500
        monkeypatch.undo()
        assert (await at.asked("PATCH", at.path("/names"), {"S1": "Ann"}))[0] == 200


async def next_block(answer: aiohttp.ClientResponse, starts: bytes) -> dict[str, Any]:
    """The data of the next event that begins so."""
    while True:
        block = await answer.content.readuntil(b"\n\n")
        if block.startswith(starts):
            data: dict[str, Any] = orjson.loads(block.split(b"data: ", 1)[1])
            return data


async def test_who_reads_along_is_told_of_names_at_once(tmp_path: Path) -> None:
    async with desk(tmp_path) as at, asyncio.timeout(10):
        talker = await Talker.start(at.front.url, key=KEY)
        path = f"/v1/sessions/{talker.ready['session_id']}"
        await at.asked("PATCH", f"{path}/names", {"S1": "Ann"})
        headers = {"Authorization": f"Bearer {KEY}"}
        answer = await at.http.get(f"{path}/events?names=1", headers=headers)
        first = await next_block(answer, b"event: session")
        assert first == {"type": "session", "state": "open", "names": {"S1": "Ann"}}
        await at.asked("PATCH", f"{path}/names", {"S2": "Ben"})
        told = await next_block(answer, b"event: session")
        assert told["names"] == {"S1": "Ann", "S2": "Ben"}
        await talker.play(clip(1, WORDS))
        assert await talker.finish() == texts(1, WORDS)
        assert b'"type":"done"' in await answer.read()


async def test_who_does_not_ask_is_told_captions_alone(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        await at.asked("PATCH", at.path("/names"), {"S1": "Ann"})
        _, body = await at.asked("GET", at.path("/events"))
        assert "event:" not in body
        assert '"type":"done"' in body


async def test_feeds_are_forgotten_with_their_readers(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        headers = {"Authorization": f"Bearer {KEY}"}
        talker = await Talker.start(at.front.url, key=KEY)
        path = f"/v1/sessions/{talker.ready['session_id']}/events?names=1"
        answer = await at.http.get(path, headers=headers)
        await until(lambda: len(at.front.live._listeners) == 2)
        answer.close()
        await talker.play(clip(1, WORDS))
        await talker.finish()
        await until(lambda: not list(at.front.hub.sessions))
