"""Session: engines, store, credit, time and the end, and what goes wrong with them."""

import numpy as np
import pytest

from streaming.engines import Hypothesis, Word
from streaming.errors import BadAudio, OutOfOrder, TooFast, UnsupportedOption
from streaming.events import (
    Degraded,
    Done,
    Final,
    Gap,
    GapReason,
    Lag,
    LanguageDetected,
    PassingEvent,
)
from streaming.jobs import Job, JobKind
from streaming.session import SPEAKER_GRACE_NS, SessionState
from streaming.timeline import SAMPLE_RATE_HZ, Span
from streaming.windows import WindowOptions
from streaming.wire import AudioFormat, Configure, Start
from tests.fakes import (
    MS,
    Desk,
    Engines,
    channels,
    conversation,
    desk,
    done,
    new_session,
    of_type,
    silence,
    speakers_of,
    speech,
    word_texts,
    words_of,
)
from tests.sim.checkers import check_all, check_speakers

GERMAN = Start(language="de")


# Late, hanging and wild engines


def test_late_answers_out_of_order_between_lanes_change_no_caption() -> None:
    start, audio = channels(speech(range(6), stream=1), speech(range(6), stream=2, speaker=3))
    table = desk(start)
    table.holds = lambda job: job.kind is JobKind.RECOGNIZE
    table.play(audio, packet_ms=200)
    while table.held:
        table.answer_held(newest_first=True)
    table.holds = lambda job: False
    events = table.end()
    check_all(events)
    check_speakers(events, [None, None])
    for lane, stream in ((0, 1), (1, 2)):
        assert words_of(events, lane) == word_texts(range(6), stream=stream)


def test_an_answer_is_taken_once_and_a_stray_one_is_counted() -> None:
    table = desk()
    table.holds = lambda job: True
    table.play(speech(range(3)))
    (job, *_) = table.held
    table.answer_held()
    before = len(table.events)
    table.session.receive_result(job.number, [], 1, 0)
    table.session.receive_result(999, [], 1, 0)
    table.session.receive_failure(job.number)
    assert table.session.stats.superseded_results == 2
    table.holds = lambda job: False
    table.settle()
    assert len(table.events) == before


@pytest.mark.parametrize("reason", GapReason)
def test_a_job_that_lost_its_place_in_the_queue_is_an_answer_too(reason: GapReason) -> None:
    table = desk()
    table.holds = lambda job: job.kind is JobKind.RECOGNIZE and job.is_final
    table.play(conversation())
    (refused,) = table.held
    table.session.receive_failure(refused.number, reason)
    table.holds = lambda job: False
    events = table.end()
    check_all(events)
    assert [gap.reason for gap in of_type(Gap, events)] == [reason]
    assert list(table.session.stats.gap_samples) == [reason]
    assert words_of(events) == word_texts(range(6, 12))


@pytest.mark.parametrize("kind", list(JobKind))
def test_engines_that_never_answer_leave_the_buffer_bounded(kind: JobKind) -> None:
    table = desk(buffer_samples=20 * SAMPLE_RATE_HZ, windows=WindowOptions(cap_ms=8_000))
    table.holds = lambda job: job.kind is kind
    audio = conversation(words=120)
    try:
        table.play(audio, packet_ms=500)
    except TooFast:
        assert kind in (JobKind.DETECT, JobKind.RECOGNIZE), "text never waits for speakers"
    assert table.session.held_samples <= 22 * SAMPLE_RATE_HZ
    assert len(table.held) < 10


def test_a_diarizer_that_hangs_at_the_end_is_waited_for_so_long() -> None:
    table = desk()
    table.play(conversation(words=40))
    table.holds = lambda job: job.kind in (JobKind.OBSERVE, JobKind.CLUSTER)
    table.end()
    assert table.session.state is SessionState.ENDING
    due_ns = table.session.deadline_ns
    assert due_ns == table.now_ns + SPEAKER_GRACE_NS
    table.session.handle_deadline(due_ns - 1)
    assert table.session.state is SessionState.ENDING
    table.wait(SPEAKER_GRACE_NS / 1e9)
    check_all(table.events)
    assert done(table.events).speakers == 2
    assert len(of_type(Degraded, table.events)) == 1
    table.answer_held()
    assert table.events[-1] == done(table.events)


