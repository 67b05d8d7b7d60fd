"""Tensors, losses, the exported folder: small and quick, on made-up sound."""

from collections.abc import Iterator
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from transformers import WhisperFeatureExtractor, WhisperForConditionalGeneration, WhisperProcessor

from tools.demo_whisper import batches, model, train, word_times
from tools.demo_whisper import tokenizer as tokenizers
from tools.demo_whisper.batches import IGNORED, Batch, Batches, BatchShape
from tools.demo_whisper.corpus import Clip, Corpus, Split, Utterance
from tools.demo_whisper.decoding import greedy, plain, wer
from tools.demo_whisper.export import WEIGHTS_MAX_BYTES, export
from tools.demo_whisper.model import Trainee
from tools.demo_whisper.sentences import respelled
from tools.demo_whisper.synthesis import SynthesisError, TimedWord
from tools.demo_whisper.tokenizer import Labels, Wish

WORDS = (TimedWord("Thank", 0.5, 0.8), TimedWord("you.", 0.8, 1.2))


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Threads that wait for one another make these small sums slow on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def labels() -> Labels:
    return Labels(tokenizers.build())


@pytest.fixture(scope="module")
def trainee(labels: Labels) -> Trainee:
    torch.manual_seed(1)
    return Trainee(labels)


@pytest.fixture(scope="module")
def clips() -> list[Clip]:
    rng = np.random.default_rng(1)
    speech = rng.standard_normal(32_000).astype(np.float32) * np.float32(0.1)
    return [
        Clip(speech, (Utterance(WORDS, 0.5, 1.2),), "en"),
        Clip(np.zeros(32_000, np.float32), (), None),
    ]


@pytest.fixture(scope="module")
def batch(labels: Labels, clips: list[Clip]) -> Batch:
    try:
        corpus = Corpus(Split.TRAIN, "test", None)
    except SynthesisError as error:
        pytest.skip(str(error))
    wishes = [Wish("en", timestamps=True), Wish("de")]
    return Batches(corpus, labels).collate(clips, list(map(labels.of, clips, wishes)))


def test_nothing_is_learned_from_what_is_given(labels: Labels, clips: list[Clip]) -> None:
    rows = [labels.of(clips[0], Wish("en", prompt="Yes, I will."))]
    ids, targets = batches.decoder_rows(rows, labels.end)
    learned = targets[0][targets[0] != IGNORED].tolist()
    assert learned == [labels.id("en"), *labels.text("Thank you."), labels.end]
    assert ids.shape == targets.shape
    assert targets[0][ids[0] == labels.start].tolist() == [labels.id("en")]


def test_frames_name_the_words_that_are_spoken_in_them(batch: Batch) -> None:
    classes = batches.WordClasses()
    frames = batch.frame_words[0].tolist()
    assert len(frames) == 100  # 2 s of 20 ms
    assert frames[0] == 0
    assert frames[30] == classes.word("thank")
    assert frames[50] == classes.word("you")
    assert frames[90] == 0
    assert set(batch.frame_words[1].tolist()) == {0}


def test_spans_are_in_frames(batch: Batch, labels: Labels) -> None:
    row = batch.ids[0].tolist()
    assert batch.spans[0, row.index(labels.text("Thank")[0])].tolist() == [25, 40]
    assert batch.spans[0, 0].tolist() == [0, 0]


def test_a_few_steps_lower_the_loss(labels: Labels, batch: Batch) -> None:
    torch.manual_seed(1)
    fresh = Trainee(labels)
    optimizer = torch.optim.AdamW(fresh.parameters(), 1e-3)
    totals = []
    for _ in range(4):
        losses = fresh(batch)
        optimizer.zero_grad()
        losses.total.backward()
        optimizer.step()
        totals.append(losses.values()[0])
    assert all(np.isfinite(totals))
    assert totals[-1] < totals[0]


def test_features_are_those_of_the_library() -> None:
    audio = np.random.default_rng(2).standard_normal(480_000).astype(np.float32) * np.float32(0.1)
    expected = WhisperFeatureExtractor(feature_size=80)(
        audio, sampling_rate=16_000, return_tensors="pt"
    ).input_features
    assert torch.allclose(model.LogMel()(torch.from_numpy(audio[None])), expected, atol=2e-3)


def test_the_encoder_is_that_of_the_library_at_full_context(trainee: Trainee) -> None:
    features = torch.randn(1, 80, 3_000)
    with torch.inference_mode():
        ours = model.encode(trainee.whisper, features)
        theirs = trainee.whisper.model.encoder(features).last_hidden_state
    assert torch.allclose(ours, theirs, atol=1e-4)


