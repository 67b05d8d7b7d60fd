"""Which number format partials and finals are computed in."""

from dataclasses import replace

import pytest
import soundfile
import torch

from server.engines.whisper import WhisperRecognizer
from server.engines.whisper_network import final_dtype
from server.engines.whisper_options import WhisperOptions
from server.evaluation.whisper_models import trained_checkpoint
from streaming.engines import SpeechWindow
from streaming.timeline import SAMPLE_RATE_HZ
from tests.server.test_silero import CLIP

CALIBRATED = WhisperOptions(final_context="calibrated", calibration="c.json")


@pytest.mark.parametrize(
    ("options", "dtype", "wanted"),
    [
        (WhisperOptions(), torch.bfloat16, torch.float32),
        (WhisperOptions(), torch.float16, torch.float16),
        (WhisperOptions(), torch.float32, torch.float32),
        (CALIBRATED, torch.bfloat16, torch.bfloat16),
        (WhisperOptions(final_dtype="bfloat16"), torch.bfloat16, torch.bfloat16),
        (WhisperOptions(final_dtype="bfloat16"), torch.float32, torch.bfloat16),
        (replace(CALIBRATED, final_dtype="float32"), torch.bfloat16, torch.float32),
    ],
)
def test_only_measured_or_named_finals_are_left_to_bfloat16(
    options: WhisperOptions, dtype: torch.dtype, wanted: torch.dtype
) -> None:
    assert final_dtype(options, dtype) is wanted


def test_exact_finals_say_the_same_beside_bfloat16_partials() -> None:
    samples, _ = soundfile.read(CLIP, dtype="int16", frames=5 * SAMPLE_RATE_HZ)
    final = SpeechWindow(samples)
    partial = replace(final, is_final=False)
    checkpoint = trained_checkpoint(threads=1)
    exact = WhisperRecognizer(checkpoint, WhisperOptions(dtype="float32"))
    mixed = WhisperRecognizer(checkpoint, WhisperOptions(dtype="bfloat16"))
    assert mixed.description.endswith("bfloat16, finals float32")
    (wanted,) = exact.recognize([final])
    assert wanted.words
    heard, found = mixed.recognize([partial, final])
    assert (found.tokens, found.words) == (wanted.tokens, wanted.words)
    assert heard.words
    assert mixed.counters.finals == mixed.counters.partials == 1
    assert mixed.counters.verify_s > 0
