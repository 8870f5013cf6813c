"""Logs: one pipeline for our records and those of Faust, mode, aiokafka and aiohttp.

Readable on a terminal, one JSON object a line elsewhere. Control characters are escaped and values cut, so that nothing
a client sent can forge a line. Faust applies its `logging_config` only in its own command, so we do it ourselves.
"""

from __future__ import annotations

import logging
import logging.config
import sys
from collections.abc import Callable, MutableMapping
from typing import Any

import structlog
from structlog.stdlib import ProcessorFormatter

from app.damper import Damper
from app.settings import LoggingSettings

Record = MutableMapping[str, Any]
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


def cut_values(_logger: Any, _method: str, record: Record) -> Record:
    """Cut long values and escape control characters, in names and texts; a traceback keeps its lines, set in.

    Set in, since an error's message may hold what a client sent: no line of it can pass for one of ours.
    """
    return {_clean(key): _value(key, value) for key, value in record.items()}


def _value(key: str, value: Any) -> Any:
    if key == "exception":
        return "\n".join(f"    {_clean(line)}" for line in str(value).split("\n"))
    if isinstance(value, str):
        return _clean(value)
    if isinstance(value, (dict, list, tuple, set, bytes)) and len(shown := repr(value)) > MAX_VALUE:
        return _clean(shown)
    return value


def _clean(text: str) -> str:
    if len(text) > MAX_VALUE:
        text = f"{text[:MAX_VALUE]}… ({len(text)} characters)"
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def naming(worker: str) -> Callable[[Any, str, Record], Record]:
    """Put the worker's name into each record. No context variable: threads, such as the Kafka consumer's, have none."""

    def name(_logger: Any, _method: str, record: Record) -> Record:
        record["worker"] = worker
        return record

    return name


def configure(settings: LoggingSettings, *, worker: str = "") -> None:
    """Set the whole process' logging up; call it once, first of all."""
    as_json = settings.format == "json" or (settings.format == "auto" and not sys.stderr.isatty())
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        *([naming(worker)] if worker and as_json else []),
    ]
    # Plain tracebacks: the renderer's own would show local variables, that is payloads and passwords.
    console = structlog.dev.ConsoleRenderer(
        colors=sys.stderr.isatty(), pad_event_to=0, exception_formatter=structlog.dev.plain_traceback
    )
    rendering = structlog.processors.JSONRenderer() if as_json else console
    last = [structlog.processors.format_exc_info, cut_values, rendering]
    logging.config.dictConfig(logging_config(settings, shared, last))
    structlog.configure(
        processors=[*shared, ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )


def logging_config(settings: LoggingSettings, shared: list[Any], last: list[Any]) -> dict[str, Any]:
    """The dictConfig: everything to stderr through one formatter."""
    least = settings.level.upper()
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {
            "one": {
                "()": ProcessorFormatter,
                "foreign_pre_chain": shared,
                "processors": [ProcessorFormatter.remove_processors_meta, *last],
            }
        },
        "filters": {"damper": {"()": Damper}},
        "handlers": {
            "stderr": {
                "class": "logging.StreamHandler",
                "stream": "ext://sys.stderr",
                "formatter": "one",
                "filters": ["damper"],
            }
        },
        "root": {"handlers": ["stderr"], "level": least},
        "loggers": {name: {"level": _stricter(level, least)} for name, level in QUIET.items()},
    }


def _stricter(level: str, least: str) -> str:
    """A quiet logger's level: the setting's where that lets less through, and where all is to be heard."""
    return least if least == "DEBUG" else max(level, least, key=logging.getLevelNamesMapping().__getitem__)
