"""`chronicle worker`: one process with some of the roles."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import rich_click as click
import structlog

from app import telemetry
from app.memory import collect_rarely, few_arenas
from app.settings import Settings
from schemas import points
from schemas.errors import Misconfigured

if TYPE_CHECKING:  # importing it loads Faust, which --help need not wait for
    from app.lifecycle import Process

#: sysexits.h EX_CONFIG: starting again will not help, an operator must.
MISCONFIGURED = 78
#: Seconds from the wish to end to the end, tidy or not; `Process.run` is through in 7, `chronicle up` promises 10.
END_S = 8.0
#: The exit code then: what `app.lifecycle.BROKEN` is, so that it is seen.
UNTIDY = 70
#: Seconds for tasks to hear that they are cancelled, once everything that keeps something is closed.
SWEEP_S = 0.3


@click.command()
@click.option("--roles", help="Comma separated: ingest, api, dedupe, persist, aggregate, history (default: all).")
@click.option("--name", help="Stable name of this worker, unique in the installation.")
@click.option("--host", help="Address to bind.")
@click.option(
    "--port", type=int, help="Port to bind; a worker without ingest and api serves /health, /ready and /metrics."
)
@click.option("--config", "file", type=click.Path(path_type=Path, dir_okay=False), help="YAML or JSON file.")
def worker(roles: str | None, name: str | None, host: str | None, port: int | None, file: Path | None) -> None:
    """Run one worker process."""
    few_arenas()
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
        points.arm(settings.fault_points)
        if settings.fault_points:
            structlog.get_logger("chronicle.process").warning(
                "armed for a fault drill", fault_points=str(settings.fault_points)
            )
        code = _run(settings)
    except Misconfigured as error:
        click.echo(f"chronicle: {error}", err=True)
        code = MISCONFIGURED
    _end(code)


async def _leave(process: Process) -> None:
    """Once the end is asked for, see to it that it comes.

    A held batch in a driver's thread, or a task that does not hear its cancellation, would keep the process for ever
    while a supervisor waits. What is not acked by then comes again.
    """
    await process.stopping()
    end = threading.Timer(END_S, os._exit, (UNTIDY,))
    end.daemon = True
    end.start()


def _run(settings: Settings) -> int:
    import uvloop

    from app.house import build

    async def main() -> int:
        process = build(settings).process
        collect_rarely()
        leaving = asyncio.create_task(_leave(process))
        try:
            return await process.run()
        finally:
            if not leaving.done():
                leaving.cancel()

    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())  # the loops that Faust makes for its threads are of it, too
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    try:
        return loop.run_until_complete(main())
    finally:
        _sweep(loop)


def _sweep(loop: asyncio.AbstractEventLoop) -> None:
    """Cancel what is left and wait for a moment; `asyncio.run` would wait for ever for a task that does not hear it."""
    if tasks := asyncio.all_tasks(loop):
        for task in tasks:
            task.cancel()
        loop.run_until_complete(asyncio.wait(tasks, timeout=SWEEP_S))


def _end(code: int) -> NoReturn:
    """End with this code. Threads are not waited for.

    All that keeps something is closed by now. What may still run is a driver's thread that waits for an answer on a
    dead connection, for as long as its protocol allows: half a minute for a database, a minute for the broker.
    """
    if threading.active_count() == 1:
        sys.exit(code)
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
