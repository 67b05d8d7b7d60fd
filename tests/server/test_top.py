"""``captiond top``: rates and quantiles between two pages, and what a frame says of them."""

import asyncio
import io
import re
import signal
import sys
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram
from rich.console import Console
from typer.testing import CliRunner

from server.commands import app
from server.commands.top import NoAnswer, _watch, fetch, http_url
from server.commands.top_figures import Figures, NotOurMetrics, figures_of, quantile, read_page
from server.commands.top_frame import frame_of, troubles_of
from server.telemetry import LATENCY_BUCKETS_S, Metrics
from tests.server_fakes import Front, running, until

INF = float("inf")


def busy_metrics() -> Metrics:
    metrics = Metrics("1.2.3")
    metrics.ready.set(1)
    metrics.session_capacity.set(200)
    metrics.estimated_session_capacity.set(75)
    metrics.sessions_active.labels("captiond").set(20)
    metrics.workers.labels("asr", "ready").set(2)
    metrics.workers.labels("asr", "unready").set(0)
    return metrics


def two_readings(metrics: Metrics, passed_s: float = 2.0, **gauges: float) -> Figures:
    """What a second's talk of 20 sessions leads to."""
    before = read_page(metrics.render().decode(), 10.0)
    metrics.audio_received_seconds.labels("captiond").inc(40)
    metrics.record_call("asr", audio_seconds=60.0, duration_seconds=0.4, windows=8)
    for _ in range(10):
        metrics.partial_latency_seconds.observe(0.4)
    for name, value in gauges.items():
        vars(metrics)[name].set(value)
    return figures_of(before, read_page(metrics.render().decode(), 10.0 + passed_s))


def shown(figures: Figures) -> str:
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(frame_of(figures, "http://host:8710"))
    return console.export_text()


def test_rates_are_those_between_the_readings() -> None:
    figures = two_readings(busy_metrics())
    assert figures.rate("audio_received_seconds_total") == 20.0
    (asr,) = figures.stages
    assert (asr.ready, asr.processes, asr.calls_per_s, asr.windows_per_call) == (2, 2, 0.5, 8.0)
    assert asr.rtfx == pytest.approx(150.0)
    assert asr.busy_share == pytest.approx(0.1), "0.4 s of two processes' two seconds"
    delay = figures.delay("partial_latency_seconds")
    assert delay.p50 is not None
    assert 0.3 <= delay.p50 <= 0.5, "within the bucket that has all of them"


def test_a_server_that_began_anew_counts_from_its_start() -> None:
    metrics = busy_metrics()
    metrics.audio_received_seconds.labels("captiond").inc(1_000)
    before = read_page(metrics.render().decode(), 0.0)
    fresh = busy_metrics()
    fresh.audio_received_seconds.labels("captiond").inc(6)
    figures = figures_of(before, read_page(fresh.render().decode(), 2.0))
    assert figures.rate("audio_received_seconds_total") == 3.0


def test_nothing_in_between_is_shown_as_nothing() -> None:
    metrics = busy_metrics()
    page = read_page(metrics.render().decode(), 0.0)
    figures = figures_of(page, page)
    assert figures.delay("final_latency_seconds").p95 is None
    assert figures.rate("audio_received_seconds_total") == 0.0
    assert "–" in shown(figures)


def test_a_frame_says_how_the_server_is() -> None:
    text = shown(two_readings(busy_metrics()))
    assert "captiond 1.2.3 at http://host:8710, ready" in text
    assert "20 of about 75 that fit (200 allowed)" in text
    assert "20.0 s/s" in text
    assert re.search(r"asr +2/2 +10% +150.0 +0.5 +8.0", text)
    assert "!" not in text, "nothing is wrong"


@pytest.mark.parametrize(
    ("gauges", "trouble"),
    [
        ({"store_refusing": 1}, "the store takes no captions"),
        ({"live_delay_seconds": 7.5}, "live work is late: 7.5 s"),
        ({"partial_thinning": 2}, "partials come every 2.0 hops"),
        ({"event_loop_busy_ratio": 0.9}, "the event loop is busy"),
    ],
)
def test_trouble_is_named(gauges: dict[str, float], trouble: str) -> None:
    figures = two_readings(busy_metrics(), **gauges)
    assert any(line.startswith(trouble) for line in troubles_of(figures))
    assert f"! {trouble}" in shown(figures)


def test_losses_and_missing_engines_are_named() -> None:
    metrics = busy_metrics()
    before = read_page(metrics.render().decode(), 0.0)
    metrics.audio_dropped_seconds.labels("engine_failed").inc(2.5)
    metrics.workers.labels("asr", "ready").set(1)
    metrics.workers.labels("asr", "unready").set(1)
    metrics.stage_stalled.labels("asr").set(1)
    metrics.admission_closed.labels("memory").set(1)
    metrics.sessions_shed.inc()
    lines = troubles_of(figures_of(before, read_page(metrics.render().decode(), 1.0)))
    assert "audio is being lost: 2.5 s just now" in lines
    assert "engine processes are missing: asr" in lines
    assert "engines that answer nobody: asr" in lines
    assert "new sessions are refused because of: memory" in lines
    assert "sessions are being sent away" in lines


