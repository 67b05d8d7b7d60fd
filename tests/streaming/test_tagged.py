"""Tagged audio: lanes that come, go, are named and stay on one clock while the session runs."""

from collections.abc import Iterable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streaming.engines import Samples
from streaming.errors import BadAudio, OutOfOrder, TooFast, UnsupportedOption
from streaming.events import Event, Final, SpeechEnded
from streaming.timeline import SAMPLE_RATE_HZ
from streaming.wire import AudioFormat, Start
from tests.fakes import (
    Desk,
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
from tests.sim.checkers import check_all

TAGGED = Start(audio=AudioFormat(tagged=True))
PACKET = SAMPLE_RATE_HZ // 10


def table(
    *names: str | None, start: Start = TAGGED, buffer_samples: int = 120 * SAMPLE_RATE_HZ
) -> Desk:
    """A meeting with so many people in it."""
    meeting = desk(start, buffer_samples=buffer_samples)
    for lane, name in enumerate(names):
        meeting.session.set_lane(lane, name)
    return meeting


def tagged(lane: int, samples: Samples) -> bytes:
    return bytes([lane]) + samples.tobytes()


def say(meeting: Desk, voices: dict[int, Samples]) -> None:
    """At their own pace, side by side; who has nothing more to say sends nothing."""
    longest = max(len(voice) for voice in voices.values())
    for at in range(0, longest, PACKET):
        meeting.now_ns += PACKET * 1_000_000_000 // SAMPLE_RATE_HZ
        for lane, voice in voices.items():
            if len(packet := voice[at : at + PACKET]):
                meeting.send(tagged(lane, packet))


def starts_s(events: Iterable[Event], lane: int) -> list[float]:
    finals = [final for final in of_type(Final, events) if final.lane == lane]
    return [word.span.start / SAMPLE_RATE_HZ for final in finals for word in final.words]


def test_named_lanes_are_captioned_side_by_side_and_need_no_diarizer() -> None:
    meeting = table("Alice", "Bob")
    say(meeting, {0: speech(range(6), stream=1), 1: speech(range(4), stream=2)})
    events = meeting.end()
    check_all(events)
    assert words_of(events, 0) == word_texts(range(6), stream=1)
    assert words_of(events, 1) == word_texts(range(4), stream=2)
    assert {name for names in speakers_of(events).values() for name in names} == {"Alice", "Bob"}
    assert done(events).speakers == 2
    assert {job.kind.name for job in meeting.engines.asked} == {"DETECT", "RECOGNIZE"}


def test_an_unnamed_lane_has_its_voices_told_apart() -> None:
    meeting = table(None, "S1")
    room = np.concatenate([speech(range(20)), silence(1), speech(range(20, 40), speaker=1)])
    say(meeting, {0: room, 1: speech(range(4), stream=2)})
    events = meeting.end()
    check_all(events)
    assert done(events).speakers == 3
    names = {final.lane: final.speaker for final in of_type(Final, events)}
    assert names[1] == "S1"
    assert "S1" not in speakers_of(events)[of_type(Final, events)[-1].caption_id]


def test_a_lane_that_joins_late_starts_at_the_time_of_the_others() -> None:
    meeting = table("Alice")
    say(meeting, {0: silence(30)})
    meeting.session.set_lane(7, "Bob")
    say(meeting, {0: silence(4), 7: speech(range(3), stream=2)})
    events = meeting.end()
    check_all(events)
    assert starts_s(events, 7) == pytest.approx([30.0, 30.32, 30.64])
    assert done(events).audio_seconds == pytest.approx(34 + 0.96)


def test_a_muted_lane_is_moved_up_to_the_others_when_it_speaks_again() -> None:
    meeting = table("Alice", "Bob")
    both = {0: speech(range(3), stream=1), 1: speech(range(3), stream=2)}
    say(meeting, both)
    say(meeting, {0: np.concatenate([silence(10), speech(range(3, 6), stream=1)])})
    say(meeting, {0: silence(2), 1: speech(range(3, 6), stream=2)})
    events = meeting.end()
    check_all(events)
    assert words_of(events, 1) == word_texts(range(6), stream=2)
    assert starts_s(events, 1)[3] == pytest.approx(0.96 + 10 + 0.96, abs=0.2)
    assert starts_s(events, 0)[3] == pytest.approx(0.96 + 10)


def test_lanes_that_are_sent_in_turns_of_a_second_are_not_moved() -> None:
    meeting = table("Alice", "Bob")
    voices = {lane: speech(range(50), stream=lane) for lane in (0, 1)}
    for at in range(0, len(voices[0]), SAMPLE_RATE_HZ):
        for lane, voice in voices.items():
            meeting.send(tagged(lane, voice[at : at + SAMPLE_RATE_HZ]))
    events = meeting.end()
    assert starts_s(events, 1) == starts_s(events, 0) == pytest.approx(np.arange(50) * 0.32)


def test_skip_moves_one_lane_or_all_and_counts_once() -> None:
    meeting = table("Alice", "Bob")
    say(meeting, {0: speech(range(3)), 1: speech(range(3), stream=2)})
    frames = meeting.session.frames_received
    meeting.session.skip(20_000, meeting.now_ns)
    assert meeting.session.frames_received == frames + 320_000
    meeting.session.skip(2_000, meeting.now_ns, 1)
    assert meeting.session.frames_received == frames + 352_000
    meeting.send(tagged(1, speech(range(3, 6), stream=2)))
    meeting.send(tagged(0, speech(range(3, 6))))
    events = meeting.end()
    check_all(events)
    assert starts_s(events, 1)[3] == pytest.approx(22.96)
    # Alice has fallen behind by what was skipped for Bob, and is moved up to him.
    assert starts_s(events, 0)[3] == pytest.approx(22.96)
    assert meeting.session.is_quiet


def test_time_may_pass_before_anybody_is_there() -> None:
    meeting = table()
    meeting.session.skip(5_000, 0)
    meeting.session.set_lane(0, "Alice")
    meeting.send(tagged(0, speech(range(3))))
    assert starts_s(meeting.end(), 0)[0] == pytest.approx(5.0)


def test_a_meeting_without_anybody_ends_too() -> None:
    meeting = table()
    assert meeting.session.deadline_ns is None
    assert meeting.session.held_samples == 0
    assert meeting.session.stored_through_frame == 0
    assert done(meeting.end()).audio_seconds == 0


def test_a_new_name_holds_for_what_follows() -> None:
    meeting = table("Alice")
    say(meeting, {0: speech(range(3))})
    meeting.session.set_lane(0, "Alice")
    assert of_type(SpeechEnded, meeting.events) == [], "the same name again changes nothing"
    meeting.session.set_lane(0, "Bob")
    say(meeting, {0: speech(range(3, 6))})
    events = meeting.end()
    check_all(events)
    finals = of_type(Final, events)
    assert [(final.speaker, len(final.words)) for final in finals] == [("Alice", 3), ("Bob", 3)]
    assert done(events).speakers == 2


def test_a_lane_may_lose_and_get_its_name() -> None:
    meeting = table("Alice")
    for name, numbers in ((None, range(20, 40)), ("Carol", range(40, 60)), (None, range(60, 80))):
        say(meeting, {0: speech(range(numbers.start - 20, numbers.start))})
        meeting.session.set_lane(0, name)
    say(meeting, {0: speech(range(60, 80))})
    events = meeting.end()
    check_all(events)
    names = [speakers_of(events)[final.caption_id][-1] for final in of_type(Final, events)]
    assert names == ["Alice", "S1", "Carol", "S1"]


def test_a_session_that_does_not_diarize_leaves_nameless_lanes_nameless() -> None:
    meeting = table("Alice", start=Start(audio=AudioFormat(tagged=True), diarize=False))
    meeting.session.set_lane(0, None)
    say(meeting, {0: speech(range(3))})
    assert of_type(Final, meeting.end())[0].speaker is None


# What is refused


def test_a_lane_that_was_not_added_is_refused_and_nothing_is_taken() -> None:
    meeting = table("Alice")
    with pytest.raises(OutOfOrder, match=r"lane 200 was not added.*one byte"):
        meeting.send(tagged(200, speech([0])))
    with pytest.raises(OutOfOrder, match="lane 3 was not added"):
        meeting.session.skip(100, 0, 3)
    assert meeting.session.frames_received == 0


def test_half_a_sample_is_refused() -> None:
    meeting = table("Alice")
    with pytest.raises(BadAudio, match=r"1 of 2 bytes.*whole mono samples"):
        meeting.send(b"\x00\x01\x02\x03")
    meeting.send(b"")
    meeting.send(b"\x00")
    assert meeting.session.frames_received == 0
    assert done(meeting.end()).audio_seconds == 0


def test_a_packet_of_wild_samples_moves_no_lane() -> None:
    start = Start(audio=AudioFormat(tagged=True, encoding="pcm_f32le"))
    meeting = table("Alice", "Bob", start=start)
    second = np.zeros(SAMPLE_RATE_HZ, np.float32).tobytes()
    for _ in range(5):
        meeting.send(b"\x00" + second)
    frames = meeting.session.frames_received
    with pytest.raises(BadAudio, match="NaN"):
        meeting.send(b"\x01" + np.full(160, np.nan, np.float32).tobytes())
    assert meeting.session.frames_received == frames
    events = meeting.end()
    check_all(events)
    assert done(events).audio_seconds == 5


def test_lanes_are_for_tagged_audio() -> None:
    with pytest.raises(UnsupportedOption, match=r"audio\.tagged"):
        new_session().set_lane(0, "Alice")
    with pytest.raises(UnsupportedOption, match="leave the lane out"):
        new_session().skip(100, 0, 0)
    for audio in (
        AudioFormat(tagged=True, channels=2),
        AudioFormat(tagged=True, channel_names=[None]),
    ):
        with pytest.raises(UnsupportedOption, match="tagged audio is mono"):
            new_session(Start(audio=audio))


def test_a_lane_after_the_end_means_nothing() -> None:
    meeting = table("Alice")
    say(meeting, {0: speech(range(3))})
    meeting.end()
    meeting.session.set_lane(0, "Bob")
    meeting.session.set_lane(5, "Carol")
    check_all(meeting.events)


# Mutes


def test_one_lane_falls_silent_and_its_words_are_final_while_the_others_go_on() -> None:
    meeting = table("Alice", "Bob")
    say(meeting, {0: speech(range(4)), 1: speech(range(4), stream=2)})
    say(meeting, {0: speech(range(4, 8))})
    assert words_of(meeting.events, 1) == []
    meeting.now_ns += 1  # Bob's last packet came a second and a bit ago
    deadline = meeting.session.deadline_ns
    assert deadline is not None
    assert deadline <= meeting.now_ns
    meeting.session.handle_deadline(meeting.now_ns)
    meeting.settle()
    assert words_of(meeting.events, 1) == word_texts(range(4), stream=2)
    assert words_of(meeting.events, 0) == []
    events = meeting.end()
    check_all(events)
    assert words_of(events, 0) == word_texts(range(8))


# Credit, acknowledgement, resume


def test_credit_grows_with_the_lanes_and_one_of_them_may_use_it_all() -> None:
    meeting = table("Alice", buffer_samples=2 * SAMPLE_RATE_HZ)
    meeting.holds = lambda job: True
    assert meeting.session.credit_until_frame == 32_000
    meeting.session.set_lane(1, "Bob")
    assert meeting.session.credit_until_frame == 64_000
    meeting.send(tagged(1, silence(4)))
    with pytest.raises(TooFast, match="beyond frame 64000"):
        meeting.send(tagged(0, silence(0.1)))


def test_an_ack_names_the_first_packet_of_any_lane_that_is_still_needed() -> None:
    meeting = table("Alice", "Bob")
    meeting.send(tagged(0, silence(2)))
    before_bob = meeting.session.frames_received
    meeting.send(tagged(1, speech(range(3), stream=2)))
    meeting.send(tagged(0, silence(2)))
    assert meeting.session.stored_through_frame <= before_bob
    meeting.wait(2)
    assert meeting.session.stored_through_frame == meeting.session.frames_received
    assert meeting.acks[-1].stored_through_frame == meeting.session.frames_received
    # A mark that new audio shares with old never takes an ack back.
    meeting.send(tagged(1, speech([9], stream=2)[:160]))
    assert meeting.session.stored_through_frame == meeting.session.frames_received - 160


@pytest.mark.parametrize("rate", [8_000, 44_100, 48_000])
def test_an_idle_lane_at_any_rate_is_settled_to_its_last_sample(rate: int) -> None:
    meeting = table("Alice", "Bob", start=Start(audio=AudioFormat(tagged=True, sample_rate=rate)))
    noise = np.random.default_rng(1).integers(-9_000, 9_000, rate, np.int16)
    meeting.send(tagged(0, noise))
    meeting.send(tagged(1, noise[: rate // 3]))
    meeting.wait(3)
    assert meeting.session.deadline_ns is None
    assert meeting.session.stored_through_frame == meeting.session.frames_received
    events = meeting.end()
    check_all(events)
    assert done(events).audio_seconds == pytest.approx(4 / 3, abs=0.001)


Step = tuple[int, int]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(1, 60_000)), max_size=25),
    st.sampled_from([8_000, 16_000, 48_000]),
    st.randoms(use_true_random=False),
)
def test_every_sample_of_every_lane_is_accounted_for(
    steps: list[Step], rate: int, chance: object
) -> None:
    meeting = table(start=Start(audio=AudioFormat(tagged=True, sample_rate=rate)))
    rng = np.random.default_rng(7)
    sent = 0
    last_stored = 0
    for lane, size in steps:
        meeting.session.set_lane(lane, f"Lane {lane}")
        audio = rng.integers(-200, 200, size).astype(np.int16)
        meeting.now_ns += size * 1_000_000_000 // rate
        meeting.send(tagged(lane, audio))
        sent += size
        if size % 3 == 0:
            meeting.wait(1.5)
        elif size % 5 == 0:
            meeting.session.skip(size % 3_000 + 1, meeting.now_ns, lane if size % 2 else None)
            sent += (size % 3_000 + 1) * rate // 1_000
        assert meeting.session.frames_received == sent
        assert last_stored <= meeting.session.stored_through_frame <= sent
        last_stored = meeting.session.stored_through_frame
    check_all(meeting.end())


def test_a_lane_on_which_nothing_was_ever_said_holds_up_no_ack() -> None:
    meeting = table("Alice", "Bob")
    say(meeting, {0: silence(5)})
    assert meeting.session.stored_through_frame > 4 * SAMPLE_RATE_HZ
