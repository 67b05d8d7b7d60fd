"""What the recognizers have to do, and how late they are with it: measurements, kept purely.

Owns: the price of a window, what a second of audio asks for, how many sessions talk, and so the
share of the engines' time that these sessions need, or would with one more. Answers of engines,
audio and time are arguments.

The price of a window is that in a full call: engines that are busy all the time with half-empty
calls have room left. A session counts as far as its audio comes at the pace of speech, never for
more: an upload takes what is left. Thinning makes those partials rarer that follow the first one of
an utterance: these are counted as if nothing were thinned out, so that the need is the same
whatever is done about it.

Lateness counts from the arrival of audio; that of a burst (a short recording at full speed, what a
stalled network held back) from when it would have been spoken, so that one sender's haste is not
taken for an engine that cannot follow.

Invariants: M1 no need and no lateness without work; M2 what is remembered fades, with audio, calls
and time, so that an engine that has changed its pace is measured anew in a bounded time.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import exp

from streaming.jobs import PATIENCE_NS, Job, JobKind
from streaming.pacing import THINNING_MAX

PRICE_REMEMBERED_S = 20.0
"""Of calls: at least fifty fast ones, and slow ones for as long as anybody can wait."""
AUDIO_REMEMBERED_S = 600.0
"""Half a minute of twenty talkers: utterances and pauses of all kinds."""
AUDIO_UNKNOWN_S = 10.0
"""Taken as free of charge: a session's first call says little of what sessions cost."""
PACE_REMEMBERED_S = 10.0
RATE_REMEMBERED_S = 10.0
SPREAD_MIN = 0.05
"""Of sizes of calls, squared and against their mean: below it, nothing tells a call's own price
from that of its windows."""
_WORDS_PATIENCE_NS = PATIENCE_NS[JobKind.RECOGNIZE]
_ACTIVITY_PATIENCE_NS = PATIENCE_NS[JobKind.DETECT]


class WindowPrice:
    """Least squares over the latest calls: a call of x windows takes a + b x seconds."""

    def __init__(self, windows_max: int) -> None:
        self._windows_max = windows_max
        self._calls = self._x = self._y = self._xx = self._xy = 0.0
        """Sums that fade: calls, windows, seconds, and their products."""

    def note(self, windows: float, seconds: float) -> None:
        """A call has been answered."""
        keep = exp(-seconds / PRICE_REMEMBERED_S)
        terms = (1.0, windows, seconds, windows * windows, windows * seconds)
        sums = (self._calls, self._x, self._y, self._xx, self._xy)
        self._calls, self._x, self._y, self._xx, self._xy = (
            total * keep + term for total, term in zip(sums, terms, strict=True)
        )

    @property
    def call_s(self) -> float:
        """How long a call takes, lately."""
        return self._y / self._calls if self._calls else 0.0

    @property
    def seconds(self) -> float:
        """Of a window in a call that is full."""
        if self._x == 0:
            return 0.0
        windows = self._x / self._calls
        spread = self._xx / self._calls - windows**2
        slope = whole = self._y / self._x
        if spread > SPREAD_MIN * windows**2:
            slope = (self._xy / self._calls - windows * self.call_s) / spread
        slope = min(whole, max(0.0, slope))
        return slope + (self.call_s - slope * windows) / max(self._windows_max, windows)


