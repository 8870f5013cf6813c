"""`chronicle topics`: make what is missing on the broker."""

from __future__ import annotations

import asyncio
from pathlib import Path

import rich_click as click

from app.settings import Settings
from schemas.errors import Misconfigured, Unavailable


@click.group()
def topics() -> None:
    """Make the topics."""


@topics.command()
@click.option("--config", "file", type=click.Path(path_type=Path, dir_okay=False), help="YAML or JSON file.")
def ensure(file: Path | None) -> None:
    """Make the topics that are missing; the others must be as the settings say. Any number of these may run."""
    from connectors import topics as broker

    try:
        settings = Settings.load(file=file)
        specs = settings.topics.all()
        asyncio.run(broker.ensure(settings.kafka.brokers, specs, settings.kafka.replication))
        asyncio.run(broker.verify(settings.kafka.brokers, specs))
    except (Misconfigured, Unavailable) as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"topics on {settings.kafka.brokers}: {', '.join(spec.name for spec in specs)}")
