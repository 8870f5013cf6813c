"""Has a stage become slower by more than a third? `python -m benchmarks.guard [--write]`, a few seconds.

CPU time of each stage is held against a reference loop (the standard library's json and hashlib over the same body)
that runs right before it: so another machine, or a busy one, changes both. The ratios that held when they were written
are in `guard.json`; `--write` puts those of now there, which is a decision and belongs into a commit that says why.
Ends with 1 when a stage costs more than 1.5 times what it did, each of three times it is looked at: noise makes a stage
slower now and then, a change makes it slower always.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from pathlib import Path

from agents.dedupe import read
from benchmarks.bulk_load import bodies
from benchmarks.dedupe import CHUNK, chunks
from connectors.rows import event_row
from schemas.clock import SystemClock
from schemas.codec import AvroCodec
from schemas.envelope import Defaults, event_of, split
from schemas.event import HookEvent, LoggedEvent, Position
from schemas.native import Arrival
from schemas.redact import Redactor
from tables.seen import Retention, decide
from tables.seen_codec import pack, pack_key
from tables.seen_store import PartitionStore

BASELINE = Path(__file__).with_name("guard.json")
#: A third less a second is half as much again for each.
ALLOWED = 1.5
#: Rounds of one look; how often is looked before a stage counts as slower.
ROUNDS, LOOKS = 7, 3
BULK = 100
#: Chunks that the stage `dedupe` may use up: one a round, all looks, and the profile.
CHUNKS = 40
#: Work that gives how many events it was done for.
Work = Callable[[], int]


def ratios(stages: Mapping[str, Work], reference: Work) -> dict[str, float]:
    """Median over the rounds of what an event costs in a stage, in units of the reference loop."""
    found: dict[str, list[float]] = {name: [] for name in stages}
    for number in range(ROUNDS + 1):
        for name, work in stages.items():
            unit, cost = _cost(reference), _cost(work)
            if number:  # the first one warms up
                found[name].append(cost / unit)
    return {name: round(statistics.median(all_), 3) for name, all_ in found.items()}


def slower(now: Mapping[str, float], before: Mapping[str, float]) -> list[str]:
    """A sentence for each stage that lost more than a third, or that has no figure to be held against."""
    return [
        f"{name} costs {value:g} reference loops an event; it was {before[name]:g}, {ALLOWED:g} times that is allowed"
        if name in before
        else f"{name} has no figure in {BASELINE.name}"
        for name, value in now.items()
        if name not in before or value > before[name] * ALLOWED
    ]


def look(measure: Callable[[], Mapping[str, float]], before: Mapping[str, float]) -> dict[str, float]:
    """The ratios to judge by: the least of each stage; looked at again only while something is slower."""
    found = dict(measure())
    for _ in range(LOOKS - 1):
        if not slower(found, before):
            break
        found = {name: min(value, found[name]) for name, value in measure().items()}
    return found


def _cost(work: Work) -> float:
    began = time.process_time()
    events = work()
    return (time.process_time() - began) / events


@contextmanager
def stages() -> Iterator[dict[str, Work]]:
    """The stages that are our own code, each on the events all figures are given for."""
    codec, clock = AvroCodec(), SystemClock()
    arrival = Arrival(received_at=1, new_id=clock.new_id, source="bench", redact=Redactor())
    defaults, body = Defaults(), next(bodies(BULK, BULK))
    taken = (event_of(item, arrival, defaults) for item in split(body))
    events = [event for event in taken if isinstance(event, HookEvent)]
    if len(events) != BULK:
        raise RuntimeError(f"{len(events)} of {BULK} events were taken")
    values = [codec.encode(event) for event in events]
    records, offsets = iter(list(chunks(CHUNKS * CHUNK, codec))), count()  # made before: they are not what is measured

    def ingest() -> int:
        for _ in range(20):
            for item in split(body):
                event_of(item, arrival, defaults)
        return 20 * BULK

    def encode() -> int:
        for _ in range(20):
            for event in events:
                codec.encode(event)
        return 20 * BULK

    def persist() -> int:
        for _ in range(20):
            for event, value in zip(codec.decode_many(values), values, strict=True):
                assert isinstance(event, HookEvent)
                event_row(LoggedEvent(event=event, ingest=Position(0, 1), events=Position(0, 1), value=value))
        return 20 * BULK

    with tempfile.TemporaryDirectory(prefix="chronicle-bench-") as folder:
        store = PartitionStore.open(Path(folder) / "seen")

        def dedupe() -> int:
            chunk = next(records)
            decision = decide(read(chunk, codec.peek).items, store, chunk[-1].timestamp, Retention())
            store.apply([(next(offsets), pack_key(decision.bucket, decision.base, 1), pack(decision))])
            return len(chunk)

        yield {"ingest": ingest, "encode": encode, "dedupe": dedupe, "persist": persist}
        store.close()


def reference() -> Work:
    """Nothing of ours: parse, hash and write the same body by the standard library."""
    body = next(bodies(BULK, BULK))

    def loop() -> int:
        for _ in range(10):
            for event in json.loads(body):
                hashlib.sha256(json.dumps(event, sort_keys=True).encode()).digest()
        return 10 * BULK

    return loop


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="Fail when a stage has become slower by more than a third.")
    parser.add_argument("--write", action="store_true", help="take the ratios of now as the ones to hold")
    write = parser.parse_args().write
    before: dict[str, float] = {} if write else json.loads(BASELINE.read_text())
    with stages() as made:
        now = ratios(made, reference()) if write else look(lambda: ratios(made, reference()), before)
    if write:
        BASELINE.write_text(json.dumps(now, indent=2) + "\n")
        before = now
    for name, value in now.items():
        print(f"{name:8} {value:7.3f} reference loops an event; allowed {before.get(name, 0) * ALLOWED:.3f}")
    if found := slower(now, before):
        sys.exit("\n".join(found))


if __name__ == "__main__":
    main()
