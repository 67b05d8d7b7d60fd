"""Virtual users against a scripted server, on a clock that only their own sleeping moves."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from http import HTTPStatus

import orjson
import pytest
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.http11 import Request, Response

from load_tests.replay import Heard, Target, VirtualUser
from load_tests.workload import CANONICAL, StreamPlan, plan_stream

Handler = Callable[[ServerConnection], Awaitable[None]]
PLAN = plan_stream(CANONICAL, 4, seconds=3, seed=1)


class VirtualTime:
    """Seconds that pass when somebody sleeps."""

    def __init__(self) -> None:
        self.now_s = 1_000.0

    def clock(self) -> float:
        return self.now_s

    async def sleep(self, seconds: float) -> None:
        self.now_s += max(0.0, seconds)
        await asyncio.sleep(0)


@asynccontextmanager
async def scripted_server(handler: Handler, **options: object) -> AsyncIterator[Target]:
    server: Server = await serve(handler, "127.0.0.1", 0, **options)  # type: ignore[arg-type]
    async with server:
        port = next(iter(server.sockets)).getsockname()[1]
        yield Target(f"http://127.0.0.1:{port}")


async def talk(target: Target, time: VirtualTime | None = None, plan: StreamPlan = PLAN) -> Heard:
    time = time or VirtualTime()
    user = VirtualUser(plan, target, clock=time.clock, sleep=time.sleep)
    return await user.talk(time.now_s + 5)


def message(kind: str, **fields: object) -> str:
    return orjson.dumps({"type": kind, **fields}).decode()


def ready(credit_until_frame: int = 10**9) -> str:
    return message("ready", credit_until_frame=credit_until_frame)


def final(text: str, start: float) -> str:
    return message("final", words=[{"word": text, "start": start}])


async def read_audio(socket: ServerConnection, packets: int) -> bytes:
    received = [await socket.recv() for _ in range(packets)]
    assert all(isinstance(packet, bytes) for packet in received)
    return b"".join(packet for packet in received if isinstance(packet, bytes))


async def test_a_user_sends_all_audio_on_schedule_and_notes_what_comes() -> None:
    audio = bytearray()

    async def handle(socket: ServerConnection) -> None:
        assert orjson.loads(await socket.recv())["type"] == "start"
        await socket.send(ready())
        audio.extend(await read_audio(socket, PLAN.packets))
        assert await socket.recv() == '{"type":"end"}'
        await socket.send(message("partial", words=[{"word": "w0.4", "start": 1.0}]))
        await socket.send(final("w0.4", 1.0))
        await socket.send(message("gap"))
        await socket.send(message("done", audio_seconds=3.0, rtfx=100.0))

    async with scripted_server(handle) as target:
        heard = await talk(target)
    assert len(audio) == 2 * PLAN.samples
    steps = [b - a for a, b in zip(heard.sent_s, heard.sent_s[1:], strict=False)]
    assert steps == pytest.approx([0.1] * (PLAN.packets - 1))
    assert max(heard.lateness_s) == pytest.approx(0)
    assert [word.text for word in heard.finals] == ["w0.4"]
    assert list(heard.shown_s) == ["w0.4"]
    assert (heard.partials, heard.gaps, heard.credit_waits) == (1, 1, 0)
    assert heard.done is not None
    assert not heard.errors
    assert heard.refusal is None


async def test_only_credit_stops_a_user_and_is_counted() -> None:
    time = VirtualTime()

    async def handle(socket: ServerConnection) -> None:
        await socket.recv()
        await socket.send(ready(credit_until_frame=1_600 * 10))
        await read_audio(socket, 10)
        time.now_s += 60
        await socket.send(message("ack", credit_until_frame=10**9))
        await read_audio(socket, PLAN.packets - 10)
        await socket.recv()
        await socket.send(message("done", audio_seconds=3.0, rtfx=None))

    async with scripted_server(handle) as target:
        heard = await talk(target, time)
    assert heard.credit_waits == 1
    assert heard.sent_s[10] - heard.sent_s[9] >= 60
    assert heard.lateness_s[10] < 1
    assert len(heard.sent_s) == PLAN.packets


async def test_a_refused_upgrade_is_a_refusal_with_its_code() -> None:
    def refuse(connection: ServerConnection, request: Request) -> Response:
        body = message("error", code="overloaded")
        return connection.respond(HTTPStatus.SERVICE_UNAVAILABLE, body)

    async def never(socket: ServerConnection) -> None:
        raise AssertionError("not reached")

    async with scripted_server(never, process_request=refuse) as target:
        heard = await talk(target)
    assert heard.refusal == "overloaded"
    assert not heard.errors


async def test_an_error_instead_of_ready_is_a_refusal() -> None:
    async def handle(socket: ServerConnection) -> None:
        await socket.recv()
        await socket.send(message("error", code="overloaded"))
        await socket.close(1013)

    async with scripted_server(handle) as target:
        heard = await talk(target)
    assert heard.refusal == "overloaded"
    assert heard.sent_s == []


@pytest.mark.parametrize(("code", "error"), [(1012, "closed_1012"), (1000, "closed_early")])
async def test_a_session_cut_short_is_an_error(code: int, error: str) -> None:
    async def handle(socket: ServerConnection) -> None:
        await socket.recv()
        await socket.send(ready())
        await read_audio(socket, 5)
        await socket.close(code)

    async with scripted_server(handle) as target:
        heard = await talk(target)
    assert heard.errors == {error: 1}
    assert heard.done is None


async def test_an_error_message_names_the_error_once() -> None:
    async def handle(socket: ServerConnection) -> None:
        await socket.recv()
        await socket.send(ready())
        await socket.send(message("error", code="engine_failed"))
        await socket.close(4500)

    async with scripted_server(handle) as target:
        heard = await talk(target)
    assert heard.errors == {"engine_failed": 1}


async def test_nobody_listens() -> None:
    heard = await talk(Target("http://127.0.0.1:9"))
    assert sum(heard.errors.values()) == 1


def test_target_takes_both_kinds_of_address() -> None:
    for url in ("http://host:1", "ws://host:1/"):
        assert Target(url).stream_url == "ws://host:1/v1/stream"
    assert Target("https://host").stream_url == "wss://host/v1/stream"
    assert Target("http://host", "secret").headers == {"Authorization": "Bearer secret"}
