"""`chronicle aggregates`: hold the live tables against the stored events; make them anew where they differ."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

import rich_click as click
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

from app import aggregates as rules
from app.aggregates import CannotCompare, Checked, Parts, Told
from app.cli.client import dump, json_option
from app.settings import KafkaSettings, Settings
from connectors.ports import EventLog
from schemas.errors import Misconfigured, Unavailable
from tables.usage import Names, SessionUse, ToolUse, Usage, Value

F = TypeVar("F", bound=Callable[..., Any])
#: Exit codes: the tables differ; they could not be compared.
DIFFERENT, UNKNOWN = 1, 2
#: Differences that are shown; all of them are counted.
SHOWN: Final = 50


def _config(command: F) -> F:
    file = click.Path(path_type=Path, dir_okay=False)
    return click.option("--config", "file", type=file, help="YAML or JSON file (default: $CHRONICLE_CONFIG).")(command)


@click.group()
def aggregates() -> None:
    """The aggregate tables: check them, make them anew."""


@aggregates.command()
@_config
@json_option
def verify(file: Path | None, as_json: bool) -> None:
    """Count all stored events again and compare with the live tables. Changes nothing.

    Exit code 0: equal. 1: different. 2: it could not be compared.
    """
    checked = _run(_verify(_settings(file), quiet=as_json))
    _tell(checked, as_json=as_json)
    sys.exit({"equal": 0, "different": DIFFERENT, "unknown": UNKNOWN}[rules.verdict(checked)])


@aggregates.command()
@click.option("--yes", is_flag=True, help="Write. Without it the differences are shown and nothing is written.")
@_config
@json_option
def rebuild(yes: bool, file: Path | None, as_json: bool) -> None:
    """Count all stored events again and put that into the live tables and the history.

    Stop the stream workers with the role aggregate before; they pick it up when they start. Exit code 0: equal now.
    1: different, and --yes was not given. 2: it could not be done.
    """
    checked, written = _run(_rebuild(_settings(file), yes=yes, tell=lambda found: _tell(found, as_json=as_json)))
    if written is not None:
        click.echo(f"{written} records written. Start the stream workers again.", err=as_json)
    elif rules.verdict(checked) != "equal":
        click.echo("Nothing was written: give --yes to put the recounted values in.", err=as_json)
        sys.exit(DIFFERENT)


def _settings(file: Path | None) -> Settings:
    try:
        return Settings.load(file=file)
    except Misconfigured as error:
        raise click.ClickException(str(error)) from error


def servers(settings: Settings) -> tuple[str, str]:
    """Broker and database: as the settings say, else those of the `chronicle up` of this state directory."""
    broker, database = settings.kafka.brokers, settings.database.url.get_secret_value()
    defaults: Settings = Settings.model_construct()
    untouched = broker == KafkaSettings.model_fields["brokers"].default and (
        database == defaults.database.url.get_secret_value()
    )
    ready = settings.state_dir.expanduser() / "ready.json"
    if not untouched or not ready.exists():
        return broker, database
    try:
        told = json.loads(ready.read_bytes())
        return str(told["broker"]), str(told["database"])
    except (OSError, ValueError, KeyError, TypeError):
        return broker, database


def _run(work: Coroutine[Any, Any, Any]) -> Any:
    """Run it; what is away or cannot be compared is one sentence and exit code 2."""
    try:
        return asyncio.run(work)
    except (CannotCompare, Unavailable, Misconfigured) as error:
        click.echo(f"Cannot compare: {error}", err=True)
        sys.exit(UNKNOWN)


async def _verify(settings: Settings, *, quiet: bool) -> list[Checked]:
    async with _parts(settings) as (parts, _), _progress(quiet=quiet) as told:
        stands = await rules.stands(parts, settings.kafka.partitions)
        return [await rules.check(parts, stand, told) for stand in stands]


async def _rebuild(
    settings: Settings, *, yes: bool, tell: Callable[[Sequence[Checked]], None]
) -> tuple[list[Checked], int | None]:
    async with _parts(settings) as (parts, log):
        await rules.nobody_counts(parts.log)
        async with _progress(quiet=False) as told:
            stands = await rules.stands(parts, settings.kafka.partitions)
            checked = [await rules.check_stopped(parts, stand, told) for stand in stands]
        tell(checked)
        if not yes:
            return checked, None
        await rules.nobody_counts(parts.log)  # counting took its time
        generation, topic = int(parts.clock.now()), settings.topics.aggregates.name
        async with _progress(quiet=False) as told:
            return checked, sum([await rules.write(log, topic, one, generation, told) for one in checked])


@asynccontextmanager
async def _parts(settings: Settings) -> AsyncIterator[tuple[Parts, EventLog]]:
    """What is asked and written to, open. Imported here: --help need not wait for it."""
    from connectors.aggregate_log import KafkaAggregateLog
    from connectors.control import KafkaStatusBoard
    from connectors.producer import KafkaLog
    from connectors.ranges import KafkaRangeBook
    from connectors.stored_events import PostgresEvents
    from schemas.clock import SystemClock

    (broker, database), names, clock = servers(settings), settings.topics, SystemClock()
    async with AsyncExitStack() as stack:
        log = await _opened(stack, KafkaLog(broker, "chronicle-aggregates"))
        board = KafkaStatusBoard(broker, names.control.name, log, clock)
        book = KafkaRangeBook(board, names.control.name, log)
        await _opened(stack, board)
        group = f"{settings.kafka.prefix}-aggregate"
        live = KafkaAggregateLog(broker, names.aggregates.name, names.events.name, group)
        stack.push_async_callback(live.close)
        yield Parts(live, PostgresEvents(database), book.read, clock), log


async def _opened(stack: AsyncExitStack, resource: Any) -> Any:
    opening: Awaitable[None] = resource.open()
    await opening
    stack.push_async_callback(resource.close)
    return resource


@asynccontextmanager
async def _progress(*, quiet: bool) -> AsyncIterator[Told]:
    """A bar for each step of each partition, on standard error."""
    bars: dict[tuple[str, int], Any] = {}
    with Progress(console=Console(stderr=True), transient=True, disable=quiet) as progress:

        def told(what: str, partition: int, done: int, total: int) -> None:
            if (what, partition) not in bars:
                bars[what, partition] = progress.add_task(f"{what}, partition {partition}")
            progress.update(bars[what, partition], completed=done, total=max(done, total))

        yield told


# --- what is shown ---------------------------------------------------------------------------------------------------


def _tell(checked: Sequence[Checked], *, as_json: bool) -> None:
    if as_json:
        dump(rules.report(checked))
    else:
        show(checked, Console())


def show(checked: Sequence[Checked], console: Console) -> None:
    """The differences as a table, what could not be compared, and the verdict."""
    differences = [one for found in checked for one in found.compared.differences]
    if differences:
        table = Table(box=None, padding=(0, 2, 0, 0))
        table.add_column("partition", justify="right")
        for name in ("key", "live", "recounted"):
            table.add_column(name, overflow="fold")
        for one in differences[:SHOWN]:
            key = " ".join(str(part) for part in one.key if part != "")
            table.add_row(str(one.partition), escape(key), short(one.live), short(one.recounted))
        console.print(table)
        if len(differences) > SHOWN:
            console.print(f"… and {len(differences) - SHOWN} more; --json has them.")
    for found in checked:
        if found.stand.behind:
            console.print(
                f"Postgres is behind in partition {found.stand.partition}: {found.stand.counted} are counted, "
                f"{found.stand.stored} are stored. Rows are on their way, or still in SQLite.",
                soft_wrap=True,
            )
    console.print(sentence(checked), soft_wrap=True)


def sentence(checked: Sequence[Checked]) -> str:
    """The verdict for people."""
    keys, ahead, events = (
        sum(found.compared.keys for found in checked),
        sum(found.compared.ahead for found in checked),
        sum(found.events for found in checked),
    )
    later = f" {ahead} keys count later events and were left out." if ahead else ""
    differences = sum(len(found.compared.differences) for found in checked)
    if differences:
        return f"DIFFERENT: {differences} of {keys} keys, after counting {events} events again.{later}"
    if rules.verdict(checked) == "unknown":
        return f"Cannot compare now: all {ahead} keys count later events than both sides have. Try again in a moment."
    return f"Equal: {keys} keys, after counting {events} events again.{later}"


def short(value: Value | None) -> str:
    """A value in a few words."""
    match value:
        case None:
            return "–"
        case Usage():
            return f"{sum(value.events.values())} events, {len(value.sessions)} sessions, at {value.at}"
        case ToolUse():
            return f"{value.calls} calls, {value.failures} failures, at {value.at}"
        case SessionUse():
            return f"{sum(value.events.values())} events, {len(value.open)} calls open, at {value.at}"
        case Names():
            return f"{len(value.names)} names, at {value.at}"
