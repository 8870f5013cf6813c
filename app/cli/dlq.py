"""`chronicle dlq`: look at dead letters and send them again."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator
from typing import Any
from urllib.parse import quote

import rich_click as click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from app.cli.client import Api, dump, json_option, url_option
from schemas.topics import CAUSES

PAGE = 200
_cause = click.option("--cause", type=click.Choice(CAUSES), help="Only letters with this cause.")


@click.group()
def dlq() -> None:
    """Dead letters: what could not be decoded or stored."""


@dlq.command("ls")
@_cause
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True, help="How many at most.")
@click.option("--all", "everything", is_flag=True, help="Also those that were dealt with.")
@url_option
@json_option
def ls(cause: str | None, limit: int, everything: bool, url: str | None, as_json: bool) -> None:
    """List dead letters, latest first."""
    found = list(letters(Api(url), cause, limit, everything=everything))
    if as_json:
        dump(found)
        return
    if not found:
        click.echo("There are no dead letters." if everything else "There are no open dead letters.")
        return
    Console().print(listing(found))


def listing(found: Iterable[dict[str, Any]]) -> Table:
    """Letters as a table for 80 columns: the id stays whole, since it is what the other commands want."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("id", no_wrap=True)
    table.add_column("failed at UTC", no_wrap=True)
    table.add_column("stage, cause", no_wrap=True)
    table.add_column("detail", overflow="fold")
    for letter in found:
        done = f"\ndealt with {letter['resolved_at'][:19].replace('T', ' ')}" if letter["resolved_at"] else ""
        at = letter["failed_at"][:19].replace("T", "\n")
        table.add_row(
            escape(letter["id"]), at, f"{letter['stage']}\n{letter['cause']}", escape(letter["detail"] + done)
        )
    return table


@dlq.command()
@click.argument("id")
@url_option
@json_option
def show(id: str, url: str | None, as_json: bool) -> None:
    """Show one dead letter with its bytes; ID is topic/partition/offset as `ls` shows it."""
    letter = Api(url).get(path(id))
    if as_json:
        dump(letter)
        return
    console = Console()
    for name, value in letter.items():
        if name not in {"key", "value"}:
            console.print(f"[bold]{name}[/] {escape(str(value))}", highlight=False)
    for name in ("key", "value"):
        console.print(f"[bold]{name}[/]")
        console.print(escape(hexdump(base64.b64decode(letter[name] or ""))), highlight=False)


@dlq.command()
@click.argument("ids", nargs=-1)
@_cause
@click.option("--all", "everything", is_flag=True, help="Every open letter.")
@click.option("--limit", type=click.IntRange(1), help="How many at most.")
@click.option("--dry-run", is_flag=True, help="Only say what would be sent.")
@click.option("--as-new-id", is_flag=True, help="As new events; conflicts can only go back like this.")
@url_option
@json_option
def replay(
    ids: tuple[str, ...],
    cause: str | None,
    everything: bool,
    limit: int | None,
    dry_run: bool,
    as_new_id: bool,
    url: str | None,
    as_json: bool,
) -> None:
    """Send dead letters again: by ID, by --cause, or --all that are open."""
    if bool(ids) == bool(cause or everything):
        raise click.UsageError("Say which: one or more IDs, or --cause, or --all.")
    api = Api(url)
    chosen = list(ids) or [letter["id"] for letter in letters(api, cause, limit, everything=False)]
    results = [_replay(api, id, dry_run=dry_run, as_new_id=as_new_id) for id in chosen]
    if as_json:
        dump(results)
    else:
        _tell(results, dry_run)
    if any("error" in result for result in results):
        raise SystemExit(1)


def letters(api: Api, cause: str | None, limit: int | None, *, everything: bool) -> Iterator[dict[str, Any]]:
    """Dead letters over all pages; only open ones unless `everything`."""
    cursor: str | None = None
    left = limit
    while True:
        page = api.get("/dead-letters", cause=cause, limit=PAGE, cursor=cursor)
        for letter in page["items"]:
            if everything or letter["resolved_at"] is None:
                if left == 0:
                    return
                left = None if left is None else left - 1
                yield letter
        cursor = page["next"]
        if cursor is None:
            return


def path(id: str) -> str:
    """The path of a letter; topic/partition/offset."""
    parts = id.rsplit("/", 2)
    if len(parts) != 3 or not all(parts):
        raise click.ClickException(f"{id} is no id of a dead letter; it looks like topic/partition/offset.")
    return "/dead-letters/" + "/".join(quote(part, safe="") for part in parts)


def hexdump(data: bytes, most: int = 4096) -> str:
    """Offset, sixteen bytes in hex, and what of them can be printed."""
    lines = []
    for start in range(0, min(len(data), most), 16):
        row = data[start : start + 16]
        shown = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in row)
        lines.append(f"{start:08x}  {row.hex(' '):<47}  {shown}")
    if len(data) > most:
        lines.append(f"… {len(data) - most} more bytes; --json has all of them")
    return "\n".join(lines) or "(none)"


def _replay(api: Api, id: str, *, dry_run: bool, as_new_id: bool) -> dict[str, Any]:
    """One letter; what the server says against it is the result, so that the others still go."""
    try:
        done: dict[str, Any] = api.post(f"{path(id)}/replay", {"dry_run": dry_run, "as_new_id": as_new_id})
        return done
    except click.ClickException as error:
        return {"id": id, "error": error.message}


def _tell(results: list[dict[str, Any]], dry_run: bool) -> None:
    for result in results:
        if "error" in result:
            click.echo(f"{result['id']}: {result['error']}", err=True)
        else:
            verb = "would go" if dry_run else "sent"
            click.echo(f"{result['id']}: {verb} to {result['via']} as {result['event_id'] or 'raw bytes'}")
    failed = sum("error" in result for result in results)
    said = "would be sent" if dry_run else "sent"
    click.echo(f"{len(results) - failed} {said}, {failed} refused." if results else "There is nothing to send.")
