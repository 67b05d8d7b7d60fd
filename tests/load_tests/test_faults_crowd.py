"""The account of what a crowd heard: each kind of mistake is seen, and nothing else is."""

from collections.abc import Callable

import pytest

from load_tests.faults.crowd import Heard, Tally
from load_tests.oracle import FinalWord
from load_tests.workload import CANONICAL, plan_stream
from streaming.events import CaptionWord, Final, Gap, GapReason
from streaming.timeline import SAMPLE_RATE_HZ, Span

PLANS = [plan_stream(CANONICAL, stream, seconds=20, seed=1) for stream in (1, 2)]


def heard(stream: int = 1) -> Heard:
    """A session in which all went well."""
    plan = PLANS[stream - 1]
    finals = [FinalWord(word.text, word.start / SAMPLE_RATE_HZ, 0.0) for word in plan.words]
    return Heard(plan, finals=finals, connections=3, failure=None)


def test_all_words_once_and_in_place_are_clean() -> None:
    tally = Tally.of([heard(1), heard(2)])
    assert tally.is_clean
    assert (tally.sessions, tally.resumes) == (2, 4)
    assert tally.words == sum(len(plan.words) for plan in PLANS)


def test_a_word_that_was_dropped_from_the_finals_is_lost() -> None:
    robbed = heard()
    del robbed.finals[3]
    tally = Tally.of([robbed, heard(2)])
    assert tally.mistakes.lost == 1
    assert (tally.mistakes.doubled, tally.misplaced) == (0, 0)
    assert not tally.is_clean


def test_a_word_that_came_again_is_doubled() -> None:
    twice = heard()
    twice.finals.append(twice.finals[-1])
    tally = Tally.of([twice])
    assert (tally.mistakes.lost, tally.mistakes.doubled) == (0, 1)
    assert not tally.is_clean


def test_a_session_in_which_words_went_wrong_is_named_with_them() -> None:
    robbed, twice = heard(1), heard(2)
    gone, again = robbed.finals.pop(3), twice.finals[-1]
    twice.finals.append(again)
    tally = Tally.of([robbed, twice, heard(1)])
    assert len(tally.damages) == 2
    assert f"lost ['{gone.text} at " in tally.damages[0]
    assert f"doubled ['{again.text}']" in tally.damages[1]


@pytest.mark.parametrize(
    ("gone", "stalls", "cut"),
    [
        (range(3, 4), [(9.0, 9.6)], 1),
        (range(3, 4), [], 0),
        (range(3, 4), [(2.0, 2.9), (10.1, 10.9)], 0),
        (range(3, 5), [(9.0, 9.6)], 0),
        (range(1), [(9.0, 9.6)], 0),
    ],
)
def test_a_word_is_cut_only_where_its_talker_stood_still_around_it(
    gone: range, stalls: list[tuple[float, float]], cut: int
) -> None:
    """All that came before the missing words came at 5 s, all the rest at 10 s."""
    plan = PLANS[0]
    one = Heard(plan, stalls, failure=None)
    one.finals = [
        FinalWord(word.text, word.start / SAMPLE_RATE_HZ, 5.0 if number < gone.start else 10.0)
        for number, word in enumerate(plan.words)
        if number not in gone
    ]
    tally = Tally.of([one])
    assert (tally.cut, tally.mistakes.lost) == (cut, len(gone) - cut)
    assert tally.is_clean == (tally.mistakes.lost == 0)
    assert bool(tally.damages) == (not tally.is_clean)


def exchange_two(finals: list[FinalWord]) -> None:
    finals[3], finals[4] = finals[4], finals[3]


def come_from_another(finals: list[FinalWord]) -> None:
    finals.append(heard(2).finals[0])


def come_from_nobody(finals: list[FinalWord]) -> None:
    finals.append(FinalWord("hello", 1.0, 0.0))


def be_late(finals: list[FinalWord]) -> None:
    finals[0] = FinalWord(finals[0].text, finals[0].start_s + 0.1, 0.0)


@pytest.mark.parametrize("spoil", [exchange_two, come_from_another, come_from_nobody, be_late])
def test_words_in_the_wrong_place_are_counted(spoil: Callable[[list[FinalWord]], None]) -> None:
    spoiled = heard()
    spoil(spoiled.finals)
    tally = Tally.of([spoiled])
    assert tally.misplaced == 1
    assert (tally.mistakes.lost, tally.mistakes.doubled) == (0, 0)
    assert not tally.is_clean


def test_a_session_that_did_not_end_is_named() -> None:
    stuck = heard(2)
    stuck.failure = "not finished in time"
    tally = Tally.of([heard(), stuck])
    assert tally.failures == ("stream 2: not finished in time",)
    assert not tally.is_clean


def test_nothing_said_proves_nothing() -> None:
    assert not Tally.of([]).is_clean


def gap(seq: int) -> Gap:
    return Gap(seq, 0, Span(0, 1), GapReason.ENGINE_FAILED)


def test_events_out_of_turn_and_gaps_are_counted() -> None:
    one = heard()
    for seq in (1, 2, 2, 5, 6):
        one.note_event(gap(seq))
    tally = Tally.of([one])
    assert (tally.broken_seqs, tally.gaps) == (2, 5)
    assert not tally.is_clean


def test_messages_are_counted_by_kind() -> None:
    one = heard()
    one.connections = 0
    ready = '{"type":"ready","session_id":"s1","seq":4,"resume_from_frame":99}'
    for text in (ready, '{"type":"error","code":"internal"}', '{"type":"ack"}'):
        one.note_message(text)
    assert one.connections == 1
    assert (one.session_id, one.places) == ("s1", [(4, 99)])
    assert Tally.of([one]).errors == {"internal": 1}


def test_a_final_is_taken_word_by_word() -> None:
    said = PLANS[0].words[0]
    one = Heard(PLANS[0])
    span = Span(said.start, said.end)
    word = CaptionWord(said.text, span, None, None)
    one.note_event(Final(1, "c1", 0, span, said.text, None, None, None, (word,)))
    assert [(word.text, word.start_s) for word in one.finals] == [
        (said.text, said.start / SAMPLE_RATE_HZ)
    ]
    assert one.mistakes.lost == len(one.plan.words) - 1
    assert one.mistakes.mistimed == 0
