"""A session that goes on from its last stored checkpoint: as if nothing had happened."""

import random
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streaming.captions import BookState, SentCaption
from streaming.checkpoint import BYTES_MAX, UnusableCheckpoint, decode, encode, first_checkpoint
from streaming.clustering import SpeakerEvidence, VoiceState
from streaming.diarizing import SpeakersState
from streaming.endpointing import (
    STATE_SPANS_MAX,
    EndpointerState,
    latest_spans,
)
from streaming.events import Done, Final
from streaming.jobs import JobKind
from streaming.lane import LaneState
from streaming.listening import ListenerState
from streaming.recognition import UtteranceState
from streaming.session import SessionState
from streaming.speakers import TrackerState
from streaming.timeline import Span
from streaming.windows import OpenWindowState
from streaming.wire import AudioFormat, Configure, Encoding, Start
from tests.fakes import Desk, of_type, silence, word_texts
from tests.owners import (
    Client,
    Meeting,
    check_same,
    crash_at,
    desk_texts,
    encoded,
    half_answered,
    named,
    sometimes,
    tagged,
    talk,
    undisturbed,
)
from tests.sim.checkers import check_captions, check_order

MEETING = talk(3, 2, 12, 1, 4)
"""The third one is longer than a window."""


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32), st.lists(st.floats(0, 1), min_size=1, max_size=3))
def test_finals_are_those_of_an_undisturbed_run(seed: int, shares: list[float]) -> None:
    client = Client(Start(), MEETING.tobytes())
    cuts = sorted(int(share * client.frames) for share in shares)
    desk = crash_at(client, cuts, random.Random(seed))
    check_same(desk, undisturbed(client))
    assert " ".join(desk_texts(desk)).split() == word_texts(range(22))


@settings(max_examples=15, deadline=None)
@given(
    st.integers(0, 2**32),
    st.floats(0, 1),
    st.sampled_from([(48_000, "pcm_s16le"), (16_000, "pcm_f32le"), (48_000, "pcm_f32le")]),
)
def test_audio_that_comes_again_is_the_same_bit_for_bit(
    seed: int, share: float, audio: tuple[int, Encoding]
) -> None:
    rate_hz, encoding = audio
    lanes = [talk(2, 9, 1), talk(9, 1, 2, stream=2)]
    length = min(map(len, lanes))
    client = Client(
        Start(audio=AudioFormat(encoding=encoding, sample_rate=rate_hz, channels=2)),
        encoded([lane[:length] for lane in lanes], rate_hz, encoding),
        changes="fingerprints",
    )
    packet = rate_hz // 10
    desk = crash_at(client, [int(share * client.frames)], random.Random(seed), packet)
    reference = undisturbed(client, packet)
    assert len(of_type(Final, reference.stored)) >= 6
    check_same(desk, reference)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32), st.floats(0, 1), st.sampled_from([16_000, 48_000]))
