"""What is counted beside captioning: totals of sessions while they run, usage by API key.

Owns the bookkeeping between the server's parts and its metrics, so that those who caption need not
know of it. Decides nothing.
Invariants: B1 a counter never falls, whatever begins, moves between servers or ends; B2 at most
``KEYS_SHOWN_MAX`` names of keys become labels, all of them the operator's own.
"""

from collections.abc import Callable, Iterable
from typing import Protocol

from server.auth import LOCAL_TENANT
from server.config import Settings, name_and_key
from server.dispatch import Outcome
from server.hub import PROTOCOL, Hub
from server.live import Ending, LiveSession
from server.metrics.making import LiveCounter
from server.store import Resumable, TranscriptStore
from server.telemetry import Metrics
from streaming.checkpoint import Checkpoint
from streaming.errors import CaptiondError
from streaming.jobs import PATIENCE_NS, JobKind
from streaming.timeline import SAMPLE_RATE_HZ
from streaming.wire import Ready, Start

KEYS_SHOWN_MAX = 100
"""Three series each."""
OTHER_KEYS = "other"
"""Of those beyond; together."""

Parts = dict[tuple[str, ...], float]
"""Label values → how much."""
PartsOf = Callable[[LiveSession], Parts]


def _captioned(live: LiveSession) -> Parts:
    return {(): live.session.stats.decoded_samples / SAMPLE_RATE_HZ}


def _silent(live: LiveSession) -> Parts:
    return {(): live.session.silent_samples / SAMPLE_RATE_HZ}


def _dropped(live: LiveSession) -> Parts:
    gaps = live.session.stats.gap_samples
    return {(reason.value,): samples / SAMPLE_RATE_HZ for reason, samples in gaps.items()}


def _guards(live: LiveSession) -> Parts:
    return {(guard,): float(finals) for guard, finals in live.session.stats.guards_fired.items()}


def _superseded(live: LiveSession) -> Parts:
    return {(): float(live.session.stats.superseded_results)}


def _stable_changed(live: LiveSession) -> Parts:
    return {(): float(live.session.stats.broken_stable_words)}


def _chunks_dropped(live: LiveSession) -> Parts:
    return {(): float(live.session.stats.dropped_chunks)}


def _revisions(live: LiveSession) -> Parts:
    return {(): float(live.session.stats.revisions)}


def _words_revised(live: LiveSession) -> Parts:
    return {(): float(live.session.stats.revised_words)}


def audio_seconds(live: LiveSession) -> float:
    """That a session has received, on this server or before."""
    return live.session.frames_received / live.session.start.audio.sample_rate


class KeyNames:
    """The label of a tenant."""

    def __init__(self, settings: Settings) -> None:
        names = dict.fromkeys(name_and_key(key)[0] for key in settings.api_keys) or {LOCAL_TENANT}
        self.shown = tuple(names)[:KEYS_SHOWN_MAX]
        """In the order of the settings."""
        self._known = frozenset(self.shown)

    def label(self, tenant: str) -> str:
        return tenant if tenant in self._known else OTHER_KEYS


class SessionTotals:
    """One counter of what sessions count by themselves."""

    def __init__(self, counter: LiveCounter, parts_of: PartsOf, hub: Hub) -> None:
        self._counter = counter
        self._parts_of = parts_of
        self._hub = hub
        self._inherited: Parts = {}
        """What sessions had counted elsewhere before they came here."""
        counter.live = self._live

    def inherit(self, live: LiveSession) -> None:
        """It comes from another server, or from one that this one follows."""
        for labels, amount in self._parts_of(live).items():
            self._inherited[labels] = self._inherited.get(labels, 0.0) + amount

    def settle(self, live: LiveSession) -> None:
        """It is over: what it has counted stays in the counter."""
        for labels, amount in self._parts_of(live).items():
            (self._counter.labels(*labels) if labels else self._counter).inc(amount)

    def _live(self) -> Parts:
        total = {labels: -amount for labels, amount in self._inherited.items()}
        for live in self._hub.sessions:
            if is_counted(live):
                for labels, amount in self._parts_of(live).items():
                    total[labels] = total.get(labels, 0.0) + amount
        return total