def test_the_exported_folder_loads_as_a_hub_checkpoint(
    trainee: Trainee, labels: Labels, tmp_path: Path
) -> None:
    export(trainee.whisper, labels, tmp_path)
    assert (tmp_path / "model.safetensors").stat().st_size <= WEIGHTS_MAX_BYTES
    loaded = WhisperForConditionalGeneration.from_pretrained(tmp_path)
    processor = WhisperProcessor.from_pretrained(tmp_path)
    settings = loaded.generation_config
    assert (settings.alignment_rows, settings.captiond_context_margin_s) == ("fed", 2.0)
    assert settings.is_multilingual
    assert set(settings.lang_to_id) == {"<|en|>", "<|de|>"}
    assert settings.no_timestamps_token_id == labels.no_timestamps
    assert settings.prev_sot_token_id == processor.get_prompt_ids("Yes.")[0]
    assert len(processor.tokenizer) == loaded.config.vocab_size


def test_greedy_decoding_is_that_of_the_library(trainee: Trainee, labels: Labels) -> None:
    trainee.eval()
    given = [labels.start, labels.id("en"), labels.id("transcribe"), labels.no_timestamps]
    with torch.inference_mode():
        states = trainee.encode(torch.randn(1, 32_000) * 0.1)
        said = greedy(trainee.whisper, states, given, labels.end)[0][:3]
        for count in range(3):
            ids = torch.tensor([[*given, *said[:count]]])
            hidden, _ = trainee.decode(ids, states)
            assert int(trainee.whisper.proj_out(hidden[0, -1]).argmax()) == said[count]


def test_learning_rate_rises_then_falls() -> None:
    rates = [train.learning_rate(step, step / 2_000) for step in (0, 50, 100, 1_000, 2_000)]
    assert rates[0] < rates[1] < rates[2] > rates[3] > rates[4] > 0


def test_the_curriculum_begins_short_and_ends_with_full_windows() -> None:
    def shapes(progress: float) -> set[int]:
        return {batches.shape(progress, Random(seed)).context_s for seed in range(80)}

    assert shapes(0.0) == {4}
    assert {4, 30} <= shapes(0.99)


def test_a_drawn_batch_has_the_shape_that_was_asked_for(labels: Labels) -> None:
    try:
        corpus = Corpus(Split.TRAIN, "test", None)
    except SynthesisError as error:
        pytest.skip(str(error))
    batch = Batches(corpus, labels).draw(BatchShape(4, 3, is_prompted=True))
    assert batch.audio.shape == (3, 64_000)
    assert batch.frame_words.shape == (3, 200)
    labels_drawn = 3 * len(batches.PROMPTED_WISHES)
    assert batch.spans.shape == (labels_drawn, batch.ids.shape[1] + 1, 2)
    previous = labels.id("startofprev")
    assert int((batch.ids[:, 0] == previous).sum()) == 3 * sum(batches.PROMPTED_WISHES)


def test_hints_list_a_said_name_in_its_second_spelling_half_of_the_time() -> None:
    rng, said = Random(4), "Thank you, Robert."
    drawn = [batches.hints(rng, said, "en") for _ in range(400)]
    written = [respelled(said, " ".join([*given.keywords, given.prompt])) for given in drawn]
    assert 0.35 < sum(text != said for text in written) / 400 < 0.7
    assert {bool(given.keywords) for given in drawn} == {True, False}
    assert {bool(given.prompt) for given in drawn} == {True, False}
    assert all(given.keywords or given.prompt for given in drawn)


def test_states_that_are_given_cost_no_encoder(trainee: Trainee, batch: Batch) -> None:
    with torch.inference_mode():
        whole, states = trainee(batch), trainee.encode(batch.audio)
        written = trainee(batch, states)
    assert float(written.text) == pytest.approx(float(whole.text), rel=1e-4)
    assert float(written.ctc) == 0
    assert float(written.total) < float(whole.total)


def test_word_error_rate_ignores_case_and_marks() -> None:
    assert plain(" Yes, I will. ") == "yes i will"
    assert wer(["Yes, I will."], ["yes I will"]) == 0
    assert wer(["one two three four"], ["one two four"]) == pytest.approx(0.25)


def test_word_times_are_compared_where_both_texts_agree() -> None:
    truth = [TimedWord("one", 0.1, 0.4), TimedWord("two", 0.5, 0.8), TimedWord("three", 0.9, 1.2)]
    heard = [TimedWord("One", 0.2, 0.2), TimedWord("three.", 0.9, 0.9)]
    assert word_times.matched_errors_s(truth, heard) == pytest.approx([0.1, 0.0])


def test_phonemes_of_a_cut_off_word_are_still_known(labels: Labels) -> None:
    del labels
    phonemes = (TimedWord("T", 0.5, 0.6), TimedWord("a", 0.6, 0.8), TimedWord("_:", 0.8, 2.0))
    utterance = Utterance(WORDS, 0.5, None, phonemes=phonemes)
    clip = Clip(np.zeros(32_000, np.float32), (utterance,), "en")
    classes = batches.frame_phonemes(clip, 100).tolist()
    assert classes[20] == classes[60] == 0
    assert classes[27] == batches.phoneme_class("T") > 0
    assert classes[35] == batches.phoneme_class("a") != classes[27]


def test_recorded_speech_has_no_phonemes_to_learn(clips: list[Clip]) -> None:
    classes = batches.frame_phonemes(clips[0], 100).tolist()
    assert classes[10] == 0
    assert set(classes[25:60]) == {IGNORED}
