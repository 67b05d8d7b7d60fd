"""Captions without their diarizer: how delays, words and speakers of the scenes are judged."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from load_tests.faults import diarizer
from load_tests.faults.diarizer import (
    BACK_SECONDS_MAX,
    CALM,
    KILLED,
    LATE,
    Account,
    Effort,
    Round,
    SceneFigures,
    main,
    parse,
    report,
    servers,
    talk_and_kill,
)
from load_tests.oracle import Mistakes
from load_tests.workload import CANONICAL, PlannedWord, plan_stream
from server.child import run_with_server
from streaming.events import CaptionWord, Final, Gap, GapReason, Partial, Revision
from streaming.events import SpeakerRun as Run
from streaming.timeline import SAMPLE_RATE_HZ, Span

PLAN = plan_stream(CANONICAL, 1, seconds=20, seed=1)
"""Two people, several utterances."""
PERSON_OF = {word.text: word.speaker for word in PLAN.words}


def name_of(word: PlannedWord) -> str:
    return f"S{word.speaker + 1}"


def final_of(seq: int, words: list[PlannedWord], *, is_named: bool) -> Final:
    span = Span(words[0].start, words[-1].end)
    told = tuple(
        CaptionWord(w.text, Span(w.start, w.end), 1.0, name_of(w) if is_named else None)
        for w in words
    )
    return Final(seq, f"c{seq}", 0, span, "text", "en", 1.0, None, told)


def utterances() -> list[list[PlannedWord]]:
    ends = dict.fromkeys(word.utterance_end for word in PLAN.words)
    return [[word for word in PLAN.words if word.utterance_end == end] for end in ends]


def revision_of(seq: int, final: Final, speaker: str | None) -> Revision:
    return Revision(seq, final.caption_id, 1, (Run(0, len(final.words), speaker),))


def account(*, late_names: bool = True, delay_s: float = 1.0) -> Account:
    """Every final came ``delay_s`` after its utterance, each word was shown in half of that."""
    one = Account(PLAN, connections=1, failure=None)
    for number in range(1, PLAN.packets + 1):
        end = number * PLAN.packet_samples
        one.sent.packet_sent(end, end / SAMPLE_RATE_HZ)
    for seq, words in enumerate(utterances(), 1):
        final = final_of(seq, words, is_named=not late_names)
        for word in words:
            heard = replace(final, words=(CaptionWord(word.text, final.span, 1.0, None),))
            shown_s = -(-word.end // PLAN.packet_samples) * 0.1 + delay_s / 2
            one.note(Partial(0, "c", 0, final.span, "", 0, None, heard.words), shown_s)
        at_s = -(-final.span.end // PLAN.packet_samples) * 0.1 + delay_s
        one.note(final, at_s)
        if late_names:
            one.note(revision_of(seq, final, name_of(words[0])), at_s + 60)
    return one


def scene(name: str, *accounts: Account) -> SceneFigures:
    restarts = 3.0 if name == KILLED else 0.0
    return SceneFigures(name, (Round(accounts or (account(),), restarts),))


CALM_SCENE = scene(CALM, account(late_names=False))


def test_speakers_that_come_by_a_revision_are_counted() -> None:
    one = account()
    assert one.is_named
    assert len(one.revised) == one.named == one.named_right == len(PLAN.words)
    assert not account(late_names=False).revised


def test_delays_count_from_the_packet_that_held_the_word() -> None:
    one = account(delay_s=2.0)
    assert {round(s, 6) for s in one.delays_s(of_finals=True)} == {2.0}
    assert {round(s, 6) for s in one.delays_s(of_finals=False)} == {1.0}


def test_one_name_for_two_people_is_wrong_for_one_of_them() -> None:
    one = account()
    for text in one.speaker_of:
        one.speaker_of[text] = "S1"
    most = max(sum(p == person for p in PERSON_OF.values()) for person in (0, 1))
    assert one.named_right == most < len(PLAN.words)


def test_a_word_that_was_said_alone_need_not_have_a_speaker() -> None:
    lone = replace(PLAN.words[0], text="lone", utterance_end=PLAN.words[0].end)
    one = account()
    one.plan = replace(PLAN, words=(lone, *PLAN.words[1:]))
    assert one.is_named
    one.speaker_of[PLAN.words[1].text] = None
    assert not one.is_named


def test_bounds_that_are_met() -> None:
    lines, is_met = report([CALM_SCENE, scene(KILLED), scene(LATE)])
    assert is_met
    assert [line.partition(":")[0] for line in lines] == [CALM, KILLED, LATE]
    words = len(PLAN.words)
    assert f"speakers of {words} words in the end, {words} of them by a revision" in lines[2]
    assert "final after 1.000 s (1.00 times calm)" in lines[1]


def lose_a_word(one: Account) -> None:
    one.finals.pop()


def tell_a_gap(one: Account) -> None:
    one.note(Gap(9, 0, Span(0, 1), GapReason.ENGINE_FAILED), 0.0)


def close(one: Account) -> None:
    one.failure = "the connection was lost"


def resume(one: Account) -> None:
    one.connections = 2


def name_nobody(one: Account) -> None:
    one.revised.clear()
    one.speaker_of = dict.fromkeys(one.speaker_of)


def name_in_time(one: Account) -> None:
    one.revised.clear()


def mix_up(one: Account) -> None:
    one.speaker_of = dict.fromkeys(one.speaker_of, "S1")


@pytest.mark.parametrize(
    ("spoil", "fault"),
    [
        (lose_a_word, "words went wrong in 1 sessions"),
        (tell_a_gap, "words went wrong in 1 sessions"),
        (close, "good order: the connection was lost"),
        (resume, "good order: more than one connection"),
        (name_nobody, "in 1 sessions words have no speaker"),
        (name_in_time, "no speaker came by a revision"),
        (mix_up, "have a wrong speaker"),
    ],
)
def test_whatever_is_wrong_is_named(spoil: Callable[[Account], None], fault: str) -> None:
    one = account()
    spoil(one)
    lines, is_met = report([CALM_SCENE, scene(LATE, one)])
    assert not is_met
    assert any(line.startswith(f"FAILED {LATE}: ") and fault in line for line in lines)


def test_text_that_comes_later_than_in_calm_is_named() -> None:
    lines, is_met = report([CALM_SCENE, scene(LATE, account(delay_s=1.2))])
    assert not is_met
    assert [line for line in lines if "FAILED" in line] == [
        "FAILED late: first shown after 0.600 s, in calm after 0.500 s",
        "FAILED late: final after 1.200 s, in calm after 1.000 s",
    ]


def test_a_round_in_which_nothing_was_killed_or_said_proves_nothing() -> None:
    untouched = SceneFigures(KILLED, (Round((account(),)),))
    assert list(untouched.faults()) == ["nothing was killed"]
    silent = SceneFigures(CALM, (Round(()),))
    assert "nobody talked" in silent.faults()
    assert not report([silent])[1]


def test_arguments() -> None:
    effort = parse(["--rounds", "2", "--late-s", "6", "--talk-s", "8"])
    assert effort == Effort(2, 3, 8.0, 6.0, 1)
    assert effort.hold_s(LATE) == 48
    assert effort.hold_s(KILLED) == effort.hold_s(CALM) == BACK_SECONDS_MAX
    for words in (["--rounds", "0"], ["--talk-s", "1"], ["--late-s", "0"]):
        with pytest.raises(SystemExit) as stopped:
            parse(words)
        assert stopped.value.code == 2


@pytest.mark.parametrize(("late_names", "status"), [(True, 0), (False, 1)])
def test_the_status_says_whether_the_bounds_are_met(
    late_names: bool, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def measure(effort: Effort) -> list[SceneFigures]:
        assert effort.rounds == 3
        return [CALM_SCENE, scene(KILLED), scene(LATE, account(late_names=late_names))]

    monkeypatch.setattr(diarizer, "measure", measure)
    assert main([]) == status


@pytest.mark.slow
def test_a_signal_kills_the_diarizers_process_and_no_word() -> None:
    async def kill() -> Round:
        effort = Effort(rounds=1, sessions=1, talk_s=5.0, late_s=1.0, seed=1)
        async with servers(effort, only=[KILLED]) as children:
            return await talk_and_kill(children[KILLED], effort)

    found = run_with_server(kill())
    assert found.restarts > 0
    [one] = found.accounts
    assert (one.mistakes, one.gaps, one.failure, one.connections) == (Mistakes(), 0, None, 1)
