"""`chronicle db`: migrate, status, sql."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import rich_click as click

from app.settings import Settings
from connectors import migrate as migrations
from schemas.errors import Misconfigured, Unavailable

F = TypeVar("F", bound=Callable[..., Any])


def _which(command: F) -> F:
    """The two ways to say which database: by URL, or by the settings."""
    command = click.option("--database", "url", help="postgresql://… or sqlite:///path instead of the settings.")(
        command
    )
    file = click.Path(path_type=Path, dir_okay=False)
    return click.option("--config", "file", type=file, help="YAML or JSON file (default: $CHRONICLE_CONFIG).")(command)


@click.group()
def db() -> None:
    """Bring databases to the schema this version writes."""


@db.command()
@_which
def migrate(url: str | None, file: Path | None) -> None:
    """Apply what is missing, all of it or none. Any number of these may run at once."""
    for dsn in _databases(url, file):
        applied = _run(migrations.upgrade, dsn)
        click.echo(f"{_name(dsn)}: {'applied ' + ', '.join(applied) if applied else 'up to date'}")


@db.command()
@_which
def status(url: str | None, file: Path | None) -> None:
    """Show which revision is there and which ones are missing; exit 1 unless all is up to date."""
    behind = False
    for dsn in _databases(url, file):
        found = _run(migrations.status, dsn)
        behind |= bool(found.pending) or not found.known
        missing = f", missing: {', '.join(found.pending)}" if found.pending else ""
        newer = "" if found.known else " (made by a newer Chronicle)"
        click.echo(f"{_name(dsn)}: at {found.current or 'nothing'}{newer}{missing}")
    if behind:
        raise SystemExit(1)


@db.command()
@click.option("--dialect", type=click.Choice(["postgresql", "sqlite"]), default="postgresql", show_default=True)
@click.option("--since", help="Only what comes after this revision.")
def sql(dialect: Any, since: str | None) -> None:
    """Print the SQL of the migrations instead of running it, for review or to run by hand."""
    if since is not None and since not in migrations.REVISIONS:
        raise click.ClickException(f"There is no revision {since}; known are {', '.join(migrations.REVISIONS)}.")
    click.echo(migrations.script(dialect, since=since), nl=False)


def _databases(url: str | None, file: Path | None) -> list[str]:
    if url:
        return [url]
    try:
        settings = Settings.load(file=file)
    except Misconfigured as error:
        raise click.ClickException(str(error)) from error
    return [settings.database.url.get_secret_value()]


def _run(act: Callable[[str], Any], dsn: str) -> Any:
    try:
        return asyncio.run(act(dsn))
    except (Misconfigured, Unavailable) as error:
        raise click.ClickException(f"{_name(dsn)}: {error}") from error


def _name(dsn: str) -> str:
    """What may be shown: no user, no password."""
    return dsn if dsn.startswith("sqlite") else f"postgresql at {dsn.rpartition('@')[2].partition('?')[0]}"
