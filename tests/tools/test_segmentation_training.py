"""Loss, scores and the loop: a few steps on people made of noise, and known answers."""

from collections.abc import Iterator
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from server.engines.segmentation import load_segmentation
from server.engines.torch_setup import prepare_torch
from tools.demo_whisper.synthesis import SynthesisError
from tools.segmentation.export import TooLarge, export
from tools.segmentation.hearing import SileroRule, bridged, silero_speech
from tools.segmentation.judging import Tally, judge
from tools.segmentation.model import build, classes_of, permuted_loss, powerset_mapping
from tools.segmentation.people import PoolSize
from tools.segmentation.train import WARM_UP_STEPS, Options, Trainer, learning_rate, parse

SMALL = PoolSize(
    digit_strings=1,
    synthetic_people=4,
    synthetic_sentences=2,
    flite_sentences=0,
    factors=(1.0,),
)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """The trainer sets it for the process; other tests have their own share."""
    threads = torch.get_num_threads()
    # Each test forgets the warning filters of the last one, and pyannote warns at its import.
    prepare_torch(threads=1)
    yield
    torch.set_num_threads(threads)


def drawn_activity(seed: int, frames: int = 12) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    activity = rng.random((2, 3, frames)) < 0.4
    activity[:, 2] &= activity[:, :2].sum(axis=1) < 2
    return torch.from_numpy(activity)


def test_classes_are_pyannotes_powerset() -> None:
    from pyannote.audio.utils.powerset import Powerset

    activity = drawn_activity(1)
    expected = Powerset(3, 2).to_powerset(activity.transpose(1, 2).float()).argmax(2)
    assert powerset_mapping().tolist()[:4] == [[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]]
    assert torch.equal(classes_of(activity, powerset_mapping()), expected)


@given(seed=st.integers(0, 1_000), order=st.permutations(range(3)))
@settings(max_examples=25, deadline=None)
def test_the_loss_does_not_care_who_comes_first(seed: int, order: list[int]) -> None:
    mapping, activity = powerset_mapping(), drawn_activity(seed)
    torch.manual_seed(seed)
    scores = torch.randn(2, 12, 7).log_softmax(2)
    loss = permuted_loss(scores, activity, mapping)
    assert torch.allclose(loss, permuted_loss(scores, activity[:, order], mapping))
    sure = torch.nn.functional.one_hot(classes_of(activity[:, order], mapping), 7) * 50.0
    assert permuted_loss(sure.log_softmax(2), activity, mapping) < 1e-4


def test_a_perfect_answer_in_another_order_has_no_error() -> None:
    truth = np.array([[1, 1, 0, 0, 1], [0, 1, 1, 0, 0]], np.bool_)
    tally = judge(truth, np.stack([np.zeros(5, np.bool_), truth[1], truth[0]]))
    assert (tally.detection_error, tally.local_error) == (0, 0)
    assert (tally.overlap_precision, tally.overlap_recall) == (1, 1)


def test_errors_are_counted_in_frames() -> None:
    truth = np.array([[1, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 0]], np.bool_)
    found = np.array([[1, 1, 1, 1, 0, 1]], np.bool_)
    tally = judge(truth, found)
    assert tally == Tally(
        speech=5, miss=1, false_alarm=1, overlap=0, overlap_found=0, overlap_right=0,
        spoken=5, spoken_wrong=3,
    )  # fmt: skip
    assert (tally + tally).detection_error == pytest.approx(2 / 5)


@given(seed=st.integers(0, 1_000))
@settings(max_examples=25, deadline=None)
def test_the_local_error_is_never_below_that_of_counting_speakers(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth, found = rng.random((2, 40)) < 0.5, rng.random((3, 40)) < 0.3
    counted = int(np.abs(truth.sum(axis=0) - found.sum(axis=0)).sum())
    assert counted <= judge(truth, found).spoken_wrong <= int(truth.sum() + found.sum())


def test_short_pauses_are_bridged_and_edges_are_not() -> None:
    speech = np.array([0, 1, 0, 0, 1, 0, 0, 0, 1, 0], np.bool_)
    assert bridged(speech, 2).tolist() == [0, 1, 1, 1, 1, 0, 0, 0, 1, 0]
    assert bridged(speech, 0).tolist() == speech.tolist()


def test_a_frame_between_the_thresholds_keeps_the_state() -> None:
    probabilities = np.array([0.4, 0.6, 0.4, 0.2, 0.4], np.float32)
    speech = silero_speech(probabilities, SileroRule(0.5, 0.35), 5 * 512)
    assert speech[[1, 4, 8, 11, 14]].tolist() == [False, True, True, False, False]


def test_the_learning_rate_rises_then_falls_to_almost_nothing() -> None:
    assert learning_rate(0, 0) < learning_rate(WARM_UP_STEPS, 0)
    assert learning_rate(5_000, 1) < learning_rate(5_000, 0.5) < learning_rate(5_000, 0)
    assert learning_rate(5_000, 7) == learning_rate(5_000, 1)


def test_weights_that_are_too_large_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TooLarge, match=r"8\.4 MB"):
        export({"a": torch.zeros(2_100_000)}, tmp_path)
    assert not (tmp_path / "model.safetensors").exists()


def test_a_few_steps_reduce_the_loss_and_a_run_goes_on_where_it_ended(tmp_path: Path) -> None:
    options = Options(
        0.0, tmp_path / "run", data=tmp_path, batch_chunks=2, validation_chunks=1, resume=True
    )
    try:
        trainer = Trainer(options, SMALL)
    except SynthesisError as error:
        pytest.skip(str(error))
    trainer.options = Options(10.0, options.out, batch_chunks=2)
    trainer.state.step = WARM_UP_STEPS
    losses = [trainer.step() for _ in range(14)]
    assert np.mean(losses[-4:]) < np.mean(losses[:3]) - 0.2
    trainer.save()

    again = Trainer(options, SMALL)
    assert again.state.step == WARM_UP_STEPS + 14
    for name, value in trainer.average.items():
        assert torch.equal(again.average[name], value), name
    exported = load_segmentation(options.out / "model")
    assert torch.equal(exported.classifier.bias, trainer.average["classifier.bias"])


def test_another_seed_makes_other_weights() -> None:
    weights = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        weights.append(build().classifier.weight)
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_the_command_line_has_a_default_for_all_but_the_folder(tmp_path: Path) -> None:
    assert parse(["--out", str(tmp_path)]).minutes > 0
    with pytest.raises(SystemExit):
        parse(["--minutes", "1"])


def test_a_seed_decides_who_is_in_the_pool(tmp_path: Path) -> None:
    from tools.segmentation.people import pool

    try:
        names = [[p.name for p in pool(Random(seed), SMALL, tmp_path)] for seed in (1, 1, 2)]
    except SynthesisError as error:
        pytest.skip(str(error))
    assert names[0] == names[1] != names[2]