class Talkers:
    """How many sessions talk at the pace of speech; a new one counts until it is seen not to."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[float, float]] = {}
        """Session → audio so far, pace; in seconds and seconds per second."""
        self._now_ns: int | None = None

    def note(self, audio_s: Mapping[str, float], now_ns: int) -> None:
        """What every session that may talk has received so far."""
        passed_s = 0.0 if self._now_ns is None else max(0, now_ns - self._now_ns) / 1e9
        self._now_ns = now_ns
        keep = exp(-passed_s / PACE_REMEMBERED_S)
        seen = {}
        for session_id, whole_s in audio_s.items():
            before_s, pace = self._seen.get(session_id, (whole_s, 1.0))
            if session_id in self._seen and passed_s > 0:
                fresh = min(1.0, max(0.0, whole_s - before_s) / passed_s)
                pace = pace * keep + fresh * (1 - keep)
            seen[session_id] = (whole_s, pace)
        self._seen = seen

    @property
    def count(self) -> float:
        return sum(pace for _, pace in self._seen.values())


class Rate:
    """How much of something there was per second, lately."""

    def __init__(self, now_ns: int) -> None:
        self._sum = 0.0
        self._now_ns = now_ns

    def note(self, amount: float, now_ns: int) -> None:
        self._sum = self._faded(now_ns) + amount
        self._now_ns = max(self._now_ns, now_ns)

    def per_second(self, now_ns: int) -> float:
        return self._faded(now_ns) / RATE_REMEMBERED_S

    def _faded(self, now_ns: int) -> float:
        return self._sum * exp(-max(0, now_ns - self._now_ns) / 1e9 / RATE_REMEMBERED_S)


@dataclass(frozen=True, slots=True)
class CallSize:
    """The windows of one call."""

    finals: int = 0
    first_partials: int = 0
    """Each the first of its utterance: thinning leaves them alone."""
    later_partials: int = 0


class EngineNeed:
    """Which share of the recognizers' time live sessions need."""

    def __init__(self, engines: int, windows_max: int, partial_windows: float) -> None:
        """A call holds ``windows_max`` full windows; a partial stands for ``partial_windows``."""
        self.price = WindowPrice(windows_max)
        self.talkers = Talkers()
        self._done_s: Mapping[str, float] = {}
        self._engines = engines
        self._partial_windows = partial_windows
        self._audio_s = self._fixed = self._thinned = 0.0

    def note_call(self, call: CallSize, seconds: float, thinning: float) -> None:
        """A call has been answered; partials were thinned out like this."""
        first = call.first_partials * self._partial_windows
        later = call.later_partials * self._partial_windows
        self.price.note(call.finals + first + later, seconds)
        self._fixed += call.finals + first
        self._thinned += later * thinning

    def note_audio(
        self, audio_s: Mapping[str, float], done_s: Mapping[str, float], now_ns: int
    ) -> None:
        """What every session has received so far, and how much of that is dealt with."""
        self.talkers.note(audio_s, now_ns)
        came_s = sum(
            max(0.0, whole_s - self._done_s.get(session_id, whole_s))
            for session_id, whole_s in done_s.items()
        )
        self._done_s = done_s
        keep = exp(-came_s / AUDIO_REMEMBERED_S)
        self._fixed, self._thinned = self._fixed * keep, self._thinned * keep
        self._audio_s = self._audio_s * keep + came_s

    def share(self, thinning: float, more_talkers: float = 0.0) -> float:
        """Of the engines' time, were partials thinned out so far; above 1 they cannot follow.

        0 while nobody talks: whether a single session is too much is for its user to say.
        """
        talkers = self.talkers.count
        windows = self._fixed + self._thinned / thinning
        per_second = windows / (self._audio_s + AUDIO_UNKNOWN_S)
        if talkers == 0:
            return 0.0
        return (talkers + more_talkers) * per_second * self.price.seconds / self._engines


