"""The protocol as a state machine, over real sockets: whatever a client says, in any order, it is
told what is wrong with a documented code, and a session that was lost by it can be taken up again.

Hypothesis draws what is said and shrinks what fails. ``STATE_MACHINE_EXAMPLES`` draws more
(``python -m load_tests.faults``).
"""

import asyncio
import os
from collections.abc import Awaitable, Iterator
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    precondition,
    rule,
    run_state_machine_as_test,
)

from streaming.scripted_audio import encode_silence, encode_word
from streaming.wire import CONTROL_MESSAGE_BYTES_MAX
from tests.server_fakes import Front, running
from tests.system.talker import Message, Talker, packets, texts

EXAMPLES = int(os.environ.get("STATE_MACHINE_EXAMPLES", "5"))
STEPS = 15
BUFFER_S = 30
FLOOD_BYTES = 240_000
T = TypeVar("T")
START: Message = {"type": "start"}
BAD_STARTS: tuple[tuple[Message, str], ...] = (
    ({"type": "start", "audio": {"sample_rate": 1}}, "bad_message"),
    ({"type": "start", "audio": {"encoding": "opus"}}, "bad_message"),
    ({"type": "start", "prompt": "x" * 2_001}, "bad_message"),
    ({"type": "resume", "session_id": "none"}, "bad_message"),
    (
        {"type": "resume", "session_id": "0" * 24, "resume_token": "none", "last_seq": 0},
        "unknown_session",
    ),
    ({"type": "flush"}, "out_of_order"),
    ({"type": "end"}, "out_of_order"),
)
NONSENSE = st.one_of(
    st.text(max_size=20).filter(lambda text: not text.strip().startswith('{"type"')),
    st.sampled_from(['{"type":"sing"}', "{}", "[]", "null", '{"type":"skip","ms":-1}', "{" * 900]),
)


async def say(talker: Talker, message: Message) -> None:
    options = {name: value for name, value in message.items() if name != "type"}
    await talker.say(message["type"], **options)


