"""A session as a state machine: whatever a client, the engines, the store and crashes do, in any
order, each word comes once and in place, or lies in a gap, and there is an end.

Hypothesis draws the steps and shrinks what fails to the shortest story. The simulation
(``tests/sim/``) has more faults at once and no shrinking. ``STATE_MACHINE_EXAMPLES`` draws more of
them (``python -m load_tests.faults``).
"""

import os
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
)

from streaming.checkpoint import decode
from streaming.errors import OutOfOrder, TooFast
from streaming.events import CaptionWord, Done, DurableEvent, Event, Final, Gap
from streaming.jobs import Job, JobKind
from streaming.scripted_audio import (
    CARRIER_SAMPLES,
    encode_silence,
    encode_word,
    word_text,
)
from streaming.session import Session, SessionState
from streaming.timeline import SAMPLE_RATE_HZ, Span
from streaming.wire import Configure, Start
from tests.fakes import Desk, Engines, of_type
from tests.owners import OPTIONS
from tests.sim.checkers import (
    check_all,
    check_captions,
    check_order,
    check_revisions,
    check_values,
)

EXAMPLES = int(os.environ.get("STATE_MACHINE_EXAMPLES", "12"))
STEPS = 30
END_SECONDS = 600.0
"""Of simulated time; with nothing broken any more every session must be over by then."""
LEAD = encode_silence(3_200)
KINDS = st.sets(st.sampled_from(list(JobKind)))


