"""A speaker who is muted in mid-sentence: what was said is final soon, what follows is apart."""

from dataclasses import dataclass, field

import numpy as np
import pytest

from streaming.engines import Samples
from streaming.events import Event, Final, SpeechEnded, SpeechStarted
from streaming.timeline import SAMPLE_RATE_HZ
from streaming.wire import AudioFormat, Start
from tests.fakes import Desk, desk, done, of_type, silence, speech, word_texts, words_of

MUTE_S = 20.0
CLOSED_S_MAX = 1.5
STEP_S = 0.05


@dataclass
class Mute:
    """What came during the mute, and how long after the last packet."""

    table: Desk
    came: list[tuple[float, Event]] = field(default_factory=list)

    def pass_by(self, keepalive_every_s: float | None = None) -> None:
        known, waited_s, kept_s = len(self.table.events), 0.0, 0.0
        while waited_s < MUTE_S:
            self.table.wait(STEP_S)
            waited_s += STEP_S
            if keepalive_every_s is not None and waited_s - kept_s >= keepalive_every_s:
                kept_s = waited_s
                self.table.send(b"")
            self.came += [(waited_s, event) for event in self.table.events[known:]]
            known = len(self.table.events)

    def closed_after_s(self, kind: type[Event]) -> float:
        (waited_s,) = [waited_s for waited_s, event in self.came if isinstance(event, kind)]
        return waited_s


def starts_s(events: list[Event]) -> list[float]:
    return [w.span.start / SAMPLE_RATE_HZ for f in of_type(Final, events) for w in f.words]


@pytest.mark.parametrize("packet_ms", [20, 100, 1_000])
@pytest.mark.parametrize("keepalive_every_s", [None, 0.5])
def test_without_skip_the_clock_stands_still(
    packet_ms: float, keepalive_every_s: float | None
) -> None:
    table = desk()
    mute = Mute(table)
    table.play(speech(range(5)), packet_ms)
    mute.pass_by(keepalive_every_s)
    assert mute.closed_after_s(Final) <= CLOSED_S_MAX
    assert words_of(table.events) == word_texts(range(5))
    table.play(speech(range(5, 10)), packet_ms)
    events = table.end()
    assert [len(final.words) for final in of_type(Final, events)] == [5, 5]
    assert words_of(events) == word_texts(range(10))
    assert starts_s(events) == pytest.approx(np.arange(10) * 0.32)
    assert done(events).audio_seconds == pytest.approx(3.2)


@pytest.mark.parametrize("is_told_at_once", [True, False])
def test_with_skip_times_are_those_of_the_meeting(is_told_at_once: bool) -> None:
    """A client may say so when the mute begins, if it knows how long, or when it is over."""
    table = desk()
    mute = Mute(table)
    table.play(speech(range(5)))
    for moment in (True, False):
        if moment is is_told_at_once:
            table.session.skip(round(MUTE_S * 1000), table.now_ns)
            table.settle()
        if moment:
            mute.pass_by()
    table.play(speech(range(5, 10)))
    events = table.end()
    assert words_of(events) == word_texts(range(10))
    places = np.arange(10) * 0.32 + np.repeat([0, MUTE_S], 5)
    assert starts_s(events) == pytest.approx(places)
    assert done(events).audio_seconds == pytest.approx(3.2 + MUTE_S)
    if not is_told_at_once:
        assert mute.closed_after_s(Final) <= CLOSED_S_MAX


def test_a_word_that_the_mute_cut_spoils_none_after_it() -> None:
    table = desk()
    mute = Mute(table)
    table.play(speech(range(3))[:-3_000])
    mute.pass_by()
    assert mute.closed_after_s(SpeechEnded) <= CLOSED_S_MAX
    table.play(speech(range(5, 8)))
    assert words_of(table.end()) == word_texts([0, 1, 5, 6, 7])


@pytest.mark.parametrize("tagged", [False, True])
@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100, 44_101, 48_000])
def test_at_any_rate_nothing_of_the_first_utterance_is_left_for_the_next(
    rate: int, tagged: bool
) -> None:
    """A resampler waits for more: what it holds belongs to what was said before."""
    table = desk(Start(audio=AudioFormat(sample_rate=rate, tagged=tagged)))
    if tagged:
        table.session.set_lane(0, "Alice")
    mute = Mute(table)
    _say(table, _tone(rate), rate, tagged=tagged)
    mute.pass_by()
    assert mute.closed_after_s(SpeechEnded) <= CLOSED_S_MAX
    _say(table, np.concatenate([np.zeros(rate // 2, np.int16), _tone(rate)]), rate, tagged=tagged)
    events = table.end()
    first, second = of_type(SpeechStarted, events)
    assert first.at == 0
    assert second.at == pytest.approx(24_000, abs=600)
    assert done(events).audio_seconds == pytest.approx(2.5, abs=0.002)


def _tone(rate: int) -> Samples:
    return (9_000 * np.sin(np.arange(rate) * 2 * np.pi * 300 / rate)).astype(np.int16)


def _say(table: Desk, audio: Samples, rate: int, *, tagged: bool) -> None:
    tag = b"\x00" if tagged else b""
    for at in range(0, len(audio), rate // 10):
        packet = audio[at : at + rate // 10]
        table.now_ns += len(packet) * 1_000_000_000 // rate
        table.send(tag + packet.tobytes())


def test_a_mute_that_comes_in_the_middle_of_a_sample_loses_nothing() -> None:
    table = desk()
    mute = Mute(table)
    data = speech(range(6)).tobytes()
    table.send(data[:30_721])
    mute.pass_by()
    assert mute.closed_after_s(SpeechEnded) <= CLOSED_S_MAX
    table.send(data[30_721:])
    assert words_of(table.end()) == word_texts(range(6))


def test_a_connection_that_is_lost_is_no_mute() -> None:
    """The client may only be on its way back with the rest of the sentence."""
    table = desk()
    table.play(speech(range(5)))
    table.session.detach()
    table.wait(MUTE_S)
    table.session.attach(table.now_ns, 0)
    table.play(np.concatenate([speech(range(5, 10)), silence(1)]))
    events = table.end()
    assert [len(final.words) for final in of_type(Final, events)] == [10]