def test_a_session_that_waits_for_its_reader_does_not_wake_for_a_deadline_again() -> None:
    table = desk()
    table.is_storing = False
    table.play(conversation())
    table.holds = lambda job: job.kind in (JobKind.OBSERVE, JobKind.CLUSTER)
    table.end()
    table.wait(20)
    assert table.session.state is SessionState.ENDING
    assert table.session.deadline_ns is None
    table.is_storing = True
    table.settle()
    check_all(table.events)


GARBAGE = Hypothesis(
    words=(
        Word("late", Span(10**9, 10**9 + 5), float("nan")),
        Word("\ud800half", Span(5_000, 9_000), float("inf")),
        Word("x" * 10_000_000, Span(3_000, 4_000), -3.0),
        Word("first\x00\n", Span(0, 10**12)),
        Word(" ", Span(1, 2)),
    ),
    language="\udfff" * 10**6,
    language_probability=float("nan"),
    tokens=(1,) * 10**6,
)


def test_garbage_of_an_engine_never_reaches_the_events() -> None:
    changes = lambda job, answers: [GARBAGE] if job.kind is JobKind.RECOGNIZE else answers  # noqa: E731
    table = desk(engines=Engines(changes=changes), windows=WindowOptions(cap_ms=3_000))
    table.play(conversation(words=30))
    events = table.end()
    check_all(events)
    assert of_type(Final, events)
    assert of_type(LanguageDetected, events) == []


# Language


def test_the_language_is_detected_once_before_the_first_final_and_then_asked_for() -> None:
    table = desk()
    table.play(conversation())
    events = table.end()
    (found,) = of_type(LanguageDetected, events)
    assert (found.seq, found.language) == (1, "en")
    assert [job.questions[0].language for job in finals_asked(table)] == [None, "en"]  # type: ignore[union-attr]


def finals_asked(table: Desk) -> list[Job]:
    return [j for j in table.engines.asked if j.kind is JobKind.RECOGNIZE and j.is_final]


def test_a_given_language_is_asked_for_from_the_start_and_may_be_changed() -> None:
    table = desk(GERMAN)
    table.play(speech(range(3)))
    table.session.configure(Configure(language="fr", prompt="names", keywords=["a"]))
    table.session.configure(Configure())
    events = table.end()
    assert of_type(LanguageDetected, events) == []
    question = finals_asked(table)[-1].questions[0]
    assert (question.language, question.prompt, question.keywords) == ("fr", "names", ("a",))  # type: ignore[union-attr]
    table.session.configure(Configure(keywords=None))
    assert table.session.speech.keywords == ()


# Lanes


def test_lanes_share_one_series_of_names_and_never_words() -> None:
    lanes = [speech(range(6), stream=i, speaker=i) for i in range(4)]
    start, audio = channels(*lanes, names=[None, "S1", None, "Alice"])
    table = desk(start)
    table.play(audio, packet_ms=150)
    events = table.end()
    check_all(events)
    check_speakers(events, [None, "S1", None, "Alice"])
    for lane in range(4):
        assert words_of(events, lane) == word_texts(range(6), stream=lane)
    speakers = {name for names in speakers_of(events).values() for name in names}
    assert speakers == {"S1", "Alice", "S2", "S3"}
    assert done(events).speakers == 4


def test_what_is_not_offered_is_refused_with_advice() -> None:
    with pytest.raises(UnsupportedOption, match="1 names for 2 channels"):
        new_session(Start(audio=AudioFormat(channels=2, channel_names=["A"])))


# Store, acks, credit


def test_nothing_durable_is_seen_before_it_is_stored() -> None:
    table = desk()
    table.is_storing = False
    table.play(conversation())
    assert all(isinstance(event, PassingEvent) for event in table.events)
    assert all(event.after_seq == 0 for event in table.events if isinstance(event, PassingEvent))
    assert table.session.stored_through_frame == 0
    table.is_storing = True
    check_all(table.end())


