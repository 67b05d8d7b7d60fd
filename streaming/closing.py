"""The last event of a session, from what it has counted."""

from streaming.events import Done
from streaming.stats import SessionStats
from streaming.timeline import seconds


def closing_event(seq: int, stats: SessionStats, speakers: int) -> Done:
    """Sums up. Decoded, silent and gap samples add up to the received ones (S1)."""
    assert stats.unaccounted_samples == 0, "invariant S1"
    return Done(
        seq=seq,
        audio_seconds=seconds(stats.received_samples),
        decoded_seconds=seconds(stats.decoded_samples),
        silent_seconds=seconds(stats.silent_samples),
        gap_seconds=seconds(stats.gap_samples_total),
        rtfx=stats.rtfx(),
        words=stats.words,
        speakers=speakers,
        partial_latency_s=stats.partial_latency.quantiles(),
        final_latency_s=stats.final_latency.quantiles(),
    )
