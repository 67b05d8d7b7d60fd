"""``captiond calibrate``: how short a context finals may have, on an operator's own recordings."""

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from server.config import ConfigError
from server.engines.errors import EngineUnavailable

if TYPE_CHECKING:
    from server.evaluation.calibrate import Trial
    from server.evaluation.manifest import Recording

EXIT_FAILED, EXIT_USAGE = 1, 2
LOSS_MAX = 0.005
SECONDS_MIN = 600.0
"""Of audio: in less, one wrong word is more than the bound."""


def calibrate(
    manifest: Annotated[
        Path, typer.Argument(help="JSON lines, as for eval: audio, and text where it is known.")
    ],
    output: Annotated[Path, typer.Option(help="The file for serve's --calibration-file.")] = Path(
        "calibration.json"
    ),
    asr: Annotated[str, typer.Option(help="Speech recognition engine.")] = "auto",
    asr_model: Annotated[str | None, typer.Option(help="Its checkpoint folder or hub id.")] = None,
    loss_max: Annotated[
        float, typer.Option(min=0, max=1, help="Word error rate that may be lost.")
    ] = LOSS_MAX,
) -> None:
    """Find how short a context Whisper's finals may have on your recordings, and write it down.

    Exit status: 0 a file was written, 1 no shorter context is good enough or something failed,
    2 wrong usage.
    """
    from server.engines.whisper_calibration import write_calibration
    from server.evaluation.calibrate import calibration_of, whisper_folder
    from server.evaluation.manifest import EvaluationError
    from server.settings_sources import settings_of_command_line

    model = ["--asr-model", asr_model] if asr_model else []
    words = ["--asr", asr, *model, "--diarizer", "none", "--log-level", "warning"]
    try:
        recordings = _recordings(manifest)
        found = asyncio.run(_until_good(recordings, words, loss_max))
        if found is None:
            _refuse(
                f"no context shorter than the full one loses {loss_max:g} or less here; leave "
                "--final-context at exact, or give --loss-max a higher bound",
                EXIT_FAILED,
            )
        folder = whisper_folder(settings_of_command_line(words))
        write_calibration(output, calibration_of(*found, folder))
    except (EvaluationError, ConfigError, EngineUnavailable, TimeoutError) as error:
        _refuse(str(error) or "an engine was not ready in time", EXIT_FAILED)
    except OSError as error:
        _refuse(f"cannot write {output}: {error.strerror or error}", EXIT_FAILED)
    seconds = found[0].audio_s
    if seconds < SECONDS_MIN:
        print(f"measured on {seconds:.0f} s of audio; 10 minutes or more say what a loss is worth")
    print(f"wrote {output}: captiond serve --final-context calibrated --calibration-file {output}")


def _recordings(manifest: Path) -> "list[Recording]":
    """Raises: EvaluationError where a line is no recording: its words would be missing."""
    from server.evaluation.manifest import EvaluationError, Recording, read_manifest

    recordings = []
    for entry in read_manifest(manifest):
        if not isinstance(entry, Recording):
            raise EvaluationError(f"{entry.name} of {manifest}: {entry.problem}")
        recordings.append(entry)
    return recordings


async def _until_good(
    recordings: "Sequence[Recording]", words: Sequence[str], loss_max: float
) -> "tuple[Trial, Trial] | None":
    """The full context and the shortest that is good enough, each with its line of the table."""
    from server.evaluation.calibrate import check_engine, loss, trials
    from server.evaluation.manifest import EvaluationError
    from server.settings_sources import settings_of_command_line

    check_engine(settings_of_command_line(words))  # before anything is loaded
    columns = TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn()
    console = Console(stderr=True)
    exact: Trial | None = None
    total_s = _seconds(recordings)
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("loading", total=total_s)

        def show(name: str, seconds: float) -> None:
            bar.update(task, description=f"context {name}", advance=seconds)

        _print_row(("context", "WER", "loss", "changed words", "engine time"))
        async for trial in trials(recordings, words, show):
            bar.reset(task, total=total_s)
            if exact is None:
                exact = trial
                if exact.is_empty:
                    raise EvaluationError("nothing is said in these recordings, or nothing heard")
            _print_trial(exact, trial)
            if trial is not exact and loss(exact, trial) <= loss_max:
                return exact, trial
    return None


def _seconds(recordings: "Sequence[Recording]") -> float:
    """Raises: EvaluationError."""
    from clients.audio_source import AudioSourceError, FileSource
    from server.evaluation.manifest import EvaluationError

    try:
        sources = [FileSource(recording.audio) for recording in recordings]
    except AudioSourceError as error:
        raise EvaluationError(str(error)) from None
    seconds = [source.frames / source.audio.sample_rate for source in sources]
    return float(sum(seconds))


def _print_trial(exact: "Trial", trial: "Trial") -> None:
    from server.evaluation.calibrate import loss

    changed = trial.changed.substitutions + trial.changed.deletions + trial.changed.insertions
    cells = (
        trial.name,
        f"{trial.wer:.4f}",
        f"{loss(exact, trial):+.4f}",
        str(changed),
        f"{trial.engine_s:.1f} s",
    )
    _print_row(cells)


def _print_row(cells: Sequence[str]) -> None:
    print("".join(f"{cell:<16}" for cell in cells).rstrip(), flush=True)


def _refuse(reason: str, code: int) -> NoReturn:
    print(f"captiond: {reason}", file=sys.stderr)
    raise typer.Exit(code)
