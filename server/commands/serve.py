"""``captiond serve``: flags from ``Settings``, then the server until a signal comes."""

import sys
from pathlib import Path
from typing import Any

import structlog

from server.child import LISTENING_PREFIX, READY_LINE
from server.commands.settings_flags import given_flags, with_settings_flags
from server.config import ConfigError, Settings
from server.settings_sources import load_settings, unknown_variables

WRONG_USAGE = 2
"""Exit status, as for a flag that does not exist."""


def _serve(config: Path | None = None, **flags: Any) -> None:
    """Run the server until SIGTERM, then drain: finish, store and send what was received.

    Each option is also an environment variable (CAPTIOND_PORT for --port) and a key of the
    TOML file given by --config; flags win over the environment, the environment over the file.
    """
    try:
        settings = load_settings(config, given_flags(flags))
    except ConfigError as error:
        _refuse(str(error), status=WRONG_USAGE)
    run_server(settings)


def run_server(settings: Settings) -> None:
    """Blocks until the server has stopped. Exits with status 1 where it cannot run."""
    import uvloop

    from server.app import Server
    from server.engines.errors import EngineUnavailable
    from server.memory import give_large_blocks_back
    from server.store import StoreError
    from server.systemd import Systemd, SystemdError
    from server.telemetry import configure_logging
    from server.tls import TlsError

    give_large_blocks_back()
    configure_logging(settings.log_level, settings.log_format)
    for name in unknown_variables():
        structlog.get_logger(__name__).warning("no such option", variable=name)
    try:
        uvloop.run(
            Server(settings, Systemd.take()).run(
                on_listening=lambda url: print(f"{LISTENING_PREFIX}{url}", flush=True),
                on_ready=lambda: print(READY_LINE, flush=True),
            )
        )
    except (ConfigError, EngineUnavailable, StoreError, SystemdError, TlsError) as error:
        _refuse(str(error))
    except OSError as error:
        _refuse(f"cannot listen on {settings.host}:{settings.port}: {error.strerror or error}")


def _refuse(reason: str, *, status: int = 1) -> None:
    print(f"captiond: {reason}", file=sys.stderr)
    raise SystemExit(status)


serve = with_settings_flags(_serve, "serve")
