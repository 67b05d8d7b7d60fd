"""Whole sessions with a diarizer that looks at all audio, and with one that is late or gone."""

from dataclasses import replace

import pytest

from streaming.engines import ClusterQuestion, DiarizerProfile, FrameGrid
from streaming.events import Final, Revision
from streaming.jobs import JobKind
from streaming.wire import Start
from tests.fakes import (
    Desk,
    Engines,
    conversation,
    desk,
    done,
    lane_options,
    of_type,
    silence,
    speakers_of,
    word_texts,
    words_of,
)
from tests.sim.checkers import check_all

GRID = DiarizerProfile(25_600, 12_800, 4_800, grid=FrameGrid(1.6, 0.8, 0.032, 0.032, 0.0))


def grid_desk(engines: Engines | None = None) -> Desk:
    return desk(engines=engines, diarizer=GRID)


def asked_chunks(table: Desk) -> int:
    return sum(len(job.questions) for job in table.engines.asked if job.kind is JobKind.OBSERVE)


def test_speakers_are_told_apart_on_the_grid_too() -> None:
    table = grid_desk()
    table.play(conversation())
    events = table.end()
    check_all(events)
    assert words_of(events) == word_texts(range(12))
    assert speakers_of(events) == {"c1": ["S1"] * 6, "c2": ["S2"] * 6}
    assert done(events).speakers == 2


@pytest.mark.parametrize("profile", [lane_options().diarizer, GRID])
def test_no_more_people_are_told_apart_than_the_client_says(profile: DiarizerProfile) -> None:
    table = desk(Start(speakers_max=1), diarizer=profile)
    table.play(conversation())
    events = table.end()
    check_all(events)
    assert speakers_of(events) == {"c1": ["S1"] * 6, "c2": ["S1"] * 6}
    (*_, last) = (job for job in table.engines.asked if job.kind is JobKind.CLUSTER)
    (question,) = last.questions
    assert isinstance(question, ClusterQuestion)
    assert (question.speakers_min, question.speakers_max) == (None, 1)


def test_every_second_is_looked_at_once_per_chunk_that_covers_it() -> None:
    table = grid_desk()
    audio = conversation()
    table.play(audio)
    table.end()
    whole = 1 + (len(audio) - GRID.chunk_samples) // GRID.hop_samples
    rest = (len(audio) - GRID.chunk_samples) % GRID.hop_samples > 0
    assert asked_chunks(table) == whole + rest


def test_time_without_audio_asks_nothing() -> None:
    table = grid_desk()
    table.play(conversation())
    before = asked_chunks(table)
    table.session.skip(600_000, table.now_ns)
    table.settle()
    table.play(silence(2.0))
    table.end()
    assert asked_chunks(table) - before < 10


@pytest.mark.parametrize("profile", [lane_options().diarizer, GRID])
def test_a_diarizer_that_never_answers_changes_no_word_and_no_delay(
    profile: DiarizerProfile,
) -> None:
    about_voices = (JobKind.OBSERVE, JobKind.CLUSTER)
    tables = [
        desk(diarizer=profile),
        desk(diarizer=profile, engines=Engines(fails=lambda job: job.kind in about_voices)),
    ]
    for table in tables:
        table.play(conversation())
        table.end()
    sound, deaf = tables
    assert words_of(deaf.events) == words_of(sound.events)
    assert deaf.delays == sound.delays
    assert speakers_of(deaf.events) == {"c1": [None] * 6, "c2": [None] * 6}


@pytest.mark.parametrize("profile", [lane_options().diarizer, GRID])
def test_a_diarizer_that_is_late_names_speakers_by_revisions(profile: DiarizerProfile) -> None:
    table, prompt = desk(diarizer=profile), desk(diarizer=profile)
    table.holds = lambda job: job.kind is JobKind.OBSERVE
    for one in (table, prompt):
        one.play(conversation())
    assert {word.speaker for f in of_type(Final, table.events) for word in f.words} == {None}
    table.holds = lambda job: False
    table.answer_held()
    events = table.end()
    prompt.end()
    assert of_type(Revision, events)
    first, second = speakers_of(events).values()
    assert {*first, *second} == {"S1", "S2"}
    assert len({*first}) == len({*second}) == 1
    finals = [replace(f, speaker=None, words=()) for f in of_type(Final, events)]
    assert finals == [replace(f, speaker=None, words=()) for f in of_type(Final, prompt.events)]
    assert table.delays == prompt.delays


@pytest.mark.parametrize("profile", [lane_options().diarizer, GRID])
def test_a_diarizer_that_never_hears_all_in_time_names_speakers_all_the_same(
    profile: DiarizerProfile,
) -> None:
    """Each answer takes ten seconds, and people talk on: there are always chunks waiting."""
    table = desk(diarizer=profile)
    table.holds = lambda job: job.kind is JobKind.OBSERVE
    for _ in range(4):
        table.play(conversation(words=24))
        assert table.held
        table.answer_held()
    assert {"S1", "S2"} <= {name for names in speakers_of(table.events).values() for name in names}
    table.holds = lambda job: False
    table.answer_held()
    check_all(table.end())


@pytest.mark.parametrize("profile", [lane_options().diarizer, GRID])
def test_a_recording_that_comes_at_once_waits_for_its_speakers(profile: DiarizerProfile) -> None:
    """The diarizer is a minute of audio behind, and no second of time."""
    table = desk(diarizer=profile)
    table.holds = lambda job: job.kind is JobKind.OBSERVE
    for _ in range(8):
        table.send(conversation(words=24).tobytes())
    table.holds = lambda job: False
    table.answer_held()
    table.end()
    assert table.session.stats.dropped_chunks == 0
    assert None not in {name for names in speakers_of(table.events).values() for name in names}
