"""Refusals before and after the upgrade, and servers that break the protocol."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus

import orjson
import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.http11 import Request, Response
from websockets.typing import Subprotocol

from clients.dial import close_code_of, endpoint
from clients.errors import ConnectionLost, ServerRefused
from clients.reconnect import Retry
from clients.stream import EVENTS_MAX, CaptionStream
from streaming.events import Done, Event
from streaming.wire import SUBPROTOCOL
from tests.clients.fake_server import FakeServer, running
from tests.clients.test_stream import AT_ONCE, collect, final_texts, pcm, texts

READY = (
    '{"type":"ready","session_id":"s","resume_token":"t","seq":0,"resume_from_frame":0,'
    '"credit_until_frame":100,"wall_clock":"","engines":{}}'
)
READY_AGAIN = READY.replace('"seq":0', '"seq":2')
"""On a resume: this server has the events that the client has."""
LANGUAGE = '{"type":"language","seq":%d,"language":"en","probability":1.0}'
NOTHING = '{"p50":null,"p95":null}'
DONE = (
    '{"type":"done","seq":%d,"audio_seconds":0.0,"decoded_seconds":0.0,"silent_seconds":0.0,'
    '"gap_seconds":0.0,"rtfx":null,"words":0,"speakers":0,'
    f'"partial_latency_s":{NOTHING},"final_latency_s":{NOTHING}}}'
)


@asynccontextmanager
async def saying(*connections: list[str], speaks_captiond: bool = True) -> AsyncIterator[str]:
    """A server that answers the nth connection's greeting with the nth list, then hangs up."""
    scripts = iter(connections)

    async def handle(socket: ServerConnection) -> None:
        await socket.recv()
        for message in next(scripts):
            await socket.send(message)

    protocols = [Subprotocol(SUBPROTOCOL)] if speaks_captiond else None
    async with serve(handle, "127.0.0.1", 0, subprotocols=protocols) as server:
        yield f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"


@asynccontextmanager
async def refusing(status: HTTPStatus, body: str, retry_after: str = "") -> AsyncIterator[str]:
    def refuse(socket: ServerConnection, request: Request) -> Response:
        response = socket.respond(status, body)
        if retry_after:
            response.headers["Retry-After"] = retry_after
        return response

    async def never(socket: ServerConnection) -> None:
        raise AssertionError("unreachable")

    async with serve(never, "127.0.0.1", 0, process_request=refuse) as server:
        yield f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"


async def opened(url: str, retry: Retry = AT_ONCE) -> list[Event]:
    events: list[Event] = []
    async with CaptionStream.open(url, retry=retry) as stream:
        await collect(stream, events)
    return events


def typed(code: str, retry_after_ms: int | None = None) -> str:
    body = {"type": "error", "code": code, "message": "do this", "retry_after_ms": retry_after_ms}
    return orjson.dumps(body).decode()


@pytest.mark.parametrize(
    ("status", "code", "close_code"),
    [
        (HTTPStatus.UNAUTHORIZED, "unauthorized", 4401),
        (HTTPStatus.FORBIDDEN, "forbidden", 4403),
        (HTTPStatus.SERVICE_UNAVAILABLE, "overloaded", 1013),
    ],
)
async def test_an_http_refusal_is_as_typed_as_one_on_the_socket(
    status: HTTPStatus, code: str, close_code: int
) -> None:
    async with refusing(status, typed(code, 1)) as url:
        with pytest.raises(ServerRefused) as caught:
            await opened(url)
    refused = caught.value
    assert (refused.code, refused.message) == (code, "do this")
    assert (refused.close_code, refused.retry_after_ms) == (close_code, 1)


@pytest.mark.parametrize("body", ["<html>", "[]", '{"code":1}', "null"])
async def test_an_http_refusal_of_somebody_else_still_says_what_to_check(body: str) -> None:
    async with refusing(HTTPStatus.NOT_FOUND, body, retry_after="7") as url:
        with pytest.raises(ServerRefused) as caught:
            await opened(url)
    assert caught.value.close_code == 4404
    assert caught.value.retry_after_ms == 7_000


async def test_a_server_of_another_protocol_is_refused() -> None:
    async with saying([], speaks_captiond=False) as url:
        with pytest.raises(ServerRefused, match=r"does not speak captiond\.v1"):
            await opened(url)


