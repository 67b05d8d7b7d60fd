"""The CTC recognizer: the model's own frames, alone or in any batch."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.engines.ctc import (
    BATCH_SAMPLES_MAX,
    WINDOW_SAMPLES_MAX,
    WINDOW_SAMPLES_MIN,
    CtcRecognizer,
    batches,
    frame_samples,
    receptive_samples,
)
from server.engines.ctc_checkpoint import FAMILIES
from server.engines.registry import EngineSpec, OptionValue, build
from streaming.engines import Hypothesis, Samples, SpeechWindow
from streaming.events import SessionStage
from streaming.timeline import SAMPLE_RATE_HZ
from tests.tiny_ctc import build_ctc

pytestmark = pytest.mark.slow

Open = Callable[..., CtcRecognizer]


@pytest.fixture(scope="module")
def open_tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Open]:
    """A recognizer over a tiny checkpoint: of a family, with settings of its config."""
    import torch

    threads = torch.get_num_threads()
    folders: dict[str, Path] = {}

    def open_it(
        family: str = "wav2vec2", options: dict[str, OptionValue] | None = None, **settings: Any
    ) -> CtcRecognizer:
        key = f"{family} {settings}"
        if key not in folders:
            folders[key] = build_ctc(tmp_path_factory.mktemp("ctc"), family, **settings)
        spec = EngineSpec(SessionStage.RECOGNITION, "ctc", str(folders[key]), options or {})
        engine = build(spec)
        assert isinstance(engine, CtcRecognizer)
        return engine

    yield open_it
    torch.set_num_threads(threads)


def noise(samples: int, seed: int = 0) -> Samples:
    return np.random.default_rng(seed).normal(0, 3_000, samples).astype(np.int16)


def texts(hypothesis: Hypothesis) -> list[tuple[str, int, int]]:
    return [(w.text, w.span.start, w.span.end) for w in hypothesis.words]


def test_words_and_times_are_those_of_transformers_own_decoding(tmp_path: Path) -> None:
    folder = build_ctc(tmp_path)
    engine = CtcRecognizer.from_spec(EngineSpec(SessionStage.RECOGNITION, "ctc", str(folder)))
    import torch
    from transformers import Wav2Vec2ForCTC, Wav2Vec2Processor

    processor = Wav2Vec2Processor.from_pretrained(folder)
    model = Wav2Vec2ForCTC.from_pretrained(folder).eval()
    for seed in range(3):
        audio = noise(3 * SAMPLE_RATE_HZ + 77 * seed, seed)
        inputs = processor(audio / 32768, sampling_rate=SAMPLE_RATE_HZ, return_tensors="pt")
        with torch.inference_mode():
            logits = model(inputs.input_values.float()).logits[0]
        theirs = processor.decode(logits.argmax(dim=-1), output_word_offsets=True).word_offsets
        scale = model.config.inputs_to_logits_ratio
        (found,) = engine.recognize([SpeechWindow(audio)])
        assert len(theirs) > 1
        assert texts(found) == [
            (w["word"], w["start_offset"] * scale, w["end_offset"] * scale) for w in theirs
        ]
        assert all(word.confidence is not None and 0 < word.confidence <= 1 for word in found.words)


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        *((family, {}) for family in sorted(FAMILIES)),
        ("wav2vec2", {"feat_extract_norm": "group", "do_stable_layer_norm": False}),
        ("wav2vec2", {"add_adapter": True, "output_hidden_size": 32}),
        ("wav2vec2-bert", {"add_adapter": True, "output_hidden_size": 32, "num_adapter_layers": 1}),
    ],
)
def test_neighbours_change_nothing(
    open_tiny: Open, family: str, settings: dict[str, object]
) -> None:
    engine = open_tiny(family, **settings)
    lengths = (16_000, 31_234, 8_001, 47_999, 16_000, WINDOW_SAMPLES_MIN, 0)
    windows = [SpeechWindow(noise(samples, i)) for i, samples in enumerate(lengths)]
    together = engine.recognize(windows)
    for window, found in zip(windows, together, strict=True):
        (alone,) = engine.recognize([window])
        assert texts(alone) == texts(found)
        for mine, other in zip(alone.words, found.words, strict=True):
            assert mine.confidence == pytest.approx(other.confidence, abs=1e-3)
    assert sum(len(hypothesis.words) for hypothesis in together) > 3


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_the_frames_lie_on_the_declared_grid(open_tiny: Open, family: str) -> None:
    """A word's time is its frame's place: frames must neither run away nor lag behind."""
    engine = open_tiny(family)
    (rows,) = engine.log_probabilities([SpeechWindow(noise(20 * SAMPLE_RATE_HZ))])
    samples = len(rows) * frame_samples(engine._model.config)
    assert 0 <= 20 * SAMPLE_RATE_HZ - samples <= 2 * frame_samples(engine._model.config)


def test_windows_are_bounded(open_tiny: Open) -> None:
    engine = open_tiny()
    with pytest.raises(ValueError, match="30 s at most"):
        engine.recognize([SpeechWindow(noise(WINDOW_SAMPLES_MAX + 1))])
    short = min(WINDOW_SAMPLES_MIN, receptive_samples(engine._model.config)) - 1
    nothing = engine.recognize([SpeechWindow(noise(samples)) for samples in (0, 1, short)])
    assert [found.words for found in nothing] == [()] * 3


@given(st.lists(st.integers(0, WINDOW_SAMPLES_MAX), max_size=30), st.booleans())
def test_each_window_is_in_one_batch_of_bounded_size(lengths: list[int], is_padded: bool) -> None:
    made = list(batches(lengths, WINDOW_SAMPLES_MIN, is_padded=is_padded))
    asked = [i for i, samples in enumerate(lengths) if samples >= WINDOW_SAMPLES_MIN]
    assert sorted(index for batch in made for index in batch) == asked
    for batch in made:
        padded = [lengths[index] for index in batch]
        assert max(padded) * len(batch) <= BATCH_SAMPLES_MAX
        assert is_padded or len(set(padded)) == 1


def test_the_operators_language_is_the_only_one(open_tiny: Open) -> None:
    engine = open_tiny(options={"language": "de"})
    assert engine.languages == ("de",)
    (found,) = engine.recognize([SpeechWindow(noise(16_000))])
    assert (found.language, found.language_probability) == ("de", None)
    with pytest.raises(ValueError, match="fr"):
        engine.recognize([SpeechWindow(noise(16_000), language="fr")])


def test_without_it_the_clients_language_is_believed(open_tiny: Open) -> None:
    engine = open_tiny()
    assert engine.languages is None
    asked, unasked = engine.recognize(
        [SpeechWindow(noise(16_000), language="ja"), SpeechWindow(noise(16_000))]
    )
    assert (asked.language, unasked.language) == ("ja", None)
    assert any(word.is_glued for word in asked.words)
    assert not any(word.is_glued for word in unasked.words)
    assert "".join(word.text for word in asked.words) == "".join(w.text for w in unasked.words)


def test_it_does_not_translate(open_tiny: Open) -> None:
    with pytest.raises(ValueError, match="does not translate"):
        open_tiny().recognize([SpeechWindow(noise(16_000), task="translate")])


def test_warm_up_answers_and_the_description_names_the_checkpoint(open_tiny: Open) -> None:
    engine = open_tiny()
    engine.warm_up()
    assert engine.description.startswith("ctc ")
    assert engine.description.endswith(" float32")
