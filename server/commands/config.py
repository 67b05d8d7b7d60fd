"""``captiond config``: what the server would run with, and where each value comes from."""

import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer
from pydantic import SecretStr
from rich.console import Console
from rich.table import Table

from server.commands.settings_flags import given_flags, with_settings_flags
from server.config import ConfigError, Settings, flag_of, name_and_key, variable_of
from server.settings_sources import (
    Source,
    SourcedSettings,
    load_sourced_settings,
    unknown_variables,
)

WRONG_USAGE = 2
HIDDEN = "(hidden)"
_SECRET_OPTION = re.compile("token|secret|password|key", re.IGNORECASE)
_URL_PASSWORD = re.compile(r"(?<=://)([^:/]*):.*(?=@)")
"""Up to the last @: a password may hold a slash, and one of its own that should be written %40."""
_URL_PARAMETER = re.compile(f"([?&][^=&]*(?:{_SECRET_OPTION.pattern})[^=&]*)=[^&]*", re.IGNORECASE)


def _config(
    as_json: Annotated[
        bool, typer.Option("--json", help="An object: option → value, source, flag, variable.")
    ] = False,
    config: Path | None = None,
    **flags: Any,
) -> None:
    """Show the settings that serve would have here, and the source of each.

    Takes the options of serve. A source is flag, environment, file, preset or default. Keys and
    passwords are hidden. On a terminal it is a table, else a TOML file that --config takes.
    """
    try:
        sourced = load_sourced_settings(config, given_flags(flags))
    except ConfigError as error:
        print(f"captiond: {error}", file=sys.stderr)
        raise SystemExit(WRONG_USAGE) from None
    for name in unknown_variables():
        print(f"captiond: no such option: {name}", file=sys.stderr)
    console = Console()
    if as_json:
        print(as_object(sourced))
    elif console.is_terminal:
        console.print(as_table(sourced))
    else:
        print(as_toml(sourced))


def shown(field: str, settings: Settings) -> Any:
    """The value as plain data, without what is secret."""
    value = getattr(settings, field)
    if field == "api_keys":
        return [f"{name_and_key(key)[0]}:{HIDDEN}" for key in value]
    if isinstance(value, Mapping):
        return {name: HIDDEN if _SECRET_OPTION.search(name) else v for name, v in value.items()}
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, tuple):
        return list(value)
    assert not isinstance(value, SecretStr)
    return _without_password(value) if isinstance(value, str) else value


def _without_password(text: str) -> str:
    text = _URL_PASSWORD.sub(rf"\1:{HIDDEN}", text)
    return _URL_PARAMETER.sub(rf"\1={HIDDEN}", text)


def as_object(sourced: SourcedSettings) -> str:
    """JSON, for programs."""
    rows = {
        field: {
            "value": shown(field, sourced.settings),
            "source": source.value,
            "flag": flag_of(field),
            "variable": variable_of(field),
        }
        for field, source in sourced.sources.items()
    }
    return orjson.dumps(rows, option=orjson.OPT_INDENT_2).decode()


def as_table(sourced: SourcedSettings) -> Table:
    """For people: what somebody has set stands out."""
    table = Table(box=None, pad_edge=False)
    for title in ("option", "value", "source"):
        table.add_column(title)
    for field, source in sourced.sources.items():
        value = shown(field, sourced.settings)
        text = "" if value in (None, [], {}) else value if isinstance(value, str) else _toml(value)
        style = "dim" if source is Source.DEFAULT else "bold"
        table.add_row(field, text, _from(field, source), style=style)
    return table


def as_toml(sourced: SourcedSettings) -> str:
    """A file for ``--config``; what cannot stand in it is a comment."""
    return "\n".join(_toml_line(field, sourced) for field in sourced.sources)


def _toml_line(field: str, sourced: SourcedSettings) -> str:
    value = shown(field, sourced.settings)
    source = _from(field, sourced.sources[field])
    if value is None:
        return f"# {field} is unset  # {source}"
    line = f"{field} = {_toml(value)}  # {source}"
    return f"# {line}" if HIDDEN in line else line


def _from(field: str, source: Source) -> str:
    names = {Source.FLAG: flag_of(field), Source.ENVIRONMENT: variable_of(field)}
    return f"{source.value} {names[source]}" if source in names else source.value


def _toml(value: Any) -> str:
    """JSON's scalars and lists are TOML's too, except that TOML writes tables with ``=``."""
    if isinstance(value, Mapping):
        items = (f"{_toml(str(name))} = {_toml(item)}" for name, item in value.items())
        return f"{{{', '.join(items)}}}"
    return orjson.dumps(value).decode().replace("\x7f", "\\u007F")


config = with_settings_flags(_config, "config")
