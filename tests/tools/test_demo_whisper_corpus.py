"""Clips: who may be heard, and words inside the samples."""

import json
from random import Random

import numpy as np
import pytest

from tools.demo_whisper import corpus, noise
from tools.demo_whisper.corpus import ClipPlan, Corpus, Split
from tools.demo_whisper.sentences import reserved_hashes, text_hash
from tools.demo_whisper.synthesis import (
    SAMPLE_RATE_HZ,
    Speech,
    SynthesisError,
    Synthesizer,
    TimedWord,
)
from tools.make_demo_clip import OUT_DIR, TURNS, VOICES


@pytest.fixture(scope="module")
def train() -> Corpus:
    try:
        return Corpus(Split.TRAIN, "test", None)
    except SynthesisError as error:
        pytest.skip(str(error))


def test_the_demo_clip_is_reserved() -> None:
    names = [voice.variant for voice in VOICES.values()]
    texts = [text for _, sentences in TURNS for text in sentences]
    assert {text_hash(item) for item in [*names, *texts]} == reserved_hashes()


def test_training_never_hears_a_held_out_voice() -> None:
    train_names = set(corpus.variants(Split.TRAIN))
    assert not train_names & set(corpus.variants(Split.TEST))
    assert not train_names & {voice.variant for voice in VOICES.values()}
    assert not set(corpus.TAKES[Split.TRAIN]) & set(corpus.TAKES[Split.TEST])


def test_the_shipped_clip_is_the_one_that_is_reserved() -> None:
    reference = json.loads((OUT_DIR / "reference.json").read_text())
    sentences = " ".join(text for _, texts in TURNS for text in texts)
    assert reference["text"] == sentences
    assert {voice["variant"] for voice in reference["voices"].values()} == {
        voice.variant for voice in VOICES.values()
    }
    assert len(reference["turns"]) >= 8
    gaps = np.diff([t[edge] for t in reference["turns"] for edge in ("start", "end")])[1::2]
    assert gaps.min() >= 0.5
    assert gaps.max() <= 0.9


@pytest.mark.parametrize("language", ["en", "de"])
@pytest.mark.parametrize("cut_start", [False, True])
def test_words_lie_inside_the_clip(train: Corpus, language: str, cut_start: bool) -> None:
    for _ in range(10):
        clip = train.clip(ClipPlan(5, 4.5, language, cut_start=cut_start))
        assert len(clip.samples) == 5 * SAMPLE_RATE_HZ
        words = [word for utterance in clip.utterances for word in utterance.words]
        assert all(0 <= word.start_s <= word.end_s <= 4.6 for word in words)
        starts = [word.start_s for word in words]
        assert starts == sorted(starts)


def test_the_same_seed_gives_the_same_words(train: Corpus) -> None:
    del train  # only to skip where espeak-ng is missing
    plan = ClipPlan(4, 3.5, "en")
    first, second = (Corpus(Split.TEST, "seed", None).clip(plan) for _ in range(2))
    assert first.text == second.text


def test_a_second_synthesizer_does_not_silence_the_first(train: Corpus) -> None:
    first, second = Synthesizer(), Synthesizer()
    for speaker in (first, second, first):
        assert speaker.say("Thank you.", VOICES["low"]).duration_s > 0.3


def test_clips_without_language_have_no_words(train: Corpus) -> None:
    for _ in range(20):
        clip = train.clip(ClipPlan(4, 3, None))
        assert clip.language is None
        assert not clip.utterances
        assert np.isfinite(clip.samples).all()


def test_a_cut_utterance_keeps_the_words_that_are_heard() -> None:
    words = (TimedWord("one", 0, 0.5), TimedWord("two", 0.5, 1.0))
    speech = Speech(np.ones(SAMPLE_RATE_HZ, np.float32), words)
    samples = np.zeros(SAMPLE_RATE_HZ, np.float32)
    (utterance,) = corpus.placed(samples, speech, 0.2, 0.8, "eins zwei", 0.0)
    assert utterance.text == "one"
    assert utterance.end_s is None
    assert utterance.translation is None
    assert samples[: int(0.2 * SAMPLE_RATE_HZ)].max() == 0
    assert samples[int(0.8 * SAMPLE_RATE_HZ) :].max() == 0


def test_a_late_start_drops_the_words_before_it() -> None:
    words = (TimedWord("one", 0, 0.5), TimedWord("two", 0.5, 1.0))
    speech = Speech(np.ones(SAMPLE_RATE_HZ, np.float32), words)
    late = corpus.without_start(speech, 0.3)
    assert [word.text for word in late.words] == ["two"]
    assert late.words[0].start_s == pytest.approx(0.2)


def test_stretching_moves_the_words_with_the_sound() -> None:
    speech = Speech(np.ones(SAMPLE_RATE_HZ, np.float32), (TimedWord("one", 0.5, 1.0),))
    slow = corpus.stretched(speech, 1.1)
    assert slow.duration_s == pytest.approx(1.1, abs=1e-3)
    assert slow.words[0].start_s == pytest.approx(0.55)


def test_espeak_times_every_word() -> None:
    try:
        speech = Synthesizer().say("Room number six is open.", VOICES["low"])
    except SynthesisError as error:
        pytest.skip(str(error))
    starts = [word.start_s for word in speech.words]
    assert starts == sorted(set(starts))
    assert speech.words[-1].end_s == pytest.approx(speech.duration_s)


def test_recorded_digits_train_and_test_on_different_takes() -> None:
    recordings = corpus.find_recordings()
    if recordings is None:
        pytest.skip("the recorded digits are not on this machine")
    assert recordings.speakers(Split.TRAIN) == recordings.speakers(Split.TEST)
    speech = recordings.say(Random(1), Split.TEST, [4, 0, 7])
    assert [word.text for word in speech.words] == ["Four", "zero", "seven."]


@pytest.mark.parametrize(
    "sound", [noise.silence, noise.white, noise.coloured, noise.tones, noise.clicks]
)
def test_sounds_are_finite_and_within_full_scale(sound: noise.Sound) -> None:
    rng = np.random.default_rng(1)
    for _ in range(10):
        samples = sound(rng, 8_000)
        assert samples.shape == (8_000,)
        assert samples.dtype == np.float32
        assert np.abs(samples).max() < 4
