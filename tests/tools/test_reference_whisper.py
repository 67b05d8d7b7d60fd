"""Windows of conversations, their labels, and two steps on a tiny checkpoint of the same kind."""

import json
from collections.abc import Iterator
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from load_tests.bench.rotated_speech import VARIANTS
from tools.demo_whisper import tokenizer as tokenizers
from tools.demo_whisper.batches import IGNORED
from tools.demo_whisper.corpus import Corpus, Split, Utterance, variants
from tools.demo_whisper.synthesis import (
    SAMPLE_RATE_HZ,
    Speech,
    SynthesisError,
    TimedWord,
)
from tools.demo_whisper.tokenizer import Labels
from tools.reference_whisper import checkpoint, conversations
from tools.reference_whisper.__main__ import main
from tools.reference_whisper.conversations import Cast, Conversations, Window, WindowPlan, cut_off
from tools.reference_whisper.labels import POSITIONS_MAX, EnglishLabels, UnfitCheckpoint
from tools.reference_whisper.report import CASES, Judge
from tools.reference_whisper.train import Options, Trainer, guide_loss, learning_rate

THANKS = (TimedWord("Thank", 1.0, 1.4), TimedWord("you.", 1.4, 1.9))
YES = (TimedWord("Yes,", 3.0, 3.4), TimedWord("I", 3.4, 3.5))
WINDOW = Window(
    np.zeros(4 * SAMPLE_RATE_HZ, np.float32),
    (Utterance(THANKS, 1.0, 2.0), Utterance(YES, 3.0, None)),
    "Room number six is open. That sounds good to me.",
)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """The trainer sets it for the process; other tests have their own share."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with random weights: a hub's files, English tokens only, float16."""
    # Not at the top: the packages above make torch fit for it first.
    from transformers import GenerationConfig, WhisperConfig, WhisperForConditionalGeneration

    path = tmp_path_factory.mktemp("whisper")
    labels = Labels(tokenizers.build())
    tokenizers.save(labels.tokenizer, path)
    torch.manual_seed(1)
    shape = WhisperConfig(
        vocab_size=len(labels.tokenizer),
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        pad_token_id=labels.end,
        bos_token_id=labels.end,
        eos_token_id=labels.end,
        decoder_start_token_id=labels.start,
    )
    whisper = WhisperForConditionalGeneration(shape)
    whisper.generation_config = GenerationConfig(
        alignment_heads=[[0, 1]],
        decoder_start_token_id=labels.start,
        eos_token_id=labels.end,
        is_multilingual=False,
        no_timestamps_token_id=labels.no_timestamps,
        prev_sot_token_id=labels.id("startofprev"),
    )
    whisper.to(torch.float16).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def labels(folder: Path) -> EnglishLabels:
    return EnglishLabels(folder)


@pytest.fixture(scope="module")
def source() -> Conversations:
    try:
        return Conversations(Corpus(Split.TRAIN, "test", None))
    except SynthesisError as error:
        pytest.skip(str(error))


def test_each_utterance_stands_between_its_timestamps(labels: EnglishLabels) -> None:
    row = labels.row(WINDOW, [], timestamps=True)
    stamp, words = labels.timestamp, labels.words
    assert row.ids == [
        labels.start,
        *[stamp(1.0), *words("Thank you."), stamp(2.0)],
        *[stamp(3.0), *words("Yes, I")],  # cut by the window's end: no closing one
        labels.end,
    ]
    assert stamp(3.0) - stamp(1.0) == 100
    assert stamp(30.0) == stamp(31.0) == stamp(0.0) + 1_500


def test_without_timestamps_the_text_alone_is_learned(labels: EnglishLabels) -> None:
    row = labels.row(WINDOW, [], timestamps=False)
    text = labels.words("Thank you. Yes, I")
    assert row.ids == [labels.start, labels.no_timestamps, *text, labels.end]
    assert labels.text(row.ids).strip() == WINDOW.text == "Thank you. Yes, I"


