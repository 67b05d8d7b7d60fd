"""Global speakers keep their numbers, need evidence, and are known from a bounded store."""

from collections.abc import Sequence

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from streaming.clustering import (
    ITEMS_MAX,
    NEW_SPEAKER_SECONDS,
    RETAINED_MAX,
    RETAINED_RUN,
    Embedding,
    EvidenceItem,
    SpeakerEvidence,
    match_clusters,
)
from streaming.engines import ClusterQuestion, Clusters

ALICE = np.array([1, 0, 0], np.float32)
BOB = np.array([0, 1, 0], np.float32)
CAROL = np.array([0, 0, 1], np.float32)


def ask(evidence: SpeakerEvidence, *, is_last: bool = False) -> ClusterQuestion | None:
    return evidence.question(speakers_min=None, speakers_max=None, is_last=is_last)


def answer(evidence: SpeakerEvidence, labels: Sequence[int], *, is_last: bool = False) -> bool:
    assert ask(evidence, is_last=is_last) is not None
    return evidence.receive(Clusters(np.array(labels, np.int64)))


def add(evidence: SpeakerEvidence, *voices: Embedding, seconds: float = 5.0) -> list[EvidenceItem]:
    return [evidence.add(voice, seconds) for voice in voices]


def speakers(items: Sequence[EvidenceItem]) -> list[int | None]:
    return [item.speaker for item in items]


def test_nobody_is_named_before_the_first_answer() -> None:
    assert speakers(add(SpeakerEvidence(), ALICE, ALICE)) == [None, None]


def test_speakers_are_numbered_in_order_of_first_appearance() -> None:
    evidence = SpeakerEvidence()
    items = add(evidence, ALICE, BOB, ALICE, CAROL)
    assert answer(evidence, [2, 0, 2, 1])
    assert speakers(items) == [1, 2, 1, 3]


def test_numbers_survive_other_cluster_numbers() -> None:
    evidence = SpeakerEvidence()
    items = add(evidence, ALICE, BOB)
    answer(evidence, [0, 1])
    items += add(evidence, ALICE)
    answer(evidence, [1, 0, 1])
    assert speakers(items) == [1, 2, 1]


def test_new_evidence_is_provisionally_the_nearest_speakers_or_nobodys() -> None:
    evidence = SpeakerEvidence()
    add(evidence, ALICE, BOB)
    answer(evidence, [0, 1])
    assert speakers(add(evidence, BOB + 0.2 * ALICE, CAROL)) == [2, None]


def test_evidence_of_another_size_is_nobodys() -> None:
    """All that was known was provisional, and the diarizer gives other vectors now."""
    evidence = SpeakerEvidence()
    items = add(evidence, ALICE)
    answer(evidence, [0])
    evidence.forget(items)
    longer = np.eye(7, dtype=np.float32)[0]
    assert speakers(add(evidence, longer)) == [None]
    answer(evidence, [0])
    assert speakers(add(evidence, longer)) == [2]


def test_a_further_speaker_needs_evidence_while_the_session_runs() -> None:
    evidence = SpeakerEvidence()
    items = add(evidence, ALICE)
    answer(evidence, [0])
    items += add(evidence, BOB, seconds=NEW_SPEAKER_SECONDS / 2)
    answer(evidence, [0, 1])
    assert speakers(items) == [1, None]
    items += add(evidence, BOB, seconds=NEW_SPEAKER_SECONDS / 2)
    answer(evidence, [0, 1, 1])
    assert speakers(items) == [1, 2, 2]


def test_the_first_speaker_needs_none() -> None:
    evidence = SpeakerEvidence()
    items = add(evidence, ALICE, BOB, BOB, seconds=0.6)
    answer(evidence, [0, 1, 1])
    assert speakers(items) == [None, 1, 1]


def test_the_last_answer_is_taken_as_it_is() -> None:
    evidence = SpeakerEvidence()
    items = add(evidence, ALICE)
    answer(evidence, [0])
    items += add(evidence, BOB, seconds=0.6)
    assert answer(evidence, [0, 1], is_last=True)
    assert speakers(items) == [1, 2]


def test_evidence_that_came_after_the_last_question_gets_the_nearest_speaker() -> None:
    evidence = SpeakerEvidence()
    add(evidence, ALICE, BOB)
    assert ask(evidence, is_last=True) is not None
    late = add(evidence, CAROL)
    evidence.receive(Clusters(np.array([0, 1])))
    assert speakers(late) == [None]
    answer(evidence, [0, 1, 1], is_last=True)
    assert speakers(late) == [2]


