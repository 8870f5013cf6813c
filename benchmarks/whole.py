"""The whole way: HTTP bulks in, rows in Postgres out; everything, the load too, on this machine's cores."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from app.stack.ports import free_port
from benchmarks import peers
from benchmarks.cases import Round
from benchmarks.postgres import own_postgres
from benchmarks.running import asked, ended, program, reached, rows, told, until, up
from benchmarks.single import answering, fastapi_on
from benchmarks.stored import store
from benchmarks.streams import END_S, TOPICS, somewhere, theirs
from benchmarks.usage import Peak, cpu_seconds

#: Seconds for the last rows after the last answer.
LATE_S = 120.0
#: What Chronicle itself says it has stored.
STORED = "SELECT coalesce(sum(stored), 0) FROM sink_progress"


def chronicle(events: int, *, workers: int = 1, rate: float = 0.0, partitions: int = 4, stored: int = 0) -> Round:
    """A round of ours: `rate` (events/s from the first POST to the last row), `late` (s from the last answer to the
    last row), `memory` (MB, all our processes at their peak), `cpu` (µs of them an event). `stored`: events that are in
    the database before."""

    def once() -> Mapping[str, float]:
        with _stack(workers, partitions, stored) as stack:
            ours = [stack["pids"]["up"], stack["pids"]["ingest"], *stack["pids"]["stream"]]
            before = cpu_seconds(ours)
            with Peak(ours) as peak:
                figures = _figures(stack["url"], stack["database"], "events", events, rate, stored=stored, count=STORED)
            cpu = cpu_seconds(ours) - before
        return {**figures, "memory": peak.mb, "cpu": cpu / events * 1e6}

    return once


@contextmanager
def _stack(workers: int, partitions: int, stored: int) -> Iterator[dict[str, Any]]:
    options = ["--stream-workers", str(workers)]
    with ExitStack() as context:
        if stored:
            postgres = context.enter_context(own_postgres())
            store(postgres.dsn, stored)
            options += ["--database", postgres.dsn]
        yield context.enter_context(up(*options, env={"CHRONICLE_KAFKA__PARTITIONS": str(partitions)}))


def growth(events: int, small: int, large: int) -> Round:
    """A round: what is kept of the rate (1 is all of it) with `large` stored events beside `small` ones
    (`stored`), with two stream workers beside one (`workers`), with 1 and 16 partitions beside 4 (`partitions_N`)."""

    def once() -> Mapping[str, float]:
        rate = chronicle(events, stored=small)()["rate"]
        return {
            "stored": chronicle(events, stored=large)()["rate"] / rate,
            "workers": chronicle(events, stored=small, workers=2)()["rate"] / rate,
            "partitions_1": chronicle(events, stored=small, partitions=1)()["rate"] / rate,
            "partitions_16": chronicle(events, stored=small, partitions=16)()["rate"] / rate,
        }

    return once


def fastapi(events: int, *, durable: bool) -> Round:
    """A round of FastAPI, pydantic and asyncpg in batches, alone with a Postgres like ours: `rate`."""

    def once() -> Mapping[str, float]:
        with own_postgres() as postgres, fastapi_on(postgres.dsn, durable=durable) as url:
            return _figures(url, postgres.dsn, "peer_events", events, 0.0)

    return once


def faust(events: int) -> Round:
    """A round of Faust as its documentation shows it: web view, topic, agent, the same Postgres: `rate`."""

    def once() -> Mapping[str, float]:
        port, options = free_port(), ("worker", "--loglevel", "WARN", "--web-host", "127.0.0.1", "--web-port")
        with somewhere() as where:
            command = [str(peers.python("faust")), "faust_whole.py", *options, str(port)]
            env = theirs(where, TOPICS.ingest.name)
            with ended(program(command, cwd=peers.RIVALS, env=env), END_S):
                url = answering(f"http://127.0.0.1:{port}")
                until(lambda: _made(where.dsn, "peer_events"), LATE_S, "the agent", every=0.2)
                time.sleep(2.0)  # it has its partitions then
                return _figures(url, where.dsn, "peer_events", events, 0.0)

    return once


def _made(dsn: str, table: str) -> bool:
    return asked(dsn, "SELECT to_regclass($1) IS NOT NULL", table) is True


def _figures(
    url: str, dsn: str, table: str, events: int, rate: float, *, stored: int = 0, count: str = ""
) -> dict[str, float]:
    """`count`: a query for the rows that have come, where counting the table would cost more than filling it."""
    query = count or f"SELECT count(*) FROM {table}"
    arguments = (url, "--events", events, "--rate", rate, "--first", stored)
    found: dict[str, Any] = told("benchmarks.bulk_load", *arguments, seconds=600.0)
    if found["accepted"] != events:
        raise RuntimeError(f"{found['accepted']} of {events} events were accepted")
    reached(lambda: int(asked(dsn, query)), events, LATE_S, f"the last of {events} rows")
    now = time.time()
    if (there := rows(dsn, table)) != stored + events:
        raise RuntimeError(f"{table} has {there} rows, not {stored + events}")
    return {"rate": events / (now - found["began"]), "late": now - found["ended"]}
