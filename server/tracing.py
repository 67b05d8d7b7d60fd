"""What happened to each utterance, from the question about it to the caption that was sent.

Owns what is known of utterances that are on their way: it watches calls that others make, and
forgets what does not come back. ``tracing_export.py`` makes spans of it.
Invariants: T1 a trace holds ids, counts and times, never text; T2 at most ``OPEN_MAX`` utterances
are remembered, the oldest are given up; T3 no span is longer than an utterance's way: a session or
a socket is none; T4 nothing waits for a trace.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from server.dispatch import Outcome
from server.hub import Hub
from streaming.events import Event, Final
from streaming.jobs import Job, JobKind
from streaming.timeline import SAMPLE_RATE_HZ

OPEN_MAX = 4_096
"""About 1 kB each, those of 300 sessions in a quarter of a minute."""


@dataclass(frozen=True, slots=True)
class Part:
    """One thing that was done, on the monotonic clock."""

    name: str
    start_ns: int
    end_ns: int
    parts: tuple["Part", ...] = ()


@dataclass(slots=True)
class Utterance:
    """A final on its way; a question may lead to several, or to none."""

    session_id: str
    lane: int
    audio_samples: int
    asked_ns: int
    batch_jobs: int = 0
    called_ns: int | None = None
    answered_ns: int | None = None
    engine_parts: tuple[tuple[str, int], ...] = ()
    """What the engine says of its own time, for the whole batch: name, nanoseconds."""
    attributed: Part | None = None
    stored: Part | None = None
    seq: int = 0
    caption_id: str = ""
    words: int = 0

    def trail(self, sent_ns: int) -> list[Part]:
        """What was done, in order."""
        found = []
        if self.called_ns is not None and self.answered_ns is not None:
            found.append(Part("queue", self.asked_ns, self.called_ns))
            inside = tuple(_one_after_the_other(self.engine_parts, self.called_ns))
            found.append(Part("recognize", self.called_ns, self.answered_ns, inside))
        found += [part for part in (self.attributed, self.stored) if part is not None]
        since_ns = max((part.end_ns for part in found), default=self.asked_ns)
        return [*found, Part("send", min(since_ns, sent_ns), sent_ns)]

    @property
    def facts(self) -> dict[str, str | int | float]:
        """For whoever looks at the trace."""
        return {
            "captiond.session_id": self.session_id,
            "captiond.lane": self.lane,
            "captiond.caption_id": self.caption_id,
            "captiond.seq": self.seq,
            "captiond.words": self.words,
            "captiond.audio_seconds": round(self.audio_samples / SAMPLE_RATE_HZ, 3),
            "captiond.batch_jobs": self.batch_jobs,
        }


def _one_after_the_other(parts: Iterable[tuple[str, int]], start_ns: int) -> Iterator[Part]:
    for name, took_ns in parts:
        yield Part(name, start_ns, start_ns + took_ns)
        start_ns += took_ns


Told = Callable[[Utterance, int], None]
"""Takes an utterance whose caption was sent, and when that was."""
Clock = Callable[[], int]


@dataclass(slots=True)
class UtteranceTracer:
    """Watches one server."""

    told: Told
    clock: Clock = time.monotonic_ns
    _asked: dict[tuple[str, int], tuple[Job, Utterance]] = field(default_factory=dict)
    """By session and number of the job."""
    _by_question: dict[int, Utterance] = field(default_factory=dict)
    """By identity of the job's question, which its job keeps in memory."""
    _captions: dict[tuple[str, int], Utterance] = field(default_factory=dict)
    """By session and seq of the final."""
    given_up: int = 0
    """Utterances that were forgotten because too many were open."""

    def asked(self, jobs: Iterable[Job]) -> None:
        """They wait for an engine now."""
        for job in jobs:
            if job.kind is JobKind.RECOGNIZE and job.is_final:
                utterance = Utterance(job.session_id, job.lane, job.audio_samples, self.clock())
                self._asked[job.session_id, job.number] = (job, utterance)
                self._by_question[id(job.questions[0])] = utterance
        while len(self._asked) > OPEN_MAX:
            self._take(next(iter(self._asked)))
            self.given_up += 1

    @contextmanager
    def calling(self, questions: Sequence[Any]) -> Iterator[Callable[[Mapping[str, int]], None]]:
        """Around a call of an engine; what is yielded takes the engine's own account of it."""
        called_ns = self.clock()
        heard: dict[str, int] = {}
        yield heard.update
        answered_ns = self.clock()
        for question in questions:
            utterance = self._by_question.get(id(question))
            if utterance is not None:
                utterance.called_ns, utterance.answered_ns = called_ns, answered_ns
                utterance.engine_parts = tuple(heard.items())
                utterance.batch_jobs = len(questions)

    @contextmanager
    def delivering(self, outcomes: Sequence[Outcome], hub: Hub) -> Iterator[None]:
        """Around what makes captions of answers."""
        taken = [(o, self._take((o.job.session_id, o.job.number))) for o in outcomes]
        answered = [(o.job, u) for o, u in taken if u is not None and o.answers is not None]
        before = {job.session_id: _last_seq(hub, job.session_id) for job, _ in answered}
        start_ns = self.clock()
        yield
        attributed = Part("attribute", start_ns, self.clock())
        for job, utterance in answered:
            for final in _finals_after(hub, job, before[job.session_id]):
                self._note_final(utterance, final, attributed)

    def _note_final(self, utterance: Utterance, final: Final, attributed: Part) -> None:
        key = (utterance.session_id, final.seq)
        if key in self._captions:
            return  # two questions of one lane were answered together: the first one's
        utterance.seq, utterance.caption_id = final.seq, final.caption_id
        utterance.words, utterance.attributed = len(final.words), attributed
        self._captions[key] = utterance
        while len(self._captions) > OPEN_MAX:
            del self._captions[next(iter(self._captions))]
            self.given_up += 1

    @contextmanager
    def storing(self, session_id: str, events: Sequence[Mapping[str, Any]]) -> Iterator[None]:
        """Around a write; one that fails is tried again, and the last try is what counts."""
        start_ns = self.clock()
        yield
        stored = Part("store", start_ns, self.clock())
        for event in events:
            utterance = self._captions.get((session_id, event["seq"]))
            if utterance is not None:
                utterance.stored = stored

    def sent(self, session_id: str, event: Event) -> None:
        """To the talker."""
        if isinstance(event, Final):
            utterance = self._captions.pop((session_id, event.seq), None)
            if utterance is not None:
                self.told(utterance, self.clock())

    def forget(self, session_id: str) -> None:
        """The session is gone: nobody will be sent anything."""
        for key in [key for key in self._asked if key[0] == session_id]:
            self._take(key)
        for key in [key for key in self._captions if key[0] == session_id]:
            del self._captions[key]

    def _take(self, key: tuple[str, int]) -> Utterance | None:
        job, utterance = self._asked.pop(key, (None, None))
        if job is not None:
            self._by_question.pop(id(job.questions[0]), None)
        return utterance


def _last_seq(hub: Hub, session_id: str) -> int:
    live = hub.find(session_id)
    return 0 if live is None else live.session.log.last_seq


def _finals_after(hub: Hub, job: Job, seq: int) -> list[Final]:
    """Of the job's lane, that are new, and so not stored yet."""
    live = hub.find(job.session_id)
    hidden = () if live is None else live.session.log.hidden
    return [
        event
        for event in hidden
        if isinstance(event, Final) and event.seq > seq and event.lane == job.lane
    ]
