"""What may be shown before it is stored: bounded per session and over all, never the last event."""

from hypothesis import given
from hypothesis import strategies as st

from server.spool import SessionSpool, Spool
from streaming.eventlog import EventLog
from streaming.events import Done, Gap, GapReason, Quantiles
from streaming.timeline import Span
from streaming.wire import encode_event

NOTHING = Quantiles(None, None)


def said(log: EventLog) -> None:
    log.append(Gap(log.next_seq, 0, Span(0, 16), GapReason.OVERLOAD))


def done(seq: int) -> Done:
    return Done(seq, 1.0, 0.0, 1.0, 0.0, None, 0, 0, NOTHING, NOTHING)


def sizes_of(*logs: EventLog) -> int:
    """JSON bytes of what is shown and not stored."""
    events = (event for log in logs for event in log.cursor(log.stored_seq).read(1_000))
    return sum(len(encode_event(event)) for event in events)


def test_the_last_event_is_never_shown_before_it_is_stored() -> None:
    log = EventLog()
    said(log)
    log.append(done(2))
    SessionSpool(log, Spool()).show()
    assert (log.shown_seq, log.last_seq) == (1, 2)


@given(
    events_max=st.integers(1, 4),
    bytes_max=st.integers(0, 600),
    steps=st.lists(
        st.tuples(st.integers(0, 2), st.sampled_from(["say", "show", "store", "close"]))
    ),
)
def test_the_account_is_what_the_logs_show(
    events_max: int, bytes_max: int, steps: list[tuple[int, str]]
) -> None:
    spool = Spool(events_max=events_max, bytes_max=bytes_max)
    logs = [EventLog() for _ in range(3)]
    parts = [SessionSpool(log, spool) for log in logs]
    for number, step in steps:
        log, part = logs[number], parts[number]
        if step == "say":
            said(log)
        elif step == "show":
            part.show()
        elif step == "store":
            log.mark_stored(min(log.stored_seq + 2, log.last_seq))
            part.settle()
        else:
            part.close()
            logs[number] = EventLog()
            parts[number] = SessionSpool(logs[number], spool)
        backlogs = [log.shown_seq - log.stored_seq for log in logs]
        assert max(backlogs) <= events_max
        assert (spool.events, spool.bytes) == (sum(backlogs), sizes_of(*logs))
        assert spool.bytes <= bytes_max


def test_room_that_is_given_back_is_used_again() -> None:
    log = EventLog()
    spool = Spool(events_max=1)
    part = SessionSpool(log, spool)
    for _ in range(2):
        said(log)
    part.show()
    part.show()
    assert log.shown_seq == 1
    log.mark_stored(1)
    part.settle()
    part.show()
    assert log.shown_seq == 2
