"""Topic in, rows out: the ingest topic, one event in ten a repeat, each id once in Postgres.

Every side gets a broker and a database of its own that were made for the round. It works off a few events first, so
that its start does not count; then it is stopped (SIGSTOP) while the topic is filled, and the clock runs from its going
on to the last row. The stop is short, since the events are made before: no consumer group may take it for dead.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from app.stack.kafka import Kafka
from app.stack.ports import free_port
from app.stack.postgres import Postgres
from benchmarks import changelog, peers
from benchmarks.cases import Round
from benchmarks.fill import Record, distinct, records, send
from benchmarks.running import ROOT, ended, reached, rows, until
from connectors.topics import ensure
from schemas.topics import topics

T = TypeVar("T")
PARTITIONS = 4
TOPICS = topics(prefix="chronicle", partitions=PARTITIONS)
WARM = 2_000
#: Seconds for the first rows of a side that was just started, and for all of a round.
FIRST_S, ALL_S = 60.0, 120.0
#: Longest stop while the topic is filled: our own groups have sessions of 10 s, the shortest of all.
STOPPED_S = 6.0
#: Seconds that a side has to end in order; how it ends is not measured.
END_S = 3.0


@dataclass(frozen=True)
class Where:
    """What a side is told: a broker, an empty database, a directory of its own."""

    broker: str
    dsn: str
    folder: Path


@dataclass(frozen=True)
class Side:
    """A program, what it needs to be told, and what it fills. `prepare` commands run first, to their end."""

    table: str  # a table, a topic of ours, or "" for a side that tells its counts in its directory
    command: Callable[[Where], list[str]]
    env: Callable[[Where], dict[str, str]]
    cwd: Path
    prepare: Callable[[Where], list[list[str]]] = lambda _where: []


def dedup(side: Side, events: int) -> Round:
    """A round: events of the topic a second, repeats counted, until every id has its row."""
    topic, last = TOPICS.ingest.name, WARM + events

    def once() -> Mapping[str, float]:
        few, many = (records(PARTITIONS, *span, last=last) for span in ((0, WARM), (WARM, events)))
        with somewhere() as where:
            send(where.broker, topic, few)
            with _running(side, where) as process:
                _wait(process, lambda: rows(where.dsn, side.table) == distinct(WARM), FIRST_S, "the first rows")
                began = _filled(process, where.broker, topic, many)
                reached(_alive(process, lambda: rows(where.dsn, side.table)), distinct(last), ALL_S, "the last rows")
                seconds = time.monotonic() - began
            if (found := rows(where.dsn, side.table)) != distinct(last):
                raise RuntimeError(f"{side.table} has {found} rows of {distinct(last)} ids")
        return {"rate": events / seconds}

    return once


def windows(side: Side, events: int) -> Round:
    """A round: events of the public stream a second, until every one of them is in the counts."""
    topic, last = TOPICS.events.name, WARM + events

    def once() -> Mapping[str, float]:
        few, many = (records(PARTITIONS, *span, last=last, public=True) for span in ((0, WARM), (WARM, events)))
        with somewhere() as where, _counted(side, where) as counted:
            send(where.broker, topic, few)
            with _running(side, where) as process:
                _wait(process, lambda: counted() == WARM, FIRST_S, "the first counts")
                began = _filled(process, where.broker, topic, many)
                _wait(process, lambda: counted() >= last, ALL_S, f"{last} events in the counts")
                seconds = time.monotonic() - began
            if (found := counted()) != last:
                raise RuntimeError(f"{found} of {last} events are in the counts")
        return {"rate": events / seconds}

    return once


def _wait(process: subprocess.Popen[bytes], done: Callable[[], bool], seconds: float, what: str) -> None:
    """Raises TimeoutError, at once when the side has ended by itself."""
    until(_alive(process, done), seconds, what, every=0.1)


def _alive(process: subprocess.Popen[bytes], look: Callable[[], T]) -> Callable[[], T]:
    """The same look; raises TimeoutError when the side has ended by itself."""

    def looked() -> T:
        if process.poll() is not None:
            raise TimeoutError(f"it ended with {process.returncode}")
        return look()

    return looked


def _filled(process: subprocess.Popen[bytes], broker: str, topic: str, many: Sequence[Record]) -> float:
    """Stop the side, fill the topic, let it go on; when that was (monotonic)."""
    time.sleep(2.0)  # whatever commits, commits
    _wait(process, lambda: True, 1.0, "it")
    _signal(process, signal.SIGSTOP)
    stopped = time.monotonic()
    try:
        send(broker, topic, many)
    finally:
        _signal(process, signal.SIGCONT)
    began = time.monotonic()
    if began - stopped > STOPPED_S:
        raise RuntimeError(f"filling the topic took {began - stopped:.1f} s: consumer groups end their sessions then")
    return began


@contextlib.contextmanager
def _counted(side: Side, where: Where) -> Iterator[Callable[[], int]]:
    """How many events a side has counted so far: ours by its changelog, a peer by what it tells in its directory."""
    if side.table:
        with changelog.total(where.broker, TOPICS.aggregates.name, PARTITIONS) as total:
            yield total
        return
    file = where.folder / "counted"
    yield lambda: int(file.read_text()) if file.exists() else 0


@contextlib.contextmanager
def somewhere() -> Iterator[Where]:
    """A broker with our topics and an empty database, for one round."""
    with tempfile.TemporaryDirectory(prefix="chronicle-bench-") as name:
        folder = Path(name)
        folder.chmod(0o711)  # Postgres' own user, when we are root
        kafka_port = free_port()
        kafka = Kafka(folder / "kafka", kafka_port)
        postgres = Postgres(folder / "postgres", free_port(avoid=frozenset({kafka_port})))
        making = threading.Thread(target=postgres.prepare)  # starts no process that stays: those die with their thread
        making.start()
        try:
            kafka.start()
            making.join()
            postgres.start()
            asyncio.run(ensure(kafka.address, TOPICS.all()))
            (folder / "side").mkdir()
            yield Where(kafka.address, postgres.dsn, folder / "side")
        finally:
            making.join()
            postgres.stop()
            kafka.stop(END_S)


@contextlib.contextmanager
def _running(side: Side, where: Where) -> Iterator[subprocess.Popen[bytes]]:
    env = {**os.environ, **side.env(where)}
    for command in side.prepare(where):
        done = subprocess.run(command, env=env, cwd=side.cwd, check=False, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{command[-3:]} failed: {done.stderr[-1000:]}")
    with (where.folder / "log").open("wb") as log:
        process = subprocess.Popen(
            side.command(where), env=env, cwd=side.cwd, stdout=log, stderr=log, start_new_session=True
        )
        with ended(process, END_S):
            try:
                yield process
            except TimeoutError as late:
                said = (where.folder / "log").read_text(errors="replace")[-300:]
                raise RuntimeError(f"{late}; it said: {said}") from late


def _signal(process: subprocess.Popen[bytes], number: int) -> None:
    os.killpg(process.pid, number)


def _ours(where: Where) -> dict[str, str]:
    return {
        "CHRONICLE_KAFKA__BROKERS": where.broker,
        "CHRONICLE_KAFKA__PARTITIONS": str(PARTITIONS),
        "CHRONICLE_DATABASE__URL": where.dsn,
        "CHRONICLE_STATE_DIR": str(where.folder),
        "CHRONICLE_SERVER__PORT": str(free_port()),
    }


def theirs(where: Where, topic: str) -> dict[str, str]:
    """The environment of a peer's program (`benchmarks/rivals/common.py`)."""
    return {
        "BROKER": where.broker,
        "TOPIC": topic,
        "DSN": where.dsn,
        "STATE": str(where.folder),
        "SCHEMA": str(peers.SCHEMA),
        "BYTEWAX_DATAFLOW_API_CACHE_PATH": str(where.folder),  # it would write into the directory it runs in
    }


