"""A pause is closed on time where it is the talker's own, and waits where it may be the line's."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
from aiohttp import WSMsgType, web
from websockets.asyncio.client import connect

from server import deadlines
from server.deadlines import DeadlineTimer
from server.socket import CaptionSocket
from streaming.resting import IDLE_FLUSH_NS
from streaming.session import SessionState
from tests.server_fakes import until

pytestmark = pytest.mark.asyncio


@dataclass
class Pausing:
    """Stands for a session whose talker said something a second ago, and nothing since."""

    state: SessionState = SessionState.OPEN
    deadline_ns: int | None = None
    acted: int = 0
    questions: list[Callable[[], None]] = field(default_factory=list)
    timer: DeadlineTimer = field(init=False)

    def __post_init__(self) -> None:
        self.timer = DeadlineTimer(self, self.act)
        self.timer.use(self.questions.append, has_come_back=False)

    def act(self, now_ns: int) -> None:
        """As a session does: one that is looked at too early waits on."""
        if self.deadline_ns is not None and now_ns >= self.deadline_ns:
            self.acted += 1
            self.deadline_ns = None
        self.timer.arm(now_ns)

    def pause(self) -> None:
        """Its deadline is now."""
        self.deadline_ns = time.monotonic_ns()
        self.timer.arm(self.deadline_ns)

    def talk(self) -> None:
        now_ns = time.monotonic_ns()
        self.deadline_ns = now_ns + IDLE_FLUSH_NS
        self.timer.note_audio(now_ns)

    async def until_asked(self) -> Callable[[], None]:
        await until(lambda: bool(self.questions))
        return self.questions.pop()


async def test_packets_do_not_move_the_timer() -> None:
    one, now_ns = Pausing(), time.monotonic_ns()
    one.deadline_ns = now_ns + 10**12
    one.timer.arm(now_ns)
    first = one.timer._timer
    assert first is not None
    for deadline_ns in (now_ns + 2 * 10**12, None):
        one.deadline_ns = deadline_ns
        one.timer.arm(now_ns)
        assert one.timer._timer is first
    one.deadline_ns = now_ns + 10**11
    one.timer.arm(now_ns)
    assert one.timer._timer is not first
    one.timer.cancel()


async def test_a_client_that_answers_has_paused() -> None:
    one = Pausing()
    one.pause()
    answer = await one.until_asked()
    assert one.acted == 0
    answer()
    await until(lambda: one.acted == 1)
    assert one.questions == []


async def test_a_line_that_stands_still_is_waited_for_and_not_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one = Pausing()
    one.pause()
    await one.until_asked()
    await asyncio.sleep(0)
    assert one.acted == 0
    one.timer.cancel()
    monkeypatch.setattr(deadlines, "LINE_NS_MAX", 1_000_000)
    one.pause()
    await until(lambda: one.acted == 1)


async def test_what_comes_before_the_answer_makes_it_another_pause() -> None:
    one = Pausing()
    one.pause()
    answer = await one.until_asked()
    one.talk()
    answer()
    assert one.timer._timer_ns == one.deadline_ns, "it is looked at in its time"
    one.timer.cancel()
    one.timer._audio_ns = 0  # the second is over
    one.pause()
    answer = await one.until_asked()
    assert one.acted == 0
    answer()
    await until(lambda: one.acted == 1)


async def test_a_client_that_has_come_back_has_time_to_send(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one = Pausing()
    one.timer.use(one.questions.append, has_come_back=True)
    one.pause()
    await until(lambda: one.timer._waits_since_ns is not None)
    assert (one.acted, one.questions) == (0, []), "a library would answer before its program"
    one.talk()
    assert one.timer._timer_ns == one.deadline_ns
    monkeypatch.setattr(deadlines, "LINE_NS_MAX", 1_000_000)
    one.timer.use(None, has_come_back=True)
    one.pause()
    await until(lambda: one.acted == 1)


async def test_another_lane_shows_that_the_line_holds() -> None:
    one = Pausing()
    one.talk()
    one.timer.cancel()
    one.pause()
    await until(lambda: one.acted == 1)
    assert one.questions == []


@pytest.mark.parametrize("has_line", [False, True])
async def test_where_nothing_can_come_nobody_is_asked(has_line: bool) -> None:
    one = Pausing(SessionState.ENDING if has_line else SessionState.OPEN)
    if not has_line:
        one.timer.use(None, has_come_back=False)
    one.pause()
    await until(lambda: one.acted == 1)
    assert one.questions == []


async def test_a_process_that_stood_still_reads_its_sockets_first() -> None:
    one = Pausing()
    one.timer.use(None, has_come_back=False)
    one.pause()
    one.timer._timer_ns -= 2 * deadlines.LATE_NS
    await until(lambda: one.timer._timer_ns > time.monotonic_ns())
    assert one.acted == 0
    one.talk()  # it lay in the socket
    await until(lambda: one.timer._timer_ns == one.deadline_ns)
    assert one.acted == 0
    one.timer.cancel()


async def test_an_answer_comes_behind_what_was_sent_before_it() -> None:
    heard: list[str] = []
    answered = asyncio.Event()

    def note() -> None:
        heard.append("answer")
        answered.set()

    async def serve(request: web.Request) -> web.WebSocketResponse:
        socket = CaptionSocket(heartbeat_s=60.0)
        await socket.prepare(request)
        while (message := await socket.receive()).type in (WSMsgType.BINARY, WSMsgType.PONG):
            if message.type is WSMsgType.BINARY:
                heard.append(message.data.decode())
                if len(heard) == 1:
                    socket.probe(note)
        return socket

    async with served(serve) as url, connect(url, compression=None, proxy=None) as client:
        await client.send(b"one")
        await client.send(b"two")
        await answered.wait()
        await client.send(b"three")
        await client.close()
    assert heard[0] == "one"
    assert heard.index("answer") > heard.index("two")


@asynccontextmanager
async def served(
    handler: Callable[[web.Request], object],
) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_get("/", handler)  # type: ignore[arg-type]
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        host, port = runner.addresses[0][:2]
        yield f"ws://{host}:{port}/"
    finally:
        await runner.cleanup()
