"""Finals are token for token what ``generate`` gives, whatever drafts and neighbours they have."""

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from server.engines.demo_whisper import demo_checkpoint
from server.engines.errors import EngineUnavailable
from server.engines.registry import EngineSpec
from server.engines.whisper import WhisperRecognizer
from server.engines.whisper_calibration import Calibration, fingerprint, write_calibration
from server.engines.whisper_checkpoint import Checkpoint, load_checkpoint
from server.engines.whisper_options import WhisperOptions
from server.engines.whisper_reference import WhisperReference
from server.evaluation.exactness import compare_finals
from streaming.engines import Samples, SpeechWindow
from streaming.events import SessionStage
from streaming.timeline import SAMPLE_RATE_HZ

FOLDER = demo_checkpoint()
PROMPT = "Alice will review the new contract on Monday."
TOKENS_MAX = 32

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(FOLDER is None, reason="needs the demo checkpoint"),
]


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return load_checkpoint(EngineSpec(SessionStage.RECOGNITION, "whisper", str(FOLDER), threads=1))


@pytest.fixture(scope="module")
def engine(checkpoint: Checkpoint) -> WhisperRecognizer:
    return WhisperRecognizer(checkpoint, WhisperOptions(dtype="float32"))


@pytest.fixture(scope="module")
def clip() -> Samples:
    assert FOLDER is not None
    audio, rate = soundfile.read(FOLDER.parent / "demo_clip" / "clip.flac", dtype="int16")
    assert rate == SAMPLE_RATE_HZ
    samples: Samples = audio
    return samples


def cut(clip: Samples, start_s: float, end_s: float, **fields: Any) -> SpeechWindow:
    samples = clip[int(start_s * SAMPLE_RATE_HZ) : int(end_s * SAMPLE_RATE_HZ)]
    return SpeechWindow(samples, **fields)


def garbage(seed: int, vocabulary: int) -> tuple[int, ...]:
    drawn = random.Random(seed)
    return tuple(drawn.randrange(vocabulary) for _ in range(40))


def mixed(clip: Samples) -> list[SpeechWindow]:
    """Lengths, languages, tasks and prompts side by side; drafts without a grain of truth."""
    return [
        cut(clip, 0.0, 3.1, language="en"),
        cut(clip, 2.0, 9.3, language="en", prompt=PROMPT, draft=garbage(1, 2_528)),
        cut(clip, 9.0, 14.2, draft=(-5, 10**9, 3)),
        cut(clip, 12.0, 13.0, language="de", task="translate", keywords=("Berlin",)),
        cut(clip, 20.0, 31.0, language="en", draft=garbage(2, 900)),
    ]


@pytest.mark.parametrize("timestamps", [True, False])
def test_finals_are_those_of_generate(
    checkpoint: Checkpoint, clip: Samples, timestamps: bool
) -> None:
    options = WhisperOptions(dtype="float32", timestamps=timestamps)
    reference = WhisperReference(checkpoint, timestamps=timestamps)
    report = compare_finals(WhisperRecognizer(checkpoint, options), reference, mixed(clip))
    assert report.windows == report.equal + report.guarded + len(report.mismatches) == 5
    assert not report.failures, report
    assert report.tokens > 40