class OpenWork:
    """Live work that has not been answered: how late the latest of it is; and open utterances."""

    def __init__(self) -> None:
        self._shown: dict[str, set[int]] = {}
        """Session → lanes with a partial since their last final."""
        self._open: dict[str, dict[int, int]] = {}
        """Session → job → when the last sample of its audio arrived, or was due after a burst."""

    def note_asked(self, jobs: Iterable[Job], now_ns: int) -> int:
        """Returns how many live finals of words are among them.

        Partials wait for nobody, and uploads for whatever is left: neither can be late. A packet
        leads to a job: this must be cheap.
        """
        finals = 0
        for job in jobs:
            kind = job.kind
            if kind is JobKind.RECOGNIZE:
                self._shown.setdefault(job.session_id, set())
                arrived_ns = job.deadline_ns - _WORDS_PATIENCE_NS
            elif kind is JobKind.DETECT:
                arrived_ns = job.deadline_ns - _ACTIVITY_PATIENCE_NS
            else:
                continue  # nobody waits for a speaker
            if not job.is_final or arrived_ns > now_ns:
                continue
            # Nobody can be expected to have dealt with a burst before it would have been spoken.
            arrived_ns = max(arrived_ns, job.paced_ns)
            finals += kind is JobKind.RECOGNIZE
            of_session = self._open.get(job.session_id)
            if of_session is None:
                of_session = self._open[job.session_id] = {}
            of_session[job.number] = arrived_ns
        return finals

    def note_answered(self, jobs: Iterable[Job]) -> None:
        """Or given up."""
        for job in jobs:
            of_session = self._open.get(job.session_id)
            if of_session is not None:
                of_session.pop(job.number, None)

    def sized(self, jobs: Iterable[Job]) -> CallSize:
        """Windows of a call that has been answered, by what they were to their utterances."""
        finals = first = later = 0
        for job in jobs:
            shown = self._shown.get(job.session_id, set())  # it may have gone meanwhile
            if job.is_final:
                finals += len(job.questions)
                shown.discard(job.lane)
            elif job.lane in shown:
                later += len(job.questions)
            else:
                first += len(job.questions)
                shown.add(job.lane)
        return CallSize(finals, first, later)

    def forget(self, session_id: str) -> None:
        """Nobody waits for its jobs."""
        self._open.pop(session_id, None)
        self._shown.pop(session_id, None)

    def late_s(self, now_ns: int) -> float:
        """Since the audio arrived that has waited longest; 0 where nothing waits."""
        every = (arrived for jobs in self._open.values() for arrived in jobs.values())
        return max(0, now_ns - min(every, default=now_ns)) / 1e9


class LoadMeter:
    """All that is measured of one server's engines, from their jobs and their answers."""

    def __init__(self, engines: int, windows_max: int, partial_windows: float, now_ns: int) -> None:
        """See ``EngineNeed``."""
        self.work = OpenWork()
        self.need = EngineNeed(engines, windows_max, partial_windows)
        self.thinning = 1.0
        """As sessions were told."""
        self._engines = engines
        self._needed_s, self._spared_s = Rate(now_ns), Rate(now_ns)
        self._activity_s = Rate(now_ns)
        self._asked, self._answered = Rate(now_ns), Rate(now_ns)
        """Finals."""

    def note_asked(self, jobs: Sequence[Job], now_ns: int) -> None:
        """They wait for an engine now."""
        finals = self.work.note_asked(jobs, now_ns)
        if finals:
            self._asked.note(finals, now_ns)

    def note_answers(
        self, answered: Sequence[Job], given_up: Sequence[Job], seconds: float, now_ns: int
    ) -> None:
        """What has come back of one call, which took so long."""
        self.work.note_answered(answered)
        self.work.note_answered(given_up)
        if answered and answered[0].kind is JobKind.RECOGNIZE:
            size = self.work.sized(answered)
            self.need.note_call(size, seconds, self.thinning)
            spared_s = seconds * size.later_partials / len(answered)
            self._spared_s.note(spared_s, now_ns)
            self._needed_s.note(seconds - spared_s, now_ns)
            live = sum(job.is_final and not job.is_ahead(now_ns) for job in answered)
            self._answered.note(live, now_ns)
        elif answered and answered[0].kind is JobKind.DETECT:
            self._activity_s.note(seconds, now_ns)

    def thinnest_share(self, now_ns: int) -> float:
        """Of the busiest engines' time: what was spent on answers lately that thinning partials out
        as far as possible would not save. An engine that hangs has answered nothing."""
        spared_s = self._spared_s.per_second(now_ns) * self.thinning / THINNING_MAX
        words = (self._needed_s.per_second(now_ns) + spared_s) / self._engines
        return max(words, self._activity_s.per_second(now_ns))

    def left_share(self, now_ns: int) -> float:
        """Of the live finals that were asked for lately, as many as were not answered meanwhile."""
        asked = self._asked.per_second(now_ns)
        return max(0.0, 1 - self._answered.per_second(now_ns) / asked) if asked > 0 else 0.0
