"""Guards in the recognizer that ships: honest repetition passes, a loop does not get through."""

from itertools import pairwise

import numpy as np
import pytest

from server.engines.demo_whisper import from_spec
from server.engines.registry import EngineSpec
from server.engines.whisper import WhisperRecognizer
from streaming.engines import Hypothesis, Samples, SpeechWindow
from streaming.events import SessionStage
from streaming.guards import COMPRESSION_RATIO_MAX, compression_ratio, is_loop, loud_spans
from tools.demo_whisper.corpus import ClipPlan, Corpus, DigitRecordings, Split, find_recordings
from tools.demo_whisper.synthesis import Samples as Waveform
from tools.demo_whisper.synthesis import SynthesisError

pytestmark = pytest.mark.slow

REPEATS = 8
LONG_WINDOWS = 4
"""Of 28 s: the demo checkpoint loses its place in about every fifth."""


@pytest.fixture(scope="module")
def recognizer() -> WhisperRecognizer:
    return from_spec(EngineSpec(SessionStage.RECOGNITION, "demo", threads=2))


@pytest.fixture(scope="module")
def recordings() -> DigitRecordings:
    found = find_recordings()
    if found is None:
        pytest.skip("needs the recorded digits of ../shared/data/fsdd")
    return found


def corpus(recordings: DigitRecordings | None) -> Corpus:
    try:
        return Corpus(Split.TEST, "guards", recordings)
    except SynthesisError as error:
        pytest.skip(str(error))


def heard(recognizer: WhisperRecognizer, sound: Waveform) -> tuple[Hypothesis, Samples]:
    samples: Samples = (np.clip(sound, -1, 1) * 32_767).astype(np.int16)
    (hypothesis,) = recognizer.recognize([SpeechWindow(samples, language="en")])
    return hypothesis, samples


def test_people_who_repeat_a_digit_are_believed(
    recognizer: WhisperRecognizer, recordings: DigitRecordings
) -> None:
    drawn, pause, ratios = corpus(recordings), np.zeros(4_800, np.float32), []
    for first, second in pairwise(range(1, 8)):
        speaker = drawn.rng.choice(recordings.speakers(Split.TEST))
        digits = [first] * REPEATS + [second] * REPEATS
        speech = recordings.say(drawn.rng, Split.TEST, digits, speaker)
        answer, _ = heard(recognizer, np.concatenate([pause, speech.samples, pause]))
        assert answer.guards == (), (speaker, digits)
        assert len(answer.words) > REPEATS
        ratios.append(compression_ratio(" ".join(word.text for word in answer.words)))
    assert max(ratios) > COMPRESSION_RATIO_MAX, "a guard on the text alone would have fired"


def test_no_loop_gets_through_unnamed(recognizer: WhisperRecognizer) -> None:
    drawn = corpus(None)
    for _ in range(LONG_WINDOWS):
        clip = drawn.clip(ClipPlan(28, 27.5, "en", digits_share=0))
        answer, samples = heard(recognizer, clip.samples)
        assert answer.guards or not is_loop(answer.words, loud_spans(samples))
