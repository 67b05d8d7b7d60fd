"""``captiond serve``: flags from ``Settings``, then the server until a signal comes."""

import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, get_args

import structlog
import typer
from pydantic.fields import FieldInfo

from server.child import LISTENING_PREFIX, READY_LINE
from server.config import ConfigError, Settings, flag_of, load_settings, unknown_variables

WRONG_USAGE = 2
"""Exit status, as for a flag that does not exist."""


def _serve(config: Path | None = None, **flags: Any) -> None:
    """Run the server until SIGTERM, then drain: finish, store and send what was received.

    Each option is also an environment variable (CAPTIOND_PORT for --port) and a key of the
    TOML file given by --config; flags win over the environment, the environment over the file.
    """
    given = {name: value for name, value in flags.items() if value not in (None, [], ())}
    try:
        settings = load_settings(config, given)
    except ConfigError as error:
        _refuse(str(error), status=WRONG_USAGE)
    run_server(settings)


def run_server(settings: Settings) -> None:
    """Blocks until the server has stopped. Exits with status 1 where it cannot run."""
    import uvloop

    from server.app import Server
    from server.engines.errors import EngineUnavailable
    from server.store import StoreError
    from server.telemetry import configure_logging

    configure_logging(settings.log_level, settings.log_format)
    for name in unknown_variables():
        structlog.get_logger(__name__).warning("no such option", variable=name)
    try:
        uvloop.run(
            Server(settings).run(
                on_listening=lambda url: print(f"{LISTENING_PREFIX}{url}", flush=True),
                on_ready=lambda: print(READY_LINE, flush=True),
            )
        )
    except (EngineUnavailable, StoreError) as error:
        _refuse(str(error))
    except OSError as error:
        _refuse(f"cannot listen on {settings.host}:{settings.port}: {error.strerror or error}")


def _refuse(reason: str, *, status: int = 1) -> None:
    print(f"captiond: {reason}", file=sys.stderr)
    raise SystemExit(status)


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
    types = {field.annotation, *get_args(field.annotation)}
    if bool in types:
        return bool
    is_many = any(str(kind).startswith(("tuple[", "dict[")) for kind in types)
    return list if is_many else str


def _with_settings(command: Callable[..., None]) -> Callable[..., None]:
    """Give the command one option per setting."""
    options = [_option(name, field) for name, field in Settings.model_fields.items()]
    config = inspect.Parameter(
        "config",
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[Path | None, typer.Option("--config", help="TOML file with options.")],
    )
    command.__signature__ = inspect.Signature([config, *options])  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in (config, *options)}
    command.__name__ = "serve"
    return command


serve = _with_settings(_serve)
