"""Our totals are those of the libraries' own command lines, over the files that we write."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from random import Random

import pytest

from clients.pacing import Pace
from server.evaluation.evaluate import Evaluated, Plan
from server.evaluation.files import write_hypotheses
from server.evaluation.manifest import Recording
from server.evaluation.report import Line, totals
from server.evaluation.score import score
from server.evaluation.speaker_words import TCPWER_COLLAR_S
from server.scoring import WordErrors
from tests.evaluations import SaidWord, heard_of, truth_of

pytestmark = pytest.mark.slow

TEXT = "we will review the new budget on monday and close it with susan in berlin"
WORDS = TEXT.split()
PLAN = Plan(False, Pace.MAX, "a", None, "d")
COMMANDS = Path(sys.executable).parent


def conversation(rng: Random) -> tuple[list[SaidWord], list[SaidWord]]:
    """What was said by three people, and what was heard of it with every kind of error."""
    truth: list[SaidWord] = []
    heard: list[SaidWord] = []
    at_s = 0.5
    for _ in range(12):
        speaker = rng.choice("ABC")
        for _ in range(rng.randint(2, 8)):
            text, end_s = rng.choice(WORDS), round(at_s + rng.uniform(0.1, 0.6), 3)
            truth.append((text, at_s, end_s, speaker))
            heard += misheard(rng, truth[-1])
            at_s = end_s
        at_s = round(at_s + rng.uniform(-0.4, 1.5), 3)
    return truth, sorted(heard, key=lambda word: word[1])


def misheard(rng: Random, word: SaidWord) -> list[SaidWord]:
    text, start_s, end_s, speaker = word
    assert speaker is not None
    heard_as = f"S{ord(speaker)}" if rng.random() < 0.85 else rng.choice(["S65", "S66", "S99"])
    if rng.random() < 0.1:
        text = rng.choice(WORDS)
    shift_s = rng.uniform(0, 0.3)
    one = (text, round(start_s + shift_s, 3), round(end_s + shift_s, 3), heard_as)
    return [one] * rng.choice([0, 1, 1, 1, 1, 1, 1, 2])


@pytest.fixture(scope="module")
def done() -> list[Evaluated]:
    made = []
    for number in range(3):
        truth_words, heard_words = conversation(Random(f"conversation {number}"))
        recording = Recording(f"take {number}.flac", Path("unused.flac"), language="en")
        truth, heard = truth_of(truth_words), heard_of(heard_words)
        made.append(Evaluated(recording, truth, heard, score(recording, truth, heard)))
    return made


@pytest.fixture(scope="module")
def ours(done: list[Evaluated]) -> Line:
    return totals(done, PLAN)


@pytest.fixture(scope="module")
def folder(done: list[Evaluated], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    write_hypotheses(folder, done)
    return folder


def printed(command: Sequence[str], folder: Path, **environment: str) -> str:
    program = COMMANDS / command[0]
    if not program.exists():
        pytest.skip(f"{command[0]} is not installed: pip install 'captiond[test]'")
    finished = subprocess.run(
        [str(program), *command[1:]],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


@pytest.mark.parametrize(("flags", "figure"), [((), "wer"), (("--cer",), "cer")])
def test_jiwer(folder: Path, ours: Line, flags: tuple[str, ...], figure: str) -> None:
    theirs = printed(["jiwer", "-r", "reference.txt", "-h", "hypothesis.txt", *flags], folder)
    assert 0 < ours[figure] < 1
    assert float(theirs) == pytest.approx(ours[figure], abs=1e-4)


@pytest.mark.parametrize("figure", ["cpwer", "tcpwer"])
def test_meeteval(folder: Path, ours: Line, figure: str) -> None:
    command = ["meeteval-wer", figure, "-r", "reference.json", "-h", "hypothesis.json"]
    if figure == "tcpwer":
        command += ["--collar", f"{TCPWER_COLLAR_S:g}"]
    printed([*command, "--average-out", "average.json", "--per-reco-out", "each.json"], folder)
    theirs = json.loads((folder / "average.json").read_text())
    assert 0 < ours[figure] < 1
    assert theirs["error_rate"] == pytest.approx(ours[figure], abs=1e-4)


def test_pyannote_metrics(folder: Path, ours: Line, done: list[Evaluated]) -> None:
    """Its command line reads the reference by way of a database file."""
    for module in ("docopt", "tabulate"):
        pytest.importorskip(module, reason="pip install 'captiond[test]'")
    sessions = [f"take_{number}" for number in range(len(done))]
    (folder / "list.txt").write_text("".join(f"{session}\n" for session in sessions))
    (folder / "all.uem").write_text("".join(f"{session} 1 0.0 100.0\n" for session in sessions))
    (folder / "database.yml").write_text(
        "Protocols:\n  Own:\n    SpeakerDiarization:\n      All:\n        test:\n"
        "          uri: list.txt\n          annotation: reference.rttm\n"
        "          annotated: all.uem\n"
    )
    theirs = printed(
        ["pyannote-metrics", "diarization", "Own.SpeakerDiarization.All", "hypothesis.rttm"],
        folder,
        PYANNOTE_DATABASE_CONFIG=str(folder / "database.yml"),
    )
    (total,) = (line for line in theirs.splitlines() if line.startswith("TOTAL"))
    assert 0 < ours["der"] < 1
    assert float(total.split()[1]) == pytest.approx(100 * ours["der"], abs=0.01)


def test_counts_of_words_add_up() -> None:
    assert WordErrors(1, 2, 3, 4) + WordErrors(1, 0, 0, 1) == WordErrors(2, 2, 3, 5)