@pytest.mark.parametrize("greeting", ["{}", "not json", DONE % 1])
async def test_a_first_answer_that_is_not_ready_is_no_session(greeting: str) -> None:
    async with saying([greeting]) as url:
        with pytest.raises(ConnectionLost):
            await opened(url)


async def test_a_server_that_never_answers_is_not_waited_for_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def say_nothing(socket: ServerConnection) -> None:
        await socket.wait_closed()

    monkeypatch.setattr("clients.dial.READY_TIMEOUT_S", 0.01)
    async with serve(say_nothing, "127.0.0.1", 0, subprotocols=[Subprotocol(SUBPROTOCOL)]) as mute:
        url = f"ws://127.0.0.1:{next(iter(mute.sockets)).getsockname()[1]}"
        with pytest.raises(ConnectionLost, match="did not answer"):
            async with asyncio.timeout(10):
                await opened(url)


async def test_an_error_instead_of_ready_keeps_its_words() -> None:
    async with saying([typed("unsupported")]) as url:
        with pytest.raises(ServerRefused, match="unsupported: do this"):
            await opened(url)


async def test_events_that_come_again_are_left_out() -> None:
    async with saying(
        [READY, LANGUAGE % 1, LANGUAGE % 2], [READY_AGAIN, LANGUAGE % 1, LANGUAGE % 2, DONE % 3]
    ) as url:
        events = await opened(url)
    assert [event.seq for event in events if hasattr(event, "seq")] == [1, 2, 3]


async def test_a_missing_event_is_fetched_by_a_resume() -> None:
    async with saying(
        [READY, LANGUAGE % 1, DONE % 3], [READY_AGAIN, LANGUAGE % 1, LANGUAGE % 2, DONE % 3]
    ) as url:
        events = await opened(url)
    assert len(events) == 3


async def test_a_message_that_makes_no_sense_ends_the_session() -> None:
    async with saying([READY, '{"type":"nonsense"}']) as url:
        with pytest.raises(ConnectionLost, match="not a captiond"):
            await opened(url)


async def test_a_server_that_resumes_where_nothing_is_held_is_not_believed() -> None:
    async with saying([READY.replace('frame":0', 'frame":50')]) as url:
        with pytest.raises(ConnectionLost, match="frame 50"):
            await opened(url)


async def test_passing_events_give_way_to_a_slow_reader_and_durable_ones_wait() -> None:
    lag = '{"type":"lag","seconds":1.0,"after_seq":0}'
    many = [LANGUAGE % (n + 1) for n in range(EVENTS_MAX)]
    has_lag = asyncio.Event()
    events: list[Event] = []

    def watch(text: str) -> None:
        if text == lag:
            has_lag.set()

    async with (
        saying([READY, *many, lag, DONE % (EVENTS_MAX + 1)]) as url,
        CaptionStream.open(url, on_message=watch) as stream,
    ):
        await has_lag.wait()
        await collect(stream, events)
    assert len(events) == EVENTS_MAX + 1
    assert isinstance(events[-1], Done)


async def test_a_reader_that_comes_late_gets_more_than_is_held() -> None:
    words = EVENTS_MAX + 500
    server = FakeServer(credit_frames=100_000)
    async with running(server), CaptionStream.open(server.url) as stream:
        await stream.send(pcm(words))
        await stream.end()
        events: list[Event] = []
        await collect(stream, events)
    assert final_texts(events) == texts(pcm(words))


@pytest.mark.parametrize(
    ("url", "uri"),
    [
        ("ws://a:1", "ws://a:1/v1/stream"),
        ("https://a.example/", "wss://a.example/v1/stream"),
        ("http://[::1]:8710/behind/proxy", "ws://[::1]:8710/behind/proxy"),
    ],
)
def test_addresses_are_completed(url: str, uri: str) -> None:
    assert endpoint(url, None).uri == uri


def test_a_proxy_is_left_out_on_this_machine_only() -> None:
    local = ["ws://localhost:1", "ws://127.0.0.9:1", "ws://[::1]:1"]
    assert all(endpoint(url, None).is_loopback for url in local)
    assert not endpoint("ws://captions.example:1", None).is_loopback


def test_the_key_goes_into_a_header() -> None:
    assert endpoint("ws://a", "k").headers == {"Authorization": "Bearer k"}
    assert endpoint("ws://a", None).headers == {}


def test_an_error_code_of_a_later_version_counts_as_a_fault_of_the_server() -> None:
    assert close_code_of("from_the_future") == 1011
    assert close_code_of("too_fast") == 4429
