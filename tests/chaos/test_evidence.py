"""The whole check on a real house: it passes what is whole, and names what somebody broke by hand."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import sys
import uuid
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import pytest

from chaos.evidence import gather, parse_metrics
from chaos.evidence_postgres import payload_digest
from chaos.evidence_process import sample
from chaos.evidence_sqlite import read_local
from chaos.evidence_values import READS, Evidence, Sample
from chaos.invariants import Context, Verdict, examine
from chaos.ledger import read
from chaos.ledger_sum import Summary, digest_of
from chaos.mix_payloads import sha256
from chaos.reader import Reader, Reading
from running import settled, until, up


def test_a_payload_read_back_has_the_digest_of_the_ledger() -> None:
    """However Postgres spells it."""
    assert payload_digest('{"a": 1.50, "bb": [null, "é"]}') == digest_of(sha256({"bb": [None, "é"], "a": 1.5}))


def test_metrics_are_read_with_their_labels() -> None:
    """Comments are passed over."""
    text = '# HELP a b\na_total{x="1 2"} 3\nb 4.5 1700\n'
    assert parse_metrics(text) == {'a_total{x="1 2"}': 3.0, "b": 4.5}


def test_a_missing_sqlite_file_owes_nothing_and_a_broken_one_says_so(tmp_path: Path) -> None:
    """The file is optional, its health is not."""
    assert read_local(tmp_path / "none.db").count == 0
    (tmp_path / "broken.db").write_bytes(b"no database" * 100)
    assert "DatabaseError" in read_local(tmp_path / "broken.db").trouble
    with sqlite3.connect(tmp_path / "empty.db") as database:
        database.execute("CREATE TABLE x (y)")
    assert "outbox" in read_local(tmp_path / "empty.db").trouble


def test_a_process_is_sampled_and_a_gone_one_is_left_out() -> None:
    """Memory, files and threads of ourselves."""
    (look,) = sample({"test": [os.getpid()], "gone": [2**22 - 1]})
    assert look.role == "test"
    assert look.rss > 1 << 20
    assert look.fds > 2
    assert look.threads >= 1


# --- a real house ----------------------------------------------------------------------------------------------------


async def run_load(url: str, ledger: Path, seconds: float) -> dict[str, int]:
    """The load as a program of its own; ended by SIGTERM."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "chaos.load", "--url", url, "--ledger", str(ledger), "--seed", "5", "--rate", "150",
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    await asyncio.sleep(seconds)
    process.send_signal(signal.SIGTERM)
    out, _ = await asyncio.wait_for(process.communicate(), 20)
    assert process.returncode == 0
    counts: dict[str, int] = json.loads(out)
    return counts


async def found(house: dict[str, Any], samples: list[Sample], *, recount: bool = True) -> Evidence:
    """All evidence of the house as it is now."""
    return await gather(
        url=house["url"],
        dsn=house["database"],
        broker=house["broker"],
        sqlite=Path(house["sqlite"]),
        topics={**house["topics"], "aggregates": "chronicle.aggregates"},
        samples=samples,
        recount=recount,
    )


async def judged(
    house: dict[str, Any], ledger: Path, reading: Reading, samples: list[Sample], log: Path
) -> dict[str, Verdict]:
    context = Context(reading=reading, least_acked=300, mid_batch_hits=3, logs={"up": log})
    result = examine(Summary(read(ledger)), await found(house, samples), context)
    return {verdict.id: verdict for verdict in result.verdicts}


async def drained(house: dict[str, Any]) -> None:
    """The groups have committed all: the offsets come a little after the rows."""

    async def all_committed() -> bool:
        log = (await found(house, [], recount=False)).log
        return log.committed == {role: log.ends[topic] for role, topic in READS.items()}

    await until(all_committed, seconds=30, what="all offsets committed")


@pytest.mark.e2e
async def test_a_whole_house_passes_and_what_is_broken_by_hand_is_named(tmp_path: Path) -> None:
    """Load, then check: all well. A row deleted is I1, changed is I4, made up is I3, doubled by content is I2."""
    ledger, stop = tmp_path / "ledger", asyncio.Event()
    async with up(tmp_path) as house, aiohttp.ClientSession() as http:
        reader = Reader(house["url"], ledger, seed=5)
        reading = asyncio.create_task(reader.run(stop))
        counts = await run_load(house["url"], ledger, 10)
        samples = sample({"ingest": [house["pids"]["ingest"]], "stream": house["pids"]["stream"]})
        stop.set()
        read_back = await reading
        assert counts["ok"] > 300
        assert read_back.readable > 10
        await settled(http, house["url"], accepted=counts["ok"])
        await drained(house)
        whole = await judged(house, ledger, read_back, samples, tmp_path / "up.log")
        assert [verdict for verdict in whole.values() if verdict.ok is False] == []
        assert {name for name, verdict in whole.items() if verdict.ok is None} == {"I14", "I16"}

        ids = [line.event_id for line in read(ledger) if line.outcome == "ok" and not line.repeat]
        await damage(house["database"], *ids[-3:])
        broken = await judged(house, ledger, read_back, samples, tmp_path / "up.log")
        named = {name: " ".join(verdict.examples) for name, verdict in broken.items() if verdict.ok is False}
        assert ids[-3] in named["I1"]
        assert ids[-2] in named["I4"]
        assert MADE_UP in named["I3"]
        assert ids[-1] in named["I2"]
        assert {"I7", "I8", "I13", "I17"} <= set(named)


MADE_UP = str(uuid.UUID(int=1))


async def damage(dsn: str, gone: str, changed: str, doubled: str) -> None:
    """What no house may do."""
    connection = await asyncpg.connect(dsn, timeout=5)
    try:
        await connection.execute("DELETE FROM events WHERE event_id = $1", gone)
        await connection.execute(
            "UPDATE events SET payload = '{\"x\": 1}', payload_raw = NULL WHERE event_id = $1", changed
        )
        for new, payload in ((uuid.UUID(int=1), "'{\"nobody\": 1}'::jsonb"), (uuid.UUID(int=2), "payload")):
            await connection.execute(COPY_ROW.format(payload=payload), new, doubled)
    finally:
        await connection.close()


COPY_ROW = """
INSERT INTO events (event_id, session_id, event_type, occurred_at, received_at, source, id_origin, payload, payload_raw,
                    fingerprint, ingest_partition, ingest_offset, events_offset, stored_at)
SELECT $1, session_id, event_type, occurred_at, received_at, source, id_origin, {payload}, NULL,
       fingerprint, ingest_partition, ingest_offset, events_offset, stored_at FROM events WHERE event_id = $2
"""
