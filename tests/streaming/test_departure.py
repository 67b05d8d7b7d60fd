"""A server that goes away cuts no word: what it commits and what it leaves make a whole."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streaming.engines import Hypothesis
from streaming.events import Done, Final, Gap, SpeechEnded
from streaming.jobs import Answer, Job, JobKind
from streaming.session import SessionState
from streaming.timeline import SAMPLE_RATE_HZ, Span
from streaming.wire import AudioFormat, Configure, Encoding, Start
from tests.fakes import (
    Desk,
    channels,
    desk,
    of_type,
    silence,
    speech,
    word_texts,
    words_of,
)
from tests.owners import Client, Meeting, check_same, encoded, sometimes, tagged, talk, undisturbed
from tests.sim.checkers import check_all, check_captions, check_order

TAIL_SECONDS = 0.25
"""The onset of a word, or one that a broken line may have cut off: the next server's."""
CUT_SECONDS = 2
"""Of talk after the signal: then all before it is older than what an early cut leaves."""
MEETING = talk(3, 2, 12, 1, 4)
INSIDE_AN_UTTERANCE = 6 * SAMPLE_RATE_HZ
ALMOST_OVER = 15 * SAMPLE_RATE_HZ // 2
"""Its last word is over, and the silence behind it too short yet."""


def said(desk: Desk) -> list[tuple[int, str, Span]]:
    """Every word, by lane."""
    finals = sorted(of_type(Final, desk.stored), key=lambda final: final.lane)
    return [(final.lane, word.text, word.span) for final in finals for word in final.words]


def talk_on(client: Client, desk: Desk, until: int, packet_frames: int) -> None:
    """The client sends on for as long as it is heard."""
    while not desk.session.is_deaf and (place := desk.session.frames_received) < until:
        client.send(desk, min(place + packet_frames, until), packet_frames)


def drained(
    client: Client, desk: Desk, at: int, until: int, lots: random.Random, packet_frames: int = 1_600
) -> Desk:
    """Its server is told to go at one frame; at the other time is short. All is settled."""
    desk.holds = sometimes(lots)
    client.send(desk, at, packet_frames)
    received = desk.session.frames_received
    is_replay = desk.session._keeper.is_replay
    desk.session.wind_up(is_last=False)
    desk.settle()
    talk_on(client, desk, until, packet_frames)
    rate_hz = client.start.audio.sample_rate
    had_time = desk.session.is_deaf or (
        desk.session.frames_received >= received + CUT_SECONDS * rate_hz
        and all(lane.handover.has_heard(everything=False) for lane in desk.session._lanes.values())
    )
    desk.session.hurry()
    desk.settle()
    while desk.held:
        desk.answer_held(newest_first=lots.random() < 0.5)
    assert desk.session.is_deaf
    assert desk.session.is_settled
    assert desk.session.deadline_ns is None
    if had_time and not is_replay:
        check_stored(client, desk, received / rate_hz)
    return desk


def check_stored(client: Client, desk: Desk, received_seconds: float) -> None:
    """Words that had come whole when the server was told to go are its own to commit."""
    through = round((received_seconds - TAIL_SECONDS) * SAMPLE_RATE_HZ)
    due = [word for word in said(undisturbed(client)) if word[2].end <= through]
    assert set(due) <= set(said(desk))


def moved(client: Client, lots: random.Random, places: list[tuple[float, float]]) -> Desk:
    """From one server to the next at each of these shares of its audio, some of them in a hurry."""
    desk = client.desk()
    for epoch, (at, until) in enumerate(places, start=2):
        at_frame = int(min(at, until) * client.frames)
        desk = drained(client, desk, at_frame, int(max(at, until) * client.frames), lots)
        desk = client.desk(desk, epoch)
    client.send(desk, client.frames, 1_600)
    desk.end()
    return desk


PLACES = st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=3)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32), PLACES)
def test_who_talks_on_loses_no_word_and_has_none_cut(
    seed: int, places: list[tuple[float, float]]
) -> None:
    client = Client(Start(), MEETING.tobytes())
    desk = moved(client, random.Random(seed), sorted(places))
    check_order(desk.stored)
    check_captions(desk.stored)
    assert said(desk) == said(undisturbed(client))
    assert [text for _, text, _ in said(desk)] == word_texts(range(22))


