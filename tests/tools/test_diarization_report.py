"""The report's own arithmetic: its error rates are pyannote's, its words are counted once."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.scoring import turn_errors
from streaming.engines import ClusterQuestion, Clusters, DiarizerProfile, Observation
from streaming.timeline import SAMPLE_RATE_HZ, Span
from streaming.turns import Turn
from tools.diarization_report.attribution import agreements
from tools.diarization_report.crossing import crossings
from tools.diarization_report.embedded import Line
from tools.diarization_report.errors import Errors, errors
from tools.diarization_report.recordings import Kind, read_rttm
from tools.diarization_report.tables import Promise, table_of_promises
from tools.diarization_report.trial import live, whole

FRAME = SAMPLE_RATE_HZ // 100

turns = st.lists(
    st.tuples(st.sampled_from("ABC"), st.integers(0, 50), st.integers(1, 20)),
    min_size=1,
    max_size=6,
).map(
    lambda found: sorted(
        {
            Turn(Span(10 * FRAME * start, 10 * FRAME * (start + length)), name)
            for name, start, length in found
        }
    )
)


@pytest.mark.slow
@settings(max_examples=20, deadline=None)
@given(turns, turns)
def test_error_rates_are_those_of_pyannote_metrics(truth: list[Turn], said: list[Turn]) -> None:
    """On times that lie on frames, for turns of one speaker that do not overlap."""
    truth, said = _apart(truth), _apart(said)
    ours, theirs = errors(truth, said), turn_errors(truth, said)
    assert ours.der == pytest.approx(theirs.der, abs=1e-3)
    assert ours.confused_s == pytest.approx(theirs.confused_s, abs=1e-3)


def _apart(turns: list[Turn]) -> list[Turn]:
    kept: list[Turn] = []
    for turn in turns:
        own = [t for t in kept if t.speaker == turn.speaker]
        if all(t.span.end < turn.span.start for t in own):
            kept.append(turn)
    return kept


def test_rttm_is_read_in_order_of_time() -> None:
    lines = [
        "SPEAKER x 1 2.000 0.500 <NA> <NA> B <NA> <NA>",
        "SPEAKER x 1 0.250 1.000 <NA> <NA> A <NA> <NA>",
        ";; a comment",
    ]
    assert read_rttm(lines) == [Turn(Span(4_000, 20_000), "A"), Turn(Span(32_000, 40_000), "B")]


def test_words_agree_under_the_best_mapping() -> None:
    assert agreements("AABB", ["S2", "S2", "S1", None]) == 3
    assert agreements("AABB", ["S1", "S1", "S1", "S1"]) == 2
    assert agreements("AB", [None, None]) == 0


def test_promises_say_whether_they_are_met() -> None:
    table = table_of_promises([Promise("a", 0.1, 0.2), Promise("b", 0.1, 0.2, is_most=False)])
    assert [line.split(" | ")[-1].strip(" |") for line in table.splitlines()[2:]] == [
        "yes",
        "**no**",
    ]


def test_a_value_is_chosen_without_the_kind_that_it_is_judged_on() -> None:
    def line(kind: Kind, confused_s: float) -> Line:
        heard = Errors(100, 0, 0, confused_s)
        return Line(kind, 2, heard, heard, (0, 0))

    by_value = {
        1.0: [line(Kind.MIX, 1), line(Kind.TALK, 9)],
        2.0: [line(Kind.MIX, 5), line(Kind.TALK, 2)],
        3.0: [line(Kind.MIX, 9), line(Kind.TALK, 2.1)],
    }
    mix, talk = crossings(by_value)
    assert (mix.chosen, mix.line.last.confused_s) == ((2.0, 3.0), 5)
    assert (talk.chosen, talk.line.last.confused_s) == ((1.0,), 9)


def test_a_trial_ends_where_the_whole_recording_does() -> None:
    profile = DiarizerProfile(25_600, 12_800, 9_600)
    samples = np.repeat(np.array([1, 2], np.int16), 10 * SAMPLE_RATE_HZ)
    speech = ((Span(0, 10 * SAMPLE_RATE_HZ),), (Span(11 * SAMPLE_RATE_HZ, 20 * SAMPLE_RATE_HZ),))

    def observe(chunks: object) -> list[Observation]:
        assert isinstance(chunks, list)
        rows = [np.eye(2, dtype=np.float32)[[int(chunk.samples[0]) - 1]] for chunk in chunks]
        return [Observation(np.ones((1, 1), np.float32), row) for row in rows]

    def group(question: ClusterQuestion) -> Clusters:
        return Clusters(np.unique(question.embeddings[:, 1], return_inverse=True)[1])

    outcome = live(profile, samples, speech, observe, group)
    assert outcome.last == whole(profile, samples, speech, observe, group)
    assert {turn.speaker for turn in outcome.last} == {"S1", "S2"}
    assert errors(outcome.last, outcome.first).confused_s == 0
