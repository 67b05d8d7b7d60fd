"""Silero VAD answers the same however its frames are batched and split."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from server.engines.errors import EngineUnavailable
from server.engines.registry import EngineSpec
from server.engines.silero import QUIET_FRAMES_MAX, QUIET_PROBABILITY_MAX, SileroVoiceActivity
from streaming.engines import ACTIVITY_FRAME_SAMPLES, Activity, ActivityWindow, Samples
from streaming.events import SessionStage
from tools.conversations import DATA_DIR, Plan, build

TOLERANCE = 2e-3
"""float32 sums in another order for another batch size; the threshold is about 0.5."""
CLIP = Path(__file__).parents[2] / "server" / "assets" / "demo_clip" / "clip.flac"
SPEC = EngineSpec(SessionStage.ACTIVITY, "silero")
FRAMES = 60


@pytest.fixture(scope="module")
def engine() -> SileroVoiceActivity:
    return SileroVoiceActivity.from_spec(SPEC)


@pytest.fixture(scope="module")
def speech() -> Samples:
    audio, rate = soundfile.read(CLIP, dtype="int16")
    assert rate == 16_000
    start = 16_000
    cut: Samples = audio[start : start + FRAMES * ACTIVITY_FRAME_SAMPLES]
    return cut


def frames(audio: Samples, first: int, last: int) -> Samples:
    return audio[first * ACTIVITY_FRAME_SAMPLES : last * ACTIVITY_FRAME_SAMPLES]


def in_pieces(engine: SileroVoiceActivity, audio: Samples, cuts: list[int]) -> Activity:
    """The last answer, with the probabilities of all pieces."""
    state: bytes | None = None
    probabilities = []
    for first, last in zip([0, *cuts], [*cuts, FRAMES], strict=True):
        (answer,) = engine.detect([ActivityWindow(frames(audio, first, last), state)])
        state = answer.state
        probabilities.append(answer.probabilities)
    assert state is not None
    return Activity(np.concatenate(probabilities), state)


def test_speech_is_told_from_silence(engine: SileroVoiceActivity, speech: Samples) -> None:
    spoken, silent = engine.detect(
        [ActivityWindow(speech, None), ActivityWindow(np.zeros_like(speech), None)]
    )
    assert spoken.probabilities.shape == silent.probabilities.shape == (FRAMES,)
    assert spoken.probabilities.max() > 0.9
    assert silent.probabilities.max() < 0.2


@settings(max_examples=10, deadline=None)
@given(st.lists(st.integers(0, FRAMES), max_size=5))
def test_no_split_changes_anything(
    engine: SileroVoiceActivity, speech: Samples, cuts: list[int]
) -> None:
    whole, split = in_pieces(engine, speech, []), in_pieces(engine, speech, sorted(cuts))
    assert np.array_equal(whole.probabilities, split.probabilities)
    assert whole.state == split.state


def test_frame_by_frame_is_the_same_as_at_once(
    engine: SileroVoiceActivity, speech: Samples
) -> None:
    whole = in_pieces(engine, speech, [])
    assert np.array_equal(
        in_pieces(engine, speech, list(range(1, FRAMES))).probabilities, whole.probabilities
    )


def test_neighbours_of_any_length_change_nothing(
    engine: SileroVoiceActivity, speech: Samples
) -> None:
    spans = [(0, 3), (5, 60), (0, 0), (10, 11), (2, 40), (30, 60)]
    windows = [ActivityWindow(frames(speech, *span), None) for span in spans]
    for window, answer in zip(windows, engine.detect(windows), strict=True):
        (alone,) = engine.detect([window])
        np.testing.assert_allclose(answer.probabilities, alone.probabilities, atol=TOLERANCE)
        np.testing.assert_allclose(
            np.frombuffer(answer.state, np.float32),
            np.frombuffer(alone.state, np.float32),
            atol=TOLERANCE,
        )


def test_a_lane_that_was_quiet_for_long_starts_afresh(
    engine: SileroVoiceActivity, speech: Samples
) -> None:
    silence = np.zeros((QUIET_FRAMES_MAX + FRAMES) * ACTIVITY_FRAME_SAMPLES, np.int16)
    (before,) = engine.detect([ActivityWindow(np.concatenate([speech, silence]), None)])
    quiet = before.probabilities < QUIET_PROBABILITY_MAX
    assert quiet[-QUIET_FRAMES_MAX:].all()
    # From a frame with a fresh memory to the end: as a lane that begins there.
    fresh = int(np.flatnonzero(~quiet)[-1]) + 1 + QUIET_FRAMES_MAX
    rest = len(before.probabilities) - fresh
    (after,) = engine.detect([ActivityWindow(frames(silence, 0, rest), None)])
    np.testing.assert_allclose(before.probabilities[fresh:], after.probabilities, atol=TOLERANCE)


@pytest.mark.slow
def test_it_goes_on_hearing_people_who_hardly_pause(engine: SileroVoiceActivity) -> None:
    """Without a fresh start it heard nothing of this conversation after ten seconds."""
    if not DATA_DIR.is_dir():
        pytest.skip("needs the shared recordings of digits")
    plan = Plan("tight-2-clean-3", "digits", 2, 60, "clean", 0.0, pause_s=(0.2, 0.2))
    samples = np.round(build(plan, 1).samples * 32_767).astype(np.int16)
    whole = samples[: len(samples) // ACTIVITY_FRAME_SAMPLES * ACTIVITY_FRAME_SAMPLES]
    (heard,) = engine.detect([ActivityWindow(whole, None)])
    in_ten_seconds = 10 * 16_000 // ACTIVITY_FRAME_SAMPLES
    for first in range(0, len(heard.probabilities) - in_ten_seconds, in_ten_seconds):
        assert np.mean(heard.probabilities[first : first + in_ten_seconds] > 0.5) > 0.4


def test_no_window_is_no_answer(engine: SileroVoiceActivity) -> None:
    assert engine.detect([]) == []


def test_a_cut_frame_and_a_foreign_state_are_refused(engine: SileroVoiceActivity) -> None:
    with pytest.raises(ValueError, match="whole frames"):
        engine.detect([ActivityWindow(np.zeros(100, np.int16), None)])
    with pytest.raises(ValueError, match="not 4"):
        engine.detect([ActivityWindow(np.zeros(ACTIVITY_FRAME_SAMPLES, np.int16), b"abcd")])


def test_a_missing_or_broken_model_says_what_to_do(tmp_path: Path) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"not a model")
    for path, message in [(tmp_path / "absent.onnx", "pip install"), (broken, "replace it")]:
        with pytest.raises(EngineUnavailable, match=message):
            SileroVoiceActivity.from_spec(
                EngineSpec(SessionStage.ACTIVITY, "silero", model=str(path))
            )
