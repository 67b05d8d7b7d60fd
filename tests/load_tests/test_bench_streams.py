"""The bench's sections about many streams: their speech, their arithmetic, and that they run."""

from pathlib import Path

import numpy as np
import pytest

from load_tests.bench import __main__ as bench
from load_tests.bench.rotated_speech import NoVoices, rotated, speech_seconds, utterances_of
from load_tests.bench.sections.live_profile import Timed
from load_tests.bench.sections.scripted_streams import Load
from load_tests.bench.sections.whisper_costs import _least
from load_tests.loop_cost import LagWatch
from server.scoring import normalized
from streaming.engines import ACTIVITY_FRAME_SAMPLES
from streaming.timeline import SAMPLE_RATE_HZ

SECONDS = 12.0


@pytest.fixture(scope="module")
def _voices() -> None:
    try:
        utterances_of(SECONDS, 1)
    except NoVoices as missing:
        pytest.skip(str(missing))


@pytest.mark.usefixtures("_voices")
def test_all_streams_say_the_same_each_from_another_sentence_on() -> None:
    first, second, third = rotated(SECONDS, 3, 1)
    assert len(first.samples) == len(second.samples) == len(third.samples)
    said = [[word.text for word in one.words] for one in (first, second, third)]
    assert said[0] != said[1] != said[2]
    assert sorted(said[0]) == sorted(said[1]) == sorted(said[2])
    assert all(len(normalized(word).split()) == 1 for word in said[0])
    assert 0 < speech_seconds(SECONDS, 1) < SECONDS


@pytest.mark.usefixtures("_voices")
def test_an_utterance_sounds_the_same_in_every_stream() -> None:
    pieces = utterances_of(SECONDS, 1)
    assert len(pieces) > 1
    for recording in rotated(SECONDS, len(pieces), 1):
        samples, size = recording.samples, len(pieces[0].samples)
        starts = range(0, len(samples), ACTIVITY_FRAME_SAMPLES)
        assert any(np.array_equal(samples[at : at + size], pieces[0].samples) for at in starts)


@pytest.mark.usefixtures("_voices")
def test_words_lie_where_they_are_heard() -> None:
    for recording in rotated(SECONDS, 2, 1):
        ends = [word.span.end for word in recording.words]
        assert ends == sorted(ends)
        loud = np.abs(recording.samples.astype(np.int32))
        for word in recording.words:
            assert loud[word.span.start : word.span.end].max() > 500
        assert loud[: SAMPLE_RATE_HZ // 2].max() < 500, "a stream begins with a pause"


def load(p95_s: float, *, lost: int = 0, late_s: float = 0.001, others: float = 0.0) -> Load:
    delays = {"p50": p95_s / 2, "p95": p95_s, "p99": p95_s}
    figures = {
        "words_lost": lost,
        "words_doubled": 0,
        "errors": {},
        "refusals": {},
        "first_shown_s": delays,
        "final_after_utterance_s": {**delays, "p95": p95_s + 0.1},
        "lateness_s": {"p50": 0.0, "p95": 0.0, "p99": late_s, "max": late_s},
    }
    return Load(figures, others)


def test_many_streams_are_judged_by_what_they_add_to_a_few() -> None:
    few = load(0.8)
    assert load(0.9).added_s(few) == pytest.approx(0.1)
    assert load(0.9).holds(few)
    assert not load(0.96).holds(few)
    assert not load(0.8, lost=1).holds(few)


def test_a_late_load_or_a_busy_machine_makes_a_run_void() -> None:
    assert not load(0.8).is_void
    assert load(0.8, late_s=0.03).is_void
    assert load(0.8, others=0.1).is_void


def test_a_ceiling_counts_the_cheapest_row_of_any_batch() -> None:
    encoder = {
        "float32, 10 s, 1 rows": 50.0,
        "float32, 30 s, 1 rows": 200.0,
        "float32, 30 s, 4 rows": 600.0,
        "bfloat16, 30 s, 1 rows": 90.0,
    }
    verify = {"float32, 1 rows": 10.0, "float32, 4 rows": 20.0, "bfloat16, 1 rows": 5.0}
    assert _least(encoder, verify, "float32", 30) == pytest.approx(0.155)
    assert _least(encoder, verify, "float32", 10) == pytest.approx(0.06)


def test_lag_without_what_the_loop_waited_for_a_processor() -> None:
    watch = LagWatch()
    for late_s, waited_s in ((0.03, 0.02), (-0.001, 0.0), (0.01, 0.02)):
        watch.note(late_s, waited_s)
    assert watch.lags_s == [0.03, 0.0, 0.01]
    assert watch.own_lags_s == pytest.approx([0.01, 0.0, 0.0])


@pytest.mark.slow
def test_seconds_are_noted_by_kind_and_stage() -> None:
    from load_tests.bench.whisper_runs import engine_of, trained
    from server.engines.demo_whisper import demo_checkpoint
    from streaming.engines import SpeechWindow

    if demo_checkpoint() is None:
        pytest.skip("this build has no demo checkpoint")
    timed = Timed(engine_of(trained(1)))
    samples = np.random.default_rng(0).integers(-900, 900, SAMPLE_RATE_HZ).astype(np.int16)
    timed.recognize([SpeechWindow(samples, is_final=False)] * 2)
    timed.recognize([SpeechWindow(samples)])
    assert timed.windows == {"partials": 2, "finals": 1}
    assert timed.seconds["finals: encoder"] > timed.seconds["finals: features"] > 0


@pytest.mark.slow
@pytest.mark.usefixtures("_voices")
def test_the_silero_section_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "latest.json"
    assert bench.main(["--output", str(path), "--quick", "--only", "silero loop"]) in (0, 1)
    assert "event_loop_lag_ms_p99" in capsys.readouterr().out
    assert not path.exists()
