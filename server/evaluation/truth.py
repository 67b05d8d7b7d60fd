"""What is really said in a recording: read from STM, CTM, RTTM and plain text.

A format that is absent leaves its part ``None``: metrics that need it are then unknown, not zero.
Lines that start with ``;;`` and tags in angle brackets of an STM are left out.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from pathlib import Path
from typing import TypeVar

from server.evaluation.manifest import EvaluationError, Recording
from streaming.timeline import Span, samples_from_seconds
from streaming.turns import Turn

T = TypeVar("T")

CTM_TOLERANCE_SAMPLES = 1_600
"""0.1 s: a CTM's word belongs to the STM's segment that holds its middle, give or take this."""


@dataclass(frozen=True, slots=True)
class Segment:
    """What one speaker says in one go."""

    span: Span
    speaker: str
    words: tuple[str, ...]
    word_spans: tuple[Span, ...] | None = None
    """None where only the segment's own times are known."""


@dataclass(frozen=True, slots=True, order=True)
class TimedWord:
    """A line of a CTM."""

    span: Span
    text: str
    channel: str


@dataclass(frozen=True, slots=True)
class Truth:
    """Each part None where nothing tells it."""

    text: str | None = None
    segments: tuple[Segment, ...] | None = None
    turns: tuple[Turn, ...] | None = None


def read_truth(recording: Recording) -> Truth:
    """Raises: EvaluationError."""
    segments = _read(recording.stm, parse_stm)
    timed = _read(recording.ctm, parse_ctm)
    text = _read(recording.text, lambda content: " ".join(content.split()))
    turns = _read(recording.rttm, parse_rttm)
    if segments is not None and timed is not None:
        segments = with_word_times(segments, timed)
    if text is None and segments is not None:
        text = text_of_segments(segments)
    if text is None and timed is not None:
        text = " ".join(word.text for word in timed)
    return Truth(
        text,
        None if segments is None else tuple(segments),
        None if turns is None else tuple(turns),
    )


def _read(path: Path | None, parse: Callable[[str], T]) -> T | None:
    if path is None:
        return None
    try:
        return parse(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise EvaluationError(f"cannot read {path}: {error}") from None
    except (ValueError, IndexError):
        raise EvaluationError(f"{path} is not a {path.suffix.lstrip('.').upper()} file") from None


def parse_stm(content: str) -> list[Segment]:
    """Raises: ValueError, IndexError."""
    segments = []
    for line in _lines(content):
        fields = line.split()
        words = [word for word in fields[5:] if not _is_tag(word)]
        segments.append(Segment(_span(fields[3], fields[4]), fields[2], tuple(words)))
    return sorted(segments, key=lambda segment: segment.span)


def _is_tag(word: str) -> bool:
    return word.startswith("<") and word.endswith(">")


def parse_ctm(content: str) -> list[TimedWord]:
    """Words by start. Raises: ValueError, IndexError."""
    words = []
    for line in _lines(content):
        fields = line.split()
        start, duration = samples_from_seconds(float(fields[2])), float(fields[3])
        span = Span(start, start + samples_from_seconds(duration))
        words.append(TimedWord(span, fields[4], fields[1]))
    return sorted(words)


def parse_rttm(content: str) -> list[Turn]:
    """Raises: ValueError, IndexError."""
    turns = []
    for line in _lines(content):
        fields = line.split()
        if fields[0] == "SPEAKER":
            end = f"{float(fields[3]) + float(fields[4]):.6f}"
            turns.append(Turn(_span(fields[3], end), fields[7]))
    return sorted(turns)


def _lines(content: str) -> list[str]:
    return [line for line in content.splitlines() if line.strip() and not line.startswith(";;")]


def _span(start: str, end: str) -> Span:
    return Span(samples_from_seconds(float(start)), samples_from_seconds(float(end)))


def with_word_times(segments: Sequence[Segment], timed: Sequence[TimedWord]) -> list[Segment]:
    """Each segment with its words' spans from a CTM, where all of its words are found there.

    A CTM's word goes to the segment in time with it that waits for that word; to that of its
    speaker, where its channel is a speaker's name, else to the one that ends first.
    """
    found: list[list[Span]] = [[] for _ in segments]
    speakers = {segment.speaker for segment in segments}
    for word in timed:
        waiting = [
            i
            for i, segment in enumerate(segments)
            if _waits_for(segment, len(found[i]), word)
            and (word.channel not in speakers or segment.speaker == word.channel)
        ]
        if waiting:
            found[min(waiting, key=lambda i: segments[i].span.end)].append(word.span)
    return [
        replace(segment, word_spans=tuple(spans) if len(spans) == len(segment.words) else None)
        for segment, spans in zip(segments, found, strict=True)
    ]


def _waits_for(segment: Segment, words_found: int, word: TimedWord) -> bool:
    low = segment.span.start - CTM_TOLERANCE_SAMPLES
    high = segment.span.end + CTM_TOLERANCE_SAMPLES
    is_next = segment.words[words_found : words_found + 1] == (word.text,)
    return is_next and low <= word.span.middle <= high


def timed_words(segment: Segment) -> list[tuple[str, Span]]:
    """The segment's words with their spans; estimated by length where nobody knows them."""
    if segment.word_spans is not None:
        return list(zip(segment.words, segment.word_spans, strict=True))
    characters = list(accumulate(map(len, segment.words), initial=0))
    edges = [
        segment.span.start + segment.span.samples * count // max(1, characters[-1])
        for count in characters
    ]
    return [(word, Span(*edge)) for word, edge in zip(segment.words, pairwise(edges), strict=True)]


def text_of_segments(segments: Sequence[Segment]) -> str:
    """All words by time."""
    words = sorted(
        ((span, word) for segment in segments for word, span in timed_words(segment)),
        key=lambda pair: pair[0],
    )
    return " ".join(word for _, word in words)
