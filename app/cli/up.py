"""`chronicle up`: everything on this machine, supervised."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import rich_click as click

from app.settings import Settings
from app.stack.apart import apart
from app.stack.console import Console
from app.stack.stack import Plan, Prepare, Stack, launcher
from schemas.errors import Misconfigured
from schemas.topics import Topics

_DIR = click.Path(path_type=Path, file_okay=False)
_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command()
@click.option("--state-dir", type=_DIR, help="Where all data live (default: the `state_dir` setting).")
@click.option("--ephemeral", is_flag=True, help="Keep the data in a temporary directory and remove it at the end.")
@click.option("--host", help="Address to bind (default: 127.0.0.1).")
@click.option(
    "--port", type=click.IntRange(1, 65535), help="Port to bind (default: as last time, 8000, or a free one)."
)
@click.option("--broker", help="Use this Kafka (host:port) instead of starting one.")
@click.option("--database", help="Use this Postgres (postgresql://…) instead of starting one.")
@click.option(
    "--stream-workers",
    type=click.IntRange(0, 64),
    default=1,
    show_default=True,
    help="Stream processes; 0 for maintenance: events are taken in and wait.",
)
@click.option("--ready-file", type=_FILE, help="Write where everything is to this file once all is ready.")
@click.option("--kafka-home", type=_DIR, envvar="KAFKA_HOME", help="Run this Kafka distribution, not the pinned jars.")
@click.option("--config", "file", type=_FILE, help="YAML or JSON file with settings.")
def up(ephemeral: bool, **given: Any) -> None:
    """Start Kafka, Postgres and Chronicle on this machine, and keep them running until Ctrl-C.

    A broker or database named by a flag or by the settings is used instead of starting one.
    """
    os.umask(0o077)  # events and passwords are their owner's business; Postgres' user gets only what it needs
    with contextlib.ExitStack() as stack:
        if ephemeral:
            given["state_dir"] = stack.enter_context(_temporary())
        try:
            plan = plan_of(given, usual_port=not ephemeral)
        except Misconfigured as error:
            raise click.ClickException(str(error)) from error
        code = asyncio.run(_run(plan))
    sys.exit(code)


async def _run(plan: Plan) -> int:
    return await Stack(plan, Console()).run()


def plan_of(given: dict[str, Any], *, usual_port: bool) -> Plan:
    """What the flags ask for, completed from the settings. Raises `Misconfigured`."""
    sections: dict[str, Any] = {
        "server": {"host": given["host"], "port": given["port"]},
        "kafka": {"brokers": given["broker"]},
        "database": {"url": given["database"]},
    }
    flags = {
        name: kept for name, keys in sections.items() if (kept := {k: v for k, v in keys.items() if v is not None})
    }
    if given["state_dir"]:
        flags["state_dir"] = given["state_dir"].absolute()
    settings = Settings.load(file=given["file"], **flags)
    chosen = _chosen(settings, flags)
    return Plan(
        state_dir=settings.state_dir.expanduser().absolute(),
        topics=settings.topics,
        prepare=_prepare(settings.topics, settings.kafka.replication if "kafka.brokers" in chosen else 1),
        worker=(*launcher(), "worker"),
        worker_env=_worker_env(settings, given["file"]),
        host=settings.server.host,
        port=settings.server.port if "server.port" in chosen else None,
        broker=settings.kafka.brokers if "kafka.brokers" in chosen else None,
        database=settings.database.url.get_secret_value() if "database.url" in chosen else None,
        sqlite=settings.database.fallback_path,
        stream_workers=given["stream_workers"],
        ready_file=given["ready_file"],
        kafka_home=given["kafka_home"],
        usual_port=usual_port,
    )


def _chosen(settings: Settings, flags: dict[str, Any]) -> set[str]:
    """Which of these somebody set, by a flag or to another value than the default: those are not started here."""
    defaults = Settings.model_construct()
    names = (("server", "port"), ("kafka", "brokers"), ("database", "url"))
    return {
        f"{section}.{key}"
        for section, key in names
        if key in flags.get(section, {})
        or getattr(getattr(settings, section), key) != getattr(getattr(defaults, section), key)
    }


def _worker_env(settings: Settings, file: Path | None) -> dict[str, str]:
    """What every worker is told besides the addresses. Their output is a pipe: `auto` would choose JSON there."""
    log_format = settings.logging.format
    env: dict[str, str] = {"CHRONICLE_LOGGING__FORMAT": "console" if log_format == "auto" else log_format}
    if settings.server.allow_remote:
        env["CHRONICLE_SERVER__ALLOW_REMOTE"] = "true"
    if file:
        env["CHRONICLE_CONFIG"] = str(file.absolute())
    return env


def _prepare(topics: Topics, replication: int) -> Prepare:
    async def prepare(brokers: str, dsn: str, sqlite: Path) -> None:
        given = {"brokers": brokers, "database": dsn, "sqlite": str(sqlite), "replication": replication}
        await apart("app.prepare:prepare", {**given, "topics": topics.all()})

    return prepare


@contextlib.contextmanager
def _temporary() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="chronicle-"))
    folder.chmod(0o711)  # as root, Postgres runs under another user and must pass through; others cannot look in
    try:
        yield folder
    finally:
        shutil.rmtree((folder / "postgres").resolve(), ignore_errors=True)  # may be a link to a place elsewhere
        shutil.rmtree(folder, ignore_errors=True)
