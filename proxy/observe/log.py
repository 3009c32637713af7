"""
The proxy's own log: structlog on standard error, JSON for machines or columns for people.

Configured once at the start and again at a reload. Secrets are kept out by those who log, and by a
last net here: keys that name secrets never show their values.
"""

import contextlib
import logging
import sys
from collections.abc import MutableMapping
from typing import Any, Final, TextIO, cast

import structlog

from proxy.settings.model import Log

SECRET_KEYS: Final = frozenset({"password", "secret", "token", "secret_key", "client_key"})

TRACEBACKS: Final = structlog.processors.ExceptionRenderer(
    structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
)
"""Where an exception came from, without the values of variables: some of them are secrets."""

_LEVELS: Final = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}


class ForgivingStream:
    """
    A stream that may be gone.

    A full disk, or a reader that has left, is no reason to fail for those who log: a client's login,
    a reload, the drain. Lines are lost then.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write, or do not."""
        with contextlib.suppress(OSError, ValueError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush, or do not."""
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()


def configure_logging(log: Log) -> None:
    """Set up the log as `[log]` says."""
    as_json = log.format == "json" or (log.format == "auto" and not sys.stderr.isatty())
    renderer: Any = (
        structlog.processors.JSONRenderer()
        if as_json
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            hide_secrets,
            TRACEBACKS if as_json else structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[log.level]),
        logger_factory=structlog.WriteLoggerFactory(file=cast(TextIO, ForgivingStream(sys.stderr))),
        cache_logger_on_first_use=False,
    )
    # asyncio, uvicorn and asyncpg log through the standard library, warnings up; the plugin host
    # does too, because its lines come from worker threads: all of it becomes the same stream.
    logging.basicConfig(handlers=[_Forward()], level=logging.WARNING, force=True)
    logging.getLogger("headgate").setLevel(_LEVELS[log.level])


class _Forward(logging.Handler):
    """Hands lines of the standard library's logging to structlog."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line."""
        more = {"plugin": record.__dict__["plugin"]} if "plugin" in record.__dict__ else {}
        if record.exc_info:
            more["exc_info"] = record.exc_info
        try:
            structlog.get_logger().log(
                record.levelno, record.getMessage(), logger=record.name, **more
            )
        except Exception:
            self.handleError(record)


def hide_secrets(
    logger: object,
    method: str,
    event: MutableMapping[str, Any],
) -> MutableMapping[str, Any]:
    """Replace the values of keys that name secrets."""
    del logger, method
    for key in SECRET_KEYS.intersection(event):
        event[key] = "***"
    return event
