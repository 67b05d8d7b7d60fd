"""A whole world from one seed: sessions, clients, engines, store; run to its end and checked.

First faults are on; then they are off, and every session must end within a bound of virtual time.
"""

import hashlib
import traceback
from collections import Counter
from dataclasses import dataclass, replace

from streaming.events import (
    Degraded,
    Event,
    Gap,
    Lag,
    LanguageDetected,
    Partial,
    Revision,
    SessionStage,
)
from streaming.timeline import SAMPLE_RATE_HZ
from tests.sim import checkers
from tests.sim.engines import Asker, Stage
from tests.sim.host import Host
from tests.sim.readers import Viewer
from tests.sim.script import draw_hints, draw_script
from tests.sim.store import Store
from tests.sim.tagged import draw_tagged
from tests.sim.talker import Talker
from tests.sim.watchers import Violation, check, check_reading
from tests.sim.weather import Fault, Way, Weather
from tests.sim.world import SECOND, World

CLOSING_SECONDS_MAX = 600
"""Virtual time after the last audio, in calm weather, in which every session must have closed."""
STEPS_MAX = 1_000_000
"""Far more than the liveliest world needs."""
NOTHING_BREAKS = "nothing_breaks"
"""The check that a session raises nothing but the errors it documents."""

_WAY_OF_EVENT: dict[type[Event], Way] = {
    Gap: Way.GAP,
    Revision: Way.REVISION,
    Lag: Way.LAG,
    Degraded: Way.DEGRADED,
    LanguageDetected: Way.LANGUAGE_DETECTED,
}


@dataclass(frozen=True, slots=True)
class Report:
    """What became of one seed."""

    seed: int
    weather: Weather
    lines: tuple[str, ...]
    """All that clients read, and each fault."""
    sessions: int
    events: int
    audio_seconds: float
    faults: Counter[Fault]
    ways: Counter[Way]
    check: str | None
    """The check that failed; None where all is well."""
    failure: str = ""
    """With the traceback."""

    @property
    def last_word(self) -> str:
        """The failure in one line."""
        lines = self.failure.strip().splitlines()
        return lines[-1] if lines else "all is well"

    @property
    def digest(self) -> str:
        return hashlib.sha256("\n".join(self.lines).encode()).hexdigest()[:16]


