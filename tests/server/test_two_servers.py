"""Two servers over one store, and whatever may happen at once: who comes back, where, and deletes.

Stories are drawn by seeds. In each: at most one server has a session that runs, at most one client
talks in it, whoever loses it is told once, and nothing is left over.
"""

import asyncio
import contextlib
import random
from collections.abc import Awaitable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from server.live import LiveSession
from server.store import StoreError
from streaming.errors import CaptiondError
from streaming.session import SessionState
from streaming.wire import Ready, Resume, Start
from tests.fakes import silence, speech
from tests.server_fakes import Front, running, until

AUDIO = b"".join(part.tobytes() for part in (speech(range(3)), silence(1.5)))
SETTLING = silence(40.0).tobytes()
"""More than a story says: who takes a session over waits until all has come again."""
REST_SAMPLES = 16_000
"""Of a session without a connection: less than a frame may wait for what follows."""
STEPS = 40


@dataclass(eq=False)
class Client:
    """One connection to a session."""

    live: LiveSession
    reasons: list[CaptiondError] = field(default_factory=list)
    has_left: bool = False

    def attach(self, seq: int) -> None:
        self.live.attach(self.dismiss, seq)

    def dismiss(self, reason: CaptiondError) -> None:
        self.reasons.append(reason)

    def leave(self) -> None:
        self.has_left = True
        self.live.detach(self.dismiss)

    @property
    def is_talking(self) -> bool:
        return self.live._dismiss == self.dismiss


class Story:
    """What happens, drawn by a seed."""

    def __init__(self, fronts: list[Front], seed: int) -> None:
        self._chance = random.Random(seed)
        self.fronts = fronts
        self.readies: list[Ready] = []
        self.clients: list[Client] = []
        self._tasks: list[asyncio.Future[None]] = []

    async def run(self) -> None:
        for front in self.fronts:
            live, ready = await front.hub.open(Start(language="en", diarize=False), "ann")
            self.readies.append(ready)
            self._come(live, 0)
        for _ in range(STEPS):
            self._step()
            for _ in range(self._chance.choice([0, 0, 1, 3, 10])):
                await asyncio.sleep(0)
        await asyncio.gather(*self._tasks)

    def _step(self) -> None:
        front, ready = self._chance.choice(self.fronts), self._chance.choice(self.readies)
        live = front.hub.find(ready.session_id)
        lot = self._chance.random()
        if lot < 0.4:
            self._begin(self._come_back(front, ready))
        elif lot < 0.7:
            talk(live, AUDIO)
        elif lot < 0.9:
            self._chance.choice(self.clients).leave()
        elif lot < 0.95 and live is not None:
            live.session.end_of_audio_quietly(1)
            live.step()
        elif lot > 0.97:
            self._begin(_delete(front, ready))

    def _begin(self, work: Awaitable[None]) -> None:
        self._tasks.append(asyncio.ensure_future(work))

    async def _come_back(self, front: Front, ready: Ready) -> None:
        message = Resume(session_id=ready.session_id, resume_token=ready.resume_token)
        with contextlib.suppress(CaptiondError):
            live, again = await front.hub.resume(message, "ann")
            self._come(live, again.seq)

    def _come(self, live: LiveSession, seq: int) -> None:
        client = Client(live)
        client.attach(seq)
        self.clients.append(client)

    @property
    def lives(self) -> list[LiveSession]:
        return [live for front in self.fronts for live in front.hub.sessions]


async def _delete(front: Front, ready: Ready) -> None:
    front.hub.drop(ready.session_id)
    with contextlib.suppress(StoreError):  # somebody else has
        await front.hub.store.delete_session(ready.session_id)


def talk(live: LiveSession | None, audio: bytes) -> None:
    if live is not None and live.session.state is SessionState.OPEN:
        with contextlib.suppress(CaptiondError):
            live.receive_audio(audio)
        live.step()


def is_calm(live: LiveSession) -> bool:
    session = live.session
    is_stored = session.log.stored_seq == session.log.last_seq and live._storing is None
    return live.is_gone or (is_stored and session.backlog_samples < REST_SAMPLES)


@pytest.mark.parametrize("seed", range(8))
async def test_a_session_has_one_owner_and_one_talker_whatever_happens(
    tmp_path: Path, seed: int
) -> None:
    async with running(tmp_path) as first, running(tmp_path) as second:
        story = Story([first, second], seed)
        await story.run()
        for live in story.lives:  # an owner that lost a session learns of it at its next write
            talk(live, AUDIO + SETTLING)
        await until(lambda: all(map(is_calm, story.lives)))
        for ready in story.readies:
            running_here = [
                live
                for live in story.lives
                if live.id == ready.session_id and live.session.state is SessionState.OPEN
            ]
            is_stored = await first.hub.store.session(ready.session_id) is not None
            assert len(running_here) <= is_stored
        for live in story.lives:
            assert sum(c.live is live and c.is_talking for c in story.clients) <= 1
        for client in story.clients:
            is_lost = not client.has_left and not client.is_talking
            assert len(client.reasons) <= 1
            assert client.reasons or not is_lost
        for front in story.fronts:
            assert front.hub._returns.coming.total() == 0
