"""What a recognizer has done, for benchmarks and metrics. Counted in the engine's own process."""

from dataclasses import dataclass


@dataclass(slots=True)
class Counters:
    """Totals since the engine was built."""

    finals: int = 0
    partials: int = 0
    decoder_passes: int = 0
    """Rows of decoder calls: each row of each call, whatever it fed."""
    final_text_tokens: int = 0
    guarded_finals: int = 0
    """Finals that a guard fired on."""
    mixed_finals: int = 0
    """Finals for which the mixed encoder was enough."""
    features_s: float = 0.0
    encoder_s: float = 0.0
    """Keys and values for the decoder included."""
    verify_s: float = 0.0
    """The first decoder call of each batch: prefixes and drafts."""
    step_s: float = 0.0
    """All decoder calls after it."""
    words_s: float = 0.0
    """Alignment, words and guards."""
