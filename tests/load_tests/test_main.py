"""The command line, and two runs against a real server: one good, one that must not pass."""

from pathlib import Path

import orjson
import pytest

from load_tests.__main__ import main, parse_arguments, server_options


def test_defaults() -> None:
    arguments = parse_arguments([])
    assert (arguments.streams, arguments.seconds, arguments.workload) == (20, 60, "canonical")
    assert arguments.url is None
    assert arguments.server_options == (
        "--asr",
        "scripted",
        "--diarizer",
        "none",
        "--sessions-max",
        "200",
    )


def test_server_options_are_kept_and_completed() -> None:
    arguments = parse_arguments(["--streams", "300", "--", "--diarizer=scripted"])
    expected = ("--diarizer=scripted", "--asr", "scripted", "--sessions-max", "300")
    assert arguments.server_options == expected
    full = ("--asr", "whisper", "--diarizer", "none", "--sessions-max", "9")
    assert server_options(full, 20) == full


def test_bounds_are_parsed() -> None:
    arguments = parse_arguments(["--assert", "finals_late<=0.05", "--assert", "refused<=0"])
    assert arguments.bounds == {"finals_late": 0.05, "refused": 0.0}


@pytest.mark.parametrize(
    "words",
    [
        ["--streams", "0"],
        ["--seconds", "1"],
        ["--workload", "unheard"],
        ["--assert", "finals_late"],
        ["--assert", "finals_late<=much"],
        ["--url", "http://127.0.0.1:1", "--", "--asr", "scripted"],
    ],
)
def test_wrong_arguments_exit_with_usage(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        parse_arguments(words)
    assert stopped.value.code == 2
    assert "usage" in capsys.readouterr().err


@pytest.mark.slow
def test_a_good_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "out.json"
    own = ["--streams", "12", "--seconds", "5", "--json", str(path), "--assert", "refused<=0"]
    # An engine this slow must take several streams' windows in one call.
    assert main([*own, "--", "--asr-options", "latency_ms=150"]) == 0
    figures = orjson.loads(path.read_bytes())
    assert figures["words"] > 40
    assert figures["words_lost"] == figures["words_doubled"] == figures["words_misrouted"] == 0
    assert figures["final_s"]["p95"] > 0
    assert figures["server_cpu_s"] > 0
    assert figures["peak_memory_mb"] > 0
    assert "canonical workload" in capsys.readouterr().out


@pytest.mark.slow
def test_words_that_no_engine_heard_fail_the_run(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--", "--asr-options", "fail_every=1"]
    assert main(["--streams", "1", "--seconds", "3", *options]) == 1
    assert "- gaps: 0" not in capsys.readouterr().out
