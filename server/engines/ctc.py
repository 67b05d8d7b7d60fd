"""CTC recognizers of the Wav2Vec2 kind by transformers: one encoder pass, words on its own frames.

Nothing is generated step by step, so a window costs the same whatever is said in it. Windows of
different lengths share a padded batch only where the checkpoint's feature extractor returns an
attention mask and its family ignores what that masks; else only windows of one length do, so that
neighbours change nothing.
Stateless and greedy. A checkpoint writes one language as it was trained to, mostly without
punctuation and often in capitals; prompts, keywords and drafts mean nothing to it, and it does not
translate.
"""

import warnings
from collections.abc import Iterator, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from server.engines.ctc_checkpoint import CtcCheckpoint, load_checkpoint
from server.engines.ctc_words import read_words
from server.engines.registry import EngineSpec
from server.engines.whisper_words import UNSPACED_LANGUAGES
from streaming.engines import Hypothesis, SpeechWindow, Word
from streaming.timeline import SAMPLE_RATE_HZ

WINDOW_SAMPLES_MAX = 30 * SAMPLE_RATE_HZ
"""Attention grows with the square of it; the server's windows end there too."""
WINDOW_SAMPLES_MIN = SAMPLE_RATE_HZ // 10
"""In less there is no word."""
BATCH_SAMPLES_MAX = 4 * WINDOW_SAMPLES_MAX
"""Padding included; more windows are asked about one batch after another."""
_MASKED_FAMILIES = frozenset(
    {"hubert", "unispeech", "unispeech-sat", "wav2vec2", "wav2vec2-bert", "wavlm"}
)
"""In these what is masked changes nothing else (measured: 2e-5 in the log-probabilities), except
where a group norm runs over all of it or an adapter shortens it. In a Wav2Vec2-Conformer and a
Data2Vec convolutions reach into the padding and change whole words."""
_MEL_FRAME_SAMPLES = 320
"""Of Wav2Vec2-BERT's features: two hops of 10 ms."""


