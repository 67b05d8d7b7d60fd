"""Built chunks and what is true of them; nothing here needs a model."""

from pathlib import Path
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tools.demo_whisper.corpus import DigitRecordings, Split
from tools.demo_whisper.synthesis import SAMPLE_RATE_HZ, SynthesisError
from tools.segmentation import mixes
from tools.segmentation.examples import Examples, frame_activity, meeting_chunk, turns_activity
from tools.segmentation.material import framed, held_out_folder
from tools.segmentation.meetings import (
    HELD_OUT_EXCERPTS,
    TRAIN_EXCERPTS,
    Excerpt,
    Turn,
    bed,
    read_rttm,
)
from tools.segmentation.mixes import AT_ONCE_MAX, CHUNK_SAMPLES, SPEAKERS_MAX
from tools.segmentation.people import (
    DATA_DIR,
    HELD_OUT_DIGIT_SPEAKERS,
    HELD_OUT_READERS,
    Person,
    PoolSize,
    pool,
    said_from,
)

SMALL = PoolSize(
    digit_strings=1,
    synthetic_people=3,
    synthetic_sentences=1,
    flite_sentences=1,
    factors=(1.0,),
)
needs_recordings = pytest.mark.skipif(
    not (DATA_DIR / "ami" / "trn01.rttm").exists(), reason="the shared recordings are not here"
)


