"""Metrics of cases that are written by hand, whose right answers can be counted on fingers."""

from collections.abc import Sequence

import pytest

from server.evaluation.heard import Heard
from server.evaluation.score import Scores, score
from server.evaluation.speaker_words import (
    Attribution,
    attribution,
    cp_errors,
    hypothesis_words,
    reference_words,
    tcp_errors,
)
from server.evaluation.truth import Truth
from streaming.timeline import samples_from_seconds
from tests.evaluations import RECORDING, SaidWord, done, final, heard_of, revision, said, truth_of

FIRST = said("the budget is open now", 0.0, "Ann")
SECOND = said("we close it on monday", 4.0, "Bob")
TRUTH = truth_of([*FIRST, *SECOND])


def scored(truth: Truth, heard: Heard) -> Scores:
    return score(RECORDING, truth, heard)


def by(words: Sequence[SaidWord], speaker: str | None) -> list[SaidWord]:
    """The same words as heard from one speaker."""
    return [(text, start, end, speaker) for text, start, end, _ in words]


PERFECT = heard_of(by(FIRST, "S1"), by(SECOND, "S2"))


def test_a_perfect_answer_has_no_errors_whatever_speakers_are_called() -> None:
    scores = scored(TRUTH, PERFECT)
    assert scores.text is not None
    assert scores.turns is not None
    assert scores.speaker_text is not None
    assert (scores.text.words.rate, scores.text.characters.rate) == (0, 0)
    assert (scores.turns.der, scores.turns.jer) == (0, 0)
    assert (scores.speaker_text.cp.rate, scores.speaker_text.tcp.rate) == (0, 0)
    assert scores.speaker_text.attribution == Attribution(right=10, recognized=10)


def test_case_and_punctuation_do_not_count() -> None:
    words = [("The", 0.0, 0.5, "S1"), ("budget,", 0.5, 1.0, "S1"), ("is", 1.0, 1.5, "S1")]
    words += [("OPEN", 1.5, 2.0, "S1"), ("now!", 2.0, 2.5, "S1")]
    scores = scored(truth_of(FIRST), heard_of(words))
    assert scores.text is not None
    assert scores.text.words.rate == 0
    assert scores.text.characters.rate == 0


def test_a_turn_that_is_shifted_by_half_a_second_is_missed_and_falsely_heard_for_that_time() -> (
    None
):
    shifted = [(text, start + 0.5, end + 0.5, "S2") for text, start, end, _ in SECOND]
    turns = scored(TRUTH, heard_of(by(FIRST, "S1"), shifted)).turns
    assert turns is not None
    assert turns.speech_s == 5.0
    assert (turns.missed_s, turns.false_alarm_s, turns.confused_s) == (0.5, 0.5, 0.0)
    assert turns.der == 0.2
    # Ann is whole; of Bob 2.0 s of 3.0 s in all are common.
    assert turns.jer == pytest.approx((0 + 1 / 3) / 2, abs=1e-4)


def test_a_swapped_speaker_costs_cpwer_twice_and_wer_nothing() -> None:
    third = said("yes i will", 8.0, "Ann")
    truth = truth_of([*FIRST, *SECOND, *third])
    scores = scored(truth, heard_of(by(FIRST, "S1"), by(SECOND, "S2"), by(third, "S2")))
    assert scores.text is not None
    assert scores.speaker_text is not None
    assert scores.turns is not None
    assert scores.text.words.rate == 0
    # Three words are missing from Ann and too many for Bob.
    assert scores.speaker_text.cp.errors == 6
    assert scores.speaker_text.tcp.errors == 6
    assert scores.speaker_text.attribution == Attribution(right=10, recognized=13)
    assert (scores.turns.confused_s, scores.turns.missed_s) == (1.5, 0.0)


def test_a_doubled_word_is_one_insertion() -> None:
    doubled = [*by(FIRST, "S1"), ("now", 2.5, 3.0, "S1")]
    scores = scored(TRUTH, heard_of(doubled, by(SECOND, "S2")))
    assert scores.text is not None
    assert scores.speaker_text is not None
    assert scores.text.words.insertions == 1
    assert scores.text.words.rate == 0.1
    assert scores.speaker_text.cp.rate == 0.1
    assert scores.speaker_text.attribution.rate == 1


def test_an_empty_hypothesis_misses_everything() -> None:
    scores = scored(TRUTH, heard_of())
    assert scores.text is not None
    assert scores.speaker_text is not None
    assert scores.turns is not None
    assert (scores.text.words.deletions, scores.text.words.rate) == (10, 1)
    assert scores.text.characters.rate == 1
    assert (scores.speaker_text.cp.rate, scores.speaker_text.tcp.rate) == (1, 1)
    assert (scores.turns.der, scores.turns.missed_s, scores.turns.jer) == (1, 5.0, 1)
    # No word was recognized, so nobody knows whether its speaker would have been right.
    assert scores.speaker_text.attribution.rate is None


def test_words_where_nobody_speaks_are_insertions_without_a_rate() -> None:
    scores = scored(Truth("", (), ()), heard_of(by(FIRST, "S1")))
    assert scores.text is not None
    assert scores.speaker_text is not None
    assert scores.turns is not None
    assert (scores.text.words.insertions, scores.text.words.rate) == (5, None)
    assert (scores.speaker_text.cp.errors, scores.speaker_text.cp.rate) == (5, None)
    assert (scores.turns.false_alarm_s, scores.turns.der) == (2.5, None)


