"""PocketSphinx hears English, and nothing but the window."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from server.engines.errors import EngineUnavailable
from server.engines.pocketsphinx import PocketSphinxRecognizer
from server.engines.registry import EngineSpec
from streaming.engines import Samples, SpeechWindow
from streaming.events import SessionStage
from streaming.timeline import SAMPLE_RATE_HZ

LIBRISPEECH = Path(__file__).parents[3] / "shared" / "data" / "librispeech"
SPEC = EngineSpec(SessionStage.RECOGNITION, "pocketsphinx")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def engine() -> PocketSphinxRecognizer:
    return PocketSphinxRecognizer.from_spec(SPEC)


def utterance(reader: str) -> Samples:
    files = sorted((LIBRISPEECH / reader).glob("*.flac"))
    if not files:
        pytest.skip("needs ../shared/data/librispeech")
    audio, _ = soundfile.read(files[0], dtype="int16")
    cut: Samples = audio[: 4 * SAMPLE_RATE_HZ]
    return cut


@pytest.mark.parametrize("is_final", [True, False])
def test_words_are_plain_in_order_and_inside_the_window(
    engine: PocketSphinxRecognizer, is_final: bool
) -> None:
    audio = utterance("2414")
    (answer,) = engine.recognize([SpeechWindow(audio, is_final=is_final)])
    texts = [word.text for word in answer.words]
    assert texts[:3] == ["what", "had", "happened"]
    assert all(text.isascii() and text[0].isalpha() and "(" not in text for text in texts)
    starts = [word.span.start for word in answer.words]
    assert starts == sorted(starts)
    assert all(word.span.samples > 0 and word.span.end <= len(audio) for word in answer.words)
    confidences = {word.confidence is not None for word in answer.words}
    assert confidences == {is_final}


def test_other_windows_before_it_change_nothing(engine: PocketSphinxRecognizer) -> None:
    window = SpeechWindow(utterance("2414"))
    fresh = PocketSphinxRecognizer.from_spec(SPEC).recognize([window])
    noise = np.random.default_rng(0).integers(-9_000, 9_000, SAMPLE_RATE_HZ).astype(np.int16)
    others = [SpeechWindow(utterance("1688")), SpeechWindow(noise), SpeechWindow(noise[:1_700])]
    assert engine.recognize([*others, window])[-1:] == fresh
    assert engine.recognize([window]) == fresh


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 4_000),
    st.sampled_from([0, 1, 1_000, 32_767]),
    st.booleans(),
    st.integers(0, 2**32 - 1),
)
def test_no_audio_however_short_or_odd_raises(
    engine: PocketSphinxRecognizer, samples: int, amplitude: int, is_final: bool, seed: int
) -> None:
    audio = np.random.default_rng(seed).integers(-amplitude, amplitude + 1, samples)
    (answer,) = engine.recognize([SpeechWindow(audio.astype(np.int16), is_final=is_final)])
    assert all(word.span.end <= samples for word in answer.words)


def test_another_language_is_answered_with_the_one_it_has(engine: PocketSphinxRecognizer) -> None:
    silence = np.zeros(SAMPLE_RATE_HZ // 20, np.int16)
    (answer,) = engine.recognize([SpeechWindow(silence, language="de")])
    assert answer.language == "en"
    assert engine.languages == ("en",)


def test_a_model_is_refused() -> None:
    spec = EngineSpec(SessionStage.RECOGNITION, "pocketsphinx", model="de-de")
    with pytest.raises(EngineUnavailable, match="--asr whisper"):
        PocketSphinxRecognizer.from_spec(spec)