def talking(seed: int, seconds: float = 3.0) -> Person:
    """Somebody who makes noise with a pause in the middle of each utterance."""
    rng = np.random.default_rng(seed)
    sound = rng.normal(0, 0.1, int(seconds * SAMPLE_RATE_HZ)).astype(np.float32)
    sound[len(sound) // 2 : len(sound) // 2 + 8_000] = 0
    return Person(f"p{seed}", "reader", 1.0, (said_from(sound), said_from(sound[:6_000])))


PEOPLE = [talking(seed) for seed in range(5)]


@given(seed=st.integers(0, 10_000))
@settings(max_examples=40, deadline=None)
def test_never_more_than_two_of_at_most_three_people_speak_at_once(seed: int) -> None:
    rng = Random(seed)
    timeline = mixes.converse(rng, mixes.draw_cast(rng, PEOPLE))
    activity = timeline.activity
    assert len(activity) <= SPEAKERS_MAX
    assert activity.sum(axis=0).max(initial=0) <= AT_ONCE_MAX
    # A voice is heard where its owner is said to speak, and nowhere else but in short pauses.
    silent = ~activity & (np.abs(timeline.voices) > 0.05)
    assert silent.sum() <= 0.01 * silent.size


@given(seed=st.integers(0, 10_000))
@settings(max_examples=10, deadline=None)
def test_a_chunk_is_as_long_as_the_model_hears_and_never_clipped(seed: int) -> None:
    chunk = mixes.mix(Random(seed), PEOPLE)
    assert chunk.samples.shape == (CHUNK_SAMPLES,)
    assert chunk.activity.shape[1:] == (CHUNK_SAMPLES,)
    assert np.isfinite(chunk.samples).all()
    assert np.abs(chunk.samples).max() <= 1


def test_a_seed_gives_the_same_chunks_again() -> None:
    first, again = (Examples("7", PEOPLE, [], np.arange(0, 160_000, 800)) for _ in range(2))
    for one, other in zip(first.batch(3), again.batch(3), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_person_played_much_slower_counts_as_another() -> None:
    person = PEOPLE[0]
    slow = Person(person.name, person.kind, 1.25, person.said)
    almost = Person(person.name, person.kind, 1.1, person.said)
    assert person.differs_from(slow)
    assert not person.differs_from(almost)


def test_of_three_at_once_the_least_talkative_is_left_out() -> None:
    activity = np.zeros((4, 100), np.bool_)
    activity[1, 10:90] = True
    activity[3, 20:80] = True
    activity[0, 30:60] = True
    activity[2, 40:41] = True
    framed_rows = frame_activity(activity, np.arange(100))
    assert framed_rows.shape == (SPEAKERS_MAX, 100)
    assert framed_rows.sum(axis=0).max() == AT_ONCE_MAX
    assert framed_rows[0].sum() == 80
    assert framed_rows[1].sum() == 60
    assert not framed_rows[2].any()


def test_turns_of_an_excerpt_are_cut_to_the_chunk() -> None:
    turns = (Turn("a", 0, 50), Turn("b", 40, 300), Turn("a", 400, 500), Turn("c", 900, 950))
    excerpt = Excerpt("e", np.zeros(1_000, np.float32), turns)
    activity = turns_activity(excerpt, 45, 400)
    assert activity.sum(axis=1).tolist() == [255, 5 + 45]
    assert turns_activity(excerpt, 600, 100).shape == (0, 100)


def test_a_meeting_chunk_keeps_its_speech() -> None:
    turns = (Turn("a", 0, 20 * SAMPLE_RATE_HZ),)
    excerpt = Excerpt("e", np.full(20 * SAMPLE_RATE_HZ, 0.1, np.float32), turns)
    chunk = meeting_chunk(Random(3), excerpt)
    assert chunk.activity.mean() > 0.2


def test_a_bed_is_where_nobody_has_a_turn() -> None:
    second = SAMPLE_RATE_HZ
    samples = np.repeat(np.arange(6, dtype=np.float32), second)
    excerpt = Excerpt(
        "e", samples, (Turn("a", second, 2 * second), Turn("b", 2 * second, 4 * second))
    )
    room = bed(excerpt)
    assert set(np.unique(room)) == {0.0, 4.0, 5.0}
    assert len(room) / second == pytest.approx(3 - 2 * 0.15)
    assert len(bed(Excerpt("e", samples, (Turn("a", 0, 6 * second),)))) == 0


def test_truth_is_what_lies_in_the_middle_of_a_frame() -> None:
    truth = framed([("b", 80, 240), ("a", 81, 241)], 400)
    assert truth.tolist() == [[False, True, False], [True, False, False]]


def voice_of(person: Person) -> str:
    """Variant, or recorded person; ``en-us+m7-12`` is the twelfth with the variant m7."""
    return person.name.split("+")[-1].rsplit("-", 1)[0]


def test_no_held_out_voice_is_in_the_training_pool() -> None:
    try:
        people = pool(Random(1), SMALL, DATA_DIR)
        held_out = pool(Random(1), SMALL, DATA_DIR, Split.TEST)
    except SynthesisError as error:
        pytest.skip(str(error))
    heard = {voice_of(person) for person in people}
    assert not heard & {voice_of(person) for person in held_out}
    assert not heard & {*HELD_OUT_READERS, *HELD_OUT_DIGIT_SPEAKERS}
    for person in [*people, *held_out]:
        for said in person.said:
            assert all(0 <= a < b <= len(said.samples) for a, b in said.active)


@needs_recordings
def test_conversations_to_judge_by_are_of_held_out_people_alone(tmp_path: Path) -> None:
    held_out_folder(DATA_DIR, tmp_path)
    readers = {path.name for path in (tmp_path / "librispeech").iterdir()}
    assert readers == set(HELD_OUT_READERS)
    assert DigitRecordings(tmp_path / "fsdd").speakers(Split.TEST) == [*HELD_OUT_DIGIT_SPEAKERS]


@needs_recordings
def test_nobody_of_a_training_excerpt_speaks_in_a_held_out_one() -> None:
    def speakers(names: tuple[str, ...]) -> set[str]:
        turns = [turn for n in names for turn in read_rttm(DATA_DIR / "ami" / f"{n}.rttm")]
        return {turn.speaker for turn in turns}

    assert not speakers(TRAIN_EXCERPTS) & speakers(HELD_OUT_EXCERPTS)
