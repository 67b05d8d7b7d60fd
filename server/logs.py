"""What the log says, and what it never says: the only logging configuration.

Owns: log format, the fields that never reach a log.
Invariant: L1 no transcript text, key or token is logged, not even inside an error.
"""

import logging
import sys
from collections.abc import Mapping, MutableMapping
from typing import Any, Literal

import structlog
from aiohttp.http_exceptions import HttpProcessingError

LogFormat = Literal["console", "json"]

SECRET_FIELDS = frozenset(
    {
        "api_key", "api_keys", "authorization", "cookie", "key", "headers", "password",
        "query_string", "resume_token", "resume_token_hash", "secret", "subprotocols", "token",
        "caption", "draft", "hypothesis", "keywords", "message_text", "options", "prompt", "text",
        "transcript", "words",
    }
)  # fmt: skip
"""Dropped from every log record (L1), also inside mappings."""


OWN_LOGGERS = frozenset({"server", "streaming", "__main__"})
"""The only ones that may speak at ``debug``."""


def configure_logging(level: str, log_format: LogFormat) -> None:
    """Send our logs and those of libraries to standard error, one format for all."""
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        drop_secrets,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,  # first: what is not shown costs nothing
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *_renderers(log_format),
            ],
        )
    )
    handler.addFilter(_is_fit_to_be_read)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    logging.getLogger("aiohttp.server").addFilter(_without_peer_bytes)


def _is_fit_to_be_read(record: logging.LogRecord) -> bool:
    """Libraries say at ``debug`` what passes through them: aiosqlite quotes every caption that is
    written (L1). What they say from ``info`` on is for operators."""
    return record.levelno >= logging.INFO or record.name.partition(".")[0] in OWN_LOGGERS


def _without_peer_bytes(record: logging.LogRecord) -> bool:
    """Keeps the report of a request that is no HTTP, not its bytes: aiohttp quotes headers, and
    a key is one; a traceback for each would let anyone fill the log."""
    if record.exc_info and isinstance(record.exc_info[1], HttpProcessingError):
        record.msg, record.args, record.exc_info = "refused bytes that are no HTTP", (), None
        record.levelno, record.levelname = logging.WARNING, "WARNING"
    return True


def drop_secrets(
    _logger: Any, _method: str, fields: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    """A structlog processor that removes ``SECRET_FIELDS`` at any depth of mappings."""
    return _without_secrets(fields)


def _without_secrets(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: _without_secrets(value) if isinstance(value, Mapping) else value
        for name, value in fields.items()
        if str(name).lower() not in SECRET_FIELDS
    }


def _renderers(log_format: LogFormat) -> list[Any]:
    # No traceback with local variables: those hold captions.
    if log_format == "json":
        return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    colors = sys.stderr.isatty()
    plain = structlog.dev.plain_traceback
    return [structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=plain)]
