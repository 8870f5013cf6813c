"""Postgres goes under load and comes back: how soon SQLite takes over, how quickly all comes home."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from app.stack.postgres import Postgres
from benchmarks.cases import Round
from benchmarks.postgres import own_postgres
from benchmarks.running import ROOT, asked, ended, until, up

#: Seconds of load before Postgres goes and after it is back; how long the way home may take.
BEFORE_S, HOME_S = 5.0, 90.0
CAME = 'SELECT coalesce(sum("rows"), 0) FROM sync_runs'
#: Rows a second while there was something to bring home: a batch's time is that from the end of the one before, the
#: looks into SQLite between them included, or its own, when nothing had waited (sync-back looks once a second then).
HOME = """
SELECT sum("rows") / sum(extract(epoch FROM finished_at - CASE WHEN started_at - before < interval '0.9 s' THEN before
    ELSE started_at END))
FROM (SELECT "rows", started_at, finished_at, lag(finished_at) OVER (ORDER BY finished_at) AS before FROM sync_runs) r
"""


def failover(rate: float, away_s: float) -> Round:
    """A round: `switch` (s from Postgres' last row to SQLite's first), `home` (rows/s from SQLite to Postgres, while
    the load goes on)."""

    def once() -> Mapping[str, float]:
        with gone(rate, away_s) as (stack, postgres, held):
            first = _first_in_sqlite(Path(stack["sqlite"]))
            last = _last_before(postgres.dsn, first)
            home = _home(stack["url"], postgres.dsn, held)
        return {"switch": first - last, "home": home}

    return once


@contextlib.contextmanager
def gone(rate: float, away_s: float) -> Iterator[tuple[dict[str, Any], Postgres, int]]:
    """The stack, its Postgres, which is just back after `away_s` seconds, and the rows in SQLite that wait for it; the
    load goes on."""
    with own_postgres() as postgres, up("--database", postgres.dsn) as stack, _load(stack["url"], rate):
        time.sleep(BEFORE_S)
        postgres.stop()
        time.sleep(away_s)
        held = int(_in_sqlite(Path(stack["sqlite"]), "SELECT count(*) FROM outbox WHERE state = 'pending'"))
        postgres.start()
        yield stack, postgres, held


def came_home(dsn: str) -> int:
    """Rows that sync-back has brought, by its book in Postgres."""
    return int(asked(dsn, CAME))


@contextlib.contextmanager
def _load(url: str, rate: float) -> Iterator[None]:
    """Until the end of the context; that it was cut off then is no failure."""
    command = [sys.executable, "-m", "benchmarks.bulk_load", url, "--events", str(int(rate * 600)), "--rate", str(rate)]
    options = ("--size", "10")
    with ended(subprocess.Popen([*command, *options], cwd=ROOT, stdout=subprocess.DEVNULL)) as load:
        yield
        if load.poll() is not None:
            raise RuntimeError(f"the load ended with {load.returncode}")


def _home(url: str, dsn: str, held: int) -> float:
    """Rows a second, by the book that sync-back keeps in Postgres; at least `held` rows must have come."""
    until(lambda: came_home(dsn) >= held, HOME_S, f"{held} rows", every=0.5)
    until(lambda: _waiting(url) == 0, HOME_S, "the last row of SQLite", every=0.5)
    return float(asked(dsn, HOME))


def _waiting(url: str) -> int:
    with urllib.request.urlopen(f"{url}/stats", timeout=10.0) as answer:
        found: dict[str, Any] = json.load(answer)
    return int(found["parts"]["stored"]["sqlite"])


def _first_in_sqlite(file: Path) -> float:
    """Epoch seconds."""
    return _in_sqlite(file, "SELECT min(stored_at) FROM events") / 1e6


def _in_sqlite(file: Path, query: str) -> float:
    """Raises RuntimeError when it gives nothing."""
    with contextlib.closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as connection:
        (found,) = connection.execute(query).fetchone()
    if not found:
        raise RuntimeError("SQLite took nothing")
    return float(found)


def _last_before(dsn: str, first: float) -> float:
    query = "SELECT extract(epoch FROM max(stored_at))::float8 FROM events WHERE stored_at < to_timestamp($1)"
    return float(asked(dsn, query, first))
