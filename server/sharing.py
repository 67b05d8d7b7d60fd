"""HTTP for those who caption in a browser: tickets, links for an audience, speakers' names.

Owns these routes and their messages. What a ticket or a link is, and what a name may be, is for
``tickets.py`` and ``names.py`` to say.
"""

import time
from datetime import UTC, datetime, timedelta
from typing import TypeVar

import orjson
from aiohttp import web
from pydantic import BaseModel, ValidationError

from server.guard import (
    TENANT,
    TICKETS,
    TICKETS_PATH,
    json_answer,
    owned_session,
    presented_link,
)
from server.hub import Hub, utc_text
from server.names import SpeakerNames, checked_names
from server.tickets import (
    TICKET_SECONDS,
    LinkRequest,
    TicketRequest,
    Tickets,
    check_link,
    make_link,
    not_a_link,
    parse_link,
    session_of_request,
)
from streaming.errors import BadMessage, Forbidden, TooBig

BODY_BYTES_MAX = 64 * 1024
"""Two hundred names of eighty characters are half of it."""

_Body = TypeVar("_Body", bound=BaseModel)


class Sharing:
    """The handlers, over one hub."""

    def __init__(self, hub: Hub, names: SpeakerNames) -> None:
        self._hub = hub
        self._names = names
        self._tickets = Tickets()

    def add_to(self, app: web.Application) -> None:
        app[TICKETS] = self._tickets
        app.router.add_post(TICKETS_PATH, self.ticket)
        app.router.add_post("/v1/sessions/{id}/links", self.link)
        app.router.add_get("/v1/sessions/{id}/names", self.names)
        app.router.add_patch("/v1/sessions/{id}/names", self.rename)

    async def ticket(self, request: web.Request) -> web.Response:
        """A ticket for whoever has a key, or a link."""
        wanted = _parsed(TicketRequest, await _body(request))
        session_id = session_of_request(wanted)
        text = presented_link(request)
        if text is not None:
            tenant = await self._tenant_of_link(text, session_id)
        else:
            tenant = request[TENANT]
            if session_id is not None:
                await owned_session(self._hub, request, session_id)
        ticket = self._tickets.issue(tenant, session_id, time.monotonic())
        return json_answer({"ticket": ticket, "expires_in_s": TICKET_SECONDS})

    async def _tenant_of_link(self, text: str, session_id: str | None) -> str:
        """Raises: Unauthorized, Forbidden."""
        link = parse_link(text)
        record = await self._hub.store.session(link.session_id)
        if record is None:
            raise not_a_link()
        check_link(link, record.resume_token_hash, time.time())
        if session_id != link.session_id:
            raise Forbidden("this link is for reading its own session, and nothing else")
        return record.tenant

    async def link(self, request: web.Request) -> web.Response:
        """Addresses for an audience; whoever has one may read along."""
        record = await owned_session(self._hub, request, request.match_info["id"])
        wanted = _parsed(LinkRequest, await _body(request))
        expires_at = datetime.now(UTC) + timedelta(hours=wanted.hours)
        link = make_link(record.session_id, record.resume_token_hash, int(expires_at.timestamp()))
        return json_answer(
            {
                "link": link,
                "view_path": f"/view/{record.session_id}#{link}",
                "overlay_path": f"/overlay/{record.session_id}#{link}",
                "expires_at": utc_text(expires_at),
            }
        )

    async def names(self, request: web.Request) -> web.Response:
        record = await owned_session(self._hub, request, request.match_info["id"])
        return json_answer({"names": await self._names.of(record.session_id)})

    async def rename(self, request: web.Request) -> web.Response:
        """Give speakers names, or take them away; the answer has all names."""
        record = await owned_session(self._hub, request, request.match_info["id"])
        changes = checked_names(await _body(request))
        return json_answer({"names": await self._names.give(record.session_id, changes)})


async def _body(request: web.Request) -> dict[str, object]:
    """Raises: BadMessage, TooBig."""
    data = await request.content.read(BODY_BYTES_MAX + 1)
    while len(data) <= BODY_BYTES_MAX and not request.content.at_eof():
        data += await request.content.read(BODY_BYTES_MAX + 1)
    if len(data) > BODY_BYTES_MAX:
        raise TooBig(f"the body of this request has at most {BODY_BYTES_MAX} bytes")
    try:
        value = orjson.loads(data or b"{}")
    except orjson.JSONDecodeError:
        raise BadMessage("the body must be one JSON object") from None
    if not isinstance(value, dict):
        raise BadMessage("the body must be one JSON object")
    return value


def _parsed(model: type[_Body], value: dict[str, object]) -> _Body:
    """Raises: BadMessage, which names the field."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise BadMessage(f"{where}: {first['msg']}") from None
