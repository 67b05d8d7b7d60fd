"""Lines, totals and the table: what is pooled, and what stays unknown."""

import dataclasses

import pytest

from clients.pacing import Pace
from server.evaluation.evaluate import Evaluated, Failed, Plan
from server.evaluation.files import session_of
from server.evaluation.plots import best_mapping
from server.evaluation.report import as_markdown, lines, totals
from server.evaluation.score import Timing, score
from server.evaluation.truth import Truth
from streaming.turns import Turn
from tests.evaluations import RECORDING, SaidWord, heard_of, said, span, truth_of

REALTIME = Plan(False, Pace.REALTIME, "a", None, "d")
TOTAL_KEYS = [
    *("wer", "cer", "der", "der_first_label", "jer", "cpwer", "tcpwer", "attribution"),
    *("first_shown_s", "final_s"),
]


def evaluated(
    name: str, truth: Truth, heard: list[SaidWord], timing: Timing | None = None
) -> Evaluated:
    recording = dataclasses.replace(RECORDING, name=name)
    found = heard_of(heard) if heard else heard_of()
    scores = score(recording, truth, found)
    if timing is not None:
        scores = dataclasses.replace(scores, timing=timing)
    return Evaluated(recording, truth, found, scores)


SHORT = evaluated("short", truth_of(said("a b", 0, "Ann")), said("a x", 0, "S1"))
LONG = evaluated(
    "long", truth_of(said("a b c d e f g h", 0, "Ann")), said("a b c d e f g h", 0, "S1")
)
NO_TRUTH = evaluated("none", Truth(), said("a", 0, "S1"))


def test_totals_pool_counts_and_not_rates() -> None:
    total = totals([SHORT, LONG], REALTIME)
    assert [line["wer"] for line in lines([SHORT, LONG])] == [0.5, 0]
    assert total["wer"] == 0.1
    assert total["cpwer"] == 0.1
    assert (total["reference_words"], total["substitutions"]) == (10, 1)
    assert total["attribution"] == 1
    assert total["audio_seconds"] == 120


def test_a_recording_without_truth_changes_no_rate() -> None:
    total = totals([SHORT, LONG, NO_TRUTH], REALTIME)
    assert total["wer"] == 0.1
    assert total["scored"] == {"text": 2, "speaker_text": 2, "turns": 2}
    assert (total["speakers"], total["reference_speakers"]) == (4, 2), "of those with turns"
    alone = totals([NO_TRUTH], REALTIME)
    assert [alone[key] for key in TOTAL_KEYS[:-2]] == [None] * (len(TOTAL_KEYS) - 2)


def test_totals_have_every_key_even_where_everything_failed() -> None:
    failed = Failed("broken", "cannot read it")
    total = totals([failed], REALTIME)
    assert [total[key] for key in TOTAL_KEYS] == [None] * len(TOTAL_KEYS)
    assert (total["files"], total["failed"]) == (0, 1)
    (line,) = lines([failed])
    assert line == {"type": "file", "audio": "broken", "error": "cannot read it"}
    assert "- broken: failed, cannot read it" in as_markdown([line], total)


def test_engine_speed_is_audio_over_engine_time() -> None:
    fast = Timing(engine_s={"asr": 10.0, "vad": 1.0}, rtfx=6.0)
    slow = Timing(engine_s={"asr": 50.0, "vad": 2.0}, rtfx=1.2)
    done = [
        evaluated("a", Truth(), said("a", 0, "S1"), fast),
        evaluated("b", Truth(), said("a", 0, "S1"), slow),
    ]
    assert [line["rtfx"]["asr"] for line in lines(done)] == [6.0, 1.2]
    assert totals(done, REALTIME)["rtfx"] == {
        "session": 2.0,
        "vad": 40.0,
        "asr": 2.0,
        "diarizer": None,
    }


def test_delays_are_pooled_over_words() -> None:
    done = [
        evaluated("a", Truth(), said("a", 0, "S1"), Timing(final_s=(1.0,), first_shown_s=(0.5,))),
        evaluated("b", Truth(), said("a", 0, "S1"), Timing(final_s=(2.0, 3.0), first_shown_s=())),
    ]
    total = totals(done, REALTIME)
    assert total["final_s"]["p50"] == 2.0
    assert total["first_shown_s"]["p50"] == 0.5
    assert total["revision_age_s"] is None


@pytest.mark.parametrize(("pace", "is_told"), [(Pace.MAX, True), (Pace.REALTIME, False)])
def test_the_table_says_when_delays_mean_nothing(pace: Pace, is_told: bool) -> None:
    total = totals([SHORT], dataclasses.replace(REALTIME, pace=pace))
    table = as_markdown(lines([SHORT]), total)
    assert ("say nothing about live use" in table) is is_told
    rows = [line for line in table.splitlines() if line.startswith("|")]
    assert len({row.count("|") for row in rows}) == 1, "every row has as many cells"


def test_sessions_of_files_have_no_spaces() -> None:
    odd = dataclasses.replace(SHORT, scores=dataclasses.replace(SHORT.scores, name="a b/c d.flac"))
    assert session_of(odd) == "a_b_c_d"


def test_the_timeline_maps_speakers_by_shared_time() -> None:
    truth = [Turn(span(0, 4), "Ann"), Turn(span(4, 8), "Bob")]
    heard = [Turn(span(0, 3), "S2"), Turn(span(3, 8), "S1"), Turn(span(9, 10), "S3")]
    assert best_mapping(truth, heard) == {"S2": "Ann", "S1": "Bob"}