def test_keys_that_use_it_most_come_first() -> None:
    metrics = busy_metrics()
    for number in range(8):
        metrics.key_sessions_active.labels(f"team{number}").set(number)
    figures = two_readings(metrics)
    assert [key.name for key in figures.keys] == ["team7", "team6", "team5", "team4", "team3"]
    assert re.search(r"team7 +7 +0.0", shown(figures))


@pytest.mark.parametrize("page", ["", "# HELP up x\n# TYPE up gauge\nup 1\n", "<html>{no}</html>"])
def test_what_is_no_captiond_is_refused(page: str) -> None:
    with pytest.raises(NotOurMetrics):
        read_page(page, 0.0)


@given(st.lists(st.floats(0, 20), min_size=1, max_size=60), st.floats(0.01, 0.99))
def test_a_quantile_lies_in_the_bucket_of_its_rank(values: list[float], share: float) -> None:
    registry = CollectorRegistry()
    histogram = Histogram("h", "h", registry=registry, buckets=LATENCY_BUCKETS_S)
    for value in values:
        histogram.observe(value)
    bounds = [*LATENCY_BUCKETS_S, INF]
    counts = [float(sum(value <= bound for value in values)) for bound in bounds]
    found = quantile(share, bounds, counts)
    assert found is not None
    rank = share * len(values)
    bucket = next(i for i, count in enumerate(counts) if count >= rank)
    low = bounds[bucket - 1] if bucket else 0.0
    high = bounds[bucket] if bounds[bucket] < INF else low
    assert low - 1e-9 <= found <= high + 1e-9


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("ws://host:8710", "http://host:8710"),
        ("wss://host/v1/stream?resume=1", "https://host"),
        ("http://host:1/metrics", "http://host:1"),
    ],
)
def test_pages_are_found_at_any_address_of_the_server(url: str, address: str) -> None:
    assert http_url(url) == address


@pytest.mark.parametrize(
    "words",
    [["--url", "host:8710"], ["--url", "file:///etc/passwd"], ["--interval", "0"]],
)
def test_wrong_usage_is_one_line(words: list[str]) -> None:
    result = CliRunner().invoke(app, ["top", "--once", *words])
    assert result.exit_code == 2
    assert len(result.output.splitlines()) == 1


def test_a_certificate_that_is_none_is_wrong_usage(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("no certificate")
    words = ["top", "--once", "--ca", str(tmp_path / "ca.pem")]
    assert CliRunner().invoke(app, words).exit_code == 2


def test_no_server_is_one_line_and_status_one(unused_tcp_port: int) -> None:
    url = f"http://127.0.0.1:{unused_tcp_port}"
    result = CliRunner().invoke(app, ["top", "--once", "--url", url])
    assert result.exit_code == 1
    assert result.output.startswith(f"captiond: no server answers at {url}")


async def test_one_frame_of_a_running_server(tmp_path: Path) -> None:
    async with running(tmp_path) as front:
        words = ["top", "--once", "--interval", "0.2", "--url", front.url]
        result = await asyncio.to_thread(CliRunner().invoke, app, words)
        assert result.exit_code == 0, result.output
        assert f"at {front.url}, ready" in " ".join(result.output.split())
        assert re.search(r"asr +1/1", result.output)
        reading = await asyncio.to_thread(fetch, http_url(front.url))
        assert reading.total("captiond_ready") == 1
        with pytest.raises(NoAnswer, match="404"):
            await asyncio.to_thread(fetch, f"{http_url(front.url)}/static")


@pytest.mark.slow
async def test_it_watches_until_ctrl_c(tmp_path: Path) -> None:
    words = ["-m", "server", "top", "--interval", "0.2", "--url"]
    async with running(tmp_path) as front:
        pages = count_pages(front)
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *words,
            front.url,
            stdout=asyncio.subprocess.PIPE,
            # Tests that run in the background of a shell were told to ignore it.
            preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
        )
        try:
            await until(lambda: len(pages) > 3)
        finally:
            process.send_signal(signal.SIGINT)
            told, _ = await process.communicate()
    assert process.returncode == 0
    assert f"at {front.url}, ready" in " ".join(told.decode().split())


def count_pages(front: Front) -> list[None]:
    """One item for each page of metrics that was asked for since."""
    pages: list[None] = []
    render = front.metrics.render

    def counted() -> bytes:
        pages.append(None)
        return render()

    front.metrics.render = counted  # type: ignore[method-assign]
    return pages


def test_a_server_that_is_gone_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was seen last stays on the screen, with the reason above it."""
    metrics = busy_metrics()
    page = read_page(metrics.render().decode(), 0.0)
    answers: list[object] = [NoAnswer("no server answers"), page, KeyboardInterrupt()]

    def fetched(address: str, trust: object) -> object:
        answer = answers.pop(0)
        if isinstance(answer, BaseException):
            raise answer
        return answer

    monkeypatch.setattr(sys.modules["server.commands.top"], "fetch", fetched)
    monkeypatch.setattr("time.sleep", lambda _: None)
    console = Console(width=120, record=True, force_terminal=True, file=io.StringIO())
    with pytest.raises(KeyboardInterrupt):
        _watch(console, "http://host:1", None, page, 1.0)
    assert not answers
    text = console.export_text()
    assert "no server answers" in text
    assert "captiond 1.2.3 at http://host:1, ready" in text