class SessionWorld:
    """See the module's docstring."""

    def __init__(self, seed: int) -> None:
        self.world = world = World(seed)
        lots = world.lots("sessions")
        self._store = Store(world)
        askers: dict[str, Asker] = {}
        stages = {stage: Stage(stage, world, askers) for stage in SessionStage}
        count = lots.choice([1, 1, 2, 2, 4])
        if count > 1:
            world.go(Way.SEVERAL_SESSIONS)
        self.hosts = []
        self._talkers = []
        self._recorders = []
        for index in range(count):
            own = world.lots(f"script {index}")
            draw = draw_tagged if own.random() < 0.2 else draw_script
            script = draw(own, index + 1)
            start = draw_hints(world.lots(f"hints {index}"), script.start)
            script = replace(script, start=start)
            host = Host(world, index, script, stages, self._store)
            askers[host.id] = host
            self.hosts.append(host)
            self._talkers.append(Talker(world, index, host, self._store))
            self._recorders.append(self._view(host, 0))
            world.after(lots.randrange(SECOND), self._talkers[-1].connect)
            self._plan(host)
            self._note_options(host)
        self._plan_crashes()

    def _view(self, host: Host, after_seq: int) -> Viewer:
        lots = self.world.lots(f"viewer {host.id} {len(host.viewers)}")
        viewer = Viewer(self.world, host, self._store, lots)
        viewer.begin(after_seq)
        host.viewers.append(viewer)
        viewer.wake()
        return viewer

    def _plan(self, host: Host) -> None:
        """Viewers who come later, and a server that goes away."""
        lots = self.world.lots(f"plan {host.id}")
        if lots.random() < 0.3:
            self.world.go(Way.VIEWER)
            come_ns = lots.randrange(30 * SECOND)
            at = lots.random()

            def come() -> None:
                if not host.is_down:
                    self._view(host, int(at * host.session.log.stored_seq))

            self.world.after(come_ns, come)
        if lots.random() < 0.2:
            seconds = lots.choice([1, 5, 25])
            self.world.after(lots.randrange(20 * SECOND), lambda: host.drain(seconds))

    def _plan_crashes(self) -> None:
        lots = self.world.lots("server crashes")
        for _ in range(self.world.weather.server_crashes):
            self.world.after(lots.randrange(40 * SECOND), self._crash)

    def _crash(self) -> None:
        """The server dies: all sessions of it."""
        if not self.world.is_calm:
            self.world.note(Fault.SERVER_CRASH)
            for host in self.hosts:
                host.crash()

    def _note_options(self, host: Host) -> None:
        start, go = host.script.start, self.world.go
        audio = start.audio
        found = {
            Way.CHANNELS: audio.channels > 1,
            Way.NAMED_LANE: any(host.script.names.values()),
            Way.TAGGED: audio.tagged,
            Way.FLOATS: audio.encoding == "pcm_f32le",
            Way.COMPANDED: audio.encoding in ("mulaw", "alaw"),
            Way.RESAMPLED: audio.sample_rate != SAMPLE_RATE_HZ,
            Way.FILE_SPEED: not host.script.is_live,
            Way.NO_DIARIZER: not start.diarize,
            Way.GRID: start.diarize and host.has_grid,
            Way.HINTS: bool(start.speakers or start.speakers_min or start.speakers_max),
            Way.NO_PARTIALS: not start.partials,
            Way.TUNED: start.max_delay_ms is not None or start.endpointing_ms is not None,
            Way.STABLE_ONLY: bool(start.stable_only),
            Way.TRANSLATE: start.task == "translate",
        }
        for way, is_gone in found.items():
            if is_gone:
                go(way)

    def run(self) -> None:
        """Until nothing is left to happen. Raises: Violation."""
        world, limit_ns = self.world, 0
        calm_after_ns = int(world.weather.calm_after_s * SECOND)
        while world.step():
            have_all_stopped = all(talker.has_stopped for talker in self._talkers)
            world.is_calm = world.is_calm or have_all_stopped or world.now_ns > calm_after_ns
            if have_all_stopped and not limit_ns:
                limit_ns = world.now_ns + CLOSING_SECONDS_MAX * SECOND
            check_progress(world.steps)
            if limit_ns and world.now_ns > limit_ns:
                break
        self._check_ends()
        for host, talker, recorder in zip(self.hosts, self._talkers, self._recorders, strict=True):
            self._check(host, recorder)
            talker.check()

    def _check_ends(self) -> None:
        check_ends([host.id for host in self.hosts if not host.is_over and not host.is_down])
        returned = (t for t in self._talkers if not t.is_gone)
        check_told([t.name for t in returned if not t.is_told])

    def _check(self, host: Host, recorder: Viewer) -> None:
        stored, books, script = self._store.events(host.id), host.books, host.script
        if host.is_down:
            self.world.go(Way.INTERRUPTED)
            checkers.check_order(stored)
            checkers.check_captions(stored, is_language_fixed=False)
            return
        for viewer in host.viewers:
            check_reading(viewer.read, stored[viewer.after_seq :])
            checkers.check_order(viewer.read, viewer.after_seq)
        events = recorder.read
        for event in events:
            self._note_event(event)
        checkers.check_wire(events)
        checkers.check_values(events)
        is_language_fixed = not books.is_reconfigured and not books.lies
        checkers.check_captions(events, is_language_fixed=is_language_fixed)
        checkers.check_revisions(events)
        checkers.check_closing(events)
        checkers.check_gaps(events, books.lost_finals)
        checkers.check_speakers(events, script.names)
        checkers.check_late_answers(host.session.stats.superseded_results, books.stale_answers)
        check_sent(host.has_expired, host.session.frames_received, script.frames)
        if not host.has_expired:
            checkers.check_length(events, script.samples)
        if host.has_long_log and not recorder.was_behind:
            # What a server that died had shown is made anew by the next one.
            checkers.check_partials(events[recorder.since_takeover :])
            if not host.crashes:
                checkers.check_speech(events)
        if script.is_exact:
            self._check_words(host, events)

    def _check_words(self, host: Host, events: list[Event]) -> None:
        frames, books = host.session.frames_received, host.books
        before = self._store.events(host.id)[: books.rows_before]
        for lane, spoken in host.script.spoken.items():
            # A word that is cut by the end of the audio has none of its text, or all of it.
            arrived = checkers.arrived_words(
                spoken, lane, frames, before, books.frames_heard_before
            )
            lies = books.lies.get(lane, [])
            checkers.check_words(events, lane, arrived, books.cuts(lane), lies)
            if not host.is_well_diarized or host.script.names[lane] is not None:
                continue
            if host.has_grid:
                checkers.check_named(events, lane, arrived, host.hop_samples)
            if not host.has_too_few_voices:
                checkers.check_voices(events, lane, arrived)

    def _note_event(self, event: Event) -> None:
        way = _WAY_OF_EVENT.get(type(event))
        if way is not None:
            self.world.go(way)
        if isinstance(event, Partial) and not event.words:
            self.world.go(Way.WITHDRAWAL)

    def report(self, error: Exception | None) -> Report:
        world = self.world
        return Report(
            seed=world.seed,
            weather=world.weather,
            lines=tuple(world.lines),
            sessions=len(self.hosts),
            events=sum(len(recorder.read) for recorder in self._recorders),
            audio_seconds=sum(
                host.session.frames_received / host.script.start.audio.sample_rate
                for host in self.hosts
            ),
            faults=world.faults,
            ways=world.ways,
            check=_check_of(error),
            failure="".join(traceback.format_exception(error)) if error else "",
        )


def _check_of(error: Exception | None) -> str | None:
    if error is None:
        return None
    return error.check if isinstance(error, Violation) else NOTHING_BREAKS


@check
def check_progress(steps: int) -> None:
    """Things happen, but not for ever: sessions and clients do not keep each other busy."""
    assert steps <= STEPS_MAX, f"{steps} things have happened, and no end is in sight"


@check
def check_ends(running: list[str]) -> None:
    """Every session ends, and its last event is stored."""
    assert not running, f"sessions {running} did not end"


@check
def check_told(untold: list[str]) -> None:
    """Every client that comes back is told of the end."""
    assert not untold, f"clients {untold} were never told of the end"


@check
def check_sent(has_expired: bool, frames_received: int, frames_sent: int) -> None:
    """All that a client has sent to the end has arrived, once."""
    is_all = frames_received == frames_sent or (has_expired and frames_received < frames_sent)
    assert is_all, f"{frames_received} frames arrived of {frames_sent}"


def run_seed(seed: int) -> Report:
    """The world of a seed, to its end; a failure is in the report."""
    made = SessionWorld(seed)
    try:
        made.run()
    except Exception as error:  # noqa: BLE001  task boundary: the report carries it
        return made.report(error)
    return made.report(None)
