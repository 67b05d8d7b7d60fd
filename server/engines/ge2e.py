"""GE2E speaker embeddings: audio in, one unit vector of 256 numbers per stretch out.

The model and its weights are Resemblyzer's (Apache 2.0; Wan et al. 2018, "Generalized end-to-end
loss for speaker verification"): a mel spectrogram of 40 bands, three LSTM layers, the last state
projected, rectified and normalised. The weights are read from the installed package, which is
never imported: its own imports need a compiler and are not needed here.
"""

import hashlib
import importlib.util
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from server.engines.errors import EngineUnavailable
from streaming.engines import Samples
from streaming.timeline import SAMPLE_RATE_HZ

WEIGHTS_SHA256 = "39373b86598fa3da9fcddee6142382efe09777e8d37dc9c0561f41f0070f134e"
INSTALL_COMMAND = "pip install --no-deps resemblyzer==0.1.4"
DIMENSIONS = 256

_FRAME_SAMPLES = 400
"""25 ms."""
_FRAME_HOP_SAMPLES = 160
"""10 ms."""
_MEL_BANDS = 40
_LAYERS = 3
_TARGET_RMS = 10 ** (-30 / 20)
"""-30 dBFS: quieter audio is raised to it, louder audio is left alone, as in training."""


def find_weights(package: str = "resemblyzer") -> Path:
    """The installed package's weights file. Raises: EngineUnavailable."""
    spec = importlib.util.find_spec(package)
    folders = spec.submodule_search_locations if spec is not None else None
    path = Path(folders[0]) / "pretrained.pt" if folders else None
    if path is None or not path.is_file():
        raise EngineUnavailable(f"speaker embeddings need Resemblyzer's weights: {INSTALL_COMMAND}")
    return path


