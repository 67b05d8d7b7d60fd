"""Events folded into what a viewer sees."""

import itertools
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clients.live import NOTICES_MAX, OPEN_PER_LANE_MAX, CaptionFold, keep_event
from streaming.events import (
    CaptionWord,
    Degraded,
    Done,
    DurableEvent,
    Event,
    Final,
    Gap,
    GapReason,
    Lag,
    LanguageDetected,
    Partial,
    Quantiles,
    Revision,
    SessionStage,
    SpeakerRun,
    SpeechStarted,
)
from streaming.timeline import Span

NONE = Quantiles(None, None)
DONE = Done(9, 1.0, 1.0, 0.0, 0.0, None, 2, 1, NONE, NONE)


def words(text: str, start: int, speaker: str | None = None) -> tuple[CaptionWord, ...]:
    spans = [Span(start + 10 * i, start + 10 * i + 10) for i in range(len(text.split()))]
    return tuple(
        CaptionWord(word, span, None, speaker)
        for word, span in zip(text.split(), spans, strict=True)
    )


def final(caption_id: str, text: str, start: int = 0, lane: int = 0) -> Final:
    said = words(text, start)
    span = Span(start, said[-1].span.end)
    return Final(1, caption_id, lane, span, text, "en", None, None, said)


def partial(caption_id: str, text: str, start: int = 0, lane: int = 0) -> Partial:
    span = Span(start, start + 10)
    return Partial(0, caption_id, lane, span, text, 0, None, words(text, start))


def fold_of(*events: Event, captions_max: int = 100) -> CaptionFold:
    """The durable ones numbered in this order."""
    fold = CaptionFold(captions_max=captions_max)
    for event in numbered(events):
        fold.apply(event)
    return fold


def numbered(events: Sequence[Event]) -> list[Event]:
    seqs = itertools.count(1)
    return [
        replace(event, seq=next(seqs)) if isinstance(event, DurableEvent) else event
        for event in events
    ]


def test_a_partial_is_replaced_by_the_next_and_ended_by_its_final() -> None:
    fold = fold_of(partial("c1", "hello"), partial("c1", "hello world"))
    assert [line.text for line in fold.open_lines] == ["hello world"]
    fold.apply(final("c1", "hello world now"))
    assert fold.open_lines == []
    assert [caption.text for caption in fold.captions] == ["hello world now"]


def test_a_late_partial_of_a_final_caption_is_ignored() -> None:
    assert fold_of(final("c1", "done"), partial("c1", "do")).open_lines == []


def test_a_later_final_closes_lines_that_never_became_one() -> None:
    fold = fold_of(partial("c1", "noise"), partial("c9", "other", lane=1), final("c2", "hi", 50))
    assert [line.caption_id for line in fold.open_lines] == ["c9"]


def test_the_next_open_line_stays_when_the_one_before_becomes_final() -> None:
    fold = fold_of(partial("c1", "one"), partial("c2", "two", 100), final("c1", "one"))
    assert [line.caption_id for line in fold.open_lines] == ["c2"]


def test_an_emptied_partial_and_a_gap_close_the_line() -> None:
    assert fold_of(partial("c1", "x"), replace(partial("c1", "x"), text="")).open_lines == []
    gap = Gap(1, 0, Span(0, 20), GapReason.ENGINE_FAILED)
    fold = fold_of(partial("c1", "x"), gap)
    assert (fold.open_lines, list(fold.notices)) == ([], [gap])


def test_a_revision_names_words_once() -> None:
    revision = Revision(2, "c1", 1, (SpeakerRun(1, 3, "S2"),))
    older = Revision(3, "c1", 1, (SpeakerRun(0, 3, "S9"),))
    fold = fold_of(final("c1", "a b c"), revision, older, replace(revision, caption_id="c7"))
    caption = fold.caption("c1")
    assert caption is not None
    assert [word.speaker for word in caption.words] == [None, "S2", "S2"]
    assert caption.speaker == "S2"
    assert fold.caption("c7") is None