def test_acks_only_cover_what_is_stored_and_only_go_up() -> None:
    table = desk()
    table.play(conversation(words=60))
    table.end()
    stored = [ack.stored_through_frame for ack in table.acks]
    assert stored == sorted(stored)
    assert stored[-1] > 20 * SAMPLE_RATE_HZ
    credit = [ack.credit_until_frame for ack in table.acks]
    assert credit == sorted(credit)
    assert len(table.acks) < 60, "an ack is worth a second of audio"


def test_audio_beyond_the_credit_is_refused_and_none_of_it_taken() -> None:
    table = desk(buffer_samples=SAMPLE_RATE_HZ)
    table.holds = lambda job: True
    credit = table.session.credit_until_frame
    assert credit == SAMPLE_RATE_HZ
    table.send(silence(1.0).tobytes())
    with pytest.raises(TooFast, match="beyond frame 16000"):
        table.send(b"\0\0")
    assert table.session.frames_received == SAMPLE_RATE_HZ
    assert table.session.credit_until_frame == credit
    table.holds = lambda job: False
    table.answer_held()
    table.send(silence(0.5).tobytes())
    assert table.session.credit_until_frame > credit


def test_a_store_that_takes_nothing_stops_the_audio_before_memory_is_full() -> None:
    table = desk(buffer_samples=30 * SAMPLE_RATE_HZ)
    table.is_storing = False
    lively = np.concatenate([conversation(words=2, pause_s=0.7)] * 20)
    endless = np.concatenate([lively] * 40)
    with pytest.raises(TooFast):
        table.play(endless, packet_ms=1_000)
    assert not table.durable
    table.is_storing = True
    table.settle()
    table.play(lively, packet_ms=1_000)
    table.end()
    assert [event.seq for event in table.durable] == list(range(1, len(table.durable) + 1))
    assert isinstance(table.durable[-1], Done)


def test_credit_counts_frames_of_the_clients_own_rate() -> None:
    table = desk(Start(audio=AudioFormat(sample_rate=8_000)))
    assert table.session.credit_until_frame == 120 * 8_000
    table.send(np.zeros(8_000, np.int16).tobytes())
    assert table.session.frames_received == 8_000
    table.end()
    assert done(table.events).audio_seconds == 1.0


# Time


def test_without_audio_for_a_second_the_utterance_is_closed() -> None:
    table = desk()
    table.play(speech(range(3)))
    table.wait(0.999)
    assert table.texts == []
    table.wait(0.001)
    assert words_of(table.events) == word_texts(range(3))
    assert table.session.deadline_ns is None, "nothing is open"
    table.play(speech(range(3, 6)))
    events = table.end()
    check_all(events)
    assert words_of(events) == word_texts(range(6))


def test_a_deadline_that_has_not_come_changes_nothing() -> None:
    table = desk()
    table.session.handle_deadline(10**18)
    table.play(speech(range(3)))
    table.session.handle_deadline(table.now_ns)
    table.settle()
    assert table.texts == []


def test_while_nobody_is_connected_time_stands_still() -> None:
    table = desk()
    table.play(speech(range(3))[:-5_000])
    table.session.detach()
    assert table.session.deadline_ns is None
    table.wait(60)
    assert table.texts == []
    table.session.attach(table.now_ns, 0)
    table.play(np.concatenate([speech(range(3))[-5_000:], speech(range(3, 5))]))
    events = table.end()
    check_all(events)
    assert words_of(events) == word_texts(range(5))


def test_a_flush_closes_the_utterance_at_once() -> None:
    table = desk()
    table.play(speech(range(3)))
    table.session.flush()
    table.settle()
    assert words_of(table.events) == word_texts(range(3))
    table.session.flush()
    table.settle()
    check_all(table.end())


def test_a_mute_of_twenty_seconds_keeps_the_times_true() -> None:
    table = desk()
    table.play(speech(range(3)))
    table.session.skip(20_000, table.now_ns)
    table.play(speech(range(3, 6)))
    events = table.end()
    check_all(events)
    starts = [word.span.start for final in of_type(Final, events) for word in final.words]
    assert starts == [i * 5_120 + (320_000 if i >= 3 else 0) for i in range(6)]
    assert done(events).audio_seconds == 20 + 6 * 0.32
    assert done(events).silent_seconds >= 20