def test_overlap_that_is_given_to_one_speaker_is_missed_for_the_other() -> None:
    over = said("no not yet please wait", 1.5, "Bob")
    truth = truth_of([*FIRST, *over])
    heard = heard_of(by(FIRST, "S1"), by([w for w in over if w[1] >= 2.5], "S2"))
    turns = scored(truth, heard).turns
    assert turns is not None
    assert turns.speech_s == 5.0, "overlapped seconds count for each speaker"
    assert (turns.missed_s, turns.false_alarm_s, turns.confused_s) == (1.0, 0.0, 0.0)


def test_both_speakers_of_an_overlap_can_be_right() -> None:
    over = said("no not yet please wait", 1.5, "Bob")
    scores = scored(truth_of([*FIRST, *over]), heard_of(by(FIRST, "S1"), by(over, "S2")))
    assert scores.turns is not None
    assert scores.speaker_text is not None
    assert scores.turns.der == 0
    assert scores.speaker_text.cp.rate == 0
    assert scores.speaker_text.attribution.rate == 1


def test_words_of_no_length_count_as_words_and_as_no_speech() -> None:
    points = [(text, end, end, "S1") for text, _, end, _ in FIRST]
    scores = scored(truth_of(FIRST), heard_of(points))
    assert scores.text is not None
    assert scores.speaker_text is not None
    assert scores.turns is not None
    assert scores.text.words.rate == 0
    assert (scores.speaker_text.cp.rate, scores.speaker_text.tcp.rate) == (0, 0)
    # Pauses below half a second are bridged: from the first word's end to the last one's.
    assert scores.turns.missed_s == pytest.approx(0.5)


def test_words_far_from_where_they_were_said_are_wrong_for_tcpwer_alone() -> None:
    late = [(text, start + 20, end + 20, "S1") for text, start, end, _ in FIRST]
    speaker_text = scored(truth_of(FIRST), heard_of(late)).speaker_text
    assert speaker_text is not None
    assert speaker_text.cp.rate == 0
    assert speaker_text.tcp.rate == 2, "all deleted, and all inserted elsewhere"


def test_words_of_nobody_are_a_speaker_for_cpwer_and_wrong_for_attribution() -> None:
    reference = reference_words(TRUTH.segments or ())
    heard = heard_of(by(FIRST, "S1"), by(SECOND, None))
    hypothesis = hypothesis_words(heard.words)
    assert cp_errors(reference, hypothesis).errors == 0
    assert tcp_errors(reference, hypothesis).errors == 0
    assert attribution(reference, hypothesis) == Attribution(right=5, recognized=10)


def test_first_labels_are_those_that_each_word_was_given_first() -> None:
    heard = Heard(engines={"diarizer": "d"})
    heard.receive(final(1, by(FIRST, "S1")), 1.0)
    heard.receive(final(2, by(SECOND, None)), 2.0)
    heard.receive(revision(3, "c2", 1, (0, 5, "S1")), 3.0)  # the first label: wrong
    heard.receive(revision(4, "c2", 2, (0, 5, "S2")), 4.5)  # corrected
    heard.receive(done(5, 10), 5.0)
    scores = scored(TRUTH, heard)
    assert scores.turns is not None
    assert scores.turns_first_label is not None
    assert scores.turns.der == 0
    assert (scores.turns_first_label.der, scores.turns_first_label.confused_s) == (0.5, 2.5)
    assert scores.revisions == 2
    assert scores.timing.revision_ages_s == (1.0, 2.5)


def test_whisper_normalization_makes_one_number_of_spoken_digits() -> None:
    truth = truth_of(said("number four zero seven", 0, "Ann"))
    text = scored(truth, heard_of(by(said("Number 407.", 0, "S1"), "S1"))).text
    assert text is not None
    assert text.words.rate == 0.75
    assert text.words_whisper_norm.rate == 0


def test_without_a_kind_of_truth_its_metrics_are_unknown() -> None:
    scores = scored(Truth(), PERFECT)
    assert (scores.text, scores.speaker_text, scores.turns, scores.turns_first_label) == (None,) * 4
    only_turns = scored(Truth(turns=TRUTH.turns), PERFECT)
    assert only_turns.turns is not None
    assert (only_turns.text, only_turns.speaker_text) == (None, None)


def test_without_a_diarizer_speaker_metrics_are_unknown() -> None:
    heard = heard_of(by(FIRST, None), by(SECOND, None))
    heard.engines = {"asr": "a"}
    scores = scored(TRUTH, heard)
    assert scores.text is not None
    assert (scores.speakers, scores.speaker_text, scores.turns) == (None, None, None)


def test_delays_count_from_the_packet_that_carried_the_word() -> None:
    heard = Heard(engines={"asr": "a"})
    assert heard.delays is not None
    for packet in range(1, 11):
        heard.delays.sent.packet_sent(samples_from_seconds(packet * 0.5), packet * 0.5)
    heard.receive(final(1, by(FIRST, "S1")), 3.5)
    heard.receive(done(2, 5), 4.0)
    timing = scored(TRUTH, heard).timing
    assert timing.final_s == pytest.approx((3.0, 2.5, 2.0, 1.5, 1.0))
    assert timing.first_shown_s == timing.final_s
