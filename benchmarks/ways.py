"""What each process takes over the whole way, in the cases of the benchmark that the CPU limits.

A figure beside its target says that a row is missed, this says what by: which process had which share of the cores,
and whether one was idle.
"""

from __future__ import annotations

import json
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

from benchmarks import live
from benchmarks.failover import came_home, gone
from benchmarks.running import told, until, up
from benchmarks.usage import cpu_seconds, idle_seconds, tree
from benchmarks.whole import LATE_S

#: Connections and seconds of single posts; events/s and seconds of a steady load.
CONNECTIONS, SECONDS = 32, 10
STEADY, STEADY_S = 5_000, 15
#: How the processes are called in the figures, in the order of the way; then what nobody took. The rest is the load's.
PROCESSES: Final = ("ingest", "stream", "kafka", "postgres")
IDLE: Final = "idle"


class Spent(NamedTuple):
    """`us`: µs an event by process, the load left out. `cores`: cores by process, of all that the machine has."""

    events_per_s: float
    us: Mapping[str, float]
    cores: Mapping[str, float]


@contextmanager
def _watched(stack: Mapping[str, Any], events: Callable[[], int], found: list[Spent]) -> Iterator[None]:
    """Puts into `found` what was spent in the context; `events`: how many have come so far."""
    before, idle, came, began = _by_process(stack), idle_seconds(), events(), time.monotonic()
    yield
    seconds, more = time.monotonic() - began, events() - came
    spent = {
        name: sum(cpu - before[name].get(pid, 0.0) for pid, cpu in all_.items())
        for name, all_ in _by_process(stack).items()
    }
    cores = {name: value / seconds for name, value in spent.items()} | {IDLE: (idle_seconds() - idle) / seconds}
    found.append(
        Spent(
            round(more / seconds),
            {name: round(value / more * 1e6, 1) for name, value in spent.items()},
            {name: round(value, 2) for name, value in cores.items()},
        )
    )


def _by_process(stack: Mapping[str, Any]) -> dict[str, dict[int, float]]:
    """CPU seconds so far by process and pid; connections of Postgres come and go."""
    pids = {"ingest": [stack["pids"]["ingest"]], "stream": stack["pids"]["stream"]}
    pids |= {name: tree(stack["pids"][name]) for name in ("kafka", "postgres")}
    return {name: {pid: cpu_seconds([pid]) for pid in all_} for name, all_ in pids.items()}


def _stored(url: str) -> int:
    return _ledger(url)["stored"]


def _ledger(url: str) -> dict[str, int]:
    """What was accepted, by the loss ledger: `stored` and still `pending`."""
    with urllib.request.urlopen(f"{url}/stats", timeout=10.0) as answer:
        ledger: dict[str, int] = json.load(answer)["ledger"]
    return ledger


def _sent(module: str, *load: object, options: Sequence[str] = (), env: Mapping[str, str] | None = None) -> Spent:
    """A load of ours, until its last row is in Postgres."""
    found: list[Spent] = []
    with up(*options, env=env) as stack, _watched(stack, lambda: _stored(stack["url"]), found):
        told(module, stack["url"], *load)
        until(lambda: _ledger(stack["url"])["pending"] == 0, LATE_S, "the last rows", every=0.2)
    return found[0]


def _bulks(events: int, options: Sequence[str] = (), partitions: int = 4) -> Spent:
    env = {"CHRONICLE_KAFKA__PARTITIONS": str(partitions)}
    return _sent("benchmarks.bulk_load", "--events", events, options=options, env=env)


def _singles() -> Spent:
    return _sent("benchmarks.single_load", "--connections", CONNECTIONS, "--seconds", SECONDS)


def _steady() -> Spent:
    return _sent("benchmarks.bulk_load", "--events", STEADY * STEADY_S, "--rate", STEADY, "--size", 10)


def _clients() -> Spent:
    """Single posts while a thousand clients watch something else that comes."""
    found: list[Spent] = []
    with (
        up() as stack,
        tempfile.TemporaryDirectory(prefix="chronicle-bench-") as folder,
        live.watchers(stack["url"], Path(folder) / "told.json"),
        _watched(stack, lambda: _stored(stack["url"]), found),
    ):
        live.watched(stack["url"], lambda: live.single(stack["url"], SECONDS))
    return found[0]


def _home() -> Spent:
    """Rows from SQLite to Postgres, while others come."""
    found: list[Spent] = []
    with gone(STEADY, away_s=10.0) as (stack, postgres, held):
        stack["pids"]["postgres"] = postgres.pid
        with _watched(stack, lambda: came_home(postgres.dsn), found):
            until(lambda: came_home(postgres.dsn) >= held, LATE_S, f"{held} rows", every=0.5)
    return found[0]


def ways(events: int) -> dict[str, Callable[[], Spent]]:
    """By the words that stand in the table; `events` of bulks."""
    return {
        "100 a POST": lambda: _bulks(events),
        "100 a POST, two stream workers": lambda: _bulks(events, ("--stream-workers", "2")),
        "100 a POST, 1 partition": lambda: _bulks(events, partitions=1),
        "100 a POST, 16 partitions": lambda: _bulks(events, partitions=16),
        f"one a POST, {CONNECTIONS} connections": _singles,
        f"{STEADY:,} events/s, ten a POST": _steady,
        f"one a POST, beside {live.CLIENTS:,} who watch": _clients,
        f"rows home from SQLite, {STEADY:,} events/s beside": _home,
    }
