"""``captiond eval``: recordings with a known answer through a server, and all metrics of them."""

import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import orjson
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from clients.pacing import Pace
from server.child import ServerDied, run_with_server
from server.config import ConfigError
from server.engines.errors import EngineUnavailable

if TYPE_CHECKING:
    from server.evaluation.evaluate import Evaluated, Failed, Plan
    from server.evaluation.manifest import BadLine, Recording

EXIT_FAILED, EXIT_USAGE = 1, 2
NEEDED = ("meeteval",)
NEEDED_FOR_OUTPUT = ("meeteval", "matplotlib")


def evaluate(
    manifest: Annotated[
        Path, typer.Argument(help="JSON lines: audio, and text, stm, rttm, ctm, language.")
    ],
    serve_options: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[-- OPTIONS]",
            help="Further options of captiond serve, after --.",
            show_default=False,
        ),
    ] = None,
    streaming: Annotated[
        bool,
        typer.Option(
            "--streaming/--offline",
            help="Through a server, or in one packet through a session alone.",
        ),
    ] = True,
    asr: Annotated[str, typer.Option(help="Speech recognition engine.")] = "auto",
    asr_model: Annotated[str | None, typer.Option(help="Its checkpoint folder or hub id.")] = None,
    diarizer: Annotated[str, typer.Option(help="Diarizer; none turns it off.")] = "embedded",
    pace: Annotated[
        Pace, typer.Option(help="As if spoken now, or as fast as the server takes it.")
    ] = Pace.REALTIME,
    url: Annotated[
        str | None, typer.Option(help="A running server, instead of one that is started.")
    ] = None,
    api_key: Annotated[
        str | None, typer.Option(envvar="CAPTIOND_API_KEY", help="Better given by environment.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="One line per recording, the totals as the last line.")
    ] = False,
    output: Annotated[
        Path | None, typer.Option(help="Write tables, hypotheses and plots to this folder.")
    ] = None,
) -> None:
    """Measure word errors, speaker errors and delays on recordings with a known answer."""
    from server.evaluation.evaluate import Plan
    from server.evaluation.manifest import EvaluationError, read_manifest

    missing = [
        name
        for name in (NEEDED_FOR_OUTPUT if output else NEEDED)
        if importlib.util.find_spec(name) is None
    ]
    if missing:
        _refuse(f"eval needs {' and '.join(missing)}: pip install 'captiond[eval]'", EXIT_FAILED)
    if url is not None and (serve_options or not streaming):
        _refuse("--url is for a server that runs; leave out --offline and options", EXIT_USAGE)
    try:
        entries = read_manifest(manifest)
    except EvaluationError as error:
        _refuse(str(error), EXIT_USAGE)
    if asr_model is not None and Path(asr_model).exists():
        asr_model = str(Path(asr_model).resolve())  # the server runs in a folder of its own
    options = tuple(serve_options or ())
    plan = Plan(not streaming, pace, asr, asr_model, diarizer, url, api_key, options)
    try:
        outcomes = run_with_server(_watched(entries, plan))
    except (ServerDied, ConfigError, EngineUnavailable, TimeoutError) as error:
        _refuse(str(error) or "the server was not ready in time", EXIT_FAILED)
    failed = _report(outcomes, plan, as_json=as_json, output=output)
    raise typer.Exit(EXIT_FAILED if failed else 0)


async def _watched(
    entries: "Sequence[Recording | BadLine]", plan: "Plan"
) -> "list[Evaluated | Failed]":
    """With a progress bar on standard error, in seconds of audio."""
    from server.evaluation.evaluate import Failed, evaluate

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:.0f} of {task.total:.0f} s"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    outcomes: list[Evaluated | Failed] = []
    is_hidden = not console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=is_hidden) as bar:
        task = bar.add_task("captioning", total=max(1.0, _total_seconds(entries)))
        async for outcome in evaluate(entries, plan, lambda seconds: bar.advance(task, seconds)):
            outcomes.append(outcome)
            if isinstance(outcome, Failed):
                console.print(
                    f"captiond: {outcome.name}: {outcome.problem}", markup=False, highlight=False
                )
    return outcomes


def _total_seconds(entries: "Sequence[Recording | BadLine]") -> float:
    """Of the recordings that can be read."""
    from clients.audio_source import AudioSourceError, FileSource
    from server.evaluation.manifest import Recording

    total = 0.0
    for entry in entries:
        if isinstance(entry, Recording):
            try:
                source = FileSource(entry.audio)
            except AudioSourceError:
                continue  # reported when its turn comes
            total += source.frames / source.audio.sample_rate
    return total


def _report(
    outcomes: "Sequence[Evaluated | Failed]", plan: "Plan", *, as_json: bool, output: Path | None
) -> bool:
    """Prints and writes everything; True where a recording failed."""
    from server.evaluation.evaluate import Evaluated
    from server.evaluation.files import write_hypotheses, write_results
    from server.evaluation.plots import write_plots
    from server.evaluation.report import as_markdown, lines, totals

    files, total = lines(outcomes), totals(outcomes, plan)
    table = as_markdown(files, total)
    if as_json:
        for line in [*files, total]:
            print(orjson.dumps(line).decode())
    else:
        print(table)
    if output is not None:
        done = [outcome for outcome in outcomes if isinstance(outcome, Evaluated)]
        try:
            write_results(output, files, total, table)
            write_hypotheses(output / "hypotheses", done)
            write_plots(output, done, plan)
        except OSError as error:
            _refuse(f"cannot write to {output}: {error.strerror or error}", EXIT_FAILED)
    return bool(total["failed"])


def _refuse(reason: str, code: int) -> NoReturn:
    print(f"captiond: {reason}", file=sys.stderr)
    raise typer.Exit(code)