def test_skipped_time_is_counted_once(seed: int, share: float, rate_hz: int) -> None:
    audio = talk(2, 1, 3, 2)
    rate = rate_hz // 16_000
    skips = {rate * 20_000: 2_500, rate * 21_000: 30_000, rate * 50_000: 700}
    data = encoded([audio], rate_hz, "pcm_s16le")
    start = Start(audio=AudioFormat(sample_rate=rate_hz))
    client = Client(start, data, skips, changes="fingerprints")
    desk = crash_at(client, [int(share * client.frames)], random.Random(seed), rate_hz // 10)
    check_same(desk, undisturbed(client, rate_hz // 10))


@pytest.mark.parametrize("rate_hz", [16_000, 48_000])
def test_a_backlog_is_worked_off_by_one_owner_after_the_other(rate_hz: int) -> None:
    """All is sent and nothing answered; then each owner gets one final done, and dies."""
    rate = rate_hz // 16_000
    audio = talk(2, 1, 9, 2)
    skips = {rate * 14_400: 1_500}
    start = Start(audio=AudioFormat(sample_rate=rate_hz))
    client = Client(start, encoded([audio], rate_hz, "pcm_s16le"), skips, changes="fingerprints")
    reference = undisturbed(client, rate_hz // 10)
    desk, owners = client.desk(), 1
    while True:
        desk.holds = lambda job: job.kind is JobKind.RECOGNIZE and job.is_final
        client.send(desk, client.frames, rate_hz // 10)
        desk.session.flush()
        desk.settle()
        if not desk.held:
            break
        desk._answer(desk.held.pop())
        desk.settle()
        owners += 1
        desk = client.desk(desk, owners)
    desk.holds = lambda job: False
    desk.end()
    assert owners >= 5
    check_same(desk, reference)


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 2**32), st.lists(st.floats(0, 1), min_size=1, max_size=3), st.booleans())
def test_lanes_keep_their_clock_whatever_a_client_puts_together(
    seed: int, shares: list[float], together: bool
) -> None:
    lots = random.Random(seed)
    meeting = Meeting(tagged(talk(4, 9, 2), np.concatenate([silence(4), talk(3, 2, stream=2)])))
    client = Client(Start(audio=AudioFormat(tagged=True), diarize=False), b"")
    reference = client.desk()
    meeting.play(reference, len(meeting.packets), together=False)
    reference.end()
    desk = client.desk()
    for epoch, share in enumerate(sorted(shares), start=2):
        desk.holds = sometimes(lots)
        meeting.play(desk, int(share * len(meeting.packets)), together=False)
        desk = client.desk(desk, epoch)
        meeting.play(desk, int(share * len(meeting.packets)), together=together)
    meeting.play(desk, len(meeting.packets), together=False)
    desk.end()
    check_same(desk, reference)


def test_later_captions_keep_the_names_of_their_speakers() -> None:
    client = Client(Start(), talk(6, 6, 6, 6, 6, 6).tobytes())
    reference = named(undisturbed(client))
    assert reference == ["S1", "S2", "S1", "S2", "S1", "S2"]
    for share in (0.4, 0.6, 0.85):
        desk = client.desk()
        client.send(desk, int(client.frames * share), 1_600)
        before = len(of_type(Final, desk.stored))
        desk = client.desk(desk, 2)
        client.send(desk, client.frames, 1_600)
        desk.end()
        assert named(desk)[before:] == reference[before:]
        assert of_type(Done, desk.stored)[0].speakers == 2


def test_a_caption_whose_speaker_was_not_known_yet_is_named_by_the_next_owner() -> None:
    client = Client(Start(), talk(6, 6).tobytes())
    desk = client.desk()
    desk.holds = lambda job: job.kind is JobKind.OBSERVE
    client.send(desk, client.frames, 1_600)
    assert named(desk) == [None, None]
    desk = client.desk(desk, 2)
    client.send(desk, client.frames, 1_600)
    desk.end()
    assert named(desk) == ["S1", "S2"]


def test_messages_that_were_heard_before_do_nothing_again() -> None:
    client = Client(Start(language="en"), talk(3, 5).tobytes())
    desk = half_answered(client)
    desk.session.configure(Configure(language="it"))
    desk.session.flush()
    desk.settle()
    assert desk.session.speech.language == "de"
    assert desk.session.speech.prompt == "kept"
    client.send(desk, client.frames, 1_600)
    desk.session.configure(Configure(language="it"))
    desk.end()
    assert desk_texts(desk) == [" ".join(word_texts(range(3))), " ".join(word_texts(range(3, 8)))]
    assert desk.session.speech.language == "it"


def test_what_is_never_sent_again_is_silence_at_the_end() -> None:
    client = Client(Start(audio=AudioFormat(sample_rate=48_000)), b"")
    client = Client(client.start, encoded([talk(3, 5)], 48_000, "pcm_s16le"))
    client.changes = "fingerprints"
    desk = half_answered(client)
    point = desk.point
    assert point is not None
    assert desk.session.is_quiet
    assert desk.session.backlog_samples == 0
    desk.wait(5)
    desk.session.pause()
    desk.session.detach()
    desk.session.end_of_audio_quietly(desk.now_ns)
    desk.settle()
    done = of_type(Done, desk.stored)[0]
    assert done.audio_seconds == pytest.approx(decode(point.body).heard_frames / 48_000, abs=0.11)
    check_order(desk.stored)
    check_captions(desk.stored)


@pytest.mark.parametrize("packet", [480, 4_800, 10**9])
@pytest.mark.parametrize("is_tagged", [False, True])
def test_what_was_heard_before_a_pause_is_heard_again_without_the_audio_after_it(
    is_tagged: bool, packet: int
) -> None:
    """The last owner flushed the resampler in the pause; the next one must, or it waits for more
    audio while the client waits for credit."""
    audio = AudioFormat(sample_rate=48_000, tagged=is_tagged)
    data = encoded([talk(3, 5, pause_s=0.5)[:-7_990]], 48_000, "pcm_s16le")
    client = Client(Start(audio=audio, language="en"), data, changes="fingerprints")

    def send(desk: Desk, frames: int) -> None:
        if is_tagged:
            desk.session.set_lane(0, None)
        while (place := desk.session.frames_received) < client.frames:
            end = min(place + frames, client.frames)
            desk.send(b"\x00" * is_tagged + data[2 * place : 2 * end])

    reference = client.desk()
    send(reference, 4_800)
    reference.wait(2)
    reference.end()
    desk = client.desk()
    desk.holds = lambda job: job.kind is JobKind.RECOGNIZE and job.is_final
    send(desk, 4_800)
    desk.wait(2)
    desk._answer(desk.held.pop(0))
    desk.settle()
    assert desk.point is not None
    assert decode(desk.point.body).heard_frames == client.frames
    desk = client.desk(desk, 2)
    assert desk.session.frames_received < client.frames
    send(desk, packet)
    assert len(desk_texts(desk)) == 2
    assert desk.session.is_quiet
    assert desk.session.backlog_samples == 0
    desk.end()
    check_same(desk, reference)


def test_an_owner_to_whom_nothing_is_sent_comes_to_an_end() -> None:
    audio = encoded([talk(3), talk(9, stream=2)[4_800:][: len(talk(3))]], 16_000, "pcm_s16le")
    client = Client(Start(audio=AudioFormat(channels=2)), audio)
    desk = client.desk()
    desk.holds = lambda job: job.kind is JobKind.RECOGNIZE and job.lane == 1
    client.send(desk, client.frames, 1_600)
    assert desk.point is not None
    heard = decode(desk.point.body).heard_frames
    desk = client.desk(desk, 2)
    assert desk.session.frames_received == 0
    desk.end()
    done = of_type(Done, desk.stored)[0]
    assert done.audio_seconds == pytest.approx(2 * heard / 16_000, abs=0.001)
    assert done.words == 3


def test_a_client_that_sends_lanes_in_another_order_is_taken_as_it_is() -> None:
    meeting = Meeting(tagged(talk(4, 9), np.concatenate([silence(3), talk(3, stream=2)])))
    client = Client(Start(audio=AudioFormat(tagged=True), diarize=False), b"")
    desk = client.desk()
    desk.holds = lambda job: job.kind is JobKind.RECOGNIZE and job.is_final
    meeting.play(desk, len(meeting.packets) - 5, together=False)
    desk._answer(desk.held.pop())
    desk.settle()
    desk = client.desk(desk, 2)
    kept = Meeting(sorted(meeting.packets[desk.session.frames_received // 1_600 :]))
    for lane, content in kept.packets:
        desk.send(bytes([lane]) + content)
    desk.end()
    check_order(desk.stored)
    check_captions(desk.stored)


def test_lanes_that_do_not_come_again_come_to_an_end() -> None:
    meeting = Meeting(tagged(talk(4, 9), np.concatenate([silence(3), talk(3, stream=2)])))
    client = Client(Start(audio=AudioFormat(tagged=True), diarize=False), b"")
    desk = client.desk()
    desk.holds = lambda job: job.kind is JobKind.RECOGNIZE and job.is_final
    meeting.play(desk, len(meeting.packets) - 5, together=False)
    desk._answer(desk.held.pop())
    desk.settle()
    assert desk.point is not None
    heard = decode(desk.point.body).heard_frames
    desk = client.desk(desk, 2)
    assert desk.session.frames_received < heard
    desk.end()
    assert len(of_type(Done, desk.stored)) == 1
    assert client.desk(desk, 3).session.state is SessionState.DONE


def test_time_that_was_skipped_before_a_lane_joined_is_not_skipped_in_it() -> None:
    client = Client(Start(audio=AudioFormat(tagged=True), diarize=False), b"")
    desk = client.desk()
    desk.session.set_lane(0, None)
    desk.session.set_lane(2, None)
    said = {lane: talk(3, stream=lane + 1).tobytes() for lane in range(3)}
    desk.holds = lambda job: job.kind is JobKind.RECOGNIZE and job.lane == 0
    desk.send(b"\0" + said[0])
    desk.send(b"\2" + said[2])
    desk.session.skip(5_000, 0)
    desk.session.set_lane(1, None)
    desk.send(b"\1" + said[1])
    place = len(said[0]) // 2
    desk = client.desk(desk, 2)
    assert desk.session.frames_received == 0
    desk.send(b"\0" + said[0])
    desk.send(b"\2" + said[2])
    desk.session.skip(5_000, 0)
    desk.session.set_lane(1, None)
    desk.send(b"\1" + said[1])
    desk.end()
    done = of_type(Done, desk.stored)[0]
    assert done.audio_seconds == pytest.approx((3 * place + 2 * 80_000) / 16_000, abs=0.001)
    assert done.words == 9


def test_a_session_that_is_over_stays_so() -> None:
    client = Client(Start(), talk(3).tobytes())
    desk = undisturbed(client)
    assert desk.point is not None
    assert decode(desk.point.body).lanes == (), "no voice stays"
    again = client.desk(desk, 2)
    assert again.session.state is SessionState.DONE
    assert again.session.take_ack() is None
    assert again.session.frames_received == client.frames
    again.session.end_of_audio(0)
    again.settle()
    assert again.stored == desk.stored
    assert again.session.log.cursor(len(desk.stored)).read(10) == []


def test_silence_is_acknowledged_without_any_event() -> None:
    client = Client(Start(), silence(30).tobytes())
    desk = client.desk()
    client.send(desk, client.frames, 1_600)
    assert desk.stored == []
    assert desk.acks[-1].stored_through_frame >= client.frames - 6 * 16_000
    desk = client.desk(desk, 2)
    assert desk.session.frames_received >= client.frames - 6 * 16_000


def test_nothing_is_acknowledged_that_is_not_kept() -> None:
    client = Client(Start(), talk(3, 3).tobytes())
    desk = client.desk()
    desk.is_storing = False
    client.send(desk, client.frames, 1_600)
    assert all(ack.stored_through_frame == 0 for ack in desk.acks)


def test_a_late_answer_to_the_last_owner_is_dropped_and_counted() -> None:
    client = Client(Start(), talk(3).tobytes())
    first = client.desk()
    first.holds = lambda job: True
    client.send(first, client.frames, 1_600)
    (job,) = first.held
    second = client.desk(first, 2)
    second.session.receive_result(job.number, [], 0, 0)
    assert second.session.stats.superseded_results == 1


def test_a_checkpoint_stays_small_whatever_is_in_it() -> None:
    lots = np.random.default_rng(1)
    lanes = tuple(full_lane(index, lots) for index in range(20))
    noise = lots.bytes(2_000).decode("latin-1")
    base = first_checkpoint(Start(prompt=noise, keywords=[noise[:80]] * 100), 1)
    full = base.model_copy(update={"lanes": lanes})
    assert len(zlib.compress(full.model_dump_json().encode(), 1)) > BYTES_MAX
    body = encode(full)
    assert len(body) <= BYTES_MAX
    kept = decode(body)
    assert [lane.utterances for lane in kept.lanes] == [lane.utterances for lane in lanes]
    assert kept.speech == full.speech
    small = first_checkpoint(Start(), 1).model_copy(update={"lanes": lanes[:2]})
    assert decode(encode(small)).lanes == lanes[:2]


def full_lane(index: int, lots: np.random.Generator) -> LaneState:
    at = int(lots.integers(1_000_000_000))
    spans = tuple(Span(at + 5_000 * n, at + 5_000 * n + 3_000) for n in range(64))
    listener = ListenerState(at, at, at, at, (), lots.bytes(1_280), EndpointerState(at, at, None))
    window = OpenWindowState(at, at, at, at)
    voices = tuple(VoiceState(n, 1.0, lots.bytes(512)) for n in range(4))
    sent = tuple(SentCaption(f"c{n}", spans[:20], ["S1"] * 20) for n in range(64))
    return LaneState(
        index=index,
        start=0,
        listener=listener,
        utterances=tuple(UtteranceState(window, at, f"c{n}", True) for n in range(3)),
        speech=spans,
        book=BookState(((0, None),), ("Ann",), sent),
        speakers=SpeakersState(TrackerState(voices, 4, spans), ((1, "S1"),), ("S1",)),
    )


@pytest.mark.parametrize(
    "body", [b"", b"damaged", zlib.compress(b"{}"), zlib.compress(b'{"version":2}')]
)
def test_a_damaged_or_newer_checkpoint_says_so(body: bytes) -> None:
    with pytest.raises(UnusableCheckpoint):
        decode(body)


def test_old_stretches_of_speech_are_told_as_one() -> None:
    spans = [Span(10 * n, 10 * n + 5) for n in range(STATE_SPANS_MAX + 10)]
    kept = latest_spans(spans, 22)
    assert len(kept) == STATE_SPANS_MAX
    assert (kept[0].start, kept[0].end, kept[-1]) == (22, 105, spans[-1])
    assert latest_spans([Span(0, 9)], 50) == (Span(8, 9),)
    assert latest_spans([Span(0, 9)], 4) == (Span(4, 9),)


def test_voices_of_another_diarizer_are_forgotten() -> None:
    evidence = SpeakerEvidence()
    evidence.resume([VoiceState(1, 3.0, np.ones(4, np.float16).tobytes())], 1)
    assert evidence.add(np.ones(4, np.float32), 1.0).speaker == 1
    evidence = SpeakerEvidence()
    evidence.resume([VoiceState(1, 3.0, np.ones(4, np.float16).tobytes())], 1)
    assert evidence.add(np.ones(8, np.float32), 1.0).speaker is None
    assert evidence.state(1_000) == ()
