"""Built conversations: their truth fits their sound, and the same seed builds the same files."""

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from random import Random

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from server.evaluation.manifest import Recording, read_manifest
from server.evaluation.truth import read_truth
from tools.conversation_files import Conversation, write_conversation
from tools.conversation_talkers import (
    NotEnoughTalkers,
    Said,
    Talker,
    active_spans,
    digit_talkers,
    synthetic_talkers,
)
from tools.conversations import CONDITIONS, DATA_DIR, Plan, build, converse, main, plans
from tools.demo_whisper.synthesis import SAMPLE_RATE_HZ, SynthesisError, TimedWord

needs_data = pytest.mark.skipif(
    not (DATA_DIR / "fsdd/index.csv").exists(), reason="../shared/data is not on this machine"
)
DIGITS = Plan("digits", "digits", 3, 30.0, "noise", 0.3)


class Beeper:
    """Says one word of a random length."""

    def __init__(self, name: str) -> None:
        self.name = name

    def speak(self, rng: Random) -> Said:
        samples = np.full(rng.randint(100, 40_000), 0.1, np.float32)
        seconds = len(samples) / SAMPLE_RATE_HZ
        return Said(samples, (TimedWord("beep", 0.0, seconds),), ((0.0, seconds),))


@pytest.fixture(scope="module")
def digits() -> Conversation:
    if not DATA_DIR.exists():
        pytest.skip("../shared/data is not on this machine")
    return build(DIGITS, seed=3)


def energy_in(conversation: Conversation, spans: Sequence[tuple[float, float]]) -> float:
    samples = conversation.samples
    pieces = [samples[round(a * SAMPLE_RATE_HZ) : round(b * SAMPLE_RATE_HZ)] ** 2 for a, b in spans]
    return float(np.concatenate(pieces).mean())


@given(st.integers(0, 2**32), st.integers(2, 7), st.floats(0, 1))
def test_turns_keep_the_rules_of_talk(seed: int, count: int, overlap_share: float) -> None:
    plan = Plan("p", "synthetic", count, 40.0, "clean", overlap_share)
    talkers: list[Talker] = [Beeper(f"p{i}") for i in range(count)]
    placed = converse(Random(seed), plan, talkers)
    assert {p.speaker for p in placed} == {talker.name for talker in talkers}
    assert all(p.start % 16 == 0 for p in placed), "whole milliseconds"
    for talker in talkers:
        own = [p for p in placed if p.speaker == talker.name]
        assert all(a.end < b.start for a, b in pairwise(own)), "nobody talks over themselves"
    edges = sorted([(p.start, 1) for p in placed] + [(p.end, -1) for p in placed], key=lambda e: e)
    assert np.cumsum([step for _, step in edges]).max() <= 2, "at most two at once"
    if overlap_share == 0:
        assert all(a.end < b.start for a, b in pairwise(placed))


