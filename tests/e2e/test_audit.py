"""`chronicle audit` and `chronicle drill postgres` on a real stack: what adds up, what is missing, by name."""

from __future__ import annotations

import asyncio
import json
import sys
import uuid
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from running import rows, settled, up

pytestmark = pytest.mark.e2e
Ready = dict[str, Any]


async def chronicle(*words: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a command."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "chronicle", *words), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await asyncio.wait_for(process.communicate(), 240)
    return process.returncode or 0, out.decode(), err.decode()


def event(session: str, number: int, event_id: str | None = None) -> dict[str, Any]:
    return {
        "event_id": event_id or str(uuid.uuid4()),
        "session_id": session,
        "event_type": "tool_pre_use",
        "payload": {"n": number},
    }


async def post(http: aiohttp.ClientSession, url: str, *events: dict[str, Any]) -> None:
    for one in events:
        async with http.post(f"{url}/events", json=one) as answer:
            assert answer.status == 202, await answer.text()


async def test_audit_tells_each_fate_and_names_what_is_missing(stack: Ready) -> None:
    """Every record of a session is accounted for; a row taken out of Postgres is missing by name, with exit code 1."""
    url, session = stack["url"], f"audit-{uuid.uuid4()}"
    events = [event(session, number) for number in range(5)]
    other = events[1] | {"payload": {"another": True}}
    async with aiohttp.ClientSession() as http:
        await post(http, url, *events, events[0], events[0], other)
        await settled(http, url)
    code, out, err = await chronicle("audit", "--session", session, "--url", url, "--json")
    found = json.loads(out)
    assert code == 0, err
    told = {name: found["records"][name] for name in ("accepted", "stored", "duplicates", "rejected", "missing_count")}
    assert told == {"accepted": 8, "stored": 5, "duplicates": 2, "rejected": 1, "missing_count": 0}
    assert len(found["log"]) == 1, "a session is in one partition, and only that is read"

    lost = events[3]["event_id"]
    kept = "CREATE TABLE audit_kept AS SELECT * FROM events WHERE event_id = $1"
    await rows(stack["database"], kept.replace("$1", f"'{lost}'"))
    await rows(stack["database"], "DELETE FROM events WHERE event_id = $1", uuid.UUID(lost))
    try:
        code, out, _ = await chronicle("audit", "--session", session, "--url", url)
        assert (code, f"missing {lost}" in out, "MISSING: 1 of 8" in out) == (1, True, True), out
    finally:
        await rows(stack["database"], "INSERT INTO events SELECT * FROM audit_kept")
        await rows(stack["database"], "DROP TABLE audit_kept")


async def test_audit_looks_at_the_records_when_the_sums_disagree(stack: Ready) -> None:
    """Sums that agree are not looked into; sums that do not are, and both verdicts have their exit code."""
    url = stack["url"]
    async with aiohttp.ClientSession() as http:
        await post(http, url, *(event(f"audit-{n}-{uuid.uuid4()}", n) for n in range(20)))
        await settled(http, url)
    code, out, err = await chronicle("audit", "--url", url)
    assert (code, "It adds up" in out, "Record by record" in out) == (0, True, False), out + err

    change = "UPDATE sink_progress SET stored = stored {} WHERE partition = (SELECT min(partition) FROM sink_progress)"
    await rows(stack["database"], change.format("- 1"))
    try:
        code, out, _ = await chronicle("audit", "--url", url, "--json")
        found = json.loads(out)
        assert (code, found["ledger"]["difference"]) == (1, 1)
        assert (found["records"]["missing_count"], found["records"]["pending"]) == (0, 0)
        assert found["records"]["read"] == found["ledger"]["accepted"], "every record of the log was looked at"
        assert found["records"]["stored"] == found["ledger"]["stored"] + 1, "the records are right, the counter is not"
    finally:
        await rows(stack["database"], change.format("+ 1"))


async def test_the_ledger_gauge_has_every_part(stack: Ready) -> None:
    """chronicle_ledger tells what /stats tells, `difference` included."""
    async with aiohttp.ClientSession() as http:
        ledger = await settled(http, stack["url"])
        async with http.get(f"{stack['url']}/metrics") as answer:
            text = await answer.text()
    told = {
        line.split('"')[1]: float(line.rsplit(" ", 1)[1])
        for line in text.splitlines()
        if line.startswith("chronicle_ledger{")
    }
    parts = ("accepted", "stored", "duplicates", "rejected", "dead", "pending", "difference")
    assert told == {name: float(ledger[name]) for name in parts}


async def test_the_postgres_drill_shows_the_failover_and_loses_nothing(tmp_path: Path) -> None:
    """On a running stack: SQLite takes over, all comes back, exit code 0, and Postgres runs on as before."""
    async with up(tmp_path) as ready:
        code, out, err = await chronicle("drill", "postgres", "--ready-file", str(tmp_path / "ready.json"))
        assert code == 0, out + err
        assert "SQLite has taken over" in out
        last = out.splitlines()[-1]
        assert "lost 0" in last
        assert "synced 0" not in last
        assert json.loads((tmp_path / "ready.json").read_text())["pids"]["postgres"] == ready["pids"]["postgres"]
        code, out, err = await chronicle("audit", "--url", ready["url"], "--records")
        assert code == 0, out + err
