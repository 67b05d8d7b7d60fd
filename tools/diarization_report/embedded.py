"""How well the ``embedded`` diarizer tells people apart, against what it must reach."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from server.engines.embedded_diarizer import EmbeddedDiarizer
from server.engines.embedded_merging import Grouping
from streaming.timeline import SAMPLE_RATE_HZ
from streaming.tuning import SpeakerHints
from streaming.turns import Turn, merge_turns
from tools.diarization_report.cached import CachedEmbeddings
from tools.diarization_report.errors import NO_ERRORS, Errors, errors
from tools.diarization_report.hearing import Speech
from tools.diarization_report.recordings import Kind, Known
from tools.diarization_report.trial import Group, live, whole

BRIDGED = (Kind.MIX, Kind.TALK)
"""Where truth has no pauses inside an utterance."""
BRIDGE_SAMPLES = SAMPLE_RATE_HZ

Heard = Sequence[tuple[Known, Speech]]


@dataclass(frozen=True, slots=True)
class Line:
    """All recordings of one kind."""

    kind: Kind
    recordings: int
    first: Errors
    last: Errors
    miscounts: tuple[int, ...]
    """Speakers found less speakers there are, by recording."""

    @property
    def exact(self) -> int:
        return self.miscounts.count(0)


def grouped_by(grouping: Grouping | None) -> Group:
    return lambda question: EmbeddedDiarizer.grouped(question, grouping)


def lines(
    heard: Heard,
    cache: CachedEmbeddings,
    *,
    is_live: bool,
    is_told: bool = False,
    grouping: Grouping | None = None,
) -> list[Line]:
    """One for each kind. Without ``is_live`` first labels are not looked at: they are the last.

    ``is_told``: how many people there are is known beforehand.
    """
    group, profile = grouped_by(grouping), EmbeddedDiarizer.profile
    found: dict[Kind, list[tuple[Known, Sequence[Turn], Sequence[Turn]]]] = {}
    for known, speech in heard:
        hints = SpeakerHints(known.speakers, known.speakers) if is_told else None
        if is_live:
            outcome = live(profile, known.samples, speech, cache.observe, group, hints)
            first, last = outcome.first, outcome.last
        else:
            first = last = whole(profile, known.samples, speech, cache.observe, group, hints)
        found.setdefault(known.kind, []).append((known, first, last))
    return [_line(kind, results) for kind, results in found.items()]


def _line(kind: Kind, results: Sequence[tuple[Known, Sequence[Turn], Sequence[Turn]]]) -> Line:
    return Line(
        kind,
        len(results),
        _total(errors(known.turns, _shown(kind, first)) for known, first, _ in results),
        _total(errors(known.turns, _shown(kind, last)) for known, _, last in results),
        tuple(len({t.speaker for t in last}) - known.speakers for known, _, last in results),
    )


def _shown(kind: Kind, turns: Sequence[Turn]) -> Sequence[Turn]:
    return merge_turns(turns, BRIDGE_SAMPLES) if kind in BRIDGED else turns


def _total(parts: Iterable[Errors]) -> Errors:
    return sum(parts, NO_ERRORS)