@pytest.mark.parametrize("timestamps", [False, True])
def test_nothing_is_learned_of_the_prompt(labels: EnglishLabels, timestamps: bool) -> None:
    prompt = labels.prompt(WINDOW.before, 5)
    assert prompt == [labels.previous, *labels.words(WINDOW.before)[-5:]]
    alone = labels.row(WINDOW, [], timestamps=timestamps)
    behind = labels.row(WINDOW, prompt, timestamps=timestamps)
    rows = labels.collate([alone, behind], frames=200)
    learned = [targets[targets != IGNORED].tolist() for targets in rows.targets]
    assert learned[0] == learned[1] == alone.ids[alone.given_count :]
    assert rows.ids[1, :6].tolist() == prompt
    assert set(rows.targets[1, : len(behind.ids) - 1 - len(learned[1])].tolist()) == {IGNORED}


def test_spans_are_those_of_the_token_that_is_learned(labels: EnglishLabels) -> None:
    rows = labels.collate([labels.row(WINDOW, [], timestamps=True)], frames=200)
    first = rows.targets[0].tolist().index(labels.words("Thank")[0])
    assert rows.spans[0, first, 0] == 50
    assert rows.spans[0, 0].tolist() == [45, 55]  # a timestamp is seen around its moment
    assert rows.spans[0, -1].tolist() == [0, 0]  # the end is not heard


def test_silence_has_an_empty_label(labels: EnglishLabels) -> None:
    silent = Window(np.zeros(100, np.float32), (), "")
    assert labels.row(silent, [], timestamps=False).ids[2:] == [labels.end]
    assert labels.row(silent, [], timestamps=True).ids[1:] == [labels.timestamp(0), labels.end]
    assert labels.prompt(silent.before) == []


def test_a_prompt_leaves_room_for_the_text(labels: EnglishLabels) -> None:
    long = Window(WINDOW.samples, WINDOW.utterances * 40, WINDOW.before)
    prompt = labels.prompt("Yes. " * 200)
    row = labels.row(long, prompt, timestamps=True)
    assert len(prompt) == 201
    assert len(row.ids) == POSITIONS_MAX + 1
    assert row.ids[0] == labels.previous
    assert row.ids[-1] == labels.end


def test_held_out_voices_are_never_drawn() -> None:
    rng = Random(1)
    drawn = {cast.voice(rng).variant for cast in conversations.TRAINING_CASTS for _ in range(900)}
    assert drawn == set(variants(Split.TRAIN))
    assert not drawn & {*VARIANTS, *variants(Split.TEST)}


def test_a_held_out_voice_cannot_be_cast(source: Conversations) -> None:
    with pytest.raises(AssertionError, match="held-out"):
        Conversations(source.corpus, [Cast(("en-us",), VARIANTS)])


@given(seed=st.integers(0, 10_000), context_s=st.sampled_from((8.0, 16.0, 30.0)))
@settings(max_examples=15, deadline=None)
def test_words_are_heard_inside_the_window(
    source: Conversations, seed: int, context_s: float
) -> None:
    planned = conversations.plan(Random(seed), context_s)
    window = source.window(planned)
    assert window.samples.shape == (context_s * SAMPLE_RATE_HZ,)
    assert np.isfinite(window.samples).all()
    assert len(window.utterances) <= planned.utterances_max
    ends_s = [utterance.end_s for utterance in window.utterances]
    assert None not in ends_s[:-1]
    words = [word for utterance in window.utterances for word in utterance.words]
    assert all(0 <= word.start_s <= word.end_s <= context_s + 0.05 for word in words)
    starts_s = [word.start_s for word in words]
    assert starts_s == sorted(starts_s)


def test_a_sliding_window_cuts_at_both_ends(source: Conversations) -> None:
    planned = WindowPlan(8, 8, cut_start=True, cut_end=True)
    windows = [source.window(planned) for _ in range(12)]
    assert any(window.utterances[-1].end_s is None for window in windows)
    assert any(window.utterances[0].start_s == 0 for window in windows)
    # What the beginning cuts off was said before, so the prompt ends within a sentence.
    assert any(not window.before.endswith((".", "?")) for window in windows)


