"""Session: what a stream becomes, from its first byte to its last event."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streaming.engines import Hypothesis, Samples
from streaming.events import (
    Final,
    Gap,
    Partial,
    SpeechEnded,
    SpeechStarted,
)
from streaming.jobs import Answer, Job, JobKind
from streaming.timeline import SAMPLE_RATE_HZ, Span
from streaming.windows import WindowOptions
from streaming.wire import AudioFormat, Start
from tests.fakes import (
    Engines,
    conversation,
    desk,
    done,
    of_type,
    silence,
    speakers_of,
    speech,
    word_texts,
    words_of,
)
from tests.sim.checkers import check_all


def test_a_conversation_is_captioned_word_for_word() -> None:
    table = desk()
    table.play(conversation())
    events = table.end()
    check_all(events)
    assert words_of(events) == word_texts(range(12))
    assert speakers_of(events) == {"c1": ["S1"] * 6, "c2": ["S2"] * 6}
    assert [type(e).__name__ for e in events if isinstance(e, SpeechStarted | SpeechEnded)] == [
        "SpeechStarted",
        "SpeechEnded",
    ] * 2
    last = done(events)
    assert (last.words, last.speakers, last.gap_seconds) == (12, 2, 0.0)
    assert last.rtfx is not None
    assert last.final_latency_s.p50 is not None


def test_captions_come_while_the_audio_runs() -> None:
    table = desk()
    table.play(conversation())
    assert table.texts
    assert of_type(Partial, table.events)
    assert {delay.is_final for delay in table.delays} == {False, True}
    assert max(delay.seconds for delay in table.delays if not delay.is_final) < 1.2


@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(
    sizes=st.lists(st.integers(700, 60_000), min_size=1, max_size=30),
    pause=st.sampled_from([0.1, 0.7]),
)
def test_the_split_into_packets_changes_nothing_durable(sizes: list[int], pause: float) -> None:
    audio = conversation(words=30, pause_s=pause)
    assert durable_of(audio, sizes) == durable_of(audio, [3_200])


@pytest.mark.parametrize("sizes", [[1] * 1_500 + [9_001], [3] * 500 + [12_345]])
def test_single_and_odd_bytes_are_packets_too(sizes: list[int]) -> None:
    audio = conversation(words=4, pause_s=0.7)
    assert durable_of(audio, sizes) == durable_of(audio, [len(audio) * 2])


def durable_of(audio: Samples, sizes: list[int]) -> list[object]:
    """Captions, as a reader has them at the end, with a cap that falls into the speech.

    Speakers are numbered by first appearance: how much evidence came at once decides whose number
    is the first.
    """
    table = desk(windows=WindowOptions(cap_ms=4_000))
    data, at, i = audio.tobytes(), 0, 0
    while at < len(data):
        packet = data[at : at + sizes[i % len(sizes)]]
        at, i = at + len(packet), i + 1
        table.now_ns += len(packet) * 31_250
        table.send(packet)
    events = table.end()
    check_all(events)
    numbers: dict[str | None, int] = {}
    speakers = {
        caption: [numbers.setdefault(name, len(numbers)) for name in names]
        for caption, names in speakers_of(events).items()
    }
    return [
        (
            final.caption_id,
            final.span,
            final.text,
            [word.span for word in final.words],
            speakers[final.caption_id],
        )
        for final in of_type(Final, events)
    ]


PARTS = st.lists(st.tuples(st.booleans(), st.integers(1, 30_000)), min_size=1, max_size=10)


@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(parts=PARTS, failing=st.sets(st.integers(1, 60)), flushes=st.sets(st.integers(0, 40)))
def test_every_sample_is_decoded_silent_or_a_gap(
    parts: list[tuple[bool, int]], failing: set[int], flushes: set[int]
) -> None:
    audio = np.concatenate([np.full(n, 8_000 * loud, np.int16) for loud, n in parts])
    engines = Engines(fails=lambda job: job.number in failing)
    table = desk(engines=engines, windows=WindowOptions(cap_ms=2_500))
    for i, start in enumerate(range(0, len(audio), 4_000)):
        table.play(audio[start : start + 4_000])
        if i in flushes:
            table.session.flush()
    check_all(table.end())


@pytest.mark.parametrize("kind", list(JobKind))
@pytest.mark.parametrize("every", [1, 2, 3])
def test_failures_of_any_kind_lose_no_sample_in_silence(kind: JobKind, every: int) -> None:
    engines = Engines()
    engines.fails = lambda job: job.kind is kind and len(engines.asked) % every == 0
    table = desk(engines=engines, windows=WindowOptions(cap_ms=4_000))
    table.play(conversation(words=60))
    events = table.end()
    check_all(events)
    if kind is not JobKind.RECOGNIZE:
        assert words_of(events) == word_texts(range(60))


def test_a_lone_failing_final_gives_exactly_one_gap() -> None:
    engines = Engines()
    finals: list[int] = []

    def fails(job: Job) -> bool:
        if job.kind is JobKind.RECOGNIZE and job.is_final:
            finals.append(job.number)
        return len(finals) == 1 and job.number == finals[0]

    engines.fails = fails
    table = desk(engines=engines)
    table.play(conversation())
    events = table.end()
    check_all(events)
    (gap,) = of_type(Gap, events)
    # Six words of 5,120 samples and the tail behind the last carrier, in whole frames.
    assert gap.span == Span(0, 5 * 5_120 + 4_096 + 4_096)
    assert words_of(events) == word_texts(range(6, 12))


@pytest.mark.parametrize("silent_ms", range(0, 700, 100))
def test_a_cap_in_the_silence_behind_speech_counts_nothing_twice(silent_ms: int) -> None:
    """The cut may fail there: its gap must not reach behind the utterance's end."""
    engines = Engines(fails=lambda job: job.kind is JobKind.RECOGNIZE)
    cap_ms = 5 * 320 + silent_ms
    table = desk(engines=engines, windows=WindowOptions(cap_ms=max(2_001, cap_ms)))
    table.play(np.concatenate([speech(range(cap_ms // 320)), silence(3)]))
    check_all(table.end())


def test_long_speech_without_a_pause_is_cut_and_no_word_is_lost() -> None:
    table = desk()
    table.play(conversation(words=200, pause_s=0.0))
    assert len(table.texts) >= 2, "captions come before the speech ends"
    events = table.end()
    check_all(events)
    assert words_of(events) == word_texts(range(200))
    assert (
        max(job.audio_samples for job in table.engines.asked if job.kind is JobKind.RECOGNIZE)
        <= 20 * SAMPLE_RATE_HZ
    )


def test_a_final_without_words_withdraws_what_was_shown() -> None:
    def deaf_in_the_end(job: Job, answers: list[Answer]) -> list[Answer]:
        is_final = job.kind is JobKind.RECOGNIZE and job.is_final
        return [Hypothesis(())] if is_final else answers

    table = desk(engines=Engines(changes=deaf_in_the_end))
    table.play(conversation())
    events = table.end()
    check_all(events)
    last = {partial.caption_id: partial.text for partial in of_type(Partial, events)}
    assert last == {"c1": "", "c2": ""}
    assert of_type(Final, events) == []


def test_what_a_client_may_forget_never_comes_back_where_its_audio_starts_anew() -> None:
    table = desk(Start(audio=AudioFormat(sample_rate=44_100)))
    second = bytes(2 * 44_100)
    table.send(second)
    table.session.skip(1, table.now_ns)
    table.settle()
    before = table.session.stored_through_frame
    assert before == 44_100 + 44
    table.holds = lambda job: job.kind is JobKind.DETECT
    table.send(second)
    table.session.skip(1, table.now_ns)
    assert table.session.stored_through_frame >= before
