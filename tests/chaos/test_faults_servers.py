"""The faults of processes, broker and database on a place that only notes what is done to it."""

from __future__ import annotations

import random
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from chaos.faults import kafka, postgres, processes
from chaos.faults.looking import sqlite_taken, sqlite_waiting, under_way
from chaos.faults.postgres_gone import COMMIT
from chaos.model import Fault
from chaos.units import alive

ALL = (*processes.FAULTS, *kafka.FAULTS, *postgres.FAULTS)
#: Their `heal` asks Postgres what is to be undone.
ASKING = (postgres.PostgresReadOnly, postgres.PostgresNoDatabase, postgres.PostgresMissingColumn)


class Noted:
    """Every method call is a line in `done`."""

    def __init__(self, name: str, done: list[str]) -> None:
        self._name, self._done = name, done

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return lambda *args, **kwargs: self._done.append(f"{self._name}.{name}")


class NotedPlace:
    """Lag as given, one after the other, the last for ever; processes as given; nothing answers over HTTP."""

    def __init__(self, folder: Path, *, lags: tuple[int, ...] = (5,), stream: tuple[int, ...] = ()) -> None:
        self.done: list[str] = []
        self.kafka, self.postgres = Noted("kafka", self.done), Noted("postgres", self.done)
        self.kafka_proxy, self.postgres_proxy = Noted("kafka_proxy", self.done), Noted("postgres_proxy", self.done)
        self.sqlite = folder / "failover.db"
        self.url = "http://127.0.0.1:9"
        self._lags, self._stream = list(lags), list(stream)

    def pids(self) -> Mapping[str, list[int]]:
        return {"ingest": [], "stream": [pid for pid in self._stream if alive(pid)]}

    async def lag(self) -> int:
        return self._lags.pop(0) if len(self._lags) > 1 else self._lags[0]

    async def ready(self) -> Mapping[str, object] | None:
        return {"status": "degraded"}

    async def kill_chronicle(self) -> None:
        self.done.append("kill_chronicle")

    async def start_chronicle(self) -> None:
        self.done.append("start_chronicle")

    async def remove_worker(self, name: str, *, kill: bool = False) -> None:
        self.done.append(f"remove {name}")


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    """A process that may be killed."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    yield process
    process.kill()
    process.wait()


def made(kind: type[Fault]) -> Fault:
    return kind(random.Random(1))


def test_names_are_unique_and_every_fault_says_what_it_proves() -> None:
    """A report row is found by name, and leads to a row of the fault table."""
    names = [kind.name for kind in ALL]
    assert len(names) == len(set(names))
    assert all(kind.rows and kind.what for kind in ALL)


def test_every_fault_is_hit_often_enough_to_count() -> None:
    """Three hits at least, each."""
    assert [kind.name for kind in ALL if kind.hits < 3] == []


@pytest.mark.parametrize(
    ("kind", "hurt", "healed"),
    [
        (kafka.KafkaStop, ["kafka.stop"], ["kafka.start"]),
        (kafka.KafkaKill, ["kafka.kill"], ["kafka.start"]),
        (kafka.KafkaPause, ["kafka.pause"], ["kafka.resume"]),
        (kafka.KafkaCut, ["kafka_proxy.cut"], ["kafka_proxy.heal"]),
        (kafka.KafkaHalfOpen, ["kafka_proxy.half_open"], ["kafka_proxy.heal"]),
        (kafka.KafkaSlow, ["kafka_proxy.slow"], ["kafka_proxy.heal"]),
        (processes.WholeTreeKill, ["kill_chronicle"], ["start_chronicle"]),
    ],
)
async def test_a_fault_does_and_undoes_what_it_says(
    tmp_path: Path, kind: type[Fault], hurt: list[str], healed: list[str]
) -> None:
    """`inject` hits events under way and hurts once; `heal` is its counterpart."""
    place: Any = NotedPlace(tmp_path)
    fault = made(kind)
    assert await fault.inject(place)
    assert place.done == hurt
    await fault.heal(place)
    assert place.done == [*hurt, *healed]


@pytest.mark.parametrize("kind", [kafka.KafkaKill, processes.WholeTreeKill])
async def test_without_work_under_way_nothing_is_hit(tmp_path: Path, kind: type[Fault]) -> None:
    """The fault is done all the same, but does not count."""
    place: Any = NotedPlace(tmp_path, lags=(0,))
    assert not await made(kind).inject(place)
    assert place.done


@pytest.mark.parametrize("kind", [kind for kind in ALL if kind not in ASKING], ids=lambda kind: kind.name)
async def test_heal_may_be_called_on_what_was_never_hurt(tmp_path: Path, kind: type[Fault]) -> None:
    """An `inject` that failed at its first step is healed too."""
    place: Any = NotedPlace(tmp_path)
    await made(kind).heal(place)


async def test_a_worker_is_killed_while_it_works(tmp_path: Path, sleeper: subprocess.Popen[bytes]) -> None:
    """SIGKILL to a stream worker, and nothing else."""
    place: Any = NotedPlace(tmp_path, stream=(sleeper.pid,))
    assert await made(processes.WorkerKill).inject(place)
    assert sleeper.wait(10) == -signal.SIGKILL


async def test_a_worker_that_ends_in_time_is_no_finding(tmp_path: Path, sleeper: subprocess.Popen[bytes]) -> None:
    """The seconds to its end are noted."""
    place: Any = NotedPlace(tmp_path, stream=(sleeper.pid,))
    fault = made(processes.WorkerTerm)
    assert await fault.inject(place)
    assert fault.found.broken == []
    assert fault.found.times["exit"] < processes.TERM_S


def test_one_worker_alone_cannot_be_taken_over_from(tmp_path: Path, sleeper: subprocess.Popen[bytes]) -> None:
    """Said aloud, not done."""
    place: Any = NotedPlace(tmp_path, stream=(sleeper.pid,))
    assert made(processes.WorkerZombie).cannot(place)


async def test_under_way_waits_for_the_lag_that_comes(tmp_path: Path) -> None:
    """Lag falls to 0 between two batches; a broker that does not answer is no work."""
    place: Any = NotedPlace(tmp_path, lags=(0, -1, 0, 3))
    assert await under_way(place)
    idle: Any = NotedPlace(tmp_path, lags=(-1,))
    assert not await under_way(idle, seconds=0.2)


def test_what_sqlite_took_is_counted_also_when_it_is_synced(tmp_path: Path) -> None:
    """Two rows, one synced and deleted: 2 ever taken, 1 waits; no file is 0."""
    path = tmp_path / "failover.db"
    assert (sqlite_taken(path), sqlite_waiting(path)) == (0, 0)
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE outbox (seq INTEGER PRIMARY KEY AUTOINCREMENT, state TEXT)")
        db.execute("INSERT INTO outbox (state) VALUES ('pending'), ('pending')")
        db.execute("DELETE FROM outbox WHERE seq = 1")
    db.close()
    assert (sqlite_taken(path), sqlite_waiting(path)) == (2, 1)


def test_the_marker_is_commit_as_a_simple_query() -> None:
    """Type, length of everything after the type, text, zero."""
    assert COMMIT[:1] == b"Q"
    assert int.from_bytes(COMMIT[1:5]) == len(COMMIT) - 1
    assert COMMIT[5:] == b"COMMIT\0"
