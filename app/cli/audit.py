"""`chronicle audit`: does everything that was accepted add up, and if not, what is missing?"""

from __future__ import annotations

import sys
import time
from typing import Any

import rich_click as click
from rich.console import Console
from rich.table import Table

from app.cli.client import Api, dump, json_option, url_option

#: The right side of the equation, in the order of the walk.
PARTS = ("stored", "duplicates", "rejected", "dead", "pending")
#: Seconds for a moving ledger to come to rest before its difference is believed.
SETTLE_S = 10.0
#: Missing ids that are named; all of them are counted.
NAMED = 10_000
#: Exit codes: it does not add up; it cannot be told, because a part is away.
WRONG, UNKNOWN = 1, 3


@click.command()
@click.option("--session", "session_id", help="Look at every record of this session, one by one.")
@click.option("--records", is_flag=True, help="Look at every record of the log, one by one, also when the sums agree.")
@url_option
@json_option
def audit(session_id: str | None, records: bool, url: str | None, as_json: bool) -> None:
    """Hold accepted against stored + duplicates + rejected + dead + pending.

    When the sums do not agree, every record that the log still has is looked up and the missing ids are named. Exit
    code 1 when something is missing, 3 when it cannot be told because a part is away.
    """
    api = Api(url)
    found = settled(api, session_id)
    code = verdict(found)
    if session_id is not None or records or code == WRONG:
        found["records"] = walk(api, found["log"], session_id, quiet=as_json)
        code = verdict(found)
    if as_json:
        dump(found)
    else:
        show(found, Console())
    if code:
        sys.exit(code)


def settled(api: Api, session_id: str | None) -> dict[str, Any]:
    """The sums; asked again for ten seconds while they disagree, since events walk on between two of them."""
    until = time.monotonic() + SETTLE_S
    while True:
        found: dict[str, Any] = api.get("/audit", session_id=session_id)
        if found["ledger"]["balanced"] is not False or time.monotonic() > until:
            return found
        time.sleep(0.5)


def verdict(found: dict[str, Any]) -> int:
    """0, `WRONG` or `UNKNOWN`. Of a session only its own records count."""
    looked = found.get("records")
    if looked is not None and looked["missing_count"]:
        return WRONG
    if found["session_id"] is not None:
        return 0
    return {True: 0, False: WRONG, None: UNKNOWN}[found["ledger"]["balanced"]]


def walk(api: Api, log: list[dict[str, int]], session_id: str | None, *, quiet: bool) -> dict[str, Any]:
    """What became of each record of these stretches, page by page, with progress on standard error."""
    sums: dict[str, int] = dict.fromkeys((*PARTS, "missing"), 0)
    missing: list[dict[str, Any]] = []
    total, done = sum(part["end"] - part["begin"] for part in log), 0
    with click.progressbar(length=total, label="records", file=sys.stderr, hidden=quiet) as bar:
        for part in log:
            start: int | None = part["begin"]
            while start is not None and start < part["end"]:
                page = api.get(f"/audit/{part['partition']}", start=start, end=part["end"], session_id=session_id)
                for name in sums:
                    sums[name] += page["records"][name]
                missing += page["missing"][: NAMED - len(missing)]
                came = part["end"] if page["next"] is None else page["next"]
                bar.update(came - start)
                done += page["read"]
                start = page["next"]
    looked = {"read": done, "accepted": sum(sums.values()), **sums}
    return looked | {"missing_count": looked.pop("missing"), "missing": missing}


def show(found: dict[str, Any], console: Console) -> None:
    """The equation as a table; what is missing below it."""
    looked = found.get("records")
    if found["session_id"] is None:
        _sums(found, console)
    if looked is not None:
        _records(found["session_id"], looked, console)
    for name in found["stale"]:
        console.print(f"Away or not heard of: {name}; its last known value was used.")
    console.print(sentence(found))


def sentence(found: dict[str, Any]) -> str:
    """The verdict for people."""
    looked, difference = found.get("records"), found["ledger"]["difference"]
    if looked is not None and looked["missing_count"]:
        return f"MISSING: {looked['missing_count']} of {looked['accepted']} records are nowhere."
    if verdict(found) == UNKNOWN:
        return "Cannot be told now: a part is away."
    if verdict(found) == WRONG:
        lost = "No record that the log still has is missing." if looked is not None else ""
        return f"DOES NOT ADD UP: the difference is {difference}. {lost}".rstrip()
    return "It adds up: nothing is missing."


def _sums(found: dict[str, Any], console: Console) -> None:
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("part")
    table.add_column("records", justify="right")
    table.add_column("made of")
    for name in ("accepted", *PARTS):
        detail = ", ".join(f"{where} {count}" for where, count in found["parts"][name].items())
        table.add_row(("  " if name == "accepted" else "- ") + name, str(found["ledger"][name]), detail)
    table.add_row("= difference", str(found["ledger"]["difference"]), "")
    console.print(table)


def _records(session_id: str | None, looked: dict[str, Any], console: Console) -> None:
    of = "the log" if session_id is None else f"session {session_id}"
    parts = ", ".join(f"{name} {looked[name]}" for name in PARTS)
    console.print(f"Record by record, {of}: accepted {looked['accepted']} = {parts}", markup=False, soft_wrap=True)
    for record in looked["missing"]:
        name = record["event_id"] or "(no readable id)"
        console.print(f"missing {name} at {record['partition']}/{record['offset']}", soft_wrap=True)
    if looked["missing_count"] > len(looked["missing"]):
        console.print(f"… and {looked['missing_count'] - len(looked['missing'])} more")