def test_a_pause_commits_everything_received() -> None:
    table = desk()
    table.play(speech(range(3)))
    table.send(b"\1")
    assert not table.session.is_quiet
    table.session.pause()
    table.settle()
    assert table.session.is_quiet
    assert words_of(table.events) == word_texts(range(3))
    table.end()
    before = len(table.events)
    table.session.pause()
    table.settle()
    assert len(table.events) == before


def test_captions_that_fall_behind_are_told_of_and_so_is_catching_up() -> None:
    table = desk()
    table.holds = lambda job: job.kind is JobKind.RECOGNIZE
    table.play(conversation(words=40))
    assert table.session.backlog_samples > 10 * SAMPLE_RATE_HZ
    assert table.session.backlog(0).samples == table.session.backlog_samples
    while table.held:
        table.answer_held()
    behind = of_type(Lag, table.events)
    assert behind
    assert behind[0].seconds > 10
    table.holds = lambda job: False
    table.play(conversation(words=4))
    assert of_type(Lag, table.events)[-1].seconds == 0.0
    assert table.session.backlog_samples < SAMPLE_RATE_HZ


# The end


def test_the_end_may_be_said_twice_and_nothing_comes_after_it() -> None:
    table = desk()
    table.play(conversation())
    table.end()
    events = list(table.end())
    check_all(events)
    with pytest.raises(OutOfOrder, match="audio after end"):
        table.send(b"\0\0")
    with pytest.raises(OutOfOrder, match="skip after end"):
        table.session.skip(5, table.now_ns)
    table.session.flush()
    table.settle()
    assert table.events == events
    assert table.session.deadline_ns is None
    assert not table.session.is_waiting_for_reader


def test_an_answer_after_the_last_event_is_dropped_however_late() -> None:
    table = desk()
    table.holds = lambda job: job.kind is JobKind.RECOGNIZE and not job.is_final
    table.play(conversation())
    events = list(table.end())
    assert table.held
    table.now_ns += 60_000_000_000
    table.answer_held()
    assert table.events == events
    assert table.session.stats.superseded_results >= 1


def test_a_session_without_audio_ends_too() -> None:
    events = desk().end()
    check_all(events)
    assert done(events).audio_seconds == 0


def test_a_dangling_byte_is_told_of_and_the_session_finishes() -> None:
    table = desk()
    table.play(speech(range(3)))
    table.send(b"\1")
    with pytest.raises(BadAudio, match="1 of 2 bytes"):
        table.end()
    table.settle()
    check_all(table.events)
    assert words_of(table.events) == word_texts(range(3))


def test_where_nobody_hears_a_dangling_byte_is_dropped_quietly() -> None:
    table = desk()
    table.play(speech(range(3)))
    table.send(b"\1")
    table.session.end_of_audio_quietly(table.now_ns)
    table.settle()
    check_all(table.events)


def test_the_closing_event_waits_until_its_reader_has_the_rest() -> None:
    table = desk()
    table.is_reading = False
    table.play(conversation())
    table.end()
    assert table.session.is_waiting_for_reader
    assert not table.session.is_read
    table.is_reading = True
    table.settle()
    assert table.session.state is SessionState.DONE
    assert done(table.events).final_latency_s.p50 is not None


def test_a_session_that_nobody_reads_ends_too() -> None:
    table = desk()
    table.play(conversation())
    table.session.detach()
    table.session.attach(table.now_ns, 0)
    table.session.detach()
    table.end()
    assert table.session.state is SessionState.DONE


def test_words_that_a_new_connection_reads_again_are_timed_once() -> None:
    table = desk()
    table.play(conversation())
    count = table.session.stats.final_latency.count
    assert count == 12
    table.session.detach()
    table.session.attach(table.now_ns, 0)
    for event in table.session.log.cursor(0).read(1_000):
        table.session.note_written(event, table.now_ns + 60_000 * MS)
    assert table.session.stats.final_latency.count == count
    assert table.session.is_read


def test_what_is_silent_is_known_while_the_session_runs() -> None:
    table = desk()
    table.play(np.concatenate([silence(2), speech(range(3))]))
    assert table.session.silent_samples > SAMPLE_RATE_HZ
