"""Where the CPU goes: `python -m benchmarks.profile [--events N]`.

First each stage of ours alone, beside the bare cost of the library calls it cannot do without: the distance to the
limit. Those that need a broker or a database have one made for them (`benchmarks.profile_io`; `--alone` leaves them
out). Then the whole way, once with bulks and once with single posts, and what each process spent an event: what no
stage explains is transport, waiting, and the servers. Prints tables and keeps the figures in
`benchmarks/out/profile.json`. About two minutes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from typing import Any, Final

import fastavro
import msgspec
from rich.console import Console
from rich.table import Table

from benchmarks import aggregate, profile_io
from benchmarks.bulk_load import bodies
from benchmarks.codec import sample
from benchmarks.guard import BULK, Work, stages
from benchmarks.result import keep, told
from benchmarks.running import told as said
from benchmarks.running import until, up
from benchmarks.usage import cpu_seconds, tree
from benchmarks.whole import LATE_S
from connectors.rows import event_row
from schemas.codec import AvroCodec, _parsed, to_fields
from schemas.event import LoggedEvent, Position
from schemas.registry import packaged

ROUNDS: Final = 5
#: How events come in, by the name of the figures.
POSTED: Final[Mapping[str, str]] = {"processes": "100 a POST", "requests": "one a POST, on 32 connections"}
CONNECTIONS, SECONDS = 32, 10
TIMES: Final = 20
#: The stages in the order an event walks.
ORDER: Final = (
    *("ingest decode", "encode", "produce", "fetch", "dedup", "changelog", "decode", "rows", "COPY and commit"),
    "aggregate",
)
console = Console(highlight=False)


def cost(work: Work) -> float:
    """Median CPU µs an event."""
    found = []
    for _ in range(ROUNDS):
        began = time.process_time()
        events = work()
        found.append((time.process_time() - began) / events * 1e6)
    return statistics.median(found)


def floors() -> dict[str, Callable[[], int]]:
    """The library calls that a stage cannot do without, and nothing else."""
    body, event = next(bodies(BULK, BULK)), sample()
    schema, fields = _parsed(packaged()[-1]), to_fields(event)
    value = AvroCodec().encode(event)[5:]
    decode = msgspec.json.Decoder(list[dict[str, msgspec.Raw]]).decode

    def ingest() -> int:
        for _ in range(TIMES):
            for item in decode(body):
                hashlib.sha256(item["payload"]).digest()
        return TIMES * BULK

    def encode() -> int:
        for _ in range(TIMES * BULK):
            fastavro.schemaless_writer(BytesIO(), schema, fields)
        return TIMES * BULK

    def read() -> int:
        for _ in range(TIMES * BULK):
            fastavro.schemaless_reader(BytesIO(value), schema, None)
        return TIMES * BULK

    return {"ingest decode": ingest, "encode": encode, "decode": read}


def by_stage(*, alone: bool = False) -> dict[str, dict[str, float | None]]:
    """Stage -> ours and the floor, µs an event, in walking order. `alone`: only what needs no server.

    What is decoded once a chunk stands there once; `rows` is what the sink does with an event before it is copied.
    """
    least = {name: cost(work) for name, work in floors().items()}
    with stages() as made:
        ours = {name: cost(work) for name, work in made.items()}
    decode = cost(_decode())
    found: profile_io.Costs = {
        "ingest decode": (ours["ingest"], least["ingest decode"]),
        "encode": (ours["encode"], least["encode"]),
        "dedup": (ours["dedupe"], profile_io.dedupe_floor()),
        "decode": (decode, least["decode"]),
        "rows": (cost(_rows()), None),
        "aggregate": (aggregate.run(aggregate.events(), alone=False)[1], None),
    }
    found |= {} if alone else profile_io.costs(decode)
    return dict(profile_io.told({name: found[name] for name in ORDER if name in found}))


def _decode() -> Work:
    codec = AvroCodec()
    values = [codec.encode(sample())] * BULK

    def decode() -> int:
        for _ in range(TIMES):
            codec.decode_many(values)
        return TIMES * BULK

    return decode


def _rows() -> Work:
    place = Position(0, 1)
    logged = [LoggedEvent(event=sample(), ingest=place, events=place, value=b"")] * BULK

    def rows() -> int:
        for _ in range(TIMES):
            for one in logged:
                event_row(one)
        return TIMES * BULK

    return rows


def by_process(*load: object) -> dict[str, float]:
    """Process -> µs an event over the whole way while this program of ours sends, the program left out."""
    with up() as stack:
        pids = {"ingest": [stack["pids"]["ingest"]], "stream": stack["pids"]["stream"]}
        pids |= {name: tree(stack["pids"][name]) for name in ("kafka", "postgres") if name in stack["pids"]}
        before, began = {name: cpu_seconds(all_) for name, all_ in pids.items()}, time.time()
        module, *options = load
        said(str(module), stack["url"], *options)
        until(lambda: _sent(stack["url"])["pending"] == 0, LATE_S, "the last rows", every=0.2)
        events, seconds = _sent(stack["url"])["stored"], time.time() - began
        spent = {name: (cpu_seconds(all_) - before[name]) / events * 1e6 for name, all_ in pids.items()}
    return {**{name: round(value, 1) for name, value in spent.items()}, "events_per_s": round(events / seconds)}


def _sent(url: str) -> dict[str, int]:
    """What was accepted, by the loss ledger: `stored` and still `pending`."""
    with urllib.request.urlopen(f"{url}/stats", timeout=10.0) as answer:
        ledger: dict[str, int] = json.load(answer)["ledger"]
    return ledger


def shown(title: str, head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> Table:
    """A table of figures."""
    table = Table(title=title)
    for name in head:
        table.add_column(name, justify="left" if name in ("stage", "process") else "right")
    for row in rows:
        table.add_row(*row)
    return table


def _sum(found: Mapping[str, Mapping[str, float | None]], kind: str) -> float:
    return round(sum(one[kind] or 0.0 for one in found.values()), 2)


def _text(value: Any) -> str:
    return "" if value is None else f"{value:g}"


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="Where the CPU goes, stage by stage and process by process.")
    parser.add_argument("--events", type=int, default=200_000, help="events of the whole way; 0 leaves it out")
    parser.add_argument("--alone", action="store_true", help="only the stages that need no server, and no whole way")
    given = parser.parse_args()
    events = 0 if given.alone else given.events
    stages_: Mapping[str, Mapping[str, float | None]] = by_stage(alone=given.alone)
    rows = [(name, _text(one["ours"]), _text(one["floor"])) for name, one in stages_.items()]
    rows.append(("all", _text(_sum(stages_, "ours")), _text(_sum(stages_, "floor"))))
    console.print(shown("CPU µs an event, alone", ("stage", "ours", "library calls alone"), rows))
    found: dict[str, Any] = {"bytes": len(AvroCodec().encode(sample())), "stages": stages_}
    if events:
        found["processes"] = by_process("benchmarks.bulk_load", "--events", events)
        found["requests"] = by_process("benchmarks.single_load", "--connections", CONNECTIONS, "--seconds", SECONDS)
        for what in ("processes", "requests"):
            spent = [(name, _text(value)) for name, value in found[what].items()]
            console.print(shown(f"CPU µs an event, {POSTED[what]}", ("process", "µs"), spent))
    keep(told("profile", found, packages=("msgspec", "fastavro", "rocksdict")))


if __name__ == "__main__":
    main()