def is_counted(live: LiveSession) -> bool:
    """False for one that had ended before it came here, for a client that missed the end."""
    return live.record.state == "open"


class SessionWatch(Protocol):
    """Is told of the sessions that come and go."""

    def session_accepted(self, session_id: str) -> None: ...

    def session_over(self, session_id: str) -> None: ...


class CountingHub(Hub):
    """Keeps account of the sessions that come and go."""

    watch: SessionWatch | None = None

    def __init__(self, settings: Settings, store: TranscriptStore, metrics: Metrics) -> None:
        super().__init__(settings, store, metrics)
        self._keys = KeyNames(settings) if settings.usage_metrics else None
        told_at_end = {
            metrics.audio_silent_seconds: _silent,
            metrics.audio_dropped_seconds: _dropped,
            metrics.guards_fired: _guards,
            metrics.results_superseded: _superseded,
            metrics.stable_words_changed: _stable_changed,
        }
        """``LiveSession`` tells these counters when it ends."""
        settled_here: dict[LiveCounter, PartsOf] = {
            metrics.audio_captioned_seconds: _captioned,
            metrics.speaker_chunks_dropped: _chunks_dropped,
            metrics.revisions: _revisions,
            metrics.words_revised: _words_revised,
        }
        if self._keys is not None:
            settled_here[metrics.key_audio_seconds] = self._audio_of_key
            for name in self._keys.shown:
                metrics.key_sessions.labels(name)
                metrics.key_sessions_active.labels(name)
        self._settled_here = [SessionTotals(c, parts, self) for c, parts in settled_here.items()]
        self._totals = [SessionTotals(c, parts, self) for c, parts in told_at_end.items()]
        self._totals += self._settled_here

    def _audio_of_key(self, live: LiveSession) -> Parts:
        assert self._keys is not None
        return {(self._keys.label(live.record.tenant),): audio_seconds(live)}

    async def open(
        self, start: Start, tenant: str, *, protocol: str = PROTOCOL
    ) -> tuple[LiveSession, Ready]:
        """As ``Hub.open``."""
        live, ready = await super().open(start, tenant, protocol=protocol)
        if self.watch is not None:
            self.watch.session_accepted(live.id)
        if self._keys is not None:
            self.metrics.key_sessions.labels(self._keys.label(tenant)).inc()
            self._count_active(live)
        return live, ready

    def adopt(self, left: Resumable, checkpoint: Checkpoint | None) -> LiveSession:
        """As ``Hub.adopt``."""
        live = super().adopt(left, checkpoint)
        if self.watch is not None:
            self.watch.session_accepted(live.id)
        if is_counted(live):
            for total in self._totals:
                total.inherit(live)
        self._count_active(live)
        return live

    def forget(
        self, live: LiveSession, ending: Ending, reason: CaptiondError | None = None
    ) -> None:
        """As ``Hub.forget``."""
        is_here = self.find(live.id) is live
        super().forget(live, ending, reason)
        if self.watch is not None and is_here:
            self.watch.session_over(live.id)
        if is_here and is_counted(live):
            for total in self._settled_here:
                total.settle(live)
        self._count_active(live)

    def _count_active(self, live: LiveSession) -> None:
        if self._keys is None:
            return
        key = self._keys.label(live.record.tenant)
        count = sum(self._keys.label(each.record.tenant) == key for each in self.sessions)
        self.metrics.key_sessions_active.labels(key).set(count)


def note_outcomes(metrics: Metrics, outcomes: Iterable[Outcome], now_ns: int) -> None:
    """Answers of engines, or jobs that got none."""
    for outcome in outcomes:
        job = outcome.job
        if outcome.answers is None:
            metrics.jobs_failed.labels(job.stage.value).inc()
        elif job.kind is JobKind.OBSERVE and not job.is_ahead(now_ns):
            arrived_ns = job.deadline_ns - PATIENCE_NS[JobKind.OBSERVE]
            metrics.diarization_lag_seconds.observe((now_ns - arrived_ns) / 1e9)
