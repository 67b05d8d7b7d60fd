"""Logs hold no captions or keys in any format; metrics have the names that dashboards use."""

import json
import logging
from collections.abc import Iterator

import pytest
import structlog
from prometheus_client.parser import text_string_to_metric_families

from server.telemetry import LATENCY_BUCKETS_S, LogFormat, Metrics, configure_logging

SECRET = "sk-0123456789abcdef"


@pytest.fixture(autouse=True)
def _restored_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


def json_lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, object]]:
    captured = capsys.readouterr()
    assert captured.out == ""
    return [json.loads(line) for line in captured.err.splitlines()]


def test_json_lines_from_us_and_from_libraries(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("info", "json")
    structlog.contextvars.bind_contextvars(session_id="s1")
    structlog.get_logger("server.x").info("session started", lanes=2)
    logging.getLogger("aiohttp.access").warning("slow %s", "request")
    ours, theirs = json_lines(capsys)
    assert ours["event"] == "session started"
    assert (ours["level"], ours["logger"]) == ("info", "server.x")
    assert (ours["lanes"], ours["session_id"]) == (2, "s1")
    assert str(ours["timestamp"]).endswith("Z")
    assert theirs["event"] == "slow request"
    assert (theirs["level"], theirs["logger"]) == ("warning", "aiohttp.access")


@pytest.mark.parametrize("log_format", ["console", "json"])
def test_secrets_and_captions_are_dropped(
    log_format: LogFormat, capsys: pytest.CaptureFixture[str]
) -> None:
    configure_logging("debug", log_format)
    structlog.get_logger("server.x").info(
        "session started",
        resume_token=SECRET,
        Authorization=SECRET,
        options={"prompt": SECRET},
        final={"text": SECRET, "seq": 7, "deeper": {"words": [SECRET]}},
    )
    shown = capsys.readouterr().err
    assert SECRET not in shown
    assert "session started" in shown
    assert "seq" in shown


@pytest.mark.parametrize("log_format", ["console", "json"])
def test_a_traceback_has_no_local_variables(
    log_format: LogFormat, capsys: pytest.CaptureFixture[str]
) -> None:
    configure_logging("debug", log_format)
    caption = "confidential " * 2
    try:
        raise ValueError(f"{len(caption)} characters")
    except ValueError:
        structlog.get_logger("server.x").exception("failed")
    shown = capsys.readouterr().err
    assert "ValueError: 26 characters" in shown
    assert caption not in shown


def test_less_severe_messages_are_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("warning", "json")
    structlog.get_logger("server.x").info("chatter")
    structlog.get_logger("server.x").warning("trouble")
    assert [line["event"] for line in json_lines(capsys)] == ["trouble"]


def test_libraries_say_nothing_at_debug(capsys: pytest.CaptureFixture[str]) -> None:
    """aiosqlite quotes there what is written to the store: captions."""
    configure_logging("debug", "json")
    logging.getLogger("aiosqlite").debug("executing %s", SECRET)
    logging.getLogger("aiosqlite").info("from here on")
    structlog.get_logger("server.x").debug("ours")
    assert [line["event"] for line in json_lines(capsys)] == ["from here on", "ours"]


def test_configuring_twice_logs_once(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("info", "json")
    configure_logging("info", "json")
    structlog.get_logger("server.x").info("once")
    assert len(json_lines(capsys)) == 1


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(f"captiond_{name}", labels)


def test_a_rendered_page_parses_and_two_servers_share_nothing() -> None:
    metrics, other = Metrics("1.2.3"), Metrics("1.2.3")
    metrics.sessions_active.labels("captiond.v1").inc()
    families = {
        family.name: family for family in text_string_to_metric_families(metrics.render().decode())
    }
    (sample,) = families["captiond_sessions_active"].samples
    assert (sample.labels, sample.value) == ({"protocol": "captiond.v1"}, 1)
    assert families["captiond_build_info"].samples[0].labels["version"] == "1.2.3"
    assert metrics.content_type.startswith("text/plain; version=0.0.4")
    assert value(other, "sessions_active", protocol="captiond.v1") is None


def test_rtfx_is_audio_per_engine_time_over_all_calls_of_a_stage() -> None:
    metrics = Metrics("1")
    metrics.record_call("asr", audio_seconds=6.0, duration_seconds=1.0, windows=3)
    metrics.record_call("asr", audio_seconds=2.0, duration_seconds=3.0, windows=1)
    metrics.record_call("vad", audio_seconds=9.0, duration_seconds=0.0, windows=1)
    assert value(metrics, "rtfx", stage="asr") == 2.0
    assert value(metrics, "rtfx", stage="vad") is None, "nothing to divide by yet"
    assert value(metrics, "audio_processed_seconds_total", stage="asr") == 8.0
    assert value(metrics, "inference_duration_seconds_count", stage="asr") == 2
    assert value(metrics, "batch_size_sum", stage="asr") == 4
    assert value(metrics, "batch_size_bucket", stage="asr", le="2.0") == 1


def test_latency_histograms_have_the_documented_buckets() -> None:
    metrics = Metrics("1")
    metrics.final_latency_seconds.observe(0.4)
    for bound in LATENCY_BUCKETS_S:
        assert value(metrics, "final_latency_seconds_bucket", le=str(bound)) == (bound >= 0.5)


def test_no_label_can_hold_an_id_or_a_name() -> None:
    """Each label has few values by its meaning; a new one is to be thought about here."""
    known = {"protocol", "outcome", "reason", "kind", "code", "stage", "version", "python"}
    known |= {"action", "guard", "state", "file", "key"}
    used = {label for metric in vars(Metrics("1")).values() for label in labels_of(metric)}
    assert used == known


def labels_of(metric: object) -> tuple[str, ...]:
    names = vars(metric).get("_labelnames", ()) if hasattr(metric, "__dict__") else ()
    return tuple(names)
