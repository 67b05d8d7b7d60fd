"""Whisper on the reference checkpoint, and on a tiny random one where any model will do."""

import csv
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import jiwer
import numpy as np
import pytest
import soundfile
import soxr

from server.engines.registry import EngineSpec, OptionValue
from server.engines.whisper import WhisperRecognizer
from server.engines.whisper_checkpoint import Checkpoint
from streaming.engines import Samples, SpeechWindow
from streaming.events import SessionStage
from streaming.timeline import SAMPLE_RATE_HZ

SHARED = Path(__file__).parents[3] / "shared"
REFERENCE = SHARED / "models" / "whisper-tiny-ref"
DIGITS = SHARED / "data" / "fsdd"
NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not REFERENCE.exists(), reason="needs ../shared/models/whisper-tiny-ref"),
]


@pytest.fixture(scope="module")
def engine() -> WhisperRecognizer:
    options: dict[str, OptionValue] = {"dtype": "float32"}
    spec = EngineSpec(SessionStage.RECOGNITION, "whisper", str(REFERENCE), options, threads=1)
    return WhisperRecognizer.from_spec(spec)


def digit_takes(speaker: str, take: int) -> Iterator[Samples]:
    """That take of zero to nine at 16 kHz, each with a short pause after it."""
    audio, rate = soundfile.read(DIGITS / f"{speaker}.flac", dtype="int16")
    with (DIGITS / "index.csv").open(encoding="utf-8") as index:
        rows = [
            row
            for row in csv.DictReader(index)
            if row["speaker"] == speaker and int(row["take"]) == take
        ]
    for row in sorted(rows, key=lambda row: int(row["digit"])):
        cut = audio[int(row["start_sample"]) : int(row["end_sample"])]
        resampled = soxr.resample(cut, rate, SAMPLE_RATE_HZ)
        yield np.concatenate([resampled, np.zeros(SAMPLE_RATE_HZ // 8, np.int16)])


def windows() -> list[SpeechWindow]:
    """Three, four and two digits: three lengths."""
    takes = list(digit_takes("jackson", 6))
    lead_in = np.zeros(SAMPLE_RATE_HZ // 10, np.int16)
    return [
        SpeechWindow(np.concatenate([lead_in, *takes[a:b]])) for a, b in ((1, 4), (4, 8), (8, 10))
    ]


def plain(text: str) -> str:
    return text.strip(".,").lower()


def test_neighbours_change_nothing_and_digits_are_heard(engine: WhisperRecognizer) -> None:
    together = engine.recognize(windows())
    for window, answer in zip(windows(), together, strict=True):
        (alone,) = engine.recognize([window])
        assert alone.tokens == answer.tokens
        assert [word.span for word in alone.words] == [word.span for word in answer.words]
        starts = [word.span.start for word in answer.words]
        assert starts == sorted(starts)
        assert all(word.span.end <= len(window.samples) for word in answer.words)
    heard = " ".join(plain(word.text) for answer in together for word in answer.words)
    assert jiwer.wer(" ".join(NAMES[1:]), heard) <= 0.2
    assert engine.languages == ("en",)


def test_what_is_too_short_or_empty_has_no_words(engine: WhisperRecognizer) -> None:
    assert engine.recognize([]) == []
    (answer,) = engine.recognize([SpeechWindow(np.zeros(10, np.int16))])
    assert (answer.words, answer.language) == ((), "en")


def test_a_window_over_thirty_seconds_is_refused(engine: WhisperRecognizer) -> None:
    with pytest.raises(ValueError, match="30 s at most"):
        engine.recognize([SpeechWindow(np.zeros(30 * SAMPLE_RATE_HZ + 1, np.int16))])


@pytest.fixture(scope="module")
def multilingual() -> WhisperRecognizer:
    """Random weights and the reference's own tokens: its words mean nothing, its shape does."""
    import torch
    from transformers import (
        WhisperConfig,
        WhisperFeatureExtractor,
        WhisperForConditionalGeneration,
        WhisperTokenizerFast,
    )

    torch.manual_seed(0)
    sizes = {f"{side}_{what}": n for side in ("encoder", "decoder") for what, n in SMALL.items()}
    special = {"decoder_start_token_id": 50257, "eos_token_id": 50256, "pad_token_id": 50256}
    config = WhisperConfig(vocab_size=51_865, d_model=16, bos_token_id=50256, **sizes, **special)
    checkpoint = Checkpoint(
        "random",
        WhisperForConditionalGeneration(config).eval(),
        WhisperFeatureExtractor.from_pretrained(REFERENCE),
        WhisperTokenizerFast.from_pretrained(REFERENCE),
    )
    return WhisperRecognizer(checkpoint)


SMALL = {"layers": 2, "attention_heads": 2, "ffn_dim": 16}


def noise(seconds: float) -> Samples:
    random = np.random.default_rng(0)
    return random.integers(-3_000, 3_000, int(seconds * SAMPLE_RATE_HZ)).astype(np.int16)


def test_languages_are_detected_with_a_probability_only_where_none_is_given(
    multilingual: WhisperRecognizer,
) -> None:
    assert {"en", "de", "zh"} <= set(multilingual.languages)
    asked = [SpeechWindow(noise(1)), SpeechWindow(noise(2), language="zh", task="translate")]
    detected, given = multilingual.recognize(asked)
    assert detected.language in multilingual.languages
    assert detected.language_probability is not None
    assert 0 < detected.language_probability <= 1
    assert (given.language, given.language_probability) == ("zh", None)


def test_nonsense_is_bounded_finite_and_whole(multilingual: WhisperRecognizer) -> None:
    asked = [SpeechWindow(noise(s), language="en") for s in (0.2, 1.5)]
    for window, answer in zip(asked, multilingual.recognize(asked), strict=True):
        assert len(answer.tokens) <= 20 + 20 * len(window.samples) // SAMPLE_RATE_HZ
        assert all(word.span.end <= len(window.samples) for word in answer.words)
        assert all("\ufffd" not in word.text for word in answer.words)


def test_a_language_that_the_model_lacks_is_refused(multilingual: WhisperRecognizer) -> None:
    with pytest.raises(ValueError, match="tlh"):
        multilingual.recognize([SpeechWindow(noise(1), language="tlh")])


def test_prompts_are_bounded_and_special_tokens_in_them_are_plain_text(
    multilingual: WhisperRecognizer,
) -> None:
    prompt = "ordinary words <|endoftext|> <|startoftranscript|><|1.00|> " * 60
    window = SpeechWindow(noise(1), language="de", prompt=prompt, keywords=("Zoë", "<|de|>"))
    neighbour = SpeechWindow(noise(1), language="de")
    task = multilingual.task(window, "de")
    prompt_tokens = task.prefix[: task.start]
    assert len(prompt_tokens) == 224
    assert max(prompt_tokens[1:]) < 50_256
    assert len(task.prefix) + task.tokens_max <= 448
    answers = multilingual.recognize([window, neighbour])
    assert answers[1].tokens == multilingual.recognize([neighbour])[0].tokens


def test_a_cached_checkpoint_needs_no_network(
    tmp_path: Path,
) -> None:
    cached = tmp_path / "models--someone--digits"
    (cached / "snapshots").mkdir(parents=True)
    (cached / "snapshots" / "abc").symlink_to(REFERENCE)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("abc")
    code = f"""
import os
os.environ.update(HF_HUB_OFFLINE="1", HF_HUB_CACHE={str(tmp_path)!r})
from server.engines.registry import EngineSpec, build
from streaming.events import SessionStage
options = {{"dtype": "float32"}}
print(build(EngineSpec(SessionStage.RECOGNITION, "whisper", "someone/digits", options)).description)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "whisper someone/digits float32"
