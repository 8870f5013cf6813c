"""`chronicle sync`: what came back from SQLite, and events that claim the id of another."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import quote

import rich_click as click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from app.cli.client import Api, dump, json_option, url_option

STRATEGIES = ("remote", "local", "merge", "manual")
PAGE = 200


@click.group()
def sync() -> None:
    """Sync-back from SQLite to Postgres, and conflicts."""


@sync.command()
@url_option
@json_option
def status(url: str | None, as_json: bool) -> None:
    """What waits in SQLite, what came back, and how many conflicts are open."""
    stats = Api(url).get("/stats")
    workers = {name: told["persist"] for name, told in stats["workers"].items() if told.get("persist")}
    found = {"waiting": stats["parts"]["stored"]["sqlite"], "degraded": stats["degraded"], "workers": workers}
    if as_json:
        dump(found)
        return
    click.echo(f"{found['waiting']} events wait in SQLite." + (" Postgres is away." if stats["degraded"] else ""))
    for name, told in workers.items():
        state = told.get("sync") or {}
        error = f"; last error: {state['last_error']}" if state.get("last_error") else ""
        doing = "bringing back" if state.get("running") else "at rest"
        click.echo(f"{name}: writes to {told.get('sink')}, {doing}, {state.get('synced', 0)} brought back{error}")


@sync.command()
@click.argument("event_id", required=False)
@click.option("--all", "everything", is_flag=True, help="Also those that were decided.")
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True, help="How many at most.")
@url_option
@json_option
def conflicts(event_id: str | None, everything: bool, limit: int, url: str | None, as_json: bool) -> None:
    """List conflicts, or show both sides of one: two events with one id and different content."""
    api = Api(url)
    found: Any = _listed(api, limit, everything) if event_id is None else api.get(f"/conflicts/{_quoted(event_id)}")
    if as_json:
        dump(found)
    elif event_id is not None:
        _show(found, Console())
    elif not found:
        click.echo("There are no conflicts." if everything else "There are no open conflicts.")
    else:
        Console().print(listing(found))


@sync.command()
@click.argument("event_id")
@click.option("--strategy", type=click.Choice(STRATEGIES), required=True, help="Whose payload it is from now on.")
@click.option("--letter", help="Which of several conflicts; its id as `conflicts` shows it.")
@click.option("--payload", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="JSON, for manual.")
@click.option("--dry-run", is_flag=True, help="Only say what would be stored.")
@url_option
@json_option
def resolve(
    event_id: str,
    strategy: str,
    letter: str | None,
    payload: Path | None,
    dry_run: bool,
    url: str | None,
    as_json: bool,
) -> None:
    """Decide a conflict.

    remote: what Postgres has stays. local: the payload that came later. merge: both objects in one, the stored one
    first. manual: the payload in a file. The payload before is kept in the table conflict_resolutions.
    """
    if (strategy == "manual") != (payload is not None):
        raise click.UsageError("--payload goes with --strategy manual, and only with that.")
    body: dict[str, Any] = {"strategy": strategy, "dry_run": dry_run}
    if letter is not None:
        body["letter"] = letter
    if payload is not None:
        body["payload"] = _object_in(payload)
    done = Api(url).post(f"/conflicts/{_quoted(event_id)}/resolve", body)
    if as_json:
        dump(done)
        return
    what = "the payload is replaced" if done["changed"] else "the stored payload stays"
    closed = "would be closed" if dry_run else "closed"
    click.echo(f"{event_id}: {strategy}, {what}; {len(done['letters'])} {closed}")


def listing(found: list[dict[str, Any]]) -> Table:
    """Conflicts for 80 columns; the id stays whole, since it is what `resolve` wants."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("event", no_wrap=True)
    table.add_column("found at UTC", no_wrap=True)
    table.add_column("first, other in the log", overflow="fold")
    for one in found:
        decided = f"\n{one['strategy']} at {one['resolved_at'][:19]}" if one["resolved_at"] else ""
        places = f"{_place(one['first'])}, {_place(one['other'])}"
        table.add_row(one["event_id"], one["found_at"][:19].replace("T", "\n"), escape(places + decided))
    return table


def _listed(api: Api, limit: int, everything: bool) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    cursor: str | None = None
    while len(found) < limit:
        wanted = "false" if everything else "true"
        page = api.get("/conflicts", open=wanted, limit=min(PAGE, limit - len(found)), cursor=cursor)
        found, cursor = found + page["items"], page["next"]
        if cursor is None:
            break
    return found


def _show(found: dict[str, Any], console: Console) -> None:
    first = found["first"]
    console.print(f"[bold]{found['event_id']}[/]", soft_wrap=True)
    if first is None:
        console.print("first: not in the database (yet)")
    else:
        console.print(f"first, at {_place(first['position'])}, stored {first['stored_at']}", highlight=False)
        console.print(escape(json.dumps(first["payload"], ensure_ascii=False)), soft_wrap=True, highlight=False)
    for other in found["others"]:
        decided = f", {other['strategy']} at {other['resolved_at']}" if other["resolved_at"] else ", open"
        console.print(escape(f"other, at {_place(other['other'])}, letter {other['letter']}{decided}"), soft_wrap=True)
        payload = other["event"]["payload"] if other["event"] else "(its bytes cannot be read)"
        console.print(escape(json.dumps(payload, ensure_ascii=False)), soft_wrap=True, highlight=False)


def _place(at: dict[str, int] | None) -> str:
    return "?" if at is None else f"{at['partition']}/{at['offset']}"


def _quoted(event_id: str) -> str:
    return quote(event_id, safe="")


def _object_in(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except ValueError as error:
        raise click.ClickException(f"{path} is no JSON: {error}") from error
    if not isinstance(value, dict):
        raise click.ClickException(f"{path} must hold a JSON object.")
    return value
