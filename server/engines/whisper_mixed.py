"""An encoder for exact finals that spends bfloat16 on the silence behind what was said.

A window of some seconds is heard with its own silence up to 30 s, and most positions hold nothing
else. Where the window has sound, and for a moment behind it, everything is float32; the silence
behind is bfloat16, in every layer, and each attends to both. What that changes is far below what
bfloat16 throughout does, but not nothing: whoever decodes over these states must ask again, in
float32 throughout, where a decision was close (``is_sure``).

Owns the two halves' meeting. Knows nothing of tokens, batches and windows.
"""

import torch
from torch import Tensor

from server.engines.whisper_context import POSITIONS_PER_SECOND, SAMPLES_PER_POSITION
from server.engines.whisper_encoder import EncoderLayer, LeanEncoder, attend
from server.engines.whisper_greedy import Transcript

MARGIN_POSITIONS = 2 * POSITIONS_PER_SECOND
"""Behind the window's last sample, still in float32."""
EDGE_POSITIONS = 2
"""So many positions at an edge hear what lies beyond it, through the convolutions."""
SURE_LOGITS = 0.005
"""Twice as much as the closest decision of any final was moved by (ADR 22)."""
NO_SPEECH_MAX = 0.3
"""Half of what a guard asks for."""


class MixedEncoder:
    """One checkpoint's encoder in two number formats."""

    def __init__(self, exact: LeanEncoder, rough: LeanEncoder) -> None:
        self._exact, self._rough = exact, rough
        self._layers = list(zip(exact.layers, rough.layers, strict=True))

    def pays(self, samples: int) -> bool:
        """Whether a window of so many samples leaves enough silence behind it."""
        return self._sounding(samples) <= self._exact.positions_max // 2

    def _sounding(self, samples: int) -> int:
        return -(-samples // SAMPLES_PER_POSITION) + MARGIN_POSITIONS

    def __call__(self, features: Tensor, samples: int) -> Tensor:
        """One window of ``samples``: (1, mels, frames) to (1, frames / 2, width), float32."""
        sounding = self._sounding(samples)
        sound, silence = self._embedded(features, sounding)
        for exact, rough in self._layers:
            sound, silence = _layer(exact, rough, sound, silence)
        return self._exact.normed(torch.cat([sound, silence], dim=1))

    def _embedded(self, features: Tensor, sounding: int) -> tuple[Tensor, Tensor]:
        first = sounding - EDGE_POSITIONS
        sound = self._exact.embedded(features[..., : 2 * (sounding + EDGE_POSITIONS)])
        silence = self._rough.embedded(features[..., 2 * first :], first)
        return sound[:, :sounding], silence[:, EDGE_POSITIONS:]


def _layer(
    exact: EncoderLayer, rough: EncoderLayer, sound: Tensor, silence: Tensor
) -> tuple[Tensor, Tensor]:
    query, key, value = exact.asked(sound)
    rough_query, rough_key, rough_value = rough.asked(silence)
    keys, values = (
        torch.cat([one, other.float()], dim=2)
        for one, other in ((key, rough_key), (value, rough_value))
    )
    attended = attend(query, keys, values)
    rough_attended = attend(rough_query, keys.to(rough_query.dtype), values.to(rough_query.dtype))
    return exact.answered(sound, attended), rough.answered(silence, rough_attended)


def is_sure(transcript: Transcript) -> bool:
    """Float32 throughout would have written the same."""
    is_near_silence = transcript.no_speech_probability > NO_SPEECH_MAX
    return transcript.margin >= SURE_LOGITS and not is_near_silence
