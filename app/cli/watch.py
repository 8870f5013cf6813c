"""`chronicle tail`, `sessions`, `search`, `tools`: what happens and what happened, in the terminal."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

import rich_click as click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from app.cli.client import Api, dump, json_option, url_option

#: Seconds between two tries to reach a server that went away.
AGAIN_S = 2.0
#: What tells best what an event is about, in this order; the first that is text.
TOLD = ("prompt", "message", "error", "reason", "source")
TOLD_INPUT = ("command", "file_path", "pattern", "url", "description")
MAX_TOLD = 200
#: Columns of a terminal from which on the list of sessions shows all it has.
WIDE = 120
#: Columns of it that a project has in a narrower one, at least.
LEAST_PROJECT = 8


@click.command()
@click.option("--session", help="Only of this session.")
@click.option("--project", help="Only of this project.")
@click.option("--agent", help="Only of this sub-agent, by id or type.")
@click.option("--type", "type_", help="Only of these event types, comma separated.")
@click.option("--tool", help="Only of these tools, comma separated.")
@click.option("--text", help="Only with this text in payload or names.")
@click.option("--after", help="Go on behind this place (the id of an event); 0.0.0.0 is all that Kafka keeps.")
@click.option("--count", type=click.IntRange(1), help="End after so many events.")
@url_option
@json_option
def tail(
    session: str | None,
    project: str | None,
    agent: str | None,
    type_: str | None,
    tool: str | None,
    text: str | None,
    after: str | None,
    count: int | None,
    url: str | None,
    as_json: bool,
) -> None:
    """Show events as they flow, until Ctrl-C.

    After a lost connection it goes on where it was. With --json one event a line, its place as `id`; what is told
    beside the events goes to standard error.
    """
    api, console, aside = Api(url), Console(highlight=False), Console(highlight=False, stderr=True)
    wanted = {"session": session, "project": project, "agent": agent, "type": type_, "tool": tool, "text": text}
    feed, shown = Feed(api, wanted, after), 0
    for kind, data in feed.messages(aside):
        if kind == "missed":
            aside.print(f"… {data['count']} events were missed: the terminal was too slow", style="yellow")
        elif kind == "message":
            told_ = {"id": feed.place, **data}
            click.echo(json.dumps(told_)) if as_json else console.print(line(data))
            shown += 1
        if count is not None and shown >= count:
            return


class Feed:
    """The live feed of a server. `place` is where we stand, from the ids it tells, with and without an event."""

    def __init__(self, api: Api, wanted: Mapping[str, str | None], after: str | None) -> None:
        self.place = after
        self._api, self._wanted = api, wanted

    def messages(self, console: Console) -> Iterator[tuple[str, Any]]:
        """(event, data) of each message, for ever; a lost connection is taken up again where it was.

        Raises `click.ClickException` when the first connection cannot be made.
        """
        first = True
        while True:
            try:
                yield from self._read(self._api.lines("/sse/events", after=self.place, **self._wanted))
            except click.ClickException:
                if first:
                    raise
            except OSError:
                pass
            first = False
            console.print("the connection is lost; trying again …", style="yellow")
            time.sleep(AGAIN_S)

    def _read(self, lines: Iterator[str]) -> Iterator[tuple[str, Any]]:
        """Server-Sent Events out of their lines (WHATWG HTML, section 9.2.6), the data read as JSON."""
        kind, data = "message", ""
        for text in lines:
            name, _, value = text.partition(": ")
            if name == "event":
                kind = value
            elif name == "data":
                data = value
            elif name == "id":
                self.place = value
            elif not text:
                if data:
                    yield kind, json.loads(data)
                kind, data = "message", ""


def line(event: dict[str, Any]) -> Text:
    """One event for people; nothing that a client sent can steer the terminal."""
    at = datetime.fromtimestamp(event["occurred_at"] / 1000).astimezone().strftime("%H:%M:%S")
    kind = event["event_type"]
    style = "red" if "failure" in kind or "error" in kind else "magenta" if kind == "user_prompt" else "bold"
    parts: list[tuple[str, str]] = [(at, "dim"), (" ", ""), (plain(kind), style)]
    if event.get("tool_name"):
        parts.append((f" {plain(event['tool_name'])}", "cyan"))
    if said := told(event.get("payload") or {}):
        parts.append((f" {said}", ""))
    who = " · ".join(plain(name) for name in (event.get("project"), event.get("agent_type")) if name)
    parts.append((f"  {who or plain(event['session_id'])}", "dim"))
    return Text.assemble(*parts, no_wrap=True, overflow="ellipsis")


def told(payload: dict[str, Any]) -> str:
    """The text that says best what it is about."""
    given = payload.get("tool_input")
    inner = given if isinstance(given, dict) else {}
    texts = [payload.get(name) for name in TOLD] + [inner.get(name) for name in TOLD_INPUT]
    return next((plain(text)[:MAX_TOLD] for text in texts if isinstance(text, str) and text.strip()), "")


def plain(text: str) -> str:
    """Without line breaks, escape sequences and marks of direction: they are shown as a dot."""
    return "".join(sign if sign.isprintable() else "·" for sign in " ".join(text.split()))


@click.command()
@click.option("--status", type=click.Choice(["active", "completed", "terminated", "error"]), help="Only in this state.")
@click.option("--project", help="Only of this project.")
@click.option("--machine", help="Only on this machine.")
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True, help="How many.")
@url_option
@json_option
def sessions(
    status: str | None, project: str | None, machine: str | None, limit: int, url: str | None, as_json: bool
) -> None:
    """List sessions, latest activity first."""
    found = Api(url).get("/sessions", status=status, project=project, machine=machine, limit=limit)
    if as_json:
        dump(found)
        return
    items, width = found["items"], Console().width
    table = _sessions_wide(items) if width >= WIDE else _sessions_narrow(items, width)
    _print(found, table, "There are no sessions yet.")


def _sessions_wide(items: list[dict[str, Any]]) -> Table:
    table = _table("session", "project", "machine", "state", "events>", "began", "last event")
    for one in items:
        names = (_cell(one[name] or "") for name in ("session_id", "project", "machine"))
        times = (_when(one[name]) for name in ("first_event_at", "last_event_at"))
        table.add_row(*names, _state(one), str(one["event_count"]), *times)
    return table


def _sessions_narrow(items: list[dict[str, Any]], width: int) -> Table:
    """A line a session in 80 columns: the id whole, so that it can be copied, the project cut short if need be."""
    now = datetime.now().astimezone()
    rows = [
        (one["session_id"], one["status"], str(one["event_count"]), _lately(one["last_event_at"], now)) for one in items
    ]
    taken = sum(max(map(len, column)) for column in zip(("session", "state", "events", "last"), *rows, strict=True))
    table = _table("session", "project", "state", "events>", "last", one_line=True)
    table.columns[1].max_width = max(LEAST_PROJECT, width - taken - 2 * len(table.columns))
    for one, (session, _, events, last) in zip(items, rows, strict=True):
        table.add_row(_cell(session), _cell(one["project"] or ""), _state(one), events, last)
    return table


def _state(one: Mapping[str, Any]) -> Text:
    return Text(one["status"], style={"active": "green", "error": "red"}.get(one["status"], ""))


@click.command()
@click.argument("words", nargs=-1, required=True)
@click.option("--project", help="Only of sessions of this project.")
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True, help="How many.")
@url_option
@json_option
def search(words: tuple[str, ...], project: str | None, limit: int, url: str | None, as_json: bool) -> None:
    """Find prompts, errors and notifications with all these WORDS (or words that begin so), newest first."""
    found = Api(url).get("/search", q=" ".join(words), project=project, limit=limit)
    if as_json:
        dump(found)
        return
    table = _table("when", "type", "text", "session")
    for one in found["items"]:
        table.add_row(
            _when(one["occurred_at"]), *(_cell(one[name]) for name in ("event_type", "snippet", "session_id"))
        )
    _print(found, table, "Nothing was found.")


@click.command()
@click.option("--hours", type=click.IntRange(1, 192), default=24, show_default=True, help="Of the last so many hours.")
@click.option("--project", help="Only of this project.")
@url_option
@json_option
def tools(hours: int, project: str | None, url: str | None, as_json: bool) -> None:
    """Show how often each tool was called, how often it failed, and how long it took."""
    since = round((time.time() - hours * 3600) * 1000)
    found = Api(url).get("/tools", since=since, interval="hour", project=project)
    if as_json:
        dump(found)
        return
    table = _table("tool", "calls>", "failed>", "p50>", "p95>", "p99>")
    for one in found["items"]:
        times = (lasting(one[name]) for name in ("p50_ms", "p95_ms", "p99_ms"))
        failed = Text(str(one["failures"]), style="red" if one["failures"] else "dim")
        table.add_row(_cell(one["name"]), str(one["calls"]), failed, *times)
    _print(found, table, f"No call ended in the last {hours} hours.")


def _cell(text: str) -> Text:
    """What a client sent, as it is: a plain `str` in a table would be read as markup."""
    return Text(plain(text))


def _print(found: Mapping[str, Any], table: Table, nothing: str) -> None:
    console = Console()
    console.print(table if found["items"] else nothing)
    if found.get("note"):
        console.print(found["note"], style="yellow")


def lasting(milliseconds: float | None) -> str:
    """`850 ms`, `2.5 s`, `3.2 min`; nothing when it is not known."""
    if milliseconds is None:
        return ""
    if milliseconds < 1000:
        return f"{milliseconds:.0f} ms"
    return f"{milliseconds / 1000:.1f} s" if milliseconds < 60_000 else f"{milliseconds / 60_000:.1f} min"


def _when(text: str) -> str:
    return datetime.fromisoformat(text).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def _lately(text: str, now: datetime) -> str:
    """The time of day where it is of today (`now` is local), else the day."""
    at = datetime.fromisoformat(text).astimezone()
    return at.strftime("%H:%M:%S" if at.date() == now.date() else "%Y-%m-%d")


def _table(*columns: str, one_line: bool = False) -> Table:
    """`name>` stands to the right. What does not fit is folded, or left out where a row is one line."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in columns:
        side: Any = "right" if name.endswith(">") else "left"
        table.add_column(name.rstrip(">"), justify=side, no_wrap=one_line, overflow="ellipsis" if one_line else "fold")
    return table
