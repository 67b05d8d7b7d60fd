"""The event loop's micro-benchmark: its command line, its arithmetic, and one small real run."""

from pathlib import Path

import orjson
import pytest

from load_tests.loop_cost import _median, _part_of, main, parse_arguments


def test_defaults() -> None:
    arguments = parse_arguments([])
    assert (arguments.streams, arguments.rounds, arguments.profile) == (50, 1, False)
    assert arguments.against is None


@pytest.mark.parametrize("words", [["--streams", "0"], ["--seconds", "1"], ["--rounds", "0"]])
def test_wrong_arguments_exit_with_usage(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parse_arguments(words)
    assert "usage" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("path", "part"),
    [
        ("/a/streaming/audio.py", "audio"),
        ("/a/streaming/lane.py", "session"),
        ("/a/server/worker_frames.py", "worker frames"),
        ("/a/server/live.py", "connections"),
        ("/venv/aiohttp/web_ws.py", "aiohttp"),
        ("/lib/json/decoder.py", "other"),
    ],
)
def test_each_file_belongs_to_a_part(path: str, part: str) -> None:
    assert _part_of(path) == part


def test_the_median_of_several_runs_counts() -> None:
    runs = [{"a": value, "shares": {"x": value}} for value in (3.0, 1.0, 2.0)]
    assert _median(runs) == {"a": 2.0, "shares": {"x": 2.0}}


@pytest.mark.slow
def test_a_tree_measured_against_itself(tmp_path: Path) -> None:
    path = tmp_path / "cost.json"
    tree = str(Path(__file__).parents[2])
    assert main(["--streams", "3", "--seconds", "3", "--against", tree, "--json", str(path)]) == 0
    figures = orjson.loads(path.read_bytes())
    assert figures["event_loop_us_per_packet"] > 0
    assert figures["workers_cpu_per_stream_second"] >= 0
    assert set(figures["ratios"]) == set(figures["against"])