_CHRONICLE = (sys.executable, "-m", "chronicle")


def chronicle(roles: str = "dedupe,persist", fills: str = "events") -> Side:
    """A worker with some roles of the stream."""
    return Side(
        table=fills,
        command=lambda _where: [*_CHRONICLE, "worker", "--roles", roles, "--name", "bench"],
        env=_ours,
        prepare=lambda _where: [[*_CHRONICLE, "db", "migrate"]],
        cwd=ROOT,
    )


def peer(
    name: str, *command: str, prepare: Sequence[str] = (), fills: str = "peer_events", topic: str = TOPICS.ingest.name
) -> Side:
    """A program of `benchmarks/rivals` in its own environment; `STATE` in a command is its directory."""

    def told(where: Where, words: Sequence[str]) -> list[str]:
        return [str(peers.python(name)), *(str(where.folder) if word == "STATE" else word for word in words)]

    return Side(
        table=fills,
        command=lambda where: told(where, command),
        env=lambda where: theirs(where, topic),
        prepare=lambda where: [told(where, prepare)] if prepare else [],
        cwd=peers.RIVALS,
    )


#: As its own documentation has it; a snapshot each second, which is how often the others commit.
_RECOVERY = ("-r", "STATE", "-s", "1", "-b", "0")


def dedup_sides() -> dict[str, Side]:
    """By name."""
    making = ("-m", "bytewax.recovery", "STATE", "1")
    return {
        "chronicle": chronicle(),
        "quix": peer("quix", "quix_dedup.py"),
        "faust": peer("faust", "faust_dedup.py", "worker", "--loglevel", "WARN"),
        "bytewax": peer("bytewax", "-m", "bytewax.run", "bytewax_dedup:flow", *_RECOVERY, prepare=making),
    }


def window_sides() -> dict[str, Side]:
    """By name."""
    other: dict[str, Any] = {"fills": "", "topic": TOPICS.events.name}
    making = ("-m", "bytewax.recovery", "STATE", "1")
    return {
        "chronicle": chronicle("aggregate", TOPICS.aggregates.name),
        "quix": peer("quix", "quix_windows.py", **other),
        "faust": peer("faust", "faust_windows.py", "worker", "--loglevel", "WARN", **other),
        "bytewax": peer("bytewax", "-m", "bytewax.run", "bytewax_windows:flow", *_RECOVERY, prepare=making, **other),
    }
