"""The commands of ``captiond``, one module each; heavy imports wait until a command runs."""

from typing import Annotated

import typer

from clients.stream_command import stream
from server.commands.calibrate import calibrate
from server.commands.command_line import OneLineErrors
from server.commands.config import config
from server.commands.demo import demo
from server.commands.doctor import doctor
from server.commands.evaluate import evaluate
from server.commands.serve import serve
from server.commands.top import top

app = typer.Typer(
    name="captiond",
    cls=OneLineErrors,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="A caption daemon: live audio in over WebSocket, speaker-labelled captions out.",
)
app.command()(serve)
app.command()(stream)
app.command()(demo)
app.command("eval")(evaluate)
app.command()(calibrate)
app.command()(config)
app.command()(doctor)
app.command()(top)


def _show_version(wanted: bool) -> None:
    if wanted:
        from server.app import version

        print(f"captiond {version()}")
        raise typer.Exit


@app.callback()
def captiond(
    show_version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    """Common options."""
