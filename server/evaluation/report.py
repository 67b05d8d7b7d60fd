"""Scores into what people and programs read: one line per recording, totals, a Markdown table.

Totals pool counts (all errors over all reference words, all seconds of error over all seconds of
speech, all words' delays), so a long recording weighs more than a short one. Recordings without a
part of the truth are left out of the metrics that need it; ``scored`` says how many were in.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import reduce
from operator import add
from typing import Any, TypeVar

from clients.delays import quantiles
from server.evaluation.evaluate import Evaluated, Failed, Plan
from server.evaluation.score import Scores, SpeakerTextScores, TextScores
from server.evaluation.speaker_words import TCPWER_COLLAR_S
from server.scoring import TurnErrors, rate

Line = dict[str, Any]
C = TypeVar("C")
OFFLINE, STREAMING = "offline", "streaming"
STAGES = ("vad", "asr", "diarizer")


def lines(outcomes: Iterable[Evaluated | Failed]) -> list[Line]:
    """One per recording, in order."""
    return [
        {"type": "file", "audio": outcome.name, "error": outcome.problem}
        if isinstance(outcome, Failed)
        else {"type": "file", "audio": outcome.scores.name, **_figures([outcome.scores])}
        for outcome in outcomes
    ]


def totals(outcomes: Sequence[Evaluated | Failed], plan: Plan) -> Line:
    """The last line."""
    done = [outcome for outcome in outcomes if isinstance(outcome, Evaluated)]
    scores = [outcome.scores for outcome in done]
    return {
        "type": "totals",
        "mode": OFFLINE if plan.is_offline else STREAMING,
        "pace": None if plan.is_offline else plan.pace.value,
        "engines": done[0].heard.engines if done else {},
        "options": list(plan.serve_options),
        "files": len(done),
        "failed": len(outcomes) - len(done),
        "scored": {
            "text": sum(s.text is not None for s in scores),
            "speaker_text": sum(s.speaker_text is not None for s in scores),
            "turns": sum(s.turns is not None for s in scores),
        },
        **_figures(scores),
    }


def _figures(scores: Sequence[Scores]) -> Line:
    audio_s = sum(s.audio_s for s in scores)
    compared = [s for s in scores if s.speakers is not None and s.reference_speakers is not None]
    return {
        "audio_seconds": round(audio_s, 3),
        "gap_seconds": round(sum(s.gap_s for s in scores), 3),
        "words": sum(s.words for s in scores),
        "speakers": sum(s.speakers or 0 for s in compared) if compared else None,
        "reference_speakers": sum(s.reference_speakers or 0 for s in compared)
        if compared
        else None,
        **_text_figures([s.text for s in scores if s.text]),
        **_turn_figures(
            _pooled([s.turns for s in scores if s.turns]),
            _pooled([s.turns_first_label for s in scores if s.turns_first_label]),
        ),
        **_speaker_text_figures([s.speaker_text for s in scores if s.speaker_text]),
        **_delay_figures(scores, audio_s),
        "rtfx": _rtfx(scores),
        "wall_seconds": round(sum(s.timing.wall_s or 0.0 for s in scores), 2),
    }


def _pooled(parts: Sequence[C]) -> C | None:
    return reduce(add, parts) if parts else None


def _of(part: C | None, figure: Callable[[C], Any]) -> Any:
    return None if part is None else figure(part)


def _text_figures(parts: Sequence[TextScores]) -> Line:
    words = _pooled([part.words for part in parts])
    return {
        "reference_words": _of(words, lambda w: w.reference),
        "wer": _of(words, lambda w: w.rate),
        "substitutions": _of(words, lambda w: w.substitutions),
        "deletions": _of(words, lambda w: w.deletions),
        "insertions": _of(words, lambda w: w.insertions),
        "wer_whisper_norm": _of(
            _pooled([part.words_whisper_norm for part in parts]), lambda w: w.rate
        ),
        "cer": _of(_pooled([part.characters for part in parts]), lambda w: w.rate),
    }


def _turn_figures(turns: TurnErrors | None, first: TurnErrors | None) -> Line:
    return {
        "der": _of(turns, lambda t: t.der),
        "der_miss": _of(turns, lambda t: t.share(t.missed_s)),
        "der_false_alarm": _of(turns, lambda t: t.share(t.false_alarm_s)),
        "der_confusion": _of(turns, lambda t: t.share(t.confused_s)),
        "der_first_label": _of(first, lambda t: t.der),
        "jer": _of(turns, lambda t: t.jer),
    }


def _speaker_text_figures(parts: Sequence[SpeakerTextScores]) -> Line:
    return {
        "cpwer": _of(_pooled([part.cp for part in parts]), lambda p: p.rate),
        "tcpwer": _of(_pooled([part.tcp for part in parts]), lambda p: p.rate),
        "attribution": _of(_pooled([part.attribution for part in parts]), lambda p: p.rate),
    }


def _delay_figures(scores: Sequence[Scores], audio_s: float) -> Line:
    timings = [s.timing for s in scores]
    revisions = sum(s.revisions for s in scores)
    return {
        "first_shown_s": _quantiles([t.first_shown_s for t in timings]),
        "final_s": _quantiles([t.final_s for t in timings]),
        "revisions_per_minute": rate(60 * revisions, audio_s),
        "revision_age_s": _quantiles([t.revision_ages_s for t in timings]),
    }


def _quantiles(many: Sequence[tuple[float, ...] | None]) -> dict[str, float | None] | None:
    """Of all values together; None where no time passed, as offline."""
    known = [values for values in many if values is not None]
    return quantiles(value for values in known for value in values) if known else None


def _rtfx(scores: Sequence[Scores]) -> dict[str, float | None]:
    """Audio seconds per second of engine time: of the whole session, and of each stage."""
    found: dict[str, float | None] = {
        "session": _speed((s.audio_s, s.timing.rtfx and s.audio_s / s.timing.rtfx) for s in scores)
    }
    for stage in STAGES:
        found[stage] = _speed((s.audio_s, (s.timing.engine_s or {}).get(stage)) for s in scores)
    return found


def _speed(pairs: Iterable[tuple[float, float | None]]) -> float | None:
    known = [(audio_s, used_s) for audio_s, used_s in pairs if used_s]
    used_s = sum(used for _, used in known)
    return round(sum(audio for audio, _ in known) / used_s, 2) if known else None


COLUMNS: tuple[tuple[str, Callable[[Line], Any]], ...] = (
    ("audio s", lambda line: f"{line['audio_seconds']:.0f}"),
    ("WER", lambda line: line["wer"]),
    ("WER, Whisper norm", lambda line: line["wer_whisper_norm"]),
    ("CER", lambda line: line["cer"]),
    ("DER", lambda line: line["der"]),
    (
        "miss / false alarm / confusion",
        lambda line: _joined(line["der_miss"], line["der_false_alarm"], line["der_confusion"]),
    ),
    ("DER, first label", lambda line: line["der_first_label"]),
    ("JER", lambda line: line["jer"]),
    ("cpWER", lambda line: line["cpwer"]),
    ("tcpWER", lambda line: line["tcpwer"]),
    ("attribution", lambda line: line["attribution"]),
    ("speakers found", lambda line: _out_of(line["speakers"], line["reference_speakers"])),
    ("first shown p50 / p95 s", lambda line: _p50_p95(line["first_shown_s"])),
    ("final p50 / p95 s", lambda line: _p50_p95(line["final_s"])),
    ("revisions per min", lambda line: line["revisions_per_minute"]),
    ("revision age p50 / p95 s", lambda line: _p50_p95(line["revision_age_s"])),
    ("RTFx", lambda line: line["rtfx"]["session"]),
    ("RTFx vad / asr / diarizer", lambda line: _joined(*map(line["rtfx"].get, STAGES), digits=1)),
)


def as_markdown(files: Sequence[Line], total: Line) -> str:
    """One column per recording, and the conditions in words."""
    good = [line for line in files if "error" not in line]
    rows = [["", *(str(line["audio"]) for line in good), "**all**"]]
    rows += [[name, *(_cell(figure(line)) for line in [*good, total])] for name, figure in COLUMNS]
    table = [_row(rows[0]), _row(["---"] * len(rows[0])), *map(_row, rows[1:])]
    failed = [f"- {line['audio']}: failed, {line['error']}" for line in files if "error" in line]
    return "\n".join([*table, "", *conditions(total), *failed, ""])


def conditions(total: Line) -> list[str]:
    """What the figures mean, as a list."""
    engines = ", ".join(f"{stage}: {name}" for stage, name in total["engines"].items())
    said = [
        f"Mode: {_mode(total)}. Engines: {engines or 'none'}. "
        f"Further options: {' '.join(total['options']) or 'none'}.",
        "WER and CER: lower case without punctuation. DER and JER: no collar, overlap scored; "
        "turns from the words' speakers, pauses up to 0.5 s bridged. "
        f"tcpWER: collar {TCPWER_COLLAR_S:g} s. Attribution: share of the recognized words.",
    ]
    if total["pace"] == "max":
        said.append(
            "Audio was sent as fast as the server's credit allows: delays and revision ages hold "
            "the time that it waited there, and say nothing about live use."
        )
    return [f"- {sentence}" for sentence in said]


def _mode(total: Line) -> str:
    return str(total["mode"]) + (f", pace {total['pace']}" if total["pace"] else "")


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _joined(*values: float | None, digits: int = 3) -> str | None:
    if all(value is None for value in values):
        return None
    return " / ".join("–" if value is None else f"{value:.{digits}f}" for value in values)


def _out_of(found: int | None, there: int | None) -> str | None:
    return None if found is None else f"{found} for {there}"


def _p50_p95(found: dict[str, float | None] | None) -> str | None:
    return None if found is None else _joined(found["p50"], found["p95"], digits=2)
