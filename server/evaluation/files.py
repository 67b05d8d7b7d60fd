"""What was said and what was heard, as files that the metrics' own programs read.

All recordings in one file per format, words in lower case without punctuation, so that
``meeteval-wer``, ``jiwer`` and RTTM tools give the very figures of ``totals.json``.
"""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import orjson

from server.evaluation.evaluate import Evaluated
from server.evaluation.report import Line
from server.evaluation.speaker_words import SegLst, hypothesis_words, reference_words, seglst
from server.scoring import normalized, turns_of_words
from streaming.timeline import SAMPLE_RATE_HZ
from streaming.turns import Turn


def write_results(folder: Path, files: Sequence[Line], total: Line, table: str) -> None:
    """Raises: OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "table.md").write_text(table, encoding="utf-8")
    indented = orjson.dumps(total, option=orjson.OPT_INDENT_2)
    (folder / "totals.json").write_bytes(indented + b"\n")
    (folder / "files.jsonl").write_bytes(b"".join(orjson.dumps(line) + b"\n" for line in files))


def write_hypotheses(folder: Path, done: Sequence[Evaluated]) -> None:
    """References beside hypotheses; recordings without a kind of truth are left out of its files.

    Raises: OSError.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with_text = [e for e in done if e.truth.text is not None]
    _write_lines(folder / "reference.txt", (normalized(e.truth.text or "") for e in with_text))
    _write_lines(folder / "hypothesis.txt", (normalized(e.heard.text) for e in with_text))
    with_turns = [e for e in done if e.truth.turns is not None and e.heard.has_speakers]
    _write_rttm(folder / "reference.rttm", ((e, e.truth.turns or ()) for e in with_turns))
    _write_rttm(
        folder / "hypothesis.rttm", ((e, turns_of_words(e.heard.words)) for e in with_turns)
    )
    with_segments = [e for e in done if e.truth.segments is not None and e.heard.has_speakers]
    _write_seglst(
        folder / "reference.json",
        (seglst(reference_words(e.truth.segments or ()), session_of(e)) for e in with_segments),
    )
    _write_seglst(
        folder / "hypothesis.json",
        (seglst(hypothesis_words(e.heard.words), session_of(e)) for e in with_segments),
    )


def session_of(evaluated: Evaluated) -> str:
    """The recording's name without spaces, its folders kept apart by underscores."""
    return re.sub(r"[\s/\\]+", "_", str(Path(evaluated.scores.name).with_suffix("")))


def _write_lines(path: Path, lines: Iterable[str]) -> None:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _write_rttm(path: Path, many: Iterable[tuple[Evaluated, Sequence[Turn]]]) -> None:
    _write_lines(
        path,
        (
            f"SPEAKER {session_of(evaluated)} 1 {turn.span.start / SAMPLE_RATE_HZ:.6f} "
            f"{turn.span.samples / SAMPLE_RATE_HZ:.6f} <NA> <NA> "
            f"{'_'.join(turn.speaker.split())} <NA> <NA>"
            for evaluated, turns in many
            for turn in turns
        ),
    )


def _write_seglst(path: Path, many: Iterable[SegLst]) -> None:
    segments = [segment for one in many for segment in one]
    path.write_bytes(orjson.dumps(segments, option=orjson.OPT_INDENT_2) + b"\n")
