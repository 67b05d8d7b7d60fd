"""A recording through the product's own tracker, second by second, with answers that come at once.

Owns nothing that decides: chunks, evidence, questions and turns are the session's.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from streaming.diarizing import Tracker, tracker_for
from streaming.engines import (
    ClusterQuestion,
    Clusters,
    DiarizerProfile,
    Observation,
    Samples,
    SpeakerChunk,
)
from streaming.timeline import SAMPLE_RATE_HZ, Span
from streaming.tuning import SpeakerHints
from streaming.turns import Turn
from tools.diarization_report.hearing import Speech

FIRST_AFTER_SAMPLES = 2 * SAMPLE_RATE_HZ
"""First labels are those that a second of audio has two seconds after its end."""

Observe = Callable[[Sequence[SpeakerChunk]], Sequence[Observation]]
Group = Callable[[ClusterQuestion], Clusters]


@dataclass(frozen=True, slots=True)
class Outcome:
    """Who spoke when, as it was said first and as it is said in the end."""

    first: tuple[Turn, ...]
    last: tuple[Turn, ...]


def whole(
    profile: DiarizerProfile,
    samples: Samples,
    speech: Speech,
    observe: Observe,
    group: Group,
    hints: SpeakerHints | None = None,
) -> tuple[Turn, ...]:
    """What is said in the end; as ``live``, without the way there."""
    tracker = tracker_for(profile, hints)
    _hear(tracker, samples, speech, len(samples), observe)
    _regroup(tracker, group, is_last=True)
    return tuple(tracker.turns())


def live(
    profile: DiarizerProfile,
    samples: Samples,
    speech: Speech,
    observe: Observe,
    group: Group,
    hints: SpeakerHints | None = None,
) -> Outcome:
    """In steps of a second."""
    tracker = tracker_for(profile, hints)
    first: list[Turn] = []
    for end in [*range(SAMPLE_RATE_HZ, len(samples), SAMPLE_RATE_HZ), len(samples)]:
        is_last = end == len(samples)
        _hear(tracker, samples, speech, end, observe)
        _regroup(tracker, group, is_last=is_last)
        told = Span(*(max(0, end - FIRST_AFTER_SAMPLES - back) for back in (SAMPLE_RATE_HZ, 0)))
        first += _within(tracker.turns(), Span(told.start, end) if is_last else told)
    return Outcome(tuple(first), tuple(tracker.turns()))


def _within(turns: Sequence[Turn], span: Span) -> list[Turn]:
    return [Turn(t.span.clamped(span), t.speaker) for t in turns if t.span.overlap_samples(span)]


def _hear(tracker: Tracker, samples: Samples, speech: Speech, end: int, observe: Observe) -> None:
    for parts in speech:
        heard = Span(parts[0].start, parts[-1].end)
        if heard.start < end:
            is_open = heard.end > end
            tracker.receive_speech(Span(heard.start, min(heard.end, end)), is_open=is_open)
    tracker.receive_audio(Span(0, end), is_last=end == len(samples))
    chunks = tracker.take_chunks()
    questions = [SpeakerChunk(samples[chunk.start : chunk.end]) for chunk in chunks]
    tracker.receive_observations(chunks, observe(questions))


def _regroup(tracker: Tracker, group: Group, *, is_last: bool) -> None:
    question = tracker.question(is_last=is_last)
    if question is not None:
        tracker.receive_clusters(group(question))