class CtcRecognizer:
    """One checkpoint with a CTC head."""

    def __init__(self, checkpoint: CtcCheckpoint) -> None:
        import torch

        self._torch = torch
        self._model = checkpoint.model
        self._features = checkpoint.features
        self._vocabulary = checkpoint.vocabulary
        self._language = checkpoint.language
        self._frame_samples = frame_samples(checkpoint.model.config)
        self._samples_min = max(WINDOW_SAMPLES_MIN, receptive_samples(checkpoint.model.config))
        self._is_padded = self._pads_safely()
        dtype = str(checkpoint.model.dtype).removeprefix("torch.")
        self.description = f"ctc {checkpoint.name} {dtype}"
        self.languages = None if checkpoint.language is None else (checkpoint.language,)

    @classmethod
    def from_spec(cls, spec: EngineSpec) -> Self:
        """Raises: EngineUnavailable."""
        return cls(load_checkpoint(spec))

    def warm_up(self) -> None:
        noise = np.random.default_rng(0).integers(-500, 500, SAMPLE_RATE_HZ).astype(np.int16)
        self.recognize([SpeechWindow(noise)])

    def recognize(self, windows: Sequence[SpeechWindow]) -> list[Hypothesis]:
        """Raises: ValueError for a window over 30 s, another language, or a translation."""
        for window in windows:
            self._check(window)
        answers = [Hypothesis((), self._language or window.language) for window in windows]
        lengths = [len(window.samples) for window in windows]
        for batch in batches(lengths, self._samples_min, is_padded=self._is_padded):
            found = self.log_probabilities([windows[index] for index in batch])
            for index, frames in zip(batch, found, strict=True):
                words = self._words(frames, windows[index])
                answers[index] = Hypothesis(words, answers[index].language)
        return answers

    def _check(self, window: SpeechWindow) -> None:
        if len(window.samples) > WINDOW_SAMPLES_MAX:
            seconds = len(window.samples) / SAMPLE_RATE_HZ
            raise ValueError(f"a window of {seconds:.1f} s; this engine reads 30 s at most")
        if self._language is not None and window.language not in (None, self._language):
            raise ValueError(f"this checkpoint does not know the language {window.language}")
        if window.task != "transcribe":
            raise ValueError("a CTC checkpoint writes what it hears; it does not translate")

    def log_probabilities(self, windows: Sequence[SpeechWindow]) -> list[NDArray[np.float32]]:
        """Of each window's own frames, shape (frames, tokens); of windows that fit one batch."""
        scale = np.float32(1 / 32768)
        audio = [window.samples.astype(np.float32) * scale for window in windows]
        features = self._extracted(audio)
        inputs = {
            name: values.to(self._model.device, self._model.dtype)
            if values.is_floating_point()
            else values.to(self._model.device)
            for name, values in features.items()
        }
        with self._torch.inference_mode(), warnings.catch_warnings():
            # WavLM hands torch a mask of numbers and one of truths, which is right but deprecated.
            warnings.filterwarnings("ignore", message="Support for mismatched key_padding_mask")
            logits = self._model(**inputs).logits.float().log_softmax(dim=-1).cpu().numpy()
        if "attention_mask" not in features:
            return list(logits)
        masked = features["attention_mask"].sum(dim=-1)
        counts = self._model._get_feat_extract_output_lengths(masked).tolist()
        return [rows[:count] for rows, count in zip(logits, counts, strict=True)]

    def _extracted(self, audio: list[NDArray[np.float32]]) -> Any:
        options: dict[str, Any] = {"sampling_rate": SAMPLE_RATE_HZ, "return_tensors": "pt"}
        return self._features(audio, padding=True, **options)

    def _pads_safely(self) -> bool:
        config = self._model.config
        # Not every family's config has both.
        settings = config.to_dict()
        is_mixed = settings.get("feat_extract_norm") == "group" or settings.get("add_adapter")
        if is_mixed or config.model_type not in _MASKED_FAMILIES:
            return False
        return "attention_mask" in self._extracted([np.zeros(SAMPLE_RATE_HZ, np.float32)])

    def _words(self, frames: NDArray[np.float32], window: SpeechWindow) -> tuple[Word, ...]:
        language = self._language or window.language
        has_delimiter = self._vocabulary.delimiter is not None
        return read_words(
            frames,
            self._vocabulary,
            frame_samples=self._frame_samples,
            window_samples=len(window.samples),
            is_unspaced=language in UNSPACED_LANGUAGES or not has_delimiter,
        )


def batches(lengths: Sequence[int], samples_min: int, *, is_padded: bool) -> Iterator[list[int]]:
    """Indexes of windows that go through the model together, the shortest first.

    Those under ``samples_min`` are left out; without padding, all of a batch have one length.
    """
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        samples = lengths[index]
        if samples < samples_min:
            continue
        is_other = bool(batch) and lengths[batch[-1]] != samples and not is_padded
        if is_other or samples * (len(batch) + 1) > BATCH_SAMPLES_MAX:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def frame_samples(config: Any) -> int:
    """How far apart in the audio two frames of the output are."""
    if config.model_type == "wav2vec2-bert":
        samples = _MEL_FRAME_SAMPLES
    else:
        samples = int(np.prod(config.conv_stride))
    # Data2Vec's and HuBERT's configs know of no adapter.
    adapter = config.to_dict()
    if adapter.get("add_adapter"):
        samples *= int(adapter["adapter_stride"]) ** int(adapter["num_adapter_layers"])
    return samples


def receptive_samples(config: Any) -> int:
    """The shortest audio that gives a frame."""
    samples = 1
    if config.model_type == "wav2vec2-bert":
        return 2 * _MEL_FRAME_SAMPLES
    for kernel, stride in zip(
        reversed(config.conv_kernel), reversed(config.conv_stride), strict=True
    ):
        samples = (samples - 1) * stride + kernel
    return samples
