"""Logs: one pipeline for our records and those of Faust, mode, aiokafka and aiohttp.

Readable on a terminal, one JSON object a line elsewhere. Control characters are escaped and values cut, so that nothing
a client sent can forge a line. Faust applies its `logging_config` only in its own command, so we do it ourselves.
"""

from __future__ import annotations

import logging
import logging.config
import sys
from collections.abc import MutableMapping
from typing import Any

import structlog

from app.settings import LoggingSettings

#: A longer value is cut: a log line must never carry a payload.
MAX_VALUE = 2000

#: Chatty libraries and the level from which they are heard.
QUIET = {
    "faust": "WARNING",
    "mode": "WARNING",
    "connectors.transport": "WARNING",  # its services log each start, as those of mode do
    "tables": "WARNING",
    "aiokafka": "ERROR",
    "aiokafka.cluster": "CRITICAL",  # repeats a missing topic at every poll; our own check says it once
    "aiokafka.consumer.group_coordinator": "CRITICAL",  # a broker that is just starting; the watchdog sees what lasts
    "aiohttp.access": "WARNING",
    "asyncio": "WARNING",
    "alembic": "WARNING",
}


def cut_values(_logger: Any, _method: str, record: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Cut long text values and escape control characters."""
    for key, value in record.items():
        if isinstance(value, str) and key not in ("exception", "timestamp"):
            record[key] = _clean(value)
    return record


def _clean(text: str) -> str:
    if len(text) > MAX_VALUE:
        text = f"{text[:MAX_VALUE]}… ({len(text)} characters)"
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def configure(settings: LoggingSettings, *, worker: str = "") -> None:
    """Set the whole process' logging up; call it once, first of all."""
    as_json = settings.format == "json" or (settings.format == "auto" and not sys.stderr.isatty())
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        cut_values,
    ]
    last: list[Any] = (
        [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
        if as_json
        else [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), pad_event_to=0)]
    )
    logging.config.dictConfig(logging_config(settings, shared, last))
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.clear_contextvars()
    if worker and as_json:
        structlog.contextvars.bind_contextvars(worker=worker)


def logging_config(settings: LoggingSettings, shared: list[Any], last: list[Any]) -> dict[str, Any]:
    """The dictConfig: everything to stderr through one formatter."""
    debug = settings.level == "debug"
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {
            "one": {
                "()": structlog.stdlib.ProcessorFormatter,
                "foreign_pre_chain": shared,
                "processors": [structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
            }
        },
        "handlers": {"stderr": {"class": "logging.StreamHandler", "stream": "ext://sys.stderr", "formatter": "one"}},
        "root": {"handlers": ["stderr"], "level": settings.level.upper()},
        "loggers": {name: {"level": "DEBUG" if debug else level} for name, level in QUIET.items()},
    }
