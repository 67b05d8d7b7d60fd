"""Small truths and what was heard of them, written by hand, for the tests of ``captiond eval``."""

from collections.abc import Sequence
from pathlib import Path

from server.evaluation.heard import Heard
from server.evaluation.manifest import Recording
from server.evaluation.truth import Segment, Truth
from streaming.events import CaptionWord, Done, Final, Quantiles, Revision, SpeakerRun, text_of
from streaming.timeline import Span, samples_from_seconds
from streaming.turns import Turn

RECORDING = Recording("a.flac", Path("a.flac"), language="en")
ENGINES = {"vad": "v", "asr": "a", "diarizer": "d"}

SaidWord = tuple[str, float, float, str | None]
"""Text, start and end in seconds, speaker."""


def span(start_s: float, end_s: float) -> Span:
    return Span(samples_from_seconds(start_s), samples_from_seconds(end_s))


def said(text: str, start_s: float, speaker: str | None, word_s: float = 0.5) -> list[SaidWord]:
    """Words of equal length, one right after the other."""
    return [
        (word, start_s + i * word_s, start_s + (i + 1) * word_s, speaker)
        for i, word in enumerate(text.split())
    ]


def truth_of(words: Sequence[SaidWord]) -> Truth:
    """One segment and one turn per run of words by a speaker that touch each other."""
    segments: list[Segment] = []
    for text, start_s, end_s, speaker in words:
        assert speaker is not None
        last = segments[-1] if segments else None
        place = span(start_s, end_s)
        if last is not None and last.speaker == speaker and last.span.end == place.start:
            spans = (*(last.word_spans or ()), place)
            joined = Span(last.span.start, place.end)
            segments[-1] = Segment(joined, speaker, (*last.words, text), spans)
        else:
            segments.append(Segment(place, speaker, (text,), (place,)))
    text = " ".join(word[0] for word in sorted(words, key=lambda word: word[1]))
    turns = tuple(sorted(Turn(s.span, s.speaker) for s in segments))
    return Truth(text, tuple(segments), turns)


def final(seq: int, words: Sequence[SaidWord], lane: int = 0) -> Final:
    made = tuple(CaptionWord(text, span(start, end), None, who) for text, start, end, who in words)
    whole = Span(made[0].span.start, max(word.span.end for word in made))
    speaker = made[0].speaker
    return Final(seq, f"c{seq}", lane, whole, text_of(made), "en", None, speaker, made)


def revision(seq: int, caption_id: str, rev: int, *runs: tuple[int, int, str | None]) -> Revision:
    return Revision(seq, caption_id, rev, tuple(SpeakerRun(*run) for run in runs))


def done(seq: int, words: int, audio_s: float = 60.0) -> Done:
    none = Quantiles(None, None)
    return Done(seq, audio_s, audio_s, 0.0, 0.0, 10.0, words, 2, none, none)


def heard_of(*captions: Sequence[SaidWord]) -> Heard:
    """Finals with these words and no revision; all sent at 0 s, received at 1, 2, 3 … s."""
    heard = Heard(engines=dict(ENGINES))
    assert heard.delays is not None
    heard.delays.sent.packet_sent(samples_from_seconds(60), 0.0)
    for number, words in enumerate(captions, 1):
        heard.receive(final(number, words), float(number))
    end = len(captions) + 1
    heard.receive(done(end, sum(map(len, captions))), float(end))
    return heard
