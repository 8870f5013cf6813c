"""A stream worker that remembers many ids: how soon it is ready again, with its table on disk and without.

Our changelog is made by the rule itself (`tables.seen.decide`) and produced as it is, so that a round needs no hour of
events before it; `python -m benchmarks.restart IDS BROKER TOPIC PARTITIONS` is the program that produces it. The peer
works off a topic with as many ids, is ended and started again; it is ready when a new event has its row.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from confluent_kafka import Producer

from agents.dedupe import read
from app.stack.ports import free_port
from benchmarks.cases import Round
from benchmarks.dedupe import REPEATED, chunks
from benchmarks.fill import records, send
from benchmarks.running import ROOT, ended, rows, told, until
from benchmarks.streams import PARTITIONS, TOPICS, Side, Where, somewhere
from benchmarks.usage import Peak
from schemas.codec import AvroCodec
from tables.seen import Retention, decide
from tables.seen_codec import pack, pack_key
from tables.seen_store import PartitionStore

READY_S: Final = 900.0
#: Seconds that a peer may take to work off all ids, and that it then has to commit.
WORK_S, SETTLE_S = 2_400.0, 3.0
#: Seconds that a peer has to end in order.
END_S: Final = 15.0
#: Events that are made at once.
PIECE: Final = 100_000
#: Seconds after which the last word of a worker that has ended counts no more.
FORGOTTEN_S: Final = 16.0
#: Hours of stream time in the changelog: less than ids are remembered.
HOURS: Final = 40
LAUNCH: Final = (sys.executable, "-m", "chronicle", "worker", "--roles", "dedupe", "--name", "bench")


def restart(ids: int) -> Round:
    """A round: `restore` (s to ready from the changelog alone), `disk` (s to ready with the table there), `memory` (MB
    of the worker at its peak)."""

    def once() -> Mapping[str, float]:
        with somewhere() as where:
            made = told("benchmarks.restart", ids, where.broker, TOPICS.seen.name, PARTITIONS)
            if made["ids"] < ids * 0.98:
                raise RuntimeError(f"{made['ids']} of {ids} ids were produced")
            state = where.folder
            restore, memory = _ready(where, state)
            time.sleep(FORGOTTEN_S)
            disk, again = _ready(where, state)
            if not any(state.rglob("*.sst")):
                raise RuntimeError("the table is not on the disk")
        return {"restore": restore, "disk": disk, "memory": max(memory, again)}

    return once


def _ready(where: Where, state: Path) -> tuple[float, float]:
    """(seconds from start to ready, MB at the peak) of a worker; it is ended then."""
    port = free_port()
    env = {
        **os.environ,
        "CHRONICLE_KAFKA__BROKERS": where.broker,
        "CHRONICLE_KAFKA__PARTITIONS": str(PARTITIONS),
        "CHRONICLE_DATABASE__URL": where.dsn,
        "CHRONICLE_STATE_DIR": str(state),
        "CHRONICLE_SERVER__PORT": str(port),
    }
    began = time.monotonic()
    process = subprocess.Popen(LAUNCH, env=env, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    with ended(process), Peak([process.pid]) as peak:
        until(lambda: _restored(port), READY_S, "the table", every=0.2)
        took = time.monotonic() - began
        time.sleep(1.0)
    return took, peak.mb


def _restored(port: int) -> bool:
    """Whether the worker says that its dedup table is there."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/ready", timeout=2.0) as answer:
            body = answer.read()
    except urllib.error.HTTPError as error:
        body = error.read()
    except OSError:
        return False
    checks = json.loads(body).get("checks", ()) if body.startswith(b"{") else ()
    return any(check["name"] == "dedupe" and check["ok"] for check in checks)


# --- the peer --------------------------------------------------------------------------------------------------------


def peer(side: Side, ids: int) -> Round:
    """A round of a side that does `stream.dedup_postgres`: `restore`, `disk`, `memory` as ours."""

    def once() -> Mapping[str, float]:
        with somewhere() as where:
            _filled(where, ids)
            with _started(side, where):
                until(lambda: rows(where.dsn, side.table) >= ids, WORK_S, f"{ids} rows", every=1.0)
                time.sleep(SETTLE_S)
            disk, memory = _again(side, where, ids, 1)
            shutil.rmtree(where.folder)
            where.folder.mkdir()
            restore, again = _again(side, where, ids, 2)
        return {"restore": restore, "disk": disk, "memory": max(memory, again)}

    return once


def _filled(where: Where, ids: int) -> None:
    for first in range(0, ids, PIECE):
        send(where.broker, TOPICS.ingest.name, records(PARTITIONS, first, PIECE, last=2 * ids, public=True))


def _started(side: Side, where: Where) -> contextlib.AbstractContextManager[subprocess.Popen[Any]]:
    env = {**os.environ, **side.env(where)}
    quiet = subprocess.DEVNULL
    return ended(subprocess.Popen(side.command(where), env=env, cwd=side.cwd, stdout=quiet, stderr=quiet), END_S)


def _again(side: Side, where: Where, ids: int, number: int) -> tuple[float, float]:
    """(seconds from start to the row of an event that came meanwhile, MB at the peak)."""
    few = 10 * PARTITIONS  # so many make one for each partition
    before = rows(where.dsn, side.table)
    send(where.broker, TOPICS.ingest.name, records(PARTITIONS, ids * 2 + few * number, few, last=2 * ids, public=True))
    began = time.monotonic()
    with _started(side, where) as process, Peak([process.pid]) as peak:
        until(lambda: rows(where.dsn, side.table) >= before + few, READY_S, "the new rows", every=0.2)
        took = time.monotonic() - began
        time.sleep(SETTLE_S)
    return took, peak.mb


# --- the changelog ---------------------------------------------------------------------------------------------------


def changelog(ids: int) -> Iterator[tuple[int, bytes, bytes]]:
    """(ids in it, key, value) of a changelog with so many ids, in order; none of them has expired at its end."""
    codec = AvroCodec()
    with _store() as store:
        for number, chunk in enumerate(chunks(ids * REPEATED // (REPEATED - 1), codec, HOURS)):
            decision = decide(read(chunk, codec.peek).items, store, chunk[-1].timestamp, Retention())
            key, value = pack_key(decision.bucket, decision.base, 1), pack(decision)
            store.apply([(number, key, value)])
            yield len(chunk) * (REPEATED - 1) // REPEATED, key, value


@contextlib.contextmanager
def _store() -> Iterator[Any]:
    folder = Path(tempfile.mkdtemp(prefix="chronicle-bench-"))
    store = PartitionStore.open(folder / "seen")
    try:
        yield store
    finally:
        store.close()
        shutil.rmtree(folder, ignore_errors=True)


def main() -> None:
    """Produce it, an equal part to each partition."""
    ids, broker, topic, partitions = int(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])
    producer, made = Producer({"bootstrap.servers": broker, "linger.ms": 20}), 0
    for count, key, value in changelog(ids // partitions):
        for partition in range(partitions):
            producer.produce(topic, value, key=key, partition=partition)
        producer.poll(0)
        made += count * partitions
    if left := producer.flush(60):
        sys.exit(f"the broker did not take {left} records")
    print(json.dumps({"ids": made}))


if __name__ == "__main__":
    main()
