"""Voice activity by Silero VAD (v5 and later, 16 kHz), on onnxruntime, many lanes in one batch.

The model's memory can get stuck: after some seconds of even speech it hears none of what follows,
however loud, until it is reset. So a lane that has been quiet for a while starts afresh, as at the
start of a recording, which changes nothing where it really is quiet.

The model file is found without importing its package, which would set torch's thread count for
the whole process. A lane's recurrent state and the 64 samples before its next frame travel in
``ActivityWindow.state``, so any worker can continue any lane.
"""

import importlib.metadata
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnxruntime.capi.onnxruntime_pybind11_state import (
    Fail,
    InvalidGraph,
    InvalidProtobuf,
    RuntimeException,
)

from server.engines.errors import EngineUnavailable
from server.engines.registry import EngineSpec, check_options
from streaming.engines import ACTIVITY_FRAME_SAMPLES, Activity, ActivityWindow
from streaming.timeline import SAMPLE_RATE_HZ

CONTEXT_SAMPLES = 64
"""The end of the previous frame, which the model reads before each frame."""
STATE_SIZE = 128
_STATE_VALUES = 2 * STATE_SIZE + CONTEXT_SAMPLES + 1
QUIET_PROBABILITY_MAX = 0.2
"""A stuck model says less than 0.1 of loud speech; live pauses are below it too."""
QUIET_FRAMES_MAX = 62
"""2 s: after one second as much speech is found again, and a little more noise taken for it."""
_LOAD_ERRORS = (InvalidProtobuf, InvalidGraph, Fail, RuntimeException)
"""What onnxruntime raises for a file that is none of its models; they share no base class."""
_INT16_SCALE = np.float32(1 / 32768)


@dataclass(frozen=True, slots=True)
class _Lanes:
    """What the model remembers of each lane of a batch."""

    state: NDArray[np.float32]
    """Shape (2, lanes, STATE_SIZE)."""
    context: NDArray[np.float32]
    """Shape (lanes, CONTEXT_SAMPLES)."""
    quiet_frames: NDArray[np.float32]
    """Shape (lanes,): how many there were since one that was not quiet, or since a fresh start."""


class SileroVoiceActivity:
    """Speech probability of every 32 ms frame."""

    def __init__(self, model: Path, *, threads: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # Idle threads would otherwise spin and take the recognizer's time.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._model = onnxruntime.InferenceSession(
            str(model), options, providers=["CPUExecutionProvider"]
        )
        self._rate = np.array(SAMPLE_RATE_HZ, np.int64)
        self.description = f"silero-vad {_package_version()}"

    @classmethod
    def from_spec(cls, spec: EngineSpec) -> Self:
        """Raises: EngineUnavailable."""
        check_options(spec)
        model = Path(spec.model) if spec.model else packaged_model()
        if not model.is_file():
            raise EngineUnavailable(
                f"no Silero VAD model at {model}; install it again: pip install silero-vad"
            )
        try:
            return cls(model, threads=spec.threads)
        except _LOAD_ERRORS as error:
            raise EngineUnavailable(f"{model} is no ONNX model ({error}); replace it") from error

    def warm_up(self) -> None:
        self.detect([ActivityWindow(np.zeros(ACTIVITY_FRAME_SAMPLES, np.int16), state=None)])

    def detect(self, windows: Sequence[ActivityWindow]) -> list[Activity]:
        """Step t runs the frames number t of all windows that have one, as one batch."""
        frames = [_frames(window) for window in windows]
        # Longest first, so that the lanes that still have frames are always the leading ones.
        order = sorted(range(len(windows)), key=lambda index: -len(frames[index]))
        lanes = _unpack([windows[index].state for index in order])
        probabilities = [np.zeros(len(own), np.float32) for own in frames]
        for step in range(max(map(len, frames), default=0)):
            active = [index for index in order if len(frames[index]) > step]
            batch = np.stack([frames[index][step] for index in active])
            for index, probability in zip(active, self._step(batch, lanes), strict=True):
                probabilities[index][step] = probability
        states = dict(zip(order, _pack(lanes), strict=True))
        return [Activity(own, states[index]) for index, own in enumerate(probabilities)]

    def _step(self, batch: NDArray[np.float32], lanes: _Lanes) -> NDArray[np.float32]:
        """Shape (lanes,); moves the leading ``len(batch)`` lanes on by a frame."""
        active = len(batch)
        inputs = {
            "input": np.concatenate([lanes.context[:active], batch], axis=1),
            "state": lanes.state[:, :active],
            "sr": self._rate,
        }
        output, state = self._model.run(None, inputs)
        lanes.state[:, :active] = state
        lanes.context[:active] = batch[:, -CONTEXT_SAMPLES:]
        probabilities: NDArray[np.float32] = output[:, 0]
        _forget_quiet(lanes, probabilities < QUIET_PROBABILITY_MAX)
        return probabilities


def _forget_quiet(lanes: _Lanes, is_quiet: NDArray[np.bool_]) -> None:
    """A fresh start for those of the leading lanes that have been quiet for too long."""
    active = len(is_quiet)
    frames = np.where(is_quiet, lanes.quiet_frames[:active] + 1, 0)
    is_long = frames >= QUIET_FRAMES_MAX
    lanes.state[:, :active][:, is_long] = 0
    lanes.quiet_frames[:active] = np.where(is_long, 0, frames)


def packaged_model() -> Path:
    """The .onnx file inside the silero_vad package. Raises: EngineUnavailable."""
    spec = importlib.util.find_spec("silero_vad")
    if spec is None or not spec.submodule_search_locations:
        raise EngineUnavailable("silero-vad is not installed: pip install silero-vad")
    return Path(spec.submodule_search_locations[0]) / "data" / "silero_vad.onnx"


def _package_version() -> str:
    try:
        return importlib.metadata.version("silero-vad")
    except importlib.metadata.PackageNotFoundError:
        return "onnx"


def _frames(window: ActivityWindow) -> NDArray[np.float32]:
    """Shape (frames, ACTIVITY_FRAME_SAMPLES), -1 to 1. Raises: ValueError for a partial frame."""
    if len(window.samples) % ACTIVITY_FRAME_SAMPLES:
        raise ValueError(f"{len(window.samples)} samples are not whole frames")
    return window.samples.reshape(-1, ACTIVITY_FRAME_SAMPLES) * _INT16_SCALE


def _unpack(states: Sequence[bytes | None]) -> _Lanes:
    """Raises: ValueError for a state of another engine."""
    values = np.zeros((len(states), _STATE_VALUES), np.float32)
    for row, state in zip(values, states, strict=True):
        if state is None:
            continue
        if len(state) != row.nbytes:
            raise ValueError(f"a state has {row.nbytes} bytes, not {len(state)}")
        row[:] = np.frombuffer(state, np.float32)
    recurrent = values[:, : 2 * STATE_SIZE].reshape(-1, 2, STATE_SIZE)
    return _Lanes(
        recurrent.transpose(1, 0, 2).copy(),
        values[:, 2 * STATE_SIZE : -1].copy(),
        values[:, -1].copy(),
    )


def _pack(lanes: _Lanes) -> list[bytes]:
    return [
        lanes.state[:, lane].tobytes()
        + lanes.context[lane].tobytes()
        + lanes.quiet_frames[lane].tobytes()
        for lane in range(len(lanes.context))
    ]
