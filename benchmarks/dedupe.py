"""What deduplication costs without a broker: read, decide, pack, store. `python -m benchmarks.dedupe [--ids N]`.

Fills one partition with N ids over four buckets, a tenth of the records being duplicates, then restores a second store
from the recorded changelog and compares. Prints JSON: microseconds an event, memory, disk, time to restore and to open.
Fails when nothing was measured or when the restored store differs.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID

from agents.dedupe import read
from benchmarks.result import keep, told
from schemas.codec import AvroCodec
from schemas.event import HookEvent, IdOrigin
from tables.seen import Retention, Verdict, decide
from tables.seen_codec import pack, pack_key
from tables.seen_store import PartitionStore

CHUNK = 2000
REPEATED = 10  # one record in ten repeats an older id


def template(codec: AvroCodec) -> tuple[bytes, bytes]:
    """A realistic record, cut where the id is put in: before it and after id and fingerprint."""
    event = HookEvent(
        event_id=UUID(int=0),
        fingerprint=b"f" * 16,
        id_origin=IdOrigin.NATURAL,
        session_id="s" * 36,
        event_type="tool_pre_use",
        occurred_at=0,
        received_at=0,
        source="claude-code",
        payload=json.dumps({"tool_input": {"command": "x" * 500}}),
    )
    value = codec.encode(event)
    return value[:5], value[37:]


def chunks(events: int, codec: AvroCodec, hours: int = 60) -> Iterator[list[Any]]:
    """Chunks of records with random ids, spread over so many hours of stream time: of 60, the first ones expire."""
    before, after = template(codec)
    old = [os.urandom(32)]
    for base in range(0, events, CHUNK):
        at = 1_700_000_000_000 + base * hours * 3_600_000 // events
        ids = [os.urandom(32) if i % REPEATED else old[(base + i) % len(old)] for i in range(CHUNK)]
        old = [*old[-2000:], ids[1]]
        yield [_record(base + i, at, before + ids[i] + after) for i in range(CHUNK)]


def _record(offset: int, at: int, value: bytes) -> SimpleNamespace:
    return SimpleNamespace(offset=offset, timestamp=at, key=b"s" * 36, value=value, headers=())


def run(events: int, path: Path) -> dict[str, Any]:
    codec = AvroCodec()
    store = PartitionStore.open(path / "live")
    spent = dict.fromkeys(("read", "decide", "pack", "store"), 0.0)
    changelog: list[tuple[int, bytes, bytes]] = []
    duplicates = slowest = 0.0
    cpu = 0.0
    for number, records in enumerate(chunks(events, codec)):
        cpu -= time.process_time()
        marks = [time.thread_time()]
        seen = read(records, codec.peek)
        marks.append(time.thread_time())
        decision = decide(seen.items, store, records[-1].timestamp, Retention())
        marks.append(time.thread_time())
        changelog.append((number, pack_key(decision.bucket, decision.base, 1), pack(decision)))
        marks.append(time.thread_time())
        store.apply([changelog[-1]])
        marks.append(time.thread_time())
        cpu += time.process_time()
        for name, start, end in zip(spent, marks, marks[1:], strict=False):
            spent[name] += end - start
        duplicates += decision.verdicts.count(Verdict.DUPLICATE)
        slowest = max(slowest, marks[-1] - marks[0])
    rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    held = sum(len(value) for _, _, value in changelog) / 2**20
    ids, head = len(store.dump()["ids"]) if events <= 1_000_000 else -1, store.head
    store.close()
    started = time.perf_counter()
    PartitionStore.open(path / "live").close()
    opened = time.perf_counter() - started
    restored = PartitionStore.open(path / "restored")
    started = time.perf_counter()
    for at in range(0, len(changelog), 32):
        restored.apply(changelog[at : at + 32])
    took = time.perf_counter() - started
    if restored.head != head or not duplicates:
        raise SystemExit("The restored store differs, or nothing was measured.")
    restored.close()
    disk = sum(file.stat().st_size for file in (path / "live").iterdir()) / 2**20
    return {
        "events": events,
        "duplicates": int(duplicates),
        "ids_kept": ids,
        "us_per_event": {name: round(seconds / events * 1e6, 2) for name, seconds in spent.items()},
        "us_per_event_total": round(sum(spent.values()) / events * 1e6, 2),
        "cpu_us_per_event_with_compaction": round(cpu / events * 1e6, 2),
        "slowest_chunk_ms": round(slowest * 1000, 1),
        "rss_mib_without_changelog_kept_here": round(rss - held),
        "disk_mib": round(disk),
        "open_s": round(opened, 3),
        "restore_s": round(took, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ids", type=int, default=500_000)
    events = parser.parse_args().ids
    path = Path(tempfile.mkdtemp(prefix="chronicle-bench-"))
    try:
        keep(told("dedupe", run(events, path), packages=("msgspec", "rocksdict")))
    finally:
        shutil.rmtree(path, ignore_errors=True)


if __name__ == "__main__":
    main()