def test_a_plan_may_have_one_pause_for_everything() -> None:
    plan = Plan("p", "synthetic", 3, 40.0, "clean", 0.0, pause_s=(0.2, 0.2))
    assert repr(plan) == repr(replace(plan, pause_s=None)), "what else is drawn stays as it is"
    placed = converse(Random(1), plan, [Beeper(f"p{i}") for i in range(3)])
    assert {b.start - a.end for a, b in pairwise(placed)} == {SAMPLE_RATE_HZ // 5}


def test_there_is_speech_where_the_truth_has_it_and_nowhere_else(digits: Conversation) -> None:
    active = sorted(span for u in digits.utterances for span in u.active_s)
    quiet = [(a, b) for (_, a), (b, _) in pairwise(active) if b - a > 0.1]
    assert quiet
    assert energy_in(digits, active) > 10 * energy_in(digits, quiet)


def test_words_lie_inside_their_utterances(digits: Conversation) -> None:
    for utterance in digits.utterances:
        assert utterance.words
        times = [edge for word in utterance.words for edge in (word.start_s, word.end_s)]
        assert times == sorted(times)
        assert utterance.start_s <= times[0]
        assert times[-1] <= utterance.end_s + 1e-6


def test_the_manifest_is_ready_for_eval(digits: Conversation, tmp_path: Path) -> None:
    line = write_conversation(digits, tmp_path)
    (tmp_path / "manifest.jsonl").write_text(json.dumps(line) + "\n")
    (recording,) = read_manifest(tmp_path / "manifest.jsonl")
    assert isinstance(recording, Recording)
    truth = read_truth(recording)
    assert truth.turns is not None
    assert truth.segments is not None
    assert len(truth.turns) == len(truth.segments) == len(digits.utterances)
    assert all(segment.word_spans is not None for segment in truth.segments), "each word is found"
    assert truth.text == " ".join(word.text for _, word in digits.words)
    assert soundfile.info(recording.audio).frames == len(digits.samples)
    assert len(digits.samples) == DIGITS.seconds * SAMPLE_RATE_HZ


@needs_data
def test_recorded_readers_have_turns_and_no_words(tmp_path: Path) -> None:
    conversation = build(Plan("l", "librispeech", 2, 30.0, "telephone", 0.2), seed=1)
    line = write_conversation(conversation, tmp_path)
    assert line.keys() == {"audio", "language", "rttm"}
    for utterance in conversation.utterances:
        assert utterance.words == ()
        starts_and_ends = [edge for span in utterance.active_s for edge in span]
        assert starts_and_ends == sorted(starts_and_ends)


@needs_data
def test_conditions_change_the_sound_and_not_the_truth() -> None:
    made = {
        condition: build(Plan("x", "digits", 2, 12.0, condition, 0.2), seed=1)
        for condition in CONDITIONS
    }
    for conversation in made.values():
        assert np.abs(conversation.samples).max() <= 1
    spectrum = np.abs(np.fft.rfft(made["telephone"].samples))
    above = int(len(spectrum) * 4_300 / 8_000)
    assert spectrum[above:].max() < 0.01 * spectrum[:above].max(), "nothing above 4 kHz"


@needs_data
def test_the_same_seed_builds_the_same_files_and_another_one_others(tmp_path: Path) -> None:
    def built(folder: str, seed: int) -> dict[str, bytes]:
        arguments = [str(tmp_path / folder), "--minutes", "0.5", "--speakers", "2,3"]
        assert main([*arguments, "--kind", "digits", "--seed", str(seed)]) == 0
        return {p.name: p.read_bytes() for p in sorted((tmp_path / folder).iterdir())}

    assert built("a", 1) == built("b", 1)
    assert built("a", 1)["manifest.jsonl"] == built("c", 2)["manifest.jsonl"]
    assert built("a", 1)["01-digits-2-clean.flac"] != built("c", 2)["01-digits-2-clean.flac"]


@pytest.mark.slow
def test_synthetic_voices_are_the_same_in_every_fresh_process(tmp_path: Path) -> None:
    try:
        synthetic_talkers(Random(1), 7)
    except SynthesisError as error:
        pytest.skip(str(error))
    made = []
    for name in ("a", "b"):
        command = [sys.executable, "-m", "tools.conversations", str(tmp_path / name)]
        command += ["--minutes", "0.4", "--speakers", "2", "--kind", "synthetic"]
        subprocess.run(command, check=True, cwd=Path(__file__).parents[2], capture_output=True)
        made.append({p.name: p.read_bytes() for p in (tmp_path / name).iterdir()})
    assert made[0] == made[1]


def test_seven_synthetic_people_are_seven() -> None:
    try:
        talkers = synthetic_talkers(Random(4), 7)
    except SynthesisError as error:
        pytest.skip(str(error))
    assert len({talker.name for talker in talkers}) == 7
    for talker in talkers:
        said = talker.speak(Random(1))
        assert len(said.samples)
        assert said.words


@needs_data
def test_more_people_than_there_are_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(NotEnoughTalkers, match="have 6"):
        digit_talkers(Random(1), 7, DATA_DIR / "fsdd")
    assert main([str(tmp_path), "--kind", "librispeech", "--speakers", "8"]) == 1
    assert "8 people asked for" in capsys.readouterr().err


def test_without_the_recordings_the_message_says_so(tmp_path: Path) -> None:
    with pytest.raises(NotEnoughTalkers, match="give --data"):
        digit_talkers(Random(1), 2, tmp_path)


def test_a_mix_alternates_kinds_and_conditions() -> None:
    made = plans("mixed", [2, 3, 5, 7], minutes=10)
    assert [plan.kind for plan in made] == ["synthetic", "digits", "librispeech", "synthetic"]
    assert [plan.condition for plan in made] == ["clean", "noise", "telephone", "clean"]
    assert [plan.speakers for plan in made] == [2, 3, 5, 7]
    assert sum(plan.seconds for plan in made) == 600


def test_pauses_of_a_recording_split_its_turn() -> None:
    second = np.ones(SAMPLE_RATE_HZ, np.float32) * 0.1
    samples = np.concatenate([second * 0, second, second * 0, second, second * 0])
    edges = [edge / SAMPLE_RATE_HZ for span in active_spans(samples) for edge in span]
    assert edges == pytest.approx([0.98, 2.02, 2.98, 4.02])