def test_a_question_waits_for_a_tenth_of_new_evidence_and_for_the_answer() -> None:
    evidence = SpeakerEvidence()
    assert ask(evidence, is_last=True) is None
    add(evidence, *[ALICE] * 30)
    question = ask(evidence)
    assert question is not None
    assert question.embeddings.shape == (30, 3)
    assert question.weights_seconds.tolist() == [5.0] * 30
    assert evidence.is_asked
    add(evidence, ALICE)
    assert ask(evidence) is None
    evidence.receive(Clusters(np.zeros(30, np.int64)))
    assert not evidence.is_asked
    add(evidence, ALICE, ALICE)
    assert ask(evidence) is None
    add(evidence, ALICE)
    assert ask(evidence) is not None


def test_the_last_question_is_asked_once() -> None:
    evidence = SpeakerEvidence()
    add(evidence, ALICE)
    answer(evidence, [0])
    assert ask(evidence, is_last=True) is not None
    evidence.abandon_question()
    assert ask(evidence, is_last=True) is None
    add(evidence, ALICE)
    assert ask(evidence, is_last=True) is not None


def test_an_answer_that_does_not_fit_is_refused() -> None:
    evidence = SpeakerEvidence()
    assert not evidence.receive(Clusters(np.array([0])))
    items = add(evidence, ALICE, BOB)
    for labels in ([0], [0, -2], [0, 2]):
        assert not answer(evidence, labels)
        assert not evidence.is_asked
        items += add(evidence, ALICE)
        evidence.release(items[2:])
    assert speakers(items[:2]) == [None, None]


def test_only_comparable_embeddings_fit() -> None:
    evidence = SpeakerEvidence()
    assert evidence.fits(ALICE)
    assert not evidence.fits(np.zeros(3, np.float32))
    assert not evidence.fits(np.array([1, np.nan, 0], np.float32))
    add(evidence, ALICE)
    assert not evidence.fits(np.ones(4, np.float32))


def test_two_that_turn_out_to_be_one_keep_the_elders_number() -> None:
    labels = np.zeros(5, np.int64)
    assert match_clusters(labels, [1, 2, 2, 2, None], np.ones(5)) == {0: 1}


def test_an_elder_with_far_less_to_say_gives_way() -> None:
    labels = np.zeros(3, np.int64)
    assert match_clusters(labels, [1, 2, 2], np.array([0.1, 1.0, 1.0])) == {0: 2}


def test_one_that_turns_out_to_be_two_keeps_its_number_with_the_larger_part() -> None:
    labels = np.array([0, 1, 1, 1])
    assert match_clusters(labels, [1, 1, 1, 1], np.ones(4)) == {1: 1}


def test_the_part_that_was_heard_first_keeps_the_number_if_it_is_not_far_smaller() -> None:
    labels = np.array([0, 1, 1])
    seconds = np.array([0.5, 0.5, 0.5])
    assert match_clusters(labels, [1, 1, 1], seconds) == {0: 1}
    # Who was heard later does not take it away.
    assert match_clusters(labels[::-1], [1, 1, 1], seconds) == {1: 1}


def test_the_best_matching_is_not_the_greedy_one() -> None:
    # Cluster 0 shares most with speaker 1, but then speaker 2 would share nothing with cluster 1.
    labels = np.array([0, 0, 1])
    assert match_clusters(labels, [1, 2, 1], np.array([3.0, 2.0, 2.0])) == {0: 2, 1: 1}


@given(st.data(), st.integers(1, 30))
def test_renaming_clusters_renames_no_speaker(data: st.DataObject, count: int) -> None:
    labels = data.draw(st.lists(st.integers(0, 4), min_size=count, max_size=count))
    known = data.draw(st.lists(st.none() | st.integers(1, 5), min_size=count, max_size=count))
    # Distinct weights: no two matchings are equally good.
    seconds = np.array([2.0**-i for i in range(count)])
    other_names = data.draw(st.permutations(range(5)))
    renamed = np.array([other_names[label] for label in labels])
    names = match_clusters(np.array(labels), known, seconds)
    assert match_clusters(renamed, known, seconds) == {other_names[k]: v for k, v in names.items()}
    assert len(set(names.values())) == len(names)


