"""The last event of a session, from what it has counted."""

from collections.abc import Collection

from streaming.events import Done
from streaming.lane import Lane
from streaming.stats import SessionStats
from streaming.timeline import seconds


def closing_event(seq: int, stats: SessionStats, lanes: Collection[Lane]) -> Done:
    """Sums up. Decoded, silent and gap samples add up to the received ones (S1)."""
    stats.received_samples = sum(lane.audio_samples for lane in lanes)
    stats.silent_samples = sum(lane.silent_samples for lane in lanes)
    assert stats.unaccounted_samples == 0, "invariant S1"
    names: set[str] = set().union(*(lane.speaker_names for lane in lanes))
    return Done(
        seq=seq,
        audio_seconds=seconds(stats.received_samples),
        decoded_seconds=seconds(stats.decoded_samples),
        silent_seconds=seconds(stats.silent_samples),
        gap_seconds=seconds(stats.gap_samples_total),
        rtfx=stats.rtfx(),
        words=stats.words,
        speakers=len(names),
        partial_latency_s=stats.partial_latency.quantiles(),
        final_latency_s=stats.final_latency.quantiles(),
    )
