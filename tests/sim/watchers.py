"""What must hold while a world runs, whatever happens in it; apart from the code it checks.

Each check raises a ``Violation`` that carries the check's name and a sentence of what is wrong.
What must hold of a finished session's events is in ``checkers``.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import wraps
from itertools import zip_longest
from typing import ParamSpec

from streaming.engines import ACTIVITY_FRAME_SAMPLES, ActivityWindow, SpeechWindow
from streaming.events import DurableEvent, Event, Final, Gap
from streaming.grid_speakers import GridTracker
from streaming.jobs import Job
from streaming.session import BUFFER_MARGIN_SAMPLES, Session
from streaming.timeline import SAMPLES_PER_MS, Span
from streaming.wire import Ack, Start, encode_event
from tests.sim.script import Script, SpokenWord

DRAIN_TAIL_SAMPLES = 250 * SAMPLES_PER_MS
"""Of each lane, what may be left to the next server: the onset of a word, or one that a broken line
may have cut off."""

P = ParamSpec("P")


class Violation(Exception):
    """A promise that was not kept."""

    def __init__(self, check: str, sentence: str) -> None:
        super().__init__(f"{check}: {sentence}")
        self.check = check


def check(function: Callable[P, None]) -> Callable[P, None]:
    """Gives the assertions of a check its name."""

    @wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            function(*args, **kwargs)
        except AssertionError as error:
            raise Violation(function.__name__, str(error)) from error

    return checked


@check
def check_bounds(session: Session, buffer_samples: int) -> None:
    """Audio in memory and the log stay within their bounds."""
    by_lane, log = [lane.stored_samples for lane in session._lanes.values()], session.log
    # Tagged lanes share their bounds; channels fill up side by side.
    held = sum(by_lane) / max(1, len(by_lane)) if session.start.audio.tagged else max(by_lane)
    assert held <= buffer_samples + BUFFER_MARGIN_SAMPLES, f"{held} samples are held in a lane"
    visible = log.visible_end - log._base
    assert visible <= log._entries_max, f"{visible} stored events are held in memory"
    assert session.stored_through_frame <= session.frames_received, "acknowledged before received"


@check
def check_congestion(credit_before: int | None, credit_now: int, frames_received: int) -> None:
    """While the store takes nothing, no more audio is asked for; a mute moves the clock on."""
    is_held = credit_before is None or credit_now <= max(credit_before, frames_received)
    assert is_held, f"credit went from {credit_before} to {credit_now} while the log was congested"


def is_congested(session: Session) -> bool:
    """More events wait for the store than the log may keep."""
    log = session.log
    return log._end - log.visible_end > log._entries_max


@check
def check_rows(rows: int, events: Sequence[DurableEvent]) -> None:
    """The store is given durable events gap-free, from 1."""
    given = [event.seq for event in events]
    assert given == [*range(rows + 1, rows + 1 + len(events))], f"{given} after {rows} rows"


@check
def check_queue(depth_jobs: int, jobs_max: int) -> None:
    """No more jobs wait for an engine than may."""
    assert depth_jobs <= jobs_max, f"{depth_jobs} jobs wait where {jobs_max} may"


@check
def check_question(job: Job, start: Start, cap_samples: int) -> None:
    """Engines are asked what the client wants, about as much audio as they can take."""
    for question in job.questions:
        if isinstance(question, SpeechWindow):
            assert 0 < len(question.samples) <= cap_samples, f"{len(question.samples)} samples"
            assert question.task == start.task, f"asked to {question.task}, not {start.task}"
            assert job.is_final or start.partials, "a partial that nobody wants"
        elif isinstance(question, ActivityWindow):
            assert len(question.samples) % ACTIVITY_FRAME_SAMPLES == 0, "not whole frames"
        else:
            assert start.diarize, "the diarizer is asked, and nobody wants speakers"


@check
def check_in_flight(jobs: Iterable[Job]) -> None:
    """A lane asks each engine one thing at a time (of the recognizer: a final and a partial)."""
    asked = Counter((job.lane, job.kind, job.is_final) for job in jobs)
    assert all(n == 1 for n in asked.values()), f"asked more than once at a time: {asked}"


@check
def check_chunks(taken: set[Span], chunks: Iterable[Span]) -> None:
    """The diarizer is asked about each chunk of a lane once; ``taken`` remembers them."""
    for chunk in chunks:
        assert chunk not in taken, f"the diarizer is asked about {chunk} again"
        taken.add(chunk)


@check
def check_evidence(session: Session) -> None:
    """On a grid, evidence is that of chunks that are held, and of no other ones."""
    for lane in session._lanes.values():
        tracker = lane._speakers._tracker
        if isinstance(tracker, GridTracker):
            chunks = [*tracker._chunks, *([tracker._provisional] if tracker._provisional else [])]
            held = {id(item) for chunk in chunks for item in chunk.evidence}
            items = {id(item) for item in tracker._evidence._items}
            assert items <= held, f"evidence of {len(items - held)} voices of no chunk"


@check
def check_stored(news: Sequence[Event], rows: Sequence[bytes]) -> None:
    """What a reader is given is in the store, in the very same words."""
    for event in news:
        if isinstance(event, DurableEvent):
            assert event.seq <= len(rows), f"{event} is shown, and not stored"
            stored = rows[event.seq - 1]
            assert encode_event(event) == stored, f"{event} is shown, {stored!r} is stored"


@check
def check_reading(read: Sequence[Event], stored: Sequence[DurableEvent]) -> None:
    """A reader that was told of the end has read every durable event once, in order."""
    durable = [event for event in read if isinstance(event, DurableEvent)]
    for got, put in zip_longest(durable, stored):
        assert got == put, f"{got} was read where {put} is stored"


class Acknowledgements:
    """What a client was told that it may forget, against what the store holds."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self._last = Ack(0, 0)
        self._seen = 0
        self._words: dict[int, set[str]] = {lane: set() for lane in script.spoken}
        self._gaps: dict[int, list[Span]] = {lane: [] for lane in script.spoken}
        self._next = dict.fromkeys(script.spoken, 0)

    def forget_credit(self) -> None:
        """The server died: the next one gives credit of its own."""
        self._last = Ack(self._last.stored_through_frame, 0)

    def check(
        self,
        ack: Ack,
        frames_received: int,
        stored: Sequence[DurableEvent],
        excuses: Callable[[int], list[Span]],
    ) -> None:
        """Also that neither figure ever goes back."""
        check_ack_order(self._last, ack, frames_received)
        self._last = ack
        self._take(stored)
        if self._script.is_exact:
            for lane in self._next:
                self._check_lane(lane, ack.stored_through_frame, excuses(lane))

    def check_drained(
        self,
        frames_received: int,
        stored: Sequence[DurableEvent],
        excuses: Callable[[int], list[Span]],
    ) -> None:
        """A server goes that had received so much when it was told to, and had the time."""
        self._take(stored)
        through = frames_received - DRAIN_TAIL_SAMPLES * len(self._next)
        for lane, spoken in self._script.spoken.items() if self._script.is_exact else ():
            for word in spoken:
                if word.sent_frame <= through:
                    check_drain(word.text, self._is_safe(lane, word, excuses(lane)))

    def _take(self, stored: Sequence[DurableEvent]) -> None:
        for event in stored[self._seen :]:
            if isinstance(event, Final):
                self._words[event.lane].update(word.text for word in event.words)
            elif isinstance(event, Gap):
                self._gaps[event.lane].append(event.span)
        self._seen = len(stored)

    def _check_lane(self, lane: int, through: int, excuses: list[Span]) -> None:
        spoken = self._script.spoken[lane]
        while self._next[lane] < len(spoken) and spoken[self._next[lane]].sent_frame <= through:
            word = spoken[self._next[lane]]
            check_ack_is_safe(word.text, through, self._is_safe(lane, word, excuses))
            self._next[lane] += 1

    def _is_safe(self, lane: int, word: SpokenWord, excuses: list[Span]) -> bool:
        excused = any(word.span.overlap_samples(e) for e in (*excuses, *self._gaps[lane]))
        return word.text in self._words[lane] or excused


@check
def check_ack_order(last: Ack, ack: Ack, frames_received: int) -> None:
    """Acknowledgement and credit only grow."""
    assert ack.stored_through_frame >= last.stored_through_frame, f"{last}, then {ack}"
    assert ack.credit_until_frame >= last.credit_until_frame, f"{last}, then {ack}"
    assert ack.stored_through_frame <= frames_received, f"{ack} of {frames_received} frames"


@check
def check_drain(text: str, is_safe: bool) -> None:
    """What a server had received when it was told to go is in the store as words, or as a gap."""
    assert is_safe, f"{text} was received before the server was told to go, and is not stored"


@check
def check_ack_is_safe(text: str, through: int, is_safe: bool) -> None:
    """Whatever a client may forget is in the store as words, or as a gap."""
    assert is_safe, f"{text} lies before acknowledged frame {through}, and is not stored"
