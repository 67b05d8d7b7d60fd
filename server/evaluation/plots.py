"""Pictures of an evaluation: when words came, and who was said to speak when.

Imports matplotlib when asked; without a display. The only module that knows it.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from clients.pacing import Pace
from server.evaluation.evaluate import Evaluated, Plan
from server.evaluation.files import session_of
from server.evaluation.speaker_words import SpokenWord, hypothesis_words, reference_words
from server.scoring import turns_of_words
from streaming.timeline import SAMPLE_RATE_HZ
from streaming.turns import Turn

LINE_SECONDS = 60.0
"""Of a timeline's one line; longer recordings get more lines."""
LINES_MAX = 10
"""A picture of more than ten minutes would not be looked at; the rest is left out."""
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f")
ROW_HEIGHT = 0.38
DPI = 110


def plot_delays(done: Sequence[Evaluated], plan: Plan, path: Path) -> bool:
    """Cumulative distribution over all words; False where nothing was timed."""
    timings = [evaluated.scores.timing for evaluated in done]
    curves = {
        "first shown": sorted(s for t in timings for s in t.first_shown_s or ()),
        "final": sorted(s for t in timings for s in t.final_s or ()),
    }
    if not any(curves.values()):
        return False
    figure, axes = _figure(1, height=4.0)
    for colour, (name, delays) in zip(COLOURS, curves.items(), strict=False):
        shares = np.arange(1, len(delays) + 1) / len(delays)
        axes[0].step(delays, shares, where="post", color=colour, label=f"{name}, {len(delays)}")
    axes[0].set(
        xlabel="seconds from sending a word's last sample to receiving the word",
        ylabel="share of words",
        ylim=(0, 1),
    )
    if plan.pace is Pace.MAX:
        axes[0].set_title("sent at once: this is how long audio waited, not how late captions are")
    axes[0].set_xlim(left=0)
    axes[0].grid(alpha=0.3)
    axes[0].legend(title="words")
    _save(figure, path)
    return True


def plot_timeline(evaluated: Evaluated, path: Path) -> None:
    """Per speaker: reference turns and words above, what was heard below in the same colour."""
    truth, heard = evaluated.truth, turns_of_words(evaluated.heard.words)
    reference = truth.turns or ()
    rows = _rows(reference, heard)
    seconds = evaluated.scores.audio_s
    lines = min(LINES_MAX, max(1, int(np.ceil(seconds / LINE_SECONDS))))
    figure, axes = _figure(lines, height=0.6 + 0.32 * len(rows))
    for number, axis in enumerate(axes):
        _draw_turns(axis, reference, rows, is_reference=True)
        _draw_turns(axis, heard, rows, is_reference=False)
        _draw_words(axis, reference_words(truth.segments or ()), rows, is_reference=True)
        _draw_words(axis, hypothesis_words(evaluated.heard.words), rows, is_reference=False)
        axis.set(
            xlim=(number * LINE_SECONDS, number * LINE_SECONDS + min(LINE_SECONDS, seconds)),
            ylim=(len(rows), 0),
            yticks=np.arange(len(rows)) + 0.5,
            yticklabels=[name for name, _ in rows],
        )
        axis.tick_params(labelsize=7)
    axes[0].set_title(
        f"{session_of(evaluated)}: above the line what was said, below what was heard (hatched); "
        "ticks are words",
        fontsize=9,
    )
    axes[-1].set_xlabel("seconds")
    _save(figure, path)


Rows = list[tuple[str, frozenset[str]]]
"""What a row is called, and the speakers, true (``=name``) or heard, that it shows."""


def _rows(reference: Sequence[Turn], heard: Sequence[Turn]) -> Rows:
    """One per true speaker with the heard one that overlaps most, then the others heard."""
    mapping = best_mapping(reference, heard)
    truth = list(dict.fromkeys(turn.speaker for turn in reference))
    rest = [s for s in dict.fromkeys(turn.speaker for turn in heard) if s not in mapping]
    partner = {true: said for said, true in mapping.items()}
    rows = [
        (
            f"{name} = {partner[name]}" if name in partner else name,
            frozenset({f"={name}", *([partner[name]] if name in partner else [])}),
        )
        for name in truth
    ]
    return [*rows, *((f"({name})", frozenset({name})) for name in rest)]


def best_mapping(reference: Sequence[Turn], heard: Sequence[Turn]) -> dict[str, str]:
    """Heard speaker to true one, so that most time is shared; pairs that share none are left."""
    from scipy.optimize import linear_sum_assignment

    truth = sorted({turn.speaker for turn in reference})
    said = sorted({turn.speaker for turn in heard})
    shared = np.zeros((len(said), len(truth)), np.int64)
    for turn in heard:
        for true in reference:
            overlap = turn.span.overlap_samples(true.span)
            shared[said.index(turn.speaker), truth.index(true.speaker)] += overlap
    pairs = zip(*linear_sum_assignment(-shared), strict=True)
    return {said[i]: truth[j] for i, j in pairs if shared[i, j]}


def _row_of(speaker: str | None, rows: Rows, *, is_reference: bool) -> int | None:
    wanted = f"={speaker}" if is_reference else speaker
    return next((i for i, (_, speakers) in enumerate(rows) if wanted in speakers), None)


def _draw_turns(axis: Any, turns: Iterable[Turn], rows: Rows, *, is_reference: bool) -> None:
    for turn in turns:
        row = _row_of(turn.speaker, rows, is_reference=is_reference)
        if row is not None:
            axis.barh(
                row + (0.28 if is_reference else 0.72),
                turn.span.samples / SAMPLE_RATE_HZ,
                left=turn.span.start / SAMPLE_RATE_HZ,
                height=ROW_HEIGHT,
                color=COLOURS[row % len(COLOURS)],
                alpha=0.75 if is_reference else 0.4,
                hatch=None if is_reference else "////",
                linewidth=0,
            )


def _draw_words(axis: Any, words: Iterable[SpokenWord], rows: Rows, *, is_reference: bool) -> None:
    """A tick where each word starts; a word of nobody stands at the bottom edge."""
    for word in words:
        row = _row_of(word.speaker, rows, is_reference=is_reference)
        at = len(rows) - 0.1 if row is None else row + (0.28 if is_reference else 0.72)
        axis.plot(
            [word.span.start / SAMPLE_RATE_HZ] * 2,
            [at - ROW_HEIGHT / 2, at + ROW_HEIGHT / 2],
            color="black",
            linewidth=0.5,
        )


def _figure(lines: int, height: float) -> tuple[Any, list[Any]]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # No pyplot: it would look for a display and keep every figure.
    figure = Figure(figsize=(14, height * lines + 0.4), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, list(figure.subplots(lines, 1, squeeze=False)[:, 0])


def _save(figure: Any, path: Path) -> None:
    figure.savefig(path, metadata={"Software": None})


def write_plots(folder: Path, done: Sequence[Evaluated], plan: Plan) -> list[Path]:
    """The distribution of delays, and a timeline for each recording. Raises: OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    delays = folder / "delays.png"
    paths = [delays] if plot_delays(done, plan, delays) else []
    for evaluated in done:
        path = folder / f"timeline-{session_of(evaluated)}.png"
        plot_timeline(evaluated, path)
        paths.append(path)
    return paths
