"""One frame of ``captiond top``: figures as a few tables that fit into 80 columns. Pure."""

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from server.commands.top_figures import Delay, Figures, StageFigures

NOTHING = "–"
LATE_S = 3.0
"""From here on clients are told of lag."""
FULL_SHARE = 0.8
STAGE_COLUMNS = (
    "stage", "ready", "busy", "RTFx", "calls/s", "windows", "call p95", "queue", "wait p95",
)  # fmt: skip


def frame_of(figures: Figures, url: str) -> RenderableType:
    """What stands on the screen."""
    parts: list[RenderableType] = [_head(figures, url), _overview(figures), _delays(figures)]
    parts.append(_stages(figures))
    if figures.keys:
        parts.append(_keys(figures))
    return Group(*parts, *_troubles(figures))


def _head(figures: Figures, url: str) -> Text:
    head = Text.assemble((f"captiond {figures.version}", "bold"), f" at {url}, ")
    if figures.gauge("draining"):
        return head.append("draining", "yellow")
    is_ready = figures.gauge("ready") > 0
    return head.append("ready" if is_ready else "not ready", "green" if is_ready else "bold red")


def _overview(figures: Figures) -> Table:
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold")
    table.add_column()
    for name, text in (
        ("sessions", _sessions(figures)),
        ("audio", _audio(figures)),
        ("speakers", _speakers(figures)),
        ("store", _store(figures)),
        ("server", _server(figures)),
    ):
        table.add_row(name, text)
    return table


def _sessions(figures: Figures) -> str:
    active, waiting = figures.gauge("sessions_active"), figures.gauge("sessions_waiting")
    fit, limit = figures.gauge("estimated_session_capacity"), figures.gauge("session_capacity")
    ended = figures.now.total("captiond_sessions_total")
    ended -= figures.now.total("captiond_sessions_total", outcome="refused")
    refused = figures.now.total("captiond_sessions_total", outcome="refused")
    return (
        f"{active:.0f} of about {fit:.0f} that fit ({limit:.0f} allowed), {waiting:.0f} wait for "
        f"their client; {ended:.0f} ended, {refused:.0f} refused since the start"
    )


def _audio(figures: Figures) -> str:
    received = figures.rate("audio_received_seconds_total")
    captioned = figures.rate("audio_captioned_seconds_total")
    silent = figures.rate("audio_silent_seconds_total")
    lost_s = figures.now.total("captiond_audio_dropped_seconds_total")
    return (
        f"{received:.1f} s/s: {captioned:.1f} captioned, {silent:.1f} silent; "
        f"{lost_s:.1f} s lost since the start"
    )


def _speakers(figures: Figures) -> str:
    lag = figures.delay("diarization_lag_seconds")
    return (
        f"heard after {_seconds(lag.p95)} (p95); {figures.rate('revisions_total'):.1f} captions/s "
        f"revised; {figures.now.total('captiond_speaker_chunks_dropped_total'):.0f} chunks left out"
    )


def _store(figures: Figures) -> str:
    commits = figures.delay("store_commit_seconds")
    size_mb = figures.gauge("store_bytes") / 1e6
    return (
        f"{figures.rate('store_commit_seconds_count'):.1f} commits/s, p99 {_seconds(commits.p99)}; "
        f"{figures.gauge('spool_events'):.0f} events not stored; {size_mb:.1f} MB"
    )


def _server(figures: Figures) -> str:
    lag = figures.delay("event_loop_lag_seconds")
    used, limit = figures.gauge("memory_bytes") / 1e6, figures.gauge("memory_limit_bytes") / 1e6
    busy = figures.gauge("event_loop_busy_ratio")
    return (
        f"loop {busy:.0%} busy, {_seconds(lag.p99)} late (p99); memory {used:.0f} of {limit:.0f} MB"
    )


def _delays(figures: Figures) -> Table:
    table = _table("delay", "p50", "p95", "p99")
    for name, metric in (
        ("first shown", "partial_latency_seconds"),
        ("final", "final_latency_seconds"),
    ):
        delay = figures.delay(metric)
        table.add_row(name, *(_seconds(value) for value in (delay.p50, delay.p95, delay.p99)))
    return table


def _stages(figures: Figures) -> Table:
    table = _table(*STAGE_COLUMNS)
    for stage in figures.stages:
        is_bad = stage.is_stalled or stage.ready < stage.processes
        table.add_row(*_stage_cells(stage), style="red" if is_bad else "")
    return table


def _stage_cells(stage: StageFigures) -> list[str]:
    return [
        stage.stage,
        f"{stage.ready}/{stage.processes}",
        NOTHING if stage.busy_share is None else f"{stage.busy_share:.0%}",
        _number(stage.rtfx),
        f"{stage.calls_per_s:.1f}",
        _number(stage.windows_per_call),
        _seconds(stage.call_s.p95),
        str(stage.queue_jobs),
        _seconds(stage.wait_s.p95),
    ]


def _keys(figures: Figures) -> Table:
    table = _table("key", "sessions", "audio s/s")
    for key in figures.keys:
        table.add_row(key.name, str(key.sessions), f"{key.audio_rate:.1f}")
    return table


def _table(*titles: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", title="")
    for title in titles:
        is_name = title == titles[0]
        table.add_column(title, justify="left" if is_name else "right", min_width=11 * is_name)
    return table


def troubles_of(figures: Figures) -> list[str]:
    """What somebody should look at, a line each; docs/operations.md has a section for each."""
    shown: Delay = figures.delay("partial_latency_seconds")
    stalled = [stage.stage for stage in figures.stages if stage.is_stalled]
    missing = [stage.stage for stage in figures.stages if stage.ready < stage.processes]
    closed = figures.closed_because()
    thinning = figures.gauge("partial_thinning")
    found = {
        f"engines that answer nobody: {', '.join(stalled)}": bool(stalled),
        f"engine processes are missing: {', '.join(missing)}": bool(missing),
        f"new sessions are refused because of: {', '.join(closed)}": bool(closed),
        f"audio is being lost: {figures.grown('audio_dropped_seconds_total'):.1f} s just now": (
            figures.grown("audio_dropped_seconds_total") > 0
        ),
        "the store takes no captions": figures.gauge("store_refusing") > 0,
        f"words are shown late: {_seconds(shown.p95)}": (shown.p95 or 0.0) > LATE_S,
        f"live work is late: {_seconds(figures.gauge('live_delay_seconds'))}": (
            figures.gauge("live_delay_seconds") > LATE_S
        ),
        f"partials come every {thinning:.1f} hops: engine time is short": thinning > 1,
        "the event loop is busy": figures.gauge("event_loop_busy_ratio") > FULL_SHARE,
        "sessions are being sent away": figures.grown("sessions_shed_total") > 0,
    }
    return [text for text, is_so in found.items() if is_so]


def _troubles(figures: Figures) -> list[Text]:
    return [Text(f"! {line}", "bold red") for line in troubles_of(figures)]


def _seconds(value: float | None) -> str:
    if value is None:
        return NOTHING
    return f"{value * 1000:.0f} ms" if value < 1 else f"{value:.1f} s"


def _number(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.1f}"
