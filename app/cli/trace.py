"""`chronicle trace`: every hop of one event with time and position."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import rich_click as click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from app.cli.client import Api, dump, json_option, url_option


@click.command()
@click.argument("event_id")
@url_option
@json_option
def trace(event_id: str, url: str, as_json: bool) -> None:
    """Show the way of one event: received, logged, passed on, stored."""
    found = Api(url).get(f"/events/{quote(event_id, safe='')}/trace")
    if as_json:
        dump(found)
    else:
        show(found, Console())


def show(found: dict[str, Any], console: Console) -> None:
    """The trace as a table, and what points at the event below it."""
    kind = f"  {found['event_type']}" if found["event_type"] else ""
    console.print(f"[bold]{found['event_id']}[/]{escape(kind)}  session {escape(str(found['session_id']))}")
    table = Table("hop", "time", "place", "detail")
    for hop in found["hops"]:
        table.add_row(hop["hop"], hop["at"] or "", _place(hop), escape(hop["detail"]))
    console.print(table)
    for line in notes(found):
        console.print(escape(line))


def notes(found: dict[str, Any]) -> list[str]:
    """What else is known of the event, a sentence each."""
    lines = []
    if found["degraded"]:
        lines.append("Postgres is away: only the local SQLite store was asked.")
    if found["suspected_duplicate_of"]:
        lines.append(f"Marked as a suspected duplicate of {found['suspected_duplicate_of']}.")
    lines += [f"Suspected duplicate of it: {other}" for other in found["suspected_duplicates"]]
    for copy in found["duplicates"]:
        at = copy["position"]
        lines.append(f"A copy came at ingest {at['partition']}/{at['offset']}; the primary key turned it away.")
    return lines


def _place(hop: dict[str, Any]) -> str:
    return "" if hop["topic"] is None else escape(f"{hop['topic']} {hop['partition']}/{hop['offset']}")