class SpeakerEncoder:
    """The network with its weights, on the CPU."""

    def __init__(self, weights: Path) -> None:
        """Raises: EngineUnavailable where the file is not the one that this code was made for."""
        if hashlib.sha256(weights.read_bytes()).hexdigest() != WEIGHTS_SHA256:
            raise EngineUnavailable(
                f"{weights} is not the expected file; reinstall it: "
                f"{INSTALL_COMMAND} --force-reinstall"
            )
        self._lstm = torch.nn.LSTM(_MEL_BANDS, DIMENSIONS, _LAYERS, batch_first=True)
        self._linear = torch.nn.Linear(DIMENSIONS, DIMENSIONS)
        state = torch.load(weights, map_location="cpu", weights_only=True)["model_state"]
        for name, module in (("lstm.", self._lstm), ("linear.", self._linear)):
            module.load_state_dict(
                {k.removeprefix(name): v for k, v in state.items() if k.startswith(name)}
            )
            module.eval().requires_grad_(False)

    def embed(self, stretches: Sequence[Samples]) -> NDArray[np.float32]:
        """One row per stretch, shape (stretches, DIMENSIONS), of length 1.

        All zeros where nothing can be told (digital silence, less than one frame).
        """
        rows = np.zeros((len(stretches), DIMENSIONS), np.float32)
        for indexes, batch in _batches(stretches):
            rows[indexes] = self._embed_batch(batch)[0]
        return rows

    @torch.inference_mode()
    def embed_with_openings(
        self, stretches: Sequence[Samples], opening_samples: int
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """``embed``, and the same of each stretch's opening alone, which costs nothing more: the
        network hears a stretch from its start, and is asked on the way."""
        frames = opening_samples // _FRAME_HOP_SAMPLES
        rows = np.zeros((2, len(stretches), DIMENSIONS), np.float32)
        for indexes, batch in _batches(stretches):
            rows[:, indexes] = self._embed_batch(batch, frames)
        return rows[0], rows[1]

    @torch.inference_mode()
    def embed_frames(self, windows: Sequence[torch.Tensor]) -> torch.Tensor:
        """One row of length 1 per window of mel frames, shape (frames, bands), of any length."""
        packed = torch.nn.utils.rnn.pack_sequence(list(windows), enforce_sorted=False)
        _, (hidden, _) = self._lstm(packed)
        return torch.nn.functional.normalize(torch.relu(self._linear(hidden[-1])), dim=1)

    @torch.inference_mode()
    def _embed_batch(self, batch: Samples, *frames: int) -> NDArray[np.float32]:
        """Shape (1 + frames, stretches, DIMENSIONS): by all of it, and by so many frames."""
        mels = mel_spectrogram(torch.from_numpy(batch.astype(np.float32) / 32768))
        states, _ = self._lstm(mels)
        last = [-1, *(min(count, mels.shape[1]) - 1 for count in frames)]
        embeddings = torch.relu(self._linear(states[:, last].transpose(0, 1)))
        units = torch.nn.functional.normalize(embeddings, dim=2)
        is_silent = torch.from_numpy(~batch.any(axis=1))
        return np.asarray(units.masked_fill(is_silent[None, :, None], 0.0).numpy(), np.float32)


def _batches(stretches: Sequence[Samples]) -> Iterator[tuple[list[int], Samples]]:
    """Those of one length together, shape (stretches, samples); without what is too short."""
    same_length: dict[int, list[int]] = {}
    for i, stretch in enumerate(stretches):
        same_length.setdefault(len(stretch), []).append(i)
    for samples, indexes in same_length.items():
        if samples >= _FRAME_HOP_SAMPLES:
            yield indexes, np.stack([stretches[i] for i in indexes])


def mel_spectrogram(batch: torch.Tensor) -> torch.Tensor:
    """Mel power (not its logarithm) of audio shaped (batch, samples): (batch, frames, bands).

    Equal to librosa's ``melspectrogram`` with Resemblyzer's parameters, after its volume
    normalisation, less the last frame, which is centred on the end of the audio.
    """
    rms = batch.square().mean(dim=1, keepdim=True).sqrt().clamp_min(1e-9)
    gain = (_TARGET_RMS / rms).clamp_min(1.0)
    spectrum = torch.stft(
        batch * gain,
        n_fft=_FRAME_SAMPLES,
        hop_length=_FRAME_HOP_SAMPLES,
        window=torch.hann_window(_FRAME_SAMPLES),
        pad_mode="constant",
        return_complex=True,
    )
    power = spectrum[:, :, : batch.shape[1] // _FRAME_HOP_SAMPLES].abs().square()
    return power.transpose(1, 2) @ _MEL_FILTERS


def _mel_filters() -> torch.Tensor:
    """Slaney's mel filters, each of equal area, shape (frequencies, bands)."""
    edges_hz = _hz_from_mel(np.linspace(0.0, _mel_from_hz(SAMPLE_RATE_HZ / 2), _MEL_BANDS + 2))
    low, middle, high = edges_hz[:-2], edges_hz[1:-1], edges_hz[2:]
    bins_hz = np.linspace(0.0, SAMPLE_RATE_HZ / 2, _FRAME_SAMPLES // 2 + 1)[:, None]
    triangles = np.minimum((bins_hz - low) / (middle - low), (high - bins_hz) / (high - middle))
    return torch.from_numpy((np.maximum(0, triangles) * 2 / (high - low)).astype(np.float32))


# Slaney's scale (Auditory Toolbox, 1998): linear up to 1 kHz, which is mel 15, then logarithmic
# with 27 mels for a factor of 6.4.
def _mel_from_hz(hz: float) -> float:
    return float(15 + 27 * np.log(hz / 1000) / np.log(6.4)) if hz > 1000 else hz * 15 / 1000


def _hz_from_mel(mel: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(mel < 15, mel * 1000 / 15, 1000 * 6.4 ** ((mel - 15) / 27))


_MEL_FILTERS = _mel_filters()
