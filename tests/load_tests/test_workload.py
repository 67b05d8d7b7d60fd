"""Plans are reproducible, fit their duration, and the audio says what the plan says."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from load_tests.workload import CANONICAL, MONOLOGUE, WORKLOADS, Workload, packets_of, plan_stream
from streaming.scripted_audio import decode_words

streams = st.integers(0, 2**32 - 1)


@given(streams, st.floats(3, 40), st.integers(0, 100), st.sampled_from(list(WORKLOADS.values())))
def test_audio_holds_exactly_the_planned_words(
    stream: int, seconds: float, seed: int, workload: Workload
) -> None:
    plan = plan_stream(workload, stream, seconds=seconds, seed=seed)
    samples = np.frombuffer(b"".join(packets_of(plan)), np.int16)
    found = [(w.text, w.span.start, w.speaker) for w in decode_words(samples)]
    assert found == [(word.text, word.start, word.speaker) for word in plan.words]
    assert len(samples) == plan.samples == round(seconds * 16_000)


def test_the_same_seed_says_the_same_and_another_does_not() -> None:
    plan = plan_stream(CANONICAL, 7, seconds=60, seed=1)
    assert plan == plan_stream(CANONICAL, 7, seconds=60, seed=1)
    assert plan.words != plan_stream(CANONICAL, 7, seconds=60, seed=2).words
    assert plan.words != plan_stream(CANONICAL, 8, seconds=60, seed=1).words


def test_packets_are_of_one_length_but_the_last() -> None:
    plan = plan_stream(CANONICAL, 1, seconds=3.05, seed=1)
    lengths = [len(packet) for packet in packets_of(plan)]
    assert lengths == [3_200] * 30 + [1_600]
    assert len(lengths) == plan.packets


def test_packet_of_a_word_carries_its_last_sample() -> None:
    plan = plan_stream(CANONICAL, 1, seconds=10, seed=1)
    packets = list(packets_of(plan))
    word = plan.words[0]
    packet = plan.packet_of(word.end)
    before = np.frombuffer(b"".join(packets[:packet]), np.int16)
    through = np.frombuffer(b"".join(packets[: packet + 1]), np.int16)
    assert word.text not in [found.text for found in decode_words(before)]
    assert word.text in [found.text for found in decode_words(through)]


def test_utterances_end_with_their_last_word() -> None:
    plan = plan_stream(CANONICAL, 3, seconds=60, seed=1)
    last_of = {word.utterance_end: word.end for word in plan.words}
    assert all(end == last for end, last in last_of.items())
    assert 10 < plan.speech_seconds < 50


def test_monologue_outlasts_the_longest_window() -> None:
    plan = plan_stream(MONOLOGUE, 1, seconds=60, seed=1)
    first = plan.words[0]
    assert first.utterance_end - first.start > 20 * 16_000
