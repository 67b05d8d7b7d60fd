"""The comparison's rows, ratios and page."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from load_tests.bench.speech import Recording
from load_tests.peers.held import Probe
from load_tests.peers.probing import Bench, Conditions, _failures
from load_tests.peers.report import (
    Row,
    as_json,
    as_markdown,
    failed_row,
    row_of,
    times_best_peer,
    wer_above_best_peer,
    wer_above_best_peer_at_most,
)
from load_tests.peers.system import System
from load_tests.peers.talking import Heard
from load_tests.peers.whisper_live import WhisperLiveDialect
from tests.load_tests.test_peers_held import GOOD


def never(folder: Path, streams: int) -> Any:
    raise AssertionError("nothing is started here")


def system(name: str, finals: str | None = None) -> System:
    options = ("--x", "1", "--model", "/home/somebody/tiny")
    return System(name, never, WhisperLiveDialect, options, "why", finals, {"x": "1.0"})


def row(name: str, held: int, *, wer: float = 0.1, finals: str | None = None) -> Row:
    probes = {held: replace(GOOD, streams=held), 1: replace(GOOD, streams=1, wer=wer)}
    bench = Bench(system(name, finals), Conditions(60.0, 1), probes)
    return row_of(bench, {"streams_held": held, "streams_held_strict": 1})


def test_ratios_are_to_the_best_peer_that_was_measured() -> None:
    rows = [
        row("ours", 12, finals="exact"),
        row("ours too", 20, finals="calibrated"),
        row("a", 2, wer=0.2),
        row("b", 1, wer=0.05),
        failed_row("c", "it does not start"),
    ]
    assert times_best_peer(rows) == {"exact": 6.0, "calibrated": 10.0}
    assert wer_above_best_peer(rows) == {"exact": 0.05, "calibrated": 0.05}


def test_word_errors_are_compared_where_the_streams_were_counted() -> None:
    rows = [row("ours", 12, finals="exact"), row("a", 2), row("b", 1, wer=0.05)]
    rows[0]["at_most"]["wer"], rows[1]["at_most"]["wer"] = 0.13, 0.1
    found = wer_above_best_peer_at_most(rows)
    assert found == {"exact": 0.03, "calibrated": None}, "b has fewer errors, and fewer streams"
    assert wer_above_best_peer_at_most(rows[:1])["exact"] is None


def test_a_peer_that_holds_none_counts_as_one_and_ours_may_be_missing() -> None:
    rows = [row("ours", 12, finals="exact"), failed_row("c", "no")]
    assert times_best_peer(rows) == {"exact": 12.0, "calibrated": None}
    assert wer_above_best_peer(rows) == {"exact": None, "calibrated": None}
    assert times_best_peer(rows[:1]) == {"exact": None, "calibrated": None}


def test_the_page_names_versions_options_failures_and_void_runs() -> None:
    busy: Probe = replace(GOOD, others_share=0.4)
    void = row_of(
        Bench(system("b 0.1"), Conditions(60.0, 1), {1: busy}),
        {"streams_held": 1, "streams_held_strict": 0},
    )
    rows = [
        row("ours", 12, finals="exact"),
        void,
        failed_row(system("c 0.2"), "it ended with 1:\nImportError: libcuda"),
    ]
    machine = {"cores": 2, "cpu": "AMD", "memory_gb": 8}
    told = {
        "date": "2026-01-02T03:04:05",
        "commit": "abc",
        "machine": machine,
        "ceilings": {"exact_finals_ceiling_streams": 17.0, "exact_ceiling_streams": None},
    }
    found = as_json(rows, {"description": "words", "weights": "tiny"}, told)
    page = as_markdown(found)
    assert "| ours | 12 | 1 | 0.1 |" in page
    assert "**Void**" in page
    assert "`exact_finals_ceiling_streams` 17.0, `exact_ceiling_streams` –" in page
    assert "b 0.1 ran" in page
    assert "ImportError: libcuda" in page
    assert "| c 0.2 | failed |" in page
    assert "x 1.0" in page
    assert "`--x 1 --model tiny`" in page
    assert found["is_void"]
    assert found["rows"][1]["probes"][0]["disturbances"]


def test_a_stream_that_failed_or_showed_nothing_is_told() -> None:
    recording = Recording("a", np.zeros(1, np.int16), ())
    good, refused, silent = Heard(recording), Heard(recording), Heard(recording)
    good.screen.show("yes", 1.0)
    refused.failure = "error overloaded: later"
    assert list(_failures([good, refused, silent])) == [
        "error overloaded: later",
        "it was done, and no text had come",
    ]
