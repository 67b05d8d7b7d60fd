"""``captiond eval`` as a user runs it, on recordings whose every word a scripted engine knows."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from server.child import running_server
from streaming.scripted_audio import (
    CARRIER_SAMPLES,
    WORD_SAMPLES,
    encode_silence,
    encode_word,
    word_text,
)
from streaming.timeline import SAMPLE_RATE_HZ

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
SCRIPTED = ["--asr", "scripted", "--diarizer", "scripted"]
RUN = "import sys; from server.__main__ import main; sys.argv[0] = 'captiond'; main()"


def run_eval(
    folder: Path, *arguments: str, prelude: str = "", manifest: str = "manifest.jsonl"
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", prelude + RUN, "eval", str(folder / manifest), *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def json_lines(finished: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in finished.stdout.splitlines()]


def make_recording(folder: Path, name: str, stream: int, turns: Sequence[tuple[int, int]]) -> None:
    """Turns are (speaker, words), a second apart; writes the sound and its truth."""
    pieces, stm, ctm, rttm, at, number = [encode_silence(8_000)], [], [], [], 8_000, 0
    for speaker, count in turns:
        start_s = at / SAMPLE_RATE_HZ
        texts = []
        for _ in range(count):
            texts.append(word_text(stream, number))
            seconds = f"{at / SAMPLE_RATE_HZ:.3f} {CARRIER_SAMPLES / SAMPLE_RATE_HZ:.3f}"
            ctm.append(f"{name} P{speaker} {seconds} {texts[-1]}\n")
            pieces.append(encode_word(stream, number, speaker))
            at, number = at + WORD_SAMPLES, number + 1
        end_s = (at - WORD_SAMPLES + CARRIER_SAMPLES) / SAMPLE_RATE_HZ
        stm.append(f"{name} 1 P{speaker} {start_s:.3f} {end_s:.3f} {' '.join(texts)}\n")
        times = f"{start_s:.3f} {end_s - start_s:.3f}"
        rttm.append(f"SPEAKER {name} 1 {times} <NA> <NA> P{speaker} <NA> <NA>\n")
        pieces.append(encode_silence(SAMPLE_RATE_HZ))
        at += SAMPLE_RATE_HZ
    soundfile.write(folder / f"{name}.flac", np.concatenate(pieces), SAMPLE_RATE_HZ)
    for suffix, lines in (("stm", stm), ("ctm", ctm), ("rttm", rttm)):
        (folder / f"{name}.{suffix}").write_text("".join(lines))


def entry(name: str, **more: str) -> str:
    paths = {"audio": f"{name}.flac", "stm": f"{name}.stm", "rttm": f"{name}.rttm"}
    return json.dumps({**paths, "ctm": f"{name}.ctm", **more}) + "\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recordings")
    make_recording(folder, "a", 1, [(1, 5), (2, 4), (1, 6)])
    make_recording(folder, "b", 2, [(3, 8), (4, 7)])
    (folder / "manifest.jsonl").write_text(entry("a") + entry("b"))
    return folder


@pytest.fixture(scope="module")
def streamed(folder: Path) -> subprocess.CompletedProcess[str]:
    return run_eval(folder, *SCRIPTED, "--pace", "max", "--json", "--output", str(folder / "out"))


def test_exact_captions_have_no_errors(streamed: subprocess.CompletedProcess[str]) -> None:
    assert streamed.returncode == 0, streamed.stderr
    *files, total = json_lines(streamed)
    assert [line["audio"] for line in files] == ["a.flac", "b.flac"]
    for line in (*files, total):
        assert (line["wer"], line["cer"], line["wer_whisper_norm"]) == (0, 0, 0)
        assert (line["cpwer"], line["tcpwer"], line["attribution"]) == (0, 0, 1)
        # The reference's turns hold the short pauses between words, and so do ours.
        assert (line["der"], line["jer"]) == (0, 0)
        assert line["der_first_label"] is not None
        assert 0 <= line["first_shown_s"]["p50"] <= line["final_s"]["p50"]
        assert line["rtfx"]["asr"] > 0
    assert (total["type"], total["files"], total["failed"]) == ("totals", 2, 0)
    assert total["scored"] == {"text": 2, "speaker_text": 2, "turns": 2}


def test_results_are_files_too(folder: Path, streamed: subprocess.CompletedProcess[str]) -> None:
    out = folder / "out"
    total = json_lines(streamed)[-1]
    assert json.loads((out / "totals.json").read_text()) == total
    assert "| WER | 0 | 0 | 0 |" in (out / "table.md").read_text()
    for name in ("delays.png", "timeline-a.png", "timeline-b.png"):
        assert (out / name).read_bytes().startswith(b"\x89PNG"), name


def test_offline_finds_the_same_words_and_reports_no_delays(folder: Path) -> None:
    finished = run_eval(folder, *SCRIPTED, "--offline", "--json", "--", "--window-cap-s", "8")
    assert finished.returncode == 0, finished.stderr
    total = json_lines(finished)[-1]
    assert total["options"] == ["--window-cap-s", "8"]
    assert (total["wer"], total["der"], total["cpwer"], total["attribution"]) == (0, 0, 0, 1)
    assert (total["mode"], total["pace"]) == ("offline", None)
    assert (total["first_shown_s"], total["final_s"], total["revision_age_s"]) == (None,) * 3
    assert total["rtfx"]["asr"] > 0


async def test_a_server_that_runs_already_is_measured_from_outside(
    folder: Path, tmp_path: Path
) -> None:
    async with running_server([*SCRIPTED, "--log-level", "warning"], tmp_path) as server:
        arguments = ("--url", server.url, "--pace", "max", "--json")
        finished = await asyncio.to_thread(run_eval, folder, *arguments)
    assert finished.returncode == 0, finished.stderr
    total = json_lines(finished)[-1]
    assert (total["wer"], total["attribution"]) == (0, 1)
    assert total["rtfx"]["session"] > 0
    assert total["rtfx"]["asr"] is None, "others may use its engines too"


@pytest.mark.parametrize("mode", [["--pace", "max"], ["--offline"]])
def test_broken_files_are_reported_and_the_rest_is_measured(folder: Path, mode: list[str]) -> None:
    (folder / "noise.flac").write_bytes(b"this is no sound")
    whole = (folder / "a.flac").read_bytes()
    (folder / "cut.flac").write_bytes(whole[: len(whole) // 2])
    (folder / "bad.stm").write_text("a 1 P1 zero one w\n")
    lines = [
        json.dumps({"audio": "noise.flac"}) + "\n",
        "no json\n",
        entry("a", stm="bad.stm"),
        json.dumps({"audio": "gone.flac"}) + "\n",
        json.dumps({"audio": "cut.flac"}) + "\n",
        json.dumps({"audio": "b.flac", "rttm": "b.rttm"}) + "\n",
    ]
    (folder / "broken.jsonl").write_text("".join(lines))
    finished = run_eval(folder, *SCRIPTED, *mode, "--json", manifest="broken.jsonl")
    assert finished.returncode == 1
    *files, total = json_lines(finished)
    assert ["error" in line for line in files] == [True, True, True, True, True, False]
    assert (total["files"], total["failed"]) == (1, 5)
    assert (total["der"], total["wer"], total["cpwer"], total["attribution"]) == (
        0,
        None,
        None,
        None,
    )
    for problem in (
        "noise.flac: cannot read",
        "line 2: not JSON",
        "bad.stm is not",
        "no such file",
    ):
        assert problem in " ".join(finished.stderr.split())


def test_a_table_is_printed_without_json(folder: Path) -> None:
    (folder / "one.jsonl").write_text(json.dumps({"audio": "b.flac"}) + "\n")
    finished = run_eval(folder, *SCRIPTED, "--pace", "max", manifest="one.jsonl")
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.startswith("|  | b.flac | **all** |")
    assert "| WER | – | – |" in finished.stdout


def test_a_manifest_that_is_not_there_is_a_usage_error(folder: Path) -> None:
    finished = run_eval(folder, manifest="none.jsonl")
    assert finished.returncode == 2
    assert finished.stderr.startswith("captiond: cannot read ")


@pytest.mark.parametrize(
    ("arguments", "told", "status"),
    [
        (["--offline", "--", "--window-cap-s", "800"], "window-cap-s", 1),
        (["--", "--milk", "1"], "--milk", 1),
        (["--url", "ws://127.0.0.1:1", "--offline"], "--url", 2),
    ],
)
def test_options_that_cannot_be_are_named(
    folder: Path, arguments: list[str], told: str, status: int
) -> None:
    finished = run_eval(folder, *SCRIPTED, *arguments)
    assert finished.returncode == status
    assert finished.stderr.startswith("captiond: ")
    assert told in finished.stderr


def test_a_missing_library_is_named_with_what_installs_it(folder: Path) -> None:
    missing = "import sys; sys.modules['meeteval'] = None; "
    finished = run_eval(folder, prelude=missing)
    assert finished.returncode == 1
    assert finished.stderr == "captiond: eval needs meeteval: pip install 'captiond[eval]'\n"
