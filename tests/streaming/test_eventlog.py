"""EventLog: order, visibility, replaced partials, forgetting, several readers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streaming.eventlog import Behind, Cursor, EventLog
from streaming.events import (
    CaptionWord,
    DurableEvent,
    Event,
    Gap,
    GapReason,
    Lag,
    Partial,
    PassingEvent,
)
from streaming.timeline import Span

WORD = CaptionWord("w", Span(0, 1), None, None)


def durable(seq: int) -> Gap:
    return Gap(seq, 0, Span(seq, seq + 1), GapReason.ENGINE_FAILED)


def partial(caption: str, log: EventLog, *, lane: int = 0, words: int = 1) -> Partial:
    return Partial(log.last_seq, caption, lane, Span(0, 1), "w", 0, None, (WORD,) * words)


def filled(count: int, *, entries_max: int = 1_000, is_stored: bool = True) -> EventLog:
    log = EventLog(entries_max=entries_max)
    for seq in range(1, count + 1):
        log.append(durable(seq))
        if is_stored:
            store(log)
    return log


def store(log: EventLog) -> list[DurableEvent]:
    events = log.take_unstored()
    log.mark_stored(log.last_seq)
    return events


def seqs(events: list[Event]) -> list[int]:
    return [event.seq for event in events if isinstance(event, DurableEvent)]


def test_seqs_are_gap_free() -> None:
    log = EventLog()
    with pytest.raises(ValueError, match="seq 2 after 0"):
        log.append(durable(2))
    log.append(durable(log.next_seq))
    with pytest.raises(ValueError, match="seq 1 after 1"):
        log.append(durable(1))


def test_nothing_durable_is_visible_before_it_is_stored() -> None:
    log = filled(2, is_stored=False)
    reader = log.cursor()
    assert (reader.read(9), reader.has_more) == ([], False)
    log.mark_stored(1)
    assert reader.has_more
    assert seqs(reader.read(9)) == [1]
    log.mark_stored(2)
    assert seqs(reader.read(9)) == [2]
    assert log.stored_seq == 2


def test_what_is_shown_before_it_is_stored_is_read_once_and_stays_in_memory() -> None:
    log = filled(3, entries_max=2, is_stored=False)
    reader = log.cursor()
    log.show_unstored(2)
    assert seqs([*log.hidden]) == [3]
    assert seqs(reader.read(9)) == [1, 2]
    assert (log.shown_seq, log.stored_seq, log.is_congested) == (2, 0, True)
    log.show_unstored(9)
    assert (log.shown_seq, [*log.hidden]) == (3, [])
    assert seqs(log.cursor().read(9)) == [1, 2, 3], "not forgotten: the store has none of them"
    log.mark_stored(2)
    assert (log.shown_seq, log.stored_seq) == (3, 2)
    log.append(durable(4))
    assert seqs(reader.read(9)) == [3]
    assert seqs([*log.hidden]) == [4]
    assert seqs([*log.take_unstored()]) == [3, 4], "each is still given to the store"


def test_passing_events_wait_behind_the_durable_ones_before_them() -> None:
    log = EventLog()
    reader = log.cursor()
    log.post(Lag(0, 1.0))
    log.append(durable(1))
    log.post(Lag(1, 2.0))
    assert reader.read(9) == [Lag(0, 1.0)]
    log.mark_stored(1)
    assert reader.read(9) == [durable(1), Lag(1, 2.0)]


def test_the_store_is_given_each_event_once_even_while_it_writes() -> None:
    log = filled(2, is_stored=False)
    assert log.has_unstored
    assert seqs([*log.take_unstored()]) == [1, 2]
    assert not log.has_unstored
    log.append(durable(3))
    log.mark_stored(2)
    assert seqs([*log.take_unstored()]) == [3]
    assert log.take_unstored() == []


def test_a_late_report_of_the_store_takes_nothing_back() -> None:
    log = filled(3)
    log.mark_stored(1)
    assert log.stored_seq == 3


def test_an_unread_partial_is_replaced_by_a_newer_one_of_its_lane() -> None:
    log = EventLog()
    reader = log.cursor()
    old, other, new = partial("c1", log), partial("c2", log, lane=1), partial("c1", log, words=2)
    for event in (old, other, new):
        log.post(event)
    assert reader.read(9) == [other, new]
    assert reader.missed_partials == 1


def test_a_partial_that_was_read_is_not_missed() -> None:
    log = EventLog()
    reader = log.cursor()
    for words in (1, 2):
        log.post(partial("c1", log, words=words))
        assert len(reader.read(9)) == 1
    assert reader.missed_partials == 0


def test_a_withdrawal_is_not_replaced_by_another_caption() -> None:
    log = EventLog()
    reader = log.cursor()
    log.post(partial("c1", log))
    assert len(reader.read(9)) == 1
    withdrawal, newer = partial("c1", log, words=0), partial("c2", log)
    log.post(withdrawal)
    log.post(newer)
    assert reader.read(9) == [withdrawal, newer]


def test_a_partial_of_a_committed_caption_is_replaced_by_the_next_captions() -> None:
    log = EventLog()
    reader = log.cursor()
    log.post(partial("c1", log))
    log.append(durable(1))
    store(log)
    log.post(newer := partial("c2", log))
    assert reader.read(9) == [durable(1), newer]


def test_a_partial_that_has_left_memory_needs_no_replacing() -> None:
    log = EventLog(entries_max=1)
    log.post(partial("c1", log))
    log.post(Lag(0, 1.0))
    log.post(newer := partial("c1", log))
    assert log.cursor().read(9) == [newer]


def test_stored_entries_leave_memory_and_the_reader_is_told() -> None:
    log = filled(5, entries_max=2)
    reader = log.cursor()
    with pytest.raises(Behind, match=r"events 1\.\.3 are in the store only") as behind:
        reader.read(9)
    assert (behind.value.after_seq, behind.value.through_seq) == (0, 3)
    reader.skip_through(2)
    with pytest.raises(Behind, match=r"3\.\.3"):
        reader.read(9)
    reader.skip_through(3)
    reader.skip_through(1)
    assert seqs(reader.read(9)) == [4, 5]


def test_unstored_entries_stay_and_congest_the_log() -> None:
    log = filled(2, entries_max=2, is_stored=False)
    assert not log.is_congested
    log.post(Lag(2, 1.0))
    assert log.is_congested
    assert len(store(log)) == 2
    assert not log.is_congested


def test_passing_events_alone_are_forgotten_without_a_word() -> None:
    log = EventLog(entries_max=2)
    for i in range(5):
        log.post(Lag(0, float(i)))
    assert log.cursor().read(9) == [Lag(0, 3.0), Lag(0, 4.0)]


def test_a_resuming_reader_gets_what_it_has_not_seen() -> None:
    log = EventLog()
    log.post(Lag(0, 1.0))
    log.append(durable(1))
    log.append(durable(2))
    log.post(Lag(2, 2.0))
    store(log)
    assert log.cursor(1).read(9) == [durable(2), Lag(2, 2.0)]


def test_two_readers_go_at_their_own_speed() -> None:
    log = filled(6)
    fast, slow = log.cursor(), log.cursor()
    assert seqs(fast.read(9)) == [1, 2, 3, 4, 5, 6]
    assert seqs(slow.read(2)) == [1, 2]
    assert (fast.has_more, slow.has_more) == (False, True)
    assert (fast.seq, slow.seq) == (6, 2)


@given(
    steps=st.lists(
        st.sampled_from(["append", "partial", "lag", "store", "show", "fast", "slow"]), max_size=120
    ),
    entries_max=st.integers(1, 12),
)
def test_every_reader_gets_each_durable_event_once_and_in_order(
    steps: list[str], entries_max: int
) -> None:
    log = EventLog(entries_max=entries_max)
    readers = {"fast": log.cursor(), "slow": log.cursor()}
    got: dict[str, list[Event]] = {"fast": [], "slow": []}
    for step in steps:
        if step == "append":
            log.append(durable(log.next_seq))
        elif step == "partial":
            log.post(partial("c", log))
        elif step == "lag":
            log.post(Lag(log.last_seq, 1.0))
        elif step == "store":
            log.take_unstored()
            log.mark_stored(log.last_seq)
        elif step == "show":
            log.show_unstored(log.last_seq)
        else:
            got[step] += read(readers[step], 3 if step == "fast" else 1)
            assert readers[step].seq <= log.shown_seq
        assert log.stored_seq <= log.shown_seq <= log.last_seq
    log.mark_stored(log.last_seq)
    for name, reader in readers.items():
        while news := read(reader, 5):
            got[name] += news
        assert seqs(got[name]) == list(range(1, log.last_seq + 1))
        seen = 0
        for event in got[name]:
            assert not isinstance(event, PassingEvent) or event.after_seq == seen
            seen = event.seq if isinstance(event, DurableEvent) else seen


def read(reader: Cursor, limit: int) -> list[Event]:
    """As the server does: what has left memory comes from the store."""
    try:
        return reader.read(limit)
    except Behind as behind:
        count = min(limit, behind.through_seq - behind.after_seq)
        stored: list[Event] = [durable(behind.after_seq + 1 + i) for i in range(count)]
        reader.skip_through(behind.after_seq + count)
        return stored
