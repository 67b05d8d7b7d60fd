"""Tickets are good once, in time, for one thing; links for one session, until they expire."""

import pytest

from server import tickets
from server.tickets import (
    TICKET_SECONDS,
    Grant,
    TicketRequest,
    Tickets,
    check_link,
    check_scope,
    make_link,
    parse_link,
    presented_ticket,
    session_of_request,
)
from streaming.errors import BadMessage, Forbidden, Overloaded, TooFast, Unauthorized

STREAM = "/v1/stream"
SEED = "ab" * 32


def test_a_ticket_is_good_once() -> None:
    box = Tickets()
    ticket = box.issue("ann", "s1", 0.0)
    assert box.redeem(ticket, 1.0) == Grant("ann", "s1", TICKET_SECONDS)
    with pytest.raises(Unauthorized):
        box.redeem(ticket, 1.0)


def test_a_ticket_is_good_in_time_only() -> None:
    box = Tickets()
    early, late = box.issue("ann", None, 0.0), box.issue("ann", None, 0.0)
    assert box.redeem(early, TICKET_SECONDS).session_id is None
    with pytest.raises(Unauthorized):
        box.redeem(late, TICKET_SECONDS + 0.1)


@pytest.mark.parametrize("ticket", ["", "guess", "\udce9"])
def test_what_is_no_ticket(ticket: str) -> None:
    with pytest.raises(Unauthorized):
        Tickets().redeem(ticket, 0.0)


def test_expired_tickets_are_forgotten_and_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tickets, "TICKETS_PER_TENANT_MAX", 2)
    box = Tickets()
    for now_s in (0.0, 1.0):
        box.issue("ann", None, now_s)
    with pytest.raises(TooFast):
        box.issue("ann", None, 2.0)
    box.issue("ben", None, 2.0)
    box.issue("ann", None, TICKET_SECONDS + 0.5)
    assert len(box) == 3


def test_a_used_ticket_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tickets, "TICKETS_PER_TENANT_MAX", 1)
    box = Tickets()
    for _ in range(3):
        box.redeem(box.issue("ann", None, 0.0), 0.0)
    assert len(box) == 0


def test_there_is_a_bound_over_all_tenants(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tickets, "TICKETS_MAX", 1)
    box = Tickets()
    box.issue("ann", None, 0.0)
    with pytest.raises(Overloaded):
        box.issue("ben", None, 0.0)


@pytest.mark.parametrize(
    ("session_id", "method", "path"),
    [
        (None, "GET", STREAM),
        ("s1", "GET", "/v1/sessions/s1/events"),
        ("s1", "GET", "/v1/sessions/s1/transcript"),
        ("s1", "GET", "/v1/sessions/s1/names"),
    ],
)
def test_what_a_ticket_is_for(session_id: str | None, method: str, path: str) -> None:
    check_scope(Grant("ann", session_id, 0.0), method, path, STREAM)


@pytest.mark.parametrize(
    ("session_id", "method", "path"),
    [
        (None, "GET", "/v1/sessions"),
        (None, "GET", "/v1/sessions/s1/events"),
        ("s1", "GET", STREAM),
        ("s1", "GET", "/v1/sessions"),
        ("s1", "GET", "/v1/sessions/s1"),  # prompt and keywords are the talker's
        ("s1", "GET", "/v1/sessions/s2/events"),
        ("s1", "DELETE", "/v1/sessions/s1"),
        ("s1", "PATCH", "/v1/sessions/s1/names"),
        ("s1", "POST", "/v1/sessions/s1/links"),
        ("s1", "POST", "/v1/tickets"),
    ],
)
def test_what_a_ticket_is_not_for(session_id: str | None, method: str, path: str) -> None:
    with pytest.raises(Forbidden):
        check_scope(Grant("ann", session_id, 0.0), method, path, STREAM)


@pytest.mark.parametrize(
    ("authorization", "offered", "found"),
    [
        ("Ticket abc", [], "abc"),
        ("ticket  abc ", ["captiond.ticket.other"], "abc"),
        (None, ["captiond.v1", "captiond.ticket.abc"], "abc"),
        ("Bearer key", ["captiond.ticket.abc"], None),
        (None, ["captiond.v1", "captiond.key.abc"], None),
        (None, [], None),
    ],
)
def test_where_a_ticket_is_shown(
    authorization: str | None, offered: list[str], found: str | None
) -> None:
    assert presented_ticket(authorization, offered) == found


@pytest.mark.parametrize(("scope", "session_id"), [("view", None), ("stream", "s1")])
def test_scope_and_session_belong_together(scope: str, session_id: str | None) -> None:
    request = TicketRequest.model_validate({"scope": scope, "session_id": session_id})
    with pytest.raises(BadMessage, match="session_id"):
        session_of_request(request)


def test_a_link_is_good_until_it_expires() -> None:
    link = parse_link(make_link("s1", SEED, 1_000))
    assert link.session_id == "s1"
    check_link(link, SEED, 1_000.0)
    with pytest.raises(Unauthorized, match="expired"):
        check_link(link, SEED, 1_000.5)


@pytest.mark.parametrize(("of", "to"), [("s1.", "s2."), (".1000.", ".9000.")])
def test_a_link_cannot_be_changed(of: str, to: str) -> None:
    text = make_link("s1", SEED, 1_000)
    with pytest.raises(Unauthorized, match="no longer"):
        check_link(parse_link(text.replace(of, to)), SEED, 0.0)


def test_a_link_of_another_seed_is_none() -> None:
    with pytest.raises(Unauthorized):
        check_link(parse_link(make_link("s1", "cd" * 32, 1_000)), SEED, 0.0)


@pytest.mark.parametrize("text", ["", "s1", "s1.x.y", "s1.1.é", "s1.1.!", "a.1.b.c"])
def test_what_is_no_link(text: str) -> None:
    with pytest.raises(Unauthorized):
        parse_link(text)