@settings(max_examples=10, deadline=None)
@given(
    st.integers(0, 2**32),
    st.tuples(st.floats(0, 1), st.floats(0, 1)),
    st.sampled_from([(48_000, "pcm_s16le"), (16_000, "pcm_f32le")]),
)
def test_what_is_left_is_heard_again_bit_for_bit(
    seed: int, place: tuple[float, float], audio: tuple[int, Encoding]
) -> None:
    rate_hz, encoding = audio
    lanes = [talk(2, 9, 1), talk(9, 1, 2, stream=2)]
    length = min(map(len, lanes))
    client = Client(
        Start(audio=AudioFormat(encoding=encoding, sample_rate=rate_hz, channels=2)),
        encoded([lane[:length] for lane in lanes], rate_hz, encoding),
        changes="fingerprints",
    )
    desk = moved(client, random.Random(seed), [place])
    check_order(desk.stored)
    texts = [(lane, text) for lane, text, _ in said(desk)]
    assert texts == [(lane, text) for lane, text, _ in said(undisturbed(client))]


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32), st.floats(0, 1))
def test_finals_are_those_of_an_undisturbed_run_where_there_is_time(
    seed: int, share: float
) -> None:
    client = Client(Start(), MEETING.tobytes(), changes="fingerprints")
    lots = random.Random(seed)
    desk = drained(client, client.desk(), int(share * client.frames), client.frames, lots)
    was_between = desk.session._lanes[0]._recognition.is_idle
    desk = client.desk(desk, 2)
    client.send(desk, client.frames, 1_600)
    desk.end()
    if was_between:
        check_same(desk, undisturbed(client))
    assert said(desk) == said(undisturbed(client))


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32), st.floats(0, 1), st.booleans())
def test_a_line_that_broke_inside_a_word_cuts_none(
    seed: int, share: float, while_winding_up: bool
) -> None:
    client = Client(Start(), MEETING.tobytes())
    lots, at = random.Random(seed), int(share * client.frames)
    desk = client.desk()
    desk.holds = sometimes(lots)
    client.send(desk, at, 1_600)
    received = desk.session.frames_received
    steps = [lambda: desk.session.wind_up(is_last=False), desk.session.detach]
    for step in steps if while_winding_up else reversed(steps):
        step()
        desk.settle()
    while desk.held:
        desk.answer_held()
    assert desk.session.is_deaf
    assert desk.session.is_settled
    check_stored(client, desk, received / SAMPLE_RATE_HZ)
    desk = client.desk(desk, 2)
    client.send(desk, client.frames, 1_600)
    desk.end()
    assert said(desk) == said(undisturbed(client))


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 60), st.integers(0, 60))
def test_tagged_lanes_move_together(seed: int, at: int, more: int) -> None:
    meeting = Meeting(tagged(talk(4, 9, 2), np.concatenate([silence(4), talk(3, 2, stream=2)])))
    client = Client(Start(audio=AudioFormat(tagged=True), diarize=False), b"")
    reference = client.desk()
    meeting.play(reference, len(meeting.packets), together=False)
    reference.end()
    desk = client.desk()
    desk.holds = sometimes(random.Random(seed))
    meeting.play(desk, at, together=False)
    desk.session.wind_up(is_last=False)
    desk.settle()
    until = at
    while not desk.session.is_deaf and until < min(at + more, len(meeting.packets)):
        until += 1
        meeting.play(desk, until, together=False)
    desk.session.hurry()
    desk.settle()
    while desk.held:
        desk.answer_held()
    assert desk.session.is_settled
    desk = client.desk(desk, 2)
    meeting.play(desk, len(meeting.packets), together=False)
    desk.end()
    assert said(desk) == said(reference)


# Step by step


def test_a_session_listens_to_the_end_of_what_is_being_said() -> None:
    table = desk()
    assert table.session.is_settled
    table.play(speech(range(3)))
    assert not table.session.is_settled
    table.session.wind_up(is_last=False)
    table.settle()
    assert not table.session.is_deaf
    assert not table.session.is_settled
    table.play(speech(range(3, 5)))
    table.play(silence(1))
    received = table.session.frames_received
    assert received < 5 * 5_120 + SAMPLE_RATE_HZ, "what came last is for the next server"
    assert table.session.is_deaf
    assert table.session.is_settled
    assert words_of(table.events) == word_texts(range(5))


def test_a_session_in_which_nobody_speaks_is_deaf_at_once() -> None:
    table = desk()
    table.play(np.concatenate([speech(range(3)), silence(1)]))
    table.session.wind_up(is_last=False)
    assert not table.session.is_settled, "the talker may begin again"
    table.settle()
    assert table.session.is_deaf
    assert table.session.is_settled
    table.session.wind_up(is_last=True)
    table.settle()
    assert table.session.is_settled


def test_who_stops_talking_has_the_last_words_committed() -> None:
    table = desk()
    table.play(speech(range(3)))
    table.session.wind_up(is_last=False)
    table.settle()
    table.wait(1)
    assert table.session.is_deaf
    assert table.session.is_settled
    assert words_of(table.events) == word_texts(range(3))


def test_one_lane_waits_for_the_other() -> None:
    start, audio = channels(
        np.concatenate([speech(range(2)), silence(2)]),
        np.concatenate([silence(0.5), speech(range(4), stream=2), silence(2)]),
    )
    table = desk(start)
    table.play(audio[: 3 * SAMPLE_RATE_HZ])
    table.session.wind_up(is_last=False)
    table.settle()
    assert words_of(table.events) == word_texts(range(2))
    assert not table.session.is_deaf
    table.play(audio[3 * SAMPLE_RATE_HZ :])
    assert table.session.is_deaf
    assert words_of(table.events, lane=1) == word_texts(range(4), stream=2)