def test_released_evidence_stays_bounded_and_keeps_every_voice() -> None:
    evidence = SpeakerEvidence()
    released = 0
    for _ in range(5):
        items = add(evidence, *[ALICE, ALICE, ALICE, BOB] * (ITEMS_MAX // 4))
        assert not evidence.has_room_for(1)
        assert ask(evidence) is not None
        asked = released + ITEMS_MAX
        evidence.receive(Clusters(np.zeros(asked, np.int64)))
        evidence.release(items)
        released = len(evidence)
        assert released <= RETAINED_MAX
    assert evidence.has_room_for(ITEMS_MAX)


def test_each_released_voice_keeps_an_even_choice_of_its_own() -> None:
    evidence = SpeakerEvidence()
    voices = [ALICE] * 2_000 + [BOB] * 300 + [CAROL] * 10
    items = add(evidence, *voices)
    answer(evidence, [0] * 2_000 + [1] * 300 + [2] * 10)
    evidence.release(items)
    question = ask(evidence, is_last=True)
    assert question is not None
    assert question.embeddings.sum(axis=0).tolist() == [320, 300, 10]


def test_what_the_engine_leaves_out_is_nobodys() -> None:
    """It shares a chunk with somebody who fits better: the nearest voice is not theirs."""
    evidence = SpeakerEvidence()
    items = add(evidence, ALICE, ALICE)
    assert answer(evidence, [0, -1])
    assert speakers(items) == [1, None]
    add(evidence, ALICE)
    assert answer(evidence, [-1, -1, -1])
    assert (evidence.order, speakers(items)) == ((), [None, None])


def test_evidence_can_be_taken_back() -> None:
    evidence = SpeakerEvidence()
    first, second = add(evidence, ALICE, BOB)
    evidence.forget([first])
    question = ask(evidence)
    assert question is not None
    assert question.embeddings.tolist() == [second.embedding.tolist()]


def test_evidence_is_asked_about_in_order_of_time() -> None:
    evidence = SpeakerEvidence()
    late, early = evidence.add(BOB, 5.0, start=9_000), evidence.add(ALICE, 5.0, start=0)
    question = ask(evidence)
    assert question is not None
    assert question.starts is not None
    assert question.starts.tolist() == [0, 9_000]
    assert question.embeddings[0].tolist() == ALICE.tolist()
    evidence.receive(Clusters(np.array([0, 1])))
    assert speakers([early, late]) == [1, 2]


def test_what_is_retained_lies_in_runs_of_neighbours() -> None:
    evidence = SpeakerEvidence()
    items = [evidence.add(ALICE, 5.0, start=i) for i in range(ITEMS_MAX)]
    answer(evidence, [0] * ITEMS_MAX)
    evidence.release(items)
    assert len(evidence) == RETAINED_MAX
    question = ask(evidence, is_last=True)
    assert question is not None
    assert question.starts is not None
    runs = question.starts.reshape(-1, RETAINED_RUN)
    assert (np.diff(runs, axis=1) == 1).all()
    assert runs[-1, -1] > ITEMS_MAX * 0.9


def test_unnamed_evidence_is_not_retained() -> None:
    evidence = SpeakerEvidence()
    evidence.release(add(evidence, ALICE, BOB))
    assert len(evidence) == 0


def test_more_speakers_than_can_be_retained_keep_the_newest() -> None:
    evidence = SpeakerEvidence()
    count = RETAINED_MAX + 20
    voices = np.eye(count, dtype=np.float32)
    items = add(evidence, *voices)
    answer(evidence, list(range(count)))
    evidence.release(items)
    question = ask(evidence, is_last=True)
    assert question is not None
    assert np.array_equal(question.embeddings, voices[-RETAINED_MAX:])


def test_likeness_is_to_the_voices_that_are_known() -> None:
    evidence = SpeakerEvidence()
    assert evidence.likeness([ALICE]).shape == (1, 0)
    add(evidence, ALICE, ALICE, BOB)
    answer(evidence, [0, 0, 1])
    assert list(evidence.voices) == [1, 2]
    between = (3 * ALICE + 4 * BOB).astype(np.float16)
    assert np.allclose(evidence.likeness([BOB, between]), [[0.0, 1.0], [0.6, 0.8]], atol=1e-3)
    assert not evidence.likeness([np.ones(7, np.float32)]).any()
