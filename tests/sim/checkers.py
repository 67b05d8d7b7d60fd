"""What must hold of every session's events, whatever happened to it; apart from the code it checks.

Each check takes the events in the order in which one reader got them, and raises AssertionError
with a sentence of what is wrong.
"""

from collections.abc import Sequence

from streaming.events import (
    Done,
    DurableEvent,
    Event,
    Final,
    Gap,
    LanguageDetected,
    Partial,
    PassingEvent,
    Revision,
)
from streaming.timeline import Span
from streaming.wire import encode_event, parse_server_message

ROUNDING_SECONDS = 0.003
"""Four figures of the closing event are rounded to a millisecond each."""


def check_all(events: Sequence[Event]) -> None:
    """Every check of a session that has ended."""
    check_order(events)
    check_wire(events)
    check_captions(events)
    check_partials(events)
    check_revisions(events)
    check_closing(events)


def check_order(events: Sequence[Event]) -> None:
    """Durable seqs are gap-free from 1; passing events stand where they say."""
    last = 0
    for event in events:
        if isinstance(event, PassingEvent):
            assert event.after_seq == last, f"{event} came after durable event {last}"
        else:
            assert event.seq == last + 1, f"seq {event.seq} after {last}"
            last = event.seq


def check_wire(events: Sequence[Event]) -> None:
    """Each event can be sent, and a client reads the same kind of event back."""
    for event in events:
        assert type(parse_server_message(encode_event(event))) is type(event), event


def check_captions(events: Sequence[Event]) -> None:
    """Committed words move forward, inside their captions; gaps and captions never overlap."""
    ends: dict[int, int] = {}
    seen: set[str] = set()
    has_final = False
    for event in events:
        if isinstance(event, Final):
            has_final = True
            assert event.caption_id not in seen, f"{event.caption_id} was committed twice"
            seen.add(event.caption_id)
            _check_words(event)
        if isinstance(event, Final | Gap):
            end = ends.get(event.lane, 0)
            assert event.span.start >= end, f"{event} starts before {end}, where the last one ended"
            ends[event.lane] = event.span.end
        if isinstance(event, LanguageDetected):
            assert not has_final, "the language came after captions"


def _check_words(final: Final) -> None:
    assert final.words, f"{final.caption_id} holds no words"
    position = final.span.start
    for word in final.words:
        assert word.text == word.text.strip() != "", f"{word} is not a stripped word"
        assert word.span.start >= position, f"{word} goes back"
        assert word.span.end <= final.span.end, f"{word} lies outside of {final.span}"
        position = word.span.start


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


def check_revisions(events: Sequence[Event]) -> None:
    """Revisions name known words, count by one, and change something each time."""
    speakers: dict[str, list[str | None]] = {}
    revs: dict[str, int] = {}
    for event in events:
        if isinstance(event, Final):
            speakers[event.caption_id] = [word.speaker for word in event.words]
        elif isinstance(event, Revision):
            revs[event.caption_id] = revs.get(event.caption_id, 0) + 1
            assert event.rev == revs[event.caption_id], f"{event} is not the next revision"
            _apply(event, speakers[event.caption_id])


def _apply(revision: Revision, speakers: list[str | None]) -> None:
    assert revision.runs, "a revision of nothing"
    for run in revision.runs:
        assert 0 <= run.from_word < run.to_word <= len(speakers), f"{run} is outside"
        for i in range(run.from_word, run.to_word):
            assert speakers[i] != run.speaker, f"{run} changes nothing at word {i}"
            speakers[i] = run.speaker


def check_closing(events: Sequence[Event]) -> None:
    """Exactly one closing event, the last one, whose figures add up."""
    closing = [event for event in events if isinstance(event, Done)]
    assert len(closing) == 1, f"{len(closing)} closing events"
    durable = [event for event in events if isinstance(event, DurableEvent)]
    done = closing[0]
    assert durable[-1] is done, "something came after the closing event"
    told = done.decoded_seconds + done.silent_seconds + done.gap_seconds
    assert abs(told - done.audio_seconds) <= ROUNDING_SECONDS, f"{told} s told of {done}"
    words = sum(len(event.words) for event in durable if isinstance(event, Final))
    assert done.words == words, f"{words} words were sent, {done.words} counted"
    gaps = sum(event.span.samples for event in durable if isinstance(event, Gap)) / 16_000
    assert abs(gaps - done.gap_seconds) <= ROUNDING_SECONDS, f"{gaps} s of gaps were sent"


def check_speakers(events: Sequence[Event], names: Sequence[str | None]) -> None:
    """A named lane has one speaker, the others have their own, and no two lanes share one."""
    lane_of = {event.caption_id: event.lane for event in events if isinstance(event, Final)}
    heard: dict[str, int] = {}
    for event in events:
        if not isinstance(event, Final | Revision):
            continue
        parts = event.words if isinstance(event, Final) else event.runs
        for speaker in dict.fromkeys(part.speaker for part in parts if part.speaker is not None):
            lane = lane_of[event.caption_id]
            if names[lane] is None:
                assert speaker not in names, f"{speaker} is the name of a lane, found on {lane}"
                assert heard.setdefault(speaker, lane) == lane, f"{speaker} is on two lanes"
            else:
                assert speaker == names[lane], f"{speaker} on the lane of {names[lane]}"


def check_words(
    events: Sequence[Event],
    lane: int,
    spoken: Sequence[tuple[str, Span]],
    breaks: Sequence[int] = (),
) -> None:
    """Every scripted word once, in order and in place, but for those that a gap touches, or that
    an utterance was made to end in the middle of, at one of the samples ``breaks``."""
    gaps = [e.span for e in events if isinstance(e, Gap) and e.lane == lane]
    gaps += [Span(sample - 1, sample + 1) for sample in breaks if sample]
    finals = [e for e in events if isinstance(e, Final) and e.lane == lane]
    heard = [(word.text, word.span) for final in finals for word in final.words]
    required = [word for word in spoken if not any(word[1].overlap_samples(g) for g in gaps)]
    texts = [text for text, _ in heard]
    assert len(set(texts)) == len(texts), f"words came twice: {texts}"
    missing = [text for text, _ in required if text not in texts]
    assert not missing, f"lost: {missing}; gaps {gaps}"
    places = dict(spoken)
    for text, span in heard:
        assert text in places, f"{text} was never said on lane {lane}"
        # Next to a gap the part of a word that lies in the gap is not the caption's.
        true = places[text] if (text, places[text]) in required else places[text].clamped(span)
        assert span == true, f"{text} was said at {places[text]}, not at {span}"
    order = [text for text, _ in spoken if text in set(texts)]
    assert texts == order, f"out of order: {texts}"
