"""One command-line option per setting, for the commands that take all of them."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic.fields import FieldInfo

from server.config import Settings, flag_of, is_repeatable


def given_flags(flags: dict[str, Any]) -> dict[str, Any]:
    """Those that stand on the command line: the others are None or empty."""
    return {name: value for name, value in flags.items() if value not in (None, [], ())}


def with_settings_flags(command: Callable[..., None], name: str) -> Callable[..., None]:
    """Give a command ``--config`` and one option per setting, in place of its ``**flags``."""
    own = [
        parameter
        for parameter in inspect.signature(command).parameters.values()
        if parameter.kind is not inspect.Parameter.VAR_KEYWORD and parameter.name != "config"
    ]
    options = [_option(name, field) for name, field in Settings.model_fields.items()]
    config = inspect.Parameter(
        "config",
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[Path | None, typer.Option("--config", help="TOML file with options.")],
    )
    parameters = [*own, config, *options]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in parameters}
    command.__name__ = name
    return command


def _option(name: str, field: FieldInfo) -> inspect.Parameter:
    """A command-line option for a field of ``Settings``; None means: not given."""
    kind, flag = _flag_type(field), flag_of(name)
    declaration = f"{flag}/--no-{flag[2:]}" if kind is bool else flag
    shown = field.get_default(call_default_factory=True)
    default = "" if shown in (None, (), {}, False) else f" (default: {shown})"
    help_text = (field.description or "").replace("`", "") + default
    option = typer.Option(declaration, help=help_text, show_default=False)
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[list[str] | None if kind is list else kind | None, option],
    )


def _flag_type(field: FieldInfo) -> Any:
    """Text for everything that pydantic will check anyway; flags and lists need their kind."""
    if field.annotation is bool:
        return bool
    return list if is_repeatable(field) else str