def test_open_lines_go_by_lane_then_time_and_are_bounded() -> None:
    many = [partial(f"c{i}", "x", start=i * 100) for i in range(OPEN_PER_LANE_MAX + 3)]
    fold = fold_of(partial("z", "y", lane=1), *reversed(many), *many)
    assert [line.caption_id for line in fold.open_lines] == ["c3", "c4", "c5", "c6", "z"]


def test_done_closes_all() -> None:
    fold = fold_of(partial("c1", "x"), DONE, partial("c2", "y"))
    assert (fold.open_lines, fold.done) == ([], replace(DONE, seq=1))


def test_state_events_are_kept_and_others_ignored() -> None:
    degraded = Degraded(0, SessionStage.DIARIZATION, "late")
    fold = fold_of(LanguageDetected(1, "de", 0.9), Lag(0, 2.5), degraded, SpeechStarted(0, 0, 3))
    assert (fold.language, fold.lag_seconds, list(fold.notices)) == ("de", 2.5, [degraded])


@pytest.mark.parametrize("count", [5, 50])
def test_memory_is_bounded(count: int) -> None:
    fold = fold_of(*(final(f"c{i}", "x", i * 100) for i in range(count)), captions_max=3)
    assert [caption.caption_id for caption in fold.captions] == [
        f"c{i}" for i in range(count - 3, count)
    ]
    gaps = [Gap(i, 0, Span(0, 1), GapReason.OVERLOAD) for i in range(count * 10)]
    assert len(fold_of(*gaps).notices) <= NOTICES_MAX


CAPTION_IDS = ("c1", "c2", "c3")
EVENTS = st.one_of(
    st.builds(final, st.sampled_from(CAPTION_IDS), st.just("a b c")),
    st.builds(partial, st.sampled_from(CAPTION_IDS), st.just("a b")),
    st.builds(
        lambda caption_id, rev, name: Revision(1, caption_id, rev, (SpeakerRun(0, 2, name),)),
        st.sampled_from(CAPTION_IDS),
        st.integers(1, 5),
        st.sampled_from(["S1", "S2"]),
    ),
    st.builds(LanguageDetected, st.just(1), st.sampled_from(["en", "de"]), st.just(0.9)),
    st.builds(lambda at: Gap(1, 0, Span(at, at + 5), GapReason.OVERLOAD), st.integers(0, 99)),
)


@given(
    kept=st.lists(EVENTS, max_size=8),
    lost=st.lists(EVENTS, max_size=8),
    again=st.lists(EVENTS, max_size=8),
    is_told=st.booleans(),
)
def test_what_a_server_lost_is_as_if_it_had_never_come(
    kept: list[Event], lost: list[Event], again: list[Event], is_told: bool
) -> None:
    """Told of it, or at the first event that comes again."""
    durable = [event for event in kept if isinstance(event, DurableEvent)]
    last_seq = len(durable)
    again = [final("c9", "made anew"), *again]
    expected = fold_of(*kept, *again)
    fold = fold_of(*kept, *lost)
    if is_told:
        fold.forget_after(last_seq)
    for event in numbered([*kept, *again])[len(kept) :]:
        fold.apply(event)
    assert fold.captions == expected.captions
    assert (fold.language, list(fold.notices)) == (expected.language, list(expected.notices))


def test_a_caption_that_is_made_anew_is_shown_once_and_its_lost_speaker_forgotten() -> None:
    revision = Revision(2, "c1", 1, (SpeakerRun(0, 2, "S2"),))
    fold = fold_of(final("c1", "one two"), revision, final("c2", "three"), partial("c3", "fo"))
    fold.apply(replace(final("c2", "three four", 100), seq=2))
    assert [caption.text for caption in fold.captions] == ["one two", "three four"]
    assert fold.captions[0].speaker is None
    assert fold.open_lines == []


def test_the_events_of_a_session_hold_those_that_came_last() -> None:
    kept: list[DurableEvent] = []
    for seq, text in ((1, "one"), (2, "lost"), (3, "lost too"), (2, "two"), (3, "three")):
        keep_event(kept, replace(final(f"c{seq}", text), seq=seq))
    assert [(event.seq, event.text) for event in kept if isinstance(event, Final)] == [
        (1, "one"),
        (2, "two"),
        (3, "three"),
    ]