def test_nothing_is_asked_of_a_deaf_session_but_what_it_commits() -> None:
    client = Client(Start(), MEETING.tobytes())
    table = client.desk()
    client.send(table, INSIDE_AN_UTTERANCE, 1_600)
    asked = len(table.engines.asked)
    table.session.hurry()
    table.session.wind_up(is_last=False)
    table.settle()
    kinds = [(job.kind, job.is_final) for job in table.engines.asked[asked:]]
    assert kinds.count((JobKind.RECOGNIZE, True)) == 1
    assert {kind for kind, _ in kinds} <= {JobKind.RECOGNIZE, JobKind.OBSERVE, JobKind.CLUSTER}
    assert (JobKind.RECOGNIZE, False) not in kinds
    assert table.session.is_settled
    assert table.session.backlog_samples > SAMPLE_RATE_HZ
    assert of_type(SpeechEnded, table.events)[-1].at < 4 * SAMPLE_RATE_HZ
    table.wait(5)
    assert table.session.is_settled


@pytest.mark.parametrize("answer", [None, Hypothesis(())])
def test_an_early_cut_that_comes_to_nothing_leaves_all_to_the_next_server(
    answer: Hypothesis | None,
) -> None:
    client = Client(Start(), MEETING.tobytes())
    table = client.desk()
    client.send(table, INSIDE_AN_UTTERANCE, 1_600)
    before = said(table)

    def changed(job: Job, answers: list[Answer]) -> list[Answer]:
        is_it = job.kind is JobKind.RECOGNIZE and job.is_final
        return ([] if answer is None else [answer]) if is_it else answers

    table.engines.changes = changed
    table.session.wind_up(is_last=False)
    table.session.hurry()
    table.settle()
    assert table.session.is_settled
    assert said(table) == before
    assert not of_type(Gap, table.stored)
    table = client.desk(table, 2)
    client.send(table, client.frames, 1_600)
    table.end()
    assert said(table) == said(undisturbed(client))


def test_a_session_that_nobody_goes_on_with_commits_all_between_two_utterances() -> None:
    table = desk()
    table.play(speech(range(3)))
    table.session.wind_up(is_last=True)
    table.settle()
    assert not table.session.is_deaf
    table.play(np.concatenate([speech(range(3, 5)), silence(1)]))
    assert table.session.is_deaf
    assert table.session.is_settled
    assert words_of(table.events) == word_texts(range(5))


def test_a_session_that_nobody_goes_on_with_commits_the_last_sample_in_a_hurry() -> None:
    table = desk()
    table.play(speech(range(3)))
    table.session.wind_up(is_last=True)
    table.session.hurry()
    assert not table.session.is_settled
    table.settle()
    assert table.session.is_settled
    assert words_of(table.events) == word_texts(range(3))


def test_the_end_of_the_audio_ends_a_session_that_listens_on() -> None:
    table = desk()
    table.play(speech(range(3)))
    table.session.wind_up(is_last=False)
    events = table.end()
    check_all(events)
    assert words_of(events) == word_texts(range(3))
    assert table.session.is_settled
    table.session.wind_up(is_last=False)
    table.settle()
    assert not table.session.is_deaf


def test_a_session_whose_client_stays_away_ends_with_all_that_was_received() -> None:
    table = desk()
    table.play(speech(range(3)))
    table.session.wind_up(is_last=False)
    table.session.hurry()
    table.settle()
    table.session.detach()
    table.session.end_of_audio_quietly(table.now_ns)
    table.settle()
    check_all(table.events)
    assert table.session.state is SessionState.DONE
    assert words_of(table.events) == word_texts(range(3))


def test_a_session_that_has_not_caught_up_moves_on_at_once() -> None:
    client = Client(Start(language="en"), talk(3, 5).tobytes())
    first = client.desk()
    first.holds = lambda job: job.kind is JobKind.RECOGNIZE and job.is_final
    client.send(first, client.frames * 3 // 4, 1_600)
    first.session.configure(Configure(prompt="kept"))
    first._answer(first.held.pop(0))
    first.settle()
    second = client.desk(first, 2)
    assert second.session._keeper.is_replay
    second.session.wind_up(is_last=False)
    second.settle()
    assert second.session.is_deaf
    assert second.session.is_settled
    third = client.desk(second, 3)
    client.send(third, client.frames, 1_600)
    third.end()
    assert said(third) == said(undisturbed(client))
    assert third.session.speech.prompt == "kept"
    assert len(of_type(Done, third.stored)) == 1


def test_an_utterance_that_ends_while_its_early_cut_is_under_way_is_committed() -> None:
    client = Client(Start(), MEETING.tobytes())
    table = client.desk()
    client.send(table, ALMOST_OVER, 1_600)
    table.holds = lambda job: job.kind is JobKind.DETECT
    client.send(table, ALMOST_OVER + 6_400, 6_400)
    table.session.wind_up(is_last=False)
    table.session.hurry()
    table.settle()
    assert not table.session.is_settled, "some audio is being judged"
    table.answer_held()
    assert table.session.is_settled
    assert [text for _, text, _ in said(table)] == word_texts(range(17))