def test_a_silent_window_says_nothing(source: Conversations) -> None:
    window = source.window(WindowPlan(8, 5, utterances_max=0))
    assert window.utterances == ()
    assert window.text == ""
    assert np.abs(window.samples).max() < 0.1


def test_words_before_a_cut_are_lost_to_the_window() -> None:
    words = (TimedWord("one", 0, 0.5), TimedWord("two", 0.5, 1.0))
    speech = Speech(np.ones(SAMPLE_RATE_HZ, np.float32), words)
    rest, lost = cut_off(speech, 0.3)
    assert [word.text for word in rest.words] == ["two"]
    assert lost == "one"
    assert cut_off(speech, 0.9) == (speech, "")


def test_the_share_of_windows_with_recorded_digits() -> None:
    rng = Random(3)
    plans = [conversations.plan(rng, 30) for _ in range(2_000)]
    assert 0.05 < sum(plan.digits_share > 0 for plan in plans) / 2_000 < 0.15
    assert 0.03 < sum(plan.utterances_max == 0 for plan in plans) / 2_000 < 0.07
    assert {plan.cut_start for plan in plans} == {plan.cut_end for plan in plans} == {True, False}


def test_guided_heads_are_told_where_to_look() -> None:
    spans = torch.tensor([[[0, 0], [2, 4]]])
    right, wrong = torch.zeros(1, 2, 6), torch.zeros(1, 2, 6)
    right[0, 1, 2:4] = 0.5
    wrong[0, 1, 5] = 1.0
    assert float(guide_loss([right], spans)) == pytest.approx(np.log(2))
    assert float(guide_loss([wrong], spans)) > 10
    assert float(guide_loss([right], torch.zeros_like(spans))) == 0


def test_learning_rate_rises_then_falls_to_nothing() -> None:
    rates = [learning_rate(step, step / 500, 1e-4) for step in (0, 25, 49, 250, 500)]
    assert rates[0] < rates[1] < rates[2] > rates[3] > rates[4] == 0


def test_other_checkpoints_are_refused_with_a_reason(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UnfitCheckpoint, match="no folder of a Whisper checkpoint"):
        EnglishLabels(tmp_path)
    told = json.loads((folder / "generation_config.json").read_bytes())
    (tmp_path / "generation_config.json").write_text(json.dumps(told | {"is_multilingual": True}))
    (tmp_path / "tokenizer.json").write_bytes((folder / "tokenizer.json").read_bytes())
    with pytest.raises(UnfitCheckpoint, match="multilingual"):
        EnglishLabels(tmp_path)


def test_every_case_of_the_report_has_a_name_of_its_own() -> None:
    assert len({case.name for case in CASES}) == len(CASES)
    assert Judge.case("29 s") in CASES


@pytest.mark.slow
def test_two_steps_and_a_folder_of_the_same_kind(folder: Path, tmp_path: Path) -> None:
    try:
        trainer = Trainer(Options(folder, 1, tmp_path, resume=False, processes=1, seed=1), 0)
    except SynthesisError as error:
        pytest.skip(str(error))
    assert all(np.isfinite(trainer.step(0.0)).all() for _ in range(2))
    trainer.state.elapsed_s = 1.0
    trainer.save()
    words = ["--whisper", str(folder), "--out", str(tmp_path), "--processes", "1", "--resume"]
    assert main([*words, "--minutes", "0.01", "--report-windows", "0"]) == 0

    made = tmp_path / "model"
    assert {path.name for path in made.iterdir()} == {path.name for path in folder.iterdir()}
    with (
        safe_open(folder / "model.safetensors", "pt") as before,
        safe_open(made / "model.safetensors", "pt") as after,
    ):
        assert set(before.keys()) == set(after.keys())
        assert before.metadata() == after.metadata()
        name = "model.decoder.layers.0.encoder_attn.q_proj.weight"
        old, new = before.get_tensor(name), after.get_tensor(name)
        assert old.dtype == new.dtype == torch.float16
        assert not torch.equal(old, new)
    loaded = checkpoint.load(made)
    assert torch.equal(loaded.state_dict()[name], new.float())
