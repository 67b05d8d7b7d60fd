"""transformers' own answer to a window: what finals are held to, by tests and benchmarks.

Not part of the recognizer, and slow: one window at a time, padded to 30 s, without drafts.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from server.engines.whisper_checkpoint import Checkpoint
from server.engines.whisper_greedy import Task
from server.engines.whisper_tokens import SpecialTokens
from streaming.engines import SpeechWindow
from streaming.timeline import SAMPLE_RATE_HZ


class WhisperReference:
    """``generate`` on the same checkpoint, greedy, all thresholds off."""

    def __init__(self, checkpoint: Checkpoint, *, timestamps: bool) -> None:
        self._model = checkpoint.model
        self._features = checkpoint.features
        self._ids = SpecialTokens.of(checkpoint)
        self._timestamps = timestamps
        self._ids.complete(self._model.generation_config)

    def tokens(self, window: SpeechWindow, task: Task, language: str | None) -> list[int]:
        """The transcript, without the end mark."""
        options: dict[str, Any] = {}
        if self._ids.languages:
            options |= {"language": language, "task": window.task}
        if task.start:
            prompt = task.prefix[: task.start]
            options["prompt_ids"] = torch.tensor(prompt, device=self._model.device)
        with torch.inference_mode():
            sequence = self._model.generate(
                **self._inputs(window),
                return_timestamps=self._timestamps,
                force_unique_generate_call=True,
                do_sample=False,
                num_beams=1,
                temperature=0.0,
                max_new_tokens=task.tokens_max,
                **options,
            )[0].tolist()
        transcript: list[int] = sequence[len(task.prefix) :]
        end = self._ids.text_end
        return transcript[: transcript.index(end)] if end in transcript else transcript

    def margin(
        self,
        window: SpeechWindow,
        task: Task,
        before: Sequence[int],
        ours: int | None,
        theirs: int | None,
    ) -> float:
        """How far apart two tokens are after ``before``, in logits; None is the end mark.

        For text against a timestamp that is all timestamps together against the best text.
        """
        sequence = torch.tensor([[*task.prefix, *before]], device=self._model.device)
        with torch.inference_mode():
            features = self._inputs(window)["input_features"]
            logits = self._model(features, decoder_input_ids=sequence).logits[:, -1].float()
        for processor in self._processors(len(task.prefix)):
            logits = processor(sequence, logits)
        first, end = self._ids.first_timestamp, self._ids.text_end
        one, other = (end if token is None else token for token in (ours, theirs))
        if self._timestamps and (one >= first) != (other >= first):
            return abs(float(logits[0, first:].logsumexp(0) - logits[0, :first].max()))
        return abs(float(logits[0, one] - logits[0, other]))

    def _inputs(self, window: SpeechWindow) -> dict[str, Any]:
        inputs = self._features(
            window.samples.astype(np.float32) / 32768,
            sampling_rate=SAMPLE_RATE_HZ,
            return_tensors="pt",
            return_attention_mask=True,
        )
        features = inputs.input_features.to(self._model.device, self._model.dtype)
        mask = inputs.attention_mask.to(self._model.device)
        return {"input_features": features, "attention_mask": mask}

    def _processors(self, begin: int) -> list[Any]:
        """transformers' own, without the step that hides text behind the timestamps' mass."""
        from transformers.generation.logits_process import (
            SuppressTokensAtBeginLogitsProcessor,
            SuppressTokensLogitsProcessor,
            WhisperTimeStampLogitsProcessor,
        )

        config, found = self._model.generation_config, []
        if config.begin_suppress_tokens is not None:
            found.append(SuppressTokensAtBeginLogitsProcessor(config.begin_suppress_tokens, begin))
        if config.suppress_tokens is not None:
            found.append(SuppressTokensLogitsProcessor(config.suppress_tokens))
        if self._timestamps:
            found.append(WhisperTimeStampLogitsProcessor(config, begin, False))
        return found