def test_drafts_and_neighbours_change_nothing_but_the_passes(
    engine: WhisperRecognizer, clip: Samples
) -> None:
    windows = [replace(window, draft=()) for window in mixed(clip)[1:4]]
    together = engine.recognize(windows)
    spans = [[word.span for word in answer.words] for answer in together]
    stamped = 1_100
    drafts = [
        [answer.tokens for answer in together],
        [answer.tokens[: len(answer.tokens) // 2] for answer in together],
        [tuple(t + 3 if t > stamped else t for t in answer.tokens) for answer in together],
        [(*answer.tokens, *answer.tokens) for answer in together],
    ]
    for given in drafts:
        drafted = [replace(w, draft=d) for w, d in zip(windows, given, strict=True)]
        again = engine.recognize(drafted[::-1])[::-1]
        assert [answer.tokens for answer in again] == [answer.tokens for answer in together]
        assert [[word.span for word in answer.words] for answer in again] == spans
    assert engine.recognize(windows[:1])[0].tokens == together[0].tokens


def test_a_final_whose_draft_is_right_costs_one_pass(
    engine: WhisperRecognizer, clip: Samples
) -> None:
    window = cut(clip, 2.0, 9.3, language="en")
    (answer,) = engine.recognize([window])
    before = engine.counters.decoder_passes
    engine.recognize([replace(window, draft=answer.tokens)])
    assert engine.counters.decoder_passes - before == 1


def test_partials_beside_finals_say_the_same_in_fewer_passes(
    engine: WhisperRecognizer, clip: Samples
) -> None:
    final = cut(clip, 0.0, 2.7, language="en")
    partial = replace(final, is_final=False)
    before = engine.counters.decoder_passes
    heard, alone = engine.recognize([partial])[0], engine.counters.decoder_passes - before
    beside = engine.recognize([final, partial])
    assert beside[1] == heard
    assert [word.text for word in beside[0].words] == [word.text for word in heard.words]
    assert alone < engine.counters.decoder_passes - before - alone


def test_calibrated_finals_are_heard_with_a_short_context(
    checkpoint: Checkpoint, clip: Samples, tmp_path: Path
) -> None:
    assert checkpoint.folder is not None
    path = tmp_path / "calibration.json"
    measured = Calibration(fingerprint(checkpoint.folder), 2.0, 0.01, 0.01, 60.0, "2026-11-20")
    write_calibration(path, measured)
    options = WhisperOptions(
        dtype="float32", final_context="calibrated", calibration=str(path), tokens_max=TOKENS_MAX
    )
    window = cut(clip, 0.0, 3.1, language="en")
    heard = [
        WhisperRecognizer(checkpoint, options).recognize([window]),
        WhisperRecognizer(checkpoint, final_margin_s=2.0).recognize([window]),
    ]
    assert heard[0] == heard[1]
    assert heard[0][0].words
    write_calibration(path, replace(measured, checkpoint_sha256="of another"))
    with pytest.raises(EngineUnavailable, match="other weights"):
        WhisperRecognizer(checkpoint, options)


@pytest.fixture(scope="module")
def random_checkpoint(checkpoint: Checkpoint) -> Checkpoint:
    """Random weights, so that nothing is said twice in the same way and little is likely."""
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    torch.manual_seed(0)
    shape = checkpoint.model.config.to_dict() | {
        "d_model": 64,
        "encoder_layers": 2,
        "decoder_layers": 2,
        "encoder_ffn_dim": 96,
        "decoder_ffn_dim": 96,
        "encoder_attention_heads": 2,
    }
    model = WhisperForConditionalGeneration(WhisperConfig(**shape)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    model.generation_config = checkpoint.model.generation_config
    heads = {"alignment_heads": [[1, 0]]}
    model.generation_config.update(**heads)
    return replace(checkpoint, name="random", model=model)


def noise(seconds: float, seed: int) -> Samples:
    drawn = np.random.default_rng(seed).normal(0, 3_000, int(seconds * SAMPLE_RATE_HZ))
    samples: Samples = drawn.astype(np.int16)
    return samples


def test_random_weights_decode_as_in_generate(random_checkpoint: Checkpoint) -> None:
    options = WhisperOptions(dtype="float32", tokens_max=TOKENS_MAX, guards=False)
    engine = WhisperRecognizer(random_checkpoint, options)
    reference = WhisperReference(random_checkpoint, timestamps=True)
    windows = [
        SpeechWindow(noise(0.4 + seed, seed), "en", draft=garbage(seed, 2_528) * (seed % 2))
        for seed in range(6)
    ]
    report = compare_finals(engine, reference, windows)
    assert not report.failures, report
    assert report.guarded == 0
    assert report.tokens > 2 * len(windows)


def test_what_a_guard_doubts_is_sampled_again_and_repeatable(
    random_checkpoint: Checkpoint,
) -> None:
    engine = WhisperRecognizer(random_checkpoint, WhisperOptions(dtype="float32"))
    window = SpeechWindow(noise(3, 1), "en", seed=1)
    (first,), (second,) = engine.recognize([window]), engine.recognize([window])
    assert first.guards
    assert first == second
    others = {engine.recognize([replace(window, seed=seed)])[0].tokens for seed in range(2, 5)}
    assert others != {first.tokens}