class SessionMachine(RuleBasedStateMachine):
    """One client, one session, any number of owners."""

    def __init__(self) -> None:
        super().__init__()
        self.said = b""
        self.skips: dict[int, int] = {}
        """Byte of what was said → milliseconds skipped before it; skipped time is in ``said`` as
        silence, so that frames are those of the session."""
        self.words: list[tuple[str, int]] = []
        self.has_ended = False
        self.failing: set[JobKind] = set()
        self.asked: list[Job] = []
        """By all owners."""
        self.epoch = 0
        self.told: list[DurableEvent] = []
        """What the client has, over all its connections."""
        self.after_seq = 0
        """What it had when the present connection began."""
        self.is_attached = True
        self.is_undisturbed = True
        """One owner and one connection, so far."""
        self.acked_frame = self.credit_frame = 0
        self.desk = self._owner(None)

    def _owner(self, last: Desk | None) -> Desk:
        point = last.point if last else None
        self.epoch += 1
        session = Session(
            "s1",
            Start(),
            OPTIONS,
            seed=7,
            epoch=self.epoch,
            checkpoint=decode(point.body) if point else None,
            keeps_checkpoints=True,
        )
        engines = Engines(fails=lambda job: job.kind in self.failing, asked=self.asked)
        return Desk(session, engines, stored=[*last.stored] if last else [], point=point)

    # What the client does

    def _is_talking(self) -> bool:
        return not self.has_ended

    def _is_up_to_date(self) -> bool:
        """Nothing it said waits for credit: whatever closes an utterance now cuts no word."""
        return self.is_attached and self.desk.session.frames_received * 2 == len(self.said)

    def _is_talking_up_to_date(self) -> bool:
        return self._is_talking() and self._is_up_to_date()

    @precondition(_is_talking)
    @rule(words=st.integers(1, 8), pause_ms=st.sampled_from([0, 40, 400, 1_500]))
    def speak(self, words: int, pause_ms: int) -> None:
        parts = [LEAD] if not self.said else []
        place = len(self.said) // 2 + sum(map(len, parts))
        for _ in range(words):
            number = len(self.words)
            part = encode_word(1, number, number // 6 % 2)
            self.words.append((word_text(1, number), place))
            place += len(part)
            parts.append(part)
        parts.append(encode_silence(pause_ms * 16))
        self.said += np.concatenate(parts).tobytes()

    @precondition(_is_talking)
    @rule(size=st.sampled_from([320, 3_201, 9_999, 64_000]))
    def send(self, size: int) -> None:
        self._send(size)

    @precondition(_is_talking)
    @rule(seconds=st.sampled_from([0.5, 1.0, 2.7]))
    def send_some(self, seconds: float) -> None:
        """Whatever comes next finds it in the middle of an utterance, or of a word."""
        self._send(3_200, at_most=round(seconds * 32_000))

    def _send(self, size: int, at_most: int = 1 << 60) -> None:
        """As far as the credit goes."""
        session = self.desk.session
        at_most += session.frames_received * 2
        while self.is_attached and session.state is SessionState.OPEN:
            frame = session.frames_received
            if frame * 2 in self.skips:
                session.skip(self.skips[frame * 2], self.desk.now_ns)
                self.desk.settle()
                continue
            ends = [at for at in self.skips if at > frame * 2]
            end = min([len(self.said), session.credit_until_frame * 2, at_most, *ends])
            if end <= frame * 2:
                return
            packet = self.said[frame * 2 : min(end, frame * 2 + size)]
            self.desk.now_ns += len(packet) * 31_250
            self.desk.send(packet)
            if len(packet) % 2:
                at = frame * 2 + len(packet)
                self.desk.send(self.said[at : at + 1])

    @precondition(_is_talking_up_to_date)
    @rule(ms=st.sampled_from([20, 600]))
    def skip(self, ms: int) -> None:
        self.skips[len(self.said)] = ms
        self.said += bytes(ms * 32)
        self._send(3_200)

    @precondition(_is_talking_up_to_date)
    @rule()
    def flush(self) -> None:
        self.desk.session.flush()
        self.desk.settle()

    @precondition(_is_talking)
    @rule(prompt=st.sampled_from([None, "names"]))
    def configure(self, prompt: str | None) -> None:
        self.desk.session.configure(Configure(prompt=prompt))

    @precondition(_is_up_to_date)
    @rule(seconds=st.sampled_from([0.5, 3.0, 20.0]))
    def say_nothing(self, seconds: float) -> None:
        self.desk.wait(seconds)

    @precondition(_is_talking_up_to_date)
    @rule()
    def send_beyond_the_credit(self) -> None:
        session = self.desk.session
        if session.state is not SessionState.OPEN:
            return
        frames = session.frames_received
        too_many = session.credit_until_frame - frames + 1
        with pytest.raises(TooFast):
            session.receive_audio(bytes(2 * too_many), self.desk.now_ns)
        assert session.frames_received == frames

    @precondition(_is_talking_up_to_date)
    @rule()
    def end(self) -> None:
        self.has_ended = True
        self._end()

    def _end(self) -> None:
        self.desk.end()
        for _ in range(2):
            with pytest.raises(OutOfOrder):
                self.desk.session.receive_audio(bytes(2), self.desk.now_ns)

    # What its line does

    @precondition(lambda self: self.is_attached)
    @rule(is_torn=st.booleans())
    def lose_the_line(self, is_torn: bool) -> None:
        session = self.desk.session
        has_room = session.frames_received < session.credit_until_frame
        if is_torn and has_room and session.state is SessionState.OPEN:
            session.receive_audio(b"\x7f", self.desk.now_ns)  # half a frame, and no other half
        session.detach()
        self._note_told()
        self.is_attached = self.desk.is_reading = False
        self.is_undisturbed = False

    @precondition(lambda self: not self.is_attached)
    @rule()
    def come_back(self) -> None:
        last_seq = self.after_seq = len(self.told)
        self.desk._cursor = self.desk.session.log.cursor(last_seq)
        self.desk.session.attach(self.desk.now_ns, last_seq)
        self.is_attached = self.desk.is_reading = True
        self.desk.settle()
        self._send(3_200)
        if self.has_ended and self.desk.session.state is SessionState.OPEN:
            self._end()

    @precondition(lambda self: self.is_attached)
    @rule(is_slow=st.booleans())
    def read_slowly(self, is_slow: bool) -> None:
        self.desk.is_reading = not is_slow
        self.desk.settle()

    def _note_told(self) -> None:
        """Takes what the present connection gave."""
        events, self.desk.events = self.desk.events, []
        check_order(events, len(self.told))
        self.told += [event for event in events if isinstance(event, DurableEvent)]

    # What the server's parts do

    @rule(kinds=KINDS)
    def engines_fail(self, kinds: set[JobKind]) -> None:
        self.failing = kinds

    @rule(kinds=KINDS)
    def engines_are_slow(self, kinds: set[JobKind]) -> None:
        self.desk.holds = lambda job: job.kind in kinds

    @rule(newest_first=st.booleans())
    def late_answers_come(self, newest_first: bool) -> None:
        self.desk.answer_held(newest_first=newest_first)

    @rule(back=st.integers(1, 40))
    def an_answer_comes_again(self, back: int) -> None:
        """After it was taken, after it failed, or after its session went to another owner."""
        session, asked = self.desk.session, self.asked[-back:]
        for job in asked[:1]:
            if job.number not in session._pending:
                session.receive_result(job.number, [], 1, self.desk.now_ns)
                session.receive_failure(job.number)

    @rule(thinning=st.sampled_from([1.0, 2.5, 8.0]))
    def partials_are_thinned(self, thinning: float) -> None:
        self.desk.session.pace_partials(thinning)
        self.desk.settle()

    @rule(is_storing=st.booleans())
    def the_store_refuses(self, is_storing: bool) -> None:
        self.desk.is_storing = is_storing
        self.desk.settle()

    @rule()
    def the_server_dies(self) -> None:
        if any(isinstance(event, Done) for event in self.desk.stored):
            return  # it is over
        self._note_told()
        kept_frame = self.desk.session.stored_through_frame
        left_over = self.desk.held
        self.desk = self._owner(self.desk)
        assert self.desk.session.frames_received >= kept_frame, "acknowledged audio is asked for"
        for job in left_over:
            self.desk.session.receive_failure(job.number)
        self.is_attached = self.desk.is_reading = self.is_undisturbed = False
        self.credit_frame = 0
        self.come_back()

    # What always holds

    @invariant()
    def promises_are_kept(self) -> None:
        session = self.desk.session
        assert session.stored_through_frame >= self.acked_frame
        assert session.credit_until_frame >= self.credit_frame
        self.acked_frame = session.stored_through_frame
        self.credit_frame = session.credit_until_frame
        assert session.held_samples <= 24 * SAMPLE_RATE_HZ

    @invariant()
    def nothing_is_shown_before_it_is_stored(self) -> None:
        news = (event for event in self.desk.events if isinstance(event, DurableEvent))
        seen = [*self.told, *news]
        assert seen == self.desk.stored[: len(seen)]

    def teardown(self) -> None:
        """Nothing fails any more: there must be an end, with every word accounted for."""
        self.failing = set()
        self.desk.holds = lambda job: False
        self.desk.is_storing = True
        self.desk.settle()
        if not self.is_attached:
            self.come_back()
        self.desk.is_reading = True
        self.desk.answer_held()
        while not self._is_up_to_date():
            before = self.desk.session.frames_received
            self._send(6_400)
            assert self.desk.session.frames_received > before, "no credit, and nothing to wait for"
        self.desk.end()
        self.desk.wait(END_SECONDS)
        events = [*self.desk.events]
        if self.is_undisturbed:
            check_all(events)
        self._note_told()
        self._check_told()

    def _check_told(self) -> None:
        told: list[Event] = [*self.told]
        assert isinstance(told[-1], Done), "the session did not end"
        assert len(of_type(Done, told)) == 1
        for check in (check_order, check_values, check_captions, check_revisions):
            check(told)
        gaps = [gap.span for gap in of_type(Gap, told)]
        finals = [(word.text, word.span.start) for word in self._final_words()]
        expected = ((text, _start_beside(start, gaps)) for text, start in self.words)
        assert finals == [(text, start) for text, start in expected if start is not None]

    def _final_words(self) -> Iterator[CaptionWord]:
        for final in of_type(Final, self.told):
            yield from final.words


def _start_beside(start: int, gaps: list[Span]) -> int | None:
    """Where a word begins that was said at ``start``; None where a gap has its middle.

    A window that is lost may end inside a word, whose rest is in the next one.
    """
    middle = start + CARRIER_SAMPLES // 2
    if any(gap.start <= middle < gap.end for gap in gaps):
        return None
    return max([start, *(gap.end for gap in gaps if gap.end <= middle)])


SessionMachine.TestCase.settings = settings(
    max_examples=EXAMPLES,
    stateful_step_count=STEPS,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
TestSession = SessionMachine.TestCase
