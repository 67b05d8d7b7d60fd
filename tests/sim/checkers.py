"""What must hold of the events of a session that has ended; apart from the code that made them.

Each check takes the events in the order in which one reader got them, and raises ``Violation``.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from math import isfinite

from streaming.events import (
    CaptionWord,
    Done,
    DurableEvent,
    Event,
    Final,
    Gap,
    LanguageDetected,
    Partial,
    PassingEvent,
    Revision,
    SpeechEnded,
    SpeechStarted,
)
from streaming.timeline import SAMPLE_RATE_HZ, Span
from streaming.wire import encode_event, parse_server_message
from tests.sim.script import SpokenWord
from tests.sim.watchers import check

EDGE_SAMPLES = SAMPLE_RATE_HZ
"""Of audio that few chunks of a grid cover."""
ROUNDING_SECONDS = 0.003
"""Four figures of the closing event are rounded to a millisecond each."""


def check_all(events: Sequence[Event]) -> None:
    """Every check of a session that has ended and that needs no other knowledge of it."""
    check_order(events)
    check_wire(events)
    check_values(events)
    check_captions(events)
    check_partials(events)
    check_speech(events)
    check_revisions(events)
    check_closing(events)


@check
def check_order(events: Sequence[Event], after_seq: int = 0) -> None:
    """Durable seqs are gap-free; passing events stand where they say."""
    last = after_seq
    for event in events:
        if isinstance(event, PassingEvent):
            assert event.after_seq == last, f"{event} came after durable event {last}"
        else:
            assert event.seq == last + 1, f"seq {event.seq} after {last}"
            last = event.seq


@check
def check_wire(events: Sequence[Event]) -> None:
    """Each event can be sent, and a client reads the same kind of event back."""
    for event in events:
        assert type(parse_server_message(encode_event(event))) is type(event), event


@check
def check_values(events: Sequence[Event]) -> None:
    """Nothing is said that is not a number, a share or a language."""
    for event in events:
        if isinstance(event, Final | Partial):
            shares = [word.confidence for word in event.words]
            if isinstance(event, Final):
                shares.append(event.confidence)
                _check_language(event.language)
            for share in shares:
                assert share is None or (isfinite(share) and 0 <= share <= 1), f"{share}: {event}"
        elif isinstance(event, LanguageDetected):
            assert 0 <= event.probability <= 1, event
            _check_language(event.language)


def _check_language(language: str | None) -> None:
    assert language is None or re.fullmatch("[a-z]{2,3}", language), f"{language!r}: no language"


@check
def check_captions(events: Sequence[Event], *, is_language_fixed: bool = True) -> None:
    """Committed words move forward, inside their captions; gaps and captions never overlap."""
    ends: dict[int, int] = {}
    seen: set[str] = set()
    for event in events:
        if isinstance(event, Final):
            assert event.caption_id not in seen, f"{event.caption_id} was committed twice"
            seen.add(event.caption_id)
            _check_words(event)
        if isinstance(event, Final | Gap):
            end = ends.get(event.lane, 0)
            assert event.span.start >= end, f"{event} starts before {end}, where the last one ended"
            ends[event.lane] = event.span.end
        if isinstance(event, LanguageDetected) and is_language_fixed:
            assert not seen, "the language came after captions"


def _check_words(final: Final) -> None:
    assert final.words, f"{final.caption_id} holds no words"
    position = final.span.start
    for word in final.words:
        assert word.text == word.text.strip() != "", f"{word} is not a stripped word"
        assert word.span.start >= position, f"{word} goes back"
        assert word.span.end <= final.span.end, f"{word} lies outside of {final.span}"
        position = word.span.start


@check
def check_partials(events: Sequence[Event]) -> None:
    """Nothing is shown of a committed caption, and what was shown is committed or withdrawn."""
    shown: set[str] = set()
    committed: set[str] = set()
    for event in events:
        if isinstance(event, Partial):
            assert event.caption_id not in committed, f"partial of committed {event.caption_id}"
            assert 0 <= event.stable_words <= len(event.words), event
            (shown.add if event.words else shown.discard)(event.caption_id)
        elif isinstance(event, Final):
            committed.add(event.caption_id)
            shown.discard(event.caption_id)
    assert not shown, f"shown, and neither committed nor withdrawn: {sorted(shown)}"


@check
def check_speech(events: Sequence[Event]) -> None:
    """On each lane speech starts and ends by turns, forward in time."""
    at: dict[int, int] = {}
    is_open: dict[int, bool] = {}
    for event in events:
        if isinstance(event, SpeechStarted | SpeechEnded):
            is_start = isinstance(event, SpeechStarted)
            assert is_open.get(event.lane, False) is not is_start, f"{event}: out of turn"
            assert event.at >= at.get(event.lane, 0), f"{event} goes back"
            at[event.lane], is_open[event.lane] = event.at, is_start
    assert not any(is_open.values()), f"speech that never ended: {is_open}"


@check
def check_revisions(events: Sequence[Event]) -> None:
    """Speakers change by revisions only: they name known words, count by one, change something."""
    speakers: dict[str, list[str | None]] = {}
    revs: Counter[str] = Counter()
    for event in events:
        if isinstance(event, Final):
            speakers[event.caption_id] = [word.speaker for word in event.words]
        elif isinstance(event, Revision):
            revs[event.caption_id] += 1
            assert event.rev == revs[event.caption_id], f"{event} is not the next revision"
            _apply(event, speakers[event.caption_id])


def _apply(revision: Revision, speakers: list[str | None]) -> None:
    assert revision.runs, "a revision of nothing"
    for run in revision.runs:
        assert 0 <= run.from_word < run.to_word <= len(speakers), f"{run} is outside"
        for i in range(run.from_word, run.to_word):
            assert speakers[i] != run.speaker, f"{run} changes nothing at word {i}"
            speakers[i] = run.speaker


@check
def check_closing(events: Sequence[Event]) -> None:
    """Exactly one closing event, the last one, whose figures add up."""
    closing = [event for event in events if isinstance(event, Done)]
    assert len(closing) == 1, f"{len(closing)} closing events"
    durable = [event for event in events if isinstance(event, DurableEvent)]
    done = closing[0]
    assert events[-1] is done, "something came after the closing event"
    told = done.decoded_seconds + done.silent_seconds + done.gap_seconds
    assert abs(told - done.audio_seconds) <= ROUNDING_SECONDS, f"{told} s told of {done}"
    words = sum(len(event.words) for event in durable if isinstance(event, Final))
    assert done.words == words, f"{words} words were sent, {done.words} counted"
    gaps = sum(event.span.samples for event in durable if isinstance(event, Gap)) / SAMPLE_RATE_HZ
    assert abs(gaps - done.gap_seconds) <= ROUNDING_SECONDS, f"{gaps} s of gaps were sent"


@check
def check_length(events: Sequence[Event], samples: int) -> None:
    """The session counts as much audio as the client says that it sent."""
    done = events[-1]
    assert isinstance(done, Done), f"ends with {done}"
    is_all = abs(done.audio_seconds - samples / SAMPLE_RATE_HZ) <= ROUNDING_SECONDS
    assert is_all, f"{samples} samples were sent: {done}"


@check
def check_gaps(events: Sequence[Event], lost: Counter[int]) -> None:
    """A gap for each window that no engine could tell, and no other."""
    gaps = Counter(event.lane for event in events if isinstance(event, Gap))
    assert gaps == lost, f"gaps by lane {dict(gaps)}, lost windows {dict(lost)}"


@check
def check_late_answers(superseded_results: int, stale_answers: int) -> None:
    """Answers to what nobody asks any more are dropped, and counted."""
    assert superseded_results >= stale_answers, (
        f"{stale_answers} answers came late or twice, {superseded_results} are counted"
    )


@check
def check_speakers(
    events: Sequence[Event], lane_names: Sequence[str | None] | Mapping[int, str | None]
) -> None:
    """A named lane has one speaker, the others have their own, and no two lanes share one."""
    pairs = lane_names.items() if isinstance(lane_names, Mapping) else enumerate(lane_names)
    names = dict(pairs)
    lane_of = {event.caption_id: event.lane for event in events if isinstance(event, Final)}
    heard: dict[str, int] = {}
    for event in events:
        if not isinstance(event, Final | Revision):
            continue
        parts = event.words if isinstance(event, Final) else event.runs
        for speaker in dict.fromkeys(part.speaker for part in parts if part.speaker is not None):
            lane = lane_of[event.caption_id]
            if names[lane] is None:
                assert speaker not in names.values(), (
                    f"{speaker} is the name of a lane, found on {lane}"
                )
                assert heard.setdefault(speaker, lane) == lane, f"{speaker} is on two lanes"
            else:
                assert speaker == names[lane], f"{speaker} on the lane of {names[lane]}"


@check
def check_voices(events: Sequence[Event], lane: int, spoken: Sequence[SpokenWord]) -> None:
    """Once all is said, words have the speakers that the script gives them, by whatever names.

    A change of speaker may take one word with it, and who said too little may go unnamed.
    """
    voices = {word.text: word.speaker for word in spoken}
    pairs = Counter(
        (name, voices[text]) for text, name in _named(events, lane) if name and text in voices
    )
    best = {voice: _most(pairs, 1, voice) for voice in set(voices.values())}
    agreed = sum(n for (name, voice), n in pairs.items() if best[voice] == name)
    agreed -= sum(n for (name, voice), n in pairs.items() if _most(pairs, 0, name) != voice)
    changes = sum(a.speaker != b.speaker for a, b in pairwise(spoken))
    assert pairs.total() - agreed <= 2 * changes, f"names by voice on lane {lane}: {dict(pairs)}"


@check
def check_named(
    events: Sequence[Event], lane: int, spoken: Sequence[SpokenWord], hop_samples: int
) -> None:
    """Somebody's voice is in every word that was said, where all audio was looked at.

    The scripted diarizer hears no half a word: at both ends of the audio, where few chunks vote,
    one that a chunk begins or ends in may be outvoted.
    """
    end = max((word.span.end for word in spoken), default=0)
    inner = Span(EDGE_SAMPLES, max(EDGE_SAMPLES, end - EDGE_SAMPLES))
    texts = {
        word.text
        for word in spoken
        if (inner.start <= word.span.start and word.span.end <= inner.end)
        or word.span.start // hop_samples == (word.span.end - 1) // hop_samples
    }
    unnamed = [text for text, name in _named(events, lane) if name is None and text in texts]
    assert not unnamed, f"nobody has said {unnamed} on lane {lane}"


def _named(events: Sequence[Event], lane: int) -> Iterator[tuple[str, str | None]]:
    """Each word of a lane, and its speaker after all revisions."""
    speakers: dict[str, list[str | None]] = {}
    for event in events:
        if isinstance(event, Final):
            speakers[event.caption_id] = [word.speaker for word in event.words]
        elif isinstance(event, Revision):
            for run in event.runs:
                count = run.to_word - run.from_word
                speakers[event.caption_id][run.from_word : run.to_word] = [run.speaker] * count
    for event in events:
        if isinstance(event, Final) and event.lane == lane:
            texts = (word.text for word in event.words)
            yield from zip(texts, speakers[event.caption_id], strict=True)


def _most(pairs: Counter[tuple[str, int]], side: int, value: str | int) -> str | int | None:
    """What goes with a value most often; the first by name where two do."""
    found = {pair[1 - side]: n for pair, n in sorted(pairs.items()) if pair[side] == value}
    return max(found, key=lambda other: found[other], default=None)


@check
def check_words(
    events: Sequence[Event],
    lane: int,
    spoken: Sequence[SpokenWord],
    breaks: Sequence[Span] = (),
    lies: Sequence[Span] = (),
) -> None:
    """Every scripted word once, in order and in place, but for those that a gap touches, that an
    utterance was made to end in the middle of (``breaks``), or that an engine lied about."""
    gaps = [e.span for e in events if isinstance(e, Gap) and e.lane == lane]
    excuses = [*gaps, *breaks, *lies]
    required = {word.text for word in spoken if not _overlaps(word.span, excuses)}
    # At the very edge of a lie may stand what it made up, or a word that it could not reach.
    heard = [
        word
        for word in _heard(events, lane)
        if word.text in required or not _touches(word.span, lies)
    ]
    texts = [word.text for word in heard]
    assert len(set(texts)) == len(texts), f"words came twice: {texts}"
    missing = required - set(texts)
    assert not missing, f"lost: {sorted(missing)}; gaps {gaps}"
    places = {word.text: word.span for word in spoken}
    for word in heard:
        assert word.text in places, f"{word.text} was never said on lane {lane}"
        # Next to a gap the part of a word that lies in the gap is not the caption's.
        place = places[word.text]
        true = place if word.text in required else place.clamped(word.span)
        assert word.span == true, f"{word.text} was said at {place}, not at {word.span}"
    order = [word.text for word in spoken if word.text in set(texts)]
    assert texts == order, f"out of order: {texts}"


def arrived_words(
    spoken: Sequence[SpokenWord],
    lane: int,
    frames: int,
    before: Sequence[Event] = (),
    frames_before: int = 0,
) -> list[SpokenWord]:
    """Words of which all audio has come: to the server that had the session last (``frames``), or
    to those that died before it (``frames_before``) and told them in events that they stored.

    Such a session goes on from an earlier frame, and its client may never send the rest again.
    """
    told = {word.text for word in _heard(before, lane)}
    return [
        word
        for word in spoken
        if word.sent_frame <= frames or (word.sent_frame <= frames_before and word.text in told)
    ]


def _heard(events: Sequence[Event], lane: int) -> list[CaptionWord]:
    finals = [e for e in events if isinstance(e, Final) and e.lane == lane]
    return [word for final in finals for word in final.words]


def _overlaps(span: Span, others: Sequence[Span]) -> bool:
    return any(span.overlap_samples(other) for other in others)


def _touches(span: Span, others: Sequence[Span]) -> bool:
    return any(span.start <= other.end and span.end >= other.start for other in others)