class ProtocolMachine(RuleBasedStateMachine):
    """One client and its connections, one after the other, for one session."""

    front: ClassVar[Front]
    runner: ClassVar[asyncio.Runner]

    def __init__(self) -> None:
        super().__init__()
        self.talker: Talker | None = None
        self.ready: Message | None = None
        """Of the session; None before there is one."""
        self.said = b""
        self.spoken_bytes = 0
        """Of what was said, up to the last word and its pause."""
        self.idle_bytes = 0
        """Of what was said, nothing: silence beyond the credit."""
        self.words = 0
        self.told: dict[int, Message] = {}
        """Durable events by seq."""
        self.is_over = False

    def do(self, work: Awaitable[T]) -> T:
        async def worked() -> T:
            return await work

        return self.runner.run(worked())

    # Which rules may be chosen

    def _is_away(self) -> bool:
        return self.talker is None

    def _is_new(self) -> bool:
        return self.talker is None and self.ready is None

    def _is_talking(self) -> bool:
        return self.talker is not None

    def _may_come_back(self) -> bool:
        return self.ready is not None and not self.is_over

    # Before there is a session

    @precondition(_is_new)
    @rule(partials=st.booleans(), diarize=st.booleans())
    def start(self, partials: bool, diarize: bool) -> None:
        options: dict[str, Any] = {"partials": partials, "diarize": diarize}
        self.talker = self.do(Talker.start(self.front.url, **options))
        self.ready = self.talker.ready
        assert self.ready["resume_from_frame"] == 0

    @precondition(_is_away)
    @rule(bad=st.sampled_from(BAD_STARTS))
    def begin_wrongly(self, bad: tuple[Message, str]) -> None:
        message, code = bad
        self.do(self._begin_wrongly(message, code))

    async def _begin_wrongly(self, message: Message, code: str) -> None:
        talker = await Talker.connect(self.front.url)
        await say(talker, message)
        assert (await talker.refusal())["code"] == code

    @precondition(_is_away)
    @rule(nonsense=NONSENSE)
    def begin_with_nonsense(self, nonsense: str) -> None:
        self.do(self._say_first(nonsense, {"bad_message"}))

    @precondition(_is_away)
    @rule(size=st.integers(0, 5_000))
    def begin_with_audio(self, size: int) -> None:
        self.do(self._say_first(bytes(size), {"out_of_order"}))

    async def _say_first(self, message: str | bytes, codes: set[str]) -> None:
        talker = await Talker.connect(self.front.url)
        await talker.socket.send(message)
        assert (await talker.refusal())["code"] in codes

    # In a session

    @precondition(_is_talking)
    @rule(words=st.integers(1, 6), size=st.sampled_from([641, 3_200, 20_000]))
    def speak(self, words: int, size: int) -> None:
        parts = [encode_word(1, number) for number in range(self.words, self.words + words)]
        spoken = np.concatenate([*parts, encode_silence(12_800)]).tobytes()
        if len(self.said) - self.idle_bytes + len(spoken) > BUFFER_S * 16_000:
            return  # it all could have to be sent again at once
        first = len(self.said)
        self.words += words
        self.said += spoken
        self.spoken_bytes = len(self.said)
        self.do(self._send_from(first, size))

    async def _send_from(self, first: int, size: int) -> None:
        """All that was said from that byte on, as the credit allows."""
        assert self.talker is not None
        at = first
        for packet in packets(self.said[first:], size):
            at += len(packet)
            while at > 2 * self._credit_frame(self.talker):
                await self.talker.next()
            await self.talker.socket.send(packet)

    def _credit_frame(self, talker: Talker) -> int:
        return int(max(m.get("credit_until_frame", 0) for m in talker.messages))

    @precondition(_is_talking)
    @rule(message=st.sampled_from([{"type": "flush"}, {"type": "configure", "prompt": None}]))
    def say_something_harmless(self, message: Message) -> None:
        assert self.talker is not None
        self.do(say(self.talker, message))

    @precondition(_is_talking)
    @rule()
    def ping(self) -> None:
        self.do(self._ping())

    async def _ping(self) -> None:
        assert self.talker is not None
        await self.talker.socket.send(b"")
        async with asyncio.timeout(20):
            await (await self.talker.socket.ping())

    @precondition(_is_talking)
    @rule()
    def wait_for_a_word(self) -> None:
        assert self.talker is not None
        heard = {word["word"] for event in self.told.values() for word in event.get("words", ())}
        if len(heard | set(self.talker.words)) < self.words:
            self.do(self.talker.until("final"))

    # Faults, after which the session waits

    @precondition(_is_talking)
    @rule(nonsense=NONSENSE)
    def say_nonsense(self, nonsense: str) -> None:
        self._be_refused(nonsense, {"bad_message"})

    @precondition(_is_talking)
    @rule()
    def start_again(self) -> None:
        self._be_refused('{"type":"start"}', {"out_of_order"})

    @precondition(_is_talking)
    @rule()
    def say_too_much(self) -> None:
        self._be_refused('"' + "x" * CONTROL_MESSAGE_BYTES_MAX + '"', {"too_big"})

    @precondition(_is_talking)
    @rule()
    def send_beyond_the_credit(self) -> None:
        self.do(self._flood())

    async def _flood(self) -> None:
        """Faster than anything can be dealt with: the credit ends within the second message."""
        talker = self.talker
        assert talker is not None
        for _ in range(2 * BUFFER_S * 32_000 // FLOOD_BYTES):
            await asyncio.gather(talker.socket.send(bytes(FLOOD_BYTES)), return_exceptions=True)
        code = await talker.until_closed()
        errors = [m["code"] for m in talker.messages if m["type"] == "error"]
        assert (code, errors) == (4429, ["too_fast"])
        self.said += bytes(2 * BUFFER_S * 32_000)  # how much was taken, the next connection hears
        self._leave()

    def _be_refused(self, message: str, codes: set[str]) -> None:
        assert self.talker is not None
        self.do(self.talker.socket.send(message))
        assert self.do(self.talker.refusal())["code"] in codes
        self._leave()

    @precondition(_is_talking)
    @rule(is_polite=st.booleans())
    def go(self, is_polite: bool) -> None:
        assert self.talker is not None
        if is_polite:
            self.do(self.talker.socket.close())
        else:
            self.talker.cut()
        self.do(self.talker.until_closed())
        self._leave()

    def _leave(self) -> None:
        self._note_told()
        self.talker = None

    def _note_told(self) -> None:
        """Gap-free, and what comes again is what it was."""
        assert self.talker is not None
        durable = [m for m in self.talker.messages if "seq" in m and m["type"] != "ready"]
        first = self.talker.ready["seq"] + 1
        assert [m["seq"] for m in durable] == [*range(first, first + len(durable))]
        for message in durable:
            assert self.told.setdefault(message["seq"], message) == message

    # Coming back

    @precondition(_may_come_back)
    @rule(forgotten=st.integers(0, 3))
    def come_back(self, forgotten: int) -> None:
        """Also while another connection has it: that one is sent away."""
        self.do(self._come_back(forgotten))

    async def _come_back(self, forgotten: int) -> None:
        assert self.ready is not None
        last_seq = max(0, max(self.told, default=0) - forgotten)
        new = await Talker.resume(self.front.url, self.ready, last_seq)
        ready = await new.until("ready")
        assert ready["seq"] == last_seq
        if self.talker is not None:
            assert (await self.talker.refusal())["code"] == "superseded"
            self._leave()
        self.talker = new
        frame = ready["resume_from_frame"]
        assert frame * 2 <= len(self.said)
        self.said = self.said[: max(frame * 2, self.spoken_bytes)]
        self.idle_bytes += len(self.said) - self.spoken_bytes
        self.spoken_bytes = len(self.said)
        await self._send_from(frame * 2, 3_200)

    @precondition(_may_come_back)
    @rule(token=st.text("abcdef0123456789", min_size=1, max_size=64))
    def come_back_with_a_guess(self, token: str) -> None:
        async def guess() -> str:
            assert self.ready is not None
            guessed = {**self.ready, "resume_token": token}
            talker = await Talker.resume(self.front.url, guessed)
            return str((await talker.refusal())["code"])

        assert self.do(guess()) == "unknown_session"

    @precondition(_is_talking)
    @rule()
    def end(self) -> None:
        self._end()

    def _end(self) -> None:
        assert self.talker is not None
        self.do(self.talker.finish())
        self._leave()
        self.is_over = True
        heard = [
            word["word"]
            for _, event in sorted(self.told.items())
            if event["type"] == "final"
            for word in event["words"]
        ]
        assert heard == texts(1, self.words)
        assert not {"gap"} & {event["type"] for event in self.told.values()}

    def teardown(self) -> None:
        """Whatever happened, the session can be taken up and ended, and every word is there."""
        if self.ready is not None and not self.is_over:
            if self.talker is None:
                self.do(self._come_back(0))
            self._end()
        assert not any(live.is_attached for live in self.front.hub.sessions)


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[type[ProtocolMachine]]:
    """One server for all examples."""
    folder: Path = tmp_path_factory.mktemp("machine")
    with asyncio.Runner() as runner:
        options: dict[str, Any] = {"buffer_s": BUFFER_S, "window_cap_s": 10}
        server = running(folder, **options, packets_per_second_max=100_000)
        front = runner.run(server.__aenter__())
        yield type("Machine", (ProtocolMachine,), {"front": front, "runner": runner})
        runner.run(server.__aexit__(None, None, None))


def test_every_wrong_word_has_its_answer_and_no_session_is_lost(
    machine: type[ProtocolMachine],
) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
        ),
    )
