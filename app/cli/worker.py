"""`chronicle worker`: one process with some of the roles."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import rich_click as click

from app import telemetry
from app.settings import Settings
from schemas.errors import Misconfigured

#: sysexits.h EX_CONFIG: starting again will not help, an operator must.
MISCONFIGURED = 78


@click.command()
@click.option("--roles", help="Comma separated: ingest, api, dedupe, persist (default: all).")
@click.option("--name", help="Stable name of this worker, unique in the installation.")
@click.option("--host", help="Address to bind.")
@click.option(
    "--port", type=int, help="Port to bind; a worker without ingest and api serves /health, /ready and /metrics."
)
@click.option("--config", "file", type=click.Path(path_type=Path, dir_okay=False), help="YAML or JSON file.")
def worker(roles: str | None, name: str | None, host: str | None, port: int | None, file: Path | None) -> None:
    """Run one worker process."""
    flags: dict[str, dict[str, Any]] = {
        "worker": {"roles": roles, "name": name},
        "server": {"host": host, "port": port},
    }
    given = {
        section: kept for section, keys in flags.items() if (kept := {k: v for k, v in keys.items() if v is not None})
    }
    try:
        settings = Settings.load(file=file, **given)
        telemetry.configure(settings.logging, worker=settings.worker_name)
        code = _run(settings)
    except Misconfigured as error:
        click.echo(f"chronicle: {error}", err=True)
        code = MISCONFIGURED
    sys.exit(code)


def _run(settings: Settings) -> int:
    import uvloop

    from app.house import build

    async def main() -> int:
        return await build(settings).process.run()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main())
